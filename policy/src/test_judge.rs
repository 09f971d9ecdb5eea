//! A second opinion: the rules read literally, entry by entry, without terms, signatures, identities or slots.

use std::net::IpAddr;

use vethwall_common::{Direction, protocol, verdict::allow};

use crate::{
    model::{Mode, Peer, Peers, Pod, PortMatch, Ports, Rule, canonical},
    world::World,
};

/// Who may be behind an address: nobody that selectors can match, or these pods, all of which must match.
fn claimants(world: &World, address: IpAddr) -> Vec<Option<&Pod>> {
    let eligible = |pod: &&Pod| !pod.host_network && !pod.finished;
    let of_node = world.nodes().any(|node| node.addresses.contains(&address));
    if of_node || world.own_addresses().contains(&address) {
        return vec![None];
    }
    let local: Vec<_> = world
        .endpoints()
        .filter(|endpoint| endpoint.addresses.contains(&address))
        .collect();
    if !local.is_empty() {
        return local
            .into_iter()
            .map(|endpoint| world.pod_of(endpoint).filter(eligible))
            .collect();
    }
    let pods: Vec<_> = world
        .pods()
        .filter(eligible)
        .filter(|pod| pod.addresses.contains(&address))
        .map(Some)
        .collect();
    if pods.is_empty() { vec![None] } else { pods }
}

fn selected(world: &World, namespace: &str, peer: &Peer, pod: Option<&Pod>) -> bool {
    let (Peer::Pods { namespaces, pods }, Some(pod)) = (peer, pod) else {
        return false;
    };
    let scope = match namespaces {
        None => pod.namespace == namespace,
        Some(selector) => selector.matches(&world.namespace_labels(&pod.namespace)),
    };
    scope && pods.matches(&pod.labels)
}

fn peer_matches(world: &World, namespace: &str, peer: &Peer, address: IpAddr) -> bool {
    match peer {
        Peer::Nothing => false,
        Peer::Everything => true,
        Peer::Nodes(selector) => world
            .nodes()
            .any(|node| selector.matches(&node.labels) && node.addresses.contains(&address)),
        Peer::Block { cidr, except } => {
            let inside = |net| canonical(net).contains(&address);
            inside(*cidr) && !except.iter().any(|net| inside(*net))
        }
        Peer::Pods { .. } => claimants(world, address)
            .into_iter()
            .all(|pod| selected(world, namespace, peer, pod)),
    }
}

fn has_port(pod: &Pod, protocol: u8, name: &str, port: u16) -> bool {
    pod.ports
        .iter()
        .any(|p| p.protocol == protocol && p.name.as_deref() == Some(name) && p.port == port)
}

/// Whether a rule of a policy in `namespace` that selects `subject` allows the packet.
fn rule_allows(
    world: &World,
    subject: &Pod,
    direction: Direction,
    rule: &Rule,
    address: IpAddr,
    packet: (u8, u16),
) -> bool {
    let namespace = &subject.namespace;
    let someone = match &rule.peers {
        Peers::All => true,
        Peers::Some(peers) => peers
            .iter()
            .any(|peer| peer_matches(world, namespace, peer, address)),
    };
    let port_matches = |port: &PortMatch| match port {
        PortMatch::Nothing => false,
        PortMatch::Everything => true,
        PortMatch::Protocol(p) => protocol::has_ports(*p) && *p == packet.0,
        PortMatch::Range {
            protocol,
            first,
            last,
        } => protocol::has_ports(*protocol) && *protocol == packet.0 && (*first..=*last).contains(&packet.1),
        PortMatch::Named { protocol, name } if *protocol == packet.0 => match direction {
            Direction::Ingress => has_port(subject, packet.0, name, packet.1),
            Direction::Egress => claimants(world, address)
                .into_iter()
                .all(|pod| pod.is_some_and(|pod| has_port(pod, packet.0, name, packet.1))),
        },
        PortMatch::Named { .. } => false,
    };
    let somewhere = match &rule.ports {
        Ports::All => true,
        Ports::Some(ports) => ports.iter().any(port_matches),
    };
    someone && somewhere
}

/// The [`allow`] bits for a packet between the pod and the address.
pub(crate) fn judge(
    world: &World,
    pod: &Pod,
    direction: Direction,
    address: IpAddr,
    packet: (u8, u16),
) -> u8 {
    let (mut isolated, mut shadow_isolated, mut allowed, mut shadow) = (false, false, false, false);
    for policy in world.policies() {
        let rules = match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        let Some(rules) = rules else { continue };
        if policy.namespace != pod.namespace || !policy.pod_selector.matches(&pod.labels) || pod.host_network
        {
            continue;
        }
        let allows = rules
            .iter()
            .any(|rule| rule_allows(world, pod, direction, rule, address, packet));
        shadow_isolated = true;
        shadow |= allows;
        if policy.mode == Mode::Enforce {
            isolated = true;
            allowed |= allows;
        }
    }
    let enforced = if !isolated || allowed { allow::ENFORCED } else { 0 };
    enforced
        | if !shadow_isolated || shadow {
            allow::SHADOW
        } else {
            0
        }
}
