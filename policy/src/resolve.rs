//! Which policies act on a pod, and what their rules mean for it.

use std::collections::BTreeSet;

use vethwall_common::{Direction, protocol};

use crate::{
    meaning::{Level, ResolvedPeer, ResolvedPolicy, ResolvedPort, ResolvedRule, SlotMeaning},
    model::{
        ClusterNetworkPolicy, ClusterRule, Mode, NetworkPolicy, Peer, Peers, Pod, PolicyRef, PortMatch,
        Ports, Rule, RuleAction, Tier, canonical,
    },
    numbers::Numbers,
    term::{Scope, Term, TermId},
    terms::named_ports,
    world::World,
};

impl SlotMeaning {
    /// What decides for the pod in this direction.
    pub(crate) fn of(world: &World, pod: &Pod, direction: Direction, context: &mut Context<'_>) -> Self {
        let policies = acting(world, pod, direction);
        Self {
            direction,
            policies: policies
                .iter()
                .map(|policy| context.policy(policy, pod, direction))
                .collect(),
            closed: false,
        }
    }
}

/// A policy that acts on a pod in a direction, with its rules for it.
#[derive(Clone, Copy)]
pub(crate) enum Acting<'w> {
    /// It isolates the pod.
    Namespaced(&'w NetworkPolicy, Mode, &'w [Rule]),
    /// It has rules for the pod.
    Cluster(&'w ClusterNetworkPolicy, Mode, &'w [ClusterRule]),
}

impl Acting<'_> {
    pub(crate) fn level(&self) -> Level {
        match self {
            Self::Namespaced(..) => Level::Namespace,
            Self::Cluster(policy, ..) => match policy.tier {
                Tier::Admin => Level::Admin,
                Tier::Baseline => Level::Baseline,
            },
        }
    }

    pub(crate) fn name(&self) -> PolicyRef {
        match self {
            Self::Namespaced(policy, ..) => PolicyRef {
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
            },
            Self::Cluster(policy, ..) => PolicyRef {
                namespace: String::new(),
                name: policy.name.clone(),
            },
        }
    }
}

/// The policies that act on the pod in this direction, in the order of [`SlotMeaning::policies`] (SEMANTICS 1, 4, 6, 35;
/// CNP 1, 3).
pub(crate) fn acting<'w>(world: &'w World, pod: &Pod, direction: Direction) -> Vec<Acting<'w>> {
    if pod.host_network {
        return Vec::new();
    }
    let isolating = world.policies_of(&pod.namespace).filter_map(|policy| {
        let rules = match direction {
            Direction::Ingress => policy.ingress.as_deref(),
            Direction::Egress => policy.egress.as_deref(),
        };
        let selects = policy.pod_selector.matches(&pod.labels);
        rules
            .filter(|_| selects)
            .map(|rules| Acting::Namespaced(policy, world.mode_of(policy.mode), rules))
    });
    let labels = world.namespace_labels(&pod.namespace);
    let cluster = world.cluster_policies().filter_map(|policy| {
        let rules = match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        let selects =
            !rules.is_empty() && policy.namespaces.matches(&labels) && policy.pods.matches(&pod.labels);
        selects.then(|| Acting::Cluster(policy, world.mode_of(policy.mode), rules))
    });
    let mut all: Vec<_> = isolating.chain(cluster).collect();
    all.sort_by_cached_key(|acting| match acting {
        Acting::Namespaced(policy, mode, _) => (acting.level(), 0, *mode, policy.name.clone()),
        // Equal priorities are ordered by name.
        Acting::Cluster(policy, ..) => (
            acting.level(),
            policy.priority,
            Mode::Enforce,
            policy.name.clone(),
        ),
    });
    all
}

/// What resolving needs beside the policy.
pub(crate) struct Context<'n> {
    /// Numbers the terms.
    pub(crate) numbers: &'n mut Numbers,
    /// Policies whose prefixes are not looked at, because there are too many: what allows by them allows nothing, what
    /// denies by them denies everything, and what passes on by them lets nothing after it in its tier accept.
    pub(crate) blockless: &'n BTreeSet<PolicyRef>,
}

/// What all rules of a policy share.
#[derive(Clone, Copy)]
struct Of<'p> {
    pod: &'p Pod,
    /// The namespace that a peer without a namespaceSelector means.
    namespace: &'p str,
    direction: Direction,
    blocks: bool,
}

impl Context<'_> {
    fn policy(&mut self, acting: &Acting<'_>, pod: &Pod, direction: Direction) -> ResolvedPolicy {
        let policy = acting.name();
        let of = Of {
            pod,
            namespace: &policy.namespace,
            direction,
            blocks: !self.blockless.contains(&policy),
        };
        let (mode, rules) = match acting {
            Acting::Namespaced(_, mode, rules) => {
                let rules = rules
                    .iter()
                    .map(|rule| self.rule(RuleAction::Accept, &rule.peers, &rule.ports, of));
                (*mode, rules.collect())
            }
            Acting::Cluster(_, mode, rules) => {
                let rules = rules
                    .iter()
                    .map(|rule| self.rule(rule.action, &rule.peers, &rule.ports, of));
                (*mode, rules.collect())
            }
        };
        ResolvedPolicy {
            level: acting.level(),
            mode,
            policy: policy.clone(),
            rules,
        }
    }

    fn rule(&mut self, action: RuleAction, peers: &Peers, ports: &Ports, of: Of<'_>) -> ResolvedRule {
        let peers = match peers {
            Peers::All => None,
            Peers::Some(peers) => Some(peers.iter().map(|peer| self.peer(peer, of)).collect::<Vec<_>>()),
        };
        let ports = match ports {
            Ports::All => None,
            Ports::Some(ports) => Some(
                ports
                    .iter()
                    .map(|port| self.port(port, peers.as_deref(), of))
                    .collect(),
            ),
        };
        ResolvedRule { action, peers, ports }
    }

    fn peer(&mut self, peer: &Peer, of: Of<'_>) -> ResolvedPeer {
        match peer {
            Peer::Pods { namespaces, pods } => {
                let scope = match namespaces {
                    None => Scope::Own(of.namespace.to_owned()),
                    Some(selector) => Scope::Selected(selector.clone()),
                };
                ResolvedPeer::Pods(self.numbers.term_id(&Term::Pods {
                    scope,
                    pods: pods.clone(),
                }))
            }
            Peer::Nodes(selector) => {
                ResolvedPeer::Nodes(self.numbers.term_id(&Term::Nodes(selector.clone())))
            }
            Peer::Block { cidr, except } if of.blocks => {
                let cidr = self.numbers.term_id(&Term::Prefix(canonical(*cidr)));
                let holes = except
                    .iter()
                    .map(|hole| self.numbers.term_id(&Term::Prefix(canonical(*hole))));
                ResolvedPeer::Block {
                    cidr,
                    except: holes.collect(),
                }
            }
            // Neither nothing nor everything: a Pass that skips a denial would open, and so would one that does not.
            Peer::Block { .. } => ResolvedPeer::Perhaps,
            Peer::Nothing => ResolvedPeer::Nothing,
            Peer::Everything => ResolvedPeer::Everything,
        }
    }

    /// A named port is the destination's (SEMANTICS 27): on ingress the pod's own, so its numbers are known here.
    fn port(&mut self, port: &PortMatch, peers: Option<&[ResolvedPeer]>, of: Of<'_>) -> ResolvedPort {
        match port {
            // SEMANTICS 28: another protocol is none that a rule can name.
            PortMatch::Protocol(protocol)
            | PortMatch::Range { protocol, .. }
            | PortMatch::Named { protocol, .. }
                if !protocol::has_ports(*protocol) =>
            {
                ResolvedPort::Nothing
            }
            PortMatch::Protocol(p) => ResolvedPort::Ranges(*p, vec![(0, u16::MAX)]),
            PortMatch::Range {
                protocol,
                first,
                last,
            } if first <= last => ResolvedPort::Ranges(*protocol, vec![(*first, *last)]),
            PortMatch::Named { protocol, name } => match of.direction {
                Direction::Ingress => {
                    let numbers: BTreeSet<u16> = named_ports(of.pod, *protocol, name).collect();
                    ResolvedPort::Ranges(*protocol, numbers.into_iter().map(|n| (n, n)).collect())
                }
                Direction::Egress => {
                    let mut term = |peer| {
                        let (protocol, name) = (*protocol, name.clone());
                        self.numbers.term_id(&Term::Port { peer, protocol, name })
                    };
                    let terms = match peers {
                        None => vec![Some(term(None))],
                        Some(peers) => peers.iter().map(|peer| anchor(peer).map(&mut term)).collect(),
                    };
                    ResolvedPort::OfPeer(*protocol, terms)
                }
            },
            PortMatch::Everything => ResolvedPort::Everything,
            PortMatch::Range { .. } | PortMatch::Nothing => ResolvedPort::Nothing,
        }
    }
}

/// The term that a peer must match at least, if it is one that can be a pod.
fn anchor(peer: &ResolvedPeer) -> Option<Option<TermId>> {
    match peer {
        ResolvedPeer::Pods(term) | ResolvedPeer::Block { cidr: term, .. } => Some(Some(*term)),
        ResolvedPeer::Everything | ResolvedPeer::Perhaps => Some(None),
        ResolvedPeer::Nodes(_) | ResolvedPeer::Nothing => None,
    }
}
