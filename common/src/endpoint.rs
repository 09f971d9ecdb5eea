//! The record of one pod's host-side interface.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Direction, address::Addr};

/// Number of records in [`crate::maps::ENDPOINTS`]; a power of two. Interfaces whose index collides go to
/// [`crate::maps::ENDPOINT_OVERFLOW`].
pub const ENDPOINT_ARRAY_SIZE: u32 = 4096;

/// Number of endpoint indices that a tag can carry; index 0 is not used.
pub const ENDPOINT_INDEX_SIZE: u32 = 0x1000;

/// A slot and the generation of the endpoint's policy, in one aligned 64-bit word: `slot << 32 | generation`.
///
/// One store replaces both, so no packet meets the slot of one policy with the generation of another.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct SlotRef(pub u64);

impl SlotRef {
    /// Puts both halves together.
    pub const fn new(slot: u32, generation: u32) -> Self {
        Self((slot as u64) << 32 | generation as u64)
    }

    /// The slot; 0 denies everything.
    pub const fn slot(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Raised whenever a verdict of this endpoint and direction may have changed.
    pub const fn generation(self) -> u32 {
        self.0 as u32
    }
}

/// A pod's host-side interface. All zero is "pending": everything but ARP and neighbour discovery is dropped.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct EndpointRecord {
    /// Policy towards the pod.
    pub ingress: SlotRef,
    /// Policy from the pod.
    pub egress: SlotRef,
    /// The interface this record is about; a reader that finds another number has hit a collision.
    pub ifindex: u32,
    /// [`EndpointRecord::ENFORCING`].
    pub flags: u32,
    /// The pod's addresses, at most one of each family; [`Addr::NONE`] fills up.
    pub addresses: [Addr; 2],
    /// The pod's MAC address.
    pub mac: [u8; 6],
    /// Number of the endpoint on this node, 1 to [`ENDPOINT_INDEX_SIZE`] - 1; what `tc_index` carries.
    pub index: u16,
}

impl EndpointRecord {
    /// The slots are in force. Without it the endpoint is pending.
    pub const ENFORCING: u32 = 1;

    /// Slot and generation of one direction.
    pub const fn slot_ref(&self, direction: Direction) -> SlotRef {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// Bits of `tc_index` that the programs write at a pod's veth: `state | version | endpoint index`.
///
/// While one version replaces another, some interfaces carry the programs of one and some those of the other, and each
/// numbers endpoints in its own way. The places of state and version never change, so that each can tell the other's tags.
pub mod tag {
    /// Egress was judged; nothing is left to do.
    pub const JUDGED: u32 = 0x4000;
    /// Egress waits for the destination after address translation.
    pub const DEFERRED: u32 = 0x8000;
    /// Which version wrote it ([`version`]).
    pub const VERSION: u32 = 0x3000;
    /// The endpoint index.
    pub const INDEX: u32 = 0x0fff;

    /// How a tag names a version of [`crate::ABI_VERSION`]: versions that are four apart can not be told from each other.
    pub const fn version(abi: u32) -> u32 {
        abi << 12 & VERSION
    }

    /// What another version's tag says where it was judged: it is a pod's packet, and not whose.
    const OTHERS: u32 = 0x1000;

    /// What a tag says to the programs of a version. Another version's says that the packet is a pod's and whether it waits, but
    /// not whose: it is judged by where it came in and by its address. (One that was judged may come from another node, over
    /// a link that keeps tags: between nodes that are network namespaces.)
    pub const fn read(tag: u32, abi: u32) -> u32 {
        if tag & (JUDGED | DEFERRED) == 0 {
            tag
        } else if tag & VERSION == version(abi) {
            tag & !VERSION
        } else if tag & DEFERRED != 0 {
            DEFERRED
        } else {
            OTHERS
        }
    }
}

const _: () = assert!(size_of::<EndpointRecord>() == 64);
const _: () = assert!(ENDPOINT_ARRAY_SIZE.is_power_of_two());
const _: () = assert!(ENDPOINT_INDEX_SIZE == tag::INDEX + 1);
