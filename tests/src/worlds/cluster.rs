//! ClusterNetworkPolicies, as they are written: the types that we have could not hold what we do not know.

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};

use super::{NETWORKS, PORT_NAMES, PORTS, namespace_selector, policies::mode, selector};

pub(super) fn policy() -> impl Strategy<Value = Value> {
    let subject = prop_oneof![
        2 => namespace_selector().prop_map(|selector| json!({"namespaces": selector})),
        2 => pods().prop_map(|pods| json!({"pods": pods})),
        1 => Just(json!({"namespaces": {}})),
    ];
    (
        select(&["Admin", "Baseline"][..]),
        // Equal ones now and then.
        select(&[0, 1, 7, 1000][..]),
        subject,
        option::of(vec(rule("from", false), 0..=3)),
        option::of(vec(rule("to", true), 0..=3)),
        mode(),
    )
        .prop_map(|(tier, priority, subject, ingress, egress, annotations)| {
            let mut spec = json!({"tier": tier, "priority": priority, "subject": subject});
            for (key, rules) in [("ingress", ingress), ("egress", egress)] {
                if let Some(rules) = rules {
                    spec[key] = rules.into();
                }
            }
            let mut metadata = json!({});
            if let Some(annotations) = annotations {
                metadata["annotations"] = json!(annotations);
            }
            json!({
                "apiVersion": "policy.networking.k8s.io/v1alpha2",
                "kind": "ClusterNetworkPolicy",
                "metadata": metadata,
                "spec": spec
            })
        })
}

fn rule(key: &'static str, egress: bool) -> impl Strategy<Value = Value> {
    let peers = prop_oneof![
        15 => vec(peer(egress), 1..=3).prop_map(Some),
        1 => select(&[None, Some(())][..]).prop_map(|empty| empty.map(|()| Vec::new())),
    ];
    let protocols = option::of(vec(protocol(), 0..=2));
    (
        select(&["Accept", "Deny", "Pass"][..]),
        peers,
        protocols,
        any::<bool>(),
    )
        .prop_map(move |(action, peers, protocols, named)| {
            let mut rule = json!({"action": action});
            if named {
                rule["name"] = "rule".into();
            }
            if let Some(peers) = peers {
                rule[key] = peers.into();
            }
            if let Some(protocols) = protocols {
                rule["protocols"] = protocols.into();
            }
            rule
        })
}

fn pods() -> impl Strategy<Value = Value> {
    (option::of(namespace_selector()), option::of(selector())).prop_map(|(namespaces, pods)| {
        let mut value = json!({});
        if let Some(namespaces) = namespaces {
            value["namespaceSelector"] = json!(namespaces);
        }
        if let Some(pods) = pods {
            value["podSelector"] = json!(pods);
        }
        value
    })
}

/// What ingress does not know is tried there too.
fn peer(egress: bool) -> impl Strategy<Value = Value> {
    let outside = if egress { 4 } else { 1 };
    let networks = vec(select(&NETWORKS[..]), 1..=2);
    prop_oneof![
        4 => namespace_selector().prop_map(|selector| json!({"namespaces": selector})),
        6 => pods().prop_map(|pods| json!({"pods": pods})),
        outside => networks.prop_map(|networks| json!({"networks": networks})),
        outside => selector().prop_map(|selector| json!({"nodes": selector})),
        1 => unknown_peer(),
    ]
}

fn unknown_peer() -> impl Strategy<Value = Value> {
    select(vec![
        json!({}),
        json!({"cousins": {}}),
        json!({"namespaces": {}, "cousins": {}}),
        json!({"namespaces": {}, "pods": {"podSelector": {}}}),
        json!({"domainNames": ["example.com"]}),
        json!({"networks": ["10.0.0.0"]}),
        json!({"networks": []}),
        json!({"namespaces": {"matchExpressions": [{"key": "app", "operator": "Equals", "values": ["web"]}]}}),
    ])
}

fn protocol() -> impl Strategy<Value = Value> {
    let kind = || select(&["tcp", "udp", "sctp"][..]);
    let range = (select(&PORTS[..]), select(&PORTS[..]));
    prop_oneof![
        2 => kind().prop_map(|kind| json!({kind: {}})),
        4 => (kind(), select(&PORTS[..])).prop_map(|(kind, port)| json!({kind: {"destinationPort": {"number": port}}})),
        4 => (kind(), range).prop_map(|(kind, (start, end))| {
            json!({kind: {"destinationPort": {"range": {"start": start, "end": end}}}})
        }),
        4 => select(&PORT_NAMES[..]).prop_map(|name| json!({"destinationNamedPort": name})),
        1 => unknown_protocol(),
    ]
}

fn unknown_protocol() -> impl Strategy<Value = Value> {
    select(vec![
        json!({}),
        json!({"quic": {}}),
        json!({"tcp": {}, "udp": {}}),
        json!({"tcp": {}, "quic": {}}),
        json!({"tcp": {"destinationPort": {"number": 0}}}),
        json!({"tcp": {"destinationPort": {"number": 80, "range": {"start": 1, "end": 2}}}}),
    ])
}
