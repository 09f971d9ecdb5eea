//! Verdicts of the real programs, packet by packet: the stage on which each test plays, and its props.

#![allow(
    clippy::unwrap_used,
    reason = "the stage of tests: a failure is a failed test"
)]

mod connections;
mod headers;
mod policy;
mod stages;

use std::net::{IpAddr, Ipv4Addr};

use vethwall_common::{
    Direction,
    address::{Addr, Prefix},
    config::Config,
    endpoint::{EndpointRecord, SlotRef},
    entry::{Entry, Key},
    identity::{AddressEntry, Identity, PrefixEntry},
    maps, protocol,
    verdict::{
        Action, Cookie, PortRange, PortsKey, PortsPage, Reason, SlotRecord, VerdictEntry, VerdictKey, allow,
    },
};
use vethwall_datapath::Maps;
use vethwall_tests::{
    kernel::{
        Packet, Program, Programs, Verdict,
        packet::{self, ACK, FIN, RST, SYN, mac},
        verifier,
    },
    sandbox, told,
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
    fn sends_a(&mut self, packet: Packet) -> Verdict {
        self.run(ToPod, A, UPLINK, &packet.to_mac(mac(A)))
    }

    /// From A, honestly.
    fn a_sends(&mut self, packet: Packet) -> Verdict {
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
