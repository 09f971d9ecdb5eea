//! What vethwall adds to the start of pods: CNI ADD by the real libcni and plugins, with and without vethwall in the chain, its
//! agent running and its answer waited for; one pod at a time, and all together. And how long pods that run already take to be
//! taken over.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use vethwall_cni::conflist;
use vethwall_tests::sandbox::{self, ip, program, workspace};

/// Pods that are started one after the other in each way, in turns.
const PODS: usize = 20;
/// Pods that start together.
const TOGETHER: usize = 30;
/// Pods that run before the agent does.
const RUNNING: usize = 100;
const PATIENCE: Duration = Duration::from_secs(60);

const FLANNEL: &str = r#"{"name":"cbr0","cniVersion":"0.3.1","plugins":[
{"type":"flannel","delegate":{"hairpinMode":true,"isDefaultGateway":true}},
{"type":"portmap","capabilities":{"portMappings":true}}]}"#;

const SUBNET: &str =
    "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";

const CLOSED: &str = r"apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";

/// Prints a line for each way to attach.
pub(crate) fn bench() -> Result<()> {
    println!(
        "start of a pod: CNI ADD by libcni, milliseconds; over flannel alone in the same run\n\n\
         {:<8}{:>14}{:>14}{:>10}{:>18}{:>18}{:>10}{:>22}",
        "hook",
        "flannel, one",
        "vethwall, one",
        "over it",
        "flannel, 30",
        "vethwall, 30",
        "over it",
        "100 pods taken over"
    );
    for hook in ["tcx", "clsact", "best"] {
        eprintln!("{hook}: {PODS} pods one by one, {TOGETHER} together ...");
        let ([one, ours], [all, all_ours]) = sandbox::run(|| -> Result<_> {
            prepare(hook)?;
            let _agent = Agent::start(hook)?;
            Ok((one_by_one()?, together()?))
        })?;
        eprintln!("{hook}: {RUNNING} pods that run ...");
        let adopted = sandbox::run(|| adoption(hook))?;
        println!(
            "{hook:<8}{one:>14.0}{ours:>14.0}{:>10.0}{all:>18.0}{all_ours:>18.0}{:>10.0}{adopted:>22.0}",
            ours - one,
            all_ours - all
        );
    }
    println!(
        "\none: the median of {PODS}. 30: until the last of {TOGETHER} that start together has started; nearly all of it is \
         processor time of libcni's\nplugins. taken over: from the start of the agent until it says that it is ready, {RUNNING} \
         pods isolated by a policy."
    );
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The median ADD: without vethwall, with it.
fn one_by_one() -> Result<[f64; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    for pod in 0..PODS {
        for (way, times) in times.iter_mut().enumerate() {
            let name = format!("pod{pod}");
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
        milliseconds(times[PODS / 2])
    }))
}

/// All ADDs at once: without vethwall, with it.
fn together() -> Result<[f64; 2]> {
    let names: Vec<String> = (0..TOGETHER).map(|pod| format!("pod{pod}")).collect();
    let each = |verb: &'static str, way| -> Result<()> {
        thread::scope(|scope| {
            let calls: Vec<_> = names
                .iter()
                .map(|name| scope.spawn(move || cnitool(verb, way, name)))
                .collect();
            calls
                .into_iter()
                .try_for_each(|call| call.join().map_err(|_| anyhow!("a call panicked"))?)
        })
    };
    let mut times = [0.0; 2];
    for (way, time) in times.iter_mut().enumerate() {
        for name in &names {
            ip(&format!("netns add {name}"))?;
        }
        let start = Instant::now();
        each("add", way)?;
        *time = milliseconds(start.elapsed());
        each("del", way)?;
        for name in &names {
            ip(&format!("netns del {name}"))?;
        }
    }
    Ok(times)
}

/// From the start of the agent until all pods that run are enforced.
fn adoption(hook: &str) -> Result<f64> {
    prepare(hook)?;
    bridge()?;
    for pod in 0..RUNNING {
        let name = format!("pod{pod}");
        runs(pod, "shop", &name, &uid(&name))?;
    }
    let start = Instant::now();
    let _agent = Agent::start(hook)?;
    let time = milliseconds(start.elapsed());
    let enforced = status()?["endpoints"].as_array().map_or(0, |all| {
        all.iter().filter(|one| one["state"] == "enforcing").count()
    });
    ensure!(enforced == RUNNING, "{enforced} of {RUNNING} pods are enforced");
    Ok(time)
}

/// The pods' bridge.
pub(crate) fn bridge() -> Result<()> {
    ip("link add cni0 type bridge")?;
    ip("link set cni0 up")
}

/// A pod that runs, the number of those on this node: its interface is named after it, and libcni's cache says whose it is.
pub(crate) fn runs(pod: usize, namespace: &str, name: &str, uid: &str) -> Result<()> {
    let cache = Path::new("/var/lib/cni/results");
    fs::create_dir_all(cache)?;
    let (host, mac) = (format!("veth{pod}"), format!("0a:58:0a:f4:01:{:02x}", pod + 2));
    ip(&format!("netns add pod{pod}"))?;
    ip(&format!(
        "link add {host} type veth peer name eth0 address {mac} netns pod{pod}"
    ))?;
    ip(&format!("link set {host} master cni0 up"))?;
    let cached = json!({
        "kind": "cniCacheV1", "containerId": format!("c{pod}"), "config": "e30=", "ifName": "eth0", "networkName": "cbr0",
        "cniArgs": [["K8S_POD_NAMESPACE", namespace], ["K8S_POD_NAME", name], ["K8S_POD_UID", uid]],
        "result": {"cniVersion": "0.3.1",
            "interfaces": [{"name": host, "mac": "0a:00:00:00:00:01"},
                {"name": "eth0", "mac": mac, "sandbox": format!("/run/netns/pod{pod}")}],
            "ips": [{"version": "4", "interface": 1, "address": format!("10.244.1.{}/24", pod + 2)}]},
    });
    fs::write(cache.join(format!("cbr0-c{pod}-eth0")), cached.to_string()).context("write libcni's cache")
}

fn uid(pod: &str) -> String {
    format!("uid-{pod}")
}

/// A node's directories: flannel's subnet, a folder of lists each way, the plugins, and objects for all pods.
fn prepare(hook: &str) -> Result<()> {
    fs::create_dir_all("/run/flannel")?;
    fs::write("/run/flannel/subnet.env", SUBNET)?;
    let pods: String = (0..RUNNING.max(PODS).max(TOGETHER))
        .map(|pod| format!("pod{pod}"))
        .map(|pod| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: shop, uid: {}}}\n\
                 spec: {{nodeName: node, containers: [{{name: c}}]}}\n",
                uid(&pod)
            )
        })
        .collect();
    fs::create_dir_all("/run/manifests")?;
    fs::write("/run/manifests/world.yaml", format!("{CLOSED}{pods}"))?;
    let entry = json!({"type": conflist::PLUGIN, "hook": hook}).to_string();
    let lists = [FLANNEL.to_owned(), conflist::insert(FLANNEL, &entry)?];
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

fn cnitool(verb: &str, way: usize, pod: &str) -> Result<()> {
    let output = Command::new(workspace().join(".tools/cni/cnitool"))
        .args([verb, "cbr0", &format!("/run/netns/{pod}")])
        .env("NETCONFPATH", format!("/run/net{way}.d"))
        .env("CNI_PATH", "/run/bin")
        .env(
            "CNI_ARGS",
            format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod};K8S_POD_UID={}",
                uid(pod)
            ),
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
pub(crate) struct Agent(pub(crate) Child);

impl Agent {
    fn start(hook: &str) -> Result<Self> {
        Self::of(&["--manifests", "/run/manifests", "--hook", hook])
    }

    /// With these arguments; returns when it is ready.
    pub(crate) fn of(arguments: &[&str]) -> Result<Self> {
        let child = Command::new(program("vethwall")?)
            .args(["agent", "--node", "node", "--chain", "off", "--log", "error"])
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .context("start the agent")?;
        let mut agent = Self(child);
        let deadline = Instant::now() + PATIENCE;
        while status()?["ready"] != true {
            if let Some(status) = agent.0.try_wait()? {
                bail!("the agent ended: {status}");
            }
            ensure!(Instant::now() < deadline, "the agent is not ready");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(agent)
    }
}

/// Null while nobody answers.
pub(crate) fn status() -> Result<Value> {
    let output = Command::new(program("vethwall")?)
        .args(["status", "-o", "json"])
        .output()?;
    Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("vethwall-bench: end the agent: {error}");
        }
    }
}
