//! The two ends of a connection, looked up in the world.

use std::net::IpAddr;

use super::{End, Family, Target};
use crate::{model::Pod, owners, world::World};

/// An end, looked up.
pub(super) struct Found<'w> {
    /// Asked for by name and not there.
    pub(super) missing: bool,
    pub(super) pod: Option<&'w Pod>,
    pub(super) address: Option<IpAddr>,
    pub(super) node: Option<String>,
}

impl Found<'_> {
    pub(super) fn shown(&self) -> End {
        let pod = self.pod.map(|pod| format!("{}/{}", pod.namespace, pod.name));
        End {
            pod,
            address: self.address,
            node: self.node.clone(),
        }
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        let name = |end: &Self| end.pod.map(|pod| (pod.namespace.clone(), pod.name.clone()));
        name(self).is_some() && name(self) == name(other)
    }
}

/// Looks both ends up; pods with several addresses use the given family, or else the first that both have.
pub(super) fn ends<'w>(
    world: &'w World,
    src: &Target,
    dst: &Target,
    family: Option<Family>,
) -> (Found<'w>, Found<'w>) {
    let of = |target: &Target| {
        let mut all = addresses(world, target);
        all.retain(|address| family.is_none_or(|family| address.is_ipv4() == (family == Family::V4)));
        all
    };
    let (from, to) = (of(src), of(dst));
    let common = from
        .iter()
        .find(|a| to.iter().any(|b| a.is_ipv4() == b.is_ipv4()));
    let choose = |all: &[IpAddr]| match common {
        Some(other) => all
            .iter()
            .find(|address| address.is_ipv4() == other.is_ipv4())
            .copied(),
        None => all.first().copied(),
    };
    (find(world, src, choose(&from)), find(world, dst, choose(&to)))
}

/// Addresses of a target: of a pod first what its interface has, for a status comes late.
fn addresses(world: &World, target: &Target) -> Vec<IpAddr> {
    let (namespace, name) = match target {
        Target::Address(address) => return vec![address.to_canonical()],
        Target::Pod { namespace, name } => (namespace, name),
    };
    let Some(pod) = world.pod(namespace, name) else {
        return Vec::new();
    };
    let mut local = world
        .endpoints()
        .filter(|endpoint| world.pod_of(endpoint) == Some(pod));
    let addresses = local
        .next()
        .map_or(&pod.addresses, |endpoint| &endpoint.addresses);
    addresses.iter().map(IpAddr::to_canonical).collect()
}

fn find<'w>(world: &'w World, target: &Target, address: Option<IpAddr>) -> Found<'w> {
    let node_of = |address: IpAddr| world.node_of(address).map(str::to_owned);
    match target {
        Target::Pod { namespace, name } => {
            let pod = world.pod(namespace, name);
            let node = pod.filter(|pod| pod.host_network);
            let node = node.and_then(|pod| pod.node.clone().or_else(|| address.and_then(node_of)));
            Found {
                missing: pod.is_none(),
                pod,
                address,
                node,
            }
        }
        Target::Address(given) => {
            let given = given.to_canonical();
            let node = node_of(given);
            let pod = if node.is_some() {
                None
            } else {
                owners::pod_at(world, given)
            };
            Found {
                missing: false,
                pod,
                address: Some(given),
                node,
            }
        }
    }
}

/// Whether the peer is the node that a pod runs on, or shares its network.
pub(super) fn is_own_node(world: &World, pod: &Pod, peer: &Found<'_>) -> bool {
    let local = world
        .endpoints()
        .any(|endpoint| world.pod_of(endpoint) == Some(pod));
    let home = if local {
        Some(world.node())
    } else {
        pod.node.as_deref()
    };
    let of_host = |address: &IpAddr| {
        let mut host = pod.host_addresses.iter().map(IpAddr::to_canonical);
        host.any(|own| own == address.to_canonical())
    };
    let named = peer.node.is_some() && peer.node.as_deref() == home;
    match peer.pod {
        Some(other) => other.host_network && (named || other.host_addresses.iter().any(of_host)),
        None => named || peer.address.as_ref().is_some_and(of_host),
    }
}
