//! Reading what the agent wrote: endpoints, identities, verdicts.

use core::ptr;

use aya_ebpf::maps::lpm_trie;
use vethwall_common::{
    address::Addr,
    config::Config,
    endpoint::{ENDPOINT_ARRAY_SIZE, EndpointRecord, SlotRef},
    flow::TICK_SHIFT,
    identity::{AddressEntry, Identity, PrefixEntry},
    protocol,
    verdict::{Cookie, INLINE_RANGES, PortsKey, Reason, SlotRecord, VerdictKey, allow},
};

use crate::{
    address::Words,
    maps::{ADDRESSES, CONFIG, ENDPOINT_OVERFLOW, ENDPOINTS, PORTS, PREFIXES, SLOTS, VERDICTS},
};

/// The node's configuration. The map's one element always exists; without it nothing could be judged.
#[inline(always)]
pub(crate) fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// The time in ticks.
#[inline(always)]
pub(crate) fn now() -> u32 {
    // SAFETY: the helper takes nothing and reads a counter.
    (unsafe { aya_ebpf::helpers::generated::bpf_jiffies64() } >> TICK_SHIFT) as u32
}

/// A pod's interface whose policy is in force.
#[derive(Clone, Copy)]
pub(crate) struct Endpoint(&'static EndpointRecord);

/// The endpoint of an interface; none if it is pending or no pod's.
#[inline(always)]
pub(crate) fn endpoint(ifindex: u32, config: &Config) -> Option<Endpoint> {
    let record = match ENDPOINTS.get(ifindex & (ENDPOINT_ARRAY_SIZE - 1)) {
        Some(record) if record.ifindex == ifindex => record,
        _ if config.flags & Config::OVERFLOW == 0 => return None,
        _ => {
            // SAFETY: the reference is used within this run, and entries are freed through RCU.
            unsafe { ENDPOINT_OVERFLOW.get(ifindex) }?
        }
    };
    (record.ifindex == ifindex && record.flags & EndpointRecord::ENFORCING != 0).then_some(Endpoint(record))
}

impl Endpoint {
    /// Its interface.
    #[inline(always)]
    pub(crate) fn ifindex(self) -> u32 {
        self.0.ifindex
    }

    /// Its number, as a tag carries it.
    #[inline(always)]
    pub(crate) fn index(self) -> u32 {
        self.0.index as u32
    }

    /// Slot and generation towards the pod, read at once.
    #[inline(always)]
    pub(crate) fn ingress(self) -> SlotRef {
        // SAFETY: a reference is valid; volatile so that the word is read once, whatever the optimiser thinks.
        unsafe { ptr::read_volatile(&raw const self.0.ingress) }
    }

    /// Slot and generation from the pod, read at once.
    #[inline(always)]
    pub(crate) fn egress(self) -> SlotRef {
        // SAFETY: as in `ingress`.
        unsafe { ptr::read_volatile(&raw const self.0.egress) }
    }

    /// Whether the address is the pod's.
    #[inline(always)]
    pub(crate) fn owns(self, address: &Words) -> bool {
        *address != Words::NONE && (*address == self.address(0) || *address == self.address(1))
    }

    /// The pod's address of a family, or none.
    #[inline(always)]
    pub(crate) fn address_of(self, v4: bool) -> Words {
        let first = self.address(0);
        if first != Words::NONE && first.is_v4() == v4 {
            return first;
        }
        let second = self.address(1);
        if second != Words::NONE && second.is_v4() == v4 {
            return second;
        }
        Words::NONE
    }

    #[inline(always)]
    fn address(self, index: usize) -> Words {
        const { assert!(core::mem::offset_of!(EndpointRecord, addresses) % align_of::<Words>() == 0) };
        // SAFETY: the record is aligned to 8 and so is the field; `Words` has the size of an address.
        unsafe { *(&raw const self.0.addresses[index & 1]).cast::<Words>() }
    }

    /// Whether the address is the link-local one that the kernel makes of the pod's MAC address (RFC 4291, appendix A).
    #[inline(always)]
    pub(crate) fn is_own_link_local(self, address: &Words) -> bool {
        let [a, b, c, d, e, f] = self.0.mac;
        let low = u64::from_ne_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        address.low == low && address.high == (0xfe80_u64 << 48).to_be()
    }

    /// Whether the MAC address is the pod's.
    #[inline(always)]
    pub(crate) fn has_mac(self, mac: [u16; 3]) -> bool {
        // SAFETY: six bytes at an even offset of an aligned record.
        mac == unsafe { *(&raw const self.0.mac).cast::<[u16; 3]>() }
    }
}

/// Whether this is the bridge's MAC address.
#[inline(always)]
pub(crate) fn is_bridge(mac: [u16; 3], config: &Config) -> bool {
    // SAFETY: as in `has_mac`.
    mac == unsafe { *(&raw const config.bridge_mac).cast::<[u16; 3]>() }
}

/// Whether no policy selects the pod in the direction that the slot is for.
#[inline(always)]
pub(crate) fn is_open(slot: u32) -> bool {
    SLOTS
        .get(slot)
        .is_some_and(|record| record.flags & SlotRecord::OPEN != 0)
}

/// Whether the slot lets a peer pass of which nothing is known: no policy in force isolates the pod in its direction.
#[inline(always)]
pub(crate) fn lets_anybody(slot: u32) -> bool {
    SLOTS
        .get(slot)
        .is_some_and(|record| record.allow & allow::ENFORCED != 0)
}

/// Whether the slot judges what the pod sends to itself through a Service, as ClusterNetworkPolicies do.
#[inline(always)]
pub(crate) fn judges_itself(slot: u32) -> bool {
    SLOTS
        .get(slot)
        .is_none_or(|record| record.flags & SlotRecord::CLUSTER != 0)
}

/// What is known of an address.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    /// What the verdict looks for.
    pub(crate) identity: Identity,
    /// What an event tells.
    pub(crate) reported: Identity,
    /// An address of the pod network: nothing translates it.
    pub(crate) pod: bool,
    /// An address of this node.
    pub(crate) own_node: bool,
}

/// The owner of an address, by its entry or by the longest prefix. `source`: the address is where a forwarded packet
/// comes from; an address of this node is then a mask, and says nothing about who is behind it.
#[inline(always)]
pub(crate) fn peer(address: &Words, source: bool) -> Peer {
    if let Some(entry) = address_entry(address) {
        if !source || entry.flags & AddressEntry::LOCAL_NODE == 0 {
            let pod = entry.flags & AddressEntry::POD != 0;
            return Peer {
                identity: entry.identity,
                reported: entry.identity,
                pod,
                own_node: entry.flags & AddressEntry::LOCAL_NODE != 0,
            };
        }
        let identity = prefix(address).map_or(Identity::WORLD, |entry| entry.identity);
        return Peer {
            identity,
            reported: Identity::MASQUERADED,
            pod: false,
            own_node: false,
        };
    }
    match prefix(address) {
        Some(entry) => Peer {
            identity: entry.identity,
            reported: entry.identity,
            pod: entry.flags & PrefixEntry::POD_NETWORK != 0,
            own_node: false,
        },
        None => Peer {
            identity: Identity::WORLD,
            reported: Identity::WORLD,
            pod: false,
            own_node: false,
        },
    }
}

/// The entry of an address.
#[inline(always)]
pub(crate) fn address_entry(address: &Words) -> Option<&'static AddressEntry> {
    // On the stack: kernels before 6.4 take no key from a map's value that they may also write.
    let key = *address;
    // SAFETY: `Words` has the layout of an address.
    let key: &Addr = unsafe { &*(&raw const key).cast() };
    // SAFETY: the entry is used within this run and freed through RCU.
    unsafe { ADDRESSES.get(key) }
}

/// The entry of the longest prefix.
#[inline(always)]
fn prefix(address: &Words) -> Option<&'static PrefixEntry> {
    /// `struct bpf_lpm_trie_key_u8`, aligned for two 8-byte stores.
    #[repr(C, align(8))]
    struct Key {
        unused: u32,
        length: u32,
        address: Words,
    }
    let key = Key {
        unused: 0,
        length: 128,
        address: *address,
    };
    // SAFETY: `length` and `address` lie side by side, as the map's packed key has them.
    PREFIXES.get(unsafe { &*(&raw const key.length).cast::<lpm_trie::Key<Addr>>() })
}

/// The answer of a slot.
#[derive(Clone, Copy)]
pub(crate) struct Answer {
    /// [`allow`] bits.
    pub(crate) bits: u8,
    /// Why.
    pub(crate) reason: Reason,
    /// The policy and rule behind it.
    pub(crate) cookie: Cookie,
}

impl Answer {
    /// Allowed for a reason that no policy gave.
    pub(crate) const fn allowed(reason: Reason) -> Self {
        Self {
            bits: allow::BOTH,
            reason,
            cookie: Cookie(0),
        }
    }
}

/// Asks a slot about a peer, protocol and destination port. What does not exist denies.
#[inline(always)]
pub(crate) fn ask(slot: u32, identity: Identity, number: u8, port: u16) -> Answer {
    let Some(default) = SLOTS.get(slot) else {
        return Answer {
            bits: 0,
            reason: Reason::NoRule,
            cookie: Cookie(0),
        };
    };
    if default.flags & SlotRecord::OPEN != 0 {
        return Answer {
            bits: default.allow,
            reason: Reason::NotIsolated,
            cookie: default.cookie,
        };
    }
    let key = VerdictKey { slot, identity };
    // SAFETY: the entry is used within this run and freed through RCU.
    let Some(entry) = (unsafe { VERDICTS.get(key) }) else {
        return by_default(default.allow, default.cookie);
    };
    if protocol::has_ports(number) {
        let mut index = 0;
        while index < INLINE_RANGES {
            let range = &entry.ranges[index];
            if index < entry.count as usize
                && range.protocol == number
                && range.first <= port
                && port <= range.last
            {
                return Answer {
                    bits: range.allow,
                    reason: Reason::Rule,
                    cookie: range.cookie,
                };
            }
            index += 1;
        }
        if entry.port_set != 0
            && let Some(bits) = page(entry.port_set, number, port)
        {
            return Answer {
                bits,
                reason: by_default(bits, entry.cookie).reason,
                cookie: entry.cookie,
            };
        }
    }
    by_default(entry.allow, entry.cookie)
}

/// An answer that no rule gave if it denies.
#[inline(always)]
fn by_default(bits: u8, cookie: Cookie) -> Answer {
    let reason = if bits & allow::BOTH == allow::BOTH {
        Reason::Rule
    } else {
        Reason::NoRule
    };
    Answer { bits, reason, cookie }
}

/// The answer of a port set, if it has a page for the port.
#[inline(always)]
fn page(set: u32, protocol: u8, port: u16) -> Option<u8> {
    let key = PortsKey {
        set,
        protocol,
        page: (port >> 9) as u8,
        reserved: 0,
    };
    // SAFETY: the page is used within this run and freed through RCU.
    let page = unsafe { PORTS.get(key) }?;
    let (word, bit) = ((port as usize & 511) >> 6, port & 63);
    let enforced = (page.enforced[word] >> bit & 1) as u8;
    let shadow = (page.shadow[word] >> bit & 1) as u8;
    Some((enforced * allow::ENFORCED) | (shadow * allow::SHADOW))
}
