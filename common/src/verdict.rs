//! Verdicts: what the compiler writes, what the programs decide, and why.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::identity::Identity;

/// The two answers of a policy lookup. A clear bit denies.
pub mod allow {
    /// The policies in force allow it.
    pub const ENFORCED: u8 = 1;
    /// The policies in force together with the audited ones allow it.
    pub const SHADOW: u8 = 2;
    /// Both.
    pub const BOTH: u8 = ENFORCED | SHADOW;
}

/// Names the policy and rule behind a verdict; user space keeps the table. 0 names nothing.
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
pub struct Cookie(pub u32);

/// Value of [`crate::maps::SLOTS`]: the verdict for every identity without a [`VerdictEntry`]. Zero denies.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SlotRecord {
    /// [`allow`] bits.
    pub allow: u8,
    /// [`SlotRecord::OPEN`], [`SlotRecord::CLUSTER`].
    pub flags: u8,
    /// Zero.
    pub reserved: u16,
    /// What the default stems from: the isolating policies.
    pub cookie: Cookie,
}

impl SlotRecord {
    /// Nothing selects the pod in this direction: the default is the whole answer, no entry need be looked for.
    pub const OPEN: u8 = 1;
    /// A ClusterNetworkPolicy is among the policies: what the pod sends to itself through a Service is judged like what
    /// any other pod sends.
    pub const CLUSTER: u8 = 2;
}

/// Key of [`crate::maps::VERDICTS`].
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
pub struct VerdictKey {
    /// The slot whose policy is asked.
    pub slot: u32,
    /// The peer.
    pub identity: Identity,
}

/// Ports that a verdict entry holds itself, without a port set.
pub const INLINE_RANGES: usize = 4;

/// Ports of one protocol and the answer for them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PortRange {
    /// IP protocol number.
    pub protocol: u8,
    /// [`allow`] bits for these ports.
    pub allow: u8,
    /// First destination port, inclusive.
    pub first: u16,
    /// Last destination port, inclusive.
    pub last: u16,
    /// Zero.
    pub reserved: u16,
    /// The policy and rule behind this answer.
    pub cookie: Cookie,
}

/// Value of [`crate::maps::VERDICTS`]: the answer for one peer. Zero denies.
///
/// The ports decide first: the first of the `count` inline ranges that contains the packet's protocol and destination
/// port, then, where `port_set` is not 0, its page for that protocol and port. If neither speaks, `allow` and `cookie`
/// are the answer, for protocols without ports too.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct VerdictEntry {
    /// [`allow`] bits where no port decides.
    pub allow: u8,
    /// Used `ranges`, 0 to [`INLINE_RANGES`].
    pub count: u8,
    /// Zero.
    pub reserved: u16,
    /// What `allow` stems from; also the answer's cookie for a hit in a port set.
    pub cookie: Cookie,
    /// Id of the port set, 0 for none.
    pub port_set: u32,
    /// Zero.
    pub reserved2: u32,
    /// Disjoint ranges.
    pub ranges: [PortRange; INLINE_RANGES],
}

/// Ports in one page of a port set.
pub const PORTS_PER_PAGE: u32 = 512;

/// Key of [`crate::maps::PORTS`].
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
pub struct PortsKey {
    /// Id of the port set, not 0.
    pub set: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port >> 9, 0 to 127.
    pub page: u8,
    /// Zero.
    pub reserved: u16,
}

/// Value of [`crate::maps::PORTS`]: the answers for [`PORTS_PER_PAGE`] ports; bit `port & 63` of word
/// `(port & 511) >> 6`. A page that is absent leaves the answer to the entry.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PortsPage {
    /// Ports for which [`allow::ENFORCED`] is set.
    pub enforced: [u64; 8],
    /// Ports for which [`allow::SHADOW`] is set.
    pub shadow: [u64; 8],
}

/// What happens to a packet. The zero value drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[must_use = "a verdict that nobody acts on lets the packet pass"]
pub enum Action {
    /// The packet is dropped silently.
    #[default]
    Drop = 0,
    /// The packet goes on.
    Pass = 1,
    /// The packet goes on, and an audited policy would have dropped it.
    Audit = 2,
}

impl Action {
    /// The action for the [`allow`] bits of a lookup.
    pub const fn from_allow(bits: u8) -> Self {
        if bits & allow::ENFORCED == 0 {
            Self::Drop
        } else if bits & allow::SHADOW == 0 {
            Self::Audit
        } else {
            Self::Pass
        }
    }

    /// The action with this number, if there is one.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Drop),
            1 => Some(Self::Pass),
            2 => Some(Self::Audit),
            _ => None,
        }
    }

    /// What people read: `denied`, `allowed`, `audited`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "denied",
            Self::Pass => "allowed",
            Self::Audit => "audited",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// Why a packet was passed or dropped. Append only: kernel, metrics, command line and docs share the numbers.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Reason {
            /// All reasons, by number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The reason with this number, if there is one.
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The name used in metrics and in `-o json`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// Never given by a program; the zero value.
    #[default]
    Unknown = 0, "unknown";
    /// The pod is isolated and no rule matched.
    NoRule = 1, "no_rule";
    /// A rule decided; the cookie names it.
    Rule = 2, "rule";
    /// No policy selects the pod in this direction.
    NotIsolated = 3, "not_isolated";
    /// The packet belongs to a connection that was allowed.
    Established = 4, "established";
    /// Generated by the pod's own node.
    OwnNode = 5, "own_node";
    /// From the pod to itself.
    SelfTraffic = 6, "self";
    /// The endpoint's policy is not in force yet.
    Pending = 7, "pending";
    /// The source address or MAC address is not the pod's.
    Spoofed = 8, "spoofed";
    /// Neither IP nor ARP, from or to an isolated pod.
    NotIp = 9, "not_ip";
    /// A header that is too short, too long or contradicts itself.
    Malformed = 10, "malformed";
    /// A fragment whose first fragment is not known.
    Fragment = 11, "fragment";
    /// A VLAN tag.
    Vlan = 12, "vlan";
    /// Delivered to a pod that does not own the destination address.
    WrongDestination = 13, "wrong_destination";
    /// An ICMP error about a connection that was allowed.
    Related = 14, "related";
    /// ARP or neighbour discovery.
    Neighbour = 15, "neighbour";
    /// Egress is judged after address translation.
    Deferred = 16, "deferred";
    /// The flow could not be stored.
    FlowTable = 17, "flow_table";
    /// A later packet of a connection that policy no longer allows.
    Revoked = 18, "revoked";
    /// TCP in the middle of a connection that nobody knows, to or from a pod that is isolated the other way: it may be an
    /// answer on a connection that policy forbids.
    MidStream = 19, "mid_stream";
    /// Egress beyond the pods, while nothing can judge it after address translation.
    NoBridge = 20, "no_bridge";
    /// To the nodes' tunnel: whatever is inside would be taken for another pod's.
    Tunnel = 21, "tunnel";
}

/// Size of the space of reasons in [`crate::maps::COUNTERS`].
pub const REASONS: u32 = 64;

const _: () = assert!(size_of::<SlotRecord>() == 8);
const _: () = assert!(size_of::<VerdictKey>() == 8);
const _: () = assert!(size_of::<PortRange>() == 12);
const _: () = assert!(size_of::<VerdictEntry>() == 64);
const _: () = assert!(size_of::<PortsKey>() == 8);
const _: () = assert!(size_of::<PortsPage>() == 128);
const _: () = assert!(Reason::ALL.len() <= REASONS as usize);
