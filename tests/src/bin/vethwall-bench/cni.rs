//! What vethwall adds to the start of pods: CNI ADD by the real libcni and plugins, with and without vethwall in the chain, its
//! agent running and its answer waited for; one pod at a time, and all together.
//!
//! containerd is there and says that it calls our plugin, as on a node of a cluster: where nobody says so, the agent closes each
//! new pod before its plugin comes, and the pod waits for that.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;
use vethwall_tests::{
    cni::{self, BIN, CONF, FLANNEL},
    runtime::{Node, Release},
    sandbox::{self, ip, program, workspace},
};

use crate::adoption;

/// Everything is measured so many times, in turns.
const ROUNDS: usize = 3;
/// Pods that are started one after the other.
const PODS: usize = 20;
/// Pods that start together.
const TOGETHER: usize = 30;
const PATIENCE: Duration = Duration::from_secs(60);

/// Flannel's list as it was, beside the one that the agent extends.
const ALONE: &str = "/run/alone.d";

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
        "start of pods: CNI ADD by libcni, milliseconds, the medians of {ROUNDS} rounds\n\n\
         {:<8}{:>14}{:>14}{:>10}{:>16}{:>16}{:>10}",
        "hook", "flannel, one", "vethwall, one", "over it", "flannel, 30", "vethwall, 30", "over it",
    );
    let hooks = ["tcx", "clsact", "best"];
    let mut starts = hooks.map(|_| Vec::new());
    let mut adopted = hooks.map(|_| Vec::new());
    for round in 1..=ROUNDS {
        for (number, hook) in hooks.iter().enumerate() {
            eprintln!("round {round} of {ROUNDS}, {hook}");
            starts[number].push(sandbox::run(|| start(hook))?);
            adopted[number].push([
                sandbox::run(|| adoption::measure(hook, 0))?,
                sandbox::run(|| adoption::measure(hook, adoption::CONNECTIONS))?,
            ]);
        }
    }
    for (hook, rounds) in hooks.iter().zip(starts) {
        let [one, all, one_ours, all_ours] = medians(rounds);
        println!(
            "{hook:<8}{one:>14.0}{one_ours:>14.0}{:>10.0}{all:>16.0}{all_ours:>16.0}{:>10.0}",
            one_ours - one,
            all_ours - all
        );
    }
    println!(
        "\none: the median of {PODS}. 30: until the last of {TOGETHER} that start together has started; nearly all of it is \
         processor time of libcni's\nplugins.\n"
    );
    println!(
        "{} running pods, isolated by a policy, taken over: milliseconds from the start of the agent until it is ready\n\n\
         {:<8}{:>14}{:>30}",
        adoption::RUNNING,
        "hook",
        "",
        format!("with {} connections", adoption::CONNECTIONS)
    );
    for (hook, rounds) in hooks.iter().zip(adopted) {
        let [without, with] = medians(rounds);
        println!("{hook:<8}{without:>14.0}{with:>30.0}");
    }
    Ok(())
}

/// Of each column.
fn medians<const N: usize>(rounds: Vec<[f64; N]>) -> [f64; N] {
    std::array::from_fn(|column| {
        let mut values: Vec<f64> = rounds.iter().map(|round| round[column]).collect();
        values.sort_unstable_by(f64::total_cmp);
        values[values.len() / 2]
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// One pod and all of them, by flannel alone; then the same with vethwall.
fn start(hook: &str) -> Result<[f64; 4]> {
    let node = node()?;
    fs::create_dir_all(ALONE)?;
    fs::write(format!("{ALONE}/{}", cni::FLANNEL_FILE), FLANNEL)?;
    let (one, all) = (one_by_one(ALONE)?, together(ALONE)?);
    start_agent(&node, hook)?;
    node.until("the agent is certain that the runtime calls its plugin", || {
        let status = status()?;
        let chain = &status["chain"];
        Ok(status["phase"] == "steady" && chain["state"] == "chained" && chain["runtime"]["namesUs"] == true)
    })?;
    Ok([one, all, one_by_one(CONF)?, together(CONF)?])
}

/// The median ADD by a list of this directory.
fn one_by_one(lists: &str) -> Result<f64> {
    let mut times = Vec::new();
    for pod in 0..PODS {
        let name = format!("pod{pod}");
        ip(&format!("netns add {name}"))?;
        let start = Instant::now();
        cnitool("add", lists, &name)?;
        times.push(start.elapsed());
        cnitool("del", lists, &name)?;
        ip(&format!("netns del {name}"))?;
    }
    times.sort_unstable();
    Ok(milliseconds(times[PODS / 2]))
}

/// All ADDs at once, by a list of this directory.
fn together(lists: &str) -> Result<f64> {
    let names: Vec<String> = (0..TOGETHER).map(|pod| format!("pod{pod}")).collect();
    let each = |verb: &'static str| -> Result<()> {
        thread::scope(|scope| {
            let calls: Vec<_> = names
                .iter()
                .map(|name| scope.spawn(move || cnitool(verb, lists, name)))
                .collect();
            calls
                .into_iter()
                .try_for_each(|call| call.join().map_err(|_| anyhow!("a call panicked"))?)
        })
    };
    for name in &names {
        ip(&format!("netns add {name}"))?;
    }
    let start = Instant::now();
    each("add")?;
    let time = milliseconds(start.elapsed());
    each("del")?;
    for name in &names {
        ip(&format!("netns del {name}"))?;
    }
    Ok(time)
}

pub(crate) fn uid(pod: &str) -> String {
    format!("uid-{pod}")
}

/// A node with containerd and flannel, and objects for all pods.
pub(crate) fn node() -> Result<Node> {
    cni::install(FLANNEL)?;
    let node = Node::boot(Release::Newest)?;
    let pods: String = (0..adoption::RUNNING.max(PODS).max(TOGETHER))
        .map(|pod| format!("pod{pod}"))
        .map(|pod| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: shop, uid: {}}}\n\
                 spec: {{nodeName: n, containers: [{{name: c}}]}}\n",
                uid(&pod)
            )
        })
        .collect();
    node.manifests(&format!("{CLOSED}{pods}"))?;
    Ok(node)
}

fn cnitool(verb: &str, lists: &str, pod: &str) -> Result<()> {
    let output = Command::new(workspace().join(".tools/cni/cnitool"))
        .args([verb, "cbr0", &format!("/run/netns/{pod}")])
        .env("NETCONFPATH", lists)
        .env("CNI_PATH", BIN)
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

/// Starts the agent; how long it took until it was ready.
pub(crate) fn start_agent(node: &Node, hook: &str) -> Result<f64> {
    let start = Instant::now();
    let agent = node.command(program("vethwall")?)?;
    node.start_as_agent(agent, "own", &["--hook", hook, "--log", "error"])?;
    while status()?["ready"] != true {
        ensure!(
            start.elapsed() < PATIENCE,
            "the agent is not ready\n{}",
            node.logs()
        );
        // Each question is a process, which takes from the agent's time.
        thread::sleep(Duration::from_millis(20));
    }
    Ok(milliseconds(start.elapsed()))
}

/// Null while nobody answers.
pub(crate) fn status() -> Result<Value> {
    let output = Command::new(program("vethwall")?)
        .args(["status", "-o", "json"])
        .output()?;
    Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
}
