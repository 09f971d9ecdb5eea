//! Who owns which address, and what is known of the addresses that nobody owns.
//!
//! An address belongs, in this order, to a node that lists it, to a local interface, to the pods whose status lists it.
//! Where several claim it (a status not yet updated, an object not yet deleted) it matches only what all of them match:
//! whichever of them sends, it gets nothing that it would not get alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use vethwall_common::{
    address::{Addr, Prefix},
    identity::{AddressEntry, PrefixEntry},
};

use crate::{
    model::Pod,
    terms::{PodTerms, Signature, Terms},
    world::World,
};

/// An address with an entry of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// [`AddressEntry`] flags.
    pub(crate) flags: u32,
    /// The interface, if it is a local pod's.
    pub(crate) ifindex: u32,
    /// What it matches.
    pub(crate) signature: Signature,
}

/// Claims of pods on an address.
#[derive(Default)]
struct Claim {
    ifindex: u32,
    /// What all claimants match so far.
    terms: Option<PodTerms>,
}

impl Claim {
    fn add(&mut self, terms: PodTerms) {
        self.terms = Some(match self.terms.take() {
            None => terms,
            Some(before) => before.intersection(&terms).copied().collect(),
        });
    }
}

/// The addresses that need an entry: this node's, local pods', and those of pods that match a selector. Any other pod
/// is told apart by its address alone, which is what the prefix map does.
pub(crate) fn addresses(world: &World, terms: &Terms) -> BTreeMap<IpAddr, Owner> {
    let own = world.own_addresses();
    let mut nodes = own.clone();
    nodes.extend(
        world
            .nodes()
            .flat_map(|node| node.addresses.iter().map(IpAddr::to_canonical)),
    );

    let mut claims: BTreeMap<IpAddr, Claim> = BTreeMap::new();
    for endpoint in world.endpoints() {
        let pod = world.pod_of(endpoint).filter(|pod| is_peer(pod));
        for address in endpoint.addresses.iter().map(IpAddr::to_canonical) {
            if nodes.contains(&address) {
                continue;
            }
            let claim = claims.entry(address).or_default();
            // The newest interface has the highest index.
            claim.ifindex = claim.ifindex.max(endpoint.ifindex);
            claim.add(pod.map_or_else(PodTerms::new, |pod| {
                let labels = world.namespace_labels(&pod.namespace);
                terms.of_pod(&terms.in_namespace(&pod.namespace, &labels), pod, address)
            }));
        }
    }
    for (namespace, pods) in world.pods_by_namespace() {
        let local = terms.in_namespace(namespace, &world.namespace_labels(namespace));
        for pod in pods.filter(|pod| is_peer(pod)) {
            let unique: BTreeSet<IpAddr> = pod.addresses.iter().map(IpAddr::to_canonical).collect();
            for address in unique {
                // What the interface says is known on this node; a status may be old.
                if nodes.contains(&address) || claims.get(&address).is_some_and(|claim| claim.ifindex != 0) {
                    continue;
                }
                claims
                    .entry(address)
                    .or_default()
                    .add(terms.of_pod(&local, pod, address));
            }
        }
    }

    let pods = claims.into_iter().filter_map(|(address, claim)| {
        let found = claim.terms.unwrap_or_default();
        if found.is_empty() && claim.ifindex == 0 {
            return None;
        }
        let signature = terms.signature(address, found);
        Some((
            address,
            Owner {
                flags: AddressEntry::POD,
                ifindex: claim.ifindex,
                signature,
            },
        ))
    });
    let nodes = own.into_iter().map(|address| {
        let signature = terms.signature(address, PodTerms::new());
        (
            address,
            Owner {
                flags: AddressEntry::LOCAL_NODE,
                ifindex: 0,
                signature,
            },
        )
    });
    pods.chain(nodes).collect()
}

/// Whether the pod can be a selector peer (SEMANTICS 21, 31, 35).
pub(crate) fn is_peer(pod: &Pod) -> bool {
    !pod.host_network && !pod.finished
}

/// The pod at an address that no node has: a local interface's, or else the first that lists it.
pub(crate) fn pod_at(world: &World, address: IpAddr) -> Option<&Pod> {
    let has = |addresses: &[IpAddr]| addresses.iter().any(|a| a.to_canonical() == address);
    let newest = world
        .endpoints()
        .filter(|endpoint| has(&endpoint.addresses))
        .last();
    match newest {
        Some(endpoint) => world.pod_of(endpoint),
        None => world.pods().find(|pod| is_peer(pod) && has(&pod.addresses)),
    }
}

/// The prefixes that need an entry, with their signature and [`PrefixEntry`] flags: those that policies name and the
/// pods' networks.
pub(crate) fn prefixes(world: &World, terms: &Terms) -> BTreeMap<Prefix, (Signature, u32)> {
    let networks = world.pod_networks();
    let mut nets: BTreeSet<IpNet> = terms.prefixes().chain(networks.iter().copied()).collect();
    // IPv4 addresses stand in ::ffff:0:0/96. An IPv6 prefix around that must not reach them (SEMANTICS 23).
    let mapped = Ipv6Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), 96);
    if nets
        .iter()
        .any(|net| matches!(net, IpNet::V6(net) if net.contains(&mapped)))
    {
        nets.insert(IpNet::V4(Ipv4Net::default()));
    }
    let entry = |net: &IpNet| {
        let pods = networks.iter().any(|network| network.contains(net));
        let flags = if pods { PrefixEntry::POD_NETWORK } else { 0 };
        (key(net), (terms.signature_of_prefix(net), flags))
    };
    nets.iter().map(entry).collect()
}

/// A prefix as the map has it.
pub(crate) fn key(net: &IpNet) -> Prefix {
    let length = match net {
        IpNet::V4(net) => 96 + u32::from(net.prefix_len()),
        IpNet::V6(net) => u32::from(net.prefix_len()),
    };
    Prefix {
        length,
        addr: Addr::from(net.network()),
    }
}
