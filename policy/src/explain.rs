//! Why a connection is allowed or denied.

use std::net::IpAddr;

use serde::Serialize;
use vethwall_common::Direction;

use crate::{
    compile::direction_name,
    model::{Mode, PolicyRef},
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
    /// Both ends agree.
    pub allowed: bool,
    /// What the source's policies say.
    pub egress: Side,
    /// What the destination's policies say.
    pub ingress: Side,
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
    /// Why.
    pub reason: SideReason,
    /// The policies that isolate the pod in this direction, with their rules.
    pub policies: Vec<PolicyAnswer>,
}

/// Why a side answers as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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

/// A policy that isolates the pod, and what its rules say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyAnswer {
    /// The policy.
    pub policy: PolicyRef,
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
    /// Whether it allows the connection.
    pub allows: bool,
    /// The first thing that failed.
    pub failed: Option<String>,
}

/// Explains a connection. Without a port only rules that do not ask for one can match.
pub fn explain(world: &World, src: &Target, dst: &Target, protocol: u8, port: Option<u16>) -> Explanation {
    let _ = (world, src, dst, protocol, port);
    let side = |direction| Side {
        direction,
        allowed: false,
        shadow_allowed: false,
        reason: SideReason::UnknownPod,
        policies: Vec::new(),
    };
    Explanation {
        allowed: false,
        egress: side(Direction::Egress),
        ingress: side(Direction::Ingress),
    }
}
