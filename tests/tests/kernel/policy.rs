//! Who is allowed what: slots, identities, ports, the own node, local senders, events.

use std::time::{Duration, Instant};

use super::*;

/// More is a sign that something explodes; the kernel's limit is 1,000,000.
const MOST_INSTRUCTIONS: u32 = 100_000;

#[test]
fn the_verifier_accepts_every_program() {
    sandbox::run(|| {
        let mut programs = Programs::load().unwrap_or_else(|e| panic!("{e:#}"));
        let counts = verifier::processed(programs.kernel.pins()).unwrap_or_else(|e| panic!("{e:#}"));
        for program in Program::ALL {
            let count = counts[program.name()];
            told::measured(program.name(), count);
            assert!(count < MOST_INSTRUCTIONS, "{program:?}: {count}");
            // Where the kernel keeps account of what it loaded first, it says the same.
            if let Some(loaded) = programs.instructions(program).unwrap() {
                assert_eq!(loaded, count, "{program:?}");
            }
        }
    });
}

// Covers: SEMANTICS 30, 51
#[test]
fn without_a_record_nothing_comes_and_only_neighbours_are_asked() {
    sandbox::run(|| {
        let mut s = stage();
        let unknown = 55;
        let hello = syn(FRIEND, A4, 80);
        dropped(&s.run(ToPod, unknown, UPLINK, &hello), Reason::Pending);
        dropped(&s.run(ToPod, unknown, 0, &hello), Reason::Pending);
        dropped(&s.run(FromPod, unknown, unknown, &hello), Reason::Pending);
        let arp = packet::arp([2; 6], [2; 6], [10, 244, 0, 55], [10, 244, 0, 1]);
        dropped(
            &s.programs.run(FromPod, unknown, unknown, &arp).unwrap(),
            Reason::Pending,
        );
        passed(
            &s.programs.run(ToPod, unknown, 0, &arp).unwrap(),
            Reason::Neighbour,
        );
        // A record that is not in force is as good as none, and so is one of another interface in the same place.
        let mut record = s.a;
        record.flags = 0;
        s.put(Entry::Endpoint(A, record));
        dropped(&s.sends_a(hello.clone()), Reason::Pending);
        s.put(Entry::Endpoint(A, s.a));
        dropped(&s.run(ToPod, A + 4096, UPLINK, &hello), Reason::Pending);
        let mut collides = s.a;
        collides.ifindex = A + 4096;
        collides.index = 77;
        s.put(Entry::Endpoint(A + 4096, collides));
        passed(&s.run(ToPod, A + 4096, UPLINK, &hello), Reason::NotIsolated);
        passed(&s.sends_a(hello), Reason::NotIsolated);
    });
}

// Covers: SEMANTICS 26, 29
#[test]
fn policy_decides_by_identity_protocol_and_port() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        let ranges = [
            range(protocol::TCP, 80, 80, 71),
            range(protocol::UDP, 5000, 5010, 72),
        ];
        s.verdict(IN, FRIENDS, entry(0, &ranges, 9));
        let mut page = PortsPage::new_zeroed();
        page.enforced[5] = 1 << 5;
        page.shadow[5] = 1 << 5;
        let at = |page| PortsKey {
            set: 9,
            protocol: protocol::TCP,
            page,
            reserved: 0,
        };
        s.put(Entry::Ports(at(20), page));

        passed(&s.sends_a(syn(FRIEND, A4, 80)), Reason::Rule);
        dropped(&s.sends_a(syn(FRIEND, A4, 81)), Reason::NoRule);
        dropped(&s.sends_a(syn(FRIEND, A4, 79)), Reason::NoRule);
        // Bit 5 of word 5 of page 20.
        let port = 20 * 512 + 5 * 64 + 5;
        passed(&s.sends_a(syn(FRIEND, A4, port)), Reason::Rule);
        dropped(&s.sends_a(syn(FRIEND, A4, port + 1)), Reason::NoRule);
        dropped(&s.sends_a(syn(FRIEND, A4, port + 512)), Reason::NoRule);
        for (port, allowed) in [
            (4999, false),
            (5000, true),
            (5005, true),
            (5010, true),
            (5011, false),
        ] {
            let verdict = s.sends_a(Packet::udp((FRIEND, 40_000), (A4, port)));
            assert_eq!(verdict.passed, allowed, "UDP {port}: {verdict:?}");
        }
        // The same port of another protocol, and protocols without ports, have no rule.
        dropped(&s.sends_a(Packet::udp((FRIEND, 1), (A4, 80))), Reason::NoRule);
        dropped(&s.sends_a(Packet::sctp((FRIEND, 1), (A4, 80))), Reason::NoRule);
        dropped(&s.sends_a(Packet::echo(FRIEND, A4, 1, false)), Reason::NoRule);
        dropped(&s.sends_a(Packet::new(FRIEND, A4, 47, &[0; 8])), Reason::NoRule);
        // Other peers have none at all.
        dropped(&s.sends_a(syn(STRANGER, A4, 80)), Reason::NoRule);
        dropped(&s.sends_a(syn(OUTSIDE, A4, 80)), Reason::NoRule);
        // The prefix map speaks for addresses without an entry.
        s.verdict(IN, LISTED, entry(allow::BOTH, &[], 0));
        passed(&s.sends_a(syn(OUTSIDE, A4, 81)), Reason::Rule);
        passed(&s.sends_a(Packet::echo(OUTSIDE, A4, 1, false)), Reason::Rule);
        dropped(
            &s.sends_a(syn(Ipv4Addr::new(203, 0, 114, 9), A4, 81)),
            Reason::NoRule,
        );
        // An unknown address of the pod network matches nothing, whatever holds for the world.
        s.verdict(IN, Identity::WORLD, entry(allow::BOTH, &[], 0));
        dropped(&s.sends_a(syn(STRANGER, A4, 82)), Reason::NoRule);
        passed(
            &s.sends_a(syn(Ipv4Addr::new(203, 0, 114, 9), A4, 82)),
            Reason::Rule,
        );
    });
}

#[test]
fn an_audited_policy_reports_and_lets_pass() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        s.put(Entry::Slot(
            IN,
            SlotRecord {
                allow: allow::ENFORCED,
                cookie: Cookie(5),
                ..SlotRecord::default()
            },
        ));
        let verdict = s.sends_a(syn(FRIEND, A4, 80));
        assert!(verdict.passed);
        assert_eq!(
            verdict.counted,
            [(Action::Audit, Direction::Ingress, Reason::NoRule)]
        );
        let told = s.programs.told();
        assert_eq!((told[0].action, told[0].cookie), (Action::Audit as u8, Cookie(5)));
        // Its connection is tracked like any other.
        passed(&s.sends_a(data(FRIEND, A4, 80)), Reason::Established);
    });
}

// Covers: SEMANTICS 39
#[test]
fn the_own_node_always_passes_and_its_mask_never_does() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        s.isolate(Direction::Egress);
        let probe = syn(NODE, A4, 8080);
        passed(&s.run(ToPod, A, 0, &probe), Reason::OwnNode);
        passed(
            &s.a_sends(probe.clone().reversed().with_flags(SYN | ACK)),
            Reason::Established,
        );
        // The same source, but forwarded: someone hides behind it.
        let masked = syn(NODE, A4, 8081);
        dropped(&s.run(ToPod, A, UPLINK, &masked), Reason::NoRule);
        s.verdict(IN, HOST, entry(allow::BOTH, &[], 0));
        dropped(&s.run(ToPod, A, UPLINK, &masked), Reason::NoRule);
        assert_eq!(s.programs.told().last().unwrap().peer, Identity::MASQUERADED);
        // It is what the prefixes say of its address.
        let prefix = Prefix {
            length: 128,
            addr: v4(NODE),
        };
        s.put(Entry::Prefix(
            prefix,
            PrefixEntry {
                identity: LISTED,
                flags: 0,
            },
        ));
        s.verdict(IN, LISTED, entry(allow::BOTH, &[], 0));
        passed(&s.run(ToPod, A, UPLINK, &masked), Reason::Rule);
        // Fragments of IPv4 keep their interface; those of an IPv6 datagram that was put together on the way do not, so
        // that nobody knows who made them.
        let piece = Packet::udp((NODE, 1), (A4, 9)).as_fragment(5, 0, true);
        passed(&s.run(ToPod, A, 0, &piece), Reason::OwnNode);
        let node6: IpAddr = "fd00::1".parse().unwrap();
        let host = AddressEntry {
            identity: HOST,
            flags: AddressEntry::LOCAL_NODE,
            ifindex: 0,
        };
        s.put(Entry::Address(Addr::from(node6), host));
        let piece = Packet::udp((node6, 1), (six_ip(A), 9));
        passed(&s.run(ToPod, A, 0, &piece), Reason::OwnNode);
        let mut piece = Packet::udp((node6, 1), (six_ip(A), 10)).as_fragment(6, 0, true);
        dropped(&s.run(ToPod, A, 0, &piece), Reason::NoRule);
        assert_eq!(s.programs.told().last().unwrap().peer, Identity::MASQUERADED);
        // A neighbour's is known by its address.
        piece.source = six_ip(B);
        dropped(&s.run(ToPod, A, 0, &piece), Reason::NoRule);
        s.verdict(IN, NEIGHBOUR, entry(allow::BOTH, &[], 0));
        passed(&s.run(ToPod, A, 0, &piece), Reason::Rule);
    });
}

// Covers: SEMANTICS 39, 53
#[test]
fn a_local_sender_is_known_by_its_interface() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        s.verdict(IN, FRIENDS, entry(allow::BOTH, &[], 0));
        // Behind the node's address, or a friend's: it is B.
        for source in [B4, NODE, FRIEND] {
            dropped(&s.run(ToPod, A, B, &syn(source, A4, 80)), Reason::NoRule);
        }
        s.verdict(IN, NEIGHBOUR, entry(allow::BOTH, &[], 0));
        passed(&s.run(ToPod, A, B, &syn(NODE, A4, 81)), Reason::Rule);
        // A's own packets come back to it through a Service.
        passed(&s.run(ToPod, A, A, &syn(NODE, A4, 82)), Reason::SelfTraffic);
        s.isolate(Direction::Egress);
        passed(&s.run(ToPod, A, A, &syn(NODE, A4, 83)), Reason::SelfTraffic);
        passed(&s.a_sends(data(NODE, A4, 83).reversed()), Reason::Established);
        // Where a ClusterNetworkPolicy speaks, they are a pod's like any other.
        let record = SlotRecord {
            flags: SlotRecord::CLUSTER,
            ..SlotRecord::default()
        };
        s.put(Entry::Slot(IN, record));
        dropped(&s.run(ToPod, A, A, &syn(NODE, A4, 84)), Reason::NoRule);
        s.verdict(IN, ITSELF, entry(allow::BOTH, &[], 0));
        passed(&s.run(ToPod, A, A, &syn(NODE, A4, 85)), Reason::Rule);
    });
}

#[test]
fn many_equal_events_are_one_with_a_count() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        let started = Instant::now();
        for _ in 0..50 {
            dropped(&s.sends_a(syn(FRIEND, A4, 80)), Reason::NoRule);
        }
        let told = s.programs.told();
        // One a second; an emulated machine takes some.
        let most = 3 + started.elapsed().as_secs();
        assert!(told.len() as u64 <= most, "{} events, not {most}", told.len());
        let event = told[0];
        assert_eq!(IpAddr::from(event.source), IpAddr::from(FRIEND));
        assert_eq!(IpAddr::from(event.destination), IpAddr::from(A4));
        assert_eq!(
            (event.source_port, event.destination_port, event.protocol),
            (40_000, 80, protocol::TCP)
        );
        assert_eq!(
            (event.peer, event.cookie, event.generation),
            (FRIENDS, Cookie(1002), 2)
        );
        assert_eq!(
            (event.action, event.reason),
            (Action::Drop as u8, Reason::NoRule as u8)
        );
        s.programs
            .configure(|config| config.flags &= !Config::EVENTS)
            .unwrap();
        dropped(&s.sends_a(syn(FRIEND, A4, 81)), Reason::NoRule);
        assert!(s.programs.told().is_empty());
    });
}

// Covers: SEMANTICS 53
#[test]
fn a_pod_does_not_reach_the_nodes_tunnel() {
    sandbox::run(|| {
        let mut s = stage();
        let tunnel = |to| Packet::udp((A4, 1234), (to, 8472));
        for to in [NODE, OUTSIDE, BACKEND] {
            dropped(&s.a_sends(tunnel(to)), Reason::Tunnel);
            dropped(&s.a_sends(tunnel(to).as_fragment(3, 0, true)), Reason::Tunnel);
        }
        // Another pod's port of that number is no tunnel, nor is TCP.
        passed(&s.a_sends(tunnel(FRIEND)), Reason::NotIsolated);
        passed(&s.a_sends(syn(A4, OUTSIDE, 8472)), Reason::NotIsolated);
        s.programs.configure(|config| config.tunnel_port = 0).unwrap();
        passed(&s.a_sends(tunnel(NODE)), Reason::NotIsolated);
    });
}

#[test]
fn a_port_scan_is_told_up_to_a_limit_and_counted_beyond() {
    sandbox::run(|| {
        let mut s = stage();
        let limited = |s: &Stage| s.programs.kernel.counters().unwrap()[maps::EVENTS_LIMITED as usize];
        s.isolate(Direction::Ingress);
        let (ports, some) = (1500, 300);
        let started = Instant::now();
        for port in 1..=ports {
            if port == some && started.elapsed() > Duration::from_millis(800) {
                return told::skipped("an emulated machine sends less in a tick than the limit");
            }
            dropped(&s.sends_a(syn(FRIEND, A4, port)), Reason::NoRule);
        }
        let told = u64::try_from(s.programs.told().len()).unwrap();
        let (most, all) = (u64::from(maps::EVENTS_PER_TICK), u64::from(ports));
        // The scan may take more than one tick.
        assert!((most..all).contains(&told), "{told} events");
        assert_eq!(told + limited(&s), all);
        // New connections have the same limit.
        for port in 1..=ports {
            passed(&s.a_sends(syn(A4, FRIEND, port)), Reason::NotIsolated);
        }
        let more = u64::try_from(s.programs.told().len()).unwrap();
        assert_eq!(told + more + limited(&s), 2 * all);
        assert!(more < all, "{more} events");
    });
}

// The table of our answers: `ownNodeEgress`.
#[test]
fn the_own_node_may_be_open_to_its_pods() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Egress);
        let asked = syn(A4, NODE, 53);
        passed(&s.a_sends(asked.clone()), Reason::Deferred);
        dropped(&s.run(FromBridge, 99, A, &asked), Reason::NoRule);
        s.programs
            .configure(|config| config.flags |= Config::OWN_NODE_EGRESS)
            .unwrap();
        passed(&s.run(FromBridge, 99, A, &asked), Reason::OwnNode);
        dropped(&s.run(FromBridge, 99, A, &syn(A4, BACKEND, 53)), Reason::NoRule);
        // A neighbour behind the node's address is no node.
        s.isolate(Direction::Ingress);
        dropped(&s.run(ToPod, A, UPLINK, &syn(NODE, A4, 53)), Reason::NoRule);
    });
}
