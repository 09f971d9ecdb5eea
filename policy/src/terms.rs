//! The terms in use, and what pods, nodes and addresses answer to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    model::{Labels, Pod, Selector},
    numbers::Numbers,
    signature::Signature,
    term::{Answers, Term, TermId},
};

/// The terms in use, arranged for matching.
#[derive(Debug, Default)]
pub(crate) struct Terms {
    /// [`Term::Pods`].
    pods: Vec<(TermId, Arc<Term>)>,
    /// [`Term::Nodes`].
    nodes: Vec<(TermId, Arc<Term>)>,
    /// [`Term::Port`].
    ports: Vec<(TermId, Arc<Term>)>,
    prefixes: BTreeMap<IpNet, TermId>,
    /// Lengths in `prefixes`: each needs one look-up for an address, however many prefixes.
    lengths: BTreeSet<u8>,
}

/// Selector terms that a namespace's labels leave possible.
pub(crate) struct Local<'t>(Vec<(TermId, &'t Selector)>);

impl Local<'_> {
    /// Whether none is possible.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Terms {
    /// Arranges these terms.
    pub(crate) fn new(used: &BTreeSet<TermId>, numbers: &Numbers) -> Self {
        let mut terms = Self::default();
        for &id in used {
            let Some(term) = numbers.term(id) else { continue };
            match &**term {
                Term::Pods { .. } => terms.pods.push((id, Arc::clone(term))),
                Term::Nodes(_) => terms.nodes.push((id, Arc::clone(term))),
                Term::Port { .. } => terms.ports.push((id, Arc::clone(term))),
                Term::Prefix(prefix) => {
                    terms.lengths.insert(prefix.prefix_len());
                    terms.prefixes.insert(*prefix, id);
                }
            }
        }
        terms
    }

    /// All prefixes.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.prefixes.keys().copied()
    }

    /// Whether both have the same prefixes, with the same numbers.
    pub(crate) fn same_prefixes(&self, other: &Self) -> bool {
        self.prefixes == other.prefixes
    }

    /// Whether named ports of peers are asked for. What a pod answers then depends on its addresses too.
    pub(crate) fn asks_for_ports(&self) -> bool {
        !self.ports.is_empty()
    }

    /// The selector terms that pods of this namespace can match at all.
    pub(crate) fn in_namespace(&self, name: &str, labels: &Labels) -> Local<'_> {
        let possible = self.pods.iter().filter_map(|(id, term)| match &**term {
            Term::Pods { scope, pods } if scope.contains(name, labels) => Some((*id, pods)),
            Term::Pods { .. } | Term::Nodes(_) | Term::Prefix(_) | Term::Port { .. } => None,
        });
        Local(possible.collect())
    }

    /// What one of these namespace's pods answers at an address of its own (SEMANTICS 20: any of its addresses), by its
    /// labels and ports.
    pub(crate) fn of_pod(&self, local: &Local<'_>, pod: &Pod, address: Option<IpAddr>) -> Answers {
        let matching = local
            .0
            .iter()
            .filter(|(_, selector)| selector.matches(&pod.labels));
        let mut found: Answers = matching.map(|(id, _)| (*id, 0)).collect();
        let around: BTreeSet<TermId> = match address {
            Some(address) if self.asks_for_ports() => self.around(address).collect(),
            Some(_) | None => BTreeSet::new(),
        };
        for (id, term) in &self.ports {
            let Term::Port { peer, protocol, name } = &**term else {
                continue;
            };
            let reached = match peer {
                None => true,
                Some(peer) => found.contains(&(*peer, 0)) || around.contains(peer),
            };
            if reached {
                found.extend(named_ports(pod, *protocol, name).map(|number| (*id, number)));
            }
        }
        found
    }

    /// What a node with these labels answers.
    pub(crate) fn of_node(&self, labels: &Labels) -> Answers {
        let matching = self.nodes.iter().filter_map(|(id, term)| match &**term {
            Term::Nodes(selector) => selector.matches(labels).then_some((*id, 0)),
            Term::Pods { .. } | Term::Prefix(_) | Term::Port { .. } => None,
        });
        matching.collect()
    }

    /// The prefixes that contain an address.
    fn around(&self, address: IpAddr) -> impl Iterator<Item = TermId> + '_ {
        self.containing(address, u8::MAX)
    }

    /// The prefixes of at most this length that contain an address.
    fn containing(&self, address: IpAddr, longest: u8) -> impl Iterator<Item = TermId> + '_ {
        let lengths = self.lengths.range(..=longest);
        lengths.filter_map(move |length| {
            let net = IpNet::new(address, *length).ok()?.trunc();
            self.prefixes.get(&net).copied()
        })
    }

    /// The same signature with the prefixes around the address.
    pub(crate) fn at(&self, address: IpAddr, owner: Signature) -> Signature {
        owner.with(self.around(address))
    }

    /// The same signature with the prefixes around this one, itself included.
    pub(crate) fn at_prefix(&self, net: &IpNet, owner: Signature) -> Signature {
        owner.with(self.containing(net.addr(), net.prefix_len()))
    }
}

/// Numbers of the pod's ports of this name and protocol (SEMANTICS 27).
pub(crate) fn named_ports(pod: &Pod, protocol: u8, name: &str) -> impl Iterator<Item = u16> {
    let same = move |port: &&crate::model::ContainerPort| {
        port.protocol == protocol && port.name.as_deref() == Some(name) && port.port != 0
    };
    pod.ports.iter().filter(same).map(|port| port.port)
}
