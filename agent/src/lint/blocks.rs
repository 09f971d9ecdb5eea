//! Blocks of addresses: such as are none, mean another one, or name pods and Services by address.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    Lint, codes,
    policy::{Block, Policy},
};

/// Private ranges that people list as a whole to mean "the inside": they say nothing of pods in particular.
const WHOLE: &[&str] = &[
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "fc00::/7",
    "fd00::/8",
];

/// A block that contains a whole range of pods or Services is about it only if it is this small.
const SMALL_V4: u8 = 12;

pub(super) fn check(lint: &mut Lint<'_>, policy: &Policy<'_>) {
    for (direction, rule) in policy.rules() {
        for block in rule.peers.iter().flat_map(|peer| &peer.blocks) {
            let Some(net) = cidr(lint, policy, &block.spot, block.net) else {
                continue;
            };
            except(lint, policy, block, net);
            ranges(lint, policy, block, net, direction.name == "ingress");
        }
    }
}

/// A CIDR's form.
fn cidr(lint: &mut Lint<'_>, policy: &Policy<'_>, at: &super::Spot<'_>, net: Option<IpNet>) -> Option<IpNet> {
    let text = at.text().unwrap_or_default();
    let Some(net) = net else {
        let address = text.parse::<IpAddr>().ok();
        let fix = match address {
            Some(IpAddr::V4(_)) => format!("write {text}/32 for this one address"),
            Some(IpAddr::V6(_)) => format!("write {text}/128 for this one address"),
            None => "write a network as in 10.0.0.0/8 or 2001:db8::/32".to_owned(),
        };
        let effect = if policy.cluster.is_some() {
            "the peer fails closed: an Accept takes nothing for it, a Deny or Pass everything"
        } else {
            "the block matches nothing"
        };
        lint.find(
            policy.object,
            codes::BAD_CIDR,
            at,
            format!("{text:?} is no CIDR: {effect}"),
            fix,
        );
        return None;
    };
    // Only what the standard parser reads as the same network says what it means.
    let plain = text.split_once('/').is_some_and(|(address, length)| {
        address.parse() == Ok(net.addr()) && length == net.prefix_len().to_string()
    });
    if !plain {
        let message = format!(
            "{text} means {net}: bits after the prefix, leading zeros and IPv4 within IPv6 are not what they seem"
        );
        lint.find(
            policy.object,
            codes::ODD_CIDR,
            at,
            message,
            format!("write {net}, or the network that is meant"),
        );
    }
    Some(net)
}

/// What is taken out of a block.
fn except(lint: &mut Lint<'_>, policy: &Policy<'_>, block: &Block<'_>, net: IpNet) {
    for (at, hole) in &block.except {
        let Some(hole) = cidr(lint, policy, at, *hole) else {
            continue;
        };
        if hole.contains(&net) {
            lint.find(
                policy.object,
                codes::EXCEPT_ALL,
                at,
                format!(
                    "it takes away all of {net}: the API server refuses it, and the block matches nothing"
                ),
                format!("write a part of {net}, or remove the block"),
            );
        } else if !net.contains(&hole) {
            lint.find(
                policy.object,
                codes::EXCEPT_OUTSIDE,
                at,
                format!("{hole} is no part of {net}: the API server refuses it"),
                "remove it: what is outside the block is not allowed by it anyway (an except is a hole in its own block, no deny)",
            );
        }
    }
}

/// Blocks of the cluster's own addresses.
fn ranges(lint: &mut Lint<'_>, policy: &Policy<'_>, block: &Block<'_>, net: IpNet, ingress: bool) {
    let whole = WHOLE.iter().any(|whole| whole.parse() == Ok(net));
    let small = match net {
        IpNet::V4(net) => net.prefix_len() >= SMALL_V4,
        IpNet::V6(net) => net.prefix_len() >= 32,
    };
    if whole || !small {
        return;
    }
    if let Some(pods) = pods_in(lint, net) {
        let message =
            format!("{net} is {pods}: pod addresses change with every restart, and the block follows no pod");
        lint.find(
            policy.object,
            codes::POD_RANGE,
            &block.spot,
            message,
            "select the pods by podSelector and namespaceSelector",
        );
        return;
    }
    if let Some(service) = service_in(lint, net) {
        let why = if ingress {
            "a Service sends nothing: traffic comes from pods and nodes"
        } else {
            "policy acts on the pod behind a Service, after its address was replaced"
        };
        let message = format!("{net} is {service}: {why}, so it matches nothing");
        lint.find(
            policy.object,
            codes::SERVICE_RANGE,
            &block.spot,
            message,
            "select the pods behind the Service by podSelector and namespaceSelector, with their own port",
        );
    }
}

/// What of the pods' addresses a block is.
fn pods_in(lint: &Lint<'_>, net: IpNet) -> Option<String> {
    let world = lint.world;
    let mut own = world.pods().filter(|pod| !pod.host_network);
    let one = net.prefix_len() == net.max_prefix_len();
    let at = |address: &IpAddr| net.contains(address);
    if let Some(pod) = own.find(|pod| pod.addresses.iter().any(at)).filter(|_| one) {
        return Some(format!("the address of pod {}", pod.title));
    }
    // The first address of a node's range is flannel's own: from there come processes of other nodes.
    let of_flannel = |range: &IpNet| one && range.network() == net.network();
    if let Some((node, range)) = world
        .pod_ranges
        .iter()
        .find(|(_, range)| range.contains(&net) && !of_flannel(range))
    {
        return Some(format!("inside the pod range {range} of node {node}"));
    }
    if let Some((node, range)) = world.pod_ranges.iter().find(|(_, range)| net.contains(range)) {
        return Some(format!("a block around the pod range {range} of node {node}"));
    }
    let near = |prefix: u8| prefix >= if matches!(net, IpNet::V4(_)) { 24 } else { 64 };
    let mut own = world.pods().filter(|pod| !pod.host_network);
    let pod = own
        .find(|pod| pod.addresses.iter().any(at))
        .filter(|_| near(net.prefix_len()))?;
    Some(format!("a block around the address of pod {}", pod.title))
}

/// What of the Services' addresses a block is.
fn service_in(lint: &Lint<'_>, net: IpNet) -> Option<String> {
    let services = &lint.world.cluster_ips;
    if let Some((name, address)) = services.iter().find(|(_, address)| net.contains(address)) {
        return Some(if net.prefix_len() == net.max_prefix_len() {
            format!("the address of Service {name}")
        } else {
            format!("a block around the address {address} of Service {name}")
        });
    }
    // Between two of them: the range that they were given from contains it too.
    let of_family = |address: &&IpAddr| address.is_ipv4() == matches!(net, IpNet::V4(_));
    let addresses = || services.iter().map(|(_, address)| address).filter(of_family);
    let (low, high) = (addresses().min()?, addresses().max()?);
    (*low <= net.network() && net.broadcast() <= *high && low != high && near(*low, *high))
        .then(|| format!("between the Service addresses {low} and {high}"))
}

/// Whether two addresses may come from one range of Services.
fn near(low: IpAddr, high: IpAddr) -> bool {
    match (low, high) {
        (IpAddr::V4(low), IpAddr::V4(high)) => {
            (low.to_bits() ^ high.to_bits()).leading_zeros() >= u32::from(SMALL_V4)
        }
        (IpAddr::V6(low), IpAddr::V6(high)) => (low.to_bits() ^ high.to_bits()).leading_zeros() >= 96,
        _ => false,
    }
}
