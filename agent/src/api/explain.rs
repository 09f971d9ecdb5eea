//! Why a connection is allowed or denied: `explain -o json`.
//!
//! [`answer`] is the one way to an [`Explanation`], for the agent and for a directory of manifests alike.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};
use vethwall_policy::{explain as policy, model::Pod, world::World};

use super::{API_VERSION, Direction, ErrorBody, ErrorCode, Mode, PolicyName, Verdict};

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
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, or the IP protocol's number.
    pub protocol: String,
    /// Destination port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
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
    /// Whether this side lets it pass, and whether an audited policy would not.
    pub verdict: Verdict,
    /// Why.
    pub reason: SideReason,
    /// The rule that allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_by: Option<AllowedBy>,
    /// The policies that isolate the pod in this direction, with their rules.
    pub policies: Vec<PolicyAnswer>,
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
    /// Both ends are the same pod.
    SelfTraffic,
    /// From the pod's own node.
    OwnNode,
    /// There is no such pod.
    UnknownPod,
}

/// Names a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AllowedBy {
    /// The policy.
    #[serde(flatten)]
    pub policy: PolicyName,
    /// The rule's place in it, from 1.
    pub rule: usize,
}

/// A policy that isolates the pod, and what its rules say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAnswer {
    /// The policy.
    #[serde(flatten)]
    pub policy: PolicyName,
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
    /// Whether it allows the connection.
    pub allows: bool,
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

/// Explains a connection in a world. The error is for the one who asked: a pod that is not there.
pub fn answer(world: &World, request: &ExplainRequest) -> Result<Explanation, ErrorBody> {
    let source = party(world, &request.source)?;
    let destination = party(world, &request.destination)?;
    let told = policy::explain(
        world,
        &target(&request.source),
        &target(&request.destination),
        request.protocol,
        request.port,
    );
    let (egress, ingress) = (side(&told.egress), side(&told.ingress));
    let verdict = [egress.verdict, ingress.verdict]
        .into_iter()
        .max_by_key(|verdict| severity(*verdict))
        .unwrap_or(Verdict::Denied);
    Ok(Explanation {
        api_version: API_VERSION.to_owned(),
        verdict,
        protocol: protocol_name(request.protocol),
        port: request.port,
        notes: notes(world, request, &source, &destination, &ingress),
        source,
        destination,
        egress,
        ingress,
    })
}

/// The name of an IP protocol, or its number.
pub fn protocol_name(protocol: u8) -> String {
    use vethwall_common::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};
    match protocol {
        TCP => "TCP".to_owned(),
        UDP => "UDP".to_owned(),
        SCTP => "SCTP".to_owned(),
        ICMP => "ICMP".to_owned(),
        ICMPV6 => "ICMPv6".to_owned(),
        other => other.to_string(),
    }
}

/// The number of an IP protocol that is given by name, in any case, or by number.
pub fn protocol_number(name: &str) -> Option<u8> {
    use vethwall_common::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};
    match name.to_ascii_uppercase().as_str() {
        "TCP" => Some(TCP),
        "UDP" => Some(UDP),
        "SCTP" => Some(SCTP),
        "ICMP" => Some(ICMP),
        "ICMPV6" => Some(ICMPV6),
        number => number.parse().ok(),
    }
}

const fn severity(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Allowed => 0,
        Verdict::Audited => 1,
        Verdict::Denied => 2,
    }
}

fn target(peer: &Peer) -> policy::Target {
    match peer {
        Peer::Pod { namespace, name } => policy::Target::Pod {
            namespace: namespace.clone(),
            name: name.clone(),
        },
        Peer::Address { address } => policy::Target::Address(*address),
    }
}

/// The pod that owns an address: a live one with its own network.
fn owner(world: &World, address: IpAddr) -> Option<&Pod> {
    let address = address.to_canonical();
    world.pods().find(|pod| {
        !pod.host_network && !pod.finished && pod.addresses.iter().any(|own| own.to_canonical() == address)
    })
}

fn party(world: &World, peer: &Peer) -> Result<Party, ErrorBody> {
    let (owner, node) = match peer {
        Peer::Pod { namespace, name } => {
            let pod = world
                .pod(namespace, name)
                .ok_or_else(|| unknown_pod(world, namespace, name))?;
            (None, pod.node.clone())
        }
        Peer::Address { address } => match owner(world, *address) {
            Some(pod) => (Some(format!("{}/{}", pod.namespace, pod.name)), pod.node.clone()),
            None => (None, node_of(world, *address)),
        },
    };
    Ok(Party {
        peer: peer.clone(),
        owner,
        node,
    })
}

fn node_of(world: &World, address: IpAddr) -> Option<String> {
    let address = address.to_canonical();
    if world.own_addresses().contains(&address) {
        return Some(world.node().to_owned());
    }
    let owns = |own: &IpAddr| own.to_canonical() == address;
    world
        .nodes()
        .find(|node| node.addresses.iter().any(owns))
        .map(|node| node.name.clone())
}

fn unknown_pod(world: &World, namespace: &str, name: &str) -> ErrorBody {
    let elsewhere: Vec<_> = world
        .pods()
        .filter(|pod| pod.name == name)
        .map(|pod| format!("{}/{}", pod.namespace, pod.name))
        .take(3)
        .collect();
    let hint = if elsewhere.is_empty() {
        String::new()
    } else {
        format!("; there is {}", elsewhere.join(", "))
    };
    ErrorBody::new(
        ErrorCode::UnknownPod,
        format!("no pod {namespace}/{name} is known{hint}"),
    )
}

fn side(side: &policy::Side) -> Side {
    Side {
        direction: side.direction.into(),
        verdict: match (side.allowed, side.shadow_allowed) {
            (false, _) => Verdict::Denied,
            (true, false) => Verdict::Audited,
            (true, true) => Verdict::Allowed,
        },
        reason: match side.reason {
            policy::SideReason::NotAPod => SideReason::NotAPod,
            policy::SideReason::NotIsolated => SideReason::NotIsolated,
            policy::SideReason::AuditOnly => SideReason::AuditOnly,
            policy::SideReason::Rule => SideReason::Rule,
            policy::SideReason::NoRule => SideReason::NoRule,
            policy::SideReason::SelfTraffic => SideReason::SelfTraffic,
            policy::SideReason::OwnNode => SideReason::OwnNode,
            policy::SideReason::UnknownPod => SideReason::UnknownPod,
        },
        allowed_by: side.allowed_by.as_ref().map(|by| AllowedBy {
            policy: PolicyName::from(&by.policy),
            rule: by.rule + 1,
        }),
        policies: side
            .policies
            .iter()
            .map(|answer| PolicyAnswer {
                policy: PolicyName::from(&answer.policy),
                mode: answer.mode.into(),
                rules: answer
                    .rules
                    .iter()
                    .map(|rule| RuleAnswer {
                        rule: rule.rule + 1,
                        allows: rule.allows,
                        failed: rule.failed.clone(),
                        peers: entries(&rule.peers),
                        ports: entries(&rule.ports),
                    })
                    .collect(),
            })
            .collect(),
    }
}

fn entries(answers: &[policy::EntryAnswer]) -> Vec<EntryAnswer> {
    let entry = |answer: &policy::EntryAnswer| EntryAnswer {
        matches: answer.matches,
        detail: answer.detail.clone(),
    };
    answers.iter().map(entry).collect()
}

/// What people trip over and the two sides do not say.
fn notes(
    world: &World,
    request: &ExplainRequest,
    source: &Party,
    destination: &Party,
    ingress: &Side,
) -> Vec<String> {
    let mut notes = Vec::new();
    for (peer, direction) in [(&request.source, "from"), (&request.destination, "to")] {
        if let Peer::Pod { namespace, name } = peer
            && let Some(pod) = world.pod(namespace, name)
        {
            if pod.host_network {
                notes.push(format!(
                    "{namespace}/{name} uses its node's network: no policy selects it, and traffic {direction} it is \
                     traffic {direction} its node"
                ));
            } else if pod.finished {
                notes.push(format!(
                    "{namespace}/{name} is finished: it owns no address any more"
                ));
            }
        }
    }
    if ingress.reason != SideReason::OwnNode
        && ingress.verdict != Verdict::Allowed
        && matches!(source.peer, Peer::Address { .. })
        && source.owner.is_none()
        && let Some(node) = destination.node.as_deref().filter(|node| !node.is_empty())
    {
        notes.push(format!(
            "what node {node} itself generates, kubelet probes for one, always reaches its pods, whatever address it has"
        ));
    }
    if request.port.is_none() && vethwall_common::protocol::has_ports(request.protocol) {
        notes.push("no port was asked for: only rules that allow every port can match".to_owned());
    }
    notes
}
