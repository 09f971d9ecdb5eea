//! One line of `explain --probes -o json`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ClusterRule, Explanation, Side};
use crate::api::Verdict;

/// What becomes of one probe. Instead of `family` and what follows it there is `error` where that could not be decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeAnswer {
    /// Who opens the connection, as it was asked.
    pub from: String,
    /// To whom, as it was asked.
    pub to: String,
    /// Destination port, as it was asked; null where none was given.
    pub port: Option<u16>,
    /// Protocol, as it was asked, or `TCP`.
    pub protocol: Value,
    /// The answer, if there is one.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Box<Answered>>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What was expected, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<ProbeVerdict>,
    /// Whether that is what happens; absent where nothing was expected or nothing could be decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<bool>,
    /// `id`, `name` and `comment`, where the probe has them.
    #[serde(flatten)]
    pub notes: Map<String, Value>,
}

/// The part of [`ProbeAnswer`] that is there unless it has an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answered {
    /// 4 or 6; null where neither end has an address.
    pub family: Option<u8>,
    /// What is enforced.
    pub verdict: ProbeVerdict,
    /// It is allowed, and would not be if the audited policies were in force.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audited: bool,
    /// What the policies of the source say.
    pub egress: ProbeSide,
    /// What the policies of the destination say.
    pub ingress: ProbeSide,
}

/// Whether a connection passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeVerdict {
    /// It does.
    Allowed,
    /// It does not.
    Denied,
}

impl ProbeVerdict {
    /// `allowed` or `denied`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }
}

/// What the policies of one end say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeSide {
    /// Whether this side lets it pass.
    pub verdict: SideVerdict,
    /// The policies that select the pod in this direction, in the order in which they are asked: `NAMESPACE/NAME`, a
    /// ClusterNetworkPolicy by its bare name.
    pub policies: Vec<String>,
    /// The rule that decided; null where none did.
    pub rule: Option<ProbeRule>,
}

/// Whether a side lets a connection pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SideVerdict {
    /// Some policy selects the pod in this direction, and it passes.
    Allowed,
    /// It does not.
    Denied,
    /// It passes because no policy has a say.
    NotSelected,
}

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeRule {
    /// The policy.
    pub policy: String,
    /// The rule's place in it, from 1.
    pub rule: usize,
    /// The rule's name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it does and where it stands.
    #[serde(flatten)]
    pub cluster: ClusterRule,
}

impl From<&Explanation> for Answered {
    fn from(explanation: &Explanation) -> Self {
        Self {
            family: explanation.family,
            verdict: if explanation.passes() {
                ProbeVerdict::Allowed
            } else {
                ProbeVerdict::Denied
            },
            audited: explanation.verdict == Verdict::Audited,
            egress: ProbeSide::from(&explanation.egress),
            ingress: ProbeSide::from(&explanation.ingress),
        }
    }
}

impl From<&Side> for ProbeSide {
    fn from(side: &Side) -> Self {
        let verdict = match (side.verdict, side.selected) {
            (Verdict::Denied, _) => SideVerdict::Denied,
            (Verdict::Allowed | Verdict::Audited, true) => SideVerdict::Allowed,
            (Verdict::Allowed | Verdict::Audited, false) => SideVerdict::NotSelected,
        };
        let rule = side.decided_by.as_ref().map(|by| ProbeRule {
            policy: by.policy.to_string(),
            rule: by.rule,
            name: by.name.clone(),
            cluster: by.cluster,
        });
        Self {
            verdict,
            policies: side
                .policies
                .iter()
                .map(|answer| answer.policy.to_string())
                .collect(),
            rule,
        }
    }
}
