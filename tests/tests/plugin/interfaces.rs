//! Pods that are wired otherwise than most: by two interfaces, without a bridge, in both families. Real chains, the real agent, and
//! packets: one that policy lets in, one that it does not.

use std::{
    fs,
    net::{IpAddr, UdpSocket},
    path::Path,
    thread,
    time::Duration,
};

use serde_json::Value;
use vethwall_cni::conflist;
use vethwall_datapath::veth;
use vethwall_tests::{
    cni::{CONF, FLANNEL},
    hooks,
    sandbox::{self, inside, ip},
};

use super::{
    node::{Node, text},
    pins,
};
use crate::chain::{Agent, MANIFESTS, status, until};

/// What a pod has by flannel, and what by a network of its own.
const ETH0: (&str, &str) = ("cbr0", "eth0");
const NET1: (&str, &str) = ("second", "net1");
const SECOND: &str = r#"{"name": "second", "cniVersion": "1.0.0", "plugins": [
    {"type": "bridge", "bridge": "br1", "isGateway": true, "ipam": {"type": "host-local", "subnet": "10.99.0.0/24"}},
    {"type": "vethwall-cni"}]}"#;

/// To `server`, UDP to port 80 and nothing else.
const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, uid: u-client}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: shop, uid: u-server, labels: {app: server}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: one-port, namespace: shop}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress]
  ingress: [{ports: [{port: 80, protocol: UDP}]}]
";

/// An interface of a pod: the host's end, and the pod's addresses.
struct Wired {
    ifindex: u32,
    addresses: Vec<IpAddr>,
}

fn cnitool(node: &Node, verb: &str, on: (&str, &str), pod: &str) -> Value {
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod};K8S_POD_UID=u-{pod}");
    let output = node.cnitool_on(verb, on, &format!("/run/netns/{pod}"), &args);
    assert!(output.status.success(), "{verb} {on:?} {pod}: {}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn add(node: &Node, on: (&str, &str), pod: &str) -> Wired {
    let result = cnitool(node, "add", on, pod);
    let all = result["interfaces"].as_array().unwrap().iter();
    let name = |interface: &Value| interface["name"].as_str().unwrap().to_owned();
    let mut host = all.map(name).filter(|name| name.starts_with("veth"));
    let addresses = result["ips"].as_array().unwrap().iter().map(|ip| {
        let (address, _) = ip["address"].as_str().unwrap().split_once('/').unwrap();
        address.parse().unwrap()
    });
    Wired {
        ifindex: veth::ifindex(&host.next().unwrap()).unwrap().unwrap(),
        addresses: addresses.collect(),
    }
}

/// A node with an agent, and network namespaces for both pods.
fn start(list: &str) -> (Node, Agent) {
    fs::create_dir_all(MANIFESTS).unwrap();
    fs::write(Path::new(MANIFESTS).join("all.yaml"), OBJECTS).unwrap();
    let node = Node::new(&conflist::insert(list, &conflist::default_entry()).unwrap());
    for pod in ["client", "server"] {
        ip(&format!("netns add {pod}")).unwrap();
    }
    (node, ready())
}

fn ready() -> Agent {
    let agent = Agent::start("off");
    until("the agent is ready", || status()["ready"] == true);
    agent
}

/// Of what the client sends to the server, port 80 arrives and port 81 does not.
fn assert_judged(server: &Wired, case: &str) {
    assert!(hooks::on(&pins(), server.ifindex).unwrap(), "{case}");
    for address in &server.addresses {
        let receivers = [80, 81].map(|port| inside("server", || UdpSocket::bind((*address, port)).unwrap()));
        inside("client", || {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            for _ in 0..5 {
                for port in [81, 80] {
                    socket.send_to(b"hello", (*address, port)).unwrap();
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let heard = receivers.map(|receiver| {
            receiver
                .set_read_timeout(Some(Duration::from_millis(500)))
                .unwrap();
            receiver.recv(&mut [0; 16]).is_ok()
        });
        assert_eq!(
            heard,
            [true, false],
            "{case}: {address}, ports 80 and 81: {}",
            status()
        );
    }
}

/// How many interfaces of a pod are enforced.
fn enforced(pod: &str) -> usize {
    let status = status();
    let endpoints = status["endpoints"].as_array().cloned().unwrap_or_default();
    endpoints
        .iter()
        .filter(|endpoint| endpoint["pod"] == pod && endpoint["state"] == "enforcing")
        .count()
}

// Covers: SEMANTICS 30
#[test]
fn each_interface_of_a_pod_is_enforced_and_goes_alone() {
    sandbox::run(|| {
        fs::create_dir_all(CONF).unwrap();
        fs::write(Path::new(CONF).join("20-second.conflist"), SECOND).unwrap();
        let (node, agent) = start(FLANNEL);
        for on in [ETH0, NET1] {
            add(&node, on, "client");
        }
        let [eth0, net1] = [ETH0, NET1].map(|on| add(&node, on, "server"));
        assert_judged(&eth0, "flannel's interface");
        assert_judged(&net1, "the second interface");
        assert_eq!(enforced("server"), 2);

        cnitool(&node, "del", NET1, "server");
        until("the second interface is forgotten", || enforced("server") == 1);
        assert_judged(&eth0, "without the second");
        let net1 = add(&node, NET1, "server");
        assert_judged(&net1, "the second, again");

        // The next agent finds both.
        agent.terminate();
        let _agent = ready();
        assert_eq!(enforced("server"), 2);
        assert_judged(&eth0, "taken over");
        assert_judged(&net1, "the second, taken over");

        cnitool(&node, "del", ETH0, "server");
        until("flannel's interface is forgotten", || enforced("server") == 1);
        assert_judged(&net1, "without flannel's");
        for (on, pod) in [(NET1, "server"), (NET1, "client"), (ETH0, "client")] {
            cnitool(&node, "del", on, pod);
        }
        assert_eq!(node.leftovers(), (0, 0));
    });
}

/// The route to the pod leads to its veth, and no bridge carries the second stage.
#[test]
fn a_pod_without_a_bridge_is_enforced() {
    sandbox::run(|| {
        let list = FLANNEL.replace(r#""delegate": {"#, r#""delegate": {"type": "ptp","#);
        assert_ne!(list, FLANNEL);
        let (node, _agent) = start(&list);
        add(&node, ETH0, "client");
        let server = add(&node, ETH0, "server");
        assert_judged(&server, "ptp");
        until("it is told what is not judged there", || {
            let status = status();
            let problems = status["problems"].as_array().cloned().unwrap_or_default();
            problems.iter().any(|problem| problem["code"] == "KRN009")
        });
        for pod in ["client", "server"] {
            cnitool(&node, "del", ETH0, pod);
        }
        assert_eq!(node.leftovers(), (0, 0));
    });
}

#[test]
fn both_families_of_a_pod_are_enforced() {
    sandbox::run(|| {
        let (node, _agent) = start(FLANNEL);
        let subnet = fs::read_to_string("/run/flannel/subnet.env").unwrap();
        let more = "FLANNEL_IPV6_NETWORK=fd00:10:244::/56\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\n";
        fs::write("/run/flannel/subnet.env", subnet + more).unwrap();
        add(&node, ETH0, "client");
        let server = add(&node, ETH0, "server");
        let families = server.addresses.iter().map(IpAddr::is_ipv6);
        assert_eq!(families.collect::<Vec<_>>(), [false, true]);
        assert_judged(&server, "dual stack");
        for pod in ["client", "server"] {
            cnitool(&node, "del", ETH0, pod);
        }
        assert_eq!(node.leftovers(), (0, 0));
    });
}
