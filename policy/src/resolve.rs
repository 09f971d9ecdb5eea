//! Which policies isolate a pod, and what their rules mean for it.
//!
//! The compiler and `explain` both walk what this module returns, so that they can not disagree.

use std::collections::BTreeSet;

use vethwall_common::{Direction, protocol};

use crate::{
    model::{Mode, NetworkPolicy, Peer, Peers, Pod, PolicyRef, PortMatch, Ports, Rule, canonical},
    numbers::Numbers,
    terms::{Scope, Term, TermId, named_ports},
    world::World,
};

/// Everything that decides in one direction of a pod; pods that agree in this share a slot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SlotMeaning {
    /// Which way.
    pub(crate) direction: Direction,
    /// The policies that isolate: those in force first, then the audited ones, each by name.
    pub(crate) policies: Vec<ResolvedPolicy>,
    /// A limit was exceeded: everything is denied instead.
    pub(crate) degraded: bool,
}

/// A policy, in one direction, for one pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ResolvedPolicy {
    /// In force, or only watched.
    pub(crate) mode: Mode,
    /// Its name.
    pub(crate) policy: PolicyRef,
    /// Its rules, in its order.
    pub(crate) rules: Vec<ResolvedRule>,
}

/// A rule, peers and ports in its order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ResolvedRule {
    /// `None` is everybody.
    pub(crate) peers: Option<Vec<ResolvedPeer>>,
    /// `None` is every port of every protocol.
    pub(crate) ports: Option<Vec<ResolvedPort>>,
}

/// A peer as terms.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ResolvedPeer {
    /// A selector.
    Pods(TermId),
    /// A prefix and the holes in it.
    Block {
        /// The prefix.
        cidr: TermId,
        /// The holes.
        except: Vec<TermId>,
    },
    /// Matches nothing.
    Nothing,
}

/// Ports as numbers, as far as they are the same for every peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ResolvedPort {
    /// Numbers; several where a name stands for several.
    Ranges(u8, Vec<(u16, u16)>),
    /// A port of the destination, which here is the peer: for each peer of the rule (one, if the rule has none) the
    /// term that knows its number.
    OfPeer(u8, Vec<Option<TermId>>),
    /// Matches nothing.
    Nothing,
}

impl SlotMeaning {
    /// What decides for the pod in this direction.
    pub(crate) fn of(world: &World, pod: &Pod, direction: Direction, context: &mut Context<'_>) -> Self {
        let selecting = isolating(world, pod, direction);
        let mut policies: Vec<_> = selecting
            .into_iter()
            .map(|(policy, rules)| context.policy(policy, rules, pod, direction))
            .collect();
        policies.sort_by(|a, b| (a.mode, &a.policy).cmp(&(b.mode, &b.policy)));
        Self {
            direction,
            policies,
            degraded: false,
        }
    }

    /// Whether a policy in force isolates the pod.
    pub(crate) fn enforced(&self) -> bool {
        self.policies.iter().any(|policy| policy.mode == Mode::Enforce)
    }

    /// The policies that a denial stems from: those in force, or else the audited ones.
    pub(crate) fn isolators(&self) -> Vec<PolicyRef> {
        let enforced = self.enforced();
        let counts = |policy: &&ResolvedPolicy| !enforced || policy.mode == Mode::Enforce;
        self.policies
            .iter()
            .filter(counts)
            .map(|policy| policy.policy.clone())
            .collect()
    }

    /// The terms that its rules ask for.
    pub(crate) fn terms(&self) -> BTreeSet<TermId> {
        let mut terms = BTreeSet::new();
        for rule in self.policies.iter().flat_map(|policy| &policy.rules) {
            for peer in rule.peers.iter().flatten() {
                match peer {
                    ResolvedPeer::Pods(term) => _ = terms.insert(*term),
                    ResolvedPeer::Block { cidr, except } => {
                        terms.insert(*cidr);
                        terms.extend(except);
                    }
                    ResolvedPeer::Nothing => {}
                }
            }
            for port in rule.ports.iter().flatten() {
                match port {
                    ResolvedPort::OfPeer(_, numbers) => terms.extend(numbers.iter().flatten()),
                    ResolvedPort::Ranges(..) | ResolvedPort::Nothing => {}
                }
            }
        }
        terms
    }
}

/// The policies that isolate the pod in this direction, with their rules (SEMANTICS 1, 4, 6, 35).
pub(crate) fn isolating<'w>(
    world: &'w World,
    pod: &Pod,
    direction: Direction,
) -> Vec<(&'w NetworkPolicy, &'w [Rule])> {
    if pod.host_network {
        return Vec::new();
    }
    let rules = |policy: &'w NetworkPolicy| match direction {
        Direction::Ingress => policy.ingress.as_deref(),
        Direction::Egress => policy.egress.as_deref(),
    };
    let selecting = world
        .policies_of(&pod.namespace)
        .filter(|policy| policy.pod_selector.matches(&pod.labels));
    selecting
        .filter_map(|policy| Some((policy, rules(policy)?)))
        .collect()
}

/// What resolving needs beside the policy.
pub(crate) struct Context<'n> {
    /// Numbers the terms.
    pub(crate) numbers: &'n mut Numbers,
    /// Policies whose ipBlocks match nothing, because there are too many prefixes.
    pub(crate) blockless: &'n BTreeSet<PolicyRef>,
}

impl Context<'_> {
    fn policy(
        &mut self,
        policy: &NetworkPolicy,
        rules: &[Rule],
        pod: &Pod,
        direction: Direction,
    ) -> ResolvedPolicy {
        let name = PolicyRef {
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
        };
        let blocks = !self.blockless.contains(&name);
        let rules = rules
            .iter()
            .map(|rule| self.rule(rule, policy, pod, direction, blocks))
            .collect();
        ResolvedPolicy {
            mode: policy.mode,
            policy: name,
            rules,
        }
    }

    fn rule(
        &mut self,
        rule: &Rule,
        policy: &NetworkPolicy,
        pod: &Pod,
        direction: Direction,
        blocks: bool,
    ) -> ResolvedRule {
        let peers = match &rule.peers {
            Peers::All => None,
            Peers::Some(peers) => Some(
                peers
                    .iter()
                    .map(|peer| self.peer(peer, &policy.namespace, blocks))
                    .collect::<Vec<_>>(),
            ),
        };
        let ports = match &rule.ports {
            Ports::All => None,
            Ports::Some(ports) => Some(
                ports
                    .iter()
                    .map(|port| self.port(port, pod, direction, peers.as_deref()))
                    .collect(),
            ),
        };
        ResolvedRule { peers, ports }
    }

    fn peer(&mut self, peer: &Peer, namespace: &str, blocks: bool) -> ResolvedPeer {
        match peer {
            Peer::Pods { namespaces, pods } => {
                let scope = match namespaces {
                    None => Scope::Own(namespace.to_owned()),
                    Some(selector) => Scope::Selected(selector.clone()),
                };
                ResolvedPeer::Pods(self.numbers.term_id(&Term::Pods {
                    scope,
                    pods: pods.clone(),
                }))
            }
            Peer::Block { cidr, except } if blocks => {
                let cidr = self.numbers.term_id(&Term::Prefix(canonical(*cidr)));
                let holes = except
                    .iter()
                    .map(|hole| self.numbers.term_id(&Term::Prefix(canonical(*hole))));
                ResolvedPeer::Block {
                    cidr,
                    except: holes.collect(),
                }
            }
            Peer::Block { .. } | Peer::Nodes(_) | Peer::Everything | Peer::Nothing => ResolvedPeer::Nothing,
        }
    }

    /// A named port is the destination's (SEMANTICS 27): on ingress the isolated pod's, so its numbers are known here.
    fn port(
        &mut self,
        port: &PortMatch,
        pod: &Pod,
        direction: Direction,
        peers: Option<&[ResolvedPeer]>,
    ) -> ResolvedPort {
        match port {
            // SEMANTICS 28: another protocol is none that a rule can name.
            PortMatch::Protocol(p) if protocol::has_ports(*p) => {
                ResolvedPort::Ranges(*p, vec![(0, u16::MAX)])
            }
            PortMatch::Range {
                protocol,
                first,
                last,
            } if protocol::has_ports(*protocol) && first <= last => {
                ResolvedPort::Ranges(*protocol, vec![(*first, *last)])
            }
            PortMatch::Named { protocol, name } if protocol::has_ports(*protocol) => match direction {
                Direction::Ingress => {
                    let numbers: BTreeSet<u16> = named_ports(pod, *protocol, name).collect();
                    ResolvedPort::Ranges(*protocol, numbers.into_iter().map(|n| (n, n)).collect())
                }
                Direction::Egress => {
                    let mut term = |peer| {
                        let (protocol, name) = (*protocol, name.clone());
                        self.numbers.term_id(&Term::Port { peer, protocol, name })
                    };
                    let terms = match peers {
                        None => vec![Some(term(None))],
                        Some(peers) => peers
                            .iter()
                            .map(|peer| anchor(peer).map(|a| term(Some(a))))
                            .collect(),
                    };
                    ResolvedPort::OfPeer(*protocol, terms)
                }
            },
            PortMatch::Protocol(_)
            | PortMatch::Range { .. }
            | PortMatch::Named { .. }
            | PortMatch::Everything
            | PortMatch::Nothing => ResolvedPort::Nothing,
        }
    }
}

/// The term that a peer must match at least.
fn anchor(peer: &ResolvedPeer) -> Option<TermId> {
    match peer {
        ResolvedPeer::Pods(term) | ResolvedPeer::Block { cidr: term, .. } => Some(*term),
        ResolvedPeer::Nothing => None,
    }
}
