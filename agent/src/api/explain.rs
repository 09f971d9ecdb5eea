//! Why a connection is allowed or denied: `explain -o json`.
//!
//! [`answer()`] is the one way to an [`Explanation`], for the agent and for a directory of manifests alike.
//! [`ProbeAnswer`] is the short form that many probes are answered in.

mod answer;
mod probe;
mod protocols;

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

pub use self::{
    answer::{answer, brief},
    probe::{Answered, ProbeAnswer, ProbeRule, ProbeSide, ProbeVerdict, SideVerdict},
    protocols::{protocol_name, protocol_number},
};
use super::{Direction, Mode, PolicyName, Verdict};

/// Which connection is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainRequest {
    /// Who opens it.
    pub source: Peer,
    /// To whom.
    pub destination: Peer,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port. Without it only rules that do not ask for one can match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// 4 or 6; without it that of the first address which both ends have in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<u8>,
}

/// One end of the connection, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Peer {
    /// A pod.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// An address, whoever owns it.
    Address {
        /// The address.
        address: IpAddr,
    },
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { namespace, name } => write!(f, "{namespace}/{name}"),
            Self::Address { address } => write!(f, "{address}"),
        }
    }
}

/// Why a connection is allowed or denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// [`super::API_VERSION`].
    pub api_version: String,
    /// What happens to it. `audited`: it passes, and would not if the audited policies were in force.
    pub verdict: Verdict,
    /// Who opens it.
    pub source: Party,
    /// To whom.
    pub destination: Party,
    /// The IP protocol's name, such as `TCP` or `ICMPv6`, or its number where it has none.
    pub protocol: String,
    /// Destination port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// 4 or 6: that of the addresses which are judged; null where neither end has one.
    #[serde(default)]
    pub family: Option<u8>,
    /// What the source's policies say.
    pub egress: Side,
    /// What the destination's policies say.
    pub ingress: Side,
    /// What the answer leaves open, in sentences.
    pub notes: Vec<String>,
}

/// One end of the connection, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Party {
    /// As it was asked for.
    #[serde(flatten)]
    pub peer: Peer,
    /// The pod that owns the address that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The node that the pod is on, or whose address it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// What the policies of one end say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// Towards or from the pod.
    pub direction: Direction,
    /// Some policy selects the pod in this direction.
    #[serde(default)]
    pub selected: bool,
    /// Whether this side lets it pass, and whether an audited policy would not.
    pub verdict: Verdict,
    /// Why.
    pub reason: SideReason,
    /// The rule that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<DecidedBy>,
    /// The policies that select the pod in this direction, with their rules, in the order in which they are asked.
    pub policies: Vec<PolicyAnswer>,
    /// The smallest change that would let it pass, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// Why a side answers as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SideReason {
    /// Not a pod that policy acts on: an external address, a node, a hostNetwork pod.
    NotAPod,
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// Only audited policies isolate it.
    AuditOnly,
    /// A rule allows it.
    Rule,
    /// The pod is isolated and no rule matches.
    NoRule,
    /// A rule of a ClusterNetworkPolicy denies it.
    Denied,
    /// Both ends are the same pod.
    SelfTraffic,
    /// From the pod's own node.
    OwnNode,
    /// There is no such pod.
    UnknownPod,
}

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DecidedBy {
    /// The policy.
    #[serde(flatten)]
    pub policy: PolicyName,
    /// The rule's place in it, from 1.
    pub rule: usize,
    /// The rule's name, if it has one.
    #[serde(default, rename = "ruleName", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it does and where it stands.
    #[serde(flatten)]
    pub cluster: ClusterRule,
}

/// What a rule says that only a ClusterNetworkPolicy's has; nothing of it for a NetworkPolicy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRule {
    /// What it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<RuleAction>,
    /// Its policy's tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// Its policy's priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
}

/// Where a ClusterNetworkPolicy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tier {
    /// Before the NetworkPolicies.
    Admin,
    /// After them.
    Baseline,
}

/// What a rule of a ClusterNetworkPolicy does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleAction {
    /// Allows it.
    Accept,
    /// Denies it.
    Deny,
    /// Skips the rest of its tier.
    Pass,
}

impl RuleAction {
    /// `Accept`, `Deny` or `Pass`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "Accept",
            Self::Deny => "Deny",
            Self::Pass => "Pass",
        }
    }
}

impl Tier {
    /// `Admin` or `Baseline`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "Admin",
            Self::Baseline => "Baseline",
        }
    }
}

/// A policy that selects the pod, and what its rules say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAnswer {
    /// The policy.
    #[serde(flatten)]
    pub policy: PolicyName,
    /// Its tier, if it is a ClusterNetworkPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// Its priority, if it is a ClusterNetworkPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// In force, or only watched.
    pub mode: Mode,
    /// Its rules in this direction.
    pub rules: Vec<RuleAnswer>,
}

/// What one rule says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleAnswer {
    /// Its place in the policy, from 1.
    pub rule: usize,
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it does with what it matches; only a ClusterNetworkPolicy's says so, a NetworkPolicy's allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<RuleAction>,
    /// Whether it matches the connection.
    pub matches: bool,
    /// The first thing that failed: the peers, or else the ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Each entry of `from` or `to`; none where the rule means everybody.
    pub peers: Vec<EntryAnswer>,
    /// Each entry of `ports`; none where the rule means every port.
    pub ports: Vec<EntryAnswer>,
}

/// What one entry of a list in a rule says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryAnswer {
    /// Whether it matches.
    pub matches: bool,
    /// What it asks for, and why it does not match.
    pub detail: String,
}

impl Explanation {
    /// The connection passes, audited or not.
    pub fn passes(&self) -> bool {
        self.verdict != Verdict::Denied
    }
}
