//! The kernel's connection tracking, asked by the agent's means.

use std::{
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use vethwall_common::{
    config::Config,
    flow::{FlowEntry, FlowKey, state},
    protocol::{ICMP, TCP, UDP},
};
use vethwall_datapath::{
    Clock, Maps,
    conntrack::{Connection, Conntrack, Tuple},
};
use vethwall_tests::sandbox::{self, command, inside, ip};

use super::{load, pod};

fn tuple(protocol: u8, source: &str, destination: &str) -> Tuple {
    let (source, destination): (SocketAddr, SocketAddr) =
        (source.parse().unwrap(), destination.parse().unwrap());
    Tuple {
        source: source.ip(),
        source_port: source.port(),
        destination: destination.ip(),
        destination_port: destination.port(),
        protocol,
    }
}

fn iptables(program: &str, words: &str) {
    command(program, &words.split_whitespace().collect::<Vec<_>>()).unwrap();
}

/// Sends an echo request with identifier 0x0102 and waits for the answer.
fn ask_for_an_echo(to: &str) {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let to: SocketAddr = to.parse().unwrap();
    // Type 8, checksum, identifier, sequence number 1.
    let sum = !(0x0800_u16 + 0x0102 + 1);
    let [high, low] = sum.to_be_bytes();
    socket
        .send_to(&[8, 0, high, low, 1, 2, 0, 1], &to.into())
        .unwrap();
    let mut answer = [MaybeUninit::uninit(); 64];
    socket.recv(&mut answer).unwrap();
}

fn all(conntrack: &Conntrack) -> Vec<Connection> {
    let mut all = Vec::new();
    conntrack.each(|connection| all.push(connection)).unwrap();
    all
}

// Covers: SEMANTICS 41, 46
#[test]
fn what_the_kernel_tracks_is_read_back() {
    sandbox::run(|| {
        pod("a", "10.0.0.2/24");
        ip("addr add 10.0.0.1/24 dev va").unwrap();
        ip("addr add fd00::1/64 dev va nodad").unwrap();
        ip("-n a addr add fd00::2/64 dev eth0 nodad").unwrap();
        ip("route add 10.96.0.0/16 dev va src 10.0.0.1").unwrap();
        let conntrack = Conntrack::open().unwrap();
        assert_eq!(all(&conntrack), [], "nobody tracks anything here yet");

        // A rule that asks for connections makes the kernel track them in this namespace.
        for program in ["iptables", "ip6tables"] {
            iptables(program, "-A INPUT -m conntrack --ctstate INVALID");
        }
        let service =
            "-t nat -A OUTPUT -d 10.96.0.80 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.2:8080";
        iptables("iptables", service);
        let (listener, udp) = inside("a", || {
            let listener = TcpListener::bind("10.0.0.2:8080").unwrap();
            (listener, UdpSocket::bind("[fd00::2]:53").unwrap())
        });
        let client = TcpStream::connect("10.96.0.80:80").unwrap();
        let (server, _) = listener.accept().unwrap();
        let port = client.local_addr().unwrap().port();
        let here = format!("10.0.0.1:{port}");
        let mut wanted = Connection {
            original: tuple(TCP, &here, "10.96.0.80:80"),
            reply: tuple(TCP, "10.0.0.2:8080", &here),
            state: state::REPLIED,
        };
        for asked in [wanted.original, wanted.reply] {
            assert_eq!(conntrack.find(&asked).unwrap(), Some(wanted));
        }
        // Translated and untranslated halves together are nobody's packet.
        let mixed = tuple(TCP, &here, "10.0.0.2:8080");
        assert_eq!(conntrack.find(&mixed).unwrap(), None);
        assert_eq!(conntrack.find(&wanted.original.reversed()).unwrap(), None);

        let asker = UdpSocket::bind("[fd00::1]:40001").unwrap();
        asker.send_to(b"question", "[fd00::2]:53").unwrap();
        udp.recv_from(&mut [0; 64]).unwrap();
        let original = tuple(UDP, "[fd00::1]:40001", "[fd00::2]:53");
        let question = Connection {
            original,
            reply: original.reversed(),
            state: 0,
        };
        assert_eq!(conntrack.find(&original).unwrap(), Some(question));
        ask_for_an_echo("10.0.0.2:0");
        let seen = all(&conntrack);
        assert!(seen.contains(&wanted) && seen.contains(&question), "{seen:?}");
        let echo = seen.iter().find(|seen| seen.original.protocol == ICMP).unwrap();
        let identifier = (echo.original.source_port, echo.original.destination_port);
        assert_eq!((identifier, echo.state), ((0x0102, 0), state::REPLIED));
        assert_eq!(echo.reply, echo.original.reversed());

        drop((client, server));
        wanted.state |= state::FIN_ORIGINAL | state::FIN_REPLY;
        let deadline = Instant::now() + Duration::from_secs(3);
        while conntrack.find(&wanted.original).unwrap() != Some(wanted) {
            let seen = conntrack.find(&wanted.original).unwrap();
            assert!(Instant::now() < deadline, "{seen:?}");
            thread::sleep(Duration::from_millis(10));
        }
    });
}

#[test]
fn more_connections_than_one_message_holds_are_all_read() {
    sandbox::run(|| {
        iptables("iptables", "-A INPUT -m conntrack --ctstate INVALID");
        let sink = UdpSocket::bind("127.0.0.1:9").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:40000").unwrap();
        for port in 10_000..11_000 {
            // Nobody listens there; the packet was seen all the same.
            let _refused = socket.send_to(b"x", ("127.0.0.1", port));
        }
        drop(sink);
        let conntrack = Conntrack::open().unwrap();
        let start = Instant::now();
        let seen = all(&conntrack);
        println!("{} connections in {:?}", seen.len(), start.elapsed());
        let ports = seen.iter().filter(|seen| seen.original.source_port == 40_000);
        assert_eq!(ports.count(), 1000);
    });
}

// Covers: SEMANTICS 46
#[test]
fn seeds_fill_gaps_and_replace_nothing_that_lives() {
    sandbox::run(|| {
        let mut kernel = load();
        let config = Config {
            udp_established: 100,
            udp_unreplied: 10,
            ..Config::default()
        };
        kernel.set_config(&config).unwrap();
        let now = kernel.now().unwrap();
        let key = |port| FlowKey {
            ifindex: 7,
            low_port: port,
            protocol: UDP,
            ..FlowKey::default()
        };
        let entry = |state, ago| FlowEntry {
            state,
            last_seen: now.wrapping_sub(ago),
            ..FlowEntry::default()
        };
        let first = [
            (key(1), entry(state::REPLIED, 0)),
            (key(2), entry(0, 0)),
            (key(3), entry(state::REPLIED, 100)),
            (key(4), entry(0, 10)),
        ];
        assert_eq!(kernel.seed(&first).unwrap(), 4);
        assert_eq!(kernel.flow(&key(1)).unwrap(), Some(first[0].1));
        assert_eq!(kernel.flow(&key(3)).unwrap(), None, "expired");
        // Whichever table it would go to, and whichever it is in.
        let second: Vec<_> = [0, state::REPLIED]
            .into_iter()
            .flat_map(|bits| (1..=4).map(move |port| (key(port), entry(bits | state::FIN_REPLY, 0))))
            .collect();
        assert_eq!(kernel.seed(&second).unwrap(), 2, "only what has expired");
        assert_eq!(kernel.flow(&key(1)).unwrap(), Some(first[0].1));
        assert_eq!(kernel.flow(&key(2)).unwrap(), Some(first[1].1));
        assert_eq!(kernel.flow(&key(3)).unwrap(), Some(second[2].1));
        assert_eq!(kernel.flow(&key(4)).unwrap(), Some(second[3].1));
        assert_eq!(kernel.flows().unwrap().len(), 4, "one entry a connection");

        // What only fragments began, the kernel knows better.
        let unsure = (key(5), entry(state::DEFERRED | state::UNSURE, 0));
        assert_eq!(kernel.seed(&[unsure]).unwrap(), 1);
        assert_eq!(kernel.seed(&[(key(5), entry(state::DEFERRED, 0))]).unwrap(), 1);
        assert_eq!(kernel.flow(&key(5)).unwrap().unwrap().state, state::DEFERRED);
        assert_eq!(kernel.flows().unwrap().len(), 5);

        assert!(kernel.revoke(&key(1), 5).unwrap());
        let revoked = kernel.flow(&key(1)).unwrap().unwrap();
        assert_eq!(
            (revoked.state, revoked.generation),
            (state::REPLIED | state::REVOKED, 5)
        );
        assert_eq!(kernel.seed(&first[..1]).unwrap(), 0);
        assert_eq!(kernel.flow(&key(1)).unwrap(), Some(revoked));
        assert!(!kernel.revoke(&key(9), 5).unwrap());
    });
}

#[test]
fn the_programs_time_goes_on_at_the_kernels_rate() {
    sandbox::run(|| {
        let kernel = load();
        let tick = Clock::measure().unwrap().tick();
        let (start, first) = (Instant::now(), kernel.now().unwrap());
        thread::sleep(tick * 5 / 2);
        let (elapsed, second) = (start.elapsed(), kernel.now().unwrap());
        let ticks = f64::from(second.wrapping_sub(first));
        let wanted = elapsed.as_secs_f64() / tick.as_secs_f64();
        assert!((ticks - wanted).abs() <= 1.5, "{ticks} of {wanted}");
    });
}
