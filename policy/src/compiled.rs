//! What a compilation says: map entries, and what the numbers in them mean.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use vethwall_common::{Direction, identity::Identity, verdict::Cookie};

use crate::{model::PolicyRef, state::State};

/// What [`crate::compile::compile`] returns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    /// The desired state; all generations zero, the plan chooses them.
    pub state: State,
    /// What cookies mean.
    pub cookies: Cookies,
    /// What identities mean: the selectors and prefixes that their addresses match.
    pub identities: BTreeMap<Identity, Arc<Vec<String>>>,
    /// What could not be done as the policies ask. It denies.
    pub problems: Vec<Problem>,
}

/// What cookies mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cookies(pub BTreeMap<Cookie, Arc<Attribution>>);

impl Cookies {
    /// What a cookie means, if it is one of these.
    pub fn get(&self, cookie: Cookie) -> Option<&Attribution> {
        self.0.get(&cookie).map(Arc::as_ref)
    }
}

/// What a verdict stems from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Attribution {
    /// The policy of the rule that decided; without a rule, the policies that isolate the pod.
    pub policies: Vec<PolicyRef>,
    /// The rule's place in the policy, from 0.
    pub rule: Option<usize>,
    /// `ingress` or `egress`.
    #[serde(serialize_with = "direction_name")]
    pub direction: Direction,
}

/// Something that could not be done as asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Stable code.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

pub(crate) fn direction_name<S: serde::Serializer>(direction: &Direction, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(direction.name())
}
