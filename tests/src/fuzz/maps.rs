//! A node in words, as the entries that its programs read.

use std::collections::BTreeMap;

use vethwall_common::{
    address::{Addr, Prefix},
    config::Config,
    endpoint::{EndpointRecord, SlotRef},
    entry::Entry,
    identity::{AddressEntry, Identity, PrefixEntry},
    verdict::{
        Cookie, INLINE_RANGES, PortRange, PortsKey, PortsPage, SlotRecord, VerdictEntry, VerdictKey, allow,
    },
};

use crate::{
    kernel::CONFIG,
    oracle::packet::node::{Kind, NOBODY, Node, Pod, Policy, Rule, UNKNOWN_POD, WORLD, Way},
};

/// The classes that have no number of their own.
pub(super) const CLASSES: [&str; 6] = ["friend", "neighbour", "web", "host", "listed", "self"];

/// Ports of a page.
const PAGE: u16 = 512;

fn identity(class: &str) -> Identity {
    match class {
        WORLD => Identity::WORLD,
        UNKNOWN_POD => Identity::UNKNOWN_POD,
        NOBODY => Identity::INVALID,
        named => {
            let place = CLASSES.iter().position(|class| *class == named);
            let place = place.unwrap_or_else(|| panic!("no number for the class {named}"));
            Identity(Identity::FIRST_SIGNATURE.0 + u32::try_from(place).unwrap_or_default())
        }
    }
}

/// A slot for each version, so that policy changes by another slot.
fn slot(pod: &Pod, way: Way) -> u32 {
    let side = match way {
        Way::In => 0,
        Way::Out => 16,
    };
    u32::from(pod.index) * 32 + side + pod.policy(way).version % 16
}

/// Everything that the maps hold.
pub(super) fn entries(node: &Node) -> Vec<Entry> {
    let mut entries = Vec::new();
    for pod in &node.pods {
        entries.push(Entry::Endpoint(pod.interface, record(pod)));
        for address in &pod.addresses {
            let owner = AddressEntry {
                identity: identity(&pod.class),
                flags: AddressEntry::POD,
                ifindex: pod.interface,
            };
            entries.push(Entry::Address(Addr::from(*address), owner));
        }
        for way in [Way::In, Way::Out] {
            policy(pod.policy(way), slot(pod, way), &mut entries);
        }
    }
    for other in &node.others {
        let owner = AddressEntry {
            identity: identity(&other.class),
            flags: match other.kind {
                Kind::Pod => AddressEntry::POD,
                Kind::ThisNode => AddressEntry::LOCAL_NODE,
                Kind::Named => 0,
            },
            ifindex: 0,
        };
        entries.push(Entry::Address(Addr::from(other.address), owner));
    }
    for network in &node.networks {
        let address = network.network.addr();
        let bits = u32::from(network.network.prefix_len());
        let prefix = Prefix {
            length: if address.is_ipv4() { 96 + bits } else { bits },
            addr: Addr::from(address),
        };
        let entry = PrefixEntry {
            identity: identity(&network.class),
            flags: if network.pods { PrefixEntry::POD_NETWORK } else { 0 },
        };
        entries.push(Entry::Prefix(prefix, entry));
    }
    entries
}

/// What the programs are told about the node.
pub(super) fn config(node: &Node) -> Config {
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    // Nothing ends by time while a test runs.
    let life = 1 << 20;
    Config {
        flags: Config::EVENTS
            | flag(node.bridge_v4, Config::BRIDGE_V4)
            | flag(node.bridge_v6, Config::BRIDGE_V6)
            | flag(node.own_node_egress, Config::OWN_NODE_EGRESS)
            | flag(node.keep_connections, Config::KEEP_CONNECTIONS),
        tcp_established: life,
        tcp_unreplied: life,
        tcp_closing: if node.forget_ended { 0 } else { life },
        udp_established: life,
        udp_unreplied: life,
        sctp_established: life,
        other: life,
        // A rule of its own, with a test of its own.
        tunnel_port: 0,
        bridge_mac: node.bridge_mac,
        ..CONFIG
    }
}

fn record(pod: &Pod) -> EndpointRecord {
    let address = |index: usize| pod.addresses.get(index).copied().map_or(Addr::NONE, Addr::from);
    EndpointRecord {
        ingress: SlotRef::new(slot(pod, Way::In), pod.ingress.version),
        egress: SlotRef::new(slot(pod, Way::Out), pod.egress.version),
        ifindex: pod.interface,
        flags: if pod.in_force {
            EndpointRecord::ENFORCING
        } else {
            0
        },
        addresses: [address(0), address(1)],
        mac: pod.mac,
        index: pod.index,
    }
}

/// The bits of an answer; what audited policies would say changes nothing.
fn bits(allowed: bool, slot: u32) -> u8 {
    match (allowed, slot & 1) {
        (true, 0) => allow::BOTH,
        (true, _) => allow::ENFORCED,
        (false, 0) => 0,
        (false, _) => allow::SHADOW,
    }
}

fn policy(policy: &Policy, slot: u32, entries: &mut Vec<Entry>) {
    let flag = |on: bool, flag: u8| if on { flag } else { 0 };
    let record = SlotRecord {
        allow: bits(policy.open || policy.anybody, slot),
        flags: flag(policy.open, SlotRecord::OPEN) | flag(policy.cluster, SlotRecord::CLUSTER),
        cookie: Cookie(slot),
        ..SlotRecord::default()
    };
    entries.push(Entry::Slot(slot, record));
    for (class, rule) in &policy.rules {
        let key = VerdictKey {
            slot,
            identity: identity(class),
        };
        let value = verdict(rule, key, entries);
        entries.push(Entry::Verdict(key, value));
    }
}

fn verdict(rule: &Rule, key: VerdictKey, entries: &mut Vec<Entry>) -> VerdictEntry {
    let mut entry = VerdictEntry {
        allow: bits(rule.rest, key.slot),
        cookie: Cookie(key.slot),
        ..VerdictEntry::default()
    };
    if rule.set || rule.ports.len() > INLINE_RANGES {
        entry.port_set = key.slot * 1024 + key.identity.0;
        pages(rule, entry.port_set, key.slot, entries);
        return entry;
    }
    for (place, range) in entry.ranges.iter_mut().zip(&rule.ports) {
        *place = PortRange {
            protocol: range.protocol,
            allow: bits(range.allowed, key.slot),
            first: range.first,
            last: range.last,
            reserved: 0,
            cookie: Cookie(key.slot),
        };
        entry.count += 1;
    }
    entry
}

/// The pages that a set's ranges touch, each whole.
fn pages(rule: &Rule, set: u32, slot: u32, entries: &mut Vec<Entry>) {
    let word = |allowed: bool, bit: u8| {
        if bits(allowed, slot) & bit == 0 {
            0
        } else {
            u64::MAX
        }
    };
    let mut pages: BTreeMap<PortsKey, PortsPage> = BTreeMap::new();
    for range in &rule.ports {
        for number in range.first / PAGE..=range.last / PAGE {
            let key = PortsKey {
                set,
                protocol: range.protocol,
                page: u8::try_from(number).unwrap_or_default(),
                reserved: 0,
            };
            let page = pages.entry(key).or_insert_with(|| PortsPage {
                enforced: [word(rule.rest, allow::ENFORCED); 8],
                shadow: [word(rule.rest, allow::SHADOW); 8],
            });
            let first = range.first.max(number * PAGE);
            let last = range.last.min(number * PAGE + (PAGE - 1));
            for port in first..=last {
                let (at, bit) = (usize::from(port % PAGE) / 64, 1 << (port % 64));
                for (words, kind) in [
                    (&mut page.enforced, allow::ENFORCED),
                    (&mut page.shadow, allow::SHADOW),
                ] {
                    words[at] = words[at] & !bit | word(range.allowed, kind) & bit;
                }
            }
        }
    }
    entries.extend(pages.into_iter().map(|(key, page)| Entry::Ports(key, page)));
}
