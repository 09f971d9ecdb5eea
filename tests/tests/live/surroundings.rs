//! Nodes that are not as they should be: what is judged stays judged, what can not be judged is dropped, and the agent
//! says what is wrong by a code of docs/problems.md.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use vethwall::api::status::{AgentState, Status};
use vethwall_datapath::{Choice, Hook};
use vethwall_tests::lab::{Families, Lab, Probe};

use super::{
    Guard,
    foreign::{self, Place},
    said, up, words, world,
};

/// Pod a may send to pod b and to nobody else; so only what its egress is judged on after translation tells.
const LEASH: &str = "{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], \
                     egress: [{to: [{podSelector: {matchLabels: {app: b}}}], ports: [{port: 80}]}]}";

/// From, to, port, and whether it arrives where everything is as it should be; then where egress beyond the pods has
/// no second stage.
const WAYS: [(&str, &str, u16, bool, bool); 6] = [
    ("x/a", "x/b", 80, true, true),
    ("x/a", "x/r", 80, false, false),
    ("x/a", "x/svc/b", 8080, true, false),
    ("x/a", "x/svc/r", 8080, false, false),
    ("x/a", "outside", 443, false, false),
    ("x/b", "outside", 443, true, true),
];

struct Node {
    guard: Guard,
    _directory: tempfile::TempDir,
}

impl Node {
    fn up(name: &str, hook: Hook) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        world::write(directory.path(), LEASH)?;
        let guard = up(&format!("{name}-{hook}"), directory.path(), |options| {
            options.families = Families::Dual;
            options.hook = Choice::Only(hook);
        })?;
        let node = Self {
            guard,
            _directory: directory,
        };
        node.judged("from the start")?;
        Ok(node)
    }

    fn lab(&self) -> &Lab {
        &self.guard.0
    }

    fn status(&self) -> Result<Status> {
        self.lab().status(self.lab().state.node("left").context("left")?)
    }

    /// Runs a command on the node.
    fn run(&self, command: &str) -> Result<String> {
        said(self.lab(), "node/left", words(command)?)
    }

    /// The host's end of a pod's interface: number and name.
    fn veth(&self, pod: &str) -> Result<(u32, String)> {
        let status = self.status()?;
        let mut endpoints = status.endpoints.iter();
        let found = endpoints
            .find(|endpoint| endpoint.pod == pod)
            .context("an endpoint")?;
        Ok((found.ifindex, found.interface.clone()))
    }

    fn ifindex(&self, name: &str) -> Result<u32> {
        let found = self
            .lab()
            .within("node/left", || nix::net::if_::if_nametoindex(name))?;
        found.with_context(|| name.to_owned())
    }

    fn foreign(&self, ifindex: u32, hook: u32, place: Place) -> Result<std::os::fd::OwnedFd> {
        let attach = || foreign::attach(ifindex, hook, place, foreign::PASS);
        self.lab()
            .within("node/left", attach)?
            .context("a program of somebody else")
    }

    /// Waits until the agent tells of a problem, and returns what it says.
    fn problem(&self, code: &str, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.status()?;
            if let Some(problem) = status.problems.iter().find(|problem| problem.code == code) {
                return Ok(problem.message.clone());
            }
            ensure!(Instant::now() < deadline, "no {code}: {:?}", status.problems);
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the agent tells of no such problem.
    fn solved(&self, code: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.status()?.problems.iter().any(|problem| problem.code == code) {
            ensure!(Instant::now() < deadline, "{code} stays");
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn ways(&self, when: &str, v6: bool, second_stage: bool) -> Result<()> {
        let probes: Vec<_> = WAYS
            .iter()
            .map(|(from, to, port, ..)| Probe {
                family: Some(if v6 { 6 } else { 4 }),
                ..Probe::new(from, to, *port, "TCP")
            })
            .collect();
        for ((from, to, _, with, without), outcome) in WAYS.iter().zip(self.lab().probe(&probes)?) {
            let arrives = if second_stage { with } else { without };
            let expected = if *arrives { "allowed" } else { "denied" };
            ensure!(
                outcome.result == expected,
                "{when}, IPv6 {v6}: {from} to {to}: {} instead of {expected}",
                outcome.result
            );
        }
        Ok(())
    }

    /// Everything is judged as it should be.
    fn judged(&self, when: &str) -> Result<()> {
        self.ways(when, false, true)?;
        self.ways(when, true, true)
    }

    /// What is forbidden does not arrive.
    fn nothing_more(&self, when: &str) -> Result<()> {
        let forbidden = WAYS.iter().filter(|way| !way.3);
        let probes: Vec<_> = forbidden
            .flat_map(|(from, to, port, ..)| [4, 6].map(|family| (*from, *to, *port, family)))
            .map(|(from, to, port, family)| Probe {
                family: Some(family),
                ..Probe::new(from, to, port, "TCP")
            })
            .collect();
        for (probe, outcome) in probes.iter().zip(self.lab().probe(&probes)?) {
            ensure!(
                outcome.result == "denied",
                "{when}: {probe:?}: {}",
                outcome.result
            );
        }
        Ok(())
    }

    /// Egress beyond the pods is dropped where a policy isolates, and the agent says why.
    fn refused(&self, code: &str, patience: u64) -> Result<String> {
        let message = self.problem(code, Duration::from_secs(patience))?;
        ensure!(
            self.status()?.state == AgentState::Degraded,
            "{code}: not degraded"
        );
        self.ways(code, false, false)?;
        self.ways(code, true, false)?;
        Ok(message)
    }
}

/// A tag that is lost on the way is a packet to be judged, wherever it was lost.
// Covers: SEMANTICS 41
#[test]
fn programs_of_somebody_else_take_no_verdict_away() -> Result<()> {
    let node = Node::up("foreign", Hook::Tcx)?;
    let (a, name) = node.veth("a")?;
    let (b, _) = node.veth("b")?;
    let bridge = node.ifindex("cni0")?;
    let links = [
        (a, foreign::INGRESS),
        (a, foreign::EGRESS),
        (b, foreign::INGRESS),
        (b, foreign::EGRESS),
        (bridge, foreign::INGRESS),
    ]
    .map(|(ifindex, hook)| node.foreign(ifindex, hook, Place::Last));
    let links = links.into_iter().collect::<Result<Vec<_>>>()?;
    node.judged("behind ours, a program that ends the line")?;
    drop(links);
    // With a class, as clsact's classifiers give one: it replaces the tag.
    for class in [0, 1, 10, 0x100, 0x8001, 0xffff] {
        for interface in [name.as_str(), "cni0"] {
            node.run(&format!("tc qdisc replace dev {interface} clsact"))?;
            node.run(&format!(
                "tc filter replace dev {interface} ingress protocol all prio 7 handle 800::1 u32 match u32 0 0 classid 1:{class:x}"
            ))?;
        }
        node.ways(&format!("behind ours, class {class:#x}"), false, true)?;
    }
    for interface in [name.as_str(), "cni0"] {
        node.run(&format!("tc qdisc del dev {interface} clsact"))?;
    }
    ensure!(
        node.status()?.problems.is_empty(),
        "{:?}",
        node.status()?.problems
    );
    let first = node.foreign(a, foreign::INGRESS, Place::First)?;
    let message = node.problem("KRN007", Duration::from_secs(4))?;
    ensure!(message.contains(&name), "{message}");
    // The replies of what was translated are not known, so less may arrive, and nothing more.
    node.nothing_more("before ours, a program that ends the line where pods send")?;
    drop(first);
    node.solved("KRN007")
}

/// The bandwidth plugin's queueing disciplines: tbf towards the pod, and from it by way of an ifb.
#[test]
fn pods_whose_bandwidth_is_limited_are_judged() -> Result<()> {
    let node = Node::up("shaped", Hook::Tcx)?;
    for pod in ["a", "b"] {
        let (_, name) = node.veth(pod)?;
        for command in [
            format!("ip link add ifb{pod} type ifb"),
            format!("ip link set ifb{pod} up"),
            format!("tc qdisc add dev {name} root tbf rate 100mbit burst 1mb latency 25ms"),
            format!("tc qdisc add dev {name} ingress"),
            format!(
                "tc filter add dev {name} parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev ifb{pod}"
            ),
            format!("tc qdisc add dev ifb{pod} root tbf rate 100mbit burst 1mb latency 25ms"),
        ] {
            node.run(&command)?;
        }
    }
    thread::sleep(Duration::from_millis(1200));
    node.judged("shaped")?;
    ensure!(
        node.status()?.problems.is_empty(),
        "{:?}",
        node.status()?.problems
    );
    Ok(())
}

fn broken(hook: Hook) -> Result<()> {
    let node = Node::up("broken", hook)?;
    let sysctl = "sysctl -qw net.bridge.bridge-nf-call-";
    for (tables, code, v6) in [("iptables", "KRN001", false), ("ip6tables", "KRN005", true)] {
        node.run(&format!("{sysctl}{tables}=0"))?;
        node.problem(code, Duration::from_secs(4))?;
        ensure!(node.status()?.state == AgentState::Degraded);
        node.ways(code, v6, false)?;
        node.ways(&format!("{code}, the other family"), !v6, true)?;
        node.run(&format!("{sysctl}{tables}=1"))?;
        node.solved(code)?;
    }
    // There is no dummy in every kernel; it is the name that tells.
    node.run("ip link add kube-ipvs0 type bridge")?;
    node.refused("KRN008", 4)?;
    node.run("ip link del kube-ipvs0")?;
    node.solved("KRN008")?;

    let (_, name) = node.veth("b")?;
    node.run(&format!("ip link set {name} nomaster"))?;
    let message = node.problem("KRN009", Duration::from_secs(4))?;
    ensure!(message.contains("x/b"), "{message}");
    ensure!(node.status()?.state == AgentState::Degraded);
    node.run(&format!("ip link set {name} master cni0"))?;
    node.run(&format!("bridge link set dev {name} hairpin on"))?;
    node.solved("KRN009")?;

    // A veth might be a pod's, and is closed; what else is on the bridge is not ours to close.
    node.run("ip link add stranger type veth peer name behind")?;
    node.run("ip link set stranger master cni0 up")?;
    node.run("ip link add foreign type ifb")?;
    node.run("ip link set foreign master cni0 up")?;
    let message = node.refused("KRN006", 15)?;
    ensure!(
        message.contains("foreign") && !message.contains("stranger"),
        "{message}"
    );
    node.run("ip link del foreign")?;
    node.solved("KRN006")?;
    let message = node.problem("ATT002", Duration::from_secs(5))?;
    ensure!(message.contains("stranger"), "{message}");
    node.judged("with a stranger that is closed")?;
    node.run("ip link del stranger")?;
    node.solved("ATT002")?;
    node.judged("with everything mended")
}

#[test]
fn a_broken_node_lets_nothing_through_and_says_why() -> Result<()> {
    broken(Hook::Tcx)
}

/// As above, with clsact.
#[test]
fn a_broken_node_lets_nothing_through_and_says_why_with_clsact() -> Result<()> {
    broken(Hook::Clsact)
}

fn taken_off(hook: Hook) -> Result<()> {
    let node = Node::up("taken", hook)?;
    let links = "/sys/fs/bpf/vethwall/v1/links";
    let take = |ifindex: u32, name: &str| -> Result<()> {
        match hook {
            Hook::Tcx => node.run(&format!("find {links} -name {ifindex}-* -delete")),
            Hook::Clsact => node.run(&format!("tc qdisc del dev {name} clsact")),
        }
        .map(drop)
    };
    let interfaces = [
        node.veth("a")?,
        node.veth("b")?,
        (node.ifindex("cni0")?, "cni0".to_owned()),
    ];
    for (ifindex, name) in &interfaces {
        take(*ifindex, name)?;
        let deadline = Instant::now() + Duration::from_secs(4);
        while !node
            .problem("ATT003", Duration::from_secs(4))?
            .contains(name.as_str())
            && !node
                .status()?
                .problems
                .iter()
                .any(|problem| problem.code == "ATT003" && problem.message.contains(name.as_str()))
        {
            ensure!(Instant::now() < deadline, "nobody noticed on {name}");
            thread::sleep(Duration::from_millis(100));
        }
        node.judged(&format!("after our programs on {name} were taken off"))?;
    }
    // A bridge to which nothing can be attached.
    node.run("rm /sys/fs/bpf/vethwall/v1/programs/from_bridge")?;
    let (ifindex, name) = &interfaces[2];
    take(*ifindex, name)?;
    node.refused("KRN003", 4).map(drop)
}

#[test]
fn programs_that_are_taken_off_come_back() -> Result<()> {
    taken_off(Hook::Tcx)
}

#[test]
fn filters_that_are_taken_off_come_back() -> Result<()> {
    taken_off(Hook::Clsact)
}
