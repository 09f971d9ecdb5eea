//! What a compiler remembers shows in nothing but time.

use std::collections::BTreeSet;

use proptest::{prelude::*, sample::Index, strategy::ValueTree as _};

use vethwall_common::{
    Direction::{Egress, Ingress},
    address::Addr,
    identity::Identity,
};

use crate::{
    compile::{Compiled, Compiler, compile, compile_within},
    limits::Limits,
    model::{Mode, NetworkPolicy, Object, Peer, Pod, PortMatch, RuleAction},
    numbers::Numbers,
    plan::{execute, plan},
    reader::lookup,
    state::State,
    tests::compile::meaning,
    tests::random::{Parts, parts},
    tests::small::{WEB, egress, ingress, with, world},
    tests::world::{TCP, acts, admin, block, endpoint, ip, pod, port, rule, selector, tcp, within},
    world::World,
};

/// One event on the way from one world to another: an object or interface of the other, the loss of an own one, or another
/// mode.
fn event(world: &mut World, of: &Parts, to: &Parts, which: Index) {
    let (there, here) = (
        to.objects.len() + to.endpoints.len(),
        of.objects.len() + of.endpoints.len(),
    );
    let n = which.index(there + here + 1);
    if let Some(object) = to.objects.get(n) {
        world.apply(object.clone());
    } else if let Some(endpoint) = n.checked_sub(to.objects.len()).and_then(|n| to.endpoints.get(n)) {
        world.attach(endpoint.clone());
    } else if let Some(object) = of.objects.get(n - there) {
        world.delete(&object.key());
    } else if let Some(endpoint) = of.endpoints.get(n - there - of.objects.len()) {
        world.detach(endpoint.ifindex);
    } else {
        world.set_mode(match world.mode_of(None) {
            Mode::Enforce => Mode::Audit,
            Mode::Audit => Mode::Enforce,
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn after_every_event_it_says_what_a_compiler_without_a_past_says(
        first in parts(),
        second in parts(),
        events in proptest::collection::vec(any::<Index>(), 1..16),
        tight in prop::bool::weighted(0.3),
    ) {
        let limits = if tight {
            Limits { verdicts: 6, port_pages: 3, addresses: 6, prefixes: 2, namespaces: 2 }
        } else {
            Limits::default()
        };
        let mut world = first.world();
        let mut compiler = Compiler::default().within(limits);
        let mut observed = State::default();
        for which in events {
            let compiled = compiler.compile(&world);
            let fresh = compile_within(&world, &mut Numbers::default(), &limits);
            prop_assert_eq!(meaning(&world, &compiled), meaning(&world, &fresh));
            prop_assert_eq!(&compiled.problems, &fresh.problems);
            prop_assert_eq!(&compiler.compile(&world), &compiled, "and once more says the same");
            // As the agent does: numbers that are free go to other meanings.
            let steps = plan(&observed, &compiled.state);
            observed = execute(&observed, steps, |_| Ok::<_, ()>(())).observed;
            prop_assert_eq!(observed.without_generations(), compiled.state.without_generations());
            compiler.release(&observed);
            event(&mut world, &first, &second, which);
        }
    }
}

#[test]
fn a_compiler_may_be_shown_another_world() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut compiler = Compiler::default();
    for _ in 0..40 {
        let world = parts().new_tree(&mut runner).unwrap().current().world();
        let compiled = compiler.compile(&world);
        let fresh = compile(&world, &mut Numbers::default());
        assert_eq!(meaning(&world, &compiled), meaning(&world, &fresh));
        compiler.release(&compiled.state);
    }
}

#[test]
fn an_interface_that_passes_to_another_pod_takes_nothing_along() {
    let mut world = with(world(), &[ingress(vec![])]);
    let mut compiler = Compiler::default();
    let isolates =
        |compiled: &Compiled| lookup(&compiled.state, WEB, Ingress, ip("8.8.8.8"), TCP, 80).allow == 0;
    assert!(
        isolates(&compiler.compile(&world)),
        "x/web, whom a policy selects"
    );
    world.attach(endpoint(WEB, world.pod("x", "db").unwrap()));
    world.detach(8);
    assert!(!isolates(&compiler.compile(&world)), "x/db, whom none does");
}

#[test]
fn what_is_no_longer_asked_for_tells_nobody_apart() {
    let by = |name: &str, labels: &[(&str, &str)]| NetworkPolicy {
        name: name.to_owned(),
        ..ingress(vec![rule(&[within(&[], labels)], &[tcp(80, 80)])])
    };
    // Both clients are clients; the one in y is of team y too.
    let clients = by("clients", &[("app", "client")]);
    let teams = NetworkPolicy {
        name: "teams".to_owned(),
        ..ingress(vec![rule(&[within(&[("team", "y")], &[])], &[tcp(81, 81)])])
    };
    let mut world = with(world(), &[clients.clone(), teams.clone()]);
    let mut compiler = Compiler::default();
    let identities = |compiled: &Compiled| {
        ["10.0.1.1", "10.0.1.2"].map(|address| compiled.state.addresses[&Addr::from(ip(address))].identity)
    };
    let [x, y] = identities(&compiler.compile(&world));
    assert_ne!(x, y);
    world.delete(&Object::NetworkPolicy(teams).key());
    let [x, y] = identities(&compiler.compile(&world));
    assert_eq!(x, y);
    world.delete(&Object::NetworkPolicy(clients).key());
    let last = compiler.compile(&world).state;
    assert!(!last.addresses.contains_key(&Addr::from(ip("10.0.1.1"))));
}

#[test]
fn what_is_asked_for_anew_is_found_among_pods_that_answered_already() {
    // In one namespace a, c and e answer an old policy; b and d begin to answer, and so does c once more.
    let allows = |name: &str, labels: &[(&str, &str)], port: u16| NetworkPolicy {
        name: name.to_owned(),
        ..ingress(vec![rule(&[within(&[], labels)], &[tcp(port, port)])])
    };
    let old = allows("old", &[("old", "yes")], 80);
    let mut world = with(world(), std::slice::from_ref(&old));
    let clients = ["a", "b", "c", "d", "e"];
    for (n, name) in clients.iter().enumerate() {
        let mut labels = vec![];
        labels.extend("ace".contains(name).then_some(("old", "yes")));
        labels.extend("bcd".contains(name).then_some(("new", "yes")));
        world.apply(Object::Pod(pod(
            &format!("w/{name}"),
            &format!("10.0.2.{n}"),
            &labels,
        )));
    }
    let mut compiler = Compiler::default();
    let allowed = |compiled: &Compiled, port| {
        let lookup = |n| {
            lookup(
                &compiled.state,
                WEB,
                Ingress,
                ip(&format!("10.0.2.{n}")),
                TCP,
                port,
            )
        };
        let who = clients.iter().enumerate().filter(|(n, _)| lookup(*n).allow != 0);
        who.map(|(_, name)| *name).collect::<String>()
    };
    let before = compiler.compile(&world);
    assert_eq!(
        (allowed(&before, 80), allowed(&before, 81)),
        ("ace".to_owned(), String::new())
    );
    world.apply(Object::NetworkPolicy(allows("new", &[("new", "yes")], 81)));
    let after = compiler.compile(&world);
    assert_eq!(
        (allowed(&after, 80), allowed(&after, 81)),
        ("ace".to_owned(), "bcd".to_owned())
    );
    world.delete(&Object::NetworkPolicy(old).key());
    let last = compiler.compile(&world);
    assert_eq!(
        (allowed(&last, 80), allowed(&last, 81)),
        (String::new(), "bcd".to_owned())
    );
}

#[test]
fn a_namespace_that_is_gone_takes_its_addresses_along() {
    // Its neighbours by name stay: what is remembered of one must not pass to another.
    let from_anywhere = rule(&[within(&[], &[("app", "client")])], &[tcp(80, 80)]);
    let mut world = with(world(), &[ingress(vec![from_anywhere])]);
    for (n, namespace) in ["m", "n", "o"].iter().enumerate() {
        let client = pod(
            &format!("{namespace}/c"),
            &format!("10.0.3.{n}"),
            &[("app", "client")],
        );
        world.apply(Object::Pod(client));
    }
    let mut compiler = Compiler::default();
    compiler.compile(&world);
    world.delete(&Object::Pod(pod("n/c", "10.0.3.1", &[])).key());
    let compiled = compiler.compile(&world);
    let has_entry = |n| {
        compiled
            .state
            .addresses
            .contains_key(&Addr::from(ip(&format!("10.0.3.{n}"))))
    };
    assert_eq!([0, 1, 2].map(has_entry), [true, false, true]);
    assert_eq!(
        meaning(&world, &compiled),
        meaning(&world, &compile(&world, &mut Numbers::default()))
    );
}

#[test]
fn a_named_port_that_is_asked_for_anew_is_found() {
    let named = PortMatch::Named {
        protocol: TCP,
        name: "http".to_owned(),
    };
    let mut world = with(world(), &[egress(vec![])]);
    let mut compiler = Compiler::default();
    let reaches = |compiled: &Compiled, port| {
        lookup(&compiled.state, WEB, Egress, ip("10.0.1.2"), TCP, port).allow != 0
    };
    let before = compiler.compile(&world);
    assert!(!reaches(&before, 82));
    // y/client and its namespace do not change; somebody asks what its ports are called.
    let asks = egress(vec![rule(&[within(&[("team", "y")], &[])], &[named])]);
    world.apply(Object::NetworkPolicy(asks));
    let after = compiler.compile(&world);
    assert!(reaches(&after, 82) && !reaches(&after, 81));
    world.apply(Object::NetworkPolicy(egress(vec![])));
    assert!(!reaches(&compiler.compile(&world), 82));
}

#[test]
fn what_takes_from_pods_asks_for_those_that_answer_nothing() {
    // The same selector, first to allow, then to deny as well: from here on it matters who certainly is no client.
    let clients = || within(&[], &[("app", "client")]);
    let mut world = with(
        world(),
        &[ingress(vec![rule(&[clients(), block("0.0.0.0/0", &[])], &[])])],
    );
    let deny = Object::ClusterNetworkPolicy(admin("deny", 1, vec![acts(RuleAction::Deny, clients())]));
    let mut compiler = Compiler::default();
    let allowed =
        |compiled: &Compiled, peer| lookup(&compiled.state, WEB, Ingress, ip(peer), TCP, 80).allow != 0;
    let all = |compiled: &Compiled| ["10.0.1.1", "10.0.1.3", "10.0.1.77"].map(|peer| allowed(compiled, peer));
    assert_eq!(all(&compiler.compile(&world)), [true; 3]);
    world.apply(deny.clone());
    assert_eq!(
        all(&compiler.compile(&world)),
        [false, true, false],
        "a client, z/odd, a pod not known"
    );
    world.delete(&deny.key());
    let last = compiler.compile(&world);
    assert_eq!(all(&last), [true; 3]);
    assert_eq!(
        meaning(&world, &last),
        meaning(&world, &compile(&world, &mut Numbers::default()))
    );
}

#[test]
fn an_address_of_several_pods_goes_to_the_one_that_is_left_and_to_nobody_before() {
    let clients = rule(&[within(&[], &[("app", "client")])], &[]);
    let mut world = with(world(), &[ingress(vec![clients])]);
    let shared = "10.0.3.1";
    let claim = |name: &str, app: &str| Object::Pod(pod(name, shared, &[("app", app)]));
    for object in [
        claim("m/one", "client"),
        claim("n/two", "client"),
        claim("o/three", "db"),
    ] {
        world.apply(object);
    }
    let mut compiler = Compiler::default();
    let enters = |compiled: &Compiled| lookup(&compiled.state, WEB, Ingress, ip(shared), TCP, 80).allow != 0;
    assert!(!enters(&compiler.compile(&world)), "one of three is no client");
    world.delete(&claim("n/two", "").key());
    assert!(!enters(&compiler.compile(&world)), "one of two is no client");
    world.delete(&claim("o/three", "").key());
    assert!(enters(&compiler.compile(&world)));
}

#[test]
fn what_is_remembered_of_a_namespace_stays_its_own_when_its_neighbour_goes() {
    let clients = rule(&[within(&[], &[("app", "client")])], &[]);
    let mut world = with(world(), &[ingress(vec![clients])]);
    let (shared, client) = ("10.0.3.1", [("app", "client")]);
    world.apply(Object::Pod(pod("m/gone", "10.0.3.2", &client)));
    world.apply(Object::Pod(pod("n/stays", shared, &client)));
    let mut compiler = Compiler::default();
    compiler.compile(&world);
    world.delete(&Object::Pod(pod("m/gone", "", &[])).key());
    compiler.compile(&world);
    // Another pod has the address for a while.
    let also = Object::Pod(pod("o/also", shared, &[]));
    world.apply(also.clone());
    compiler.compile(&world);
    world.delete(&also.key());
    let compiled = compiler.compile(&world);
    assert_ne!(
        lookup(&compiled.state, WEB, Ingress, ip(shared), TCP, 80).allow,
        0
    );
}

#[test]
fn an_identity_that_nobody_has_any_more_is_gone() {
    let clients = rule(&[within(&[], &[("role", "rare")])], &[]);
    let mut world = with(world(), &[ingress(vec![clients])]);
    let mut compiler = Compiler::default();
    let before = compiler.compile(&world);
    let rare = Object::Pod(pod("m/rare", "10.0.3.1", &[("role", "rare")]));
    world.apply(rare.clone());
    let with = compiler.compile(&world);
    assert!(with.state.verdicts.len() > before.state.verdicts.len());
    world.delete(&rare.key());
    let after = compiler.compile(&world);
    assert_eq!(after.state, before.state);
    assert_eq!(after.identities, before.identities);
}

#[test]
fn an_identity_keeps_its_number_while_it_waits_for_the_kernel() {
    let clients = rule(&[within(&[], &[("role", "rare")])], &[]);
    let mut world = with(world(), &[ingress(vec![clients])]);
    let mut compiler = Compiler::default();
    let identity = |compiled: &Compiled, n: u8| {
        let address = Addr::from(ip(&format!("10.0.3.{n}")));
        compiled.state.addresses[&address].identity
    };
    let join = |world: &mut World, n: u8| {
        let (name, address) = (format!("{n}/rare"), format!("10.0.3.{n}"));
        world.apply(Object::Pod(pod(&name, &address, &[("role", "rare")])));
    };
    join(&mut world, 1);
    let first = compiler.compile(&world);
    let again = compiler.compile(&world);
    // Nothing could be written.
    compiler.release(&State::default());
    join(&mut world, 2);
    let last = compiler.compile(&world);
    assert_eq!(identity(&first, 1), identity(&again, 1));
    assert_eq!([1, 2].map(|n| identity(&last, n)), [identity(&first, 1); 2]);
}

#[test]
fn a_block_that_is_asked_for_anew_finds_the_pods_inside() {
    // The clients answer a selector before and after, and nothing changes in the namespace of the second.
    let by = |name: &str, peer: Peer| NetworkPolicy {
        name: name.to_owned(),
        ..ingress(vec![rule(&[peer], &[tcp(80, 80)])])
    };
    let mut world = with(
        world(),
        &[NetworkPolicy {
            name: "clients".to_owned(),
            ..ingress(vec![rule(&[within(&[], &[("app", "client")])], &[tcp(81, 81)])])
        }],
    );
    let mut compiler = Compiler::default();
    let enters = |compiled: &Compiled| {
        ["10.0.1.1", "10.0.1.2"]
            .map(|peer| lookup(&compiled.state, WEB, Ingress, ip(peer), TCP, 80).allow != 0)
    };
    assert_eq!(enters(&compiler.compile(&world)), [false, false]);
    let inside = by("inside", block("10.0.1.2/32", &[]));
    world.apply(Object::NetworkPolicy(inside.clone()));
    assert_eq!(enters(&compiler.compile(&world)), [false, true]);
    world.delete(&Object::NetworkPolicy(inside).key());
    assert_eq!(enters(&compiler.compile(&world)), [false, false]);
}

#[test]
fn what_a_slot_has_keeps_its_numbers_while_it_waits_for_the_kernel() {
    // Too many ports for an entry: they stand in pages, which have a number.
    let many = |of: &[(&str, &str)]| NetworkPolicy {
        pod_selector: selector(of),
        ..ingress(vec![rule(&[], &[0, 2, 4, 6, 8, 10].map(|n| tcp(80 + n, 80 + n)))])
    };
    let other = NetworkPolicy {
        name: "other".to_owned(),
        pod_selector: selector(&[("app", "db")]),
        ..ingress(vec![])
    };
    let mut world = with(world(), &[many(&[("app", "web")]), other]);
    let mut compiler = Compiler::default();
    compiler.compile(&world);
    compiler.compile(&world);
    // Nothing could be written.
    compiler.release(&State::default());
    // Another slot, for x/db, says the same by the same rule.
    world.apply(Object::NetworkPolicy(many(&[])));
    let state = compiler.compile(&world).state;
    let sets: BTreeSet<u32> = state.ports.keys().map(|key| key.set).collect();
    assert_eq!(sets.len(), 1);
    let [web, db] = [WEB, 8].map(|of| lookup(&state, of, Ingress, ip("8.8.8.8"), TCP, 80).cookie);
    assert_eq!(web, db);
}

#[test]
fn what_is_remembered_of_a_pod_is_remembered_of_each_of_its_addresses() {
    // What its ports are called is asked only of those in a block.
    let named = PortMatch::Named {
        protocol: TCP,
        name: "sql".to_owned(),
    };
    let mut world = with(
        world(),
        &[egress(vec![rule(&[block("10.0.0.0/24", &[])], &[named])])],
    );
    world.apply(Object::Pod(Pod {
        ports: vec![port("sql", TCP, 5432)],
        ..world.pod("x", "db").unwrap().clone()
    }));
    let state = Compiler::default().compile(&world).state;
    let reaches = |address| lookup(&state, WEB, Egress, ip(address), TCP, 5432).allow != 0;
    assert_eq!(["10.0.0.2", "fd00::2"].map(reaches), [true, false]);
    let identity = |address| state.addresses[&Addr::from(ip(address))].identity;
    assert_eq!(
        ["10.0.0.2", "fd00::2"].map(|address| identity(address) == Identity::WORLD),
        [false, true]
    );
}
