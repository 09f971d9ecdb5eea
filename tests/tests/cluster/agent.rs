//! The agent itself on a node of a cluster, with the real plugins of flannel and libcni.

use std::{fs, path::Path, process::Output, thread, time::Duration};

use serde_json::Value;
use vethwall_tests::{
    apiserver::{LINE, objects},
    cni::{BIN, CONF, FLANNEL},
    sandbox::{self, ip},
};

use super::{Cluster, relabel};
use crate::{
    chain::{Agent, endpoints, programs, status, until, vethwall},
    plugin::node::{Node, text},
};

/// A node as kube-flannel leaves it, and network namespaces for the cluster's pods.
pub(super) fn plain_node() -> Node {
    let node = Node::new(FLANNEL);
    fs::remove_file(Path::new(BIN).join("vethwall-cni")).unwrap();
    for name in ["web", "db", "late"] {
        ip(&format!("netns add {name}")).unwrap();
    }
    node
}

/// The runtime starts or ends a pod, of which it knows the UID from the kubelet.
fn pod(cluster: &Cluster, node: &Node, verb: &str, name: &str) -> Output {
    let mut args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name}");
    // Of one that is not made yet, or that nobody can ask for, the UID is not known.
    if let Ok(object) = cluster.admin.get(&format!("/api/v1/namespaces/shop/pods/{name}")) {
        args = format!(
            "{args};K8S_POD_UID={}",
            object["metadata"]["uid"].as_str().unwrap()
        );
    }
    node.cnitool_as(verb, &format!("/run/netns/{name}"), &args)
}

fn starts(cluster: &Cluster, node: &Node, name: &str) {
    let output = pod(cluster, node, "add", name);
    assert!(output.status.success(), "{}", text(&output));
}

fn codes() -> Vec<String> {
    let status = status();
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    problems
        .iter()
        .map(|problem| problem["code"].as_str().unwrap_or_default().to_owned())
        .filter(|code| code.starts_with("API"))
        .collect()
}

fn isolated(name: &str) -> Value {
    let status = status();
    let mut endpoints = status["endpoints"].as_array().unwrap().iter();
    let found = endpoints.find(|endpoint| endpoint["pod"] == name);
    found
        .map(|endpoint| endpoint["ingress"]["isolated"].clone())
        .unwrap_or_default()
}

#[test]
fn a_node_of_a_cluster_stays_enforced_without_its_api_server() {
    sandbox::run(|| {
        let mut cluster = Cluster::start();
        let node = plain_node();
        starts(&cluster, &node, "db");
        let config = cluster.api.kubeconfig("agent", LINE, "administrator").unwrap();
        let config = config.to_str().unwrap();
        let agent = Agent::of_cluster(config, "own");
        until("the agent is steady", || status()["phase"] == "steady");
        assert_eq!(endpoints(), [("db".into(), "enforcing".into())].into());
        assert_eq!(isolated("db"), true);
        assert_eq!(status()["cluster"]["server"], "https://127.0.0.1:7443");
        let shown = text(&vethwall(&["status"]));
        assert!(
            shown.contains("Cluster    https://127.0.0.1:7443: all current, heard of"),
            "{shown}"
        );

        // A pod of which the cluster does not tell: its start waits until it does.
        let late = thread::scope(|scope| {
            let waits = scope.spawn(|| pod(&cluster, &node, "add", "late"));
            thread::sleep(Duration::from_millis(500));
            let mut object = objects::pod("shop", "late", "db", "");
            object.as_object_mut().unwrap().remove("status");
            let direct = cluster.api.admin().unwrap();
            direct.apply(&object).unwrap();
            waits.join().unwrap()
        });
        assert!(late.status.success(), "{}", text(&late));
        assert_eq!(isolated("late"), true);

        // A change is in force soon.
        relabel(&cluster.admin, "db", "free");
        until("the pod is not isolated any more", || isolated("db") == false);

        // The API server goes. Known pods start, everything stays in force, and it is told.
        cluster.api.kill().unwrap();
        until("it is told", || codes() == ["API001"]);
        assert_eq!(status()["phase"], "steady");
        let carried = programs();
        drop(agent);
        let agent = Agent::of_cluster(config, "own");
        until("it is told", || codes() == ["API001"]);
        assert_eq!(
            (programs(), status()["phase"].clone()),
            (carried, "loaded".into()),
            "as it was left"
        );
        let refused = pod(&cluster, &node, "add", "web");
        assert!(
            text(&refused).contains("not all objects of the cluster are known"),
            "{}",
            text(&refused)
        );
        cluster.api.run().unwrap();
        cluster.admin = cluster.api.admin().unwrap();
        until("the agent is steady", || status()["phase"] == "steady");
        assert!(pod(&cluster, &node, "del", "web").status.success());
        starts(&cluster, &node, "web");
        assert_eq!(isolated("web"), false);
        assert_eq!(endpoints().len(), 3);
        drop(agent);
    });
}

#[test]
fn a_node_whose_agent_can_not_ask_keeps_its_network() {
    sandbox::run(|| {
        let cluster = Cluster::start();
        let node = plain_node();
        let _agent = Agent::of_cluster("/run/nothing", "own");
        until("it is told", || codes() == ["API003"]);
        thread::sleep(Duration::from_secs(2));
        assert!(
            !Path::new(CONF).join("05-vethwall.conflist").exists(),
            "nothing is chained"
        );
        starts(&cluster, &node, "web");
        let listener = std::net::TcpListener::bind("10.244.1.1:80").unwrap();
        let reach = [
            "netns",
            "exec",
            "web",
            "bash",
            "-c",
            "echo > /dev/tcp/10.244.1.1/80",
        ];
        sandbox::command("timeout", &[&["5", "ip"], reach.as_slice()].concat()).unwrap();
        listener.accept().unwrap();
    });
}
