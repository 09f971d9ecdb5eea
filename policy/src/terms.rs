//! Terms and signatures: what policies of this node can tell of an address.
//!
//! A *term* is one question that some policy of a local pod asks of a peer: is it a pod that these selectors select,
//! does this prefix contain it, which number has its port of this name. The *signature* of an address is the set of
//! terms it answers. Whatever a slot says of a peer depends on its signature alone, so one identity stands for all
//! addresses of one signature, however their labels differ.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    model::{Labels, Pod, Selector},
    numbers::Numbers,
};

/// Number of a term, stable as long as some policy uses it.
pub(crate) type TermId = u32;

/// A question about a peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Term {
    /// It is a pod that the selector selects, in one of these namespaces.
    Pods {
        /// Which namespaces.
        scope: Scope,
        /// Which pods of theirs.
        pods: Selector,
    },
    /// The prefix contains it.
    Prefix(IpNet),
    /// It is a pod, matches `peer`, and has a port of this name and protocol; the answer is the number. `peer` keeps
    /// pods apart only where a policy could tell them apart by it: nearly every pod has a port called `http`.
    Port {
        /// What else it must match: a [`Term::Pods`] or [`Term::Prefix`]; `None` is every pod.
        peer: Option<TermId>,
        /// IP protocol number.
        protocol: u8,
        /// The port's name.
        name: String,
    },
}

/// Namespaces of a pod peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// The policy's own.
    Own(String),
    /// Those that the selector selects.
    Selected(Selector),
}

impl Scope {
    /// Whether a namespace is one of these.
    pub(crate) fn contains(&self, name: &str, labels: &Labels) -> bool {
        match self {
            Self::Own(own) => own == name,
            Self::Selected(selector) => selector.matches(labels),
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods {
                scope: Scope::Own(namespace),
                pods,
            } => write!(f, "pods {pods} in {namespace}"),
            Self::Pods {
                scope: Scope::Selected(selector),
                pods,
            } => {
                write!(f, "pods {pods} in namespaces {selector}")
            }
            Self::Prefix(prefix) => write!(f, "{prefix}"),
            Self::Port { protocol, name, .. } => write!(f, "port {name} of protocol {protocol}"),
        }
    }
}

/// What an address answers: terms, sorted; for [`Term::Port`] with the port's number, else with 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Signature(Vec<(TermId, u16)>);

impl Signature {
    /// Whether nothing is known of the address.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it answers the term.
    pub(crate) fn has(&self, term: TermId) -> bool {
        self.numbers(term).next().is_some()
    }

    /// The port numbers with which it answers the term.
    pub(crate) fn numbers(&self, term: TermId) -> impl Iterator<Item = u16> + '_ {
        let from = self.0.partition_point(|(id, _)| *id < term);
        self.0[from..]
            .iter()
            .take_while(move |(id, _)| *id == term)
            .map(|(_, number)| *number)
    }

    /// The terms it answers.
    pub(crate) fn terms(&self) -> impl Iterator<Item = TermId> + '_ {
        self.0.iter().map(|(term, _)| *term)
    }

    fn from_set(set: BTreeSet<(TermId, u16)>) -> Self {
        Self(set.into_iter().collect())
    }
}

/// The terms in use, arranged for matching.
#[derive(Debug, Default)]
pub(crate) struct Terms {
    pods: Vec<(TermId, Scope, Selector)>,
    prefixes: BTreeMap<IpNet, TermId>,
    /// Lengths in `prefixes`, by family (v4 first): each needs one look-up for an address, however many prefixes.
    lengths: [BTreeSet<u8>; 2],
    ports: Vec<PortTerm>,
}

#[derive(Debug)]
struct PortTerm {
    id: TermId,
    peer: Option<TermId>,
    protocol: u8,
    name: String,
}

/// Selector terms that a namespace's labels leave possible.
pub(crate) struct Local<'t>(Vec<(TermId, &'t Selector)>);

/// What a pod matches by its labels and ports, whatever its address.
pub(crate) type PodTerms = BTreeSet<(TermId, u16)>;

impl Terms {
    /// Arranges these terms.
    pub(crate) fn new(used: &BTreeSet<TermId>, numbers: &Numbers) -> Self {
        let mut terms = Self::default();
        for &id in used {
            match numbers.term(id) {
                Some(Term::Pods { scope, pods }) => terms.pods.push((id, scope.clone(), pods.clone())),
                Some(Term::Prefix(prefix)) => {
                    terms.lengths[family(&prefix.addr())].insert(prefix.prefix_len());
                    terms.prefixes.insert(*prefix, id);
                }
                Some(Term::Port { peer, protocol, name }) => {
                    let (peer, protocol, name) = (*peer, *protocol, name.clone());
                    terms.ports.push(PortTerm {
                        id,
                        peer,
                        protocol,
                        name,
                    });
                }
                None => {}
            }
        }
        terms
    }

    /// All prefixes.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.prefixes.keys().copied()
    }

    /// The selector terms that pods of this namespace can match at all.
    pub(crate) fn in_namespace(&self, name: &str, labels: &Labels) -> Local<'_> {
        let possible = self
            .pods
            .iter()
            .filter(|(_, scope, _)| scope.contains(name, labels));
        Local(possible.map(|(id, _, selector)| (*id, selector)).collect())
    }

    /// What one of these namespace's pods matches at an address of its own (SEMANTICS 20: any of its addresses).
    pub(crate) fn of_pod(&self, local: &Local<'_>, pod: &Pod, address: IpAddr) -> PodTerms {
        self.of_pod_at(local, pod, &self.around(address).collect())
    }

    /// Signature of a pod that has no address yet.
    pub(crate) fn signature_of_pod(&self, local: &Local<'_>, pod: &Pod) -> Signature {
        Signature::from_set(self.of_pod_at(local, pod, &BTreeSet::new()))
    }

    fn of_pod_at(&self, local: &Local<'_>, pod: &Pod, around: &BTreeSet<TermId>) -> PodTerms {
        let matching = local
            .0
            .iter()
            .filter(|(_, selector)| selector.matches(&pod.labels));
        let mut found: PodTerms = matching.map(|(id, _)| (*id, 0)).collect();
        for term in &self.ports {
            let reached = match term.peer {
                None => true,
                Some(peer) => found.contains(&(peer, 0)) || around.contains(&peer),
            };
            if reached {
                found.extend(named_ports(pod, term.protocol, &term.name).map(|number| (term.id, number)));
            }
        }
        found
    }

    /// The prefixes that contain an address.
    fn around(&self, address: IpAddr) -> impl Iterator<Item = TermId> + '_ {
        self.containing(address, u8::MAX)
    }

    /// The prefixes of at most this length that contain an address.
    fn containing(&self, address: IpAddr, longest: u8) -> impl Iterator<Item = TermId> + '_ {
        let lengths = self.lengths[family(&address)].range(..=longest);
        lengths.filter_map(move |length| {
            let net = IpNet::new(address, *length).ok()?.trunc();
            self.prefixes.get(&net).copied()
        })
    }

    /// Signature of an address whose owner matches `pod` by selectors.
    pub(crate) fn signature(&self, address: IpAddr, mut pod: PodTerms) -> Signature {
        pod.extend(self.around(address).map(|id| (id, 0)));
        Signature::from_set(pod)
    }

    /// Signature of the addresses of a prefix that no longer prefix and no pod claims.
    pub(crate) fn signature_of_prefix(&self, net: &IpNet) -> Signature {
        let around = self.containing(net.addr(), net.prefix_len());
        Signature::from_set(around.map(|id| (id, 0)).collect())
    }
}

/// Numbers of the pod's ports of this name and protocol (SEMANTICS 27).
pub(crate) fn named_ports(pod: &Pod, protocol: u8, name: &str) -> impl Iterator<Item = u16> {
    let same = move |port: &&crate::model::ContainerPort| {
        port.protocol == protocol && port.name.as_deref() == Some(name) && port.port != 0
    };
    pod.ports.iter().filter(same).map(|port| port.port)
}

fn family(address: &IpAddr) -> usize {
    usize::from(address.is_ipv6())
}
