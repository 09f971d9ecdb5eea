//! What each map must look like, from the types in `common`.

use std::mem::size_of;

use aya::maps::{MapData, MapType};
use vethwall_common::{
    address::{Addr, Prefix},
    config::Config,
    endpoint::EndpointRecord,
    event::{SuppressionEntry, SuppressionKey},
    flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey},
    identity::{AddressEntry, PrefixEntry},
    maps,
    verdict::{PortsKey, PortsPage, SlotRecord, VerdictEntry, VerdictKey},
};

use crate::{Error, Pins};

/// Name, type and sizes of one map.
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
}

const fn spec<K, V>(name: &'static str, kind: MapType) -> Spec {
    Spec {
        name,
        kind,
        key: size_of::<K>(),
        value: size_of::<V>(),
    }
}

/// Every map that is pinned.
pub(crate) const MAPS: &[Spec] = &[
    spec::<u32, EndpointRecord>(maps::ENDPOINTS, MapType::Array),
    spec::<u32, EndpointRecord>(maps::ENDPOINT_OVERFLOW, MapType::Hash),
    spec::<u32, u32>(maps::ENDPOINT_INDEX, MapType::Array),
    spec::<u32, SlotRecord>(maps::SLOTS, MapType::Array),
    spec::<VerdictKey, VerdictEntry>(maps::VERDICTS, MapType::Hash),
    spec::<PortsKey, PortsPage>(maps::PORTS, MapType::Hash),
    spec::<Addr, AddressEntry>(maps::ADDRESSES, MapType::Hash),
    spec::<Prefix, PrefixEntry>(maps::PREFIXES, MapType::LpmTrie),
    spec::<FlowKey, FlowEntry>(maps::FLOWS, MapType::LruHash),
    spec::<FlowKey, FlowEntry>(maps::FLOWS_NEW, MapType::LruHash),
    spec::<FragmentKey, FragmentEntry>(maps::FRAGMENTS, MapType::LruHash),
    spec::<(), ()>(maps::EVENTS, MapType::RingBuf),
    spec::<SuppressionKey, SuppressionEntry>(maps::SUPPRESSION, MapType::LruHash),
    spec::<u32, u64>(maps::COUNTERS, MapType::PerCpuArray),
    spec::<u32, Config>(maps::CONFIG, MapType::Array),
];

/// Refuses pinned maps that are not what their names say.
pub(crate) fn check_pins(pins: &Pins) -> Result<(), Error> {
    for spec in MAPS {
        let path = pins.map(spec.name);
        let data = match pins.open(&path) {
            Ok(fd) => MapData::from_fd(fd).map_err(|e| Error::loader("open", path.display(), e))?,
            Err(Error::NotLoaded { .. }) => continue,
            Err(error) => return Err(error),
        };
        let info = data
            .info()
            .map_err(|e| Error::loader("inspect", path.display(), e))?;
        let kind = info
            .map_type()
            .map_err(|e| Error::loader("inspect", path.display(), e))?;
        let found = (kind, info.key_size() as usize, info.value_size() as usize);
        let expected = (spec.kind, spec.key, spec.value);
        if found != expected {
            return Err(Error::Incompatible {
                what: format!("(type, key size, value size) is {found:?} and should be {expected:?}"),
                path,
                directory: pins.root().to_owned(),
            });
        }
    }
    Ok(())
}
