//! Connections that run while something happens: vethwall arrives, or policy changes. Both sides send all the time, so that
//! a packet that gets through for the wrong reason is seen.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use vethwall_datapath::Choice;
use vethwall_tests::lab::{Engine, Lab, Options};

const PACE: Duration = Duration::from_millis(50);
/// A policy is in force when `apply` returns; what was on its way then has arrived after this.
const SETTLED: Duration = Duration::from_millis(1500);
const WATCHED: Duration = Duration::from_secs(3);

pub(crate) struct Guard(pub(crate) Lab);

impl Drop for Guard {
    fn drop(&mut self) {
        Lab::down(&self.0.state.name).expect("down");
    }
}

/// Runs this where a pod is. Sockets that it makes stay there.
pub(crate) fn inside<T: Send>(lab: &Lab, pod: &str, make: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let mut place = lab.target(pod)?;
    place.resolver = None;
    let outcome = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            place.enter()?;
            make()
        });
        worker.join()
    });
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

pub(crate) fn address(lab: &Lab, name: &str) -> Result<IpAddr> {
    if let Some(service) = lab.state.services.get(name) {
        return service.addresses.first().copied().context("no cluster IP");
    }
    let pod = lab
        .state
        .pods
        .get(name)
        .with_context(|| format!("no pod {name}"))?;
    pod.address(false).context("no address")
}

/// A connection with both sides sending until it is dropped.
pub(crate) struct Talk {
    pub(crate) name: String,
    /// Bytes that reached the side that opened it, and the other.
    arrived: [Arc<AtomicU64>; 2],
    /// Sides that send.
    sends: [Arc<AtomicBool>; 2],
    /// Who opened it sends one packet more.
    once: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

type Send1 = Box<dyn FnMut() -> std::io::Result<usize> + Send>;
type Receive = Box<dyn FnMut() -> std::io::Result<usize> + Send>;

impl Talk {
    /// `to`: who is asked for by `client`; `server`: who answers, the same or a pod behind it.
    pub(crate) fn tcp(lab: &Lab, client: &str, to: &str, server: &str, port: u16) -> Result<Self> {
        let listener = inside(lab, server, || Ok(TcpListener::bind(("0.0.0.0", port))?))?;
        let remote = SocketAddr::new(address(lab, to)?, port);
        let near = inside(lab, client, || {
            Ok(TcpStream::connect_timeout(&remote, Duration::from_secs(3))?)
        })
        .with_context(|| format!("{client} to {to} {port}/TCP"))?;
        let (far, _) = listener.accept()?;
        let side = |stream: TcpStream| -> Result<(Send1, Receive)> {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PACE))?;
            stream.set_write_timeout(Some(PACE))?;
            let mut writer = stream.try_clone()?;
            let mut reader = stream;
            let mut buffer = [0; 4096];
            Ok((
                Box::new(move || writer.write(b"0123456789")),
                Box::new(move || reader.read(&mut buffer)),
            ))
        };
        Ok(Self::start(
            format!("{client} to {to} TCP"),
            side(near)?,
            side(far)?,
        ))
    }

    pub(crate) fn udp(lab: &Lab, client: &str, to: &str, server: &str, port: u16) -> Result<Self> {
        let far = inside(lab, server, || Ok(UdpSocket::bind(("0.0.0.0", port))?))?;
        let remote = SocketAddr::new(address(lab, to)?, port);
        let near = inside(lab, client, || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(remote)?;
            Ok(socket)
        })?;
        far.set_read_timeout(Some(Duration::from_secs(3)))?;
        near.send(b"hello")?;
        let (_, from) = far
            .recv_from(&mut [0; 64])
            .with_context(|| format!("{client} to {to} {port}/UDP"))?;
        let side = |socket: UdpSocket, to: Option<SocketAddr>| -> Result<(Send1, Receive)> {
            socket.set_read_timeout(Some(PACE))?;
            let reader = socket.try_clone()?;
            let mut buffer = [0; 4096];
            Ok((
                Box::new(move || match to {
                    Some(to) => socket.send_to(b"0123456789", to),
                    None => socket.send(b"0123456789"),
                }),
                Box::new(move || reader.recv(&mut buffer)),
            ))
        };
        Ok(Self::start(
            format!("{client} to {to} UDP"),
            side(near, None)?,
            side(far, Some(from))?,
        ))
    }

    fn start(name: String, near: (Send1, Receive), far: (Send1, Receive)) -> Self {
        let talk = Self {
            name,
            arrived: Default::default(),
            sends: [true, true].map(|on| Arc::new(AtomicBool::new(on))),
            once: Arc::default(),
            over: Arc::default(),
        };
        for (side, (mut send, mut receive)) in [near, far].into_iter().enumerate() {
            let (over, sends) = (Arc::clone(&talk.over), Arc::clone(&talk.sends[side]));
            let once = if side == 0 {
                Arc::clone(&talk.once)
            } else {
                Arc::default()
            };
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    if sends.load(Ordering::Relaxed) || once.swap(false, Ordering::Relaxed) {
                        // A full buffer is what a cut connection ends in.
                        let _full = send();
                    }
                    thread::sleep(PACE);
                }
            });
            let (over, arrived) = (Arc::clone(&talk.over), Arc::clone(&talk.arrived[side]));
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    match receive() {
                        Ok(0) => return,
                        Ok(length) => _ = arrived.fetch_add(length as u64, Ordering::Relaxed),
                        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                        }
                        Err(_) => thread::sleep(PACE),
                    }
                }
            });
        }
        talk
    }

    pub(crate) fn arrived(&self) -> [u64; 2] {
        [0, 1].map(|side| self.arrived[side].load(Ordering::Relaxed))
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// What reaches each side of each connection from now on, in a while.
fn watch(talks: &[Talk]) -> Vec<[u64; 2]> {
    let before: Vec<_> = talks.iter().map(Talk::arrived).collect();
    thread::sleep(WATCHED);
    let after = talks.iter().map(Talk::arrived);
    after
        .zip(before)
        .map(|(now, then)| [now[0] - then[0], now[1] - then[1]])
        .collect()
}

pub(crate) fn all_go_on(talks: &[Talk]) -> Result<()> {
    for (talk, seen) in talks.iter().zip(watch(talks)) {
        // Sent in this time: 600 bytes a side.
        ensure!(
            seen.iter().all(|bytes| *bytes >= 300),
            "{}: {seen:?} bytes of about 600 each way",
            talk.name
        );
    }
    Ok(())
}

fn none_goes_on(talks: &[Talk]) -> Result<()> {
    for (talk, seen) in talks.iter().zip(watch(talks)) {
        ensure!(
            seen == [0, 0],
            "{}: {seen:?} bytes came through, to who opened it and to the other side",
            talk.name
        );
    }
    Ok(())
}

pub(crate) fn world() -> String {
    let mut text = String::new();
    for (name, node) in [
        ("client", "node-a"),
        ("near", "node-a"),
        ("far", "node-b"),
        ("stranger", "node-a"),
        ("closed", "node-b"),
        ("closed-near", "node-a"),
    ] {
        text += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: x, name: {name}, labels: {{app: {name}}}}}\nspec: {{nodeName: {node}, containers: [{{name: c, image: c}}]}}\n"
        );
    }
    for (name, number) in [("near", 81), ("far", 82), ("closed", 83), ("closed-near", 84)] {
        let ports: Vec<_> = (7001..7012)
            .flat_map(|port| {
                ["TCP", "UDP"].map(|p| {
                    format!(
                        "{{name: {}{port}, port: {port}, protocol: {p}}}",
                        p.to_lowercase()
                    )
                })
            })
            .collect();
        text += &format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{namespace: x, name: to-{name}}}\nspec: {{clusterIP: 10.96.0.{number}, selector: {{app: {name}}}, ports: [{}]}}\n",
            ports.join(", ")
        );
    }
    text
}

/// The client may talk to `near` and `far`, and they to it; `far` to `near`. Everybody but the stranger is isolated both
/// ways, so everything else is forbidden.
pub(crate) const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: all}
spec:
  podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [stranger]}]}
  policyTypes: [Ingress, Egress]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: client}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [near, far]}]}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: servers}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [near, far, closed, closed-near]}]}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [client, far]}]}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: far}
spec:
  podSelector: {matchLabels: {app: far}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: near}}}]}]
";

fn lab(name: &str, directory: &std::path::Path, engine: Engine) -> Result<Guard> {
    hooked(name, directory, engine, Choice::Best)
}

pub(crate) fn hooked(name: &str, directory: &std::path::Path, engine: Engine, hook: Choice) -> Result<Guard> {
    let options = Options {
        engine,
        hook,
        ..Options::new(&format!("{name}-{}", std::process::id()), directory)
    };
    let (lab, applied) = Lab::up(&options, &mut |_| {})?;
    let guard = Guard(lab);
    ensure!(applied.complete(), "{applied:?}");
    Ok(guard)
}

// Covers: SEMANTICS 41, 43, 46
#[test]
fn connections_older_than_vethwall_go_on_where_policy_allows_them() -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("world.yaml"), world())?;
    fs::write(directory.path().join("policies.yaml"), POLICIES)?;
    let mut guard = lab("older", directory.path(), Engine::None)?;
    let lab = &guard.0;
    let allowed = [
        Talk::tcp(lab, "x/client", "x/near", "x/near", 7001)?,
        Talk::tcp(lab, "x/client", "x/far", "x/far", 7001)?,
        Talk::tcp(lab, "x/far", "x/near", "x/near", 7002)?,
        Talk::tcp(lab, "x/client", "x/to-near", "x/near", 7003)?,
        Talk::tcp(lab, "x/client", "x/to-far", "x/far", 7003)?,
        Talk::udp(lab, "x/client", "x/near", "x/near", 7001)?,
        Talk::udp(lab, "x/client", "x/to-near", "x/near", 7003)?,
        Talk::udp(lab, "x/client", "x/to-far", "x/far", 7003)?,
    ];
    let forbidden = [
        Talk::tcp(lab, "x/stranger", "x/near", "x/near", 7004)?,
        Talk::tcp(lab, "x/stranger", "x/to-far", "x/far", 7005)?,
        Talk::udp(lab, "x/stranger", "x/near", "x/near", 7005)?,
        Talk::tcp(lab, "x/client", "x/closed", "x/closed", 7001)?,
        Talk::udp(lab, "x/client", "x/closed", "x/closed", 7001)?,
    ];
    all_go_on(&allowed)?;
    all_go_on(&forbidden)?;
    let applied = guard.0.start_engine(None, &mut |_| {})?;
    ensure!(applied.complete(), "{applied:?}");
    thread::sleep(SETTLED);
    all_go_on(&allowed)?;
    none_goes_on(&forbidden)?;
    for node in &guard.0.state.nodes {
        let status = guard.0.status(node)?;
        ensure!(
            status.connections.seeded > 0,
            "{}: {:?}",
            node.name,
            status.connections
        );
        ensure!(status.problems.is_empty(), "{:?}", status.problems);
    }
    Ok(())
}

/// The programs forget a connection, as they do when their tables are full: the agent asks the kernel.
// Covers: SEMANTICS 46
#[test]
fn a_connection_that_the_programs_forgot_goes_on() -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("world.yaml"), world())?;
    fs::write(directory.path().join("policies.yaml"), POLICIES)?;
    let guard = lab("forgot", directory.path(), Engine::Vethwall)?;
    let lab = &guard.0;
    let talks = [
        Talk::tcp(lab, "x/client", "x/near", "x/near", 7001)?,
        Talk::tcp(lab, "x/client", "x/to-far", "x/far", 7002)?,
    ];
    all_go_on(&talks)?;
    let node = format!("node/{}", lab.state.nodes[0].name);
    let mut forgotten = 0;
    for map in ["FLOWS", "FLOWS_NEW"] {
        forgotten += forget(lab, &node, map)?;
    }
    ensure!(forgotten > 0, "there was nothing to forget");
    thread::sleep(SETTLED);
    all_go_on(&talks)?;
    let connections = lab.status(&lab.state.nodes[0])?.connections;
    ensure!(connections.asked > 0 && connections.seeded > 0, "{connections:?}");
    Ok(())
}

/// Empties a pinned map of connections on a node.
fn forget(lab: &Lab, node: &str, map: &str) -> Result<usize> {
    use aya::maps::{HashMap, Map, MapData};
    let path = std::path::Path::new(vethwall_common::maps::BPFFS)
        .join(vethwall_common::maps::PIN_DIRECTORY)
        .join("v1")
        .join(vethwall_common::maps::MAPS)
        .join(map);
    inside(lab, node, || {
        let data = MapData::from_pin(&path)?;
        let mut flows: HashMap<MapData, [u8; 44], [u8; 20]> = Map::LruHashMap(data).try_into()?;
        let keys: Vec<[u8; 44]> = flows.keys().collect::<Result<_, _>>()?;
        for key in &keys {
            // The kernel may have been faster.
            let _gone = flows.remove(key);
        }
        Ok(keys.len())
    })
}

const ISOLATED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: isolated}
spec: {podSelector: {matchLabels: {app: near}}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: isolated-far}
spec: {podSelector: {matchLabels: {app: far}}, policyTypes: [Ingress]}
";

/// An ordinary deny-all of ingress leaves egress open: what the pod goes on sending must not become a connection of its
/// own, whose answers are what was forbidden.
// Covers: SEMANTICS 43
#[test]
fn what_a_new_policy_forbids_ends_for_good() -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("world.yaml"), world())?;
    let mut guard = lab("ends", directory.path(), Engine::Vethwall)?;
    let lab = &guard.0;
    let forbidden = [
        Talk::tcp(lab, "x/client", "x/near", "x/near", 7001)?,
        Talk::tcp(lab, "x/client", "x/far", "x/far", 7001)?,
        Talk::tcp(lab, "x/client", "x/to-near", "x/near", 7002)?,
        Talk::udp(lab, "x/client", "x/near", "x/near", 7001)?,
        Talk::udp(lab, "x/client", "x/to-far", "x/far", 7002)?,
    ];
    let allowed = [
        Talk::tcp(lab, "x/near", "x/client", "x/client", 7001)?,
        Talk::udp(lab, "x/client", "x/closed", "x/closed", 7001)?,
    ];
    all_go_on(&forbidden)?;
    fs::write(directory.path().join("policies.yaml"), ISOLATED)?;
    let applied = guard.0.apply(directory.path(), &mut |_| {})?;
    ensure!(applied.complete(), "{applied:?}");
    thread::sleep(SETTLED);
    for _ in 0..3 {
        none_goes_on(&forbidden)?;
    }
    all_go_on(&allowed)
}

const NO_EGRESS: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: no-egress}
spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress]}
";

/// Before translation nobody knows which pod a Service leads to, so the client's entry outlives the denial behind it, and
/// a server that goes on sending would go on being heard.
// Covers: SEMANTICS 41, 43
#[test]
fn a_service_that_policy_forbids_is_not_heard_any_more() -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("world.yaml"), world())?;
    let mut guard = lab("unheard", directory.path(), Engine::Vethwall)?;
    let lab = &guard.0;
    let talks = [
        Talk::udp(lab, "x/client", "x/to-near", "x/near", 7001)?,
        Talk::udp(lab, "x/client", "x/to-far", "x/far", 7002)?,
    ];
    all_go_on(&talks)?;
    // From now on only the servers send.
    talks
        .iter()
        .for_each(|talk| talk.sends[0].store(false, Ordering::Relaxed));
    fs::write(directory.path().join("policies.yaml"), NO_EGRESS)?;
    let applied = guard.0.apply(directory.path(), &mut |_| {})?;
    ensure!(applied.complete(), "{applied:?}");
    // One packet from each client, which is denied behind the translation.
    talks
        .iter()
        .for_each(|talk| talk.once.store(true, Ordering::Relaxed));
    thread::sleep(SETTLED);
    none_goes_on(&talks)?;
    let connections = guard.0.status(&guard.0.state.nodes[0])?.connections;
    ensure!(connections.revoked >= 2, "{connections:?}");
    Ok(())
}
