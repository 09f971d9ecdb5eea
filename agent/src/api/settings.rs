//! How an agent was told to work.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Mode;

/// What the agent does where upstream leaves it open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Whether policies that do not say it themselves drop packets.
    #[serde(default)]
    pub mode: Mode,
    /// Connections that run while policy changes.
    pub existing_connections: ExistingConnections,
    /// What a pod sends to its own node.
    pub own_node_egress: OwnNodeEgress,
}

/// What becomes of pods that start while no agent answers: they wait (`closed`), but for those of some namespaces (`open`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "mode")]
pub enum FailurePolicy {
    /// Every pod waits for its policies.
    #[default]
    Closed,
    /// Those of the other namespaces do; of these they start without enforcement.
    Open {
        /// The namespaces, in order.
        namespaces: Vec<String>,
    },
}

impl FailurePolicy {
    /// Open for these namespaces, or closed where there are none.
    pub fn new(open: &[String]) -> Self {
        if open.is_empty() {
            return Self::Closed;
        }
        Self::Open {
            namespaces: open.to_vec(),
        }
    }
}

/// What becomes of connections that run while policy changes, and of those that are older than vethwall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ExistingConnections {
    /// Their next packet is judged; what policy now forbids ends.
    #[default]
    Rejudge,
    /// They go on until they end by themselves.
    Keep,
}

impl ExistingConnections {
    /// `rejudge` or `keep`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rejudge => "rejudge",
            Self::Keep => "keep",
        }
    }
}

/// What judges what a pod sends to its own node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OwnNodeEgress {
    /// Policy, as for any other address.
    #[default]
    Policy,
    /// Nothing: it is always allowed.
    Allow,
}

impl OwnNodeEgress {
    /// `policy` or `allow`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Allow => "allow",
        }
    }
}
