//! Properties of plans: whatever the worlds, no packet meets anything between the old and the new.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use proptest::{prelude::*, sample::Index};
use vethwall_common::{
    Direction,
    address::Addr,
    endpoint::EndpointRecord,
    entry::Entry,
    identity::{AddressEntry, PrefixEntry},
};

use super::{Operation, Step, execute, plan};
use crate::{
    compile::compile,
    model::Object,
    numbers::Numbers,
    reader,
    state::State,
    tests::random::{OTHERS, PACKETS, PODS, Parts, change, parts},
    tests::world::{endpoint, ip, namespace, pod},
    world::World,
};

/// Verdicts of every packet: by endpoint, direction, peer (and whether it was masqueraded), packet.
type Verdicts = BTreeMap<(u32, Direction, IpAddr, bool, usize), u8>;

fn verdicts(state: &State, ifindices: &BTreeSet<u32>) -> Verdicts {
    let mut all = Verdicts::new();
    for peer in PODS.iter().chain(&OTHERS).map(|address| ip(address)) {
        let by_prefix = reader::prefix_identity(state, Addr::from(peer));
        for (identity, masqueraded) in [(reader::identity(state, peer), false), (by_prefix, true)] {
            for &ifindex in ifindices {
                for direction in Direction::ALL {
                    for (i, (protocol, port)) in PACKETS.iter().enumerate() {
                        let slot = |record: &EndpointRecord| record.slot_ref(direction).slot();
                        let slot = state.endpoints.get(&ifindex).map_or(0, slot);
                        let allow = reader::slot(state, slot, identity, *protocol, *port).0;
                        all.insert((ifindex, direction, peer, masqueraded, i), allow);
                    }
                }
            }
        }
    }
    all
}

fn ifindices(states: &[&State]) -> BTreeSet<u32> {
    states
        .iter()
        .flat_map(|state| state.endpoints.keys())
        .copied()
        .collect()
}

fn apply(state: &mut State, step: &Step) {
    match step.operation {
        Operation::Put(entry) => state.put(entry),
        Operation::Delete(key) => state.delete(&key),
        Operation::Grace => {}
    }
}

/// Whether an address counts as a pod's, by its own entry or by the prefix around it.
fn is_pods(state: &State, address: Addr) -> bool {
    let by_prefix = || {
        let mut longest_first = state.prefixes.iter().rev();
        let around = longest_first.find(|(prefix, _)| prefix.contains(address));
        around.is_some_and(|(_, entry)| entry.flags & PrefixEntry::POD_NETWORK != 0)
    };
    let own = state.addresses.get(&address);
    own.map_or_else(by_prefix, |entry| entry.flags & AddressEntry::POD != 0)
}

/// Walks the plan. After every step each packet meets the old verdict or the new one; and a flow, which keeps its
/// admission while the generation stays, is judged again after its verdict has changed.
pub(super) fn check(observed: &State, desired: &State) -> Result<(), TestCaseError> {
    let ifindices = ifindices(&[observed, desired]);
    let (old, new) = (verdicts(observed, &ifindices), verdicts(desired, &ifindices));
    let steps = plan(observed, desired);
    let mut last = observed.clone();
    steps.iter().for_each(|step| apply(&mut last, step));
    prop_assert_eq!(
        last.without_generations(),
        desired.without_generations(),
        "the plan does not arrive"
    );

    let generation = |state: &State, ifindex: u32, direction| {
        state
            .endpoints
            .get(&ifindex)
            .map(|record| record.slot_ref(direction).generation())
    };
    check_programs(observed, &steps, &last, &[&old, &new])?;
    let mut state = observed.clone();
    let mut before = old.clone();
    for step in &steps {
        for (packet, allow) in &before {
            let (ifindex, direction, ..) = *packet;
            let now = generation(&state, ifindex, direction);
            prop_assert!(
                *allow == new[packet] || now.is_none() || now != generation(&last, ifindex, direction),
                "{packet:?} is admitted by {allow} for good before {step:?} of {steps:#?}"
            );
        }
        if let Operation::Put(Entry::Address(address, entry)) = step.operation {
            let pods = entry.flags & AddressEntry::POD != 0;
            prop_assert!(
                pods == is_pods(observed, address) || pods == is_pods(desired, address),
                "{address:?} is neither what it was nor what it will be after {step:?}"
            );
        }
        apply(&mut state, step);
        let now = verdicts(&state, &ifindices);
        for (packet, allow) in &now {
            let (old, new) = (old[packet], new[packet]);
            prop_assert!(
                *allow == old || *allow == new,
                "{packet:?}: {old} to {new} meets {allow} after {step:?} of {steps:#?}"
            );
            prop_assert!(
                before[packet] == old || *allow == new,
                "{packet:?} goes back after {step:?}"
            );
        }
        before = now;
    }
    Ok(())
}

/// Walks the plan with programs on their way: what they read of a pod's record and of a peer's identity may be as old as
/// the last grace when they read the answer.
fn check_programs(
    observed: &State,
    steps: &[Step],
    last: &State,
    [old, new]: &[&Verdicts; 2],
) -> Result<(), TestCaseError> {
    let slot_ref = |state: &State, ifindex: u32, direction| {
        let record = state.endpoints.get(&ifindex);
        record.map(|record| record.slot_ref(direction))
    };
    let mut since = vec![observed.clone()];
    for step in steps {
        let mut now = since.last().unwrap_or(observed).clone();
        if step.operation == Operation::Grace {
            since = vec![now];
            continue;
        }
        apply(&mut now, step);
        since.push(now.clone());
        let (mut records, mut identities) = (BTreeMap::new(), BTreeMap::new());
        for &packet @ (ifindex, direction, peer, masqueraded, i) in new.keys() {
            let records: &BTreeSet<_> = records.entry((ifindex, direction)).or_insert_with(|| {
                let all = since.iter().map(|state| slot_ref(state, ifindex, direction));
                all.map(|at| at.map(|at| (at.slot(), at.generation()))).collect()
            });
            let identities: &BTreeSet<_> = identities.entry((peer, masqueraded)).or_insert_with(|| {
                let identity = |state| match masqueraded {
                    true => reader::prefix_identity(state, Addr::from(peer)),
                    false => reader::identity(state, peer),
                };
                since.iter().map(identity).collect()
            });
            let admits = slot_ref(last, ifindex, direction).map(|at| at.generation());
            for (record, identity) in records
                .iter()
                .flat_map(|r| identities.iter().map(move |id| (r, id)))
            {
                let (protocol, port) = PACKETS[i];
                let slot = record.map_or(0, |(slot, _)| slot);
                let allow = reader::slot(&now, slot, *identity, protocol, port).0;
                let generation = record.map(|(_, generation)| generation);
                prop_assert!(
                    allow == old[&packet] || allow == new[&packet],
                    "{packet:?} on its way meets {allow} after {step:?} of {steps:#?}"
                );
                prop_assert!(
                    allow == new[&packet] || generation.is_none() || generation != admits,
                    "{packet:?} on its way is admitted by {allow} for good after {step:?} of {steps:#?}"
                );
            }
        }
    }
    Ok(())
}

/// Some operations fail; then everything works again. Returns what the kernel holds in between.
pub(super) fn check_failures(
    observed: &State,
    desired: &State,
    failing: &[Operation],
) -> Result<State, TestCaseError> {
    let ifindices = ifindices(&[observed, desired]);
    let (old, new) = (verdicts(observed, &ifindices), verdicts(desired, &ifindices));
    let (mut states, mut live) = (vec![observed.clone()], observed.clone());
    let outcome = execute(observed, plan(observed, desired), |operation| {
        if failing.contains(operation) {
            return Err(());
        }
        apply(
            &mut live,
            &Step {
                operation: *operation,
                why: "",
                provides: vec![],
                requires: vec![],
            },
        );
        states.push(live.clone());
        Ok(())
    });
    prop_assert_eq!(outcome.complete(), failing.is_empty());
    prop_assert_eq!(
        &State {
            rejudge: BTreeSet::new(),
            ..outcome.observed.clone()
        },
        &live
    );
    // An address that is not moved, because that failed or what it rests on did, may be denied what old and new allow;
    // nothing else goes wrong that way, and nothing ever opens.
    let moves =
        |operation: &Operation| matches!(operation, Operation::Put(Entry::Address(..) | Entry::Prefix(..)));
    let failed = outcome.failures.iter().map(|(step, ())| step);
    let exact = !failed.chain(&outcome.skipped).any(|step| moves(&step.operation));
    let mut admitted = BTreeSet::new();
    for state in &states {
        for (packet, allow) in verdicts(state, &ifindices) {
            let (ifindex, direction, ..) = packet;
            let either = old[&packet] | new[&packet];
            prop_assert!(
                allow & !either == 0,
                "{packet:?} opened: {} to {} meets {allow}",
                old[&packet],
                new[&packet]
            );
            prop_assert!(
                !exact || allow == old[&packet] || allow == new[&packet],
                "{packet:?}: {} to {} meets {allow}",
                old[&packet],
                new[&packet]
            );
            // A denial admits no flow.
            let admits = allow & !new[&packet] != 0;
            if let (Some(record), true) = (state.endpoints.get(&ifindex), admits) {
                admitted.insert((ifindex, direction, record.slot_ref(direction).generation()));
            }
        }
    }
    // The next plan makes up for it, without a moment in between either.
    check(&outcome.observed, desired)?;
    let last = execute(&outcome.observed, plan(&outcome.observed, desired), |_| {
        Ok::<_, ()>(())
    })
    .observed;
    for (ifindex, record) in &last.endpoints {
        for direction in Direction::ALL {
            let flow = (*ifindex, direction, record.slot_ref(direction).generation());
            prop_assert!(
                !admitted.contains(&flow),
                "{flow:?} keeps an admission that failures left behind"
            );
        }
    }
    Ok(outcome.observed)
}

fn compiled(parts: &Parts, numbers: &mut Numbers) -> State {
    compile(&parts.world(), numbers).state
}

/// x/one (7) and x/two (8) in namespace x of this node, app=`one` and app=`two`.
pub(super) fn two_pods(one: &str, two: &str) -> World {
    let mut world = World::new("n1");
    world.apply(namespace("x", &[]));
    for (ifindex, name, address, app) in [(7, "x/one", "10.0.0.1", one), (8, "x/two", "10.0.0.2", two)] {
        let pod = pod(name, address, &[("app", app)]);
        world.attach(endpoint(ifindex, &pod));
        world.apply(Object::Pod(pod));
    }
    world
}

/// As after an agent that ran for a while: through an earlier plan, so generations are not zero.
pub(super) fn observe(desired: &State) -> State {
    let steps = plan(&State::default(), desired);
    execute(&State::default(), steps, |_| Ok::<_, ()>(())).observed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn an_agent_that_runs_changes_policy_without_a_moment_in_between((before, after) in change()) {
        let mut numbers = Numbers::default();
        let observed = observe(&compiled(&before, &mut numbers));
        numbers.release(&observed);
        let desired = compiled(&after, &mut numbers);
        check(&observed, &desired)?;
    }

    #[test]
    fn an_agent_that_restarts_adopts_foreign_numbers_without_a_moment_in_between((before, after) in change()) {
        let observed = observe(&compiled(&before, &mut Numbers::default()));
        let foreign: State = observed.entries().collect();
        let desired = compiled(&after, &mut Numbers::above(&foreign));
        check(&foreign, &desired)?;
    }

    #[test]
    fn a_failure_never_opens_and_is_made_up_for(
        (before, after) in change(),
        failing in proptest::collection::vec((0usize..4, any::<Index>()), 1..=2),
        restarted in prop::bool::ANY,
    ) {
        let mut numbers = Numbers::default();
        let observed = observe(&compiled(&before, &mut numbers));
        if restarted {
            numbers = Numbers::above(&observed);
        }
        let desired = compiled(&after, &mut numbers);
        let steps = plan(&observed, &desired);
        let kind = |operation: &Operation| match operation {
            Operation::Put(Entry::Address(..) | Entry::Prefix(..)) => 0,
            Operation::Put(Entry::Endpoint(..)) => 1,
            Operation::Put(Entry::Verdict(..) | Entry::Slot(..) | Entry::Ports(..)) => 2,
            Operation::Delete(_) | Operation::Grace => 3,
        };
        let pick = |(wanted, index): (usize, Index)| {
            let all: Vec<Operation> =
                steps.iter().map(|step| step.operation).filter(|operation| kind(operation) == wanted).collect();
            (!all.is_empty()).then(|| *index.get(&all))
        };
        let failing: Vec<Operation> = failing.into_iter().filter_map(pick).collect();
        let left = check_failures(&observed, &desired, &failing)?;
        // Or policy goes back, before anything was made up for.
        numbers.release(&left);
        check(&left, &compiled(&before, &mut numbers))?;
    }

    #[test]
    fn nothing_is_left_to_do_after_a_plan(world in parts()) {
        let desired = compiled(&world, &mut Numbers::default());
        let observed = observe(&desired);
        prop_assert_eq!(plan(&observed, &desired), vec![]);
    }
}
