//! Label selectors. What is wrong with one is told; what that means depends on what it was to select.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use vethwall_policy::model::Selector;

use super::{Converter, code};
use crate::k8s::selector::requirements;

impl Converter {
    /// The pods that a policy isolates. What can not be evaluated is left out: more pods are isolated, not fewer.
    pub(super) fn subject(&mut self, at: &str, selector: Option<&LabelSelector>) -> Selector {
        let Some(selector) = selector else {
            return Selector::everything();
        };
        let (requirements, errors) = requirements(selector);
        for error in errors {
            let message = format!("{at}.{error}; it is taken as always true");
            self.problem(code::SELECTOR, message);
        }
        Selector::new(requirements)
    }

    /// Peers. What can not be evaluated selects nobody.
    pub(super) fn peer_selector(&mut self, at: &str, selector: &LabelSelector) -> Option<Selector> {
        let (requirements, errors) = requirements(selector);
        let good = errors.is_empty();
        for error in errors {
            self.problem(code::SELECTOR, format!("{at}.{error}; the peer matches nothing"));
        }
        good.then(|| Selector::new(requirements))
    }
}
