//! What the policies of one end say.

use std::collections::BTreeSet;

use vethwall_common::{Direction, verdict::allow};

use super::{
    Decision, EntryAnswer, PolicyAnswer, RuleAnswer, Side, SideReason,
    asked::Asked,
    ends::{Found, is_own_node},
    sentences,
};
use crate::{
    answer::{Hit, Origin, answer, is_peer, port_hits},
    meaning::{ResolvedPolicy, ResolvedRule, SlotMeaning},
    model::{Peers, Ports, RuleAction},
    numbers::Numbers,
    owners::{Addresses, Strangers},
    resolve::{Acting, Context, acting},
    signature::{Match, Signature},
    terms::Terms,
    world::World,
};

/// What the policies of `subject` say of a packet from or to `peer`.
pub(super) fn side(
    world: &World,
    subject: &Found<'_>,
    peer: &Found<'_>,
    direction: Direction,
    protocol: u8,
    port: Option<u16>,
) -> Side {
    let plain = |allowed, reason| Side {
        direction,
        allowed,
        shadow_allowed: allowed,
        selected: false,
        reason,
        decided_by: None,
        policies: Vec::new(),
    };
    let pod = match subject.pod {
        Some(pod) if !pod.host_network => pod,
        Some(_) => return plain(true, SideReason::NotAPod),
        None if subject.missing => return plain(false, SideReason::UnknownPod),
        None => return plain(true, SideReason::NotAPod),
    };
    let acting = acting(world, pod, direction);
    let selected = Side {
        selected: !acting.is_empty(),
        ..plain(true, SideReason::NotIsolated)
    };
    let own_node = || direction == Direction::Ingress && is_own_node(world, pod, peer);
    let unasked = if subject.is(peer) {
        Some(SideReason::SelfTraffic)
    } else if own_node() {
        Some(SideReason::OwnNode)
    } else {
        None
    };
    if acting.is_empty() {
        return Side {
            reason: unasked.unwrap_or(SideReason::NotIsolated),
            ..selected
        };
    }

    let mut numbers = Numbers::default();
    let none = BTreeSet::new();
    let mut context = Context {
        numbers: &mut numbers,
        blockless: &none,
    };
    let meaning = SlotMeaning::of(world, pod, direction, &mut context);
    let terms = Terms::new(&meaning.terms(), &numbers);
    let signature = signature(world, &terms, &meaning, peer);
    let asked = Asked {
        world,
        subject: pod,
        peer,
        signature: &signature,
        direction,
        protocol,
        port,
    };

    let whole = answer(&meaning, &signature);
    let bits = match port {
        Some(port) => whole.at(protocol, port),
        None => whole.anywhere(protocol),
    };
    let (allowed, shadow_allowed) = (bits.allow & allow::ENFORCED != 0, bits.allow & allow::SHADOW != 0);
    let decided_by = match bits.origin {
        Origin::Rule(p, rule) => meaning.policies.get(p).map(|policy| Decision {
            policy: policy.policy.clone(),
            rule,
        }),
        Origin::Open | Origin::Isolated(_) | Origin::Closed => None,
    };
    let reason = match (allowed, shadow_allowed, &decided_by) {
        (true, true, Some(_)) => SideReason::Rule,
        (true, true, None) => SideReason::NotIsolated,
        (true, false, _) => SideReason::AuditOnly,
        (false, _, Some(_)) => SideReason::Denied,
        (false, _, None) => SideReason::NoRule,
    };
    let policies = acting.iter().zip(&meaning.policies);
    let policies: Vec<PolicyAnswer> = policies
        .map(|(acting, resolved)| asked.policy(acting, resolved))
        .collect();
    if let Some(reason) = unasked {
        return Side {
            reason,
            policies,
            ..selected
        };
    }
    Side {
        allowed,
        shadow_allowed,
        reason,
        decided_by,
        policies,
        ..selected
    }
}

fn signature(world: &World, terms: &Terms, meaning: &SlotMeaning, peer: &Found<'_>) -> Signature {
    let strangers = if meaning.takes_from_pods() {
        Strangers::InPodNetworks
    } else {
        Strangers::Ignored
    };
    let addresses = Addresses::new(world, terms, strangers);
    match (peer.address, peer.pod) {
        (Some(address), _) => addresses.signature(address),
        // A pod without an address yet: by its labels alone.
        (None, Some(pod)) if pod.is_peer() => addresses.signature_of_pod(pod),
        (None, _) => Signature::default(),
    }
}

impl Asked<'_> {
    fn policy(&self, acting: &Acting<'_>, resolved: &ResolvedPolicy) -> PolicyAnswer {
        let (tier, priority, rules) = match acting {
            Acting::Namespaced(_, _, rules) => {
                let rules = rules.iter().zip(&resolved.rules);
                let answer = |(rule, resolved): (&crate::model::Rule, _)| {
                    self.rule(&rule.peers, &rule.ports, resolved)
                };
                (None, None, rules.map(answer).collect::<Vec<_>>())
            }
            Acting::Cluster(policy, _, rules) => {
                let rules = rules.iter().zip(&resolved.rules);
                let answer = |(rule, resolved): (&crate::model::ClusterRule, _)| RuleAnswer {
                    name: rule.name.clone(),
                    action: Some(rule.action),
                    ..self.rule(&rule.peers, &rule.ports, resolved)
                };
                (
                    Some(policy.tier),
                    Some(policy.priority),
                    rules.map(answer).collect(),
                )
            }
        };
        let number = |(rule, answer)| RuleAnswer { rule, ..answer };
        PolicyAnswer {
            policy: resolved.policy.clone(),
            tier,
            priority,
            mode: resolved.mode,
            rules: rules.into_iter().enumerate().map(number).collect(),
        }
    }

    fn rule(&self, peers: &Peers, ports: &Ports, resolved: &ResolvedRule) -> RuleAnswer {
        // What is not sure does not allow, and does deny.
        let counts = |sure: Match| match resolved.action {
            RuleAction::Accept => sure == Match::Yes,
            RuleAction::Deny | RuleAction::Pass => sure != Match::No,
        };
        let peers: Vec<EntryAnswer> = match (peers, &resolved.peers) {
            (Peers::Some(peers), Some(resolved)) => {
                let answer = |(peer, resolved)| {
                    let matches = counts(is_peer(resolved, self.signature));
                    EntryAnswer {
                        matches,
                        detail: sentences::peer(self, peer, matches),
                    }
                };
                peers.iter().zip(resolved).map(answer).collect()
            }
            (Peers::All | Peers::Some(_), _) => Vec::new(),
        };
        let ports: Vec<EntryAnswer> = match (ports, &resolved.ports) {
            (Ports::Some(ports), Some(entries)) => {
                let answer = |(port, entry)| {
                    let hits = port_hits(resolved, entry, self.signature, Match::Yes);
                    let matches = hits.iter().any(|hit| counts(hit.sure) && self.covers(hit));
                    EntryAnswer {
                        matches,
                        detail: sentences::port(self, port, &hits, matches),
                    }
                };
                ports.iter().zip(entries).map(answer).collect()
            }
            (Ports::All | Ports::Some(_), _) => Vec::new(),
        };
        let missed = |all: bool, entries: &[EntryAnswer]| {
            let none = !all && !entries.iter().any(|entry| entry.matches);
            let details: Vec<&str> = entries.iter().map(|entry| entry.detail.as_str()).collect();
            none.then(|| details.join("; "))
        };
        let failed = missed(resolved.peers.is_none(), &peers)
            .map(|why| format!("no peer matches: {why}"))
            .or_else(|| {
                missed(resolved.ports.is_none(), &ports).map(|why| format!("no port matches: {why}"))
            });
        RuleAnswer {
            rule: 0,
            name: None,
            action: None,
            matches: failed.is_none(),
            failed,
            peers,
            ports,
        }
    }

    fn covers(&self, hit: &Hit) -> bool {
        let Some((protocol, first, last)) = hit.ports else {
            return true;
        };
        let inside = match self.port {
            Some(port) => first <= port && port <= last,
            None => (first, last) == (0, u16::MAX),
        };
        protocol == self.protocol && inside
    }
}
