//! Every pair of rules of ClusterNetworkPolicies, around NetworkPolicies that isolate or do not.

use std::net::IpAddr;

use serde_json::{Value, json};
use vethwall_common::protocol;
use vethwall_policy::{compile::compile, model::Object, numbers::Numbers, world};
use vethwall_tests::{oracle::World, worlds::manifests};

use super::{
    border::{attach, load, offline},
    compare::states,
    exhaustive::{questions, stage},
};

const ACTIONS: [&str; 3] = ["Accept", "Deny", "Pass"];

fn policy(name: &str, tier: &str, priority: u32, rules: &[&Value]) -> Value {
    let towards = |key: &str| {
        let mut rules: Vec<Value> = rules.iter().map(|rule| (*rule).clone()).collect();
        for rule in &mut rules {
            let peers = rule["peers"].take();
            let rule = rule.as_object_mut().unwrap();
            rule.remove("peers");
            rule.insert(key.to_owned(), peers);
        }
        rules
    };
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "tier": tier, "priority": priority, "subject": {"namespaces": {}},
            "ingress": towards("from"), "egress": towards("to")
        }
    })
}

/// Every action with every one of these peers and protocols.
fn rules(peers: &[Value], protocols: &[Value]) -> Vec<Value> {
    let mut all = Vec::new();
    for action in ACTIONS {
        for peers in peers {
            for protocols in protocols {
                let mut rule = json!({"action": action, "peers": peers});
                if !protocols.is_null() {
                    rule["protocols"] = protocols.clone();
                }
                all.push(rule);
            }
        }
    }
    all
}

/// Peers of every kind, and protocols of every kind with one of them.
fn all_rules() -> Vec<Value> {
    let web = json!([{"pods": {"podSelector": {"matchLabels": {"app": "web"}}}}]);
    let peers = [
        json!([{"namespaces": {}}]),
        web.clone(),
        json!([{"pods": {"namespaceSelector": {"matchLabels": {"team": "red"}}}}]),
        json!([{"networks": ["0.0.0.0/0"]}]),
        json!([{"nodes": {}}]),
        json!([{"cousins": {}}]),
        json!([{}, {"networks": ["192.0.2.0/24"]}]),
        json!([]),
    ];
    let protocols = [
        json!([{"tcp": {"destinationPort": {"number": 80}}}]),
        json!([{"tcp": {"destinationPort": {"range": {"start": 80, "end": 8080}}}}]),
        json!([{"destinationNamedPort": "web"}]),
        json!([{"udp": {}}]),
        json!([{"quic": {}}]),
    ];
    let mut all = rules(&peers, &[json!(null)]);
    all.extend(rules(&[web], &protocols));
    all
}

/// The stage with NetworkPolicies: none, one that isolates a pod, one that lets something in and out of it.
fn stages() -> Vec<World> {
    let isolated =
        json!({"policyTypes": ["Ingress", "Egress"], "podSelector": {"matchLabels": {"app": "web"}}});
    let mut half = isolated.clone();
    half["policyTypes"] = json!(["Egress"]);
    half["egress"] = json!([{"ports": [{"port": 80}, {"port": 8080}]}]);
    [json!([]), json!([isolated]), json!([half])]
        .iter()
        .map(|specs| {
            let named = specs.as_array().unwrap().iter();
            let policies: Vec<Value> = named
                .map(|spec| json!({"metadata": {"namespace": "a", "name": "p"}, "spec": spec}))
                .collect();
            World {
                policies: serde_json::from_value(policies.into()).unwrap(),
                ..stage()
            }
        })
        .collect()
}

/// A policy as it is written and as the border reads it.
fn read(policy: Value) -> (Value, Object) {
    let [object] = &load(&manifests::yaml(&policy)).objects[..] else {
        panic!("{policy}")
    };
    (policy, object.clone())
}

/// Inside and outside of what the pairs of rules ask for.
fn few_questions(_: IpAddr) -> Vec<(u8, u16)> {
    vec![(protocol::TCP, 80), (protocol::UDP, 80)]
}

fn judge<const N: usize>(
    stage: &World,
    model: &mut world::World,
    policies: [&(Value, Object); N],
    questions: &dyn Fn(IpAddr) -> Vec<(u8, u16)>,
) -> usize {
    let mut world = stage.clone();
    for (policy, object) in policies {
        world.cluster_policies.push(policy.clone());
        model.apply(object.clone());
    }
    let compiled = compile(model, &mut Numbers::default());
    let asked = states(&world, &compiled.state, questions)
        .unwrap_or_else(|difference| panic!("{difference}\n{}", manifests::text(&world)));
    for (_, object) in policies {
        model.delete(&object.key());
    }
    asked
}

fn with_every_stage(mut each: impl FnMut(&World, &mut world::World) -> usize) -> usize {
    let stages = stages();
    let asked = stages.iter().map(|stage| {
        let mut model = offline(&manifests::text(stage));
        attach(&mut model, stage);
        each(stage, &mut model)
    });
    asked.sum()
}

// Covers: CNP 1, 2, 3, 5, 6, 7
#[test]
fn every_rule_in_either_tier() {
    let mut policies = Vec::new();
    for rule in all_rules() {
        policies.extend(["Admin", "Baseline"].map(|tier| read(policy("one", tier, 5, &[&rule]))));
    }
    let asked = with_every_stage(|stage, model| {
        policies
            .iter()
            .map(|policy| judge(stage, model, [policy], &questions))
            .sum()
    });
    println!("{} policies, {asked} questions", policies.len());
}

// Covers: CNP 1, 2, 3, 6
#[test]
fn every_pair_of_rules() {
    let peers = [
        json!([{"namespaces": {}}]),
        json!([{"pods": {"podSelector": {"matchLabels": {"app": "web"}}}}]),
        json!([{"cousins": {}}]),
    ];
    let rules = rules(
        &peers,
        &[json!(null), json!([{"tcp": {"destinationPort": {"number": 80}}}])],
    );
    // One policy with both, two policies of a tier, one in each tier.
    let mut both = Vec::new();
    for first in &rules {
        for second in &rules {
            both.push(read(policy("one", "Admin", 5, &[first, second])));
        }
    }
    let of = |name: &str, tier: &str, priority| -> Vec<(Value, Object)> {
        let policies = rules.iter().map(|rule| policy(name, tier, priority, &[rule]));
        policies.map(read).collect()
    };
    let first = of("first", "Admin", 5);
    // The same priority: names decide.
    let second = of("second", "Admin", 5);
    // By name it would be asked before the first.
    let baseline = of("a-last", "Baseline", 0);
    let asked = with_every_stage(|stage, model| {
        let mut asked = 0;
        if stage.policies.is_empty() {
            asked += both
                .iter()
                .map(|policy| judge(stage, model, [policy], &few_questions))
                .sum::<usize>();
        }
        for first in &first {
            for other in baseline.iter().chain(&second) {
                asked += judge(stage, model, [other, first], &few_questions);
            }
        }
        asked
    });
    println!("{asked} questions");
}
