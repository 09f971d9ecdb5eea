//! Label selectors. What is wrong with one is told; what that means depends on what it was to select.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use vethwall_policy::model::{Operator, Requirement, Selector};

use super::{Converter, code};

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

/// The selector, or what is wrong with it first: the field below the selector, and what was expected.
pub(super) fn selector(selector: &LabelSelector) -> Result<Selector, String> {
    let (requirements, errors) = requirements(selector);
    errors
        .into_iter()
        .next()
        .map_or_else(|| Ok(Selector::new(requirements)), Err)
}

/// Whether a selector can be evaluated; if not, the field below the selector and what was expected.
pub fn check_selector(written: &LabelSelector) -> Result<(), String> {
    selector(written).map(drop)
}

fn requirements(selector: &LabelSelector) -> (Vec<Requirement>, Vec<String>) {
    let LabelSelector {
        match_expressions,
        match_labels,
    } = selector;
    let pairs = match_labels.iter().flatten();
    let mut all: Vec<_> = pairs
        .map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In([value.clone()].into()),
        })
        .collect();
    let mut errors = Vec::new();
    for (i, expression) in match_expressions.iter().flatten().enumerate() {
        let LabelSelectorRequirement {
            key,
            operator,
            values,
        } = expression;
        let values: BTreeSet<String> = values.iter().flatten().cloned().collect();
        let operator = match operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(format!(
                    "matchExpressions[{i}].values: {operator} needs at least one value"
                ));
                continue;
            }
            "In" => Operator::In(values),
            "NotIn" => Operator::NotIn(values),
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(format!(
                    "matchExpressions[{i}].values: {operator} takes no values"
                ));
                continue;
            }
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                let expected = "expected In, NotIn, Exists or DoesNotExist";
                errors.push(format!(
                    "matchExpressions[{i}].operator: {expected}, found {other:?}"
                ));
                continue;
            }
        };
        all.push(Requirement {
            key: key.clone(),
            operator,
        });
    }
    (all, errors)
}
