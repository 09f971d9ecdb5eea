//! Faults as they begin and end.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::Path,
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};

use super::{
    Fault, Round, explain,
    pods::{World, member},
};
use crate::{
    cni::{self, BIN, CONF, FLANNEL, FLANNEL_FILE},
    runtime::{AGENT, CONTAINERD, Node, Pod, Spec},
    sandbox::{BPFFS, command, ip, program},
};

pub(super) const MODE: &str = "own";
const BROKEN: &str = "00-broken.conflist";
const FILLER: &str = "filler";
const DELEGATE: &str = "\"delegate\": {";
/// How far the clocks of an agent jump.
const HOURS: &str = "36000";

/// Gives the lists a disk of their own, so that it can be full.
pub(super) fn small_disk() -> Result<()> {
    fs::create_dir_all(CONF)?;
    mount(
        Some("tmpfs"),
        CONF,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=64k"),
    )
    .context("mount a small disk")
}

/// Leaves the node's own mount as the only one of its bpffs, so that pins go with it.
pub(super) fn own_bpffs(node: &Node) -> Result<()> {
    umount2(BPFFS, MntFlags::empty()).context("unmount bpffs")?;
    fresh_bpffs(node)
}

/// The kernel tracks connections where somebody translates addresses, as kube-proxy does on every node.
pub(super) fn track() -> Result<()> {
    for words in ["-N KUBE-SERVICES", "-A PREROUTING -j KUBE-SERVICES"] {
        let words: Vec<&str> = ["-t", "nat"].into_iter().chain(words.split(' ')).collect();
        command("iptables", &words)?;
    }
    Ok(())
}

fn fresh_bpffs(node: &Node) -> Result<()> {
    node.said("umount", &[BPFFS])?;
    node.said("mount", &["-t", "bpf", "bpf", BPFFS]).map(drop)
}

fn spec<'a>(name: &'a str, arguments: &'a [&'a str]) -> Spec<'a> {
    Spec {
        name,
        host_network: false,
        arguments,
    }
}

impl World<'_> {
    /// One round: the faults, and all that is promised after them.
    pub(super) fn live_through(&mut self, round: &Round) -> Result<()> {
        for fault in &round.faults {
            self.begin(*fault).with_context(|| format!("begin {fault:?}"))?;
        }
        let targets = self.targets()?;
        let mut arguments = vec!["send", "20"];
        arguments.extend(targets.iter().map(String::as_str));
        let (node, late) = (self.node, spec("late", &arguments));
        let started = thread::scope(|scope| {
            let starts = round.pod.then(|| scope.spawn(|| node.start_pod(&late)));
            thread::sleep(round.lasts);
            for fault in &round.faults {
                self.end_of(*fault).with_context(|| format!("end {fault:?}"))?;
            }
            Ok::<_, anyhow::Error>(starts.map(|starts| starts.join()))
        })?;
        let mut forgotten = None;
        match started {
            None => {}
            Some(Err(_panic)) => bail!("the start of a pod panicked"),
            Some(Ok(Ok(pod))) => {
                self.report.started += 1;
                self.pods.push(pod);
            }
            Some(Ok(Err(error))) => {
                let said = format!("{error:#}");
                let fault = explain::refusal(&round.faults, &said)?;
                *self.report.refused.entry(fault).or_default() += 1;
                if fault == Fault::PluginDeleted {
                    forgotten = explain::sandbox(&said);
                }
            }
        }
        self.settle()?;
        node.sweep()?;
        self.give_back(forgotten.as_deref())?;
        if round.pod && self.pods.iter().all(|pod| pod.name != "late") {
            // A kubelet tries again.
            self.pods.push(
                node.start_pod(&late)
                    .context("start a pod on a node that is well")?,
            );
        }
        self.check()?;
        if let Some(at) = self.pods.iter().position(|pod| pod.name == "late") {
            self.hear("late")?;
            node.stop_pod(&self.pods.remove(at))?;
            self.check()?;
        }
        for fault in &round.faults {
            *self.report.faults.entry(*fault).or_default() += 1;
        }
        self.report.rounds += 1;
        Ok(())
    }

    /// All pods go, and with them all that they had.
    pub(super) fn end(&mut self) -> Result<()> {
        self.listen()?;
        self.stop_all()?;
        self.settle()?;
        self.give_back(None)
    }

    fn stop_all(&mut self) -> Result<()> {
        // Those that send first: what they send to an address without a pod is nothing to judge.
        while let Some(pod) = self.pods.pop() {
            self.node.stop_pod(&pod)?;
        }
        Ok(())
    }

    /// Starts an agent whose clocks since boot are hours ahead of the node's.
    fn start_agent_elsewhen(&self) -> Result<()> {
        let mut command = self.node.command("unshare")?;
        command
            .args(["--time", "--monotonic", HOURS, "--boottime", HOURS])
            .arg(program("vethwall")?);
        self.node.start_as_agent(command, MODE, &[])
    }

    /// The next version of the map layouts has taken over; the agent of this one comes back.
    fn downgrade(&self) -> Result<()> {
        self.node.until("the next version is ready", || {
            Ok(self.node.status()?["ready"] == true)
        })?;
        self.node.end(AGENT, Signal::SIGTERM)?;
        self.node.start_agent(MODE)
    }

    fn begin(&mut self, fault: Fault) -> Result<()> {
        let conf = Path::new(CONF);
        match fault {
            Fault::AgentKilled | Fault::ClockJump => self.node.end(AGENT, Signal::SIGKILL).map(drop),
            Fault::AgentUpgraded => {
                self.node.end(AGENT, Signal::SIGTERM)?;
                let next = self.node.command(program("vethwall-next")?)?;
                self.node.start_as_agent(next, MODE, &[])
            }
            Fault::PluginDeleted => Ok(fs::remove_file(Path::new(BIN).join("vethwall-cni"))?),
            Fault::FlannelRewrites => self.rewrite(),
            Fault::K3sRestarts => {
                self.node.end(CONTAINERD, Signal::SIGTERM)?;
                self.rewrite()
            }
            Fault::BrokenFirst => Ok(fs::write(conf.join(BROKEN), "{\"name\": \"x\", ")?),
            Fault::RuntimeKilled => self.node.end(CONTAINERD, Signal::SIGKILL).map(drop),
            Fault::DiskFull => full_disk(),
            Fault::BridgeDeleted => ip("link del cni0"),
            Fault::BpffsUnmounted => self.node.said("umount", &[BPFFS]).map(drop),
            Fault::Crowd => self.come_and_go(),
            Fault::Reboot => self.reboot(),
        }
    }

    fn end_of(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::AgentKilled => self.node.start_agent(MODE),
            Fault::AgentUpgraded => self.downgrade(),
            Fault::ClockJump => self.start_agent_elsewhen(),
            Fault::K3sRestarts | Fault::RuntimeKilled => self.node.start_containerd(),
            Fault::BrokenFirst => Ok(fs::remove_file(Path::new(CONF).join(BROKEN))?),
            Fault::DiskFull => {
                fs::remove_file(Path::new(CONF).join(FILLER))?;
                cni::write_list(&self.list())
            }
            Fault::BridgeDeleted => bridge(),
            Fault::PluginDeleted
            | Fault::FlannelRewrites
            | Fault::BpffsUnmounted
            | Fault::Crowd
            | Fault::Reboot => Ok(()),
        }
    }

    /// Flannel writes its list, which says something else than before: somebody has changed its configuration.
    fn rewrite(&mut self) -> Result<()> {
        self.other_list = !self.other_list;
        cni::write_list(&self.list())
    }

    /// Flannel's list as it ought to be; the two mean the same.
    pub(super) fn list(&self) -> String {
        if self.other_list {
            FLANNEL.replace(DELEGATE, &format!("{DELEGATE} \"forceAddress\": false,"))
        } else {
            FLANNEL.to_owned()
        }
    }

    /// Pods start all at once, each sends from its first instruction, and end all at once.
    fn come_and_go(&mut self) -> Result<()> {
        let (node, targets) = (self.node, self.targets()?);
        let mut arguments = vec!["send", "20"];
        arguments.extend(targets.iter().map(String::as_str));
        let names: Vec<String> = (0..self.crowd).map(member).collect();
        let started = at_once(&names, |name| start(node, &spec(name, &arguments)))?;
        let (pods, refused): (Vec<Pod>, Vec<u64>) = started.into_iter().unzip();
        let refused = refused.iter().sum::<u64>();
        if refused > 0 {
            *self.report.refused.entry(Fault::Crowd).or_default() += refused;
        }
        self.listen()?;
        for name in &names {
            self.hear(name)?;
        }
        at_once(&pods, |pod| node.stop_pod(pod))?;
        Ok(())
    }

    /// Power is lost, and the node boots: the runtime before flannel, pods before the agent.
    fn reboot(&mut self) -> Result<()> {
        let (node, targets) = (self.node, self.targets()?);
        self.listen()?;
        node.cut_power()?;
        self.listen()?;
        // What stands for /etc, /var/log and the API server's objects stays.
        let kept = [CONF, BIN, "/run/log", "/run/pods", "/run/manifests", "/run/netns"];
        for entry in fs::read_dir("/run")? {
            let path = entry?.path();
            if kept.iter().any(|kept| path == Path::new(kept)) {
                continue;
            }
            if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            }
            .with_context(|| format!("remove {}", path.display()))?;
        }
        for entry in fs::read_dir("/run/netns")? {
            fs::remove_file(entry?.path())?;
        }
        self.depopulate();
        // They go with their namespaces, which the kernel keeps for as long as a connection there has not ended.
        for name in veths()? {
            let deleted = ip(&format!("link del {name}"));
            if fs::exists(format!("/sys/class/net/{name}"))? {
                deleted?;
            }
        }
        ip("link del cni0")?;
        fresh_bpffs(node)?;

        cni::write_list(&self.list())?;
        node.start_containerd()?;
        let mut arguments = vec!["send", "20"];
        arguments.extend(targets.iter().map(String::as_str));
        let early = |expected: &str| match node.start_pod(&spec("late", &arguments)) {
            Ok(_) => bail!("OPEN: a pod starts before the agent"),
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(said.contains(expected), "a pod is refused otherwise: {said}");
                Ok(())
            }
        };
        early("subnet.env")?;
        cni::write_subnet()?;
        early(explain::DELAYED)?;
        node.start_agent(MODE)?;
        self.settle()?;
        // The kubelet takes down what it finds, and starts it again.
        node.sweep()?;
        self.populate()
    }
}

/// Starts a pod as a kubelet does, again and again where the node is too busy; how often it was refused.
fn start(node: &Node, spec: &Spec<'_>) -> Result<(Pod, u64)> {
    const TRIES: u64 = 10;
    for refused in 0..TRIES {
        match node.start_pod(spec) {
            Ok(pod) => return Ok((pod, refused)),
            Err(error) => {
                explain::refusal(&[Fault::Crowd], &format!("{error:#}"))?;
            }
        }
    }
    bail!("REFUSED: {} never starts", spec.name)
}

/// Does the same with all of them, in a thread each.
fn at_once<T: Sync, U: Send>(all: &[T], act: impl Fn(&T) -> Result<U> + Sync) -> Result<Vec<U>> {
    thread::scope(|scope| {
        let threads: Vec<_> = all.iter().map(|one| scope.spawn(|| act(one))).collect();
        let outcomes = threads.into_iter().map(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(_panic) => bail!("a thread panicked"),
        });
        outcomes.collect()
    })
}

/// Flannel opens its list to write it, which empties it; somebody takes the room; there is none to write.
fn full_disk() -> Result<()> {
    let mut list = File::create(Path::new(CONF).join(FLANNEL_FILE))?;
    let mut filler = File::create(Path::new(CONF).join(FILLER))?;
    for (what, file) in [("filler", &mut filler), ("list", &mut list)] {
        loop {
            match file.write(&[b' '; 4096]) {
                Ok(_) if what == "list" => bail!("the disk is not full"),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn veths() -> Result<Vec<String>> {
    let list = command("ip", &["-brief", "link", "show", "type", "veth"])?;
    let name = |line: &str| line.split(['@', ' ']).next().unwrap_or_default().to_owned();
    Ok(list.lines().map(name).collect())
}

/// The bridge as the bridge plugin makes it, which may have been faster, and all pods on it.
fn bridge() -> Result<()> {
    if !fs::exists("/sys/class/net/cni0")? && ip("link add cni0 type bridge").is_err() {
        ensure!(fs::exists("/sys/class/net/cni0")?, "cni0 can not be made");
    }
    ip("addr replace 10.244.1.1/24 dev cni0")?;
    ip("link set cni0 up")?;
    for name in veths()? {
        let joined = ip(&format!("link set {name} master cni0"))
            .and_then(|()| ip(&format!("link set {name} type bridge_slave hairpin on")));
        if fs::exists(format!("/sys/class/net/{name}"))? {
            joined?;
        }
    }
    Ok(())
}
