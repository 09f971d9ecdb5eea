//! A small vocabulary for tests.

use std::net::IpAddr;

use crate::{
    explain::Target,
    model::{
        ClusterNetworkPolicy, ClusterRule, ContainerPort, Endpoint, Labels, Mode, Namespace, NetworkPolicy,
        Node, Object, Peer, Peers, Pod, PortMatch, Ports, Rule, RuleAction, Selector, Tier,
    },
};

pub(crate) const TCP: u8 = vethwall_common::protocol::TCP;
pub(crate) const UDP: u8 = vethwall_common::protocol::UDP;
pub(crate) const ICMP: u8 = vethwall_common::protocol::ICMP;

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

pub(crate) fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

pub(crate) fn selector(pairs: &[(&str, &str)]) -> Selector {
    Selector::labels(pairs.iter().copied())
}

pub(crate) fn namespace(name: &str, pairs: &[(&str, &str)]) -> Object {
    Object::Namespace(Namespace {
        name: name.to_owned(),
        labels: labels(pairs),
        terminating: false,
    })
}

pub(crate) fn node(name: &str, address: &str, cidr: &str, labels: Labels) -> Object {
    Object::Node(Node {
        name: name.to_owned(),
        labels,
        addresses: vec![ip(address)],
        pod_cidrs: vec![cidr.parse().unwrap()],
    })
}

/// `NS/NAME` with an address.
pub(crate) fn pod(path: &str, address: &str, pairs: &[(&str, &str)]) -> Pod {
    let (namespace, name) = path.split_once('/').unwrap();
    Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        config_hash: None,
        host_addresses: Vec::new(),
        labels: labels(pairs),
        node: None,
        addresses: if address.is_empty() {
            Vec::new()
        } else {
            address.split(' ').map(ip).collect()
        },
        host_network: false,
        finished: false,
        ports: Vec::new(),
    }
}

pub(crate) fn port(name: &str, protocol: u8, port: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        protocol,
        port,
    }
}

pub(crate) fn endpoint(ifindex: u32, pod: &Pod) -> Endpoint {
    Endpoint {
        ifindex,
        mac: [2, 0, 0, 0, 0, u8::try_from(ifindex % 256).unwrap()],
        addresses: pod.addresses.clone(),
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
    }
}

/// `NS/NAME`, selecting pods with these labels.
pub(crate) fn policy(path: &str, pairs: &[(&str, &str)]) -> NetworkPolicy {
    let (namespace, name) = path.split_once('/').unwrap();
    NetworkPolicy {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        pod_selector: selector(pairs),
        ingress: None,
        egress: None,
        mode: Some(Mode::Enforce),
    }
}

pub(crate) fn rule(peers: &[Peer], ports: &[PortMatch]) -> Rule {
    Rule {
        peers: if peers.is_empty() {
            Peers::All
        } else {
            Peers::Some(peers.to_vec())
        },
        ports: if ports.is_empty() {
            Ports::All
        } else {
            Ports::Some(ports.to_vec())
        },
    }
}

/// With every pod as its subject.
pub(crate) fn cluster(
    name: &str,
    tier: Tier,
    priority: u16,
    ingress: Vec<ClusterRule>,
) -> ClusterNetworkPolicy {
    ClusterNetworkPolicy {
        name: name.to_owned(),
        tier,
        priority,
        namespaces: Selector::everything(),
        pods: Selector::everything(),
        ingress,
        egress: Vec::new(),
        mode: Some(Mode::Enforce),
    }
}

pub(crate) fn admin(name: &str, priority: u16, ingress: Vec<ClusterRule>) -> ClusterNetworkPolicy {
    cluster(name, Tier::Admin, priority, ingress)
}

/// On every port.
pub(crate) fn acts(action: RuleAction, peer: Peer) -> ClusterRule {
    ClusterRule {
        name: None,
        action,
        peers: Peers::Some(vec![peer]),
        ports: Ports::All,
    }
}

pub(crate) fn own(pairs: &[(&str, &str)]) -> Peer {
    Peer::Pods {
        namespaces: None,
        pods: selector(pairs),
    }
}

pub(crate) fn within(namespaces: &[(&str, &str)], pods: &[(&str, &str)]) -> Peer {
    Peer::Pods {
        namespaces: Some(selector(namespaces)),
        pods: selector(pods),
    }
}

pub(crate) fn block(cidr: &str, except: &[&str]) -> Peer {
    let except = except.iter().map(|net| net.parse().unwrap()).collect();
    Peer::Block {
        cidr: cidr.parse().unwrap(),
        except,
    }
}

pub(crate) fn tcp(first: u16, last: u16) -> PortMatch {
    PortMatch::Range {
        protocol: TCP,
        first,
        last,
    }
}

/// `NS/NAME`, or an address.
pub(crate) fn target(text: &str) -> Target {
    match text.split_once('/') {
        Some((namespace, name)) => Target::Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        },
        None => Target::Address(ip(text)),
    }
}
