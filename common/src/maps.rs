//! Names, sizes and places of everything that is pinned: the only place where they are spelled.
//!
//! ```text
//! <bpffs>/vethwall/clsact/<ifindex>   CLSACT: the clsact there is ours
//! <bpffs>/vethwall/v<N>/        PIN_DIRECTORY, and the ABI's version N
//!     maps/ENDPOINTS ...        one pin a map
//!     programs/from_pod ...     one pin a program; the plugin attaches these
//!     links/<ifindex>-ingress   tcx links; they outlive every process
//! ```
//! The names of directories, programs and links are the same in every version: an upgrade, and a downgrade, must find what
//! the other version has left.

/// Where bpffs is mounted on every distribution that mounts it.
pub const BPFFS: &str = "/sys/fs/bpf";
/// Below [`BPFFS`]; holds a directory for each version of the layouts.
pub const PIN_DIRECTORY: &str = "vethwall";
/// Below [`PIN_DIRECTORY`]: an empty directory for each interface to which we added clsact.
pub const CLSACT: &str = "clsact";
/// Below the version's directory.
pub const MAPS: &str = "maps";
/// Below the version's directory.
pub const PROGRAMS: &str = "programs";
/// Below the version's directory.
pub const LINKS: &str = "links";

/// tc program on the ingress of a pod's host-side veth: packets from the pod.
pub const FROM_POD: &str = "from_pod";
/// tc program on the egress of a pod's host-side veth: packets to the pod.
pub const TO_POD: &str = "to_pod";
/// tc program on the ingress of the bridge (cni0): packets from pods after address translation.
pub const FROM_BRIDGE: &str = "from_bridge";
/// tc program that does nothing; never attached. Benchmarks subtract it.
pub const BASELINE: &str = "baseline";
/// Name of the program that does nothing but look one connection up, by the key that the frame begins with: what a hash
/// costs on a machine.
pub const ONE_LOOKUP: &str = "one_lookup";

/// Array of [`crate::endpoint::EndpointRecord`] by ifindex modulo [`crate::endpoint::ENDPOINT_ARRAY_SIZE`].
pub const ENDPOINTS: &str = "ENDPOINTS";
/// Hash of ifindex to [`crate::endpoint::EndpointRecord`], for interfaces whose place in the array is taken.
pub const ENDPOINT_OVERFLOW: &str = "EP_OVERFLOW";
/// Array of ifindex (u32) by endpoint index.
pub const ENDPOINT_INDEX: &str = "EP_INDEX";
/// Array of [`crate::verdict::SlotRecord`] by slot.
pub const SLOTS: &str = "SLOTS";
/// Hash of [`crate::verdict::VerdictKey`] to [`crate::verdict::VerdictEntry`].
pub const VERDICTS: &str = "VERDICTS";
/// Hash of [`crate::verdict::PortsKey`] to [`crate::verdict::PortsPage`].
pub const PORTS: &str = "PORTS";
/// Hash of [`crate::address::Addr`] to [`crate::identity::AddressEntry`].
pub const ADDRESSES: &str = "ADDRESSES";
/// Longest-prefix map of [`crate::address::Prefix`] to [`crate::identity::PrefixEntry`].
pub const PREFIXES: &str = "PREFIXES";
/// LRU hash of [`crate::flow::FlowKey`] to [`crate::flow::FlowEntry`]: flows with packets both ways.
pub const FLOWS: &str = "FLOWS";
/// LRU hash like [`FLOWS`], smaller: flows without a reply, so that a flood of them evicts no established flow.
pub const FLOWS_NEW: &str = "FLOWS_NEW";
/// LRU hash of [`crate::flow::FragmentKey`] to [`crate::flow::FragmentEntry`].
pub const FRAGMENTS: &str = "FRAGMENTS";
/// Ring buffer of [`crate::event::Event`].
pub const EVENTS: &str = "EVENTS";
/// LRU hash of [`crate::event::SuppressionKey`] to [`crate::event::SuppressionEntry`].
pub const SUPPRESSION: &str = "SUPPRESSION";
/// Per-CPU array of packet counts (u64); see [`counter_index`].
pub const COUNTERS: &str = "COUNTERS";
/// Array of one [`crate::config::Config`].
pub const CONFIG: &str = "CONFIG";

/// Slots per node; slot 0 denies everything and is never written.
pub const MAX_SLOTS: u32 = 8192;
/// Entries of [`VERDICTS`].
pub const MAX_VERDICTS: u32 = 131_072;
/// Entries of [`PORTS`].
pub const MAX_PORT_PAGES: u32 = 16_384;
/// Entries of [`ADDRESSES`].
pub const MAX_ADDRESSES: u32 = 262_144;
/// Entries of [`PREFIXES`].
pub const MAX_PREFIXES: u32 = 65_536;
/// Entries of [`FLOWS`].
pub const MAX_FLOWS: u32 = 131_072;
/// Entries of [`FLOWS_NEW`].
pub const MAX_FLOWS_NEW: u32 = 32_768;
/// Entries of [`FRAGMENTS`].
pub const MAX_FRAGMENTS: u32 = 8192;
/// Entries of [`SUPPRESSION`].
pub const MAX_SUPPRESSION: u32 = 8192;
/// Entries of [`ENDPOINT_OVERFLOW`].
pub const MAX_ENDPOINT_OVERFLOW: u32 = 1024;
/// Bytes of [`EVENTS`]; a power of two and a multiple of the page size.
pub const EVENT_BYTES: u32 = 1 << 20;

/// Entries of [`COUNTERS`]: an action, a direction and a reason each, then the special counters.
pub const COUNTER_SIZE: u32 = 3 * 2 * crate::verdict::REASONS + 2;
/// Index in [`COUNTERS`] of the events that found the ring buffer full.
pub const EVENTS_LOST: u32 = COUNTER_SIZE - 1;
/// Index in [`COUNTERS`] of the events that were more than [`EVENTS_PER_TICK`] allows.
pub const EVENTS_LIMITED: u32 = COUNTER_SIZE - 2;
/// Different events that one endpoint may cause on one CPU in a tick. A flood or a port scan beyond that is counted only.
pub const EVENTS_PER_TICK: u32 = 256;

/// Index in [`COUNTERS`] of the packets that ended so.
pub const fn counter_index(
    action: crate::verdict::Action,
    direction: crate::Direction,
    reason: crate::verdict::Reason,
) -> u32 {
    (action as u32 * 2 + direction as u32) * crate::verdict::REASONS + reason as u32
}
