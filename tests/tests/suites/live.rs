//! How long a change takes, from the file to the packets: the only rule that a table can not hold.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use vethwall_tests::lab::{Lab, Options, Probe};

/// What the conformance tests of the network policy API wait for.
const CONVERGED: Duration = Duration::from_secs(10);

const WORLD: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: x}
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: a, labels: {pod: a}}
spec: {nodeName: node-a, containers: [{name: c, image: c, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: b, labels: {pod: b}}
spec: {nodeName: node-b, containers: [{name: c, image: c, ports: [{containerPort: 80}]}]}
";

fn deny(action: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: deny}}\nspec:\n\
         \x20 tier: Admin\n  priority: 1\n  subject: {{pods: {{podSelector: {{matchLabels: {{pod: a}}}}}}}}\n\
         \x20 ingress:\n  - {{action: {action}, from: [{{namespaces: {{}}}}]}}\n"
    )
}

struct Guard(Lab);

impl Drop for Guard {
    fn drop(&mut self) {
        Lab::down(&self.0.state.name).expect("down");
    }
}

/// Applies the directory and says what a connection then meets.
fn seen(lab: &mut Lab, directory: &Path) -> Result<String> {
    let begun = Instant::now();
    let applied = lab.apply(directory, &mut |_| {})?;
    let took = begun.elapsed();
    ensure!(applied.complete(), "{applied:?}");
    ensure!(took < CONVERGED, "the change took {took:?}");
    println!("in force after {took:?}");
    let outcomes = lab.probe(&[Probe::new("x/b", "x/a", 80, "TCP")])?;
    Ok(outcomes[0].result.to_string())
}

// Covers: CNP 1, 8
#[test]
fn a_cluster_network_policy_is_in_force_within_seconds() -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("world.yaml"), WORLD)?;
    let options = Options::new(&format!("live-{}", std::process::id()), directory.path());
    let (lab, applied) = Lab::up(&options, &mut |_| {})?;
    let mut guard = Guard(lab);
    ensure!(applied.complete(), "{applied:?}");
    let path = directory.path().join("policy.yaml");
    for (action, expected) in [
        ("Deny", "denied"),
        ("Pass", "allowed"),
        ("Deny", "denied"),
        ("Accept", "allowed"),
    ] {
        fs::write(&path, deny(action))?;
        let result = seen(&mut guard.0, directory.path())?;
        ensure!(result == expected, "{action}: {result}");
    }
    fs::remove_file(&path)?;
    let result = seen(&mut guard.0, directory.path())?;
    ensure!(result == "allowed", "without a policy: {result}");
    Ok(())
}
