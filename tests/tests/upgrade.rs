//! One version of the map layouts replaces another, and comes back, while everybody sends.
//!
//! ```text
//! v1 judges ─ SIGTERM ─► v2's agent: maps, bridge, pods, one after the other ─► v1 is gone ─► and back
//! ```
//! Connections that policy allows go on, new ones begin, and of what policy forbids nothing arrives, at no moment.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use vethwall_datapath::{Choice, Hook, Pins, veth};
use vethwall_tests::{
    hooks,
    kernel::has_tcx,
    lab::{Engine, Lab},
    sandbox::{self, BPFFS},
    told,
};

use crate::{
    chain::{Agent, MANIFESTS, plain_node, status, until},
    connections::{POLICIES, Talk, address, all_go_on, hooked, inside, world},
    datapath::NO_TCX,
};

/// Datagrams, each from a port of its own as a connection of its own, and answers to them, until it is dropped.
struct Stream {
    name: String,
    sent: Arc<AtomicU64>,
    arrived: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Stream {
    fn new(lab: &Lab, from: &str, to: &str, server: &str, port: u16) -> Result<Self> {
        const PACE: Duration = Duration::from_millis(5);
        const ANSWER: Duration = Duration::from_millis(300);
        let stream = Self {
            name: format!("{from} to {to}"),
            sent: Arc::default(),
            arrived: Arc::default(),
            answered: Arc::default(),
            over: Arc::default(),
        };
        let far = inside(lab, server, || Ok(UdpSocket::bind(("0.0.0.0", port))?))?;
        far.set_read_timeout(Some(PACE))?;
        let (over, arrived) = (Arc::clone(&stream.over), Arc::clone(&stream.arrived));
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if let Ok((length, from)) = far.recv_from(&mut [0; 16]) {
                    arrived.fetch_add(1, Ordering::Relaxed);
                    // Whether the answer gets there is counted there.
                    let _sent = far.send_to(&[0; 16][..length], from);
                }
            }
        });
        let remote = SocketAddr::new(address(lab, to)?, port);
        let mut place = lab.target(from)?;
        place.resolver = None;
        let (over, sent) = (Arc::clone(&stream.over), Arc::clone(&stream.sent));
        let answered = Arc::clone(&stream.answered);
        thread::spawn(move || {
            place.enter().expect("the sender's namespaces");
            let mut waiting = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
                socket.set_nonblocking(true).expect("a socket that does not wait");
                if socket.send_to(b"hello", remote).is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                    waiting.push((socket, Instant::now()));
                }
                waiting.retain(|(socket, since)| {
                    if socket.recv(&mut [0; 16]).is_ok() {
                        answered.fetch_add(1, Ordering::Relaxed);
                        return false;
                    }
                    since.elapsed() < ANSWER
                });
                thread::sleep(PACE);
            }
        });
        Ok(stream)
    }

    fn seen(&self) -> [u64; 3] {
        [&self.sent, &self.arrived, &self.answered].map(|count| count.load(Ordering::Relaxed))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn forbidden(lab: &Lab) -> Result<[Stream; 5]> {
    Ok([
        Stream::new(lab, "x/stranger", "x/near", "x/near", 7901)?,
        Stream::new(lab, "x/stranger", "x/to-far", "x/far", 7009)?,
        Stream::new(lab, "x/client", "x/closed-near", "x/closed-near", 7902)?,
        Stream::new(lab, "x/client", "x/to-closed-near", "x/closed-near", 7009)?,
        Stream::new(lab, "x/client", "x/to-closed", "x/closed", 7009)?,
    ])
}

fn versions(lab: &Lab) -> Result<Vec<Vec<String>>> {
    let mut all = Vec::new();
    for node in &lab.state.nodes {
        all.push(inside(lab, &format!("node/{}", node.name), || {
            let mut names = Vec::new();
            for entry in fs::read_dir("/sys/fs/bpf/vethwall")? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.retain(|name| name.starts_with('v'));
            names.sort();
            Ok(names)
        })?);
    }
    Ok(all)
}

fn swap(name: &str, hook: Choice) -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("world.yaml"), world())?;
    // What is forbidden arrives as long as nobody forbids it.
    let mut guard = hooked(name, directory.path(), Engine::Vethwall, hook)?;
    let control = forbidden(&guard.0)?;
    thread::sleep(Duration::from_millis(500));
    for stream in &control {
        ensure!(
            stream.seen()[2] > 20,
            "{} never arrived: {:?}",
            stream.name,
            stream.seen()
        );
    }
    drop(control);
    fs::write(directory.path().join("policies.yaml"), POLICIES)?;
    let applied = guard.0.apply(directory.path(), &mut |_| {})?;
    ensure!(applied.complete(), "{applied:?}");
    thread::sleep(Duration::from_millis(500));
    let lab = &guard.0;
    let talks = [
        Talk::tcp(lab, "x/client", "x/near", "x/near", 7001)?,
        Talk::tcp(lab, "x/client", "x/far", "x/far", 7001)?,
        Talk::tcp(lab, "x/far", "x/near", "x/near", 7002)?,
        Talk::tcp(lab, "x/client", "x/to-near", "x/near", 7003)?,
        Talk::tcp(lab, "x/client", "x/to-far", "x/far", 7003)?,
        Talk::udp(lab, "x/client", "x/near", "x/near", 7001)?,
        Talk::udp(lab, "x/client", "x/to-near", "x/near", 7003)?,
        Talk::udp(lab, "x/client", "x/to-far", "x/far", 7003)?,
    ];
    all_go_on(&talks)?;
    let forbidden = forbidden(lab)?;
    let begin = [
        Stream::new(lab, "x/client", "x/near", "x/near", 7903)?,
        Stream::new(lab, "x/client", "x/to-near", "x/near", 7010)?,
        Stream::new(lab, "x/client", "x/to-far", "x/far", 7010)?,
    ];
    for (agent, version) in [
        ("vethwall-next", "v2"),
        ("vethwall", "v1"),
        ("vethwall-next", "v2"),
    ] {
        let before: Vec<_> = talks.iter().map(Talk::arrived).collect();
        let begun: Vec<_> = begin.iter().map(Stream::seen).collect();
        let start = Instant::now();
        guard.0.stop_engine(None, true)?;
        guard.0.agent = agent;
        let applied = guard.0.start_engine(None, &mut |_| {})?;
        ensure!(applied.complete(), "{applied:?}");
        let deadline = Instant::now() + Duration::from_secs(5);
        while versions(&guard.0)?.iter().any(|found| found != &[version]) {
            ensure!(
                Instant::now() < deadline,
                "{:?}, not {version}",
                versions(&guard.0)?
            );
            thread::sleep(Duration::from_millis(50));
        }
        let took = start.elapsed();
        told::measured(format!("swap to {version}"), format!("{took:?}"));
        thread::sleep(Duration::from_millis(500));
        // 200 bytes a second and side.
        let least = took.as_millis() as u64 * 200 / 1000 / 2;
        for (talk, before) in talks.iter().zip(before) {
            let now = talk.arrived();
            let got = [now[0] - before[0], now[1] - before[1]];
            ensure!(
                got.iter().all(|bytes| *bytes >= least),
                "{}: {got:?} bytes in {took:?}",
                talk.name
            );
        }
        for (stream, before) in begin.iter().zip(begun) {
            let now = stream.seen();
            let [sent, arrived, answered] = [0, 1, 2].map(|count| now[count] - before[count]);
            told::measured(
                format!("{} to {version}", stream.name),
                format!("{sent} sent, {arrived} arrived, {answered} answered"),
            );
            // What begins within the milliseconds of the swap may lose its first answer.
            ensure!(
                arrived * 100 >= sent * 98 && answered * 100 >= sent * 90,
                "{}: of {sent} new connections {arrived} arrived, {answered} were answered",
                stream.name
            );
        }
        // What begins afterwards loses none.
        let begun: Vec<_> = begin.iter().map(Stream::seen).collect();
        thread::sleep(Duration::from_millis(500));
        for (stream, before) in begin.iter().zip(begun) {
            let now = stream.seen();
            let [sent, _, answered] = [0, 1, 2].map(|count| now[count] - before[count]);
            ensure!(
                sent > 10 && answered * 100 >= sent * 95,
                "{}: with {version} in force, of {sent} new connections {answered} were answered",
                stream.name
            );
        }
        for stream in &forbidden {
            let [sent, arrived, _] = stream.seen();
            ensure!(
                sent > 100 && arrived == 0,
                "{}: {arrived} of {sent} came through",
                stream.name
            );
        }
    }
    all_go_on(&talks)?;
    for node in &guard.0.state.nodes {
        let status = guard.0.status(node)?;
        ensure!(status.problems.is_empty(), "{:?}", status.problems);
    }
    Ok(())
}

// Covers: SEMANTICS 46
#[test]
fn layouts_change_under_traffic() -> Result<()> {
    swap("next", Choice::Best)
}

#[test]
fn layouts_change_under_traffic_with_filters() -> Result<()> {
    swap("next-clsact", Choice::Only(Hook::Clsact))
}

/// The next version has not all objects yet; then it can not take the bridge over, as somebody's file is where a pin belongs.
#[test]
fn an_upgrade_that_can_not_finish_is_told_and_finishes_when_it_can() {
    if !has_tcx().unwrap() {
        return told::skipped(NO_TCX);
    }
    sandbox::run(|| {
        let (_node, _) = plain_node();
        let [old, new] = [1, 2].map(|abi| Pins::of(BPFFS, abi));
        let judging = |pins: &Pins| hooks::judging(pins).unwrap();
        let agent = Agent::start("off");
        until("the old version is ready", || status()["ready"] == true);
        agent.terminate();
        let before = judging(&old);
        assert_eq!(before, 3, "the pod's and the bridge's");

        let unread = Path::new(MANIFESTS).join("unread.yaml");
        fs::write(&unread, "kind: [").unwrap();
        let _agent = Agent::of("vethwall-next", "off");
        let told = || {
            let status = status();
            let problems = status["problems"].as_array().cloned().unwrap_or_default();
            let mut problems = problems.iter().filter(|problem| problem["code"] == "ATT005");
            problems
                .next()
                .map(|problem| problem["message"].as_str().unwrap().to_owned())
        };
        until("two versions are told", || {
            told().is_some_and(|why| why.contains("(v1)"))
        });
        assert_eq!((judging(&old), judging(&new)), (before, 0));

        let bridge = veth::ifindex("cni0").unwrap().unwrap();
        let file = new.links().join(format!("{bridge}-bridge"));
        fs::create_dir_all(file.join("x")).unwrap();
        fs::remove_file(unread).unwrap();
        until("what can not be taken over is told", || {
            told().is_some_and(|why| why.contains(file.to_str().unwrap()))
        });
        assert_eq!(status()["ready"], false);
        assert_eq!(judging(&old), before);

        fs::remove_dir_all(&file).unwrap();
        until("the new version is ready", || status()["ready"] == true);
        assert_eq!((judging(&new), told()), (before, None), "{}", status());
        assert!(!old.root().exists());
    });
}
