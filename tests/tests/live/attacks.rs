//! An attacker in a pod, with raw sockets and all rights over its own network namespace, against a pod that a policy
//! isolates from it, on the same node. What arrives is seen on the victim's own interface, behind our programs, and a
//! connection that the policy allows runs beside it all the time.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use vethwall_common::endpoint::tag;
use vethwall_datapath::{Choice, Hook};
use vethwall_tests::{
    kernel::packet::arp,
    lab::{Engine, Families, Lab, Probe},
};

use super::{
    frames::{self, Cast, Party},
    said, up, words,
};

const CLUSTER: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: x}
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: evil, labels: {app: evil}}
spec: {nodeName: left, containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: victim, labels: {app: victim}}
spec: {nodeName: left, containers: [{name: c, image: c, ports: [{containerPort: 80}, {containerPort: 80, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: friend, labels: {app: friend}}
spec: {nodeName: left, containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: far, labels: {app: friend}}
spec: {nodeName: right, containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: bystander, labels: {app: bystander}}
spec: {nodeName: left, containers: [{name: c, image: c, ports: [{containerPort: 80}, {containerPort: 80, protocol: UDP}]}]}
";

/// The victim hears its friends only, on one port.
const SHELTER: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: shelter}
spec:
  podSelector: {matchLabels: {app: victim}}
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: 80}]}]
";

/// Nobody hears the attacker.
const JAIL: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: jail}
spec: {podSelector: {matchLabels: {app: evil}}, policyTypes: [Egress]}
";

/// What the kernel itself keeps from the victim, also in plain flannel, so that nothing is proven by its absence.
const NEVER: [&str; 0] = [];

fn party(lab: &Lab, name: &str) -> Result<Party> {
    let (target, interface) = match name {
        "bridge" => ("node/left", "cni0"),
        pod => (pod, "eth0"),
    };
    let text = said(lab, target, words(&format!("ip -j addr show {interface}"))?)?;
    let link: serde_json::Value = serde_json::from_str(&text)?;
    let text = link[0]["address"].as_str().context("a MAC address")?;
    let mut mac = [0; 6];
    for (byte, digits) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(digits, 16)?;
    }
    let mut addresses = link[0]["addr_info"].as_array().into_iter().flatten();
    let mut find = |v6: bool| {
        addresses
            .by_ref()
            .filter(|entry| entry["scope"] == "global")
            .filter_map(|entry| entry["local"].as_str()?.parse::<IpAddr>().ok())
            .find(|address| address.is_ipv6() == v6)
    };
    let (Some(IpAddr::V4(v4)), Some(IpAddr::V6(v6))) = (find(false), find(true)) else {
        anyhow::bail!("{name} has not both addresses: {link}")
    };
    Ok(Party { mac, v4, v6 })
}

/// A connection that the policy allows; a byte there and back is a breath.
struct Friendship(Vec<TcpStream>);

impl Friendship {
    fn begin(lab: &Lab, victim: &Party) -> Result<Self> {
        let connect = |to: SocketAddr| -> Result<TcpStream> {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
            stream.set_read_timeout(Some(Duration::from_secs(3)))?;
            stream.set_nodelay(true)?;
            let mut greeting = [0; 9];
            stream.read_exact(&mut greeting)?;
            ensure!(&greeting == b"x/victim\n", "{greeting:?}");
            Ok(stream)
        };
        let to = [
            SocketAddr::new(victim.v4.into(), 80),
            SocketAddr::new(victim.v6.into(), 80),
        ];
        let streams = lab.within("x/friend", || to.into_iter().map(connect).collect::<Result<_>>())?;
        streams.map(Self).context("the friend's connection")
    }

    fn breathe(&mut self) -> Result<()> {
        for stream in &mut self.0 {
            stream.write_all(b"!")?;
            let mut back = [0];
            stream.read_exact(&mut back)?;
        }
        Ok(())
    }

    fn ports(&self) -> Result<[u16; 2]> {
        let ports: Vec<u16> = self
            .0
            .iter()
            .map(|stream| Ok(stream.local_addr()?.port()))
            .collect::<Result<_>>()?;
        Ok([ports[0], ports[1]])
    }
}

/// How many frames of each scenario reached the victim.
struct Report(Vec<(&'static str, usize)>);

fn attack(lab: &Lab, shielded: bool) -> Result<Report> {
    let victim = party(lab, "x/victim")?;
    let mut friendship = Friendship::begin(lab, &victim)?;
    let cast = Cast {
        evil: party(lab, "x/evil")?,
        victim,
        friend: party(lab, "x/friend")?,
        bystander: party(lab, "x/bystander")?,
        bridge: party(lab, "bridge")?,
        port: friendship.ports()?,
    };
    let seen = lab.tap("x/victim", "eth0")?;
    let evil = lab.tap("x/evil", "eth0")?;
    // Frames in the victim's name teach the bridge that it lives elsewhere; each time it says where it is.
    let here = arp(
        cast.victim.mac,
        cast.victim.mac,
        cast.victim.v4.octets(),
        cast.victim.v4.octets(),
    );
    let send = |frame: &[u8]| seen.send(&here).and_then(|()| evil.send(frame));
    let mut names = Vec::new();
    let mut counts = Vec::new();
    // Whether something of each has come.
    let mut count = |names: &[&str]| -> Result<bool> {
        counts.resize(names.len(), 0);
        for frame in seen.received()? {
            let short = || {
                let cut = frame.len() < 42 && frame.get(6..12) == Some(&cast.evil.mac[..]);
                cut.then(|| names.iter().position(|name| name.contains("lie")))?
            };
            if let Some(number) = frames::number(&frame).or_else(short) {
                // Errors quote what was sent in passing.
                counts.get_mut(number).into_iter().for_each(|count| *count += 1);
            }
        }
        Ok(counts.iter().all(|count| *count > 0))
    };
    for scenario in frames::scenarios(&cast) {
        names.push(scenario.name);
        for frame in &scenario.frames {
            send(frame).with_context(|| scenario.name)?;
        }
        if shielded {
            friendship
                .breathe()
                .with_context(|| format!("{}: the allowed connection ended", scenario.name))?;
        }
        count(&names)?;
    }

    names.push("with marks and priorities");
    for mark in [0x4000, 0x8000, 0xc000, 0x2000, 0x0001_4000, u32::MAX] {
        for priority in [0, 7, 0x0001_4001, u32::MAX] {
            evil.preset(mark, priority)?;
            for frame in frames::plain(&cast, names.len() - 1) {
                send(&frame)?;
            }
        }
    }
    evil.preset(0, 0)?;
    count(&names)?;

    names.push("with tags of our own");
    tags(lab, send, &cast, names.len() - 1)?;
    count(&names)?;

    names.push("scattered over pages");
    let frames = frames::plain(&cast, names.len() - 1);
    seen.send(&here)?;
    lab.tap("x/evil", "eth0")?
        .send_scattered(&frames)
        .context("scattered")?;
    count(&names)?;

    names.push("answers to somebody else's question");
    // The victim asks the bystander; the attacker answers from its own port, and as the bystander.
    let asks = frames::datagram(
        &Cast {
            evil: cast.victim,
            ..cast
        },
        999,
        cast.bystander,
        6000,
        5000,
    );
    lab.tap("x/victim", "eth0")?.send(&asks)?;
    for (who, port) in [(cast.evil, 5000), (cast.evil, 5001), (cast.bystander, 5000)] {
        let answer = frames::datagram(
            &Cast { evil: who, ..cast },
            names.len() - 1,
            cast.victim,
            port,
            6000,
        );
        send(&answer)?;
    }

    // What was sent last comes at once, but where the machine is busy.
    let patience = Duration::from_millis(if shielded { 300 } else { 10_000 });
    let end = Instant::now() + patience;
    while !count(&names)? && Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
    }
    if shielded {
        friendship.breathe().context("the allowed connection ended")?;
    }
    Ok(Report(names.into_iter().zip(counts).collect()))
}

/// Lets the attacker's own kernel preset what our programs leave for each other: `tc_index`, by a classifier's class.
fn tags(lab: &Lab, send: impl Fn(&[u8]) -> io::Result<()>, cast: &Cast, number: usize) -> Result<()> {
    let tc = |rest: &str| said(lab, "x/evil", words(&format!("tc {rest}"))?);
    tc("qdisc replace dev eth0 clsact")?;
    let states = [0, tag::JUDGED, tag::DEFERRED, tag::JUDGED | tag::DEFERRED];
    for state in states {
        for index in 0..6 {
            let class = state | tag::version(vethwall_common::ABI_VERSION) | index;
            tc("filter del dev eth0 egress")?;
            tc(&format!(
                "filter add dev eth0 egress protocol all prio 1 u32 match u32 0 0 classid 1:{class:x}"
            ))?;
            for frame in frames::plain(cast, number) {
                send(&frame)?;
            }
        }
    }
    tc("qdisc del dev eth0 clsact").map(drop)
}

fn lab(name: &str, engine: Engine, hook: Hook) -> Result<(tempfile::TempDir, super::Guard)> {
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join("cluster.yaml"), CLUSTER)?;
    std::fs::write(directory.path().join("policy.yaml"), SHELTER)?;
    let guard = up(&format!("{name}-{hook}"), directory.path(), |options| {
        options.engine = engine;
        options.families = Families::Dual;
        options.hook = Choice::Only(hook);
    })?;
    Ok((directory, guard))
}

fn nothing(report: &Report, whom: &str) -> Result<()> {
    let through: Vec<_> = report.0.iter().filter(|(_, count)| *count > 0).collect();
    ensure!(through.is_empty(), "{whom}: frames arrived: {through:?}");
    Ok(())
}

/// The harness sees what arrives: without vethwall every kind of attack does.
#[test]
fn an_attacker_reaches_everybody_in_plain_flannel() -> Result<()> {
    let (_directory, guard) = lab("attack-plain", Engine::None, Hook::Tcx)?;
    let report = attack(&guard.0, false)?;
    let unseen: Vec<_> = report
        .0
        .iter()
        .filter(|(name, count)| *count == 0 && !NEVER.contains(name))
        .collect();
    ensure!(
        unseen.is_empty(),
        "nothing arrived of {unseen:?}; of all: {:?}",
        report.0
    );
    Ok(())
}

/// Whoever reaches the node's VXLAN port is every pod of every other node.
#[test]
fn an_attacker_does_not_reach_the_tunnel() -> Result<()> {
    let (_directory, guard) = lab("attack-tunnel", Engine::Vethwall, Hook::Tcx)?;
    let lab = &guard.0;
    let party = |name: &str| party(lab, name);
    let cast = Cast {
        evil: party("x/evil")?,
        victim: party("x/victim")?,
        friend: party("x/friend")?,
        bystander: party("x/bystander")?,
        bridge: party("bridge")?,
        port: [0, 0],
    };
    let seen = lab.tap("x/victim", "eth0")?;
    // As the lab makes flannel.1 on its first node.
    let frame = frames::tunnelled(&cast, 0, party("x/far")?.v4, [0xaa, 0, 0, 0, 4, 1]);
    let node = lab.state.node("left").context("left")?.address4();
    let socket = lab.within("x/evil", || UdpSocket::bind("0.0.0.0:0"))??;
    socket.send_to(&frame, (node, 8472))?;
    thread::sleep(Duration::from_millis(500));
    let arrived = seen
        .received()?
        .iter()
        .filter(|frame| frames::number(frame).is_some())
        .count();
    ensure!(
        arrived == 0,
        "the victim takes {arrived} frames for those of a friend"
    );
    Ok(())
}

fn shelter_and_jail(hook: Hook) -> Result<()> {
    let (directory, mut guard) = lab("attack", Engine::Vethwall, hook)?;
    let probe = |lab: &Lab, from: &str, to: &str, protocol: &str| -> Result<String> {
        Ok(lab.probe(&[Probe::new(from, to, 80, protocol)])?[0]
            .result
            .clone())
    };
    nothing(&attack(&guard.0, true)?, "an isolated victim")?;

    flood(&guard.0)?;
    ensure!(probe(&guard.0, "x/evil", "x/victim", "TCP")? == "denied");
    ensure!(probe(&guard.0, "x/friend", "x/victim", "TCP")? == "allowed");
    ensure!(probe(&guard.0, "x/far", "x/victim", "TCP")? == "allowed");
    ensure!(probe(&guard.0, "x/evil", "x/bystander", "UDP")? == "allowed");

    std::fs::write(directory.path().join("policy.yaml"), JAIL)?;
    let applied = guard.0.apply(directory.path(), &mut |_| {})?;
    ensure!(applied.complete(), "{applied:?}");
    nothing(&attack(&guard.0, true)?, "a jailed attacker")
}

/// Fills the tables of connections, with answers and without, while an allowed connection runs.
fn flood(lab: &Lab) -> Result<()> {
    let victim = party(lab, "x/victim")?;
    let mut friendship = Friendship::begin(lab, &victim)?;
    let bystander = party(lab, "x/bystander")?;
    let cast = Cast {
        evil: party(lab, "x/evil")?,
        victim,
        friend: bystander,
        bystander,
        bridge: bystander,
        port: [0, 0],
    };
    let evil = lab.tap("x/evil", "eth0")?;
    let deadline = Instant::now() + Duration::from_secs(60);
    for port in 80..83 {
        for source in (1024..u16::MAX).step_by(2) {
            evil.send(&frames::datagram(&cast, 998, bystander, source, port))?;
            if source % 8192 == 0 {
                friendship
                    .breathe()
                    .context("a flood ended the allowed connection")?;
            }
            ensure!(Instant::now() < deadline, "the flood takes too long");
        }
    }
    friendship
        .breathe()
        .context("a flood ended the allowed connection")
}

// Covers: SEMANTICS 44, 48, 49, 50, 51, 52, 53, 54
#[test]
fn nothing_of_an_attacker_reaches_an_isolated_pod() -> Result<()> {
    shelter_and_jail(Hook::Tcx)
}

/// As above, with clsact.
#[test]
fn nothing_of_an_attacker_reaches_an_isolated_pod_with_clsact() -> Result<()> {
    shelter_and_jail(Hook::Clsact)
}
