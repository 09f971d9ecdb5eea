//! Numbers for terms, identities, slots, port sets, cookies and endpoint indices.
//!
//! A number belongs to a *meaning*: a slot's to its policies' rules, an identity's to its signature, a port set's to
//! its pages. What does not change keeps its number, so plans stay small; what changes gets another number, so a number
//! never means two things at once, which is what lets a plan switch between old and new with single writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use vethwall_common::{endpoint::ENDPOINT_INDEX_SIZE, identity::Identity, maps::MAX_SLOTS, verdict::Cookie};

use crate::{
    compiled::Attribution,
    encode::Pages,
    meaning::SlotMeaning,
    signature::Signature,
    state::State,
    term::{Term, TermId},
};

/// Identities from here on are a plan's own, for the time between two policies; no meaning gets one.
pub(crate) const FIRST_TRANSIENT: u32 = 0x8000_0000;

/// Gives numbers to meanings and remembers them.
#[derive(Debug)]
pub struct Numbers {
    terms: Pool<Term>,
    identities: Pool<Signature>,
    slots: Pool<SlotMeaning>,
    port_sets: Pool<Pages>,
    cookies: Pool<Attribution>,
    endpoints: Pool<u32>,
    term_names: BTreeMap<TermId, Arc<Term>>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            terms: Pool::new(1, FIRST_TRANSIENT - 1),
            identities: Pool::new(Identity::FIRST_SIGNATURE.0, FIRST_TRANSIENT - 1),
            slots: Pool::new(1, MAX_SLOTS - 1),
            port_sets: Pool::new(1, FIRST_TRANSIENT - 1),
            cookies: Pool::new(1, FIRST_TRANSIENT - 1),
            endpoints: Pool::new(1, ENDPOINT_INDEX_SIZE - 1),
            term_names: BTreeMap::new(),
        }
    }
}

impl Numbers {
    /// Numbers for a kernel that holds `observed`, written by somebody else: nothing there is given a new meaning.
    /// Interfaces keep their endpoint index.
    pub fn above(observed: &State) -> Self {
        let mut numbers = Self::default();
        let used = Used(observed);
        numbers.identities.avoid(used.identities());
        numbers.slots.avoid(used.slots());
        numbers.port_sets.avoid(used.port_sets());
        numbers.cookies.avoid(used.cookies());
        for (ifindex, record) in &observed.endpoints {
            numbers.endpoints.give(*ifindex, u32::from(record.index));
        }
        numbers
    }

    /// Frees the numbers that neither the last compilation nor the kernel uses. Call it after a plan was executed, with
    /// what the kernel then holds; without it numbers run out, and pods that get none stay closed.
    pub fn release(&mut self, observed: &State) {
        if self.all_in_use() {
            return;
        }
        let used = Used(observed);
        self.identities.release(|| used.identities());
        self.slots.release(|| used.slots());
        self.port_sets.release(|| used.port_sets());
        self.cookies.release(|| used.cookies());
        self.endpoints.release(|| used.indices());
        // Terms do not reach the kernel, but remembered signatures and slots speak of them, and so does what was resolved
        // for a slot that had no room for it.
        let mut terms: BTreeSet<TermId> = self.identities.given.keys().flat_map(Signature::terms).collect();
        terms.extend(&self.terms.current);
        terms.extend(self.slots.given.keys().flat_map(SlotMeaning::terms));
        let peers = |id: &TermId| match self.term_names.get(id).map(Arc::as_ref) {
            Some(Term::Port { peer, .. }) => *peer,
            Some(Term::Pods { .. } | Term::Nodes(_) | Term::Prefix(_)) | None => None,
        };
        let peers: Vec<_> = terms.iter().filter_map(peers).collect();
        terms.extend(peers);
        self.terms.release(|| terms);
        let kept: BTreeSet<TermId> = self.terms.given.values().copied().collect();
        self.term_names.retain(|id, _| kept.contains(id));
    }

    /// Whether the last compilation used every number that is taken: then there is none to free.
    fn all_in_use(&self) -> bool {
        self.terms.all_in_use()
            && self.identities.all_in_use()
            && self.slots.all_in_use()
            && self.port_sets.all_in_use()
            && self.cookies.all_in_use()
            && self.endpoints.all_in_use()
    }

    /// A compilation begins: what it asks for from here on is what it uses.
    pub(crate) fn begin(&mut self) {
        self.terms.current.clear();
        self.identities.current.clear();
        self.slots.current.clear();
        self.port_sets.current.clear();
        self.cookies.current.clear();
        self.endpoints.current.clear();
    }

    /// Number of a term. There are more numbers than terms fit into memory; 0, if there were none left, is no term.
    pub(crate) fn term_id(&mut self, term: &Term) -> TermId {
        let id = self.terms.get(term).unwrap_or(0);
        self.term_names
            .entry(id)
            .or_insert_with(|| Arc::new(term.clone()));
        id
    }

    /// The term with this number.
    pub(crate) fn term(&self, id: TermId) -> Option<&Arc<Term>> {
        self.term_names.get(&id)
    }

    /// How many of these terms are prefixes.
    pub(crate) fn prefixes(&self, of: &BTreeSet<TermId>) -> usize {
        let is_prefix = |id: &&TermId| matches!(self.term(**id).map(Arc::as_ref), Some(Term::Prefix(_)));
        of.iter().filter(is_prefix).count()
    }

    /// Identity of a signature.
    pub(crate) fn identity(&mut self, signature: &Signature) -> Identity {
        if signature.is_empty() {
            return Identity::WORLD;
        }
        self.identities
            .get(signature)
            .map_or(Identity::UNKNOWN_POD, Identity)
    }

    /// The terms are in use, as in the compilation before.
    pub(crate) fn keep_terms(&mut self, terms: &BTreeSet<TermId>) {
        self.terms.current.extend(terms);
    }

    /// The identity is in use, as in the compilation before.
    pub(crate) fn keep_identity(&mut self, identity: Identity) {
        self.identities.current.insert(identity.0);
    }

    /// A slot, while there is one left.
    pub(crate) fn slot(&mut self, meaning: &SlotMeaning) -> Option<u32> {
        self.slots.get(meaning)
    }

    /// A port set, while there is one left.
    pub(crate) fn port_set(&mut self, pages: &Pages) -> Option<u32> {
        self.port_sets.get(pages)
    }

    /// A cookie; the one that names nothing if there were none left.
    pub(crate) fn cookie(&mut self, attribution: &Attribution) -> Cookie {
        Cookie(self.cookies.get(attribution).unwrap_or(0))
    }

    /// The cookie is in use, as in the compilation before.
    pub(crate) fn keep_cookie(&mut self, cookie: Cookie) {
        self.cookies.current.insert(cookie.0);
    }

    /// The port set is in use, as in the compilation before.
    pub(crate) fn keep_port_set(&mut self, set: u32) {
        self.port_sets.current.insert(set);
    }

    /// Index of a local interface, while there is one left.
    pub(crate) fn endpoint(&mut self, ifindex: u32) -> Option<u16> {
        self.endpoints
            .get(&ifindex)
            .and_then(|index| u16::try_from(index).ok())
    }
}

/// Numbers of one kind.
#[derive(Debug)]
struct Pool<K> {
    given: BTreeMap<K, u32>,
    /// Numbers given, and numbers that the kernel holds.
    taken: BTreeSet<u32>,
    /// Numbers asked for since the compilation began.
    current: BTreeSet<u32>,
    /// Where the search goes on: a number that became free comes back as late as possible, so that an event or a packet
    /// on its way does not meet a new meaning.
    next: u32,
    first: u32,
    last: u32,
}

impl<K: Ord + Clone> Pool<K> {
    fn new(first: u32, last: u32) -> Self {
        let (given, taken, current) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self {
            given,
            taken,
            current,
            next: first,
            first,
            last,
        }
    }

    fn get(&mut self, key: &K) -> Option<u32> {
        let number = match self.given.get(key) {
            Some(number) => *number,
            None => {
                let number = self.free()?;
                self.give(key.clone(), number);
                number
            }
        };
        self.current.insert(number);
        Some(number)
    }

    fn free(&self) -> Option<u32> {
        let mut gap = self.next;
        // `taken` is walked from `next` on only as far as it has no gap.
        for number in self.taken.range(self.next..=self.last) {
            if *number != gap {
                break;
            }
            gap += 1;
        }
        if gap <= self.last {
            return Some(gap);
        }
        (self.first..self.next).find(|number| !self.taken.contains(number))
    }

    fn give(&mut self, key: K, number: u32) {
        self.taken.insert(number);
        self.given.insert(key, number);
        self.next = if number < self.last {
            number + 1
        } else {
            self.first
        };
    }

    fn avoid(&mut self, numbers: BTreeSet<u32>) {
        let inside = numbers.range(self.first..=self.last);
        if let Some(highest) = inside.clone().next_back() {
            self.next = if *highest < self.last {
                highest + 1
            } else {
                self.first
            };
        }
        self.taken.extend(inside);
    }

    fn all_in_use(&self) -> bool {
        self.taken.is_subset(&self.current)
    }

    /// Keeps what is in use and what is `held`, which is asked only where something may be free.
    fn release(&mut self, held: impl FnOnce() -> BTreeSet<u32>) {
        if self.all_in_use() {
            return;
        }
        let held = held();
        self.given
            .retain(|_, number| self.current.contains(number) || held.contains(number));
        self.taken = held;
        self.taken.extend(self.given.values());
    }
}

/// Numbers in a state.
struct Used<'s>(&'s State);

impl Used<'_> {
    fn identities(&self) -> BTreeSet<u32> {
        let verdicts = self.0.verdicts.keys().map(|key| key.identity.0);
        let addresses = self.0.addresses.values().map(|entry| entry.identity.0);
        let prefixes = self.0.prefixes.values().map(|entry| entry.identity.0);
        set(verdicts.chain(addresses).chain(prefixes))
    }

    fn slots(&self) -> BTreeSet<u32> {
        let endpoints = self.0.endpoints.values();
        let endpoints = endpoints.flat_map(|record| [record.ingress.slot(), record.egress.slot()]);
        let verdicts = self.0.verdicts.keys().map(|key| key.slot);
        set(endpoints.chain(self.0.slots.keys().copied()).chain(verdicts))
    }

    fn port_sets(&self) -> BTreeSet<u32> {
        let verdicts = self.0.verdicts.values().map(|entry| entry.port_set);
        set(verdicts.chain(self.0.ports.keys().map(|key| key.set)))
    }

    fn cookies(&self) -> BTreeSet<u32> {
        let records = self.0.slots.values().map(|record| record.cookie.0);
        let entries = self.0.verdicts.values().flat_map(|entry| {
            let ranges = entry.ranges.iter().map(|range| range.cookie.0);
            ranges.chain([entry.cookie.0])
        });
        set(records.chain(entries))
    }

    fn indices(&self) -> BTreeSet<u32> {
        set(self.0.endpoints.values().map(|record| u32::from(record.index)))
    }
}

/// The distinct ones among many of which most are the same.
fn set(numbers: impl Iterator<Item = u32>) -> BTreeSet<u32> {
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into_iter().collect()
}

#[cfg(test)]
mod tests;
