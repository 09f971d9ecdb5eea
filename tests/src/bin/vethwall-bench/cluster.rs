//! What following a cluster costs: from a change at a real API server to the verdict in the kernel, and memory.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vethwall_common::maps::BPFFS;
use vethwall_datapath::{Endpoints, Pins, veth};
use vethwall_tests::{
    apiserver::{Admin, ApiServer, PORT, objects},
    cni::write_subnet,
    sandbox::{self, program},
};

use crate::{adoption, cni::status};

const NAMESPACES: usize = 100;
/// Pods of each namespace; of the first namespaces, one each is on this node.
const PODS: usize = 50;
const LOCAL: usize = 30;
/// Policies of each namespace.
const POLICIES: usize = 5;
const CHANGES: usize = 300;
const PATIENCE: Duration = Duration::from_secs(60);

/// The agent; ends with the measurement.
struct Agent(Child);

impl Agent {
    /// Returns when it is ready.
    fn start(config: &Path) -> Result<Self> {
        let child = Command::new(program("vethwall")?)
            .args(["agent", "--node", "node", "--chain", "off", "--log", "error"])
            .arg("--kubeconfig")
            .arg(config)
            .stdout(Stdio::null())
            .spawn()
            .context("start the agent")?;
        let agent = Self(child);
        let deadline = Instant::now() + PATIENCE;
        while status()?["ready"] != true {
            ensure!(Instant::now() < deadline, "the agent is not ready: {}", status()?);
            thread::sleep(Duration::from_millis(5));
        }
        Ok(agent)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Prints what was measured.
pub(crate) fn bench() -> Result<()> {
    sandbox::run(measure)
}

fn measure() -> Result<()> {
    let api = ApiServer::start()?;
    let admin = api.admin()?;
    eprintln!(
        "making {} pods and {} policies ...",
        NAMESPACES * PODS,
        NAMESPACES * POLICIES
    );
    write_subnet()?;
    adoption::bridge()?;
    admin.apply(&objects::node("node", "192.168.0.1", "10.244.1.0/24"))?;
    for namespace in 0..NAMESPACES {
        fill(&admin, namespace)?;
    }
    let config = api.kubeconfig("agent", PORT, "administrator")?;
    let began = Instant::now();
    let agent = Agent::start(&config)?;
    println!("ready after {} ms", began.elapsed().as_millis());
    let enforced = status()?["endpoints"].as_array().map_or(0, |all| {
        all.iter().filter(|one| one["state"] == "enforcing").count()
    });
    ensure!(enforced == LOCAL, "{enforced} of {LOCAL} pods are enforced");
    let pid = agent.0.id();
    println!("memory when it is ready: {}", memory(pid)?);

    let mut times: [Vec<Duration>; 2] = Default::default();
    for change in 0..CHANGES {
        for (times, time) in times.iter_mut().zip(verdict(&admin, change)?) {
            times.push(time);
        }
    }
    println!(
        "a pod's labels change, {CHANGES} times: until its policies in the kernel are others, milliseconds"
    );
    for (from, mut times) in ["since it was asked for", "since the API server said it was done"]
        .iter()
        .zip(times)
    {
        times.sort_unstable();
        let at =
            |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1000.0;
        println!(
            "{from:<40} p50 {:>6.1}  p90 {:>6.1}  p99 {:>6.1}",
            at(50),
            at(90),
            at(99)
        );
    }
    println!("memory after that: {}", memory(pid)?);
    Ok(())
}

fn fill(admin: &Admin, number: usize) -> Result<()> {
    let namespace = format!("ns{number}");
    admin.apply(&objects::namespace(&namespace))?;
    for policy in 0..POLICIES {
        let (app, from) = (format!("app{policy}"), format!("app{}", (policy + 1) % POLICIES));
        admin.apply(&objects::policy(&namespace, &format!("p{policy}"), &app, &from))?;
    }
    for pod in 0..PODS {
        let local = pod == 0 && number < LOCAL;
        let address = if local {
            format!("10.244.1.{}", number + 2)
        } else {
            format!("10.244.{}.{}", 2 + number, pod + 2)
        };
        let name = format!("pod{pod}");
        let mut object = objects::pod(&namespace, &name, &format!("app{}", pod % POLICIES), &address);
        object["spec"]["nodeName"] = if local { "node" } else { "elsewhere" }.into();
        // As much as real ones have: a template, a service account's volume, probes, what the kubelet tells.
        object["metadata"]["annotations"] = json!({"about": "x".repeat(1_500)});
        object["spec"]["containers"][0]["env"] = (0..40)
            .map(|n| json!({"name": format!("VARIABLE_{n}"), "value": "a value of some length"}))
            .collect::<Vec<Value>>()
            .into();
        admin.apply(&object)?;
        if local {
            let made = admin.get(&format!("/api/v1/namespaces/{namespace}/pods/{name}"))?;
            let uid = made["metadata"]["uid"].as_str().context("a UID")?;
            adoption::runs(number, &namespace, &name, uid)?;
        }
    }
    Ok(())
}

/// Another app for a pod of this node: how long until other policies are its own.
fn verdict(admin: &Admin, change: usize) -> Result<[Duration; 2]> {
    let number = change % LOCAL;
    let endpoints = Endpoints::open(&Pins::new(BPFFS))?;
    let ifindex = veth::ifindex(&format!("veth{number}"))?.context("an interface")?;
    let slot = || -> Result<u32> { Ok(endpoints.get(ifindex)?.context("a record")?.ingress.slot()) };
    let before = slot()?;
    let app = format!("app{}", 1 + change / LOCAL % (POLICIES - 1));
    let patch = json!({"metadata": {"labels": {"app": app, "change": change.to_string()}}});
    let asked = Instant::now();
    admin.send(
        "PATCH",
        &format!("/api/v1/namespaces/ns{number}/pods/pod0"),
        Some(&patch),
    )?;
    let done = Instant::now();
    while slot()? == before {
        ensure!(asked.elapsed() < PATIENCE, "nothing changed");
        thread::sleep(Duration::from_micros(50));
    }
    let now = Instant::now();
    // The next change meets an agent at rest.
    thread::sleep(Duration::from_millis(20));
    Ok([now - asked, now - done])
}

fn memory(pid: u32) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = |name: &str| {
        let found = text.lines().find(|line| line.starts_with(name));
        let kilobytes = found.and_then(|line| line.split_whitespace().nth(1)?.parse::<u32>().ok());
        kilobytes.map_or(0.0, |kilobytes| f64::from(kilobytes) / 1024.0)
    };
    Ok(format!(
        "{:.1} MiB, at most {:.1} MiB",
        line("VmRSS:"),
        line("VmHWM:")
    ))
}
