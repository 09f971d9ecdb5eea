//! Terms: what policies of this node ask of an address.
//!
//! A *term* is one question that some policy of a local pod asks of a peer: is it a pod that these selectors select, a
//! node that this selector selects, does this prefix contain it, which number has its port of this name. What an address
//! answers is its [`crate::signature::Signature`].

use std::{collections::BTreeSet, fmt};

use ipnet::IpNet;

use crate::model::{Labels, Selector};

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
    /// It is the address of a node that the selector selects.
    Nodes(Selector),
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
            Self::Nodes(selector) => write!(f, "nodes {selector}"),
            Self::Prefix(prefix) => write!(f, "{prefix}"),
            Self::Port { protocol, name, .. } => write!(f, "port {name} of protocol {protocol}"),
        }
    }
}

/// Terms that somebody answers, sorted; for [`Term::Port`] with the port's number, else with 0.
pub(crate) type Answers = BTreeSet<(TermId, u16)>;
