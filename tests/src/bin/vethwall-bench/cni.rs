//! What vethwall adds to the start of a pod: CNI ADD by real libcni and real plugins, with and without vethwall in the
//! chain, its agent running and its answer waited for.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use vethwall_cni::conflist;
use vethwall_tests::sandbox::{ip, program, workspace};

/// Pods that are started in each way, in turns.
const PODS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(20);

const FLANNEL: &str = r#"{"name":"cbr0","cniVersion":"0.3.1","plugins":[
{"type":"flannel","delegate":{"hairpinMode":true,"isDefaultGateway":true}},
{"type":"portmap","capabilities":{"portMappings":true}}]}"#;

const SUBNET: &str =
    "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";

/// The pod that starts and starts again, isolated by a policy.
const MANIFEST: &str = r"apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, uid: 0f0f}
spec: {nodeName: node, containers: [{name: cart}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";

/// Milliseconds of one ADD: without vethwall, with it.
pub(crate) fn measure() -> Result<[f64; 2]> {
    let lists = [
        FLANNEL.to_owned(),
        conflist::insert(FLANNEL, &conflist::default_entry())?,
    ];
    prepare(&lists)?;
    let _agent = Agent::start()?;
    let mut times = [Vec::new(), Vec::new()];
    for pod in 0..PODS {
        for (way, times) in times.iter_mut().enumerate() {
            let name = format!("pod{pod}-{way}");
            ip(&format!("netns add {name}"))?;
            let start = Instant::now();
            cnitool("add", way, &name)?;
            times.push(start.elapsed());
            cnitool("del", way, &name)?;
            ip(&format!("netns del {name}"))?;
        }
    }
    Ok(times.map(|mut times| {
        times.sort_unstable();
        times[PODS / 2].as_secs_f64() * 1000.0
    }))
}

/// A node's directories: flannel's subnet, a folder of lists each way, the plugins.
fn prepare(lists: &[String; 2]) -> Result<()> {
    fs::create_dir_all("/run/flannel")?;
    fs::write("/run/flannel/subnet.env", SUBNET)?;
    fs::create_dir_all("/run/manifests")?;
    fs::write("/run/manifests/world.yaml", MANIFEST)?;
    for (way, list) in lists.iter().enumerate() {
        fs::create_dir_all(format!("/run/net{way}.d"))?;
        fs::write(format!("/run/net{way}.d/10-flannel.conflist"), list)?;
    }
    fs::create_dir_all("/run/bin")?;
    let tools = workspace().join(".tools/cni");
    for plugin in ["flannel", "bridge", "host-local", "portmap"] {
        let real = tools.join(plugin);
        ensure!(real.exists(), "{} is missing; run `make setup`", real.display());
        symlink(real, Path::new("/run/bin").join(plugin))?;
    }
    symlink(
        program("vethwall-cni")?,
        Path::new("/run/bin").join(conflist::PLUGIN),
    )?;
    Ok(())
}

fn cnitool(verb: &str, way: usize, netns: &str) -> Result<()> {
    let output = Command::new(workspace().join(".tools/cni/cnitool"))
        .args([verb, "cbr0", &format!("/run/netns/{netns}")])
        .env("NETCONFPATH", format!("/run/net{way}.d"))
        .env("CNI_PATH", "/run/bin")
        .env("CNI_CONTAINERID", netns)
        .env(
            "CNI_ARGS",
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart;K8S_POD_INFRA_CONTAINER_ID={netns};K8S_POD_UID=0f0f"),
        )
        .output()
        .context("run cnitool; `make setup` builds it")?;
    ensure!(
        output.status.success(),
        "CNI {verb}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The agent; ends with the measurement.
struct Agent(Child);

impl Agent {
    fn start() -> Result<Self> {
        let child = Command::new(program("vethwall")?)
            .args([
                "agent",
                "--manifests",
                "/run/manifests",
                "--node",
                "node",
                "--log",
                "error",
            ])
            .stdout(Stdio::null())
            .spawn()
            .context("start the agent")?;
        let mut agent = Self(child);
        let deadline = Instant::now() + PATIENCE;
        while !Path::new("/run/vethwall/cni.sock").exists() || !answers()? {
            if let Some(status) = agent.0.try_wait()? {
                bail!("the agent ended: {status}");
            }
            ensure!(Instant::now() < deadline, "the agent is not ready");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(agent)
    }
}

/// Whether the agent says that it is ready.
fn answers() -> Result<bool> {
    let output = Command::new(program("vethwall")?)
        .args(["status", "-o", "json"])
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.contains("\"ready\":true") || said.contains("\"ready\": true"))
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("vethwall-bench: end the agent: {error}");
        }
    }
}
