//! What policies mean for one pod in one direction, with terms in place of selectors and prefixes.
//!
//! The compiler and `explain` both ask this, so that they can not disagree.

use std::{collections::BTreeSet, sync::Arc};

use vethwall_common::Direction;

use crate::{
    model::{Endpoint, Mode, PolicyRef, RuleAction},
    term::TermId,
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
    /// Prefixes that are not looked at: it may match anybody.
    Perhaps,
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

/// A local interface with what decides in each direction.
pub(crate) type Subject<'w> = (&'w Endpoint, Arc<[SlotMeaning; 2]>);

impl SlotMeaning {
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
                    ResolvedPeer::Nothing | ResolvedPeer::Everything | ResolvedPeer::Perhaps => {}
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
