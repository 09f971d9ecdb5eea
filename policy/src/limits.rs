//! How much fits into the maps, and what happens beyond: the policy at fault allows nothing, and says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use vethwall_common::{Direction, maps};

use crate::{
    compiled::Problem,
    encode::Pages,
    meaning::{Level, SlotMeaning, Subject},
    model::{Endpoint, Peer, Peers, PolicyRef, canonical},
    world::World,
};

/// Entries that one desired state may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of [`maps::VERDICTS`].
    pub verdicts: usize,
    /// Of [`maps::PORTS`].
    pub port_pages: usize,
    /// Of [`maps::ADDRESSES`]; addresses of nodes and of this node's pods have an entry in any case.
    pub addresses: usize,
    /// Prefixes that policies name.
    pub prefixes: usize,
    /// Of `verdicts` and of `port_pages`, the share that the policies of one namespace may take: one in so many.
    pub namespaces: usize,
}

impl Default for Limits {
    /// Half of each map: while one policy takes another's place, both stand.
    fn default() -> Self {
        let half = |entries: u32| entries as usize / 2;
        Self {
            verdicts: half(maps::MAX_VERDICTS),
            port_pages: half(maps::MAX_PORT_PAGES),
            addresses: half(maps::MAX_ADDRESSES),
            prefixes: half(maps::MAX_PREFIXES),
            namespaces: 4,
        }
    }
}

/// What is still free, while slots are written.
pub(crate) struct Room<'l> {
    limits: &'l Limits,
    verdicts: usize,
    sets: BTreeSet<Arc<Pages>>,
    port_pages: usize,
    /// Verdicts and port pages by namespace.
    namespaces: BTreeMap<String, (usize, usize)>,
}

impl<'l> Room<'l> {
    pub(crate) const fn new(limits: &'l Limits) -> Self {
        Self {
            limits,
            verdicts: 0,
            sets: BTreeSet::new(),
            port_pages: 0,
            namespaces: BTreeMap::new(),
        }
    }

    /// Takes what a slot needs, if there is as much: on the node, and for the slot's namespace. Slots that only
    /// ClusterNetworkPolicies fill belong to no namespace.
    pub(crate) fn take(&mut self, slot: &SlotMeaning, verdicts: usize, sets: &BTreeSet<Arc<Pages>>) -> bool {
        let new: Vec<_> = sets.iter().filter(|set| !self.sets.contains(*set)).collect();
        let pages: usize = new.iter().map(|set| set.len()).sum();
        let namespace = slot
            .policies
            .iter()
            .find(|policy| policy.level == Level::Namespace)
            .map(|policy| policy.policy.namespace.as_str());
        let share = self.limits.namespaces.max(1);
        let (before, before_pages) = namespace
            .and_then(|namespace| self.namespaces.get(namespace))
            .copied()
            .unwrap_or_default();
        let own = (before + verdicts, before_pages + pages);
        let fits = self.verdicts + verdicts <= self.limits.verdicts
            && self.port_pages + pages <= self.limits.port_pages
            && (namespace.is_none()
                || (own.0 <= self.limits.verdicts / share && own.1 <= self.limits.port_pages / share));
        if fits {
            self.verdicts += verdicts;
            self.port_pages += pages;
            self.sets.extend(new.into_iter().map(Arc::clone));
            if let Some(namespace) = namespace {
                self.namespaces.insert(namespace.to_owned(), own);
            }
        }
        fits
    }
}

/// The policies whose prefixes must not be looked at so that the others' fit: those with the most.
pub(crate) fn too_many_prefixes(
    world: &World,
    subjects: &[Subject<'_>],
    limit: usize,
    problems: &mut Vec<Problem>,
) -> BTreeSet<PolicyRef> {
    let slots = subjects.iter().flat_map(|(_, slots)| slots.iter());
    let used: BTreeSet<&PolicyRef> = slots
        .flat_map(|slot| &slot.policies)
        .map(|policy| &policy.policy)
        .collect();
    let namespaced = world.policies().map(|policy| {
        let name = PolicyRef {
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
        };
        let rules = policy.ingress.iter().chain(&policy.egress).flatten();
        (name, prefixes(rules.map(|rule| &rule.peers)))
    });
    let cluster = world.cluster_policies().map(|policy| {
        let name = PolicyRef {
            namespace: String::new(),
            name: policy.name.clone(),
        };
        let rules = policy.ingress.iter().chain(&policy.egress);
        (name, prefixes(rules.map(|rule| &rule.peers)))
    });
    let mut order: Vec<_> = namespaced
        .chain(cluster)
        .filter(|(name, _)| used.contains(name))
        .collect();
    order.sort_by(|a, b| (a.1.len(), &a.0).cmp(&(b.1.len(), &b.0)));
    let (mut kept, mut blockless) = (BTreeSet::new(), BTreeSet::new());
    for (policy, prefixes) in order {
        let new = prefixes.iter().filter(|prefix| !kept.contains(*prefix)).count();
        if kept.len() + new <= limit {
            kept.extend(prefixes);
        } else {
            let message = format!(
                "the address blocks of {policy} allow nothing, and deny everything where they deny: policies on this \
                 node name more than {limit} prefixes"
            );
            problems.push(Problem {
                code: "LIM002",
                message,
            });
            blockless.insert(policy);
        }
    }
    blockless
}

fn prefixes<'p>(peers: impl Iterator<Item = &'p Peers>) -> BTreeSet<IpNet> {
    let peers = peers.flat_map(|peers| match peers {
        Peers::All => [].as_slice(),
        Peers::Some(peers) => peers.as_slice(),
    });
    let blocks = peers.flat_map(|peer| match peer {
        Peer::Block { cidr, except } => [cidr].into_iter().chain(except).copied().collect(),
        Peer::Pods { .. } | Peer::Nodes(_) | Peer::Everything | Peer::Nothing => Vec::new(),
    });
    blocks.map(canonical).collect()
}

pub(crate) fn too_many_addresses(wanted: usize, limit: usize) -> Problem {
    let message = format!(
        "{wanted} addresses match selectors of policies on this node, {limit} fit: selectors do not match the others, \
         and what denies pods denies the others too"
    );
    Problem {
        code: "LIM003",
        message,
    }
}

pub(crate) fn too_many_entries(direction: Direction, policy: &PolicyRef) -> Problem {
    let message = format!(
        "the {} rules of {policy} allow nothing: they need more map entries than there are, or than one namespace may \
         have",
        direction.name()
    );
    Problem {
        code: "LIM001",
        message,
    }
}

pub(crate) fn closed(meaning: &SlotMeaning) -> Problem {
    let message = format!(
        "{} of the pods that {} select is denied: the rules need more map entries than there are",
        meaning.direction.name(),
        names(meaning)
    );
    Problem {
        code: "LIM006",
        message,
    }
}

pub(crate) fn no_slot(meaning: &SlotMeaning) -> Problem {
    let message = format!(
        "{} of the pods that {} select is denied: this node has no policy slot left",
        meaning.direction.name(),
        names(meaning)
    );
    Problem {
        code: "LIM004",
        message,
    }
}

pub(crate) fn no_index(endpoint: &Endpoint) -> Problem {
    let (namespace, pod) = (&endpoint.namespace, &endpoint.pod);
    let message = format!("{namespace}/{pod} stays closed: this node has no endpoint number left");
    Problem {
        code: "LIM005",
        message,
    }
}

fn names(meaning: &SlotMeaning) -> String {
    let names: Vec<_> = meaning
        .policies
        .iter()
        .map(|policy| policy.policy.to_string())
        .collect();
    if names.is_empty() {
        "no policies".to_owned()
    } else {
        names.join(", ")
    }
}
