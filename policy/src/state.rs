//! The programmable state as one value: what is wanted, or what the kernel holds.

use std::collections::{BTreeMap, BTreeSet};

use vethwall_common::{
    address::{Addr, Prefix},
    endpoint::{EndpointRecord, SlotRef},
    entry::{Entry, Key},
    identity::{AddressEntry, PrefixEntry},
    verdict::{PortsKey, PortsPage, SlotRecord, VerdictEntry, VerdictKey},
};

/// Every entry of every map that policy writes.
///
/// Two fields are knowledge about the kernel rather than entries: `generation` and `rejudge`. Keep the value that
/// [`crate::plan::execute`] returns, and they stay true.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Interfaces, by ifindex.
    pub endpoints: BTreeMap<u32, EndpointRecord>,
    /// Slots' defaults.
    pub slots: BTreeMap<u32, SlotRecord>,
    /// Answers.
    pub verdicts: BTreeMap<VerdictKey, VerdictEntry>,
    /// Pages of port sets.
    pub ports: BTreeMap<PortsKey, PortsPage>,
    /// Owners of addresses.
    pub addresses: BTreeMap<Addr, AddressEntry>,
    /// Prefixes.
    pub prefixes: BTreeMap<Prefix, PrefixEntry>,
    /// The highest generation ever seen in an endpoint. A record that returns after it was deleted starts above it, so
    /// that no flow from before rides on an equal number.
    pub generation: u32,
    /// Endpoints whose connections must be judged again although their record looks right: raising the generation
    /// failed.
    pub rejudge: BTreeSet<u32>,
}

impl State {
    /// All entries, map by map, by key.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let slots = self.slots.iter().map(|(k, v)| Entry::Slot(*k, *v));
        let ports = self.ports.iter().map(|(k, v)| Entry::Ports(*k, *v));
        let verdicts = self.verdicts.iter().map(|(k, v)| Entry::Verdict(*k, *v));
        let prefixes = self.prefixes.iter().map(|(k, v)| Entry::Prefix(*k, *v));
        let addresses = self.addresses.iter().map(|(k, v)| Entry::Address(*k, *v));
        let endpoints = self.endpoints.iter().map(|(k, v)| Entry::Endpoint(*k, *v));
        slots
            .chain(ports)
            .chain(verdicts)
            .chain(prefixes)
            .chain(addresses)
            .chain(endpoints)
    }

    /// Stores an entry.
    pub fn put(&mut self, entry: Entry) {
        match entry {
            Entry::Endpoint(key, value) => {
                let highest = value.ingress.generation().max(value.egress.generation());
                self.generation = self.generation.max(highest);
                self.rejudge.remove(&key);
                self.endpoints.insert(key, value);
            }
            Entry::Slot(key, value) => _ = self.slots.insert(key, value),
            Entry::Verdict(key, value) => _ = self.verdicts.insert(key, value),
            Entry::Ports(key, value) => _ = self.ports.insert(key, value),
            Entry::Address(key, value) => _ = self.addresses.insert(key, value),
            Entry::Prefix(key, value) => _ = self.prefixes.insert(key, value),
        }
    }

    /// Removes an entry.
    pub fn delete(&mut self, key: &Key) {
        match key {
            Key::Endpoint(key) => {
                self.rejudge.remove(key);
                self.endpoints.remove(key);
            }
            Key::Slot(key) => _ = self.slots.remove(key),
            Key::Verdict(key) => _ = self.verdicts.remove(key),
            Key::Ports(key) => _ = self.ports.remove(key),
            Key::Address(key) => _ = self.addresses.remove(key),
            Key::Prefix(key) => _ = self.prefixes.remove(key),
        }
    }

    /// The same state with every generation zero, as the compiler writes it: two states that agree in this agree in
    /// all that policy says.
    #[must_use]
    pub fn without_generations(&self) -> Self {
        let mut state = Self {
            generation: 0,
            rejudge: BTreeSet::new(),
            ..self.clone()
        };
        for record in state.endpoints.values_mut() {
            record.ingress = SlotRef::new(record.ingress.slot(), 0);
            record.egress = SlotRef::new(record.egress.slot(), 0);
        }
        state
    }
}

impl FromIterator<Entry> for State {
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        let mut state = Self::default();
        state.extend(entries);
        state
    }
}

impl Extend<Entry> for State {
    fn extend<T: IntoIterator<Item = Entry>>(&mut self, entries: T) {
        for entry in entries {
            self.put(entry);
        }
    }
}
