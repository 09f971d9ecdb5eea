//! Random clusters brought to life in the lab: real flannel plugins, agents, plugin, kernel and traffic, against the
//! evaluator of the API's text. Each world becomes the next by `apply`, so changes of pods, labels and policies are
//! tried on the way.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, PodIP};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use vethwall_common::protocol;
use vethwall_tests::{
    lab::{Lab, Options, Probe},
    oracle::{self, World},
    worlds,
};

const WORLDS: usize = 6;
const QUESTIONS: [(&str, u8, u16); 4] = [
    ("TCP", protocol::TCP, 80),
    ("TCP", protocol::TCP, 8080),
    ("UDP", protocol::UDP, 53),
    ("UDP", protocol::UDP, 80),
];

struct Guard(Lab);

impl Drop for Guard {
    fn drop(&mut self) {
        Lab::down(&self.0.state.name).expect("down");
    }
}

fn key(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!(
        "{}/{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}

/// Pods that send and receive.
fn talks(pod: &Pod) -> bool {
    let host = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.host_network == Some(true));
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !host && phase == Some("Running")
}

fn write(world: &World, directory: &std::path::Path) -> Result<()> {
    let typed = |value: serde_json::Value, version: &str, kind: &str| {
        let mut value = value;
        value["apiVersion"] = version.into();
        value["kind"] = kind.into();
        value
    };
    let mut items = Vec::new();
    for namespace in &world.namespaces {
        items.push(typed(serde_json::to_value(namespace)?, "v1", "Namespace"));
    }
    for pod in &world.pods {
        let mut pod = pod.clone();
        // The lab gives addresses and identities, like a cluster.
        let status = pod.status.get_or_insert_default();
        (status.pod_ip, status.pod_ips, pod.metadata.uid) = (None, None, None);
        items.push(typed(serde_json::to_value(pod)?, "v1", "Pod"));
    }
    for policy in &world.policies {
        items.push(typed(
            serde_json::to_value(policy)?,
            "networking.k8s.io/v1",
            "NetworkPolicy",
        ));
    }
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items});
    Ok(fs::write(
        directory.join("world.json"),
        serde_json::to_vec_pretty(&list)?,
    )?)
}

/// The world with the addresses that the lab gave.
fn living(world: &World, lab: &Lab) -> World {
    let mut world = world.clone();
    for pod in &mut world.pods {
        let address = lab
            .state
            .pods
            .get(&key(pod))
            .and_then(|known| known.address(false));
        let status = pod.status.get_or_insert_default();
        status.pod_ip = address.map(|address| address.to_string());
        status.pod_ips = address.map(|address| {
            vec![PodIP {
                ip: address.to_string(),
            }]
        });
    }
    world
}

fn compare(lab: &Lab, world: &World) -> Result<(usize, usize)> {
    let world = living(world, lab);
    let pods: BTreeMap<String, &Pod> = world
        .pods
        .iter()
        .filter(|pod| talks(pod))
        .map(|pod| (key(pod), pod))
        .collect();
    let (mut probes, mut expected) = (Vec::new(), Vec::new());
    for (from, source) in &pods {
        for (to, destination) in pods.iter().filter(|(to, _)| *to != from) {
            for (name, number, port) in QUESTIONS {
                let address = |pod: &Pod| oracle::addresses(pod).next().context("a pod without an address");
                let packet = oracle::Packet {
                    source: address(source)?,
                    destination: address(destination)?,
                    protocol: number,
                    port,
                };
                expected.push(
                    world.egress_allowed(source, &packet) && world.ingress_allowed(destination, &packet),
                );
                probes.push(Probe::new(from, to, port, name));
            }
        }
    }
    let outcomes = lab.probe(&probes)?;
    for ((probe, outcome), expected) in probes.iter().zip(&outcomes).zip(&expected) {
        // Nobody listens on most ports: a refusal means that the packet arrived and its answer too.
        let arrived = match outcome.result.as_ref() {
            "allowed" | "refused" => true,
            "denied" => false,
            other => anyhow::bail!("{probe:?}: {other}: {:?}", outcome.detail),
        };
        ensure!(
            arrived == *expected,
            "{probe:?}: seen {:?}, expected {}\n{}",
            outcome.result,
            if *expected {
                "it to arrive"
            } else {
                "it to be dropped"
            },
            serde_json::to_string_pretty(&serde_json::json!({
                "namespaces": world.namespaces, "pods": world.pods, "policies": world.policies
            }))?
        );
    }
    Ok((
        expected.len(),
        expected.iter().filter(|allowed| !**allowed).count(),
    ))
}

// Covers: SEMANTICS 2, 3, 36, 43
#[test]
fn real_traffic_and_evaluator_agree_on_random_clusters() -> Result<()> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = worlds::world(3);
    let directory = tempfile::tempdir()?;
    let mut guard: Option<Guard> = None;
    let (mut asked, mut denied) = (0, 0);
    for _ in 0..WORLDS {
        let world = strategy
            .new_tree(&mut runner)
            .map_err(|e| anyhow::anyhow!("{e}"))?
            .current();
        write(&world, directory.path())?;
        let applied = match &mut guard {
            Some(guard) => guard.0.apply(directory.path(), &mut |_| {})?,
            none => {
                let options = Options::new(&format!("enforced-{}", std::process::id()), directory.path());
                let (lab, applied) = Lab::up(&options, &mut |_| {})?;
                *none = Some(Guard(lab));
                applied
            }
        };
        ensure!(applied.complete(), "{applied:?}");
        let lab = &guard.as_ref().context("a lab")?.0;
        let (all, dropped) = compare(lab, &world)?;
        (asked, denied) = (asked + all, denied + dropped);
    }
    ensure!(
        denied > 0 && denied < asked,
        "{denied} of {asked} denied: these worlds try too little"
    );
    println!("{WORLDS} clusters, {asked} connections, {denied} of them to be dropped: no difference");
    Ok(())
}

const EGRESS: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: egress}
spec: {podSelector: {}, policyTypes: [Egress]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: first}
spec: {containers: [{name: c, image: c}]}
";

/// Egress beyond the pod network waits for the bridge's program. A bridge that was deleted and that the next ADD makes
/// anew has none, so that pod must not run before it has.
// Covers: SEMANTICS 30, 41
#[test]
fn a_bridge_that_is_made_anew_lets_nothing_out() -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("first.yaml"), EGRESS)?;
    let options = Options {
        nodes: 1,
        ..Options::new(&format!("bridge-{}", std::process::id()), directory.path())
    };
    let (lab, applied) = Lab::up(&options, &mut |_| {})?;
    let mut guard = Guard(lab);
    ensure!(applied.complete(), "{applied:?}");
    let node = format!("node/{}", guard.0.state.nodes[0].name);
    for round in 0..4 {
        let gone = ["ip", "link", "del", "cni0"].map(str::to_owned);
        ensure!(guard.0.exec(&node, &gone)? == 0, "cni0 can not be deleted");
        let pod = format!("late-{round}");
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: x, name: {pod}}}\nspec: {{containers: [{{name: c, image: c}}]}}\n"
        );
        fs::write(directory.path().join(format!("{pod}.yaml")), text)?;
        let applied = guard.0.apply(directory.path(), &mut |_| {})?;
        ensure!(applied.complete(), "{applied:?}");
        let seen = guard
            .0
            .probe(&[Probe::new(&format!("x/{pod}"), "outside", 80, "TCP")])?;
        ensure!(seen[0].result == "denied", "round {round}: {seen:?}");
        ensure!(
            guard.0.status(&guard.0.state.nodes[0])?.bridge.attached,
            "the new bridge has no program"
        );
    }
    Ok(())
}
