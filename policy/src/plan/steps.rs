//! The steps of a transition, stage by stage; the picture is in the parent module.

use std::collections::{BTreeMap, BTreeSet};

use vethwall_common::{
    Direction,
    endpoint::{EndpointRecord, SlotRef},
    entry::{Entry, Key},
    identity::Identity,
    verdict::{PortsKey, SlotRecord, VerdictEntry, VerdictKey},
};

use super::{
    Operation, Step, Unit,
    changed::changed,
    classes::{Class, Place},
    transition::{Pair, Transition},
};

/// Puts a plan together.
pub(super) fn steps(transition: &Transition<'_>) -> Vec<Step> {
    let of_the_way = transition.of_the_way();
    let mut steps = contents_steps(transition, &of_the_way);
    let moves = move_steps(transition);
    let flips = flip_steps(transition);
    let settling = settling_steps(transition);
    let late = late_steps(transition);
    let removal = removal_steps(transition, &of_the_way);

    if !moves.is_empty() && !flips.is_empty() {
        steps.extend(moves);
        steps.push(grace(
            "nobody looks at an old identity in a new slot, or under a new generation",
        ));
    } else {
        steps.extend(moves);
    }
    steps.extend(flips);
    if !settling.is_empty() {
        steps.push(grace("nobody looks at a final identity in an old slot"));
        steps.extend(settling);
    }
    if !late.is_empty() {
        steps.push(grace(
            "nobody looks at an intermediate identity under a new generation",
        ));
        steps.extend(late);
    }
    if !removal.is_empty() {
        steps.push(grace("nobody looks at what is removed"));
        steps.extend(removal);
    }
    steps
}

fn grace(why: &'static str) -> Step {
    Step {
        operation: Operation::Grace,
        why,
        provides: vec![Unit::Grace],
        requires: Vec::new(),
    }
}

/// What must stand before anything looks at it.
fn contents_steps(t: &Transition<'_>, of_the_way: &BTreeMap<VerdictKey, VerdictEntry>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut put = |entry, why, provides, requires| {
        steps.push(Step {
            operation: Operation::Put(entry),
            why,
            provides,
            requires,
        });
    };
    for (key, _, page) in changed(&t.observed.ports, &t.desired.ports) {
        if let Some(page) = page {
            let why = "pages before the entries that name them";
            put(
                Entry::Ports(*key, *page),
                why,
                vec![Unit::PortSet(key.set)],
                Vec::new(),
            );
        }
    }
    let doubles = t
        .doubles
        .iter()
        .filter_map(|(slot, double)| Some((double, t.desired.slots.get(slot)?)));
    for (&slot, record) in t.desired.slots.iter().chain(doubles) {
        if t.observed.slots.get(&slot) != Some(record) {
            let why = "a slot before the endpoints that enter it";
            put(
                Entry::Slot(slot, *record),
                why,
                vec![Unit::Slot(slot)],
                Vec::new(),
            );
        }
    }
    let wanted = t
        .verdicts
        .iter()
        .filter_map(|(key, _, entry)| Some((*key, (*entry)?)));
    let added = of_the_way
        .iter()
        .filter(|(key, entry)| t.observed.verdicts.get(key) != Some(entry));
    for (key, entry) in wanted.chain(added) {
        let requires = if entry.port_set == 0 {
            Vec::new()
        } else {
            vec![Unit::PortSet(entry.port_set)]
        };
        let why = if t.used.contains(&key.slot) {
            "an answer for an identity before an address has it"
        } else {
            "an answer before an endpoint enters its slot"
        };
        put(Entry::Verdict(*key, *entry), why, answer_units(t, *key), requires);
    }
    for key in gone(t) {
        if falls_back(t, of_the_way, key) {
            let (operation, why) = (
                Operation::Delete(Key::Verdict(*key)),
                "the default answers from now on",
            );
            steps.push(Step {
                operation,
                why,
                provides: answer_units(t, *key),
                requires: Vec::new(),
            });
        }
    }
    steps
}

/// Verdict entries that the new state does not have.
fn gone<'t>(t: &'t Transition<'_>) -> impl Iterator<Item = &'t VerdictKey> {
    let gone = t.verdicts.iter().filter(|(_, _, entry)| entry.is_none());
    gone.map(|(key, ..)| *key)
}

/// Whether the slot's default answers instead of an entry that is gone, for an identity that stays.
fn falls_back(t: &Transition<'_>, of_the_way: &BTreeMap<VerdictKey, VerdictEntry>, key: &VerdictKey) -> bool {
    t.keeps(key.slot) && t.live.contains(&key.identity) && !of_the_way.contains_key(key)
}

/// What rests on an answer: entering its slot, and, where endpoints use the slot already, having its identity.
fn answer_units(t: &Transition<'_>, key: VerdictKey) -> Vec<Unit> {
    let mut units = vec![Unit::Slot(key.slot)];
    if t.used.contains(&key.slot) {
        units.push(Unit::Identity(key.identity));
    }
    units
}

/// Addresses, then prefixes.
fn move_steps(t: &Transition<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    for class in &t.classes {
        let pair = (class.old, class.new);
        if !class.wanted && class.old == class.new {
            continue;
        }
        let mut provides = vec![class.unit(), Unit::Move(pair.0, pair.1), Unit::Left(pair.0)];
        if let (None, Some(around)) = (class.held, class.around) {
            provides.push(Unit::Inside(around));
        }
        let mut requires = vec![Unit::Identity(middle(t, pair))];
        if let Place::Prefix(prefix) = class.place {
            requires.push(Unit::Inside(prefix));
        }
        let why = if class.old == class.new {
            "same identity, other facts about the address"
        } else {
            "the address takes its new identity"
        };
        steps.push(Step {
            operation: Operation::Put(class.entry(middle(t, pair))),
            why,
            provides,
            requires,
        });
    }
    steps
}

fn middle(t: &Transition<'_>, pair: Pair) -> Identity {
    t.middle.get(&pair).copied().unwrap_or(pair.1)
}

/// From intermediate identities to the final ones.
fn settling_steps(t: &Transition<'_>) -> Vec<Step> {
    let detour = |class: &&Class| middle(t, (class.old, class.new)) != class.new;
    let step = |class: &Class| Step {
        operation: Operation::Put(class.entry(class.new)),
        why: "no endpoint uses an old slot any more: the intermediate identity has done its work",
        provides: vec![
            class.unit(),
            Unit::Left(middle(t, (class.old, class.new))),
            Unit::Settled,
        ],
        requires: vec![class.unit(), Unit::Flips, Unit::Identity(class.new), Unit::Grace],
    };
    t.classes.iter().filter(detour).map(step).collect()
}

/// An endpoint's record right after its flip, and the final one. They differ where a double or an intermediate identity
/// was needed.
fn records(t: &Transition<'_>, ifindex: u32, wanted: &EndpointRecord) -> (EndpointRecord, EndpointRecord) {
    let (early, late) = (
        t.observed.generation.wrapping_add(1),
        t.observed.generation.wrapping_add(2),
    );
    let held = t.observed.endpoints.get(&ifindex);
    let side = |direction: Direction| {
        let slot = wanted.slot_ref(direction).slot();
        if t.enters(ifindex, direction).is_some() {
            let first = t.doubles.get(&slot).copied().unwrap_or(slot);
            return (SlotRef::new(first, early), SlotRef::new(slot, early));
        }
        let before = held.map_or(early, |record| record.slot_ref(direction).generation());
        let changes = t
            .middle
            .keys()
            .any(|pair| pair.0 != pair.1 && t.differs(slot, *pair));
        // In a slot that others leave, a verdict that changes does so when intermediate identities go.
        let at_the_end = changes && t.leaving.contains_key(&slot);
        let first = if t.observed.rejudge.contains(&ifindex) || (changes && !at_the_end) {
            early
        } else {
            before
        };
        (
            SlotRef::new(slot, first),
            SlotRef::new(slot, if at_the_end { late } else { first }),
        )
    };
    let [ingress, egress] = Direction::ALL.map(side);
    let with = |ingress, egress| EndpointRecord {
        ingress,
        egress,
        ..*wanted
    };
    (with(ingress.0, egress.0), with(ingress.1, egress.1))
}

/// Endpoints leave their old slots: those that go first, those that open last.
fn flip_steps(t: &Transition<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    for (ifindex, record) in &t.observed.endpoints {
        if !t.desired.endpoints.contains_key(ifindex) {
            let provides = flip_units(*ifindex, record);
            let (operation, why) = (
                Operation::Delete(Key::Endpoint(*ifindex)),
                "closing before opening",
            );
            steps.push(Step {
                operation,
                why,
                provides,
                requires: Vec::new(),
            });
        }
    }
    let opens = |ifindex: u32, record: &EndpointRecord| {
        let open = |direction: &Direction| {
            let slot = t.desired.slots.get(&record.slot_ref(*direction).slot());
            t.enters(ifindex, *direction).is_some()
                && slot.is_some_and(|slot| slot.flags & SlotRecord::OPEN != 0)
        };
        Direction::ALL.iter().filter(|direction| open(direction)).count()
    };
    let mut order: Vec<_> = t.desired.endpoints.iter().collect();
    order.sort_by_key(|(ifindex, record)| opens(**ifindex, record));
    let mut rests: BTreeMap<u32, Vec<Unit>> = BTreeMap::new();
    for (ifindex, wanted) in order {
        let (first, _) = records(t, *ifindex, wanted);
        let held = t.observed.endpoints.get(ifindex);
        if held == Some(&first) {
            continue;
        }
        let mut requires = Vec::new();
        for direction in Direction::ALL {
            if let Some(slot) = t.enters(*ifindex, direction) {
                requires.extend(
                    rests
                        .entry(slot)
                        .or_insert_with(|| entering(t, slot))
                        .iter()
                        .copied(),
                );
            }
        }
        let why = match held {
            None => "a new endpoint: closed until now",
            Some(held) if same_slots(held, &first) => {
                "connections are judged again: a peer's verdict changed"
            }
            Some(_) => "the endpoint changes policy, in one write",
        };
        let provides = held.map_or_else(
            || vec![Unit::Endpoint(*ifindex)],
            |held| flip_units(*ifindex, held),
        );
        steps.push(Step {
            operation: Operation::Put(Entry::Endpoint(*ifindex, first)),
            why,
            provides,
            requires,
        });
    }
    steps
}

fn same_slots(a: &EndpointRecord, b: &EndpointRecord) -> bool {
    Direction::ALL
        .iter()
        .all(|direction| a.slot_ref(*direction).slot() == b.slot_ref(*direction).slot())
}

fn flip_units(ifindex: u32, held: &EndpointRecord) -> Vec<Unit> {
    let emptied = Direction::ALL.map(|direction| Unit::Emptied(held.slot_ref(direction).slot()));
    [Unit::Endpoint(ifindex), Unit::Flips]
        .into_iter()
        .chain(emptied)
        .collect()
}

/// What entering a slot rests on: its contents, and every move without which the slot would allow more than it should.
fn entering(t: &Transition<'_>, slot: u32) -> Vec<Unit> {
    let double = t.doubles.get(&slot);
    let mut units = vec![Unit::Slot(*double.unwrap_or(&slot))];
    for pair in t.middle.keys() {
        let fresh = double.is_some() || !t.observed.slots.contains_key(&slot);
        let of_old = if fresh || t.live.contains(&pair.0) {
            t.after.says(slot, pair.0)
        } else {
            t.before.says(slot, pair.0)
        };
        if !of_old.within(&t.after.says(slot, pair.1)) {
            units.push(Unit::Move(pair.0, pair.1));
        }
    }
    units
}

/// From doubles to the slots proper; generations for verdicts that changed while settling.
fn late_steps(t: &Transition<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    for (ifindex, wanted) in &t.desired.endpoints {
        let (first, last) = records(t, *ifindex, wanted);
        if first == last {
            continue;
        }
        let mut provides = vec![Unit::Endpoint(*ifindex)];
        let mut requires = vec![Unit::Endpoint(*ifindex)];
        for direction in Direction::ALL {
            let (from, to) = (first.slot_ref(direction).slot(), last.slot_ref(direction).slot());
            if from != to {
                provides.push(Unit::Emptied(from));
                requires.extend([Unit::Slot(to), Unit::Settled, Unit::Grace]);
            }
        }
        let why = "the final record, now that intermediate identities are gone";
        steps.push(Step {
            operation: Operation::Put(Entry::Endpoint(*ifindex, last)),
            why,
            provides,
            requires,
        });
    }
    steps
}

/// What nobody looks at any more.
fn removal_steps(t: &Transition<'_>, of_the_way: &BTreeMap<VerdictKey, VerdictEntry>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut delete = |key, why, requires| {
        steps.push(Step {
            operation: Operation::Delete(key),
            why,
            provides: Vec::new(),
            requires,
        });
    };
    for class in t
        .classes
        .iter()
        .filter(|class| !class.wanted && class.held.is_some())
    {
        let mut requires = vec![class.unit()];
        requires.extend(class.around.map(Unit::Prefix));
        if let Place::Prefix(prefix) = class.place {
            requires.push(Unit::Inside(prefix));
        }
        delete(class.key(), "the prefix around it says the same", requires);
    }
    let unused = |key: &VerdictKey| {
        if t.keeps(key.slot) {
            Unit::Left(key.identity)
        } else {
            Unit::Emptied(key.slot)
        }
    };
    let unwanted = of_the_way
        .keys()
        .filter(|key| !t.desired.verdicts.contains_key(key));
    let all: BTreeSet<&VerdictKey> = gone(t).chain(unwanted).collect();
    for key in all {
        if !falls_back(t, of_the_way, key) {
            let why = "no address has the identity, or no endpoint the slot";
            delete(Key::Verdict(*key), why, vec![unused(key), Unit::Grace]);
        }
    }
    for slot in t
        .observed
        .slots
        .keys()
        .chain(t.doubles.values())
        .filter(|slot| !t.keeps(**slot))
    {
        delete(
            Key::Slot(*slot),
            "no endpoint has the slot",
            vec![Unit::Emptied(*slot), Unit::Grace],
        );
    }
    let ports: Vec<&PortsKey> = changed(&t.observed.ports, &t.desired.ports)
        .filter_map(|(key, _, page)| page.is_none().then_some(key))
        .collect();
    let mut users: BTreeMap<u32, BTreeSet<Unit>> =
        ports.iter().map(|key| (key.set, BTreeSet::new())).collect();
    let entries = [&t.observed.verdicts, of_the_way];
    for (key, entry) in entries.into_iter().flatten().filter(|_| !ports.is_empty()) {
        // An entry that stays but names another set now: only if writing it succeeded.
        if let Some(units) = users.get_mut(&entry.port_set) {
            units.extend([unused(key), Unit::Slot(key.slot), Unit::Grace]);
        }
    }
    for key in ports {
        let requires = users.get(&key.set).into_iter().flatten().copied().collect();
        delete(Key::Ports(*key), "no entry names the port set", requires);
    }
    steps
}
