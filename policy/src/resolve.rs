//! Which policies act on a pod, and what their rules mean for it.
//!
//! The compiler and `explain` both walk what this module returns, so that they can not disagree.

use std::collections::BTreeSet;

use vethwall_common::{Direction, protocol};

use crate::{
    model::{
        ClusterNetworkPolicy, ClusterRule, Mode, NetworkPolicy, Peer, Peers, Pod, PolicyRef, PortMatch,
        Ports, Rule, RuleAction, Tier, canonical,
    },
    numbers::Numbers,
    terms::{Scope, Term, TermId, named_ports},
    world::World,
};

/// Everything that decides in one direction of a pod; pods that agree in this share a slot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SlotMeaning {
    /// Which way.
    pub(crate) direction: Direction,
    /// The policies that act on the pod, level by level. ClusterNetworkPolicies stand in the order in which they are
    /// asked; of NetworkPolicies those in force first, then the audited ones, each by name.
    pub(crate) policies: Vec<ResolvedPolicy>,
    /// A limit was exceeded: everything is denied instead.
    pub(crate) closed: bool,
}

/// Where a policy stands, in the order of evaluation (CNP 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// ClusterNetworkPolicies of the Admin tier.
    Admin,
    /// NetworkPolicies.
    Namespace,
    /// ClusterNetworkPolicies of the Baseline tier.
    Baseline,
}

/// A policy, in one direction, for one pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ResolvedPolicy {
    /// Where it stands.
    pub(crate) level: Level,
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
    /// What it does; a NetworkPolicy's rules accept.
    pub(crate) action: RuleAction,
    /// `None` is everybody.
    pub(crate) peers: Option<Vec<ResolvedPeer>>,
    /// `None` is every port of every protocol.
    pub(crate) ports: Option<Vec<ResolvedPort>>,
}

/// A peer as terms.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ResolvedPeer {
    /// Selectors of pods.
    Pods(TermId),
    /// A selector of nodes.
    Nodes(TermId),
    /// A prefix and the holes in it.
    Block {
        /// The prefix.
        cidr: TermId,
        /// The holes.
        except: Vec<TermId>,
    },
    /// Matches nothing.
    Nothing,
    /// Matches everything.
    Everything,
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
    /// Matches every port of every protocol.
    Everything,
}

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

    /// Whether NetworkPolicies isolate the pod: those in force, or with `shadow` the audited ones too.
    pub(crate) fn isolated(&self, shadow: bool) -> bool {
        self.policies
            .iter()
            .any(|policy| policy.level == Level::Namespace && (shadow || policy.mode == Mode::Enforce))
    }

    /// The NetworkPolicies of a mode, whose isolation a denial stems from.
    pub(crate) fn isolators(&self, mode: Mode) -> Vec<PolicyRef> {
        self.policies
            .iter()
            .filter(|policy| policy.level == Level::Namespace && policy.mode == mode)
            .map(|policy| policy.policy.clone())
            .collect()
    }

    /// Where the policies of a level begin.
    pub(crate) fn first(&self, level: Level) -> usize {
        self.policies.partition_point(|policy| policy.level < level)
    }

    /// The terms that its rules ask for.
    pub(crate) fn terms(&self) -> BTreeSet<TermId> {
        let mut terms = BTreeSet::new();
        for rule in self.policies.iter().flat_map(|policy| &policy.rules) {
            for peer in rule.peers.iter().flatten() {
                match peer {
                    ResolvedPeer::Pods(term) | ResolvedPeer::Nodes(term) => _ = terms.insert(*term),
                    ResolvedPeer::Block { cidr, except } => {
                        terms.insert(*cidr);
                        terms.extend(except);
                    }
                    ResolvedPeer::Nothing | ResolvedPeer::Everything => {}
                }
            }
            for port in rule.ports.iter().flatten() {
                match port {
                    ResolvedPort::OfPeer(_, numbers) => terms.extend(numbers.iter().flatten()),
                    ResolvedPort::Ranges(..) | ResolvedPort::Nothing | ResolvedPort::Everything => {}
                }
            }
        }
        terms
    }

    /// Whether some rule takes something from pods that it selects: then it matters who is *not* known.
    pub(crate) fn takes_from_pods(&self) -> bool {
        let of_pods = |rule: &&ResolvedRule| {
            let peers = rule.peers.iter().flatten();
            let ports = rule.ports.iter().flatten();
            peers
                .into_iter()
                .any(|peer| matches!(peer, ResolvedPeer::Pods(_)))
                || ports
                    .into_iter()
                    .any(|port| matches!(port, ResolvedPort::OfPeer(..)))
        };
        let rules = self.policies.iter().flat_map(|policy| &policy.rules);
        rules
            .filter(|rule| rule.action != RuleAction::Accept)
            .any(|rule| of_pods(&rule))
    }
}

/// A policy that acts on a pod in a direction, with its rules for it.
#[derive(Clone, Copy)]
pub(crate) enum Acting<'w> {
    /// It isolates the pod.
    Namespaced(&'w NetworkPolicy, &'w [Rule]),
    /// It has rules for the pod.
    Cluster(&'w ClusterNetworkPolicy, &'w [ClusterRule]),
}

impl Acting<'_> {
    pub(crate) fn level(&self) -> Level {
        match self {
            Self::Namespaced(..) => Level::Namespace,
            Self::Cluster(policy, _) => match policy.tier {
                Tier::Admin => Level::Admin,
                Tier::Baseline => Level::Baseline,
            },
        }
    }

    pub(crate) fn name(&self) -> PolicyRef {
        match self {
            Self::Namespaced(policy, _) => PolicyRef {
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
            },
            Self::Cluster(policy, _) => PolicyRef {
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
            .map(|rules| Acting::Namespaced(policy, rules))
    });
    let labels = world.namespace_labels(&pod.namespace);
    let cluster = world.cluster_policies().filter_map(|policy| {
        let rules = match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        let selects =
            !rules.is_empty() && policy.namespaces.matches(&labels) && policy.pods.matches(&pod.labels);
        selects.then_some(Acting::Cluster(policy, rules))
    });
    let mut all: Vec<_> = isolating.chain(cluster).collect();
    all.sort_by_cached_key(|acting| match acting {
        Acting::Namespaced(policy, _) => (acting.level(), 0, policy.mode, policy.name.clone()),
        // Equal priorities are ordered by name.
        Acting::Cluster(policy, _) => (
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
    /// denies by them denies everything.
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
            Acting::Namespaced(policy, rules) => {
                let rules = rules
                    .iter()
                    .map(|rule| self.rule(RuleAction::Accept, &rule.peers, &rule.ports, of));
                (policy.mode, rules.collect())
            }
            Acting::Cluster(policy, rules) => {
                let rules = rules
                    .iter()
                    .map(|rule| self.rule(rule.action, &rule.peers, &rule.ports, of));
                (policy.mode, rules.collect())
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
            Peers::Some(peers) => Some(
                peers
                    .iter()
                    .map(|peer| self.peer(action, peer, of))
                    .collect::<Vec<_>>(),
            ),
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

    fn peer(&mut self, action: RuleAction, peer: &Peer, of: Of<'_>) -> ResolvedPeer {
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
            Peer::Block { .. } => match action {
                RuleAction::Accept => ResolvedPeer::Nothing,
                RuleAction::Deny | RuleAction::Pass => ResolvedPeer::Everything,
            },
            Peer::Nothing => ResolvedPeer::Nothing,
            Peer::Everything => ResolvedPeer::Everything,
        }
    }

    /// A named port is the destination's (SEMANTICS 27): on ingress the pod's own, so its numbers are known here.
    fn port(&mut self, port: &PortMatch, peers: Option<&[ResolvedPeer]>, of: Of<'_>) -> ResolvedPort {
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
            PortMatch::Named { protocol, name } if protocol::has_ports(*protocol) => match of.direction {
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
            PortMatch::Protocol(_)
            | PortMatch::Range { .. }
            | PortMatch::Named { .. }
            | PortMatch::Nothing => ResolvedPort::Nothing,
        }
    }
}

/// The term that a peer must match at least, if it is one that can be a pod.
fn anchor(peer: &ResolvedPeer) -> Option<Option<TermId>> {
    match peer {
        ResolvedPeer::Pods(term) | ResolvedPeer::Block { cidr: term, .. } => Some(Some(*term)),
        ResolvedPeer::Everything => Some(None),
        ResolvedPeer::Nodes(_) | ResolvedPeer::Nothing => None,
    }
}
