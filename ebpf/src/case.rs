//! The case at hand: a packet, and what is known and asked about it.

use core::ptr;

use vethwall_common::{Direction, endpoint::SlotRef, identity::Identity, verdict::Cookie};

use crate::{address::Words, parse::Packet};

/// A question to [`judge`](crate::judge::judge).
#[repr(C)]
pub(crate) struct Case {
    /// The packet.
    pub(crate) packet: Packet,
    /// Whose identity decides; not always the address in the packet.
    pub(crate) other: Words,
    /// At the destination: the address that the sender really has, kept while its egress is judged.
    pub(crate) sender: Words,
    /// Slot and generation of the endpoint in this direction.
    pub(crate) slot: SlotRef,
    /// The endpoint.
    pub(crate) ifindex: u32,
    /// Ticks.
    pub(crate) now: u32,
    /// The rule that decided; filled in when it is judged.
    pub(crate) cookie: Cookie,
    /// The other end, for the event; filled in when it is judged.
    pub(crate) peer: Identity,
    /// [`Direction`].
    pub(crate) direction: u8,
    /// How `other` is to be understood.
    pub(crate) origin: u8,
    /// What is to be done on a destination that may be translated: see [`stage`].
    pub(crate) stage: u8,
    /// No policy selects the pod in this direction.
    pub(crate) open: u8,
    /// The packet is an ICMP error about a connection that was allowed.
    pub(crate) related: u8,
    /// Zero.
    pub(crate) reserved: [u8; 3],
    /// The endpoint's slot in the other direction.
    pub(crate) opposite: u32,
    /// Zero.
    pub(crate) unused: u32,
}

impl Case {
    /// Makes everything unknown and closed: zero. Word by word, because the compiler would call a function that does it
    /// byte by byte, which took a third of the time of a packet.
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        zero(self);
    }

    /// Whether no policy selects the pod in this direction.
    #[inline(always)]
    pub(crate) fn is_open(&self) -> bool {
        self.open != 0
    }

    /// The direction.
    #[inline(always)]
    pub(crate) fn direction(&self) -> Direction {
        if self.direction == Direction::Ingress as u8 {
            Direction::Ingress
        } else {
            Direction::Egress
        }
    }
}

/// Fills with zeros, eight bytes at a time.
#[inline(always)]
pub(crate) fn zero<T>(place: &mut T) {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8) };
    let words = ptr::from_mut(place).cast::<u64>();
    let mut index = 0;
    while index < size_of::<T>() / 8 {
        // SAFETY: within the place, aligned (both checked above); zero is a value of every field of the types here.
        unsafe { words.add(index).write_volatile(0) };
        index += 1;
    }
}

/// Values of [`Case::origin`].
pub(crate) mod origin {
    /// By address, maps and prefixes.
    pub(crate) const ADDRESS: u8 = 0;
    /// This node itself: always allowed.
    pub(crate) const OWN_NODE: u8 = 1;
    /// The pod itself: always allowed.
    pub(crate) const ITSELF: u8 = 2;
}

/// Values of [`Case::stage`].
pub(crate) mod stage {
    /// At the pod's veth; a destination outside the pod network waits for the second stage.
    pub(crate) const MAY_WAIT: u8 = 0;
    /// At the pod's veth, without a second stage: a destination outside the pod network is dropped.
    pub(crate) const AT_ONCE: u8 = 1;
    /// After translation.
    pub(crate) const SECOND: u8 = 2;
}
