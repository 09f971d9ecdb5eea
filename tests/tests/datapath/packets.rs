//! What packets notice of attaching, of waiting for policy, and of an upgrade.

use std::{
    fs::File,
    net::UdpSocket,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{setsockopt, sockopt::RcvBufForce},
};
use vethwall_common::{
    address::Addr,
    config::Config,
    endpoint::{EndpointRecord, SlotRef},
    entry::{Entry, Key},
    verdict::{Action, Reason, SlotRecord, allow},
};
use vethwall_datapath::{Choice, Hook, Kernel, Maps, attach, veth};
use vethwall_tests::{
    kernel::has_tcx,
    sandbox::{self, BPFFS, ip},
    told,
};

use super::NO_TCX;

const HOST: &str = "10.0.0.1:7777";
const POD: &str = "10.0.0.2:7778";

/// One pod behind one interface; the host has an address on its end.
struct Wire {
    ifindex: u32,
    mac: [u8; 6],
}

impl Wire {
    fn new() -> Self {
        ip("netns add pod").unwrap();
        ip("link add vpod type veth peer name eth0 netns pod").unwrap();
        ip("addr add 10.0.0.1/24 dev vpod").unwrap();
        ip("link set vpod up").unwrap();
        ip("-n pod addr add 10.0.0.2/24 dev eth0").unwrap();
        ip("-n pod link set eth0 up").unwrap();
        let found = veth::find("/run/netns/pod".as_ref(), "eth0").unwrap();
        Self {
            ifindex: found.ifindex,
            mac: found.mac,
        }
    }

    /// The record of a pod that no policy selects.
    fn open(&self, kernel: &mut Kernel) {
        let slot = SlotRecord {
            allow: allow::BOTH,
            flags: SlotRecord::OPEN,
            ..SlotRecord::default()
        };
        kernel.put(&Entry::Slot(7, slot)).unwrap();
        let record = EndpointRecord {
            ingress: SlotRef::new(7, 1),
            egress: SlotRef::new(7, 1),
            ifindex: self.ifindex,
            flags: EndpointRecord::ENFORCING,
            addresses: [Addr::from_v4([10, 0, 0, 2]), Addr::NONE],
            mac: self.mac,
            index: 1,
        };
        kernel.put(&Entry::Endpoint(self.ifindex, record)).unwrap();
    }
}

/// A socket in the pod.
fn pod_socket() -> UdpSocket {
    let enter = || {
        setns(File::open("/run/netns/pod").unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        UdpSocket::bind(POD).unwrap()
    };
    let socket = thread::scope(|scope| scope.spawn(enter).join().unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket
}

fn host_socket() -> UdpSocket {
    let socket = UdpSocket::bind(HOST).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    // Nothing is lost here while the reader waits for a busy machine.
    setsockopt(&socket, RcvBufForce, &(8 << 20)).unwrap();
    socket
}

/// Whether a datagram gets through each way: from the pod, to the pod.
fn both_ways(host: &UdpSocket, pod: &UdpSocket) -> (bool, bool) {
    let through = |from: &UdpSocket, to: &str, at: &UdpSocket| {
        from.send_to(b"x", to).unwrap();
        at.recv(&mut [0; 8]).is_ok()
    };
    (through(pod, HOST, host), through(host, POD, pod))
}

fn load() -> Kernel {
    let mut kernel = Kernel::load_or_adopt(BPFFS).unwrap_or_else(|error| panic!("{}", error.chain()));
    let minutes = Config {
        flags: Config::EVENTS,
        udp_established: 100,
        udp_unreplied: 100,
        ..Config::default()
    };
    kernel.set_config(&minutes).unwrap();
    kernel
}

fn a_pod_is_closed_until_its_record_is_there(hook: Hook) {
    sandbox::run(|| {
        let mut kernel = load();
        let mut events = kernel.events().unwrap();
        let wire = Wire::new();
        let (host, pod) = (host_socket(), pod_socket());
        assert_eq!(both_ways(&host, &pod), (true, true), "the test's own wire");
        assert!(events.next().is_none());

        attach::attach_endpoint(kernel.pins(), wire.ifindex, "vpod", Choice::Only(hook)).unwrap();
        assert_eq!(both_ways(&host, &pod), (false, false), "pending");
        let told: Vec<_> = events.by_ref().filter(|event| event.protocol == 17).collect();
        assert!(!told.is_empty());
        for event in &told {
            assert_eq!(
                (event.action, event.reason),
                (Action::Drop as u8, Reason::Pending as u8),
                "{event:?}"
            );
            assert_eq!(event.ifindex, wire.ifindex);
        }

        wire.open(&mut kernel);
        assert_eq!(both_ways(&host, &pod), (true, true), "enforcing, and open");
        kernel.delete(&Key::Endpoint(wire.ifindex)).unwrap();
        assert_eq!(both_ways(&host, &pod), (false, false), "pending again");
        attach::detach_endpoint(kernel.pins(), wire.ifindex, "vpod").unwrap();
        assert_eq!(both_ways(&host, &pod), (true, true), "detached");
    });
}

// Covers: SEMANTICS 30
#[test]
fn a_pod_is_closed_until_its_record_is_there_with_tcx() {
    if !has_tcx().unwrap() {
        return told::skipped(NO_TCX);
    }
    a_pod_is_closed_until_its_record_is_there(Hook::Tcx);
}

// Covers: SEMANTICS 30
#[test]
fn a_pod_is_closed_until_its_record_is_there_with_clsact() {
    a_pod_is_closed_until_its_record_is_there(Hook::Clsact);
}

/// Sends from the pod without a pause while programs are replaced; the numbers, from `first` on,
/// that were sent and that arrived.
fn upgrade_under_load(kernel: Kernel, first: u32) -> (Vec<u32>, Vec<u32>) {
    let (host, pod) = (host_socket(), pod_socket());
    let all_sent = &AtomicBool::new(false);
    thread::scope(|scope| {
        // Goes when the upgrades end, however they do.
        let (upgrading, ended) = mpsc::channel::<()>();
        let sender = scope.spawn(move || {
            let mut sent = Vec::new();
            for number in first.. {
                if ended.try_recv() == Err(TryRecvError::Disconnected) {
                    break;
                }
                pod.send_to(&number.to_be_bytes(), HOST).unwrap();
                sent.push(number);
                thread::sleep(Duration::from_micros(200));
            }
            all_sent.store(true, Ordering::Relaxed);
            sent
        });
        let receiver = scope.spawn(|| {
            let (mut arrived, mut number) = (Vec::<u32>::new(), [0; 4]);
            loop {
                // Silence after the last one was sent, not while a busy machine lets the sender wait.
                let last = all_sent.load(Ordering::Relaxed);
                match host.recv(&mut number) {
                    Ok(_) => arrived.push(u32::from_be_bytes(number)),
                    Err(_) if last => break,
                    Err(_) => {}
                }
            }
            // A sender that moves to another processor overtakes itself, or what it sent before.
            arrived.retain(|number| *number >= first);
            arrived.sort_unstable();
            arrived
        });
        drop(kernel);
        let start = Instant::now();
        for _ in 0..2 {
            let kernel = load();
            assert!(kernel.adopted());
        }
        println!("two upgrades under load took {:?}", start.elapsed());
        drop(upgrading);
        (sender.join().unwrap(), receiver.join().unwrap())
    })
}

#[test]
fn an_upgrade_lets_no_packet_by_and_stops_none() {
    sandbox::run(|| {
        let kernel = load();
        let wire = Wire::new();
        attach::attach_endpoint(kernel.pins(), wire.ifindex, "vpod", Choice::Best).unwrap();
        let (sent, arrived) = upgrade_under_load(kernel, 0);
        assert!(sent.len() > 100, "{}", sent.len());
        assert_eq!(arrived, [0; 0], "while the pod was pending");

        let mut kernel = load();
        wire.open(&mut kernel);
        let (sent, arrived) = upgrade_under_load(kernel, 1_000_000);
        assert!(sent.len() > 100, "{}", sent.len());
        assert_eq!(arrived, sent);
    });
}
