//! What a plan does first, and what it leaves alone.

use vethwall_common::{
    address::Addr,
    entry::{Entry, Key},
};

use super::{
    Operation, Step, execute, plan,
    tests::{observe, two_pods},
};
use crate::{
    compile::compile,
    model::{NetworkPolicy, Object},
    numbers::Numbers,
    state::State,
    tests::world::{endpoint, own, pod, policy, rule, tcp},
    world::World,
};

/// x/one (7) and x/two (8), a client, and policies that let `role=client` in to pods of app=web or app=db.
fn world(one: &str, two: &str, client: &str) -> World {
    let mut world = two_pods(one, two);
    world.apply(Object::Pod(pod("x/client", "10.0.1.1", &[("role", client)])));
    // Somebody else has the role, so that its identity does not come and go with the client.
    world.apply(Object::Pod(pod("x/other", "10.0.1.2", &[("role", "client")])));
    for app in ["web", "db"] {
        world.apply(Object::NetworkPolicy(NetworkPolicy {
            ingress: Some(vec![rule(&[own(&[("role", "client")])], &[tcp(80, 80)])]),
            ..policy(&format!("x/{app}"), &[("app", app)])
        }));
    }
    world
}

fn steps(before: &World, after: &World) -> Vec<Step> {
    let mut numbers = Numbers::default();
    let observed = observe(&compile(before, &mut numbers).state);
    plan(&observed, &compile(after, &mut numbers).state)
}

/// The writes of interfaces' records, in their order.
fn flips(steps: &[Step]) -> Vec<(u32, &'static str)> {
    let flip = |step: &Step| match step.operation {
        Operation::Put(Entry::Endpoint(ifindex, _)) | Operation::Delete(Key::Endpoint(ifindex)) => {
            Some((ifindex, step.why))
        }
        Operation::Put(_) | Operation::Delete(_) | Operation::Grace => None,
    };
    steps.iter().filter_map(flip).collect()
}

#[test]
fn who_is_isolated_goes_before_who_is_opened() {
    let flips = flips(&steps(&world("web", "", "client"), &world("", "web", "client")));
    let order: Vec<u32> = flips.iter().map(|(ifindex, _)| *ifindex).collect();
    assert_eq!(order, [8, 7]);
    assert!(
        flips.iter().all(|(_, why)| why.contains("changes policy")),
        "{flips:?}"
    );
}

#[test]
fn connections_of_who_stays_in_a_slot_that_another_leaves_go_on() {
    // Both have the web policy's slot; one leaves it for the db policy's.
    let flips = flips(&steps(
        &world("web", "web", "client"),
        &world("web", "db", "client"),
    ));
    assert_eq!(flips.iter().map(|(ifindex, _)| *ifindex).collect::<Vec<_>>(), [8]);
}

#[test]
fn connections_are_judged_again_where_a_peers_verdict_changes() {
    let flips = flips(&steps(&world("web", "", "client"), &world("web", "", "none")));
    assert_eq!(flips.len(), 1, "{flips:?}");
    assert!(
        flips[0].0 == 7 && flips[0].1.contains("judged again"),
        "{flips:?}"
    );
}

/// The writes of addresses, in their order.
fn moves(steps: &[Step]) -> Vec<Addr> {
    let moved = |step: &Step| match step.operation {
        Operation::Put(Entry::Address(address, _)) => Some(address),
        Operation::Put(_) | Operation::Delete(_) | Operation::Grace => None,
    };
    steps.iter().filter_map(moved).collect()
}

#[test]
fn an_address_goes_to_its_new_identity_at_once_where_that_is_free() {
    let client = Addr::from_v4([10, 0, 1, 1]);
    let of = |before: &World, after: &World| moves(&steps(before, after));
    assert_eq!(
        of(&world("web", "", "none"), &world("web", "", "client")),
        [client]
    );
    // And while x/two leaves a slot that says the same of both.
    let (before, after) = (world("web", "", "none"), world("web", "web", "client"));
    assert_eq!(of(&before, &after), [client]);
}

#[test]
fn a_move_says_whether_the_identity_is_another() {
    let why = |before: &World, after: &World| {
        let all = steps(before, after);
        let mut moved = all
            .iter()
            .filter(|step| matches!(step.operation, Operation::Put(Entry::Address(..))));
        let step = moved.next().unwrap();
        assert!(moved.next().is_none());
        step.why
    };
    let before = world("web", "", "none");
    let mut another_interface = before.clone();
    another_interface.detach(7);
    another_interface.attach(endpoint(9, before.pod("x", "one").unwrap()));
    assert!(why(&before, &another_interface).starts_with("same identity"));
    assert!(why(&before, &world("web", "", "client")).contains("its new identity"));
}

#[test]
fn what_a_slot_says_already_is_not_written_when_it_is_left() {
    // x/one has another interface, and no policy any more. Nobody's verdict is to be written anywhere.
    let before = world("web", "db", "client");
    let mut after = world("", "db", "client");
    after.detach(7);
    after.attach(endpoint(9, after.pod("x", "one").unwrap()));
    let all = steps(&before, &after);
    let written = |step: &Step| matches!(step.operation, Operation::Put(Entry::Verdict(..)));
    assert!(moves(&all).contains(&Addr::from_v4([10, 0, 0, 1])));
    assert!(!all.iter().any(written), "{all:#?}");
}

#[test]
fn nobody_waits_where_nothing_is_on_its_way() {
    let graces = |steps: &[Step]| {
        let grace = |step: &&Step| step.operation == Operation::Grace;
        steps.iter().filter(grace).count()
    };
    let from_nothing = plan(
        &State::default(),
        &compile(&world("web", "", "client"), &mut Numbers::default()).state,
    );
    assert_eq!(
        graces(&from_nothing),
        1,
        "addresses before pods: {from_nothing:#?}"
    );
    // A pod that is new alone: no address moves that it would look at.
    let relabelled = steps(&world("web", "", "client"), &world("web", "web", "client"));
    assert!(
        moves(&relabelled).is_empty() && graces(&relabelled) <= 1,
        "{relabelled:#?}"
    );
}

#[test]
fn who_enters_a_slot_does_not_wait_for_whom_it_would_let_in() {
    let mut numbers = Numbers::default();
    let observed = observe(&compile(&world("web", "", "none"), &mut numbers).state);
    let desired = compile(&world("web", "web", "client"), &mut numbers).state;
    let outcome = execute(
        &observed,
        plan(&observed, &desired),
        |operation| match operation {
            Operation::Put(Entry::Address(..)) => Err(()),
            Operation::Put(_) | Operation::Delete(_) | Operation::Grace => Ok(()),
        },
    );
    assert!(!outcome.complete());
    let slots = |state: &State| [7, 8].map(|ifindex| state.endpoints[&ifindex].ingress.slot());
    assert_eq!(slots(&outcome.observed), slots(&desired));
}
