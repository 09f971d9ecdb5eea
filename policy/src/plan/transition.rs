//! How to get from one state to another: which identity each class takes on its way, and which slots need a double.
//!
//! While endpoints flip one after the other, a class must get the old answer in the slots that are left and the new
//! answer in those that are entered. Its new identity can serve for both (*refinement*) if it is free to get, in the
//! left slots, the answer of the old identity. It is not where classes with different old answers come together under
//! it; then each pair of old and new identity gets an intermediate one, which is removed at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use vethwall_common::{
    Direction,
    endpoint::EndpointRecord,
    identity::Identity,
    maps::MAX_SLOTS,
    verdict::{VerdictEntry, VerdictKey},
};

use super::{
    changed::{Changed, changed},
    classes::{Class, classes},
    compare::Oracle,
};
use crate::{numbers::FIRST_TRANSIENT, state::State};

/// Old and new identity of a class that moves.
pub(super) type Pair = (Identity, Identity);

/// The way from one state to another.
pub(super) struct Transition<'s> {
    pub(super) observed: &'s State,
    pub(super) desired: &'s State,
    /// What the old state says.
    pub(super) before: Oracle<'s>,
    /// What the new state says.
    pub(super) after: Oracle<'s>,
    pub(super) classes: Vec<Class>,
    /// Verdict entries that differ, before and after.
    pub(super) verdicts: Vec<Changed<'s, VerdictKey, VerdictEntry>>,
    /// The identities that some address has in the new state.
    pub(super) live: BTreeSet<Identity>,
    /// Slots of the old state that some endpoint uses.
    pub(super) used: BTreeSet<u32>,
    /// Those that some endpoint leaves, in some direction, with the endpoints.
    pub(super) leaving: BTreeMap<u32, BTreeSet<u32>>,
    /// The identity that each pair takes until all endpoints have flipped.
    pub(super) middle: BTreeMap<Pair, Identity>,
    /// A slot that some endpoints leave and others enter can not give both their answers for an intermediate identity:
    /// those that enter go to its double first.
    pub(super) doubles: BTreeMap<u32, u32>,
}

impl<'s> Transition<'s> {
    pub(super) fn new(observed: &'s State, desired: &'s State) -> Self {
        let mut used = BTreeSet::new();
        let mut leaving: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for (ifindex, record) in &observed.endpoints {
            for direction in Direction::ALL {
                let slot = record.slot_ref(direction).slot();
                used.insert(slot);
                if target(desired, *ifindex, direction) != Some(slot) {
                    leaving.entry(slot).or_default().insert(*ifindex);
                }
            }
        }
        let mut transition = Self {
            observed,
            desired,
            before: Oracle::new(observed),
            after: Oracle::new(desired),
            classes: classes(observed, desired),
            verdicts: changed(&observed.verdicts, &desired.verdicts).collect(),
            live: held(desired),
            used,
            leaving,
            middle: BTreeMap::new(),
            doubles: BTreeMap::new(),
        };
        transition.choose_middles();
        transition.choose_doubles();
        transition
    }

    /// Whether the new state has this slot.
    pub(super) fn keeps(&self, slot: u32) -> bool {
        self.desired.slots.contains_key(&slot)
    }

    /// Pairs that need an intermediate identity, with it.
    pub(super) fn detours(&self) -> impl Iterator<Item = (Pair, Identity)> + '_ {
        self.middle
            .iter()
            .filter(|((_, new), middle)| new != *middle)
            .map(|(pair, middle)| (*pair, *middle))
    }

    /// Whether the pair's verdict in this slot of both states changes.
    pub(super) fn differs(&self, slot: u32, (old, new): Pair) -> bool {
        self.before.says(slot, old) != self.after.says(slot, new)
    }

    /// The slot that an endpoint enters in a direction, if it changes slots there.
    pub(super) fn enters(&self, ifindex: u32, direction: Direction) -> Option<u32> {
        let slot = target(self.desired, ifindex, direction)?;
        let before = self
            .observed
            .endpoints
            .get(&ifindex)
            .map(|record| record.slot_ref(direction).slot());
        (before != Some(slot)).then_some(slot)
    }

    fn choose_middles(&mut self) {
        let pairs: BTreeSet<Pair> = self.classes.iter().map(|class| (class.old, class.new)).collect();
        let held: BTreeSet<Identity> = held(self.observed);
        // An earlier plan may have left some behind.
        let verdicts = self.observed.verdicts.keys().map(|key| key.identity);
        let all = held.iter().copied().chain(verdicts);
        let taken: BTreeSet<Identity> = all.filter(|identity| identity.0 >= FIRST_TRANSIENT).collect();
        let mut fresh = (FIRST_TRANSIENT..=u32::MAX)
            .map(Identity)
            .filter(|id| !taken.contains(id));
        // Whose answer an identity gives in the slots that are left: its own where somebody has it, else its first
        // parent's.
        let mut parents: BTreeMap<Identity, Identity> = BTreeMap::new();
        for (old, new) in pairs {
            let parent = if held.contains(&new) {
                new
            } else {
                *parents.entry(new).or_insert(old)
            };
            let agrees = |slot: &u32| {
                let wanted = self.before.says(*slot, old);
                wanted == self.before.says(*slot, parent)
                    && (!self.keeps(*slot) || wanted == self.after.says(*slot, new))
            };
            let direct = old == new || self.leaving.keys().all(agrees);
            let middle = if direct { Some(new) } else { fresh.next() };
            self.middle.insert((old, new), middle.unwrap_or(new));
        }
    }

    fn choose_doubles(&mut self) {
        let taken = |slot: &u32| self.observed.slots.contains_key(slot) || self.used.contains(slot);
        let answers = |slot: &u32| self.observed.verdicts.range(all_of(*slot)).next().is_some();
        let mut fresh = (1..MAX_SLOTS)
            .rev()
            .filter(|slot| !taken(slot) && !self.keeps(*slot) && !answers(slot));
        let mut doubles = BTreeMap::new();
        for ifindex in self.desired.endpoints.keys() {
            for slot in Direction::ALL
                .into_iter()
                .filter_map(|direction| self.enters(*ifindex, direction))
            {
                let split = self.leaving.contains_key(&slot)
                    && self.detours().any(|(pair, _)| self.differs(slot, pair));
                if split && !doubles.contains_key(&slot) {
                    doubles.extend(fresh.next().map(|double| (slot, double)));
                }
            }
        }
        self.doubles = doubles;
    }

    /// The verdict entries that must stand before the first move beside those of the new state.
    pub(super) fn of_the_way(&self) -> BTreeMap<VerdictKey, VerdictEntry> {
        let mut contents = BTreeMap::new();
        for (slot, double) in &self.doubles {
            for (key, entry) in self.desired.verdicts.range(all_of(*slot)) {
                contents.insert(
                    VerdictKey {
                        slot: *double,
                        ..*key
                    },
                    *entry,
                );
            }
        }
        for (&(old, new), &middle) in &self.middle {
            for &slot in self.leaving.keys() {
                // Where the new state speaks of `new`, a direct pair has checked that it says the same.
                let said = middle == new && self.keeps(slot);
                if !said && self.before.says(slot, middle) != self.before.says(slot, old) {
                    let to = VerdictKey {
                        slot,
                        identity: middle,
                    };
                    copy(
                        self.observed,
                        VerdictKey { slot, identity: old },
                        to,
                        &mut contents,
                    );
                }
            }
            if middle == new {
                continue;
            }
            for &slot in self.desired.slots.keys() {
                let from = VerdictKey { slot, identity: new };
                let mut give = |slot| {
                    if self.desired.verdicts.contains_key(&from) {
                        copy(
                            self.desired,
                            from,
                            VerdictKey {
                                slot,
                                identity: middle,
                            },
                            &mut contents,
                        );
                    }
                };
                if !self.leaving.contains_key(&slot) {
                    give(slot);
                }
                if let Some(&double) = self.doubles.get(&slot) {
                    give(double);
                }
            }
        }
        contents
    }
}

/// The keys of a slot.
fn all_of(slot: u32) -> RangeInclusive<VerdictKey> {
    let key = |identity| VerdictKey { slot, identity };
    key(Identity(0))..=key(Identity(u32::MAX))
}

/// Gives `to` the answer of `from`, the default too: an old entry may stand there.
fn copy(state: &State, from: VerdictKey, to: VerdictKey, contents: &mut BTreeMap<VerdictKey, VerdictEntry>) {
    let record = state.slots.get(&from.slot).copied().unwrap_or_default();
    let default = VerdictEntry {
        allow: record.allow,
        cookie: record.cookie,
        ..VerdictEntry::default()
    };
    contents.insert(to, state.verdicts.get(&from).copied().unwrap_or(default));
}

/// The identities that some address has.
fn held(state: &State) -> BTreeSet<Identity> {
    let addresses = state.addresses.values().map(|entry| entry.identity);
    let prefixes = state.prefixes.values().map(|entry| entry.identity);
    addresses.chain(prefixes).chain([Identity::WORLD]).collect()
}

/// The slot that an endpoint should have.
fn target(desired: &State, ifindex: u32, direction: Direction) -> Option<u32> {
    let record: &EndpointRecord = desired.endpoints.get(&ifindex)?;
    Some(record.slot_ref(direction).slot())
}
