//! Answers that can be read off the texts: each line names the rule that it was read from.

mod cluster;
mod network_policy;

use serde_json::{Value, json};

use super::{Packet, World};

/// Three pods, one of them dual-stack, one that failed, one of the host network, and two nodes.
///
/// ```text
/// a/one   app=web           10.0.0.1 fd00::1  node-a   web: TCP 8080, dns: UDP 53, admin: TCP 9000 (a sidecar's)
/// a/two   app=db tier=""    10.0.0.2          node-a   web: TCP 8081, dns: TCP 53
/// b/three app=web           10.0.0.3          node-b
/// b/old   app=db (failed)   10.0.0.3          node-b
/// b/host  app=web           192.168.0.1       node-a
/// ```
fn cluster(policies: Value, cluster_policies: Value) -> World {
    let pod = |namespace: &str, name: &str, labels: Value, node: &str, ips: &[&str]| {
        let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        json!({
            "metadata": {"namespace": namespace, "name": name, "labels": labels},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "podIPs": ips}
        })
    };
    let mut one = pod(
        "a",
        "one",
        json!({"app": "web"}),
        "node-a",
        &["10.0.0.1", "fd00::1"],
    );
    one["spec"]["containers"] = json!([{"name": "c", "ports": [
        {"name": "web", "containerPort": 8080},
        {"name": "dns", "containerPort": 53, "protocol": "UDP"}
    ]}]);
    one["spec"]["initContainers"] = json!([
        {"name": "s", "restartPolicy": "Always", "ports": [{"name": "admin", "containerPort": 9000}]},
        {"name": "i", "ports": [{"name": "init", "containerPort": 9001}]}
    ]);
    let mut two = pod(
        "a",
        "two",
        json!({"app": "db", "tier": ""}),
        "node-a",
        &["10.0.0.2"],
    );
    two["spec"]["containers"] = json!([{"name": "c", "ports": [
        {"name": "web", "containerPort": 8081},
        {"name": "dns", "containerPort": 53, "protocol": "TCP"}
    ]}]);
    let three = pod("b", "three", json!({"app": "web"}), "node-b", &["10.0.0.3"]);
    let mut old = pod("b", "old", json!({"app": "db"}), "node-b", &["10.0.0.3"]);
    old["status"]["phase"] = json!("Failed");
    let mut host = pod("b", "host", json!({"app": "web"}), "node-a", &["192.168.0.1"]);
    host["spec"]["hostNetwork"] = json!(true);
    let node = |name: &str, address: &str| {
        json!({
            "metadata": {"name": name, "labels": {"zone": name}},
            "status": {"addresses": [
                {"type": "Hostname", "address": name},
                {"type": "InternalIP", "address": address}
            ]}
        })
    };
    let namespaces = json!([{"metadata": {"name": "b", "labels": {"team": "red"}}}]);
    let nodes = json!([node("node-a", "192.168.0.1"), node("node-b", "192.168.0.2")]);
    World {
        namespaces: serde_json::from_value(namespaces).unwrap(),
        nodes: serde_json::from_value(nodes).unwrap(),
        pods: serde_json::from_value(json!([old, one, two, three, host])).unwrap(),
        policies: serde_json::from_value(policies).unwrap(),
        cluster_policies: serde_json::from_value(cluster_policies).unwrap(),
    }
}

/// A question is `SOURCE > DESTINATION PROTOCOL PORT`, or `DESTINATION < SOURCE PROTOCOL PORT` where that reads better.
fn asks(world: &World, question: &str) -> bool {
    let words: Vec<&str> = question.split_whitespace().collect();
    let [left, arrow, right, protocol, port] = words[..] else {
        panic!("{question}")
    };
    let address = |name: &str| {
        let text = match name {
            "one" => "10.0.0.1",
            "one6" => "fd00::1",
            "two" => "10.0.0.2",
            "three" => "10.0.0.3",
            "node-a" => "192.168.0.1",
            "node-b" => "192.168.0.2",
            "world" => "192.0.2.1",
            "world6" => "2001:db8::1",
            other => other,
        };
        text.parse().unwrap()
    };
    let (source, destination) = if arrow == ">" {
        (left, right)
    } else {
        (right, left)
    };
    let protocol = match protocol {
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        "icmp" => 1,
        "gre" => 47,
        other => panic!("{other}"),
    };
    world.allowed(&Packet {
        source: address(source),
        destination: address(destination),
        protocol,
        port: port.parse().unwrap(),
    })
}

/// Asks a world every question: `yes:` and `no:` lists of questions, separated by commas.
fn check(world: &World, rules: &str, yes: &str, no: &str) {
    for (questions, expected) in [(yes, true), (no, false)] {
        for question in questions
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty())
        {
            assert_eq!(asks(world, question), expected, "{rules}: {question}");
        }
    }
}
