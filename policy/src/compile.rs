//! The world as map entries.
//!
//! ```text
//! local pods ─► slot meanings ─► terms ─► signatures of addresses and prefixes
//!                     └───────────────────────┴──► answer for each (slot, identity) ─► encode ─► State
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::Serialize;
use vethwall_common::{
    Direction,
    address::Addr,
    endpoint::{EndpointRecord, SlotRef},
    identity::{AddressEntry, Identity, PrefixEntry},
    verdict::Cookie,
};

use crate::{
    limits::{self, Limits},
    model::{Endpoint, PolicyRef},
    numbers::Numbers,
    owners,
    resolve::{Context, SlotMeaning},
    slots,
    state::State,
    terms::{Signature, TermId, Terms},
    world::World,
};

/// What [`compile`] returns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    /// The desired state; all generations zero, the plan chooses them.
    pub state: State,
    /// What cookies mean.
    pub cookies: Cookies,
    /// What identities mean: the selectors and prefixes that their addresses match.
    pub identities: BTreeMap<Identity, Vec<String>>,
    /// What could not be done as the policies ask. It denies.
    pub problems: Vec<Problem>,
}

/// What cookies mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cookies(pub BTreeMap<Cookie, Attribution>);

impl Cookies {
    /// What a cookie means, if it is one of these.
    pub fn get(&self, cookie: Cookie) -> Option<&Attribution> {
        self.0.get(&cookie)
    }
}

/// What a verdict stems from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Attribution {
    /// The policy of the rule that allowed; without a rule, the policies that isolate the pod.
    pub policies: Vec<PolicyRef>,
    /// The rule's place in the policy, from 0.
    pub rule: Option<usize>,
    /// `ingress` or `egress`.
    #[serde(serialize_with = "direction_name")]
    pub direction: Direction,
}

/// Something that could not be done as asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Stable code.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Compiles the world.
pub fn compile(world: &World, numbers: &mut Numbers) -> Compiled {
    compile_within(world, numbers, &Limits::default())
}

/// Compiles the world into maps that have this much room.
pub fn compile_within(world: &World, numbers: &mut Numbers, limits: &Limits) -> Compiled {
    numbers.begin();
    let mut compiled = Compiled::default();
    let mut subjects = resolve(world, numbers, &BTreeSet::new());
    let mut terms = terms_of(&subjects, numbers);
    if terms.prefixes().count() > limits.prefixes {
        let blockless = limits::too_many_prefixes(world, &subjects, limits.prefixes, &mut compiled.problems);
        subjects = resolve(world, numbers, &blockless);
        terms = terms_of(&subjects, numbers);
    }

    let mut live = BTreeMap::from([(Identity::WORLD, Signature::default())]);
    place_addresses(world, &terms, numbers, limits, &mut live, &mut compiled);
    for (identity, signature) in &live {
        let names = signature
            .terms()
            .filter_map(|id| numbers.term(id).map(ToString::to_string));
        let names: BTreeSet<String> = names.collect();
        compiled.identities.insert(*identity, names.into_iter().collect());
    }

    let meanings: BTreeSet<&SlotMeaning> = subjects.iter().flat_map(|(_, slots)| slots).collect();
    let slots = slots::write(meanings, &live, numbers, limits, &mut compiled);
    for (endpoint, meanings) in &subjects {
        let Some(index) = numbers.endpoint(endpoint.ifindex) else {
            compiled.problems.push(limits::no_index(endpoint));
            continue;
        };
        let slot = |meaning| SlotRef::new(slots.get(meaning).copied().unwrap_or(0), 0);
        let [ingress, egress] = meanings;
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

/// A local interface with what decides in each direction.
pub(crate) type Subject<'w> = (&'w Endpoint, [SlotMeaning; 2]);

fn resolve<'w>(world: &'w World, numbers: &mut Numbers, blockless: &BTreeSet<PolicyRef>) -> Vec<Subject<'w>> {
    let mut context = Context { numbers, blockless };
    let mut subjects = Vec::new();
    for endpoint in world.endpoints() {
        // Without its object nobody knows what isolates the pod: it stays pending.
        let Some(pod) = world.pod_of(endpoint) else {
            continue;
        };
        let slots = Direction::ALL.map(|direction| SlotMeaning::of(world, pod, direction, &mut context));
        subjects.push((endpoint, slots));
    }
    subjects
}

fn terms_of(subjects: &[Subject<'_>], numbers: &Numbers) -> Terms {
    let meanings: BTreeSet<&SlotMeaning> = subjects.iter().flat_map(|(_, slots)| slots).collect();
    let used: BTreeSet<TermId> = meanings.iter().flat_map(|meaning| meaning.terms()).collect();
    Terms::new(&used, numbers)
}

fn place_addresses(
    world: &World,
    terms: &Terms,
    numbers: &mut Numbers,
    limits: &Limits,
    live: &mut BTreeMap<Identity, Signature>,
    compiled: &mut Compiled,
) {
    let mut owners: Vec<_> = owners::addresses(world, terms).into_iter().collect();
    if owners.len() > limits.addresses {
        // This node's own first: without them its pods can not be told from others. An address that is left out is
        // judged by its prefix, which never allows more.
        owners.sort_by_key(|(address, owner)| {
            (owner.ifindex == 0, owner.flags & AddressEntry::POD != 0, *address)
        });
        compiled
            .problems
            .push(limits::too_many_addresses(owners.len(), limits.addresses));
        owners.truncate(limits.addresses);
    }
    for (address, owner) in owners {
        let identity = numbers.identity(&owner.signature);
        let entry = AddressEntry {
            identity,
            flags: owner.flags,
            ifindex: owner.ifindex,
        };
        compiled.state.addresses.insert(Addr::from(address), entry);
        live.entry(identity).or_insert(owner.signature);
    }
    for (prefix, (signature, flags)) in owners::prefixes(world, terms) {
        let identity = numbers.identity(&signature);
        compiled
            .state
            .prefixes
            .insert(prefix, PrefixEntry { identity, flags });
        live.entry(identity).or_insert(signature);
    }
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

pub(crate) fn direction_name<S: serde::Serializer>(direction: &Direction, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(direction.name())
}
