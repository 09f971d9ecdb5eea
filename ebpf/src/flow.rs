//! Tracked connections and fragments.
//!
//! ```text
//! first packet allowed ─► FLOWS_NEW ── first reply ─► FLOWS        lookup: FLOWS, then FLOWS_NEW
//! ```
//!
//! Invariants:
//! - Denied packets never insert.
//! - What decides about a packet (generation, direction, DIRECT, DEFERRED) changes only by replacing the whole entry;
//!   in place only `last_seen`, the bits of the TCP state and REVOKED are written, so that a write that races with the
//!   eviction of the entry can not open anything.
//! - An entry that policy revokes stays: without it the other side's next packet would begin a connection of its own,
//!   with the forbidden one as its answers.
//! - An expired entry is as good as none.

use core::ptr;

use vethwall_common::{
    Direction,
    config::Config,
    flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey, life, state},
};

use crate::{
    address::Words,
    maps::{FLOWS, FLOWS_NEW, FRAGMENTS},
    parse::{Bytes as _, Packet, marks},
    skb::Frame,
};

/// Life of the memory of a first fragment, in ticks: the kernel keeps incomplete datagrams for 30 s (`ipfrag_time`).
const FRAGMENT_LIFE: u32 = 30;

/// [`FlowKey`] with its addresses in words.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Key {
    low: Words,
    high: Words,
    ifindex: u32,
    low_port: u16,
    high_port: u16,
    /// Protocol and the zeros behind it, as one word: single bytes would become a call that fills them.
    protocol: u32,
    unused: u32,
}

const _: () = assert!(size_of::<Key>() == size_of::<FlowKey>() + 4);
const _: () = assert!(core::mem::offset_of!(Key, protocol) == core::mem::offset_of!(FlowKey, protocol));

impl Key {
    /// The connection of a packet as the endpoint of this interface sees it, whichever way the packet goes.
    #[inline(always)]
    pub(crate) fn new(ifindex: u32, packet: &Packet) -> Self {
        let forward = packet
            .source
            .before(packet.source_port, &packet.destination, packet.destination_port);
        let (low, high, low_port, high_port) = if forward {
            (
                packet.source,
                packet.destination,
                packet.source_port,
                packet.destination_port,
            )
        } else {
            (
                packet.destination,
                packet.source,
                packet.destination_port,
                packet.source_port,
            )
        };
        Self {
            low,
            high,
            ifindex,
            low_port,
            high_port,
            protocol: word(packet.protocol, 0),
            unused: 0,
        }
    }

    #[inline(always)]
    fn as_key(&self) -> &FlowKey {
        // SAFETY: the fields are equal, in order and size (the reserved bytes included); `Words` has the layout of an address.
        unsafe { &*ptr::from_ref(self).cast::<FlowKey>() }
    }
}

/// The last word of a key, in the order of memory.
#[inline(always)]
const fn word(protocol: u8, direction: u8) -> u32 {
    u32::from_ne_bytes([protocol, direction, 0, 0])
}

/// An entry that lives.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    entry: *mut FlowEntry,
    /// It stands in the table of established flows.
    pub(crate) established: bool,
}

/// Whether there is a connection whose key the frame begins with.
#[inline(always)]
pub(crate) fn is_known(frame: Frame) -> bool {
    const WORDS: usize = size_of::<FlowKey>() / 4;
    let Some(key) = frame.fixed::<0, WORDS>() else {
        return false;
    };
    // SAFETY: a key is that many words, and any bytes are one.
    let key = unsafe { &*ptr::from_ref(&key).cast::<FlowKey>() };
    FLOWS.get_ptr(key).is_some()
}

/// Looks for a connection.
#[inline(always)]
pub(crate) fn find(key: &Key, now: u32, config: &Config) -> Option<Found> {
    let [number, ..] = key.protocol.to_ne_bytes();
    if let Some(entry) = FLOWS.get_ptr_mut(key.as_key())
        && is_alive(entry, number, now, config)
    {
        return Some(Found {
            entry,
            established: true,
        });
    }
    let entry = FLOWS_NEW.get_ptr_mut(key.as_key())?;
    is_alive(entry, number, now, config).then_some(Found {
        entry,
        established: false,
    })
}

#[inline(always)]
fn is_alive(entry: *mut FlowEntry, number: u8, now: u32, config: &Config) -> bool {
    // SAFETY: LRU elements are never unmapped, only re-used.
    let (state, last_seen) = unsafe { ((*entry).state, (*entry).last_seen) };
    now.wrapping_sub(last_seen) < life(state, number, config)
}

impl Found {
    /// Direction of the first packet, as in [`Direction`].
    #[inline(always)]
    pub(crate) fn direction(self) -> u8 {
        // SAFETY: as in `is_alive`.
        unsafe { (*self.entry).direction }
    }

    /// [`state`] bits.
    #[inline(always)]
    pub(crate) fn state(self) -> u8 {
        // SAFETY: as in `is_alive`.
        unsafe { (*self.entry).state }
    }

    /// Generation that admitted it.
    #[inline(always)]
    pub(crate) fn generation(self) -> u32 {
        // SAFETY: as in `is_alive`.
        unsafe { (*self.entry).generation }
    }

    /// The entry, to be revoked later.
    #[inline(always)]
    pub(crate) fn revocable(self) -> Revocable {
        Revocable(self.entry)
    }

    /// Notes a packet; writes only what changed, because a write takes the cache line away from other CPUs.
    #[inline(always)]
    pub(crate) fn touch(self, packet: &Packet, reply: bool, now: u32) {
        let bits = closing(packet, reply);
        // SAFETY: as in `is_alive`; the module's invariant says why a race does no harm.
        unsafe {
            if (*self.entry).last_seen != now {
                (*self.entry).last_seen = now;
            }
            if (*self.entry).state | bits != (*self.entry).state {
                (*self.entry).state |= bits;
            }
        }
    }

    /// Notes a reply; the first one moves the entry to the established flows, with what it says itself: a refusal is a
    /// first reply and the last one.
    #[inline(always)]
    pub(crate) fn reply(self, key: &Key, packet: &Packet, now: u32) {
        if self.state() & state::REPLIED == 0 {
            // SAFETY: as in `is_alive`.
            let mut entry = unsafe { *self.entry };
            entry.state |= state::REPLIED | closing(packet, true);
            entry.last_seen = now;
            if FLOWS.insert(key.as_key(), entry, 0).is_ok() {
                if !self.established {
                    forget_new(key);
                }
                return;
            }
            // If there is no room it stays where it is, with the shorter life.
        }
        self.touch(packet, true, now);
    }
}

/// An entry that policy may turn out not to allow any more, or none.
#[derive(Clone, Copy)]
pub(crate) struct Revocable(*mut FlowEntry);

impl Revocable {
    /// No entry.
    pub(crate) const NONE: Self = Self(ptr::null_mut());

    /// Policy does not allow it.
    #[inline(always)]
    pub(crate) fn revoke(self, now: u32) {
        if self.0.is_null() {
            return;
        }
        // SAFETY: as in `is_alive`; the module's invariant says why a race does no harm.
        unsafe {
            if (*self.0).last_seen != now {
                (*self.0).last_seen = now;
            }
            if (*self.0).state & state::REVOKED == 0 {
                (*self.0).state |= state::REVOKED;
            }
        }
    }
}

/// The bits of a packet that closes its connection.
#[inline(always)]
fn closing(packet: &Packet, reply: bool) -> u8 {
    let mut bits = 0;
    if packet.is(marks::FIN) {
        bits |= if reply {
            state::FIN_REPLY
        } else {
            state::FIN_ORIGINAL
        };
    }
    if packet.is(marks::RST) {
        bits |= state::RESET;
    }
    bits
}

/// Stores a connection whose packet was allowed, in the table where it stands or among the new ones.
#[inline(always)]
pub(crate) fn store(key: &Key, entry: &FlowEntry, established: bool) -> bool {
    if established {
        FLOWS.insert(key.as_key(), entry, 0).is_ok()
    } else {
        FLOWS_NEW.insert(key.as_key(), entry, 0).is_ok()
    }
}

#[inline(always)]
fn forget_new(key: &Key) {
    gone(FLOWS_NEW.remove(key.as_key()));
}

/// An entry that is to go may be gone already.
#[inline(always)]
fn gone(_: Result<(), i32>) {}

/// [`FragmentKey`] with its addresses in words.
#[repr(C)]
struct Datagram {
    source: Words,
    destination: Words,
    ifindex: u32,
    id: u32,
    /// Protocol and direction, as in [`Key`].
    protocol: u32,
    unused: u32,
}

const _: () = assert!(size_of::<Datagram>() == size_of::<FragmentKey>() + 4);
const _: () =
    assert!(core::mem::offset_of!(Datagram, protocol) == core::mem::offset_of!(FragmentKey, protocol));

impl Datagram {
    #[inline(always)]
    fn new(ifindex: u32, direction: u8, packet: &Packet) -> Self {
        Self {
            source: packet.source,
            destination: packet.destination,
            ifindex,
            id: packet.datagram,
            protocol: word(packet.protocol, direction),
            unused: 0,
        }
    }

    #[inline(always)]
    fn as_key(&self) -> &FragmentKey {
        // SAFETY: the fields are equal, in order and size (checked above).
        unsafe { &*ptr::from_ref(self).cast::<FragmentKey>() }
    }
}

/// Remembers the verdict of a first fragment: later ones follow it. False if there is no room to remember.
#[inline(always)]
pub(crate) fn first_fragment(
    ifindex: u32,
    direction: u8,
    packet: &Packet,
    allowed: Option<FragmentEntry>,
) -> bool {
    let key = Datagram::new(ifindex, direction, packet);
    match allowed {
        Some(entry) => FRAGMENTS.insert(key.as_key(), entry, 0).is_ok(),
        None => {
            // A second "first" fragment that is denied takes the way back that an earlier one opened.
            gone(FRAGMENTS.remove(key.as_key()));
            true
        }
    }
}

/// Whether the first fragment of this one's datagram was allowed by the policy in force.
#[inline(always)]
pub(crate) fn follows(
    ifindex: u32,
    direction: Direction,
    packet: &Packet,
    generation: u32,
    now: u32,
) -> bool {
    let key = Datagram::new(ifindex, direction as u8, packet);
    let Some(entry) = FRAGMENTS.get_ptr(key.as_key()) else {
        return false;
    };
    // SAFETY: LRU elements are never unmapped, only re-used.
    let entry = unsafe { *entry };
    entry.generation == generation && now.wrapping_sub(entry.last_seen) < FRAGMENT_LIFE
}
