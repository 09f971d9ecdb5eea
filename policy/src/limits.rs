//! How much fits into the maps, and what happens beyond: the policy at fault denies, and says so.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use vethwall_common::maps;

use crate::{
    compile::{Problem, Subject},
    model::{Endpoint, NetworkPolicy, Peer, Peers, PolicyRef, Rule, canonical},
    resolve::SlotMeaning,
    world::World,
};

/// Entries that one desired state may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of [`maps::VERDICTS`].
    pub verdicts: usize,
    /// Of [`maps::PORTS`].
    pub port_pages: usize,
    /// Of [`maps::ADDRESSES`].
    pub addresses: usize,
    /// Prefixes that policies name.
    pub prefixes: usize,
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
        }
    }
}

/// The policies whose ipBlocks must match nothing so that the others' fit: those with the most.
pub(crate) fn too_many_prefixes(
    world: &World,
    subjects: &[Subject<'_>],
    limit: usize,
    problems: &mut Vec<Problem>,
) -> BTreeSet<PolicyRef> {
    let slots = subjects.iter().flat_map(|(_, slots)| slots);
    let used: BTreeSet<&PolicyRef> = slots
        .flat_map(|slot| &slot.policies)
        .map(|policy| &policy.policy)
        .collect();
    let mut by_policy: BTreeMap<PolicyRef, BTreeSet<IpNet>> = BTreeMap::new();
    for policy in world.policies() {
        let name = PolicyRef {
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
        };
        if used.contains(&name) {
            by_policy.insert(name, prefixes(policy));
        }
    }
    let mut order: Vec<_> = by_policy.into_iter().collect();
    order.sort_by_key(|(_, prefixes)| prefixes.len());
    let (mut kept, mut blockless) = (BTreeSet::new(), BTreeSet::new());
    for (policy, prefixes) in order {
        let new = prefixes.iter().filter(|prefix| !kept.contains(*prefix)).count();
        if kept.len() + new <= limit {
            kept.extend(prefixes);
        } else {
            let message = format!(
                "the ipBlocks of {policy} match nothing: policies on this node name more than {limit} prefixes"
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

fn prefixes(policy: &NetworkPolicy) -> BTreeSet<IpNet> {
    let rules: Vec<&Rule> = policy.ingress.iter().chain(&policy.egress).flatten().collect();
    let peers = rules.into_iter().flat_map(|rule| match &rule.peers {
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
        "{wanted} addresses match selectors of policies on this node, {limit} fit: selectors do not match the others"
    );
    Problem {
        code: "LIM003",
        message,
    }
}

pub(crate) fn too_many_entries(meaning: &SlotMeaning) -> Problem {
    let message = format!(
        "{} of the pods that {} select is denied: their rules need more map entries than there are",
        meaning.direction.name(),
        names(meaning)
    );
    Problem {
        code: "LIM001",
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
