//! Every NetworkPolicy of a small grammar, against every question of a small world.
//!
//! ```text
//! a/web a/db        local     subjects: both
//! b/web             elsewhere its namespace has a label
//! 192.0.2.7 192.168.0.2       a stranger, a node
//! ```

use std::net::IpAddr;

use serde_json::{Value, json};
use vethwall_common::protocol;
use vethwall_policy::{compile::compile, numbers::Numbers};
use vethwall_tests::{
    oracle::World,
    worlds::{NODE, manifests},
};

use super::{
    border::{attach, load, offline},
    compare::states,
};

/// The objects that stay.
pub(super) fn stage() -> World {
    let pod = |namespace: &str, app: &str, node: &str, ip: &str, port: u16| {
        json!({
            "metadata": {"namespace": namespace, "name": app, "uid": ip, "labels": {"app": app}},
            "spec": {"nodeName": node, "containers": [
                {"name": "c", "ports": [{"name": "web", "containerPort": port}]}
            ]},
            "status": {"phase": "Running", "podIP": ip}
        })
    };
    let pods = json!([
        pod("a", "web", NODE, "10.244.0.1", 8080),
        pod("a", "db", NODE, "10.244.0.2", 8081),
        pod("b", "web", "node-b", "10.244.1.1", 80),
    ]);
    let nodes = json!([{
        "metadata": {"name": "node-b"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.2"}]}
    }]);
    World {
        namespaces: serde_json::from_value(json!([{"metadata": {"name": "b", "labels": {"team": "red"}}}]))
            .unwrap(),
        nodes: serde_json::from_value(nodes).unwrap(),
        pods: serde_json::from_value(pods).unwrap(),
        ..World::default()
    }
}

/// Enough to tell the ports of the grammar apart.
pub(super) fn questions(_: IpAddr) -> Vec<(u8, u16)> {
    let tcp = [79, 80, 82, 8080, 8081].map(|port| (protocol::TCP, port));
    [&tcp[..], &[(protocol::UDP, 80), (protocol::ICMP, 0)]].concat()
}

fn selectors() -> Vec<Value> {
    vec![json!(null), json!({}), json!({"matchLabels": {"app": "web"}})]
}

fn peers() -> Vec<Value> {
    let red = json!({"matchLabels": {"team": "red"}});
    let web = json!({"matchLabels": {"app": "web"}});
    vec![
        json!(null),
        json!([]),
        json!([{"podSelector": web}]),
        json!([{"namespaceSelector": {}}]),
        json!([{"namespaceSelector": red, "podSelector": web}]),
        json!([{"namespaceSelector": red}, {"podSelector": web}]),
        json!([{"ipBlock": {"cidr": "10.244.0.0/16"}}]),
        json!([{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.0.0/31", "192.168.0.0/24"]}}]),
        json!([{}]),
        json!([{"podSelector": {}, "ipBlock": {"cidr": "0.0.0.0/0"}}]),
    ]
}

fn ports() -> Vec<Value> {
    vec![
        json!(null),
        json!([]),
        json!([{"port": 80}]),
        json!([{"port": 80, "endPort": 8080}]),
        json!([{"port": "web"}]),
        json!([{"protocol": "UDP"}]),
        json!([{}]),
        json!([{"port": 80, "protocol": "ICMP"}, {"port": 82, "endPort": 81}, {"port": "web", "endPort": 90}]),
    ]
}

fn types() -> Vec<Value> {
    vec![
        json!(null),
        json!([]),
        json!(["Ingress"]),
        json!(["Egress"]),
        json!(["Ingress", "Egress"]),
        json!(["Egress", "Egress"]),
    ]
}

/// Every way to write one rule; absent fields are left out.
fn rules(key: &str, peers: &[Value], ports: &[Value]) -> Vec<Value> {
    let pairs = peers
        .iter()
        .flat_map(|peers| ports.iter().map(move |ports| (peers, ports)));
    pairs
        .map(|(peers, ports)| fields(&[(key, peers), ("ports", ports)]))
        .collect()
}

fn fields(all: &[(&str, &Value)]) -> Value {
    let present = all.iter().filter(|(_, value)| !value.is_null());
    present
        .map(|(key, value)| ((*key).to_owned(), (*value).clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Judges each policy by itself, on top of the stage; the number of questions.
fn judge(specs: Vec<Value>) -> usize {
    let stage = stage();
    let mut model = offline(&manifests::text(&stage));
    attach(&mut model, &stage);
    let mut asked = 0;
    // Many in one text: loading is not what this is about.
    for specs in specs.chunks(500) {
        let policies: Vec<Value> = specs
            .iter()
            .enumerate()
            .map(|(number, spec)| {
                json!({
                    "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                    "metadata": {"namespace": "a", "name": format!("p{number:04}")}, "spec": spec
                })
            })
            .collect();
        let texts: Vec<String> = policies.iter().map(manifests::yaml).collect();
        let converted = load(&texts.join("---\n"));
        assert_eq!(converted.objects.len(), policies.len());
        for (object, policy) in converted.objects.into_iter().zip(policies) {
            let key = object.key();
            assert_eq!(json!(key.name), policy["metadata"]["name"]);
            let mut world = stage.clone();
            world.policies.push(serde_json::from_value(policy).unwrap());
            model.apply(object);
            let compiled = compile(&model, &mut Numbers::default());
            asked += states(&world, &compiled.state, &questions)
                .unwrap_or_else(|difference| panic!("{difference}\n{}", manifests::text(&world)));
            model.delete(&key);
        }
    }
    asked
}

// Covers: SEMANTICS 1, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 20, 21, 22, 23, 25, 26, 27, 28, 29
#[test]
fn every_policy_with_one_rule() {
    let (from, to) = (rules("from", &peers(), &ports()), rules("to", &peers(), &ports()));
    let mut specs = Vec::new();
    for selector in selectors() {
        for types in types() {
            let of = |ingress: &Value, egress: &Value| {
                fields(&[
                    ("podSelector", &selector),
                    ("policyTypes", &types),
                    ("ingress", ingress),
                    ("egress", egress),
                ])
            };
            for ingress in [json!(null), json!([])] {
                for egress in [json!(null), json!([]), json!([{}])] {
                    specs.push(of(&ingress, &egress));
                }
            }
            // The two directions side by side: they must not show in each other.
            let shifted = to.iter().cycle().skip(7);
            for (from, to) in from.iter().zip(shifted) {
                specs.push(of(&json!([from]), &json!([to])));
                if !types.is_null() {
                    continue;
                }
                specs.push(of(&json!([from]), &json!(null)));
                specs.push(of(&json!(null), &json!([to])));
            }
        }
    }
    let count = specs.len();
    println!("{count} policies, {} questions", judge(specs));
}

// Covers: SEMANTICS 2, 8, 22, 27
#[test]
fn every_policy_with_two_rules() {
    let (few_peers, few_ports) = (peers(), ports());
    let few_peers: Vec<Value> = [0, 2, 4, 6, 7].map(|n: usize| few_peers[n].clone()).to_vec();
    let few_ports: Vec<Value> = [0, 2, 3, 4, 5].map(|n: usize| few_ports[n].clone()).to_vec();
    let (from, to) = (
        rules("from", &few_peers, &few_ports),
        rules("to", &few_peers, &few_ports),
    );
    let mut specs = Vec::new();
    for first in 0..from.len() {
        for second in 0..from.len() {
            specs.push(json!({
                "podSelector": {},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [from[first], from[second]],
                "egress": [to[second], to[first]]
            }));
        }
    }
    let count = specs.len();
    println!("{count} policies, {} questions", judge(specs));
}
