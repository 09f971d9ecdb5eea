//! An in-memory double of the kernel's maps that fails on command.

use std::collections::{BTreeMap, BTreeSet};

use nix::libc;
use vethwall_common::{
    ABI_VERSION,
    config::Config,
    entry::{Entry, Key},
    flow::{FlowEntry, FlowKey, state},
    maps::COUNTER_SIZE,
};

use crate::{Error, Maps, maps::check};

/// A call that changed the maps, in the order it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Maps::put`].
    Put(Entry),
    /// [`Maps::delete`].
    Delete(Key),
}

/// Maps in memory.
#[derive(Clone, Debug)]
pub struct Fake {
    entries: BTreeMap<Key, Entry>,
    config: Config,
    calls: Vec<Call>,
    writes: usize,
    fail_after: Option<usize>,
    fail_keys: BTreeSet<Key>,
    capacity: Option<usize>,
    /// Counters that [`Maps::counters`] returns.
    pub counters: Vec<u64>,
    /// Connections that [`Maps::flows`] returns and [`Maps::sweep`] forgets.
    pub flows: BTreeMap<FlowKey, FlowEntry>,
    /// The time, in ticks.
    pub now: u32,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            config: Config {
                abi: ABI_VERSION,
                ..Config::default()
            },
            calls: Vec::new(),
            writes: 0,
            fail_after: None,
            fail_keys: BTreeSet::new(),
            capacity: None,
            counters: vec![0; COUNTER_SIZE as usize],
            flows: BTreeMap::new(),
            now: 0,
        }
    }
}

impl Fake {
    /// Empty maps that work.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `writes` more calls of `put` and `delete` pass and fails all after them.
    pub fn fail_after(&mut self, writes: usize) {
        self.fail_after = Some(self.writes + writes);
    }

    /// Fails every `put` and `delete` of this key.
    pub fn fail_on(&mut self, key: Key) {
        self.fail_keys.insert(key);
    }

    /// Room for so many entries in all.
    pub fn limit(&mut self, entries: usize) {
        self.capacity = Some(entries);
    }

    /// Works again.
    pub fn heal(&mut self) {
        self.fail_after = None;
        self.fail_keys.clear();
        self.capacity = None;
    }

    /// The calls that succeeded, in order.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// The entry under this key.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    fn write(&mut self, key: &Key) -> Result<(), Error> {
        let refused = self.fail_keys.contains(key) || self.fail_after.is_some_and(|n| self.writes >= n);
        self.writes += 1;
        if refused {
            let cause = std::io::Error::from_raw_os_error(libc::ENOMEM);
            return Err(Error::bpf("write", format!("{key:?}"), cause));
        }
        Ok(())
    }
}

impl Maps for Fake {
    fn put(&mut self, entry: &Entry) -> Result<(), Error> {
        check(entry)?;
        let key = entry.key();
        self.write(&key)?;
        if let Some(room) = self.capacity
            && !self.entries.contains_key(&key)
            && self.entries.len() >= room
        {
            return Err(Error::Full {
                map: "FAKE",
                max_entries: u32::try_from(room).unwrap_or(u32::MAX),
            });
        }
        self.entries.insert(key, *entry);
        self.calls.push(Call::Put(*entry));
        Ok(())
    }

    fn delete(&mut self, key: &Key) -> Result<(), Error> {
        self.write(key)?;
        self.entries.remove(key);
        self.calls.push(Call::Delete(*key));
        Ok(())
    }

    fn entries(&self) -> Result<Vec<Entry>, Error> {
        Ok(self.entries.values().copied().collect())
    }

    fn config(&self) -> Result<Config, Error> {
        Ok(self.config)
    }

    fn set_config(&mut self, config: &Config) -> Result<(), Error> {
        self.config = Config {
            abi: ABI_VERSION,
            ..*config
        };
        Ok(())
    }

    fn counters(&self) -> Result<Vec<u64>, Error> {
        Ok(self.counters.clone())
    }

    fn flows(&self) -> Result<Vec<(FlowKey, FlowEntry)>, Error> {
        Ok(self.flows.iter().map(|(key, entry)| (*key, *entry)).collect())
    }

    fn now(&self) -> Result<u32, Error> {
        Ok(self.now)
    }

    fn flow(&self, key: &FlowKey) -> Result<Option<FlowEntry>, Error> {
        let found = self.flows.get(key).copied();
        Ok(found.filter(|entry| entry.is_alive(key.protocol, self.now, &self.config)))
    }

    fn seed(&mut self, flows: &[(FlowKey, FlowEntry)]) -> Result<usize, Error> {
        let mut seeded = 0;
        for (key, entry) in flows {
            let known = self.flow(key)?;
            if known.is_none_or(|entry| entry.state & state::UNSURE != 0) {
                self.flows.insert(*key, *entry);
                seeded += 1;
            }
        }
        Ok(seeded)
    }

    fn revoke(&mut self, key: &FlowKey, generation: u32) -> Result<bool, Error> {
        let Some(entry) = self.flow(key)? else {
            return Ok(false);
        };
        let entry = FlowEntry {
            generation,
            last_seen: self.now,
            state: entry.state | state::REVOKED,
            ..entry
        };
        self.flows.insert(*key, entry);
        Ok(true)
    }

    fn sweep(&mut self, gone: &dyn Fn(u32) -> bool) -> Result<usize, Error> {
        let before = self.flows.len();
        self.flows.retain(|key, _| !gone(key.ifindex));
        Ok(before - self.flows.len())
    }
}

#[cfg(test)]
mod tests {
    use vethwall_common::{
        identity::Identity,
        verdict::{VerdictEntry, VerdictKey},
    };

    use super::*;

    fn verdict(identity: u32) -> Entry {
        Entry::Verdict(
            VerdictKey {
                slot: 1,
                identity: Identity(identity),
            },
            VerdictEntry::default(),
        )
    }

    #[test]
    fn it_holds_what_is_put_and_fails_when_told() {
        let mut fake = Fake::new();
        fake.put(&verdict(1)).unwrap();
        fake.fail_after(1);
        fake.put(&verdict(2)).unwrap();
        assert!(fake.put(&verdict(3)).is_err());
        assert!(fake.delete(&verdict(1).key()).is_err());
        fake.heal();
        fake.fail_on(verdict(3).key());
        assert!(fake.put(&verdict(3)).is_err());
        fake.delete(&verdict(1).key()).unwrap();
        fake.delete(&verdict(1).key()).unwrap();
        assert_eq!(fake.entries().unwrap(), [verdict(2)]);
        assert_eq!(fake.calls().len(), 4, "calls that failed are not in the list");
    }

    #[test]
    fn it_can_be_full() {
        let mut fake = Fake::new();
        fake.limit(1);
        fake.put(&verdict(1)).unwrap();
        fake.put(&verdict(1)).unwrap();
        assert!(matches!(
            fake.put(&verdict(2)),
            Err(Error::Full { max_entries: 1, .. })
        ));
    }

    #[test]
    fn it_refuses_what_the_kernel_refuses() {
        let mut fake = Fake::new();
        let nowhere = Entry::Verdict(VerdictKey::default(), VerdictEntry::default());
        assert!(matches!(fake.put(&nowhere), Err(Error::Invalid { .. })));
        assert!(fake.calls().is_empty());
    }
}
