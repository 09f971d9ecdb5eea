//! The seam between those who decide what the kernel should hold and the kernel.
//!
//! ```text
//! policy::plan ── Entry, Key ──► dyn Maps ──► Kernel (BPF maps)
//!                                   └───────► fake::Fake (memory, fails on command)
//! ```
//!
//! Invariants: `put` replaces, `delete` of an absent key succeeds, `entries` returns what was put and not deleted. A
//! failed call has changed nothing that a packet could notice as more open than before.

use vethwall_common::{
    config::Config,
    endpoint::ENDPOINT_INDEX_SIZE,
    entry::{Entry, Key},
    flow::{FlowEntry, FlowKey},
};

use crate::Error;

/// The programmable state of the node.
pub trait Maps {
    /// Writes an entry, replacing the one under the same key.
    fn put(&mut self, entry: &Entry) -> Result<(), Error>;

    /// Removes an entry; one that is absent is no error.
    fn delete(&mut self, key: &Key) -> Result<(), Error>;

    /// Everything that is there, in no particular order. Zero records of arrays are absent.
    fn entries(&self) -> Result<Vec<Entry>, Error>;

    /// What the programs were told of the node.
    fn config(&self) -> Result<Config, Error>;

    /// Tells the programs; `abi` and [`Config::OVERFLOW`] are filled in.
    fn set_config(&mut self, config: &Config) -> Result<(), Error>;

    /// Packet counts by [`vethwall_common::maps::counter_index`], summed over CPUs.
    fn counters(&self) -> Result<Vec<u64>, Error>;

    /// Tracked connections, of both tables.
    fn flows(&self) -> Result<Vec<(FlowKey, FlowEntry)>, Error>;

    /// The time as the programs count it, in ticks.
    fn now(&self) -> Result<u32, Error>;

    /// A tracked connection that lives.
    fn flow(&self, key: &FlowKey) -> Result<Option<FlowEntry>, Error>;

    /// Makes connections known that are not: those with [`vethwall_common::flow::state::REPLIED`] among the established
    /// ones, others among the new ones. One that lives in either table stays as it is, unless it is
    /// [`vethwall_common::flow::state::UNSURE`]. Returns how many were made known.
    fn seed(&mut self, flows: &[(FlowKey, FlowEntry)]) -> Result<usize, Error>;

    /// Sets [`vethwall_common::flow::state::REVOKED`] in a connection that lives, seen now, with this generation; whether
    /// there was one.
    fn revoke(&mut self, key: &FlowKey, generation: u32) -> Result<bool, Error>;

    /// Forgets the tracked connections and fragments of interfaces that are `gone`, so that the next one with such a number
    /// inherits nothing; returns how many connections. One walk through the tables, whatever number of interfaces.
    fn sweep(&mut self, gone: &dyn Fn(u32) -> bool) -> Result<usize, Error>;
}

/// What no map may be asked to hold, whoever implements it.
pub(crate) fn check(entry: &Entry) -> Result<(), Error> {
    match entry {
        Entry::Endpoint(ifindex, record) => {
            let name = || format!("endpoint {ifindex}");
            if *ifindex == 0 || record.ifindex != *ifindex {
                return Err(Error::invalid(
                    name(),
                    format!("the record is about interface {}", record.ifindex),
                ));
            }
            if u32::from(record.index) >= ENDPOINT_INDEX_SIZE {
                return Err(Error::invalid(
                    name(),
                    format!("index {} does not fit a tag", record.index),
                ));
            }
            Ok(())
        }
        Entry::Slot(0, _) => Err(Error::invalid("slot 0", "denies everything and is never written")),
        Entry::Verdict(key, _) if key.slot == 0 => {
            Err(Error::invalid("slot 0", "denies everything and is never written"))
        }
        Entry::Ports(key, _) if key.set == 0 => Err(Error::invalid("port set 0", "means none")),
        Entry::Prefix(prefix, _) if prefix.length > 128 => {
            Err(Error::invalid(format!("{prefix:?}"), "longer than an address"))
        }
        Entry::Slot(..) | Entry::Verdict(..) | Entry::Ports(..) | Entry::Address(..) | Entry::Prefix(..) => {
            Ok(())
        }
    }
}
