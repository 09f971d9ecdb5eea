//! One verdict with names: a line of `flows -o json`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::PolicyName;

/// Which flows are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowRequest {
    /// After the history, send what happens, without end.
    pub follow: bool,
    /// At most this many of the history, the newest; absent: all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<usize>,
    /// Only these.
    #[serde(flatten)]
    pub filter: FlowFilter,
}

/// Which flows pass. Every field that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowFilter {
    /// One of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<Verdict>,
    /// Either end is in this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Either end is this: `NS/POD`, `POD` in any namespace, or an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The source is this, spelled like `pod`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_pod: Option<String>,
    /// The destination is this, spelled like `pod`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_pod: Option<String>,
    /// Judged in this direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
}

/// How a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passed.
    Allowed,
    /// It was dropped.
    Denied,
    /// It passed, and an audited policy would have dropped it.
    Audited,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Allowed, Self::Denied, Self::Audited];

    /// `allowed`, `denied` or `audited`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Audited => "audited",
        }
    }
}

/// Seen from the pod whose policy was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// `ingress` or `egress`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl From<vethwall_common::Direction> for Direction {
    fn from(direction: vethwall_common::Direction) -> Self {
        match direction {
            vethwall_common::Direction::Ingress => Self::Ingress,
            vethwall_common::Direction::Egress => Self::Egress,
        }
    }
}

/// One final verdict: of a new connection, or of a dropped packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// [`super::API_VERSION`].
    pub api_version: String,
    /// When, RFC 3339.
    pub time: jiff::Timestamp,
    /// The node that judged.
    pub node: String,
    /// Who sent.
    pub source: End,
    /// To whom.
    pub destination: End,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, or the IP protocol's number.
    pub protocol: String,
    /// Type and code of an ICMP message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<Icmp>,
    /// Seen from the pod whose policy decided.
    pub direction: Direction,
    /// How it ended.
    pub verdict: Verdict,
    /// Name of a [`vethwall_common::verdict::Reason`].
    pub reason: String,
    /// The policy whose rule decided; where no rule matched, the policies that isolate the pod.
    pub policies: Vec<PolicyName>,
    /// Place of the rule in its policy, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// How many packets or connections this stands for, itself included.
    pub count: u64,
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// Its address.
    pub address: IpAddr,
    /// Its port; absent where the protocol has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What it is.
    pub kind: EndKind,
    /// Its namespace, of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name, of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its name, of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// What an end of a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EndKind {
    /// A pod.
    Pod,
    /// A node, or a hostNetwork pod of it.
    Node,
    /// Behind an address of this node: the true sender is not known.
    Masqueraded,
    /// An address of the pod network that nobody is known to own.
    UnknownPod,
    /// Anything else.
    #[serde(other)]
    World,
}

/// Type and code of an ICMP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Icmp {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Its code.
    pub code: u8,
}
