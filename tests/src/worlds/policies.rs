//! NetworkPolicies.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{
    DEFAULT, NAMESPACES, NETWORKS, PORT_NAMES, PORTS, SLOPPY, namespace_selector, selector, strings,
};

const TYPES: [Option<&[&str]>; 7] = [
    None,
    Some(&[]),
    Some(&["Ingress"]),
    Some(&["Egress"]),
    Some(&["Ingress", "Egress"]),
    Some(&["Ingress", "Ingress"]),
    Some(&["Egress", "Ingress", "Egress"]),
];

/// One that is only watched, sometimes.
pub(super) fn mode() -> impl Strategy<Value = Option<BTreeMap<String, String>>> {
    let audit = || BTreeMap::from([("vethwall.io/mode".to_owned(), "audit".to_owned())]);
    option::weighted(0.1, Just(()).prop_map(move |()| audit()))
}

pub(super) fn policy() -> impl Strategy<Value = NetworkPolicy> {
    let rules = || option::of(vec((peers(), ports()), 0..=3));
    let spec = (
        option::weighted(0.9, selector()),
        select(&TYPES[..]),
        rules(),
        rules(),
    )
        .prop_map(|(pod_selector, types, ingress, egress)| {
            let incoming = |(from, ports)| NetworkPolicyIngressRule { from, ports };
            let outgoing = |(to, ports)| NetworkPolicyEgressRule { to, ports };
            NetworkPolicySpec {
                pod_selector,
                policy_types: types.map(|all| strings(all.to_vec())),
                ingress: ingress.map(|rules| rules.into_iter().map(incoming).collect()),
                egress: egress.map(|rules| rules.into_iter().map(outgoing).collect()),
            }
        });
    (
        select(&NAMESPACES[..]),
        any::<bool>(),
        mode(),
        option::weighted(0.98, spec),
    )
        .prop_map(|(namespace, named, annotations, spec)| NetworkPolicy {
            metadata: ObjectMeta {
                namespace: (named || namespace != DEFAULT).then(|| namespace.to_owned()),
                annotations,
                ..Default::default()
            },
            spec,
        })
}

fn network() -> impl Strategy<Value = String> {
    prop_oneof![6 => select(&NETWORKS[..]), 1 => select(&SLOPPY[..])].prop_map(str::to_owned)
}

fn peers() -> impl Strategy<Value = Option<Vec<NetworkPolicyPeer>>> {
    let block =
        || (network(), option::of(vec(network(), 0..=2))).prop_map(|(cidr, except)| IPBlock { cidr, except });
    let pods = || (option::of(namespace_selector()), option::of(selector()));
    let peer = prop_oneof![
        6 => block().prop_map(|block| (Some(block), (None, None))),
        8 => pods().prop_map(|pods| (None, pods)),
        1 => (block(), pods()).prop_map(|(block, pods)| (Some(block), pods)),
    ];
    let peer = peer.prop_map(
        |(ip_block, (namespace_selector, pod_selector))| NetworkPolicyPeer {
            ip_block,
            namespace_selector,
            pod_selector,
        },
    );
    option::of(vec(peer, 0..=3))
}

fn ports() -> impl Strategy<Value = Option<Vec<NetworkPolicyPort>>> {
    let number = |number: i32| Some(IntOrString::Int(number));
    let name = |name: &str| Some(IntOrString::String(name.to_owned()));
    let port = || select(&PORTS[..]).prop_map(i32::from);
    let shape = prop_oneof![
        8 => (port(), option::of(port())).prop_map(move |(first, last)| (number(first), last)),
        4 => select(&PORT_NAMES[..]).prop_map(move |text| (name(text), None)),
        2 => Just((None, None)),
        1 => select(&[0, -1, 65536][..]).prop_map(move |bad| (number(bad), None)),
        1 => (port(), select(&[0, -1, 65536][..])).prop_map(move |(first, bad)| (number(first), Some(bad))),
        1 => (select(&["80", ""][..]), option::of(port())).prop_map(move |(text, last)| (name(text), last)),
        1 => port().prop_map(|last| (None, Some(last))),
    ];
    let protocol = prop_oneof![
        12 => select(&[None, Some("TCP"), Some("UDP"), Some("SCTP")][..]),
        1 => select(&[Some("ICMP"), Some("tcp"), Some("")][..]),
    ];
    let port = (shape, protocol).prop_map(|((port, end_port), protocol)| NetworkPolicyPort {
        port,
        end_port,
        protocol: protocol.map(Into::into),
    });
    option::of(vec(port, 0..=4))
}
