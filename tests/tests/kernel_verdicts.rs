//! Verdicts of the real programs, packet by packet.

use std::net::{IpAddr, Ipv4Addr};

use vethwall_common::{
    Direction,
    address::{Addr, Prefix},
    config::Config,
    endpoint::{EndpointRecord, SlotRef},
    entry::{Entry, Key},
    identity::{AddressEntry, Identity, PrefixEntry},
    protocol,
    verdict::{
        Action, Cookie, PortRange, PortsKey, PortsPage, Reason, SlotRecord, VerdictEntry, VerdictKey, allow,
    },
};
use vethwall_datapath::Maps;
use vethwall_tests::{
    kernel::{
        Packet, Program, Programs, Verdict,
        packet::{self, ACK, FIN, RST, SYN, mac},
    },
    sandbox,
};
use zerocopy::FromZeros;

use Program::{FromBridge, FromPod, ToPod};

/// The pod that the tests are about, its neighbour, and the world around them.
const A: u32 = 11;
const B: u32 = 12;
const UPLINK: u32 = 90;
const A4: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 11);
const B4: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 12);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
const FRIEND: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 6);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const BACKEND: Ipv4Addr = Ipv4Addr::new(192, 168, 99, 1);

/// Slots: open both ways, and isolated each way.
const OPEN: u32 = 1;
const IN: u32 = 2;
const OUT: u32 = 3;

/// Identities.
const FRIENDS: Identity = Identity(300);
const NEIGHBOUR: Identity = Identity(301);
const ITSELF: Identity = Identity(302);
const LISTED: Identity = Identity(303);
const HOST: Identity = Identity(304);

struct Stage {
    programs: Programs,
    a: EndpointRecord,
    b: EndpointRecord,
}

/// A and B on this node, nothing isolated.
fn stage() -> Stage {
    let mut programs = Programs::load().unwrap_or_else(|e| panic!("{e:#}"));
    let record = |ifindex: u32, address: Ipv4Addr| EndpointRecord {
        ingress: SlotRef::new(OPEN, 1),
        egress: SlotRef::new(OPEN, 1),
        ifindex,
        flags: EndpointRecord::ENFORCING,
        addresses: [Addr::from(IpAddr::from(address)), six(ifindex)],
        mac: mac(ifindex),
        index: u16::try_from(ifindex).unwrap(),
    };
    let (a, b) = (record(A, A4), record(B, B4));
    let pod = |identity, ifindex| AddressEntry {
        identity,
        flags: AddressEntry::POD,
        ifindex,
    };
    let open = SlotRecord {
        allow: allow::BOTH,
        flags: SlotRecord::OPEN,
        ..SlotRecord::default()
    };
    let isolated = |cookie| SlotRecord {
        cookie: Cookie(cookie),
        ..SlotRecord::default()
    };
    let network = |a: [u8; 4], bits: u32| Prefix {
        length: 96 + bits,
        addr: Addr::from_v4(a),
    };
    let unknown = PrefixEntry {
        identity: Identity::UNKNOWN_POD,
        flags: PrefixEntry::POD_NETWORK,
    };
    let host = AddressEntry {
        identity: HOST,
        flags: AddressEntry::LOCAL_NODE,
        ifindex: 0,
    };
    for entry in [
        Entry::Slot(OPEN, open),
        Entry::Slot(IN, isolated(1002)),
        Entry::Slot(OUT, isolated(1003)),
        Entry::Address(v4(A4), pod(ITSELF, A)),
        Entry::Address(six(A), pod(ITSELF, A)),
        Entry::Address(v4(B4), pod(NEIGHBOUR, B)),
        Entry::Address(six(B), pod(NEIGHBOUR, B)),
        Entry::Address(v4(FRIEND), pod(FRIENDS, 0)),
        Entry::Address(v4(NODE), host),
        Entry::Prefix(network([10, 244, 0, 0], 16), unknown),
        Entry::Prefix(
            network([203, 0, 113, 0], 24),
            PrefixEntry {
                identity: LISTED,
                flags: 0,
            },
        ),
        Entry::Endpoint(A, a),
        Entry::Endpoint(B, b),
    ] {
        programs.put(&entry).unwrap();
    }
    Stage { programs, a, b }
}

fn v4(address: Ipv4Addr) -> Addr {
    Addr::from(IpAddr::from(address))
}

fn six(ifindex: u32) -> Addr {
    Addr::from(IpAddr::from([
        0xfd00,
        0,
        0,
        0,
        0,
        0,
        0,
        u16::try_from(ifindex).unwrap(),
    ]))
}

fn six_ip(ifindex: u32) -> IpAddr {
    IpAddr::from(six(ifindex))
}

/// An entry that allows, or speaks about ports only.
fn entry(allow: u8, ranges: &[PortRange], port_set: u32) -> VerdictEntry {
    let mut entry = VerdictEntry {
        allow,
        cookie: Cookie(7),
        port_set,
        ..VerdictEntry::default()
    };
    entry.count = u8::try_from(ranges.len()).unwrap();
    entry.ranges[..ranges.len()].copy_from_slice(ranges);
    entry
}

fn range(protocol: u8, first: u16, last: u16, cookie: u32) -> PortRange {
    PortRange {
        protocol,
        allow: allow::BOTH,
        first,
        last,
        reserved: 0,
        cookie: Cookie(cookie),
    }
}

impl Stage {
    fn run(&mut self, program: Program, ifindex: u32, came_by: u32, packet: &Packet) -> Verdict {
        self.programs
            .run(program, ifindex, came_by, &packet.bytes())
            .unwrap()
    }

    /// To A, from outside this node.
    fn to_a(&mut self, packet: Packet) -> Verdict {
        self.run(ToPod, A, UPLINK, &packet.to_mac(mac(A)))
    }

    /// From A, honestly.
    fn from_a(&mut self, packet: Packet) -> Verdict {
        self.run(FromPod, A, A, &packet.from_mac(mac(A)))
    }

    fn put(&mut self, entry: Entry) {
        self.programs.put(&entry).unwrap();
    }

    fn isolate(&mut self, direction: Direction) {
        match direction {
            Direction::Ingress => self.a.ingress = SlotRef::new(IN, self.a.ingress.generation() + 1),
            Direction::Egress => self.a.egress = SlotRef::new(OUT, self.a.egress.generation() + 1),
        }
        self.put(Entry::Endpoint(A, self.a));
    }

    /// A new generation with the same slots, as after a change of policy.
    fn bump(&mut self) {
        self.a.ingress = SlotRef::new(self.a.ingress.slot(), self.a.ingress.generation() + 1);
        self.a.egress = SlotRef::new(self.a.egress.slot(), self.a.egress.generation() + 1);
        self.put(Entry::Endpoint(A, self.a));
    }

    fn verdict(&mut self, slot: u32, identity: Identity, value: VerdictEntry) {
        self.put(Entry::Verdict(VerdictKey { slot, identity }, value));
    }

    fn revoke(&mut self, slot: u32, identity: Identity) {
        self.programs
            .delete(&Key::Verdict(VerdictKey { slot, identity }))
            .unwrap();
    }
}

fn syn(source: Ipv4Addr, destination: Ipv4Addr, port: u16) -> Packet {
    Packet::tcp((source, 40_000), (destination, port), SYN)
}

fn data(source: Ipv4Addr, destination: Ipv4Addr, port: u16) -> Packet {
    syn(source, destination, port).with_flags(ACK)
}

#[track_caller]
fn passed(verdict: &Verdict, reason: Reason) {
    assert!(
        verdict.passed_as(reason),
        "{verdict:?} is not a pass for {reason:?}"
    );
}

#[track_caller]
fn dropped(verdict: &Verdict, reason: Reason) {
    assert!(
        verdict.dropped_as(reason),
        "{verdict:?} is not a drop for {reason:?}"
    );
}

/// More is a sign that something explodes; the kernel's limit is 1,000,000.
const MOST_INSTRUCTIONS: u32 = 60_000;

#[test]
fn the_verifier_accepts_every_program() {
    sandbox::run(|| {
        let mut programs = Programs::load().unwrap_or_else(|e| panic!("{e:#}"));
        let mut counts: Vec<Option<u32>> = Vec::new();
        for program in Program::ALL {
            let count = programs.instructions(program).unwrap();
            println!("{}: {count:?} instructions verified", program.name());
            counts.push(count);
        }
        let most = counts.iter().flatten().max();
        assert!(most.is_none_or(|most| *most < MOST_INSTRUCTIONS), "{counts:?}");
    });
}

#[test]
fn without_a_record_only_neighbours_are_found() {
    sandbox::run(|| {
        let mut s = stage();
        let unknown = 55;
        let hello = syn(FRIEND, A4, 80);
        dropped(&s.run(ToPod, unknown, UPLINK, &hello), Reason::Pending);
        dropped(&s.run(ToPod, unknown, 0, &hello), Reason::Pending);
        dropped(&s.run(FromPod, unknown, unknown, &hello), Reason::Pending);
        let arp = packet::arp([2; 6], [2; 6], [10, 244, 0, 55], [10, 244, 0, 1]);
        passed(
            &s.programs.run(FromPod, unknown, unknown, &arp).unwrap(),
            Reason::Neighbour,
        );
        passed(
            &s.programs.run(ToPod, unknown, 0, &arp).unwrap(),
            Reason::Neighbour,
        );
        // A record that is not in force is as good as none, and so is one of another interface in the same place.
        let mut record = s.a;
        record.flags = 0;
        s.put(Entry::Endpoint(A, record));
        dropped(&s.to_a(hello.clone()), Reason::Pending);
        s.put(Entry::Endpoint(A, s.a));
        dropped(&s.run(ToPod, A + 4096, UPLINK, &hello), Reason::Pending);
        let mut collides = s.a;
        collides.ifindex = A + 4096;
        collides.index = 77;
        s.put(Entry::Endpoint(A + 4096, collides));
        passed(&s.run(ToPod, A + 4096, UPLINK, &hello), Reason::NotIsolated);
        passed(&s.to_a(hello), Reason::NotIsolated);
    });
}

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
        page.enforced[1] = 1 << 5;
        page.shadow[1] = 1 << 5;
        let at = |page| PortsKey {
            set: 9,
            protocol: protocol::TCP,
            page,
            reserved: 0,
        };
        s.put(Entry::Ports(at(20), page));

        passed(&s.to_a(syn(FRIEND, A4, 80)), Reason::Rule);
        dropped(&s.to_a(syn(FRIEND, A4, 81)), Reason::NoRule);
        dropped(&s.to_a(syn(FRIEND, A4, 79)), Reason::NoRule);
        // Bit 5 of word 1 of page 20.
        let port = 20 * 512 + 64 + 5;
        passed(&s.to_a(syn(FRIEND, A4, port)), Reason::Rule);
        dropped(&s.to_a(syn(FRIEND, A4, port + 1)), Reason::NoRule);
        dropped(&s.to_a(syn(FRIEND, A4, port + 512)), Reason::NoRule);
        for (port, allowed) in [
            (4999, false),
            (5000, true),
            (5005, true),
            (5010, true),
            (5011, false),
        ] {
            let verdict = s.to_a(Packet::udp((FRIEND, 40_000), (A4, port)));
            assert_eq!(verdict.passed, allowed, "UDP {port}: {verdict:?}");
        }
        // The same port of another protocol, and protocols without ports, have no rule.
        dropped(&s.to_a(Packet::udp((FRIEND, 1), (A4, 80))), Reason::NoRule);
        dropped(&s.to_a(Packet::sctp((FRIEND, 1), (A4, 80))), Reason::NoRule);
        dropped(&s.to_a(Packet::echo(FRIEND, A4, 1, false)), Reason::NoRule);
        dropped(&s.to_a(Packet::new(FRIEND, A4, 47, &[0; 8])), Reason::NoRule);
        // Other peers have none at all.
        dropped(&s.to_a(syn(STRANGER, A4, 80)), Reason::NoRule);
        dropped(&s.to_a(syn(OUTSIDE, A4, 80)), Reason::NoRule);
        // The prefix map speaks for addresses without an entry.
        s.verdict(IN, LISTED, entry(allow::BOTH, &[], 0));
        passed(&s.to_a(syn(OUTSIDE, A4, 81)), Reason::Rule);
        passed(&s.to_a(Packet::echo(OUTSIDE, A4, 1, false)), Reason::Rule);
        dropped(
            &s.to_a(syn(Ipv4Addr::new(203, 0, 114, 9), A4, 81)),
            Reason::NoRule,
        );
        // An unknown address of the pod network matches nothing, whatever holds for the world.
        s.verdict(IN, Identity::WORLD, entry(allow::BOTH, &[], 0));
        dropped(&s.to_a(syn(STRANGER, A4, 82)), Reason::NoRule);
        passed(&s.to_a(syn(Ipv4Addr::new(203, 0, 114, 9), A4, 82)), Reason::Rule);
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
        let verdict = s.to_a(syn(FRIEND, A4, 80));
        assert!(verdict.passed);
        assert_eq!(
            verdict.counted,
            [(Action::Audit, Direction::Ingress, Reason::NoRule)]
        );
        let told = s.programs.told();
        assert_eq!((told[0].action, told[0].cookie), (Action::Audit as u8, Cookie(5)));
        // Its connection is tracked like any other.
        passed(&s.to_a(data(FRIEND, A4, 80)), Reason::Established);
    });
}

#[test]
fn replies_pass_both_ways() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        s.isolate(Direction::Egress);
        s.verdict(IN, FRIENDS, entry(allow::BOTH, &[], 0));
        let request = syn(FRIEND, A4, 80);
        dropped(
            &s.from_a(request.clone().reversed().with_flags(SYN | ACK)),
            Reason::NoRule,
        );
        passed(&s.to_a(request.clone()), Reason::Rule);
        passed(
            &s.from_a(request.clone().reversed().with_flags(SYN | ACK)),
            Reason::Established,
        );
        passed(&s.to_a(request.clone().with_flags(ACK)), Reason::Established);
        passed(
            &s.from_a(request.clone().reversed().with_flags(ACK)),
            Reason::Established,
        );
        // Another port, another peer, another endpoint: other connections.
        dropped(&s.from_a(data(A4, FRIEND, 80)), Reason::NoRule);
        let other = Packet::tcp((A4, 80), (STRANGER, 40_000), ACK);
        dropped(&s.from_a(other), Reason::NoRule);

        s.verdict(OUT, FRIENDS, entry(allow::BOTH, &[], 0));
        let asked = Packet::udp((A4, 1234), (FRIEND, 53));
        s.revoke(IN, FRIENDS);
        dropped(&s.to_a(asked.clone().reversed()), Reason::NoRule);
        passed(&s.from_a(asked.clone()), Reason::Rule);
        passed(&s.to_a(asked.clone().reversed()), Reason::Established);
        passed(&s.from_a(asked), Reason::Established);
        let flows = s.programs.kernel.flows().unwrap();
        assert_eq!(flows.len(), 2, "{flows:?}");
    });
}

#[test]
fn an_answer_is_known_where_only_the_other_direction_is_isolated() {
    sandbox::run(|| {
        let mut s = stage();
        let request = Packet::udp((A4, 1234), (OUTSIDE, 53));
        passed(&s.from_a(request.clone()), Reason::NotIsolated);
        // The policy comes while the answer is on its way.
        s.isolate(Direction::Ingress);
        passed(&s.to_a(request.clone().reversed()), Reason::Established);
        dropped(&s.to_a(Packet::udp((OUTSIDE, 53), (A4, 1235))), Reason::NoRule);
    });
}

#[test]
fn a_bare_syn_is_always_judged() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        s.verdict(IN, FRIENDS, entry(allow::BOTH, &[], 0));
        let request = syn(FRIEND, A4, 80);
        passed(&s.to_a(request.clone()), Reason::Rule);
        passed(&s.to_a(request.clone()), Reason::Rule);
        passed(
            &s.from_a(request.clone().reversed().with_flags(SYN | ACK)),
            Reason::Established,
        );
        s.revoke(IN, FRIENDS);
        // Same generation: what runs goes on, what is new is judged, and closes the door behind it.
        passed(&s.to_a(request.clone().with_flags(ACK)), Reason::Established);
        dropped(&s.to_a(request.clone()), Reason::NoRule);
        dropped(&s.to_a(request.clone().with_flags(ACK)), Reason::NoRule);

        // The pod opens a connection; its peer can not turn it round.
        let out = syn(A4, FRIEND, 443);
        passed(&s.from_a(out.clone()), Reason::NotIsolated);
        passed(
            &s.to_a(out.clone().reversed().with_flags(SYN | ACK)),
            Reason::Established,
        );
        dropped(&s.to_a(out.clone().reversed().with_flags(SYN)), Reason::NoRule);
        passed(&s.to_a(out.reversed().with_flags(ACK)), Reason::Established);
        // The same with an echo.
        passed(&s.from_a(Packet::echo(A4, FRIEND, 9, false)), Reason::NotIsolated);
        passed(&s.to_a(Packet::echo(FRIEND, A4, 9, true)), Reason::Established);
        dropped(&s.to_a(Packet::echo(FRIEND, A4, 9, false)), Reason::NoRule);
        dropped(&s.to_a(Packet::echo(FRIEND, A4, 10, true)), Reason::NoRule);
    });
}

#[test]
fn a_change_of_policy_cuts_what_it_forbids_and_nothing_else() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        s.verdict(IN, FRIENDS, entry(allow::BOTH, &[], 0));
        s.verdict(IN, LISTED, entry(allow::BOTH, &[], 0));
        for source in [FRIEND, OUTSIDE] {
            passed(&s.to_a(syn(source, A4, 80)), Reason::Rule);
            passed(&s.from_a(data(source, A4, 80).reversed()), Reason::Established);
            passed(&s.to_a(data(source, A4, 80)), Reason::Established);
        }
        s.programs.told();
        s.revoke(IN, LISTED);
        s.bump();
        passed(&s.to_a(data(FRIEND, A4, 80)), Reason::Established);
        dropped(&s.to_a(data(OUTSIDE, A4, 80)), Reason::Revoked);
        dropped(&s.to_a(data(OUTSIDE, A4, 80)), Reason::NoRule);
        dropped(
            &s.from_a_isolated(data(OUTSIDE, A4, 80).reversed()),
            Reason::NoRule,
        );
        let told = s.programs.told();
        assert_eq!(
            told.iter().filter(|e| e.action == Action::Pass as u8).count(),
            0,
            "{told:?}"
        );

        // Unless the node was told to keep what runs.
        s.programs
            .configure(|config| config.flags |= Config::KEEP_CONNECTIONS)
            .unwrap();
        s.revoke(IN, FRIENDS);
        s.bump();
        passed(&s.to_a(data(FRIEND, A4, 80)), Reason::Established);
        dropped(&s.to_a(syn(FRIEND, A4, 80)), Reason::NoRule);
    });
}

impl Stage {
    /// From A, isolated for egress too.
    fn from_a_isolated(&mut self, packet: Packet) -> Verdict {
        self.programs
            .configure(|config| config.flags &= !Config::BRIDGE_ATTACHED)
            .unwrap();
        self.isolate(Direction::Egress);
        self.from_a(packet)
    }
}

#[test]
fn the_own_node_always_passes_and_its_mask_never_does() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        s.isolate(Direction::Egress);
        let probe = syn(NODE, A4, 8080);
        passed(&s.run(ToPod, A, 0, &probe), Reason::OwnNode);
        passed(
            &s.from_a(probe.clone().reversed().with_flags(SYN | ACK)),
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
        // Nor is every packet without an interface the node's: fragments lose it.
        let piece = Packet::udp((FRIEND, 1), (A4, 9)).as_fragment(4, 0, true);
        dropped(&s.run(ToPod, A, 0, &piece), Reason::NoRule);
        let piece = Packet::udp((NODE, 1), (A4, 9)).as_fragment(5, 0, true);
        passed(&s.run(ToPod, A, 0, &piece), Reason::OwnNode);
    });
}

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
        passed(&s.from_a(data(NODE, A4, 83).reversed()), Reason::Established);
    });
}

#[test]
fn a_pod_can_not_be_someone_else() {
    sandbox::run(|| {
        let mut s = stage();
        passed(&s.from_a(syn(A4, FRIEND, 80)), Reason::NotIsolated);
        dropped(&s.from_a(syn(B4, FRIEND, 80)), Reason::Spoofed);
        dropped(&s.from_a(syn(Ipv4Addr::UNSPECIFIED, FRIEND, 80)), Reason::Spoofed);
        let wrong_mac = syn(A4, FRIEND, 80).from_mac(mac(B));
        dropped(&s.run(FromPod, A, A, &wrong_mac), Reason::Spoofed);
        let mut arp = |frame_mac, sender_mac, sender| {
            let frame = packet::arp(frame_mac, sender_mac, sender, [10, 244, 0, 1]);
            s.programs.run(FromPod, A, A, &frame).unwrap()
        };
        passed(&arp(mac(A), mac(A), A4.octets()), Reason::Neighbour);
        passed(&arp(mac(A), mac(A), [0; 4]), Reason::Neighbour);
        dropped(&arp(mac(A), mac(A), B4.octets()), Reason::Spoofed);
        dropped(&arp(mac(A), mac(B), A4.octets()), Reason::Spoofed);
        dropped(&arp(mac(B), mac(A), A4.octets()), Reason::Spoofed);
        // IPv6: its own address; the link's for neighbour discovery only.
        let link: IpAddr = "fe80::1".parse().unwrap();
        let all: IpAddr = "ff02::1".parse().unwrap();
        passed(
            &s.from_a(Packet::tcp((six_ip(A), 1), (six_ip(B), 2), SYN)),
            Reason::NotIsolated,
        );
        dropped(
            &s.from_a(Packet::tcp((six_ip(B), 1), (six_ip(B), 2), SYN)),
            Reason::Spoofed,
        );
        dropped(
            &s.from_a(Packet::tcp((link, 1), (six_ip(B), 2), SYN)),
            Reason::Spoofed,
        );
        let advertise = |target: Addr, hops| {
            let mut rest = vec![0x20, 0, 0, 0];
            rest.extend(target.0);
            let mut packet = Packet::icmp(link, all, 136, 0, &rest);
            packet.hops = hops;
            packet
        };
        passed(&s.from_a(advertise(six(A), 255)), Reason::Neighbour);
        dropped(&s.from_a(advertise(six(B), 255)), Reason::Spoofed);
        dropped(&s.from_a(advertise(six(A), 64)), Reason::Spoofed);
        // A frame for someone else that the bridge flooded, and one that was meant to be taken in.
        dropped(&s.to_a(syn(FRIEND, B4, 80)), Reason::WrongDestination);
        assert!(!s.programs.told().is_empty());
        dropped(
            &s.run(ToPod, A, UPLINK, &syn(FRIEND, B4, 80)),
            Reason::WrongDestination,
        );
        assert!(s.programs.told().is_empty());
    });
}

#[test]
fn what_is_not_ip_passes_only_without_policy() {
    sandbox::run(|| {
        let mut s = stage();
        let tagged =
            |ethertype| packet::frame(mac(A), ethertype, &[0, 5, 8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for (ethertype, reason) in [
            (0x88cc, Reason::NotIp),
            (0x0026, Reason::NotIp),
            (0x8100, Reason::Vlan),
            (0x88a8, Reason::Vlan),
        ] {
            for (program, came_by) in [(FromPod, A), (ToPod, B)] {
                let s = stage_again(&mut s);
                passed(
                    &s.programs.run(program, A, came_by, &tagged(ethertype)).unwrap(),
                    Reason::NotIsolated,
                );
                s.isolate(Direction::Ingress);
                s.isolate(Direction::Egress);
                dropped(
                    &s.programs.run(program, A, came_by, &tagged(ethertype)).unwrap(),
                    reason,
                );
            }
        }
    });
}

/// Nothing isolated again.
fn stage_again(s: &mut Stage) -> &mut Stage {
    s.a.ingress = SlotRef::new(OPEN, 1);
    s.a.egress = SlotRef::new(OPEN, 1);
    s.put(Entry::Endpoint(A, s.a));
    s
}

#[test]
fn options_and_extension_headers_are_walked() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        let ranges = [range(protocol::TCP, 80, 80, 71)];
        s.verdict(IN, FRIENDS, entry(0, &ranges, 0));
        s.verdict(IN, NEIGHBOUR, entry(0, &ranges, 0));
        for length in [4, 8, 40] {
            let options = vec![1; length];
            passed(&s.to_a(syn(FRIEND, A4, 80).with_options(&options)), Reason::Rule);
            dropped(
                &s.to_a(syn(FRIEND, A4, 81).with_options(&options)),
                Reason::NoRule,
            );
        }
        let six = |port| Packet::tcp((six_ip(B), 40_000), (six_ip(A), port), SYN);
        passed(&s.to_a(six(80)), Reason::Rule);
        dropped(&s.to_a(six(81)), Reason::NoRule);
        for count in 1..=6 {
            let mut good = six(80);
            let mut bad = six(81);
            for number in [0, 60, 43, 60, 60, 60].into_iter().take(count) {
                good = good.with_extension(number);
                bad = bad.with_extension(number);
            }
            passed(&s.to_a(good), Reason::Rule);
            dropped(&s.to_a(bad), Reason::NoRule);
        }
        let mut many = six(80);
        for _ in 0..7 {
            many = many.with_extension(60);
        }
        dropped(&s.to_a(many), Reason::Malformed);
        // Authentication and encryption are protocols of their own: no ports, so no rule.
        dropped(
            &s.to_a(Packet::new(six_ip(B), six_ip(A), 51, &[6; 24])),
            Reason::NoRule,
        );
        // IPv4 in IPv6's clothes is nobody's address.
        let mapped: IpAddr = "::ffff:10.244.1.5".parse().unwrap();
        let mut disguised = six(80);
        disguised.source = mapped;
        dropped(&s.to_a(disguised), Reason::Malformed);
    });
}

#[test]
fn what_can_not_be_read_is_dropped_for_an_isolated_pod() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        s.verdict(IN, FRIENDS, entry(allow::BOTH, &[], 0));
        s.verdict(IN, NEIGHBOUR, entry(allow::BOTH, &[], 0));
        // The kernel takes no frame without a whole IP header here; those are the parser's own tests' concern.
        let whole = syn(FRIEND, A4, 80).to_mac(mac(A)).bytes();
        for length in 34..whole.len() {
            let verdict = s.programs.run(ToPod, A, UPLINK, &whole[..length]).unwrap();
            dropped(&verdict, Reason::Malformed);
        }
        let whole = Packet::tcp((six_ip(B), 1), (six_ip(A), 80), SYN)
            .to_mac(mac(A))
            .bytes();
        for length in 54..whole.len() {
            let verdict = s.programs.run(ToPod, A, UPLINK, &whole[..length]).unwrap();
            dropped(&verdict, Reason::Malformed);
        }
        for error in [1, -1, -20, -30] {
            let mut packet = syn(FRIEND, A4, 80);
            packet.length_error = error;
            dropped(&s.to_a(packet), Reason::Malformed);
        }
        // A header length below the minimum, a version that is not the frame's, a TCP header too short for TCP.
        for (offset, value) in [(14, 0x44), (14, 0x65), (14 + 20 + 12, 0x40)] {
            let mut bytes = syn(FRIEND, A4, 80).to_mac(mac(A)).bytes();
            bytes[offset] = value;
            dropped(
                &s.programs.run(ToPod, A, UPLINK, &bytes).unwrap(),
                Reason::Malformed,
            );
        }
        passed(&s.to_a(syn(FRIEND, A4, 80)), Reason::Rule);
    });
}

#[test]
fn fragments_follow_the_first_one() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        s.isolate(Direction::Egress);
        s.verdict(IN, FRIENDS, entry(0, &[range(protocol::UDP, 53, 53, 1)], 0));
        s.verdict(IN, NEIGHBOUR, entry(0, &[range(protocol::UDP, 53, 53, 1)], 0));
        s.verdict(OUT, FRIENDS, entry(0, &[range(protocol::UDP, 53, 53, 1)], 0));
        let first = |port, id| Packet::udp((FRIEND, 1), (A4, port)).as_fragment(id, 0, true);
        // Its payload looks like a header with a port that is allowed.
        let later = |id| Packet::udp((FRIEND, 1), (A4, 53)).as_fragment(id, 16, false);
        dropped(&s.to_a(later(1)), Reason::Fragment);
        dropped(&s.to_a(first(99, 1)), Reason::NoRule);
        dropped(&s.to_a(later(1)), Reason::Fragment);
        passed(&s.to_a(first(53, 2)), Reason::Rule);
        passed(&s.to_a(later(2)), Reason::Established);
        passed(&s.to_a(later(2)), Reason::Established);
        dropped(&s.to_a(later(3)), Reason::Fragment);
        // A second first fragment that is denied takes the permission back.
        dropped(&s.to_a(first(99, 2)), Reason::NoRule);
        dropped(&s.to_a(later(2)), Reason::Fragment);
        // A known connection, another datagram.
        passed(&s.to_a(first(53, 4)), Reason::Established);
        passed(&s.to_a(later(4)), Reason::Established);
        s.bump();
        dropped(&s.to_a(later(4)), Reason::Fragment);
        // IPv6, with an extension header before the fragment header.
        let first6 = Packet::udp((six_ip(B), 1), (six_ip(A), 53))
            .with_extension(60)
            .as_fragment(7, 0, true);
        let later6 = Packet::udp((six_ip(B), 1), (six_ip(A), 53))
            .with_extension(60)
            .as_fragment(7, 16, false);
        dropped(&s.to_a(later6.clone()), Reason::Fragment);
        passed(&s.to_a(first6), Reason::Rule);
        passed(&s.to_a(later6), Reason::Established);
        // From the pod: judged here for pods; the node puts together what goes beyond.
        let out = |to, id, offset| Packet::udp((A4, 1), (to, 53)).as_fragment(id, offset, offset == 0);
        dropped(&s.from_a(out(FRIEND, 8, 16)), Reason::Fragment);
        passed(&s.from_a(out(FRIEND, 8, 0)), Reason::Rule);
        passed(&s.from_a(out(FRIEND, 8, 16)), Reason::Established);
        passed(&s.from_a(out(OUTSIDE, 9, 16)), Reason::Deferred);
        dropped(&s.run(FromBridge, 99, A, &out(OUTSIDE, 9, 16)), Reason::Fragment);
    });
}

#[test]
fn icmp_errors_pass_where_they_quote_what_was_allowed() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        let router = Ipv4Addr::new(198, 51, 100, 1);
        let sent = syn(A4, OUTSIDE, 443);
        let too_big = Packet::unreachable(router, A4, &sent);
        dropped(&s.to_a(too_big.clone()), Reason::NoRule);
        passed(&s.from_a(sent.clone()), Reason::NotIsolated);
        passed(&s.to_a(too_big), Reason::Related);
        // About another port; about a connection of someone else; the wrong way round; without a quotation.
        dropped(
            &s.to_a(Packet::unreachable(router, A4, &syn(A4, OUTSIDE, 444))),
            Reason::NoRule,
        );
        dropped(
            &s.to_a(Packet::unreachable(router, A4, &syn(B4, OUTSIDE, 443))),
            Reason::NoRule,
        );
        dropped(
            &s.to_a(Packet::unreachable(router, A4, &sent.clone().reversed())),
            Reason::NoRule,
        );
        dropped(&s.to_a(Packet::icmp(router, A4, 3, 4, &[0; 4])), Reason::NoRule);
        dropped(&s.to_a(Packet::icmp(router, A4, 5, 1, &[0; 32])), Reason::NoRule);
        // IPv6: packet too big.
        let sent = Packet::tcp((six_ip(A), 1), (six_ip(B), 2), SYN);
        let far: IpAddr = "2001:db8::1".parse().unwrap();
        dropped(
            &s.to_a(Packet::unreachable(far, six_ip(A), &sent)),
            Reason::NoRule,
        );
        passed(&s.from_a(sent.clone()), Reason::NotIsolated);
        passed(
            &s.to_a(Packet::unreachable(far, six_ip(A), &sent)),
            Reason::Related,
        );
        // From the pod, about what it let in.
        s.verdict(IN, FRIENDS, entry(allow::BOTH, &[], 0));
        s.isolate(Direction::Egress);
        let asked = Packet::udp((FRIEND, 5), (A4, 6));
        dropped(&s.from_a(Packet::unreachable(A4, FRIEND, &asked)), Reason::NoRule);
        passed(&s.to_a(asked.clone()), Reason::Rule);
        passed(
            &s.from_a(Packet::unreachable(A4, FRIEND, &asked)),
            Reason::Related,
        );
    });
}

#[test]
fn egress_beyond_the_pods_is_judged_after_translation() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Egress);
        s.isolate(Direction::Ingress);
        let service = Ipv4Addr::new(10, 96, 0, 10);
        let asked = syn(A4, service, 80);
        let translated = syn(A4, BACKEND, 6443);
        // Stage one lets it go on, and knows its answer.
        passed(&s.from_a(asked.clone()), Reason::Deferred);
        passed(&s.from_a(asked.clone().with_flags(ACK)), Reason::Deferred);
        passed(
            &s.to_a(asked.clone().reversed().with_flags(SYN | ACK)),
            Reason::Established,
        );
        dropped(&s.to_a(asked.clone().reversed().with_flags(SYN)), Reason::NoRule);
        assert!(
            s.programs
                .told()
                .iter()
                .all(|event| event.direction == Direction::Ingress as u8)
        );
        // Stage two: at the bridge, on the real destination.
        dropped(&s.run(FromBridge, 99, A, &translated), Reason::NoRule);
        s.verdict(
            OUT,
            Identity::WORLD,
            entry(0, &[range(protocol::TCP, 6443, 6443, 31)], 0),
        );
        passed(&s.run(FromBridge, 99, A, &translated), Reason::Rule);
        let told = s.programs.told();
        assert_eq!(
            (told[1].ifindex, told[1].cookie, told[1].direction),
            (A, Cookie(31), Direction::Egress as u8)
        );
        passed(
            &s.run(FromBridge, 99, A, &translated.clone().with_flags(ACK)),
            Reason::Established,
        );
        // What no local pod sent, and what an open pod sent, is no business of the bridge.
        for source in [FRIEND, B4, OUTSIDE] {
            let verdict = s.run(FromBridge, 99, UPLINK, &syn(source, BACKEND, 1));
            assert!(verdict.passed && verdict.counted.is_empty(), "{verdict:?}");
        }
        // Without a translation both stages share one entry: denied, it admits no answer either.
        let direct = syn(A4, OUTSIDE, 25);
        passed(&s.from_a(direct.clone()), Reason::Deferred);
        dropped(&s.run(FromBridge, 99, A, &direct), Reason::NoRule);
        dropped(&s.to_a(direct.reversed().with_flags(ACK)), Reason::NoRule);
        // Without a program on the bridge nothing is deferred.
        s.programs
            .configure(|config| config.flags &= !Config::BRIDGE_ATTACHED)
            .unwrap();
        dropped(&s.from_a(syn(A4, service, 81)), Reason::NoRule);
        dropped(&s.from_a(syn(A4, OUTSIDE, 81)), Reason::NoRule);
    });
}

#[test]
fn a_lost_tag_is_judged_at_the_destination() {
    sandbox::run(|| {
        let mut s = stage();
        // A, isolated for egress, reaches B behind a Service on this node; B's program sees no tag.
        s.isolate(Direction::Egress);
        let verdict = s.run(ToPod, B, A, &syn(A4, B4, 8080).to_mac(mac(B)));
        assert!(!verdict.passed);
        assert_eq!(
            verdict.counted,
            [(Action::Drop, Direction::Egress, Reason::NoRule)]
        );
        s.verdict(OUT, NEIGHBOUR, entry(allow::BOTH, &[], 0));
        let verdict = s.run(ToPod, B, A, &syn(A4, B4, 8080).to_mac(mac(B)));
        assert!(verdict.passed);
        let expected = [
            (Action::Pass, Direction::Egress, Reason::Rule),
            (Action::Pass, Direction::Ingress, Reason::NotIsolated),
        ];
        assert_eq!(verdict.counted, expected);
        let told = s.programs.told();
        assert_eq!(
            told.iter().map(|event| event.ifindex).collect::<Vec<_>>(),
            [A, A, B]
        );
        // Behind the node's address too.
        s.revoke(OUT, NEIGHBOUR);
        assert!(!s.run(ToPod, B, A, &syn(NODE, B4, 8081).to_mac(mac(B))).passed);
        // And B's own ingress comes after it.
        s.verdict(OUT, NEIGHBOUR, entry(allow::BOTH, &[], 0));
        s.b.ingress = SlotRef::new(IN, 9);
        s.put(Entry::Endpoint(B, s.b));
        let verdict = s.run(ToPod, B, A, &syn(A4, B4, 8082).to_mac(mac(B)));
        assert_eq!(
            verdict.counted.last(),
            Some(&(Action::Drop, Direction::Ingress, Reason::NoRule))
        );
    });
}

#[test]
fn connections_end() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        let life = |config: &mut Config| (config.tcp_unreplied, config.tcp_closing) = (0, 0);
        let out = syn(A4, OUTSIDE, 80);
        let back = out.clone().reversed();
        // Unreplied, with no life: as good as none.
        passed(&s.from_a(out.clone()), Reason::NotIsolated);
        s.programs.configure(life).unwrap();
        dropped(&s.to_a(back.clone().with_flags(SYN | ACK)), Reason::NoRule);
        // Established, half closed, closed by both, by a reset.
        s.programs.configure(|config| config.tcp_unreplied = 60).unwrap();
        passed(&s.from_a(out.clone()), Reason::NotIsolated);
        passed(&s.to_a(back.clone().with_flags(SYN | ACK)), Reason::Established);
        passed(&s.to_a(back.clone().with_flags(FIN | ACK)), Reason::Established);
        passed(&s.to_a(back.clone().with_flags(ACK)), Reason::Established);
        passed(&s.from_a(out.clone().with_flags(FIN | ACK)), Reason::Established);
        dropped(&s.to_a(back.clone().with_flags(ACK)), Reason::NoRule);
        passed(&s.from_a(out.clone()), Reason::NotIsolated);
        passed(&s.to_a(back.clone().with_flags(SYN | ACK)), Reason::Established);
        passed(&s.to_a(back.clone().with_flags(RST)), Reason::Established);
        dropped(&s.to_a(back.with_flags(ACK)), Reason::NoRule);
    });
}

#[test]
fn connections_are_not_shared_between_pods() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        // B sends what would make A's answer, if A's and B's connections were one table.
        let poison = syn(A4, OUTSIDE, 80);
        dropped(
            &s.run(FromPod, B, B, &poison.clone().from_mac(mac(B))),
            Reason::Spoofed,
        );
        let verdict = s.run(ToPod, B, UPLINK, &poison.clone().reversed().to_mac(mac(B)));
        dropped(&verdict, Reason::WrongDestination);
        dropped(&s.to_a(poison.reversed().with_flags(ACK)), Reason::NoRule);
    });
}

#[test]
fn many_equal_events_are_one_with_a_count() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        for _ in 0..50 {
            dropped(&s.to_a(syn(FRIEND, A4, 80)), Reason::NoRule);
        }
        let told = s.programs.told();
        assert!(told.len() <= 3, "{} events", told.len());
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
        dropped(&s.to_a(syn(FRIEND, A4, 81)), Reason::NoRule);
        assert!(s.programs.told().is_empty());
    });
}
