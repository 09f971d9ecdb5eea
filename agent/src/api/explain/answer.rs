//! From the policy crate's answer to the one that is told.

use std::net::IpAddr;

use vethwall_common::{Direction, protocol::has_ports};
use vethwall_policy::{
    explain::{self as policy, nearest::nearest},
    model,
    world::World,
};

use super::{
    ClusterRule, DecidedBy, EntryAnswer, ExplainRequest, Explanation, Party, Peer, PolicyAnswer, RuleAction,
    RuleAnswer, Side, SideReason, Tier, protocol_name,
};
use crate::api::{API_VERSION, ErrorBody, ErrorCode, PolicyName, Verdict};

/// The namespace that stands for no namespace: `node/NAME` is a node, unless there is such a pod.
const NODE: &str = "node";

/// Explains a connection in a world. The error is for the one who asked: a pod that is not there.
pub fn answer(world: &World, request: &ExplainRequest) -> Result<Explanation, ErrorBody> {
    let asked = connection(world, request)?;
    let told = asked.explain(world);
    let mut explanation = explanation(world, request, &told);
    for (side, direction) in [
        (&mut explanation.egress, Direction::Egress),
        (&mut explanation.ingress, Direction::Ingress),
    ] {
        side.fix = nearest(world, &asked, &told, direction).map(|fix| fix.to_string());
    }
    Ok(explanation)
}

/// The same without the fixes, which take longer to find: for many answers that nobody may read.
pub fn brief(world: &World, request: &ExplainRequest) -> Result<Explanation, ErrorBody> {
    let told = connection(world, request)?.explain(world);
    Ok(explanation(world, request, &told))
}

fn connection(world: &World, request: &ExplainRequest) -> Result<policy::Connection, ErrorBody> {
    Ok(policy::Connection {
        src: target(world, &request.source, request.family)?,
        dst: target(world, &request.destination, request.family)?,
        protocol: request.protocol,
        port: request.port,
        family: request.family.map(|family| match family {
            4 => policy::Family::V4,
            _ => policy::Family::V6,
        }),
    })
}

fn explanation(world: &World, request: &ExplainRequest, told: &policy::Explanation) -> Explanation {
    let (egress, ingress) = (side(&told.egress), side(&told.ingress));
    let verdict = [egress.verdict, ingress.verdict]
        .into_iter()
        .max_by_key(|verdict| severity(*verdict))
        .unwrap_or(Verdict::Denied);
    let source = party(world, &request.source, &told.from);
    let destination = party(world, &request.destination, &told.to);
    let address = told.from.address.or(told.to.address);
    Explanation {
        api_version: API_VERSION.to_owned(),
        verdict,
        protocol: protocol_name(request.protocol),
        port: request.port,
        family: address.map(family_of),
        notes: notes(world, request, told, &source, &destination, &ingress),
        source,
        destination,
        egress,
        ingress,
    }
}

const fn severity(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Allowed => 0,
        Verdict::Audited => 1,
        Verdict::Denied => 2,
    }
}

const fn family_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

fn target(world: &World, peer: &Peer, family: Option<u8>) -> Result<policy::Target, ErrorBody> {
    match peer {
        Peer::Address { address } => Ok(policy::Target::Address(*address)),
        Peer::Pod { namespace, name } => {
            if world.pod(namespace, name).is_some() {
                return Ok(policy::Target::Pod {
                    namespace: namespace.clone(),
                    name: name.clone(),
                });
            }
            let node = world
                .nodes()
                .find(|node| namespace == NODE && node.name == *name)
                .ok_or_else(|| unknown_pod(world, namespace, name))?;
            let fits =
                |address: &&IpAddr| family.is_none_or(|family| family_of(address.to_canonical()) == family);
            let address = node.addresses.iter().find(fits).ok_or_else(|| {
                let version = family.map(|family| format!("IPv{family} ")).unwrap_or_default();
                ErrorBody::new(
                    ErrorCode::UnknownPod,
                    format!("node {name} has no {version}address that is known"),
                )
            })?;
            Ok(policy::Target::Address(*address))
        }
    }
}

fn party(world: &World, peer: &Peer, end: &policy::End) -> Party {
    let pod = end.pod.as_deref().and_then(|pod| pod.split_once('/'));
    let bound = pod.and_then(|(namespace, name)| world.pod(namespace, name)?.node.clone());
    Party {
        peer: peer.clone(),
        owner: match peer {
            Peer::Address { .. } => end.pod.clone(),
            Peer::Pod { .. } => None,
        },
        node: bound.or_else(|| end.node.clone()),
    }
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
    let policies: Vec<PolicyAnswer> = side.policies.iter().map(policy_answer).collect();
    let decided_by = side.decided_by.as_ref().map(|by| {
        let policy = PolicyName::from(&by.policy);
        let number = by.rule + 1;
        let answer = policies.iter().find(|answer| answer.policy == policy);
        let rule = answer.and_then(|answer| answer.rules.iter().find(|rule| rule.rule == number));
        DecidedBy {
            policy,
            rule: number,
            name: rule.and_then(|rule| rule.name.clone()),
            cluster: ClusterRule {
                action: rule.and_then(|rule| rule.action),
                tier: answer.and_then(|answer| answer.tier),
                priority: answer.and_then(|answer| answer.priority),
            },
        }
    });
    Side {
        direction: side.direction.into(),
        selected: side.selected,
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
            policy::SideReason::Denied => SideReason::Denied,
            policy::SideReason::SelfTraffic => SideReason::SelfTraffic,
            policy::SideReason::OwnNode => SideReason::OwnNode,
            policy::SideReason::UnknownPod => SideReason::UnknownPod,
        },
        decided_by,
        policies,
        fix: None,
    }
}

fn policy_answer(answer: &policy::PolicyAnswer) -> PolicyAnswer {
    let rule = |rule: &policy::RuleAnswer| RuleAnswer {
        rule: rule.rule + 1,
        name: rule.name.clone(),
        action: rule.action.map(RuleAction::from),
        matches: rule.matches,
        failed: rule.failed.clone(),
        peers: entries(&rule.peers),
        ports: entries(&rule.ports),
    };
    PolicyAnswer {
        policy: PolicyName::from(&answer.policy),
        tier: answer.tier.map(Tier::from),
        priority: answer.priority,
        mode: answer.mode.into(),
        rules: answer.rules.iter().map(rule).collect(),
    }
}

impl From<model::Tier> for Tier {
    fn from(tier: model::Tier) -> Self {
        match tier {
            model::Tier::Admin => Self::Admin,
            model::Tier::Baseline => Self::Baseline,
        }
    }
}

impl From<model::RuleAction> for RuleAction {
    fn from(action: model::RuleAction) -> Self {
        match action {
            model::RuleAction::Accept => Self::Accept,
            model::RuleAction::Deny => Self::Deny,
            model::RuleAction::Pass => Self::Pass,
        }
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
    told: &policy::Explanation,
    source: &Party,
    destination: &Party,
    ingress: &Side,
) -> Vec<String> {
    let mut notes = Vec::new();
    for (peer, end, direction) in [
        (&request.source, &told.from, "from"),
        (&request.destination, &told.to, "to"),
    ] {
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
            } else if end.address.is_none() {
                let version = request.family.map(|family| format!("IPv{family} "));
                notes.push(format!(
                    "no {}address of {namespace}/{name} is known: it is judged by its labels, and no ipBlock matches it",
                    version.unwrap_or_default()
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
    if request.port.is_none() && has_ports(request.protocol) {
        notes.push("no port was asked for: the question is whether every port is allowed".to_owned());
    }
    notes
}
