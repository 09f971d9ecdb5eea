//! Identities: what a verdict knows of the other end of a packet.
//!
//! An identity is a number for a *signature*, the set of selector terms and prefixes (of the policies in force on this
//! node) that an address matches. Numbers mean nothing beyond their node.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A peer's identity on this node. Zero is never valid.
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
#[repr(transparent)]
pub struct Identity(pub u32);

impl Identity {
    /// Never a valid identity; has no verdict entry, so it gets a slot's default.
    pub const INVALID: Self = Self(0);
    /// A process of this node itself: the packet was generated here (`ingress_ifindex` 0).
    pub const LOCAL_HOST: Self = Self(1);
    /// An address that no selector and no prefix of a local policy names.
    pub const WORLD: Self = Self(2);
    /// The pod itself.
    pub const SELF: Self = Self(3);
    /// Forwarded by this node behind one of its own addresses: the true client is unknown. Only events carry it: the
    /// verdict is that of the prefix map for the address, never that of a node.
    pub const MASQUERADED: Self = Self(4);
    /// An address of the pod network without a known owner; matches no allow.
    pub const UNKNOWN_POD: Self = Self(5);
    /// The first number given to a signature.
    pub const FIRST_SIGNATURE: Self = Self(256);
}

/// Value of [`crate::maps::ADDRESSES`]: who owns an address.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct AddressEntry {
    /// The owner's identity.
    pub identity: Identity,
    /// [`AddressEntry::POD`], [`AddressEntry::LOCAL_NODE`].
    pub flags: u32,
    /// ifindex of the owner's veth where the owner is a pod of this node, else 0.
    pub ifindex: u32,
}

impl AddressEntry {
    /// The address is a pod's own: no Service translation can follow, egress is judged at once.
    pub const POD: u32 = 1;
    /// The address is one of this node's: a forwarded packet that has it as its source was masqueraded.
    pub const LOCAL_NODE: u32 = 2;
}

/// Value of [`crate::maps::PREFIXES`]: what is known of an address without an [`AddressEntry`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PrefixEntry {
    /// Identity of the addresses whose longest prefix this is.
    pub identity: Identity,
    /// [`PrefixEntry::POD_NETWORK`]; a longer prefix repeats the flags of the shorter ones that contain it.
    pub flags: u32,
}

impl PrefixEntry {
    /// The prefix lies in the cluster's pod network: egress is judged at once, like [`AddressEntry::POD`].
    pub const POD_NETWORK: u32 = 1;
}

const _: () = assert!(size_of::<AddressEntry>() == 12);
const _: () = assert!(size_of::<PrefixEntry>() == 8);
