//! A real Kubernetes cluster on one machine: no Docker, no registry, no virtual machine.
//!
//! ```text
//! control   etcd, kube-apiserver, kube-controller-manager, kube-scheduler     192.168.99.254, bridge `underlay`
//!    ├ left    containerd 2, kubelet, kube-proxy, flannel's DaemonSet          192.168.99.1
//!    └ right   the distribution's containerd, otherwise the same               192.168.99.2
//! ```
//!
//! Each machine is a [`Sandbox`] and a [`Node`] of the tests' runtime: its own network, mounts, processes and cgroups. The programs
//! are built from their modules (`scripts/setup.sh cluster`) and run with the settings that kubeadm gives them where those matter
//! to a network: flannel comes as a DaemonSet, so its list of plugins appears late; both releases of containerd are there.
//!
//! Invariants:
//! - Everything is inside the machines' namespaces and ends with this process, also when it is killed. Nothing is made in the
//!   machine's own network namespace, and what kubelets set for a machine's kernel stays in a file.
//! - Every wait is bounded.

mod control;
mod flannel;
mod kubectl;
mod machine;
mod worker;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

pub use self::machine::Machine;
use crate::{
    runtime::{Archive, Node, Release, pod_image},
    sandbox::{Sandbox, workspace},
};

/// How long the cluster may take for anything.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Addresses of pods.
pub const PODS: &str = "10.244.0.0/16";
/// Addresses of Services.
pub const SERVICES: &str = "10.96.0.0/16";

/// A cluster that runs. When it goes out of scope, nothing is left of it.
#[derive(Debug)]
pub struct Cluster {
    /// The control plane.
    pub control: Machine,
    /// The nodes.
    pub workers: Vec<Machine>,
}

impl Cluster {
    /// Brings one up: the nodes are Ready, flannel's network is there, vethwall is not.
    pub fn up(say: &mut dyn FnMut(&str)) -> Result<Self> {
        program("kubelet")?;
        let scratch = tempfile::tempdir()?;
        let control = Machine::boot("control", 254, Release::Newest)?;
        control.link_bridge()?;
        control.start_control_plane()?;
        say("etcd and the API server start");
        let mut workers = Vec::new();
        for (name, number, release) in [("left", 1, Release::Newest), ("right", 2, Release::Distribution)] {
            let worker = Machine::boot(name, number, release)?;
            worker.link_to(&control)?;
            workers.push(worker);
        }
        let cluster = Self { control, workers };
        let started: Vec<Result<()>> = std::thread::scope(|scope| {
            let starts: Vec<_> = cluster
                .workers
                .iter()
                .map(|worker| scope.spawn(|| worker.on(Node::start_containerd)))
                .collect();
            starts
                .into_iter()
                .map(|start| {
                    start
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        });
        started.into_iter().collect::<Result<()>>()?;
        say("both containerds answer");
        cluster.import(&pod_image(&made(scratch.path(), "pod")?)?)?;
        cluster.import(&flannel::image(&made(scratch.path(), "flannel")?)?)?;
        say("images are on both nodes");
        cluster.until("the API server has a certificate", || {
            let admin = cluster.control.kubeconfig("admin");
            admin
                .and_then(|text| cluster.control.write(control::ADMIN, &text))
                .map(|()| true)
        })?;
        cluster.until("the API server is ready", || {
            Ok(cluster.kubectl(&["get", "--raw", "/readyz"]).is_ok())
        })?;
        say("the API server is ready");
        cluster.start_controllers()?;
        cluster.apply(flannel::MANIFESTS)?;
        for worker in &cluster.workers {
            worker.install_plugins()?;
            worker.start_kubelet(&cluster.control)?;
        }
        cluster.until("the nodes are Ready", || {
            let ready = cluster.kubectl(&[
                "get",
                "nodes",
                "--output",
                "jsonpath={range .items[*]}{.status.conditions[?(@.type=='Ready')].status} {end}",
            ])?;
            Ok(ready.trim() == "True True")
        })?;
        say("both nodes are Ready");
        cluster.rolled_out("kube-flannel", "daemonset/kube-flannel-ds", PATIENCE)?;
        say("flannel has its subnets");
        Ok(cluster)
    }

    /// Makes an image known on every node.
    pub fn import(&self, archive: &Archive) -> Result<()> {
        self.workers
            .iter()
            .try_for_each(|worker| worker.on(|node| node.import(archive)))
    }

    /// A node by its name.
    pub fn worker(&self, name: &str) -> Result<&Machine> {
        let found = self.workers.iter().find(|worker| worker.name == name);
        found.with_context(|| format!("no node {name}"))
    }

    /// Waits until something holds; what is wrong then tells what the machines' daemons said.
    pub fn until(&self, what: &str, holds: impl FnMut() -> Result<bool>) -> Result<()> {
        self.within(PATIENCE, what, holds)
    }

    /// Waits that long at most.
    pub fn within(&self, most: Duration, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        loop {
            // A server that is not there yet is a reason to wait, and the reason to tell when waiting is over.
            let outcome = holds();
            if matches!(outcome, Ok(true)) {
                return Ok(());
            }
            if start.elapsed() > most {
                outcome.with_context(|| what.to_owned())?;
                ensure!(false, "{what}: not within {} s", most.as_secs());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Commands by which one gets into the machines.
    pub fn ways_in(&self) -> Result<String> {
        let kubectl = program("kubectl")?.display().to_string();
        let mut text = format!(
            "{} env KUBECONFIG={} {kubectl} get pods --all-namespaces\n",
            self.control.way_in(),
            control::ADMIN
        );
        for worker in &self.workers {
            text += &format!("{} sh    # {}\n", worker.way_in(), worker.name);
        }
        Ok(text + "Enter ends the cluster.")
    }

    /// The ends of what all daemons said.
    pub fn logs(&self) -> String {
        let machines = std::iter::once(&self.control).chain(&self.workers);
        machines.map(Machine::logs).collect()
    }
}

/// A directory in another.
fn made(above: &Path, name: &str) -> Result<PathBuf> {
    let directory = above.join(name);
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// A program of Kubernetes, etcd, flannel or helm.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = workspace().join(".tools/cluster").join(name);
    ensure!(
        path.is_file(),
        "{} is not there: run `scripts/setup.sh cluster`",
        path.display()
    );
    Ok(path)
}
