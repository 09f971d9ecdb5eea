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
    verdict::{Cookie, PortsKey, SlotRecord, VerdictKey},
};

use crate::{
    answer::{Bits, Origin, answer},
    encode::{Encoded, encode},
    model::{Endpoint, PolicyRef},
    numbers::Numbers,
    owners,
    resolve::{Context, SlotMeaning},
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
    numbers.begin();
    let mut compiled = Compiled::default();
    let blockless = BTreeSet::new();

    let mut subjects: Vec<(&Endpoint, [SlotMeaning; 2])> = Vec::new();
    for endpoint in world.endpoints() {
        // Without its object nobody knows what isolates the pod: it stays pending.
        let Some(pod) = world.pod_of(endpoint) else {
            continue;
        };
        let mut context = Context {
            numbers,
            blockless: &blockless,
        };
        let slots = Direction::ALL.map(|direction| SlotMeaning::of(world, pod, direction, &mut context));
        subjects.push((endpoint, slots));
    }
    let meanings: BTreeSet<&SlotMeaning> = subjects.iter().flat_map(|(_, slots)| slots).collect();
    let used: BTreeSet<TermId> = meanings.iter().flat_map(|meaning| meaning.terms()).collect();
    let terms = Terms::new(&used, numbers);

    let mut live = BTreeMap::from([(Identity::WORLD, Signature::default())]);
    place_addresses(world, &terms, numbers, &mut live, &mut compiled.state);
    for (identity, signature) in &live {
        let names = signature
            .terms()
            .filter_map(|id| numbers.term(id).map(ToString::to_string));
        compiled.identities.insert(*identity, names.collect());
    }
    let mut slots = BTreeMap::new();
    for meaning in meanings {
        if let Some(slot) = numbers.slot(meaning) {
            slots.insert(meaning.clone(), slot);
            write_slot(slot, meaning, &live, numbers, &mut compiled);
        }
    }
    for (endpoint, meanings) in &subjects {
        let Some(index) = numbers.endpoint(endpoint.ifindex) else {
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

fn place_addresses(
    world: &World,
    terms: &Terms,
    numbers: &mut Numbers,
    live: &mut BTreeMap<Identity, Signature>,
    state: &mut State,
) {
    for (address, owner) in owners::addresses(world, terms) {
        let identity = numbers.identity(&owner.signature);
        let entry = AddressEntry {
            identity,
            flags: owner.flags,
            ifindex: owner.ifindex,
        };
        state.addresses.insert(Addr::from(address), entry);
        live.entry(identity).or_insert(owner.signature);
    }
    for (prefix, (signature, flags)) in owners::prefixes(world, terms) {
        let identity = numbers.identity(&signature);
        state.prefixes.insert(prefix, PrefixEntry { identity, flags });
        live.entry(identity).or_insert(signature);
    }
}

fn write_slot(
    slot: u32,
    meaning: &SlotMeaning,
    live: &BTreeMap<Identity, Signature>,
    numbers: &mut Numbers,
    compiled: &mut Compiled,
) {
    let direction = meaning.direction;
    let mut known: BTreeMap<Origin, Cookie> = BTreeMap::new();
    let Compiled { state, cookies, .. } = compiled;
    let mut cookie = |bits: Bits, numbers: &mut Numbers| {
        *known.entry(bits.origin).or_insert_with(|| {
            let attribution = match bits.origin {
                Origin::Default => Attribution {
                    policies: meaning.isolators(),
                    rule: None,
                    direction,
                },
                Origin::Rule(p, r) => Attribution {
                    policies: vec![meaning.policies[p].policy.clone()],
                    rule: Some(r),
                    direction,
                },
            };
            if attribution.policies.is_empty() {
                return Cookie(0);
            }
            let cookie = numbers.cookie(&attribution);
            cookies.0.insert(cookie, attribution);
            cookie
        })
    };
    // Nobody matches less than nothing, and rules only ever allow: what an unknown peer gets, all get.
    let default = answer(meaning, &Signature::default()).base;
    let flags = if meaning.policies.is_empty() {
        SlotRecord::OPEN
    } else {
        0
    };
    let record = SlotRecord {
        allow: default.allow,
        flags,
        reserved: 0,
        cookie: cookie(default, numbers),
    };
    state.slots.insert(slot, record);
    for (identity, signature) in live {
        let answer = answer(meaning, signature);
        if answer.ranges.is_empty() && answer.base.allow == default.allow {
            continue;
        }
        let Encoded { mut entry, pages } = encode(&answer, |bits| cookie(bits, numbers));
        if !pages.is_empty() {
            let Some(set) = numbers.port_set(&pages) else {
                continue;
            };
            entry.port_set = set;
            for ((protocol, page), content) in pages {
                state.ports.insert(
                    PortsKey {
                        set,
                        protocol,
                        page,
                        reserved: 0,
                    },
                    content,
                );
            }
        }
        state.verdicts.insert(
            VerdictKey {
                slot,
                identity: *identity,
            },
            entry,
        );
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Object,
        reader,
        test_world::{TCP, block, endpoint, ip, namespace, own, pod, policy, rule, tcp, within},
    };

    #[test]
    fn thin() {
        let mut world = World::new("n1");
        let (a, b, c) = (
            pod("x/a", "10.0.0.1", &[("app", "a")]),
            pod("x/b", "10.0.0.2", &[("app", "b")]),
            pod("y/c", "10.0.1.1", &[]),
        );
        world.apply(namespace("x", &[]));
        world.apply(namespace("y", &[("team", "y")]));
        world.attach(endpoint(7, &a));
        for p in [a, b, c] {
            world.apply(Object::Pod(p));
        }
        let mut p = policy("x/p", &[("app", "a")]);
        p.ingress = Some(vec![
            rule(&[own(&[("app", "b")])], &[tcp(80, 80)]),
            rule(&[within(&[("team", "y")], &[])], &[]),
            rule(&[block("192.168.0.0/16", &["192.168.1.0/24"])], &[]),
        ]);
        world.apply(Object::NetworkPolicy(p));
        let compiled = compile(&world, &mut Numbers::default());
        let ask =
            |peer, port| reader::lookup(&compiled.state, 7, Direction::Ingress, ip(peer), TCP, port).allow;
        assert_eq!(ask("10.0.0.2", 80), 3);
        assert_eq!(ask("10.0.0.2", 81), 0);
        assert_eq!(ask("10.0.1.1", 81), 3);
        assert_eq!(ask("192.168.2.1", 81), 3);
        assert_eq!(ask("192.168.1.1", 81), 0);
        assert_eq!(ask("8.8.8.8", 81), 0);
    }
}
