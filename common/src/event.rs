//! What the programs tell user space.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{address::Addr, identity::Identity, verdict::Cookie};

/// One final verdict: of the first packet of a connection, or of a dropped packet. The record of
/// [`crate::maps::EVENTS`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Event {
    /// `bpf_ktime_get_ns`: nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// The endpoint whose policy decided.
    pub ifindex: u32,
    /// The other end.
    pub peer: Identity,
    /// The policy and rule that decided.
    pub cookie: Cookie,
    /// Generation of the endpoint's policy in this direction.
    pub generation: u32,
    /// Equal events left out since the last one.
    pub suppressed: u32,
    /// Source port, or ICMP type.
    pub source_port: u16,
    /// Destination port, or ICMP code.
    pub destination_port: u16,
    /// IP protocol number; 0 where the packet is not IP.
    pub protocol: u8,
    /// [`crate::Direction`], seen from the endpoint.
    pub direction: u8,
    /// [`crate::verdict::Action`].
    pub action: u8,
    /// [`crate::verdict::Reason`].
    pub reason: u8,
    /// Zero.
    pub reserved: u32,
}

/// Key of [`crate::maps::SUPPRESSION`]: events alike in this are one event with a count.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct SuppressionKey {
    /// The peer's address.
    pub peer: Addr,
    /// The endpoint.
    pub ifindex: u32,
    /// Destination port.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`crate::Direction`] in the low bit, [`crate::verdict::Reason`] above it.
    pub kind: u8,
}

/// Value of [`crate::maps::SUPPRESSION`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SuppressionEntry {
    /// Tick of the last event written.
    pub tick: u32,
    /// Events left out since.
    pub count: u32,
}

const _: () = assert!(size_of::<Event>() == 72);
const _: () = assert!(size_of::<SuppressionKey>() == 24);
