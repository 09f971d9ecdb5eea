//! Why a connection is allowed or denied, in words.
//!
//! ```text
//! SRC, DST ─ ends ─► pods, addresses, nodes ─ side (twice) ─► answer, and each rule's part in it ─ sentences ─► words
//! ```
//! Everything that decides comes from the compiler's own data: the same resolved rules are asked about the same
//! signatures. Only the sentences are made here, from the objects.

mod asked;
mod ends;
pub mod fix;
pub mod nearest;
mod sentences;
mod side;

use std::net::IpAddr;

use serde::Serialize;
use vethwall_common::Direction;

use crate::{
    compiled::direction_name,
    model::{Mode, PolicyRef, RuleAction, Tier},
    world::World,
};

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Target {
    /// A pod.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// An address, whoever owns it.
    Address(IpAddr),
}

/// Why a connection is allowed or denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Both sides let it pass (SEMANTICS 3).
    pub allowed: bool,
    /// Both would, were the audited policies in force.
    pub shadow_allowed: bool,
    /// The source.
    pub from: End,
    /// The destination.
    pub to: End,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port.
    pub port: Option<u16>,
    /// What the source's policies say.
    pub egress: Side,
    /// What the destination's policies say.
    pub ingress: Side,
}

/// One end, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// `NAMESPACE/NAME`, if it is a pod.
    pub pod: Option<String>,
    /// The address that is judged.
    pub address: Option<IpAddr>,
    /// The node that has the address, or whose network the pod shares.
    pub node: Option<String>,
}

/// What the policies of one end say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// Towards or from the pod.
    #[serde(serialize_with = "direction_name")]
    pub direction: Direction,
    /// Whether this side lets it pass.
    pub allowed: bool,
    /// Whether it would, were the audited policies in force.
    pub shadow_allowed: bool,
    /// Whether some policy acts on the pod in this direction.
    pub selected: bool,
    /// Why.
    pub reason: SideReason,
    /// The rule that decided.
    pub decided_by: Option<Decision>,
    /// The policies that act on the pod in this direction, in the order in which they are asked, with their rules.
    pub policies: Vec<PolicyAnswer>,
}

/// Why a side answers as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SideReason {
    /// Not a pod that policy acts on: an external address, a node, a hostNetwork pod.
    NotAPod,
    /// No NetworkPolicy isolates the pod in this direction, and no ClusterNetworkPolicy decides.
    NotIsolated,
    /// Only audited policies would deny it.
    AuditOnly,
    /// A rule allows it.
    Rule,
    /// A rule of a ClusterNetworkPolicy denies it.
    Denied,
    /// The pod is isolated and no rule matches.
    NoRule,
    /// Both ends are the same pod (SEMANTICS 40).
    SelfTraffic,
    /// From the pod's own node (SEMANTICS 39).
    OwnNode,
    /// There is no such pod.
    UnknownPod,
}

/// Names a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The policy.
    pub policy: PolicyRef,
    /// The rule's place in it, from 0.
    pub rule: usize,
}

/// A policy that acts on the pod, and what its rules say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyAnswer {
    /// The policy.
    pub policy: PolicyRef,
    /// The tier of a ClusterNetworkPolicy; none for a NetworkPolicy.
    pub tier: Option<Tier>,
    /// The priority of a ClusterNetworkPolicy.
    pub priority: Option<u16>,
    /// In force, or only watched.
    pub mode: Mode,
    /// Its rules in this direction.
    pub rules: Vec<RuleAnswer>,
}

/// What one rule says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleAnswer {
    /// Its place in the policy, from 0.
    pub rule: usize,
    /// Its name, in a ClusterNetworkPolicy that gives one.
    pub name: Option<String>,
    /// What it does, in a ClusterNetworkPolicy; a NetworkPolicy's rules allow.
    pub action: Option<RuleAction>,
    /// Whether it matches the connection.
    pub matches: bool,
    /// The first thing that failed: the peers, or else the ports.
    pub failed: Option<String>,
    /// Each entry of `from` or `to`; none where the rule means everybody.
    pub peers: Vec<EntryAnswer>,
    /// Each entry of `ports`; none where the rule means every port.
    pub ports: Vec<EntryAnswer>,
}

/// What one entry of a list in a rule says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntryAnswer {
    /// Whether it matches.
    pub matches: bool,
    /// What it asks for, and why it does not match.
    pub detail: String,
}

/// Which addresses of a pod that has several are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A connection that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Who opens it.
    pub src: Target,
    /// To whom.
    pub dst: Target,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port; without it every port of the protocol must be allowed.
    pub port: Option<u16>,
    /// A pod without an address of this family is judged by its labels alone. Without a family it is that of the first
    /// address that both ends have in common.
    pub family: Option<Family>,
}

impl Connection {
    /// Explains it.
    pub fn explain(&self, world: &World) -> Explanation {
        let (protocol, port) = (self.protocol, self.port);
        let (src, dst) = ends::ends(world, &self.src, &self.dst, self.family);
        let egress = side::side(world, &src, &dst, Direction::Egress, protocol, port);
        let ingress = side::side(world, &dst, &src, Direction::Ingress, protocol, port);
        Explanation {
            allowed: egress.allowed && ingress.allowed,
            shadow_allowed: egress.shadow_allowed && ingress.shadow_allowed,
            from: src.shown(),
            to: dst.shown(),
            protocol,
            port,
            egress,
            ingress,
        }
    }
}

impl Explanation {
    /// What the policies of the source (egress) or of the destination (ingress) say.
    pub const fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        }
    }
}

/// Explains a connection over whatever family both ends have. Without a port it must be allowed on every port of the
/// protocol.
pub fn explain(world: &World, src: &Target, dst: &Target, protocol: u8, port: Option<u16>) -> Explanation {
    let (src, dst) = (src.clone(), dst.clone());
    let family = None;
    Connection {
        src,
        dst,
        protocol,
        port,
        family,
    }
    .explain(world)
}
