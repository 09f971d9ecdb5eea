//! What an entry of a rule asks for, and what the packet has instead.

use ipnet::IpNet;
use vethwall_common::{Direction, protocol};

use crate::{
    answer::Hit,
    model::{Labels, Node, Peer, PortMatch, Selector, canonical},
    signature::Match,
    term::Scope,
};

use super::asked::Asked;

/// What a peer entry asks for; where it does not match, the first thing that failed.
pub(super) fn peer(asked: &Asked<'_>, peer: &Peer, matches: bool) -> String {
    match peer {
        Peer::Nothing => "the entry is not valid and matches nothing".to_owned(),
        Peer::Nodes(selector) => nodes(asked, selector, matches),
        Peer::Everything => "the entry is of an unknown kind and matches everything".to_owned(),
        Peer::Block { cidr, except } => block(asked, *cidr, except, matches),
        Peer::Pods { namespaces, pods } => {
            let scope = match namespaces {
                None => format!("namespace {}", asked.subject.namespace),
                Some(selector) => format!("namespaces {selector}"),
            };
            let what = format!("pods {pods} in {scope}");
            if matches {
                what
            } else {
                format!("{what}: {}", not_selected(asked, namespaces.as_ref(), pods))
            }
        }
    }
}

fn not_selected(asked: &Asked<'_>, namespaces: Option<&Selector>, pods: &Selector) -> String {
    let Some(pod) = asked.peer.pod else {
        let node = asked.peer.node.as_ref().map(|node| format!("node {node}"));
        let address = asked.peer.address.map(|address| address.to_string());
        let who = node.or(address).unwrap_or_else(|| "the other end".to_owned());
        if asked.signature.is_unknown() {
            return format!("{who} is in the pods' network, but no pod that is known has it");
        }
        return format!("{who} is not a pod");
    };
    let name = format!("{}/{}", pod.namespace, pod.name);
    if pod.host_network {
        return format!("{name} has its node's network, selectors do not match it");
    }
    if pod.finished {
        return format!("{name} has finished and owns no address any more");
    }
    let labels = asked.world.namespace_labels(&pod.namespace);
    let scope = match namespaces {
        None => Scope::Own(asked.subject.namespace.clone()),
        Some(selector) => Scope::Selected(selector.clone()),
    };
    if !scope.contains(&pod.namespace, &labels) {
        return match namespaces {
            None => format!("{name} is in another namespace"),
            Some(selector) => format!("namespace {} {}", pod.namespace, lacks(selector, &labels)),
        };
    }
    if pods.matches(&pod.labels) {
        return format!("the address of {name} is claimed by another pod or node too");
    }
    format!("{name} {}", lacks(pods, &pod.labels))
}

fn nodes(asked: &Asked<'_>, selector: &Selector, matches: bool) -> String {
    let what = format!("nodes {selector}");
    if matches {
        return what;
    }
    let listed = asked.peer.address.and_then(|address| {
        let has = |node: &&Node| node.addresses.iter().any(|own| own.to_canonical() == address);
        asked.world.nodes().find(has)
    });
    match (listed, asked.peer.address) {
        (Some(node), _) => format!("{what}: node {} {}", node.name, lacks(selector, &node.labels)),
        (None, Some(address)) => format!("{what}: no node lists the address {address}"),
        (None, None) => format!("{what}: the other end has no address"),
    }
}

/// The first requirement that fails, and the value it met.
fn lacks(selector: &Selector, labels: &Labels) -> String {
    match selector.first_failure(labels) {
        None => "matches".to_owned(),
        Some(requirement) => match labels.get(&requirement.key) {
            Some(value) => format!("fails {requirement}: it has {}={value}", requirement.key),
            None => format!("fails {requirement}: it has no label {}", requirement.key),
        },
    }
}

fn block(asked: &Asked<'_>, cidr: IpNet, except: &[IpNet], matches: bool) -> String {
    let cidr = canonical(cidr);
    if matches {
        return format!("addresses in {cidr}");
    }
    let Some(address) = asked.peer.address else {
        return format!("addresses in {cidr}: the other end has no address");
    };
    let hole = except
        .iter()
        .map(|hole| canonical(*hole))
        .find(|hole| hole.contains(&address));
    match hole {
        Some(hole) if cidr.contains(&address) => {
            format!("addresses in {cidr}: {address} is in its except {hole}")
        }
        Some(_) | None => format!("addresses in {cidr}: {address} is not"),
    }
}

/// What a port entry asks for; where it does not match, what the packet has.
pub(super) fn port(asked: &Asked<'_>, port: &PortMatch, hits: &[Hit], matches: bool) -> String {
    let what = match port {
        PortMatch::Nothing => return "the entry is not valid and matches nothing".to_owned(),
        PortMatch::Everything => return "the entry is of an unknown kind and matches everything".to_owned(),
        PortMatch::Protocol(p) => format!("any port of {}", protocol_name(*p)),
        PortMatch::Range {
            protocol,
            first,
            last,
        } if first == last => {
            format!("{} port {first}", protocol_name(*protocol))
        }
        PortMatch::Range {
            protocol,
            first,
            last,
        } => {
            format!("{} ports {first} to {last}", protocol_name(*protocol))
        }
        PortMatch::Named { protocol, name } => {
            let owner = match asked.direction {
                Direction::Ingress => Some(asked.subject),
                Direction::Egress => asked.peer.pod,
            };
            let owner = owner.map_or_else(
                || "the destination, which is not a pod".to_owned(),
                |pod| format!("{}/{}", pod.namespace, pod.name),
            );
            let sure = hits.iter().filter(|hit| hit.sure == Match::Yes);
            let numbers: Vec<String> = sure
                .filter_map(|hit| hit.ports.map(|(_, first, _)| first.to_string()))
                .collect();
            let numbers = if numbers.is_empty() {
                "none".to_owned()
            } else {
                numbers.join(", ")
            };
            format!("{} port {name} of {owner} ({numbers})", protocol_name(*protocol))
        }
    };
    if matches {
        return what;
    }
    let packet = match asked.port {
        Some(port) if protocol::has_ports(asked.protocol) => {
            format!("{} port {port}", protocol_name(asked.protocol))
        }
        Some(_) | None => format!("{} without a port", protocol_name(asked.protocol)),
    };
    format!("{what}: this is {packet}")
}

/// Name of an IP protocol, or its number.
pub(super) fn protocol_name(number: u8) -> String {
    match number {
        protocol::ICMP => "ICMP".to_owned(),
        protocol::TCP => "TCP".to_owned(),
        protocol::UDP => "UDP".to_owned(),
        protocol::ICMPV6 => "ICMPv6".to_owned(),
        protocol::SCTP => "SCTP".to_owned(),
        other => format!("protocol {other}"),
    }
}
