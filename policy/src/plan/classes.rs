//! Addresses that change identity together, and where they stand before and after.
//!
//! A class is one entry of the address map, or the part of a prefix that no longer prefix claims. Over the union of the
//! old and the new prefixes each class has one old and one new identity, and one write moves exactly one class if the
//! longest prefixes go first.

use std::collections::{BTreeMap, BTreeSet};

use vethwall_common::{
    address::{Addr, Prefix},
    entry::{Entry, Key},
    identity::{AddressEntry, Identity, PrefixEntry},
};

use super::{
    Unit,
    changed::{Changed, changed},
};
use crate::state::State;

/// Where a class has its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Address(Addr),
    Prefix(Prefix),
}

/// Addresses that move together.
#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) place: Place,
    /// Identity in the old state.
    pub(super) old: Identity,
    /// Identity in the new state.
    pub(super) new: Identity,
    /// The entry, if the old state has one.
    pub(super) held: Option<Entry>,
    /// Whether the new state has one.
    pub(super) wanted: bool,
    /// The longest prefix of either state around it.
    pub(super) around: Option<Prefix>,
    flags: u32,
    ifindex: u32,
}

impl Class {
    /// Its entry with this identity and otherwise as the new state wants it.
    pub(super) fn entry(&self, identity: Identity) -> Entry {
        let (flags, ifindex) = (self.flags, self.ifindex);
        match self.place {
            Place::Address(address) => Entry::Address(
                address,
                AddressEntry {
                    identity,
                    flags,
                    ifindex,
                },
            ),
            Place::Prefix(prefix) => Entry::Prefix(prefix, PrefixEntry { identity, flags }),
        }
    }

    pub(super) fn key(&self) -> Key {
        match self.place {
            Place::Address(address) => Key::Address(address),
            Place::Prefix(prefix) => Key::Prefix(prefix),
        }
    }

    pub(super) fn unit(&self) -> Unit {
        match self.place {
            Place::Address(address) => Unit::Address(address),
            Place::Prefix(prefix) => Unit::Prefix(prefix),
        }
    }
}

/// The prefixes of a state, by length: a look-up for each length there is.
struct Tree<'s> {
    prefixes: Vec<&'s BTreeMap<Prefix, PrefixEntry>>,
    lengths: BTreeSet<u32>,
}

impl<'s> Tree<'s> {
    fn new(states: &[&'s State]) -> Self {
        let prefixes: Vec<_> = states.iter().map(|state| &state.prefixes).collect();
        let lengths = prefixes
            .iter()
            .flat_map(|map| map.keys())
            .map(|prefix| prefix.length)
            .collect();
        Self { prefixes, lengths }
    }

    /// The longest prefix around these bits that is shorter than `below`.
    fn around(&self, addr: Addr, below: u32) -> Option<(Prefix, PrefixEntry)> {
        self.lengths.range(..below).rev().find_map(|&length| {
            let prefix = Prefix {
                length,
                addr: addr.truncate(length),
            };
            self.prefixes
                .iter()
                .find_map(|map| map.get(&prefix))
                .map(|entry| (prefix, *entry))
        })
    }

    fn identity(&self, addr: Addr, below: u32) -> Identity {
        self.around(addr, below)
            .map_or(Identity::WORLD, |(_, entry)| entry.identity)
    }

    fn flags(&self, addr: Addr, below: u32) -> u32 {
        self.around(addr, below).map_or(0, |(_, entry)| entry.flags)
    }
}

/// The classes that change, in the order in which they move: addresses, then prefixes, longest first. One whose entry is
/// the same in both states has one identity in both, and needs nothing.
pub(super) fn classes(observed: &State, desired: &State) -> Vec<Class> {
    const ALL: u32 = 129;
    let (before, after) = (Tree::new(&[observed]), Tree::new(&[desired]));
    let both = Tree::new(&[observed, desired]);
    let address = |(&addr, held, wanted): Changed<'_, Addr, AddressEntry>| {
        let in_pod_network = after.flags(addr, ALL) & PrefixEntry::POD_NETWORK != 0;
        Class {
            place: Place::Address(addr),
            old: held.map_or_else(|| before.identity(addr, ALL), |entry| entry.identity),
            new: wanted.map_or_else(|| after.identity(addr, ALL), |entry| entry.identity),
            held: held.map(|entry| Entry::Address(addr, *entry)),
            wanted: wanted.is_some(),
            around: both.around(addr, ALL).map(|(prefix, _)| prefix),
            flags: wanted.map_or(if in_pod_network { AddressEntry::POD } else { 0 }, |entry| {
                entry.flags
            }),
            ifindex: wanted.map_or(0, |entry| entry.ifindex),
        }
    };
    let prefix = |(&prefix, held, wanted): Changed<'_, Prefix, PrefixEntry>| {
        let up_to = prefix.length + 1;
        Class {
            place: Place::Prefix(prefix),
            old: before.identity(prefix.addr, up_to),
            new: after.identity(prefix.addr, up_to),
            held: held.map(|entry| Entry::Prefix(prefix, *entry)),
            wanted: wanted.is_some(),
            around: both.around(prefix.addr, prefix.length).map(|(prefix, _)| prefix),
            flags: after.flags(prefix.addr, up_to),
            ifindex: 0,
        }
    };
    let addresses = changed(&observed.addresses, &desired.addresses);
    // A prefix orders by its length first.
    let prefixes: Vec<_> = changed(&observed.prefixes, &desired.prefixes).collect();
    addresses
        .map(address)
        .chain(prefixes.into_iter().rev().map(prefix))
        .collect()
}
