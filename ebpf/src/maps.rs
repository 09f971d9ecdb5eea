//! The maps, with the names and sizes of [`vethwall_common::maps`].

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use vethwall_common::{
    address::Addr,
    config::Config,
    endpoint::{ENDPOINT_ARRAY_SIZE, ENDPOINT_INDEX_SIZE, EndpointRecord},
    event::{SuppressionEntry, SuppressionKey},
    flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey},
    identity::{AddressEntry, PrefixEntry},
    maps as sizes,
    verdict::{PortsKey, PortsPage, SlotRecord, VerdictEntry, VerdictKey},
};

use crate::case::Case;

#[map]
pub(crate) static ENDPOINTS: Array<EndpointRecord> = Array::with_max_entries(ENDPOINT_ARRAY_SIZE, 0);

#[map(name = "EP_OVERFLOW")]
pub(crate) static ENDPOINT_OVERFLOW: HashMap<u32, EndpointRecord> =
    HashMap::with_max_entries(sizes::MAX_ENDPOINT_OVERFLOW, 0);

#[map(name = "EP_INDEX")]
pub(crate) static ENDPOINT_INDEX: Array<u32> = Array::with_max_entries(ENDPOINT_INDEX_SIZE, 0);

#[map]
pub(crate) static SLOTS: Array<SlotRecord> = Array::with_max_entries(sizes::MAX_SLOTS, 0);

#[map]
pub(crate) static VERDICTS: HashMap<VerdictKey, VerdictEntry> =
    HashMap::with_max_entries(sizes::MAX_VERDICTS, NO_PREALLOC);

#[map]
pub(crate) static PORTS: HashMap<PortsKey, PortsPage> =
    HashMap::with_max_entries(sizes::MAX_PORT_PAGES, NO_PREALLOC);

#[map]
pub(crate) static ADDRESSES: HashMap<Addr, AddressEntry> =
    HashMap::with_max_entries(sizes::MAX_ADDRESSES, NO_PREALLOC);

#[map]
pub(crate) static PREFIXES: LpmTrie<Addr, PrefixEntry> = LpmTrie::with_max_entries(sizes::MAX_PREFIXES, 0);

#[map]
pub(crate) static FLOWS: LruHashMap<FlowKey, FlowEntry> = LruHashMap::with_max_entries(sizes::MAX_FLOWS, 0);

#[map]
pub(crate) static FLOWS_NEW: LruHashMap<FlowKey, FlowEntry> =
    LruHashMap::with_max_entries(sizes::MAX_FLOWS_NEW, 0);

#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry> =
    LruHashMap::with_max_entries(sizes::MAX_FRAGMENTS, 0);

#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(sizes::EVENT_BYTES, 0);

#[map]
pub(crate) static SUPPRESSION: LruHashMap<SuppressionKey, SuppressionEntry> =
    LruHashMap::with_max_entries(sizes::MAX_SUPPRESSION, 0);

#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(sizes::COUNTER_SIZE, 0);

/// How many events were written in a tick.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Budget {
    /// The tick.
    pub(crate) tick: u32,
    /// How many.
    pub(crate) told: u32,
}

/// What each endpoint may still tell in this tick; endpoints whose index is equal in its lower bits share.
#[map]
pub(crate) static BUDGETS: PerCpuArray<Budget> = PerCpuArray::with_max_entries(BUDGET_SIZE, 0);

/// Size of [`BUDGETS`]; a power of two.
pub(crate) const BUDGET_SIZE: u32 = 256;

/// The case at hand; of no meaning between two packets.
#[map]
pub(crate) static SCRATCH: PerCpuArray<Case> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub(crate) static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

/// `BPF_F_NO_PREALLOC`: these maps are sized for the largest node and are nearly empty on most; entries cost memory
/// only while they exist. They also free through RCU, so that an entry that a running program reads is never re-used
/// for another key.
const NO_PREALLOC: u32 = 1;
