//! `policy.networking.k8s.io/v1alpha2`.

use serde_json::{Value, json};

use super::{World, check, cluster};

/// A policy with every pod as its subject.
fn policy(name: &str, tier: &str, priority: u32, ingress: Value, egress: Value) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "tier": tier, "priority": priority, "subject": {"namespaces": {}},
            "ingress": ingress, "egress": egress
        }
    })
}

fn admin(rules: Value) -> Value {
    policy("m", "Admin", 5, rules, json!([]))
}

fn baseline(rules: Value) -> Value {
    policy("m", "Baseline", 5, rules, json!([]))
}

fn from(action: &str, app: &str) -> Value {
    json!({"action": action, "from": [{"pods": {"podSelector": {"matchLabels": {"app": app}}}}]})
}

/// A NetworkPolicy that isolates every pod of namespace `a` for ingress.
fn isolating() -> Value {
    json!([{"metadata": {"namespace": "a", "name": "p"}, "spec": {"podSelector": {}}}])
}

#[test]
fn tiers() {
    let world = cluster(isolating(), json!([admin(json!([from("Accept", "web")]))]));
    check(
        &world,
        "CNP 1, 3",
        "one < three tcp 80, three < two tcp 80",
        "one < two tcp 80, one < node-b tcp 80",
    );
    let rules = json!([from("Pass", "web"), from("Deny", "web"), from("Deny", "db")]);
    let world = cluster(json!([]), json!([admin(rules)]));
    check(
        &world,
        "CNP 1, 3",
        "one < three tcp 80, one < world tcp 80",
        "one < two tcp 80",
    );
    let denying = policy(
        "y",
        "Admin",
        6,
        json!([from("Deny", "web"), from("Deny", "db")]),
        json!([]),
    );
    let passing = admin(json!([from("Pass", "web")]));
    let world = cluster(json!([]), json!([denying, passing]));
    check(
        &world,
        "CNP 1: Pass skips the tier",
        "two < three tcp 80",
        "one < two tcp 80",
    );
    let world = cluster(
        json!([]),
        json!([denying, passing, baseline(json!([from("Deny", "web")]))]),
    );
    check(&world, "CNP 1: and no other", "", "two < three tcp 80");
    let world = cluster(
        isolating(),
        json!([baseline(json!([from("Accept", "web"), from("Deny", "db")]))]),
    );
    check(
        &world,
        "CNP 2",
        "three < one tcp 80",
        "one < three tcp 80, three < two tcp 80",
    );
    let egress_only = json!([{"metadata": {"namespace": "a", "name": "p"}, "spec": {
        "podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]
    }}]);
    let world = cluster(egress_only, json!([baseline(json!([from("Deny", "web")]))]));
    check(
        &world,
        "CNP 2: by direction",
        "one < two tcp 80",
        "one < three tcp 80",
    );
    let same = |name: &str, action: &str| policy(name, "Admin", 7, json!([from(action, "web")]), json!([]));
    let world = cluster(json!([]), json!([same("m", "Accept"), same("l", "Deny")]));
    check(&world, "CNP 3: by name", "", "one < three tcp 80");
    let world = cluster(json!([]), json!([same("l", "Accept"), same("m", "Deny")]));
    check(&world, "CNP 3: by name", "one < three tcp 80", "");
    let out = policy(
        "x",
        "Admin",
        0,
        json!([]),
        json!([{"action": "Accept", "to": [{"namespaces": {}}]}]),
    );
    check(
        &cluster(isolating(), json!([out])),
        "CNP 4",
        "",
        "three > one tcp 80",
    );
}

#[test]
fn peers_and_subjects() {
    let world = cluster(
        json!([]),
        json!([policy(
            "x",
            "Admin",
            0,
            json!([{"action": "Deny", "from": [{"namespaces": {}}, {"unknown": {}}]}]),
            json!([{"action": "Deny", "to": [
                {"networks": ["192.0.2.0/24", "10.0.0.2/32"]},
                {"nodes": {"matchLabels": {"zone": "node-b"}}}
            ]}])
        )]),
    );
    check(
        &world,
        "CNP 5, rules 35, 39, 40",
        "one < node-a tcp 80, one < one tcp 80, one > node-a tcp 80, node-b > world tcp 80, one > 192.0.3.1 tcp 80",
        "one < node-b tcp 80, one > world icmp 0, one > node-b tcp 80",
    );
    let only_pods = policy(
        "x",
        "Admin",
        0,
        json!([{"action": "Deny", "from": [{"namespaces": {}}]}]),
        json!([]),
    );
    check(
        &cluster(json!([]), json!([only_pods])),
        "rule 21",
        "one < node-b tcp 80, one < world tcp 80",
        "one < three tcp 80",
    );
    let mut subject = only_pods;
    subject["spec"]["subject"] = json!({"pods": {
        "namespaceSelector": {"matchLabels": {"team": "red"}},
        "podSelector": {"matchLabels": {"app": "web"}}
    }});
    check(
        &cluster(json!([]), json!([subject])),
        "subject",
        "one < three tcp 80",
        "three < one tcp 80",
    );
}

/// The rule first, then a denial of all pods.
fn before_a_denial(rule: Value) -> World {
    let denial = json!([{"action": "Deny", "from": [{"namespaces": {}}]}]);
    cluster(
        json!([]),
        json!([
            policy("x", "Admin", 0, json!([rule]), json!([])),
            policy("y", "Admin", 1, denial, json!([]))
        ]),
    )
}

/// A rule with that action, before a denial.
fn acting(action: &str, rule: &Value) -> World {
    let mut rule = rule.clone();
    rule["action"] = json!(action);
    before_a_denial(rule)
}

fn accepts_nothing_and_passes_all(rule: &Value) {
    check(
        &acting("Accept", rule),
        "CNP 6",
        "one < world tcp 80",
        "one < three tcp 80",
    );
    check(
        &acting("Pass", rule),
        "CNP 6",
        "one < three icmp 0, one < three tcp 80, one < world tcp 80",
        "",
    );
}

#[test]
fn what_is_unknown_fails_closed() {
    for peers in [
        json!([]),
        json!(null),
        json!([{}]),
        json!([{"cousins": {}}]),
        json!([{"networks": ["0.0.0.0/0"]}]),
        json!([{"namespaces": {}, "pods": {}}]),
        json!([{"namespaces": {}, "cousins": {}}]),
        json!([{"namespaces": {"matchLabel": {}}}]),
        json!([{"pods": {"podSelector": {"matchExpressions": [{"key": "a", "operator": "?"}]}}}]),
        json!([{"pods": {"podselector": {}}}]),
    ] {
        let rule = json!({"from": peers});
        accepts_nothing_and_passes_all(&rule);
        check(
            &acting("Deny", &rule),
            "CNP 6",
            "",
            "one < three tcp 80, one < world tcp 80",
        );
    }
    for protocols in [
        json!([{}]),
        json!([{"quic": {}}]),
        json!([{"tcp": {}, "udp": {}}]),
        json!([{"tcp": {"port": 80}}]),
        json!([{"tcp": null}]),
        json!([{"tcp": {"destinationPort": {}}}]),
        json!([{"tcp": {"destinationPort": {"number": 0}}}]),
        json!([{"tcp": {"destinationPort": {"range": {"start": 9, "end": 3}}}}]),
        json!([{"destinationNamedPort": ""}]),
    ] {
        accepts_nothing_and_passes_all(&json!({"from": [{"namespaces": {}}], "protocols": protocols}));
    }
    let action = before_a_denial(json!({"action": "Allow", "from": [{"namespaces": {}}]}));
    check(&action, "an unknown action", "", "one < three tcp 80");
    let mut broken = policy("x", "Baseline", 1001, json!([]), json!([]));
    broken["spec"]["subject"] = json!({"pods": {"podSelector": {"matchLabels": {"app": "web"}}}});
    check(
        &cluster(json!([]), json!([broken])),
        "rule 18",
        "two < world tcp 80, two > world tcp 80",
        "one < world tcp 80, one > world tcp 80",
    );
}

#[test]
fn protocols() {
    let accept = |protocols: Value| {
        before_a_denial(json!({"action": "Accept", "from": [{"namespaces": {}}], "protocols": protocols}))
    };
    check(
        &accept(json!([])),
        "CNP 7",
        "one < two icmp 0, one < two tcp 1",
        "",
    );
    check(
        &accept(json!([
            {"tcp": {"destinationPort": {"number": 80}}},
            {"udp": {"destinationPort": {"range": {"start": 5, "end": 7}}}},
            {"sctp": {}}
        ])),
        "one field of one protocol",
        "one < two tcp 80, one < two udp 5, one < two udp 7, one < two sctp 1",
        "one < two tcp 81, one < two udp 4, one < two udp 8, one < two icmp 0",
    );
    check(
        &accept(json!([{"destinationNamedPort": "dns"}])),
        "by name, in the container port's own protocol",
        "one < two udp 53, two < one tcp 53",
        "one < two tcp 53, two < one udp 53, three < one tcp 53",
    );
}
