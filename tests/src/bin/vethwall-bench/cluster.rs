//! What following a cluster costs: from a change at a real API server to the first packet that is judged by it, and memory,
//! processor time and bytes from the API server.
//!
//! ```text
//! API server ◄── changes, timed ── this program
//!     │ watches                        │ datagrams, one after another, from behind the bridge as from another node
//!     └──► agent ──► maps ──────► pod0 of ns0: the first that arrives, and the last
//! ```

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vethwall_tests::{
    apiserver::{Admin, ApiServer, PORT, objects},
    cni::write_subnet,
    sandbox::{self, command, program},
};

use crate::{adoption, changes, cni::status};

/// Objects of a cluster.
#[derive(Clone, Copy)]
struct Size {
    namespaces: usize,
    /// Of each namespace; of the first namespaces, one each is on this node.
    pods: usize,
    /// Of each namespace.
    policies: usize,
}

const SMALL: Size = Size {
    namespaces: 4,
    pods: 5,
    policies: 1,
};
const LARGE: Size = Size {
    namespaces: 100,
    pods: 50,
    policies: 5,
};
const LARGEST: Size = Size {
    namespaces: 100,
    pods: 200,
    policies: 200,
};

const LOCAL: usize = 30;
/// Of each kind, in either direction.
const CHANGES: usize = 200;
const PATIENCE: Duration = Duration::from_secs(120);
/// For how long processor time and bytes are counted.
const WATCHED: Duration = Duration::from_secs(10);
/// Changes of pods of other nodes in a second.
const RATE: u32 = 50;

/// The agent; ends with the measurement.
struct Agent(Child);

impl Agent {
    /// Returns when it is ready.
    fn start(config: &Path) -> Result<Self> {
        let child = Command::new(program("vethwall")?)
            .args(["agent", "--node", "node", "--chain", "off", "--log", "error"])
            .arg("--kubeconfig")
            .arg(config)
            // As the chart sets it.
            .env("MALLOC_ARENA_MAX", "1")
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

/// Prints what was measured; of the largest cluster, too, which takes minutes to make, if `most` says so.
pub(crate) fn bench(most: bool) -> Result<()> {
    for size in [SMALL, LARGE] {
        sandbox::run(|| measure(size, true))?;
    }
    if most {
        sandbox::run(|| measure(LARGEST, false))?;
    }
    Ok(())
}

fn measure(size: Size, changes: bool) -> Result<()> {
    let api = ApiServer::start()?;
    let admin = api.admin()?;
    let (pods, policies) = (size.namespaces * size.pods, size.namespaces * size.policies);
    eprintln!("making {pods} pods and {policies} policies ...");
    write_subnet()?;
    adoption::bridge()?;
    admin.apply(&objects::node("node", "192.168.0.1", "10.244.1.0/24"))?;
    for namespace in 0..size.namespaces {
        fill(&admin, size, namespace)?;
    }
    if changes {
        changes::prepare(&admin)?;
    }
    let config = api.kubeconfig("agent", PORT, "administrator")?;
    let began = Instant::now();
    let agent = Agent::start(&config)?;
    println!("\n{pods} pods, {policies} policies");
    println!("  ready after {} ms", began.elapsed().as_millis());
    let enforced = status()?["endpoints"].as_array().map_or(0, |all| {
        all.iter().filter(|one| one["state"] == "enforcing").count()
    });
    let local = LOCAL.min(size.namespaces);
    ensure!(enforced == local, "{enforced} of {local} pods are enforced");
    let pid = agent.0.id();
    println!("  memory {}", memory(pid)?);
    thread::sleep(Duration::from_secs(3));
    let before = processor(pid)?;
    thread::sleep(WATCHED);
    let idle = (processor(pid)? - before).as_secs_f64() / WATCHED.as_secs_f64();
    println!(
        "  processor while nothing happens: {:.2} % of a core",
        idle * 100.0
    );
    if changes {
        changes::measure(&admin, CHANGES)?;
        draw(&admin, size, pid)?;
        println!("  memory after that {}", memory(pid)?);
    }
    Ok(())
}

/// What pods of other nodes that change cost one agent.
fn draw(admin: &Admin, size: Size, pid: u32) -> Result<()> {
    let period = Duration::from_secs(1) / RATE;
    let (bytes, time, began) = (received(pid)?, processor(pid)?, Instant::now());
    for change in 0..RATE * WATCHED.as_secs() as u32 {
        let (namespace, pod) = (
            change as usize % size.namespaces,
            1 + change as usize % (size.pods - 1),
        );
        let patch = json!({"metadata": {"annotations": {"change": change.to_string()}}});
        let path = format!("/api/v1/namespaces/ns{namespace}/pods/pod{pod}");
        admin.send("PATCH", &path, Some(&patch))?;
        thread::sleep((period * (change + 1)).saturating_sub(began.elapsed()));
    }
    let seconds = began.elapsed().as_secs_f64();
    let bytes = (received(pid)? - bytes) as f64 / seconds;
    let time = (processor(pid)? - time).as_secs_f64() / seconds;
    println!(
        "  {RATE} changes of pods a second: {:.1} kB/s from the API server, {:.2} % of a core",
        bytes / 1000.0,
        time * 100.0
    );
    Ok(())
}

/// Bytes that a process has received over TCP, of connections that are open.
fn received(pid: u32) -> Result<u64> {
    let listed = command("ss", &["-H", "-t", "-i", "-n", "-p", "-O"])?;
    let own = format!("pid={pid},");
    let of = |line: &str| -> Option<u64> {
        let words = line.split_whitespace();
        words
            .filter_map(|word| word.strip_prefix("bytes_received:")?.parse().ok())
            .next()
    };
    let lines = listed.lines().filter(|line| line.contains(&own));
    Ok(lines.filter_map(of).sum())
}

/// Processor time of a process until now.
fn processor(pid: u32) -> Result<Duration> {
    let mut all: u64 = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        all += text
            .split_whitespace()
            .next()
            .context("schedstat")?
            .parse::<u64>()?;
    }
    Ok(Duration::from_nanos(all))
}

fn fill(admin: &Admin, size: Size, number: usize) -> Result<()> {
    let namespace = format!("ns{number}");
    admin.apply(&objects::namespace(&namespace))?;
    for policy in 0..size.policies {
        let (app, from) = (
            format!("app{policy}"),
            format!("app{}", (policy + 1) % size.policies),
        );
        admin.apply(&objects::policy(&namespace, &format!("p{policy}"), &app, &from))?;
    }
    for pod in 0..size.pods {
        let local = pod == 0 && number < LOCAL;
        let address = if local {
            format!("10.244.1.{}", number + 2)
        } else {
            format!("10.244.{}.{}", 2 + number, pod + 2)
        };
        let name = format!("pod{pod}");
        let mut object = objects::pod(
            &namespace,
            &name,
            &format!("app{}", pod % size.policies),
            &address,
        );
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

fn memory(pid: u32) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = |name: &str| {
        let found = text.lines().find(|line| line.starts_with(name));
        let kilobytes = found.and_then(|line| line.split_whitespace().nth(1)?.parse::<u32>().ok());
        kilobytes.map_or(0.0, |kilobytes| f64::from(kilobytes) / 1024.0)
    };
    Ok(format!(
        "{:.1} MiB, of which {:.1} are the program; at most {:.1}",
        line("VmRSS:"),
        line("RssFile:"),
        line("VmHWM:")
    ))
}
