//! The world as map entries.
//!
//! ```text
//! local pods ─► slot meanings ─► terms ─► signatures of addresses and prefixes
//!                     └───────────────────────┴──► answer for each (slot, identity) ─► encode ─► State
//! ```
//! A [`Compiler`] remembers each stage, keyed by everything that went into it: a change of one object passes through as
//! little as it touches.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use vethwall_common::{
    Direction,
    address::Addr,
    endpoint::{EndpointRecord, SlotRef},
    identity::{AddressEntry, Identity, PrefixEntry},
};

use crate::{
    limits::{self, Limits},
    matched::Matched,
    meaning::{SlotMeaning, Subject},
    model::{Endpoint, PolicyRef},
    numbers::Numbers,
    owners::{Addresses, Strangers},
    placed::Placed,
    resolve::Context,
    signature::{Match, Signature},
    slots::Slots,
    state::State,
    term::TermId,
    world::{Stamp, World},
};

pub use crate::compiled::{Attribution, Compiled, Cookies, Problem};

/// Compiles the world.
pub fn compile(world: &World, numbers: &mut Numbers) -> Compiled {
    compile_within(world, numbers, &Limits::default())
}

/// Compiles the world into maps that have this much room.
pub fn compile_within(world: &World, numbers: &mut Numbers, limits: &Limits) -> Compiled {
    Memory::default().compile(world, numbers, limits)
}

/// Compiles one world after the other, and looks again only at what changed. What it returns is what [`compile`] would.
#[derive(Debug, Default)]
pub struct Compiler {
    numbers: Numbers,
    limits: Limits,
    memory: Memory,
}

impl Compiler {
    /// For a kernel that holds `observed`, written by somebody else: see [`Numbers::above`].
    pub fn above(observed: &State) -> Self {
        Self {
            numbers: Numbers::above(observed),
            ..Self::default()
        }
    }

    /// For maps that have this much room.
    #[must_use]
    pub fn within(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Compiles the world.
    pub fn compile(&mut self, world: &World) -> Compiled {
        self.memory.compile(world, &mut self.numbers, &self.limits)
    }

    /// After a plan was executed: see [`Numbers::release`].
    pub fn release(&mut self, observed: &State) {
        self.numbers.release(observed);
    }
}

/// What one compilation leaves to the next. Without it the result is the same.
#[derive(Debug, Default)]
struct Memory {
    subjects: BTreeMap<u32, Remembered>,
    blockless: BTreeSet<PolicyRef>,
    matched: Matched,
    placed: Placed,
    slots: Slots,
    names: BTreeMap<Identity, Arc<Vec<String>>>,
}

/// What decides for a local interface, and what that was made of.
#[derive(Debug)]
struct Remembered {
    endpoint: Endpoint,
    space: Stamp,
    cluster: Stamp,
    slots: Arc<[SlotMeaning; 2]>,
}

impl Memory {
    fn compile(&mut self, world: &World, numbers: &mut Numbers, limits: &Limits) -> Compiled {
        numbers.begin();
        let mut compiled = Compiled::default();
        let mut subjects = self.resolve(world, numbers, BTreeSet::new());
        let mut used = terms_of(&subjects);
        if numbers.prefixes(&used) > limits.prefixes {
            let blockless =
                limits::too_many_prefixes(world, &subjects, limits.prefixes, &mut compiled.problems);
            subjects = self.resolve(world, numbers, blockless);
            used = terms_of(&subjects);
        }
        numbers.keep_terms(&used);
        let takes = subjects
            .iter()
            .any(|(_, slots)| slots.iter().any(SlotMeaning::takes_from_pods));
        // Any other pod is told apart by its address alone, which is what the prefix map does, unless it must be told
        // apart from pods that are not known.
        let difference = self.matched.update(world, used, takes, numbers);
        self.placed.update(world, &self.matched, &difference, numbers);
        let live = self.place_addresses(world, takes, numbers, limits, &mut compiled);
        self.name_identities(&live, numbers, &mut compiled);

        let meanings: BTreeSet<&SlotMeaning> = subjects.iter().flat_map(|(_, slots)| slots.iter()).collect();
        let slots = self.slots.write(meanings, live, numbers, limits, &mut compiled);
        for (endpoint, meanings) in &subjects {
            let Some(index) = numbers.endpoint(endpoint.ifindex) else {
                compiled.problems.push(limits::no_index(endpoint));
                continue;
            };
            let slot = |meaning| SlotRef::new(slots.get(meaning).copied().unwrap_or(0), 0);
            let [ingress, egress] = &**meanings;
            let record = EndpointRecord {
                ingress: slot(ingress),
                egress: slot(egress),
                ifindex: endpoint.ifindex,
                flags: EndpointRecord::ENFORCING,
                addresses: one_of_each(&endpoint.addresses),
                mac: endpoint.mac,
                index,
            };
            compiled.state.endpoints.insert(endpoint.ifindex, record);
        }
        compiled
    }

    fn resolve<'w>(
        &mut self,
        world: &'w World,
        numbers: &mut Numbers,
        blockless: BTreeSet<PolicyRef>,
    ) -> Vec<Subject<'w>> {
        let mut before = std::mem::take(&mut self.subjects);
        if blockless != self.blockless {
            before.clear();
        }
        self.blockless = blockless;
        let mut context = Context {
            numbers,
            blockless: &self.blockless,
        };
        let mut subjects = Vec::new();
        for endpoint in world.endpoints() {
            // Without its object nobody knows what isolates the pod: it stays pending.
            let Some((pod, space)) = world
                .pod_of(endpoint)
                .zip(world.spaces().get(&endpoint.namespace))
            else {
                continue;
            };
            let holds = |known: &Remembered| {
                known.endpoint == *endpoint
                    && known.space.same(space.stamp())
                    && known.cluster.same(world.cluster_stamp())
            };
            let known = before.remove(&endpoint.ifindex).filter(holds);
            let slots = known.map_or_else(
                || {
                    let of = |direction| SlotMeaning::of(world, pod, direction, &mut context);
                    Arc::new(Direction::ALL.map(of))
                },
                |known| known.slots,
            );
            let remembered = Remembered {
                endpoint: endpoint.clone(),
                space: space.stamp(),
                cluster: world.cluster_stamp(),
                slots: Arc::clone(&slots),
            };
            self.subjects.insert(endpoint.ifindex, remembered);
            subjects.push((endpoint, slots));
        }
        subjects
    }

    /// Writes addresses and prefixes. Returns the identities that some address has.
    fn place_addresses(
        &self,
        world: &World,
        takes: bool,
        numbers: &mut Numbers,
        limits: &Limits,
        compiled: &mut Compiled,
    ) -> BTreeMap<Identity, Arc<Signature>> {
        let mut live = BTreeMap::from([(Identity::WORLD, Arc::default())]);
        live.extend(self.placed.identities());
        let terms = self.matched.terms();
        let strangers = if takes {
            Strangers::InPodNetworks
        } else {
            Strangers::Ignored
        };
        let mut addresses = Addresses::new(world, terms, strangers).remembering(&self.matched);
        let mut entries = self.placed.entries().clone();
        for (address, owner) in addresses.other_than(self.placed.entries()) {
            let identity = numbers.identity(&owner.signature);
            let entry = AddressEntry {
                identity,
                flags: owner.flags,
                ifindex: owner.ifindex,
            };
            entries.insert(Addr::from(address), entry);
            live.entry(identity).or_insert_with(|| Arc::new(owner.signature));
        }
        if entries.len() > limits.addresses {
            compiled
                .problems
                .push(limits::too_many_addresses(entries.len(), limits.addresses));
            entries = most_needed(entries, limits.addresses);
            if takes {
                addresses = Addresses::new(world, terms, Strangers::Anywhere).remembering(&self.matched);
            }
        }
        compiled.state.addresses = entries;
        for (prefix, (signature, flags)) in addresses.prefixes() {
            let identity = numbers.identity(&signature);
            let prefixes = &mut compiled.state.prefixes;
            prefixes.insert(prefix, PrefixEntry { identity, flags });
            live.entry(identity).or_insert_with(|| Arc::new(signature));
        }
        live
    }

    fn name_identities(
        &mut self,
        live: &BTreeMap<Identity, Arc<Signature>>,
        numbers: &Numbers,
        compiled: &mut Compiled,
    ) {
        let mut before = std::mem::take(&mut self.names);
        for (identity, signature) in live {
            let names = before
                .remove(identity)
                .unwrap_or_else(|| Arc::new(describe(signature, numbers)));
            compiled.identities.insert(*identity, Arc::clone(&names));
            self.names.insert(*identity, names);
        }
    }
}

fn describe(signature: &Signature, numbers: &Numbers) -> Vec<String> {
    let name = |(id, sure): (TermId, Match)| {
        let term = numbers.term(id)?;
        Some(match sure {
            Match::Maybe => format!("maybe {term}"),
            Match::Yes | Match::No => term.to_string(),
        })
    };
    let names: BTreeSet<String> = signature.described().filter_map(name).collect();
    let unknown = signature
        .is_unknown()
        .then(|| "maybe a pod not known yet".to_owned());
    names.into_iter().chain(unknown).collect()
}

fn terms_of(subjects: &[Subject<'_>]) -> BTreeSet<TermId> {
    let meanings = subjects.iter().flat_map(|(_, slots)| slots.iter());
    let terms = meanings.flat_map(SlotMeaning::terms);
    terms.collect()
}

/// Nodes' and this node's pods' in any case: without them its pods can not be told from others, nor nodes from anybody.
/// Any other address that is left out is judged by its prefix, which never allows more.
fn most_needed(entries: BTreeMap<Addr, AddressEntry>, room: usize) -> BTreeMap<Addr, AddressEntry> {
    let optional = |entry: &AddressEntry| entry.ifindex == 0 && entry.flags & AddressEntry::POD != 0;
    let needed = entries.values().filter(|entry| !optional(entry)).count();
    let mut entries: Vec<_> = entries.into_iter().collect();
    entries.sort_by_key(|(address, entry)| (optional(entry), *address));
    entries.truncate(room.max(needed));
    entries.into_iter().collect()
}

/// The record has room for one address of each family.
fn one_of_each(addresses: &[IpAddr]) -> [Addr; 2] {
    let first = |v4: bool| {
        let mut family = addresses
            .iter()
            .map(IpAddr::to_canonical)
            .filter(|address| address.is_ipv4() == v4);
        family.next().map_or(Addr::NONE, Addr::from)
    };
    [first(true), first(false)]
}
