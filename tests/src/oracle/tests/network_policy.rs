//! `networking.k8s.io/v1`.

use serde_json::{Value, json};

use super::{World, check, cluster};
use crate::oracle::cidr;

/// A policy of namespace `a`; where it does not say whom it selects, `app: web`, so pod one.
fn of_one(mut spec: Value) -> World {
    if spec.get("podSelector").is_none() {
        spec["podSelector"] = json!({"matchLabels": {"app": "web"}});
    }
    let policy = json!({"metadata": {"namespace": "a", "name": "p"}, "spec": spec});
    cluster(json!([policy]), json!([]))
}

fn ingress(rules: Value) -> World {
    of_one(json!({"ingress": rules}))
}

fn from(peers: Value) -> World {
    ingress(json!([{"from": peers}]))
}

fn ports(ports: Value) -> World {
    ingress(json!([{"ports": ports}]))
}

fn egress(rules: Value) -> World {
    of_one(json!({"policyTypes": ["Egress"], "egress": rules}))
}

#[test]
fn selection_and_direction() {
    let closed = ingress(json!([]));
    check(
        &closed,
        "rules 1, 3, 7",
        "one > two tcp 80, two < three tcp 80, three < one tcp 80",
        "one < two tcp 80, one < three icmp 0, one6 < world6 tcp 80, one < node-b tcp 80",
    );
    check(
        &closed,
        "rules 39, 40",
        "one < node-a tcp 80, one < one tcp 80",
        "",
    );
    check(&ingress(json!(null)), "rule 7: absent", "", "one < two tcp 80");
    check(
        &ingress(json!([{}])),
        "rules 7, 9",
        "one < two tcp 80, one < world gre 0, one < node-b icmp 0",
        "",
    );
    let everybody = of_one(json!({"podSelector": {}}));
    check(
        &everybody,
        "rule 4: empty",
        "three < one tcp 80",
        "one < three tcp 80, two < three tcp 80",
    );
    let mut absent = everybody;
    absent.policies[0].spec = None;
    check(
        &absent,
        "rules 4, 5: absent",
        "two > three tcp 80",
        "two < three tcp 80",
    );
    let no_egress = of_one(json!({"egress": []}));
    check(&no_egress, "rule 5", "one > two tcp 80", "one < two tcp 80");
    let to_80 = json!([{"ports": [{"port": 80}]}]);
    let defaulted = of_one(json!({"policyTypes": [], "egress": to_80}));
    check(
        &defaulted,
        "rule 5",
        "one > two tcp 80",
        "one > two tcp 81, one < two tcp 80",
    );
    let inert = of_one(json!({"policyTypes": ["Ingress", "Ingress"], "ingress": [{}], "egress": to_80}));
    check(&inert, "rule 6", "one > two tcp 81, one < two tcp 81", "");
    let sealed = of_one(json!({"policyTypes": ["Egress"]}));
    check(&sealed, "rule 6", "one < two tcp 80", "one > two tcp 80");
    let mut two = closed;
    let mut second = two.policies[0].clone();
    second.spec.get_or_insert_default().ingress = Some(vec![Default::default()]);
    two.policies.push(second);
    check(&two, "rule 2", "one < three tcp 80", "");
    let both = cluster(
        json!([
            {"metadata": {"namespace": "a", "name": "p"}, "spec": {"podSelector": {}}},
            {"metadata": {"namespace": "a", "name": "q"}, "spec": {
                "podSelector": {},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"ports": [{"port": 80}]}],
                "egress": [{"ports": [{"port": 80}, {"port": 81}]}]
            }}
        ]),
        json!([]),
    );
    check(
        &both,
        "rule 3",
        "one > two tcp 80, one > three tcp 81",
        "one > two tcp 81",
    );
}

#[test]
fn peers() {
    check(
        &from(json!([])),
        "rule 9",
        "one < world tcp 80, one < three tcp 80",
        "",
    );
    check(
        &from(json!([{"podSelector": {}}])),
        "rules 11, 14",
        "one < two tcp 80",
        "one < three tcp 80, one < world tcp 80",
    );
    check(
        &from(json!([{"namespaceSelector": {}}])),
        "rules 12, 14, 21",
        "one < three tcp 80",
        "one < node-b tcp 80, one < world tcp 80",
    );
    let red = json!({"matchLabels": {"team": "red"}});
    let web = json!({"matchLabels": {"app": "web"}});
    let db = json!({"matchLabels": {"app": "db"}});
    let and = from(json!([{"namespaceSelector": red, "podSelector": web}]));
    check(&and, "rule 13: and", "one < three tcp 80", "one < two tcp 80");
    let finished = from(json!([{"namespaceSelector": red, "podSelector": db}]));
    check(&finished, "rule 31", "", "one < three tcp 80, one < two tcp 80");
    let or = from(json!([{"namespaceSelector": red}, {"podSelector": db}]));
    check(
        &or,
        "rule 13: or",
        "one < three tcp 80, one < two tcp 80",
        "one < world tcp 80",
    );
    check(
        &from(json!([{}])),
        "rule 15",
        "",
        "one < two tcp 80, one < world tcp 80",
    );
    let mixed = from(json!([{"podSelector": {}, "ipBlock": {"cidr": "0.0.0.0/0"}}]));
    check(&mixed, "rule 15", "", "one < two tcp 80, one < world tcp 80");
    let by_name = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "a"}}}]);
    check(
        &from(by_name),
        "rule 19",
        "one < two tcp 80",
        "one < three tcp 80",
    );
}

#[test]
fn selectors() {
    let two = "one < two tcp 80";
    let labels = |labels: Value| from(json!([{"podSelector": {"matchLabels": labels}}]));
    let expression = |key: &str, operator: &str, values: Value| {
        let expression = json!({"key": key, "operator": operator, "values": values});
        from(json!([{"podSelector": {"matchExpressions": [expression]}}]))
    };
    check(&labels(json!({"tier": ""})), "rule 16: empty value", two, "");
    check(&labels(json!({"other": ""})), "rule 16: absent key", "", two);
    check(
        &labels(json!({"app": "db", "tier": "x"})),
        "rule 16: and",
        "",
        two,
    );
    check(&expression("app", "In", json!(["x", "db"])), "rule 17", two, "");
    check(&expression("other", "In", json!([""])), "rule 17", "", two);
    check(&expression("app", "NotIn", json!(["db"])), "rule 17", "", two);
    check(
        &expression("other", "NotIn", json!(["db"])),
        "rule 17: absent key",
        two,
        "",
    );
    check(&expression("tier", "Exists", json!(null)), "rule 17", two, "");
    check(&expression("other", "Exists", json!(null)), "rule 17", "", two);
    check(&expression("tier", "DoesNotExist", json!([])), "rule 17", "", two);
    check(
        &expression("other", "DoesNotExist", json!([])),
        "rule 17",
        two,
        "",
    );
    check(
        &expression("tier", "Equals", json!([""])),
        "rule 18: never open",
        "",
        two,
    );
    check(
        &expression("app", "NotIn", json!([])),
        "rule 18: never open",
        "",
        two,
    );
    let unreadable = json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "?"}]}});
    check(
        &of_one(unreadable),
        "rule 18: isolates",
        "",
        "one < three tcp 80, two < three tcp 80",
    );
}

#[test]
fn blocks() {
    let hole = from(json!([
        {"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.2/31"]}},
        {"ipBlock": {"cidr": "10.0.0.3/32"}}
    ]));
    check(
        &hole,
        "rules 22, 23",
        "one < three tcp 80",
        "one < two tcp 80, one < world tcp 80, one6 < fd00::2 tcp 80",
    );
    let nodes = from(json!([{"ipBlock": {"cidr": "192.168.0.0/16"}}]));
    check(&nodes, "rule 23: nodes", "one < node-b tcp 80", "");
    let all =
        json!([{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["0.0.0.0/0"]}}, {"ipBlock": {"cidr": "::/0"}}]);
    check(
        &from(all),
        "rules 22, 23",
        "one6 < world6 tcp 80",
        "one < world tcp 80",
    );
    let unreadable = from(json!([{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["?"]}}]));
    check(&unreadable, "rule 18: never open", "", "one < two tcp 80");
}

#[test]
fn notation_of_cidrs() {
    for (network, address, expected) in [
        ("010.0.0.0/8", "10.1.2.3", Some(true)),
        ("010.0.0.0/8", "8.1.2.3", Some(false)),
        ("10.1.2.3/8", "10.9.9.9", Some(true)),
        ("10.0.0.0/08", "10.9.9.9", Some(true)),
        ("10.0.0.0/31", "10.0.0.1", Some(true)),
        ("10.0.0.0/31", "10.0.0.2", Some(false)),
        ("10.0.0.0/32", "10.0.0.0", Some(true)),
        ("0.0.0.0/0", "::1", Some(false)),
        ("::ffff:10.0.0.0/104", "10.1.1.1", Some(true)),
        ("::ffff:10.0.0.0/104", "11.1.1.1", Some(false)),
        ("::ffff:10.0.0.0/96", "11.1.1.1", Some(true)),
        ("::ffff:10.0.0.0/80", "10.0.0.0", Some(false)),
        ("::ffff:10.0.0.0/80", "::2", Some(true)),
        ("fd00::/8", "fdff::1", Some(true)),
        ("fd00::00001/128", "fd00::1", Some(true)),
        ("fd00:0:0:0:0:0:010.0.0.1/128", "fd00::a00:1", Some(true)),
        ("10.0.0.0", "10.0.0.0", None),
        ("10.0.0/8", "10.0.0.0", None),
        ("10.0.0.0/33", "10.0.0.0", None),
        ("10.0.0.0/", "10.0.0.0", None),
        ("10.0.0.0/+8", "10.0.0.0", None),
        ("10.0.0.256/8", "10.0.0.0", None),
        ("1:2:3:4:5:6:7::8/128", "::1", None),
        ("fd00::1::/64", "::1", None),
        ("::1.2.3.4:5/64", "::1", None),
        (":1::/64", "::1", None),
        ("fd00::1/129", "::1", None),
    ] {
        let found = cidr::contains(network, address.parse().unwrap());
        assert_eq!(found, expected, "rule 24: {network} {address}");
    }
}

#[test]
fn ports_and_protocols() {
    check(
        &ports(json!([])),
        "rule 9",
        "one < two gre 0, one < two udp 1",
        "",
    );
    check(
        &ports(json!([{}])),
        "rules 25, 29",
        "one < two tcp 1",
        "one < two udp 1, one < two icmp 0",
    );
    check(
        &ports(json!([{"protocol": "UDP", "port": 53}, {"protocol": "SCTP"}])),
        "rules 8, 25",
        "one < two udp 53, one < two sctp 9",
        "one < two udp 54, one < two tcp 53",
    );
    check(
        &ports(json!([{"port": 80, "endPort": 82}])),
        "rule 26",
        "one < two tcp 80, one < two tcp 82",
        "one < two tcp 79, one < two tcp 83, one < two udp 80",
    );
    check(
        &ports(json!([{"port": 80, "endPort": 80}])),
        "rule 26",
        "one < two tcp 80",
        "one < two tcp 81",
    );
    check(
        &ports(json!([{"port": 80, "endPort": 79}, {"endPort": 90}, {"port": "web", "endPort": 8080}])),
        "rule 26",
        "",
        "one < two tcp 80, one < two tcp 90, one < two tcp 8080",
    );
    check(
        &ports(
            json!([{"port": "web"}, {"port": "dns", "protocol": "UDP"}, {"port": "admin"}, {"port": "init"}]),
        ),
        "rule 27",
        "one < two tcp 8080, one < two udp 53, one < two tcp 9000",
        "one < two tcp 8081, one < two tcp 53, one < two tcp 9001",
    );
    check(
        &ports(json!([{"port": "none"}, {"port": ""}])),
        "rule 27",
        "",
        "one < two tcp 8080",
    );
    check(
        &ports(json!([{"protocol": "DCCP", "port": 80}])),
        "rule 28",
        "",
        "one < two tcp 80",
    );
    check(
        &egress(json!([{"ports": [{"port": "web"}, {"port": "dns", "protocol": "UDP"}]}])),
        "rule 27: on the destination pod",
        "one > two tcp 8081",
        "one > two tcp 8080, one > two udp 53, one > three tcp 8080, one > world tcp 8080, one > node-a tcp 8080",
    );
    check(
        &egress(json!([{"to": [{"podSelector": {}}], "ports": [{"port": 80}]}])),
        "rules 8, 21",
        "one > two tcp 80",
        "one > two tcp 81, one > three tcp 80, one > node-a tcp 80",
    );
}
