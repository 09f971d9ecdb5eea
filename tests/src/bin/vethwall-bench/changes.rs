//! Changes at the API server, and the datagrams that meet them.
//!
//! A datagram is sent every [`PERIOD`] from behind the bridge, as from a pod of another node, to a pod of this one. A change
//! lets them through or stops them; what counts is the first that arrives, or the last, since the API server said that the
//! change was made.

use std::{
    fs,
    net::UdpSocket,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vethwall_tests::{
    apiserver::{Admin, objects},
    sandbox::{inside, ip},
};

const PERIOD: Duration = Duration::from_micros(100);
/// Without a datagram for so long they are stopped.
const SILENCE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(30);

const SENDER: &str = "10.244.200.2";
const RECEIVER: &str = "10.244.1.2";

/// What changes, the port that is closed and opened by it, and the body of either.
struct Kind {
    name: &'static str,
    port: u16,
    path: &'static str,
    open: Value,
    closed: Value,
}

/// Pods of any namespace with a label.
fn pods(key: &str, value: &str) -> Value {
    json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {key: value}}})
}

/// What a policy says that lets a peer send to a port.
fn lets(peer: Value, port: u16) -> Value {
    json!({"ingress": [{"from": [peer], "ports": [{"protocol": "UDP", "port": port}]}]})
}

fn kinds() -> [Kind; 3] {
    let lets = |who: &str| json!({"spec": lets(pods("is", who), 9001)});
    let label = |key: &str, value: &str| json!({"metadata": {"labels": {key: value}}});
    [
        Kind {
            name: "a policy's peer",
            port: 9001,
            path: "/apis/networking.k8s.io/v1/namespaces/ns0/networkpolicies/by-policy",
            open: lets("far"),
            closed: lets("nobody"),
        },
        Kind {
            name: "a pod's label",
            port: 9002,
            path: "/api/v1/namespaces/far/pods/far",
            open: label("role", "friend"),
            closed: label("role", "stranger"),
        },
        Kind {
            name: "a namespace's label",
            port: 9003,
            path: "/api/v1/namespaces/far",
            open: label("team", "friends"),
            closed: label("team", "strangers"),
        },
    ]
}

/// The pod that sends, its wire, and the policies that ask about it.
pub(crate) fn prepare(admin: &Admin) -> Result<()> {
    admin.apply(&objects::namespace("far"))?;
    let mut far = objects::pod("far", "far", "far", SENDER);
    far["spec"]["nodeName"] = "elsewhere".into();
    far["metadata"]["labels"] = json!({"is": "far", "role": "stranger"});
    admin.apply(&far)?;
    let friends = json!({"namespaceSelector": {"matchLabels": {"team": "friends"}}});
    for (name, port, peer) in [
        ("by-policy", 9001, pods("is", "nobody")),
        ("by-pod", 9002, pods("role", "friend")),
        ("by-namespace", 9003, friends),
    ] {
        let mut policy = objects::policy("ns0", name, "app0", "nobody");
        policy["spec"]["ingress"] = lets(peer, port)["ingress"].take();
        admin.apply(&policy)?;
    }
    ip("netns add elsewhere")?;
    ip("link add far type veth peer name eth0 netns elsewhere")?;
    ip("addr add 10.244.200.1/24 dev far")?;
    ip("link set far up")?;
    ip(&format!("-n elsewhere addr add {SENDER}/24 dev eth0"))?;
    ip("-n elsewhere link set eth0 up")?;
    ip("-n elsewhere route add default via 10.244.200.1")?;
    ip("-n pod0 route add default via 10.244.1.1")?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("forward packets")
}

/// When datagrams arrived, in nanoseconds since a moment; 0: not yet.
#[derive(Default)]
struct Arrived {
    first: AtomicU64,
    last: AtomicU64,
}

/// Prints what each kind of change took, in either direction.
pub(crate) fn measure(admin: &Admin, changes: usize) -> Result<()> {
    println!(
        "  from the API server's answer to the packet, {changes} times each, milliseconds; one more is sent every {} µs",
        PERIOD.as_micros()
    );
    println!(
        "    {:<22} {:<9} {:>6} {:>6} {:>6} {:>6}",
        "changed", "", "p50", "p90", "p99", "most"
    );
    for kind in kinds() {
        let (opened, closed) = times(admin, &kind, changes)?;
        for (what, mut times) in [("allowed", opened), ("denied", closed)] {
            times.sort_unstable();
            let at = |percent: usize| {
                times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3
            };
            println!(
                "    {:<22} {what:<9} {:>6.1} {:>6.1} {:>6.1} {:>6.1}",
                kind.name,
                at(50),
                at(90),
                at(99),
                at(100)
            );
        }
    }
    Ok(())
}

fn times(admin: &Admin, kind: &Kind, changes: usize) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let sender = inside("elsewhere", || UdpSocket::bind("0.0.0.0:9000"))?;
    sender.connect((RECEIVER, kind.port))?;
    let receiver = inside("pod0", || UdpSocket::bind(("0.0.0.0", kind.port)))?;
    receiver.set_read_timeout(Some(SILENCE))?;
    let (base, over, arrived) = (Instant::now(), AtomicBool::new(false), Arrived::default());
    let now = || base.elapsed().as_nanos() as u64;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                // What is refused is what is measured.
                let _sent = sender.send(b"x");
                thread::sleep(PERIOD);
            }
        });
        scope.spawn(|| {
            let mut buffer = [0; 8];
            while !over.load(Relaxed) {
                if receiver.recv(&mut buffer).is_ok() {
                    let now = now();
                    arrived.last.store(now, Relaxed);
                    let _later = arrived.first.compare_exchange(0, now, Relaxed, Relaxed);
                }
            }
        });
        let measured = (0..changes).map(|_| {
            arrived.first.store(0, Relaxed);
            admin.send("PATCH", kind.path, Some(&kind.open))?;
            let done = now();
            let begun = Instant::now();
            while arrived.first.load(Relaxed) == 0 {
                ensure!(begun.elapsed() < PATIENCE, "{}: nothing arrives", kind.name);
                thread::sleep(PERIOD);
            }
            let opened = arrived.first.load(Relaxed).saturating_sub(done);
            thread::sleep(SILENCE);
            admin.send("PATCH", kind.path, Some(&kind.closed))?;
            let done = now();
            let begun = Instant::now();
            while now().saturating_sub(arrived.last.load(Relaxed)) < SILENCE.as_nanos() as u64 {
                ensure!(begun.elapsed() < PATIENCE, "{}: it goes on arriving", kind.name);
                thread::sleep(PERIOD);
            }
            let closed = arrived.last.load(Relaxed).saturating_sub(done);
            Ok((Duration::from_nanos(opened), Duration::from_nanos(closed)))
        });
        let measured = measured.collect::<Result<Vec<_>>>();
        over.store(true, Relaxed);
        Ok(measured?.into_iter().unzip())
    })
}
