use serde_json::json;

use super::*;

fn node(name: &str, kernel: &str, kubelet: &str, annotations: serde_json::Value) -> Node {
    let info = json!({"kernelVersion": kernel, "kubeletVersion": kubelet, "containerRuntimeVersion": "containerd://2.1.4",
        "architecture": "amd64", "bootID": "", "kubeProxyVersion": "", "machineID": "", "operatingSystem": "linux",
        "osImage": "", "systemUUID": ""});
    serde_json::from_value(
        json!({"metadata": {"name": name, "annotations": annotations}, "status": {"nodeInfo": info}}),
    )
    .unwrap()
}

fn k3s() -> Facts {
    let flannel = "flannel.alpha.coreos.com/backend-type";
    let policy = json!({"metadata": {"name": "deny", "namespace": "shop"}, "spec": {"podSelector": {"matchLabels": {"app": "db"}}}});
    let pod = |name: &str, app: &str| {
        serde_json::from_value(
            json!({"metadata": {"name": name, "namespace": "shop", "labels": {"app": app}}}),
        )
        .unwrap()
    };
    Facts {
        nodes: vec![
            node(
                "a",
                "6.8.0-45-generic",
                "v1.33.4+k3s1",
                json!({flannel: "vxlan", "k3s.io/node-args": "[\"server\"]"}),
            ),
            node(
                "b",
                "5.15.0-119-generic",
                "v1.33.4+k3s1",
                json!({flannel: "vxlan", "k3s.io/node-args": "[\"agent\"]"}),
            ),
        ],
        daemonsets: Ok(Vec::new()),
        policies: Ok(vec![serde_json::from_value(policy).unwrap()]),
        pods: Ok(vec![pod("db-0", "db"), pod("web-0", "web")]),
    }
}

fn of(facts: &Facts, check: &str) -> Finding {
    judge(facts, None)
        .into_iter()
        .find(|finding| finding.check == check)
        .unwrap()
}

#[test]
fn k3s_enforces_unless_its_servers_say_otherwise() {
    let mut facts = k3s();
    let found = of(&facts, "enforcer");
    assert_eq!(found.outcome, Outcome::Warn);
    assert!(
        found.message.contains("k3s") && found.message.contains("(servers a)"),
        "{found:?}"
    );
    let arguments = json!({"k3s.io/node-args": "[\"server\",\"--disable-network-policy\"]"});
    facts.nodes[0].metadata.annotations = serde_json::from_value(arguments).unwrap();
    assert_eq!(of(&facts, "enforcer").outcome, Outcome::Ok);
    let policies = of(&facts, "policies");
    assert!(
        policies
            .message
            .contains("that nobody enforces today select 1 pods"),
        "{policies:?}"
    );
    assert_eq!(policies.names, ["shop/deny"]);
}

#[test]
fn what_could_not_be_listed_is_unknown() {
    let facts = Facts {
        daemonsets: Err("you may not".to_owned()),
        pods: Err("you may not".to_owned()),
        ..k3s()
    };
    assert!(
        judge(&facts, None)
            .iter()
            .any(|f| f.check == "enforcer" && f.outcome == Outcome::Unknown)
    );
    assert_eq!(of(&facts, "policies").outcome, Outcome::Unknown);
}

#[test]
fn a_cluster_without_flannel_or_with_an_old_kernel_fails() {
    let facts = Facts {
        nodes: vec![node("a", "4.18.0-553.el8", "v1.33.4", json!({}))],
        ..k3s()
    };
    assert_eq!(of(&facts, "flannel").outcome, Outcome::Fail);
    let kernel = of(&facts, "kernel");
    assert_eq!(
        (kernel.outcome, kernel.names),
        (Outcome::Fail, vec!["a (4.18.0-553.el8)".to_owned()])
    );
    assert_eq!(of(&k3s(), "kernel").outcome, Outcome::Ok);
}
