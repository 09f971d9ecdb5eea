//! Why a connection is allowed or denied, in words.
//!
//! Everything that decides comes from the compiler's own data: the same resolved rules are asked about the same
//! signatures. Only the sentences are made here, from the objects.

use std::{collections::BTreeSet, net::IpAddr};

use serde::Serialize;
use vethwall_common::{Direction, protocol};

use crate::{
    answer::{is_peer, port_ranges},
    compile::direction_name,
    model::{Mode, Peers, Pod, PolicyRef, Ports},
    numbers::Numbers,
    owners,
    resolve::{Context, ResolvedRule, SlotMeaning, isolating},
    sentences,
    terms::{PodTerms, Signature, Terms},
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
    /// Why.
    pub reason: SideReason,
    /// The rule that allows it.
    pub allowed_by: Option<AllowedBy>,
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
    /// Only audited policies isolate it, and none allows it.
    AuditOnly,
    /// A rule allows it.
    Rule,
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
pub struct AllowedBy {
    /// The policy.
    pub policy: PolicyRef,
    /// The rule's place in it, from 0.
    pub rule: usize,
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

/// Explains a connection. Without a port only rules that do not ask for one can match.
pub fn explain(world: &World, src: &Target, dst: &Target, protocol: u8, port: Option<u16>) -> Explanation {
    let (src, dst) = ends(world, src, dst);
    let egress = side(world, &src, &dst, Direction::Egress, protocol, port);
    let ingress = side(world, &dst, &src, Direction::Ingress, protocol, port);
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

/// An end, looked up.
pub(crate) struct Found<'w> {
    /// Asked for by name and not there.
    missing: bool,
    pub(crate) pod: Option<&'w Pod>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) node: Option<String>,
}

impl Found<'_> {
    fn shown(&self) -> End {
        let pod = self.pod.map(|pod| format!("{}/{}", pod.namespace, pod.name));
        End {
            pod,
            address: self.address,
            node: self.node.clone(),
        }
    }

    fn is(&self, other: &Self) -> bool {
        let name = |end: &Self| end.pod.map(|pod| (pod.namespace.clone(), pod.name.clone()));
        name(self).is_some() && name(self) == name(other)
    }
}

/// Looks both ends up; pods with several addresses use the first family that both have.
fn ends<'w>(world: &'w World, src: &Target, dst: &Target) -> (Found<'w>, Found<'w>) {
    let (from, to) = (addresses(world, src), addresses(world, dst));
    let common = from
        .iter()
        .find(|a| to.iter().any(|b| a.is_ipv4() == b.is_ipv4()));
    let choose = |all: &[IpAddr]| match common {
        Some(other) => all
            .iter()
            .find(|address| address.is_ipv4() == other.is_ipv4())
            .copied(),
        None => all.first().copied(),
    };
    (find(world, src, choose(&from)), find(world, dst, choose(&to)))
}

/// Addresses of a target: of a pod first what its interface has, for a status comes late.
fn addresses(world: &World, target: &Target) -> Vec<IpAddr> {
    let (namespace, name) = match target {
        Target::Address(address) => return vec![address.to_canonical()],
        Target::Pod { namespace, name } => (namespace, name),
    };
    let Some(pod) = world.pod(namespace, name) else {
        return Vec::new();
    };
    let mut local = world
        .endpoints()
        .filter(|endpoint| world.pod_of(endpoint) == Some(pod));
    let addresses = local
        .next()
        .map_or(&pod.addresses, |endpoint| &endpoint.addresses);
    addresses.iter().map(IpAddr::to_canonical).collect()
}

fn find<'w>(world: &'w World, target: &Target, address: Option<IpAddr>) -> Found<'w> {
    let node_of = |address: IpAddr| {
        if world.own_addresses().contains(&address) {
            return Some(world.node().to_owned());
        }
        let has = |node: &&crate::model::Node| node.addresses.iter().any(|a| a.to_canonical() == address);
        world.nodes().find(has).map(|node| node.name.clone())
    };
    match target {
        Target::Pod { namespace, name } => {
            let pod = world.pod(namespace, name);
            let node = pod.filter(|pod| pod.host_network);
            let node = node.and_then(|pod| pod.node.clone().or_else(|| address.and_then(node_of)));
            Found {
                missing: pod.is_none(),
                pod,
                address,
                node,
            }
        }
        Target::Address(given) => {
            let given = given.to_canonical();
            let node = node_of(given);
            let pod = if node.is_some() {
                None
            } else {
                owners::pod_at(world, given)
            };
            Found {
                missing: false,
                pod,
                address: Some(given),
                node,
            }
        }
    }
}

/// What the policies of `subject` say of a packet from or to `peer`.
fn side(
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
        reason,
        allowed_by: None,
        policies: Vec::new(),
    };
    let pod = match subject.pod {
        Some(pod) if !pod.host_network => pod,
        Some(_) => return plain(true, SideReason::NotAPod),
        None if subject.missing => return plain(false, SideReason::UnknownPod),
        None => return plain(true, SideReason::NotAPod),
    };
    if subject.is(peer) {
        return plain(true, SideReason::SelfTraffic);
    }
    if direction == Direction::Ingress && peer.node.is_some() && peer.node == home(world, pod) {
        return plain(true, SideReason::OwnNode);
    }

    let mut numbers = Numbers::default();
    let none = BTreeSet::new();
    let mut context = Context {
        numbers: &mut numbers,
        blockless: &none,
    };
    let meaning = SlotMeaning::of(world, pod, direction, &mut context);
    if meaning.policies.is_empty() {
        return plain(true, SideReason::NotIsolated);
    }
    let terms = Terms::new(&meaning.terms(), &numbers);
    let signature = signature(world, &terms, peer);
    let asked = Asked {
        world,
        subject: pod,
        peer,
        signature: &signature,
        direction,
        protocol,
        port,
    };
    let originals = isolating(world, pod, direction);

    let mut side = plain(!meaning.enforced(), SideReason::NoRule);
    side.shadow_allowed = false;
    for resolved in &meaning.policies {
        let original = originals.iter().find(|(policy, _)| {
            policy.name == resolved.policy.name && policy.namespace == resolved.policy.namespace
        });
        let Some((_, rules)) = original else { continue };
        let rules = rules.iter().zip(&resolved.rules).enumerate();
        let answers: Vec<RuleAnswer> = rules
            .map(|(i, (rule, resolved))| asked.rule(i, rule, resolved))
            .collect();
        if let Some(rule) = answers.iter().find(|answer| answer.allows) {
            side.shadow_allowed = true;
            side.allowed |= resolved.mode == Mode::Enforce;
            // Where policies in force isolate the pod, an audited one can not allow.
            if side.allowed && side.allowed_by.is_none() {
                side.allowed_by = Some(AllowedBy {
                    policy: resolved.policy.clone(),
                    rule: rule.rule,
                });
            }
        }
        side.policies.push(PolicyAnswer {
            policy: resolved.policy.clone(),
            mode: resolved.mode,
            rules: answers,
        });
    }
    side.reason = match (side.allowed, side.allowed_by.is_some()) {
        (false, _) => SideReason::NoRule,
        (true, true) => SideReason::Rule,
        (true, false) => SideReason::AuditOnly,
    };
    side
}

/// The node that a pod runs on.
fn home(world: &World, pod: &Pod) -> Option<String> {
    let local = world
        .endpoints()
        .any(|endpoint| world.pod_of(endpoint) == Some(pod));
    if local {
        Some(world.node().to_owned())
    } else {
        pod.node.clone()
    }
}

fn signature(world: &World, terms: &Terms, peer: &Found<'_>) -> Signature {
    match (peer.address, peer.pod) {
        (Some(address), _) => match owners::addresses(world, terms).remove(&address) {
            Some(owner) => owner.signature,
            None => terms.signature(address, PodTerms::new()),
        },
        // A pod without an address yet: by its labels alone.
        (None, Some(pod)) if owners::is_peer(pod) => {
            let local = terms.in_namespace(&pod.namespace, &world.namespace_labels(&pod.namespace));
            terms.signature_of_pod(&local, pod)
        }
        (None, _) => Signature::default(),
    }
}

/// A packet, asked about at one side.
pub(crate) struct Asked<'a> {
    pub(crate) world: &'a World,
    pub(crate) subject: &'a Pod,
    pub(crate) peer: &'a Found<'a>,
    pub(crate) signature: &'a Signature,
    pub(crate) direction: Direction,
    pub(crate) protocol: u8,
    pub(crate) port: Option<u16>,
}

impl Asked<'_> {
    fn rule(&self, i: usize, rule: &crate::model::Rule, resolved: &ResolvedRule) -> RuleAnswer {
        let peers: Vec<EntryAnswer> = match (&rule.peers, &resolved.peers) {
            (Peers::Some(peers), Some(resolved)) => {
                let entries = peers.iter().zip(resolved);
                let answer = |(peer, resolved)| {
                    let matches = is_peer(resolved, self.signature);
                    EntryAnswer {
                        matches,
                        detail: sentences::peer(self, peer, matches),
                    }
                };
                entries.map(answer).collect()
            }
            (Peers::All | Peers::Some(_), _) => Vec::new(),
        };
        let ports: Vec<EntryAnswer> = match (&rule.ports, &resolved.ports) {
            (Ports::Some(ports), Some(entries)) => {
                let answer = |(port, entry)| {
                    let ranges = port_ranges(resolved, entry, self.signature);
                    let matches = ranges.iter().any(|range| self.in_range(*range));
                    EntryAnswer {
                        matches,
                        detail: sentences::port(self, port, &ranges, matches),
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
            rule: i,
            allows: failed.is_none(),
            failed,
            peers,
            ports,
        }
    }

    fn in_range(&self, (protocol, first, last): (u8, u16, u16)) -> bool {
        let covers = match self.port {
            Some(port) if protocol::has_ports(self.protocol) => first <= port && port <= last,
            Some(_) | None => (first, last) == (0, u16::MAX),
        };
        protocol == self.protocol && covers
    }
}
