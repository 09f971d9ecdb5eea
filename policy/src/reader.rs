//! What the programs would answer: the same look-ups over a [`State`].
//!
//! ```text
//! ENDPOINTS[ifindex] ─► slot ─► OPEN? ─► (ADDRESSES[peer] or longest PREFIXES or WORLD) ─► VERDICTS[slot, identity]
//!                        └── default ◄── no entry ─────────────────────────────────────────────┘
//! ```
//! Tests of every crate judge a state by this, so keep it as plain as the programs.

use std::net::IpAddr;

use vethwall_common::{
    Direction,
    address::Addr,
    endpoint::EndpointRecord,
    identity::Identity,
    protocol,
    verdict::{Cookie, PORTS_PER_PAGE, PortsKey, SlotRecord, VerdictEntry, VerdictKey, allow},
};

use crate::state::State;

/// The answer of a policy look-up, before connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// [`vethwall_common::verdict::allow`] bits.
    pub allow: u8,
    /// What decided.
    pub cookie: Cookie,
    /// The peer.
    pub identity: Identity,
    /// The endpoint has no record: everything is dropped.
    pub pending: bool,
}

/// The identity of an address: its own entry, else its longest prefix, else the world.
pub fn identity(state: &State, address: IpAddr) -> Identity {
    let address = Addr::from(address);
    match state.addresses.get(&address) {
        Some(entry) => entry.identity,
        None => prefix_identity(state, address),
    }
}

/// The identity of an address by prefix alone, as for a packet that this node masqueraded.
pub fn prefix_identity(state: &State, address: Addr) -> Identity {
    // A prefix orders by its length first.
    let mut longest_first = state.prefixes.iter().rev();
    let found = longest_first.find(|(prefix, _)| prefix.contains(address));
    found.map_or(Identity::WORLD, |(_, entry)| entry.identity)
}

/// Asks the policy of an endpoint about a packet. `port` is the destination port; protocols without ports have 0.
pub fn lookup(
    state: &State,
    ifindex: u32,
    direction: Direction,
    peer: IpAddr,
    protocol: u8,
    port: u16,
) -> Answer {
    let identity = identity(state, peer);
    let record = state.endpoints.get(&ifindex);
    match record.filter(|record| record.flags & EndpointRecord::ENFORCING != 0 && record.ifindex == ifindex) {
        None => Answer {
            allow: 0,
            cookie: Cookie(0),
            identity,
            pending: true,
        },
        Some(record) => {
            let (allow, cookie) = slot(state, record.slot_ref(direction).slot(), identity, protocol, port);
            Answer {
                allow,
                cookie,
                identity,
                pending: false,
            }
        }
    }
}

/// Asks a slot about an identity: [`allow`] bits and cookie.
pub fn slot(state: &State, slot: u32, identity: Identity, protocol: u8, port: u16) -> (u8, Cookie) {
    let record = if slot == 0 { None } else { state.slots.get(&slot) };
    let record = record.copied().unwrap_or_default();
    if record.flags & SlotRecord::OPEN != 0 {
        return (record.allow, record.cookie);
    }
    match state.verdicts.get(&VerdictKey { slot, identity }) {
        None => (record.allow, record.cookie),
        Some(found) => entry(state, found, protocol, port),
    }
}

fn entry(state: &State, entry: &VerdictEntry, protocol: u8, port: u16) -> (u8, Cookie) {
    if protocol::has_ports(protocol) {
        for range in entry.ranges.iter().take(usize::from(entry.count)) {
            if range.protocol == protocol && range.first <= port && port <= range.last {
                return (range.allow, range.cookie);
            }
        }
        let page = u8::try_from(u32::from(port) / PORTS_PER_PAGE).unwrap_or(u8::MAX);
        let key = PortsKey {
            set: entry.port_set,
            protocol,
            page,
            reserved: 0,
        };
        if let (true, Some(page)) = (entry.port_set != 0, state.ports.get(&key)) {
            let word = (u32::from(port) % PORTS_PER_PAGE / 64) as usize;
            let bit = |words: &[u64; 8], value: u8| {
                if words[word] >> (port & 63) & 1 == 1 {
                    value
                } else {
                    0
                }
            };
            return (
                bit(&page.enforced, allow::ENFORCED) | bit(&page.shadow, allow::SHADOW),
                entry.cookie,
            );
        }
    }
    (entry.allow, entry.cookie)
}
