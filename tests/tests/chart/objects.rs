//! What every object must be, whatever the values.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    batch::v1::Job,
    core::v1::{ConfigMap, Container, PodSpec, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{chart::BY_THE_CHART, root, template};

fn objects(version: &str) -> Vec<Value> {
    let values = root().join("tests/data/chart/cases/everything.yaml");
    let text = template(version, &["--values", &values.display().to_string()]).unwrap();
    serde_saphyr::from_multiple::<Value>(&text).unwrap()
}

fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap()
}

fn name(object: &Value) -> String {
    format!(
        "{} {}",
        kind(object),
        object["metadata"]["name"].as_str().unwrap()
    )
}

fn strict<T: DeserializeOwned>(object: &Value) -> T {
    let mut unknown = Vec::new();
    let read = serde_ignored::deserialize(object, |path| unknown.push(path.to_string()))
        .unwrap_or_else(|error| panic!("{}: {error}", name(object)));
    assert!(
        unknown.is_empty(),
        "{} has fields that Kubernetes does not know: {unknown:?}",
        name(object)
    );
    read
}

/// The pods that come of an object.
fn pods(object: &Value) -> Option<PodSpec> {
    match kind(object) {
        "DaemonSet" => strict::<DaemonSet>(object).spec.template.spec,
        "Deployment" => strict::<Deployment>(object).spec.template.spec,
        "Job" => strict::<Job>(object).spec.unwrap().template.spec,
        _ => None,
    }
}

fn containers(pod: &PodSpec) -> impl Iterator<Item = &Container> {
    pod.init_containers.iter().flatten().chain(&pod.containers)
}

#[test]
fn kubernetes_knows_every_field() {
    let mut seen = BTreeSet::new();
    for object in objects("1.34.0") {
        match kind(&object) {
            "ConfigMap" => drop(strict::<ConfigMap>(&object)),
            "ServiceAccount" => drop(strict::<ServiceAccount>(&object)),
            "Service" => drop(strict::<Service>(&object)),
            "ClusterRole" => drop(strict::<ClusterRole>(&object)),
            "ClusterRoleBinding" => drop(strict::<ClusterRoleBinding>(&object)),
            "Role" => drop(strict::<Role>(&object)),
            "RoleBinding" => drop(strict::<RoleBinding>(&object)),
            "NetworkPolicy" => drop(strict::<NetworkPolicy>(&object)),
            "DaemonSet" | "Deployment" | "Job" => assert!(pods(&object).is_some()),
            // Of the Prometheus operator.
            "PodMonitor" | "PrometheusRule" => {}
            other => panic!("{other}"),
        }
        seen.insert(kind(&object).to_owned());
    }
    assert_eq!(seen.len(), 13, "{seen:?}");
}

#[test]
fn no_container_may_do_more_than_it_needs() {
    let allowed = ["BPF", "NET_ADMIN", "PERFMON", "SYS_RESOURCE"];
    for object in objects("1.34.0") {
        let Some(pod) = pods(&object) else { continue };
        assert_ne!(pod.host_pid, Some(true), "{}", name(&object));
        assert_ne!(pod.host_ipc, Some(true), "{}", name(&object));
        let seccomp = pod
            .security_context
            .as_ref()
            .and_then(|context| context.seccomp_profile.as_ref());
        assert_eq!(seccomp.unwrap().type_, "RuntimeDefault", "{}", name(&object));
        for container in containers(&pod) {
            let of = format!("{}: {}", name(&object), container.name);
            let context = container.security_context.as_ref().unwrap();
            assert_ne!(context.privileged, Some(true), "{of}");
            assert_eq!(context.allow_privilege_escalation, Some(false), "{of}");
            assert_eq!(context.read_only_root_filesystem, Some(true), "{of}");
            let capabilities = context.capabilities.as_ref().unwrap();
            assert_eq!(capabilities.drop.as_deref().unwrap(), ["ALL"], "{of}");
            let added: Vec<_> = capabilities.add.iter().flatten().map(String::as_str).collect();
            match container.name.as_str() {
                "agent" | "uninstall" => assert_eq!(added, allowed, "{of}"),
                _ => assert!(added.is_empty(), "{of}: {added:?}"),
            }
            let resources = container.resources.as_ref().unwrap();
            assert!(resources.requests.is_some() && resources.limits.is_some(), "{of}");
            let image = container.image.as_deref().unwrap();
            assert!(
                image.contains(":v") || image.contains("@sha256:") || image.contains(":0"),
                "{of}: {image}"
            );
        }
    }
}

#[test]
fn agents_come_to_every_node_and_stay_there() {
    let all = objects("1.34.0");
    for agents in all.iter().filter(|object| kind(object) == "DaemonSet") {
        let pod = pods(agents).unwrap();
        assert_eq!(pod.host_network, Some(true));
        assert_eq!(pod.priority_class_name.as_deref(), Some("system-node-critical"));
        let tolerations = pod.tolerations.unwrap();
        assert!(
            tolerations
                .iter()
                .any(|t| t.operator.as_deref() == Some("Exists") && t.key.is_none())
        );
    }
    let agent = all
        .iter()
        .find(|object| name(object) == "DaemonSet vethwall")
        .unwrap();
    let pod = pods(agent).unwrap();
    let [container] = pod.containers.as_slice() else {
        panic!()
    };
    for probe in [
        &container.startup_probe,
        &container.liveness_probe,
        &container.readiness_probe,
    ] {
        let http = probe.as_ref().unwrap().http_get.as_ref().unwrap();
        assert_eq!(http.host.as_deref(), Some("127.0.0.1"));
    }
}

/// Every right, as one line. A new one is somebody's decision, made here.
#[test]
fn rights_are_these_and_no_others() {
    let all = objects("1.34.0");
    let rule = |of: &str, rule: PolicyRule| {
        let join = |list: Option<Vec<String>>| list.unwrap_or_default().join(",");
        format!(
            "{of}: {} {}/{} {}",
            rule.verbs.join(","),
            join(rule.api_groups),
            join(rule.resources),
            join(rule.resource_names)
        )
    };
    let mut rights = Vec::new();
    for object in &all {
        let rules = match kind(object) {
            "ClusterRole" => strict::<ClusterRole>(object).rules,
            "Role" => strict::<Role>(object).rules,
            _ => None,
        };
        rights.extend(rules.into_iter().flatten().map(|held| rule(&name(object), held)));
    }
    rights.sort();
    assert_eq!(
        rights,
        [
            "ClusterRole vethwall: list,watch /pods,namespaces,nodes ",
            "ClusterRole vethwall: list,watch networking.k8s.io/networkpolicies ",
            "ClusterRole vethwall: list,watch policy.networking.k8s.io/clusternetworkpolicies ",
            "ClusterRole vethwall: patch /nodes ",
            "Role vethwall-uninstall: get apps/daemonsets vethwall-uninstall",
            "Role vethwall-uninstall: list /pods ",
            "Role vethwall: list,watch,create,update /configmaps ",
        ]
    );
    // The tests with a real API server take them away one by one (tests/tests/cluster).
    let file = std::fs::read_to_string(root().join("tests/data/cluster/clusterrole.yaml")).unwrap();
    let tried: ClusterRole = strict(&serde_saphyr::from_str(&file).unwrap());
    let made = all
        .iter()
        .find(|object| name(object) == "ClusterRole vethwall")
        .unwrap();
    let mut made = strict::<ClusterRole>(made).rules.unwrap();
    assert_eq!(made.pop().unwrap().verbs, ["patch"]);
    assert_eq!(Some(made), tried.rules);
    // And without the switch that needs it, none to write at all.
    let plain = template("1.34.0", &[]).unwrap();
    assert!(!plain.contains("patch"), "{plain}");
}

#[test]
fn what_the_agent_is_given_it_takes() {
    let all = objects("1.34.0");
    let config = all
        .iter()
        .find(|object| name(object) == "ConfigMap vethwall")
        .unwrap();
    let text = config["data"]["config.yaml"].as_str().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    std::fs::write(&path, text).unwrap();
    let read = vethwall::config::Given::default().over(Some(&path)).unwrap();
    assert_eq!(read.max_pods.get(), 250);
    // And each container's arguments.
    for object in &all {
        for container in pods(object).iter().flat_map(containers) {
            let arguments = container.args.iter().flatten().map(String::as_str);
            // What kubelet puts in.
            let arguments = arguments.map(|text| text.replace("$(VETHWALL_TEST_SERVICE_HOST)", "10.0.0.1"));
            let line: Vec<_> = std::iter::once("vethwall".to_owned()).chain(arguments).collect();
            let parsed = <vethwall::cli::Cli as clap::Parser>::try_parse_from(&line);
            assert!(parsed.is_ok(), "{line:?}: {:?}", parsed.err());
        }
    }
}

#[test]
fn the_chart_sets_itself_what_values_may_not() {
    let text = template("1.34.0", &[]).unwrap();
    for (key, how) in [
        ("node", "VETHWALL_NODE"),
        ("plugin", "--plugin=/bin/vethwall-cni"),
        ("http", "--http=127.0.0.1:"),
        ("bpffs", "mountPath: /sys/fs/bpf"),
    ] {
        assert!(BY_THE_CHART.contains(&key) && text.contains(how), "{key}");
    }
}

#[test]
fn a_change_that_needs_no_restart_restarts_nothing() {
    let pods = |set: &str| {
        let text = template(
            "1.34.0",
            &["--set", set, "--show-only", "templates/daemonset.yaml"],
        )
        .unwrap();
        let object: Value = serde_saphyr::from_str(&text).unwrap();
        object["spec"]["template"].clone()
    };
    let usual = pods("config.mode=enforce");
    assert_eq!(pods("config.mode=audit"), usual);
    assert_eq!(pods("config.log=debug"), usual);
    assert_ne!(pods("config.maxPods=20"), usual);
}
