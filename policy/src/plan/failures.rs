//! Changes in which one failed write could open something, each with every write failing once.

use vethwall_common::{
    endpoint::{EndpointRecord, SlotRef},
    entry::Entry,
    maps::MAX_SLOTS,
};

use super::{
    Operation, Step, plan,
    tests::{check, check_failures, observe, two_pods},
};
use crate::{
    compile::compile,
    model::{ClusterRule, Mode, NetworkPolicy, Object, Peer, PortMatch, Ports, RuleAction},
    numbers::Numbers,
    tests::world::{acts, admin, block, endpoint, namespace, own, pod, policy, rule, tcp, within},
    world::World,
};

/// x/web under policy `p`, x/db under a policy that tells a=1 and a=2 apart, and clients of both kinds.
fn world(rules: &[(Peer, PortMatch)], client: &str) -> World {
    let mut world = World::new("n1");
    let (web, db) = (
        pod("x/web", "10.0.0.1", &[("app", "web")]),
        pod("x/db", "10.0.0.2", &[("app", "db")]),
    );
    world.attach(endpoint(7, &web));
    world.attach(endpoint(8, &db));
    let split = NetworkPolicy {
        ingress: Some(vec![
            rule(&[own(&[("a", "1")])], &[tcp(80, 80)]),
            rule(&[own(&[("a", "2")])], &[tcp(81, 81)]),
        ]),
        ..policy("x/split", &[("app", "db")])
    };
    let rules = rules
        .iter()
        .map(|(peer, port)| rule(std::slice::from_ref(peer), std::slice::from_ref(port)));
    let p = NetworkPolicy {
        ingress: Some(rules.collect()),
        ..policy("x/p", &[("app", "web")])
    };
    for object in [
        namespace("x", &[]),
        Object::Pod(web),
        Object::Pod(db),
        Object::Pod(pod("x/one", "10.0.1.1", &[("a", "1")])),
        Object::Pod(pod("x/two", "10.0.1.2", &[("a", "2")])),
        Object::Pod(pod("x/client", "10.0.1.3", &[("a", client)])),
        Object::NetworkPolicy(split),
        Object::NetworkPolicy(p),
    ] {
        world.apply(object);
    }
    world
}

fn every_single_failure(before: &World, after: &World) {
    every_single_failure_on_the_way(before, after, before);
}

/// After the failure policy does not go on to where it was on the way to, but to a third world.
fn every_single_failure_on_the_way(before: &World, after: &World, third: &World) {
    let mut numbers = Numbers::default();
    let observed = observe(&compile(before, &mut numbers).state);
    let desired = compile(after, &mut numbers).state;
    check(&observed, &desired).unwrap();
    let steps = plan(&observed, &desired);
    assert!(steps.len() > 3);
    for step in steps {
        let left = check_failures(&observed, &desired, &[step.operation])
            .unwrap_or_else(|error| panic!("{step:?}: {error}"));
        let third = compile(third, &mut numbers).state;
        check(&left, &third).unwrap_or_else(|error| panic!("{step:?}, and then elsewhere: {error}"));
    }
}

#[test]
fn a_client_and_a_rule_change_sides() {
    // Denied before and after; allowed only where the new rule meets the old label.
    let (one, two) = (own(&[("a", "1")]), own(&[("a", "2")]));
    every_single_failure(
        &world(&[(two, tcp(80, 81))], "1"),
        &world(&[(one, tcp(80, 81))], "2"),
    );
}

#[test]
fn a_hole_comes_with_its_block() {
    let nothing = (Peer::Nothing, tcp(80, 80));
    let holed = (block("192.168.0.0/24", &["192.168.0.1/32"]), tcp(80, 80));
    every_single_failure(
        &world(std::slice::from_ref(&nothing), "1"),
        &world(std::slice::from_ref(&holed), "1"),
    );
    every_single_failure(&world(&[holed], "1"), &world(&[nothing], "1"));
}

#[test]
fn clients_that_were_told_apart_become_one() {
    let apart = [
        (own(&[("a", "1")]), tcp(80, 80)),
        (own(&[("app", "db")]), tcp(81, 81)),
    ];
    let together = [(own(&[]), tcp(443, 443))];
    every_single_failure(&world(&apart, "1"), &world(&together, "2"));
    every_single_failure(&world(&together, "2"), &world(&apart, "1"));
}

#[test]
fn a_rule_goes_and_another_stays() {
    let rules = [
        (own(&[("a", "1")]), tcp(80, 80)),
        (own(&[("app", "db")]), tcp(81, 81)),
    ];
    every_single_failure(&world(&rules, "1"), &world(&rules[..1], "1"));
}

#[test]
fn denied_ports_that_are_too_many_for_an_entry_stay_denied() {
    // Everything is allowed but some ports of clients, which stand in pages: a page that goes too early opens them.
    let denies = |ports: [u16; 9]| {
        let mut world = world(&[], "1");
        let rule = ClusterRule {
            ports: Ports::Some(ports.map(|port| tcp(port, port)).to_vec()),
            ..acts(RuleAction::Deny, within(&[], &[("a", "1")]))
        };
        world.delete(&Object::NetworkPolicy(policy("x/p", &[])).key());
        world.apply(Object::ClusterNetworkPolicy(admin("deny", 1, vec![rule])));
        world
    };
    let (first, second) = (
        denies([1, 22, 80, 81, 300, 443, 600, 900, 8080]),
        denies([1, 22, 53, 80, 81, 443, 1200, 1500, 1800]),
    );
    every_single_failure(&first, &second);
    every_single_failure(&first, &world(&[], "1"));
}

#[test]
fn three_that_were_told_apart_become_one() {
    // Each label's pods are let in by a port of their own; then all by one, and back.
    let world = |rules: &[(Peer, PortMatch)]| {
        let mut world = world(rules, "3");
        world.delete(&Object::NetworkPolicy(policy("x/split", &[])).key());
        world
    };
    let apart = ["1", "2", "3"].map(|a| (own(&[("a", a)]), tcp(80 + a.parse::<u16>().unwrap(), 84)));
    let together = [(own(&[]), tcp(443, 443))];
    every_single_failure(&world(&apart), &world(&together));
    every_single_failure(&world(&together), &world(&apart));
}

/// x/one and x/two under policies that let in clients of a=1 or of a=2, and a client of this kind beside one of each.
fn apart(one: &str, two: &str, client: &str) -> World {
    let mut world = two_pods(one, two);
    for (name, address, a) in [
        ("x/first", "10.0.1.1", "1"),
        ("x/second", "10.0.1.2", "2"),
        ("x/client", "10.0.1.3", client),
    ] {
        world.apply(Object::Pod(pod(name, address, &[("a", a)])));
    }
    for (app, a) in [("web", "1"), ("db", "2")] {
        world.apply(Object::NetworkPolicy(NetworkPolicy {
            ingress: Some(vec![rule(&[own(&[("a", a)])], &[tcp(80, 80)])]),
            ..policy(&format!("x/{app}"), &[("app", app)])
        }));
    }
    world
}

#[test]
fn two_pods_change_places_while_a_client_changes_sides() {
    // Each slot is left by one and entered by the other, and the client's identity is on its way between two answers.
    every_single_failure(&apart("web", "db", "1"), &apart("db", "web", "2"));
    every_single_failure(&apart("web", "", "1"), &apart("", "web", "2"));
    every_single_failure(&apart("", "db", "1"), &apart("db", "db", "2"));
}

#[test]
fn whose_slot_is_missing_stays_closed_while_two_pods_change_places() {
    // A third pod's record names the slot that would be the first choice for a double.
    let mut numbers = Numbers::default();
    let mut observed = observe(&compile(&apart("web", "db", "1"), &mut numbers).state);
    let slot = SlotRef::new(MAX_SLOTS - 1, 0);
    let record = EndpointRecord {
        ingress: slot,
        egress: slot,
        ifindex: 9,
        flags: EndpointRecord::ENFORCING,
        ..EndpointRecord::default()
    };
    observed.put(Entry::Endpoint(9, record));
    let desired = compile(&apart("db", "web", "2"), &mut numbers).state;
    check(&observed, &desired).unwrap();
}

#[test]
fn what_stood_in_for_a_client_is_gone_when_its_slot_stays_after_all() {
    // On the way the client's new identity has the old one's answer in the slot that x/web leaves.
    let world = |rule: &Peer, client| {
        let mut world = world(&[(rule.clone(), tcp(80, 80))], client);
        world.delete(&Object::Pod(pod("x/two", "", &[])).key());
        world
    };
    let (one, db) = (own(&[("a", "1")]), own(&[("app", "db")]));
    every_single_failure_on_the_way(&world(&one, "1"), &world(&db, "2"), &world(&one, "2"));
}

#[test]
fn what_an_earlier_client_left_in_a_slot_is_not_what_the_next_one_gets_there() {
    // The slot of a policy that only watches lets everybody in, and has an entry for whom the policy would let in. Of a
    // client that was such a one for a while it still has the entry, and x/web leaves it.
    let of = |client, mode| {
        let mut world = world(&[], client);
        world.apply(Object::NetworkPolicy(NetworkPolicy {
            ingress: Some(vec![rule(&[own(&[("b", "1")])], &[tcp(80, 80)])]),
            mode: Some(mode),
            ..policy("x/p", &[("app", "web")])
        }));
        world.apply(Object::Pod(pod("x/client", "10.0.1.3", &[("b", client)])));
        world
    };
    let mut numbers = Numbers::default();
    let earlier = compile(&of("1", Mode::Audit), &mut numbers).state;
    let mut observed = observe(&compile(&of("2", Mode::Audit), &mut numbers).state);
    let left: Vec<_> = earlier
        .verdicts
        .into_iter()
        .filter(|(key, _)| !observed.verdicts.contains_key(key))
        .collect();
    for (key, entry) in &left {
        observed.put(Entry::Verdict(*key, *entry));
    }
    let desired = compile(&of("1", Mode::Enforce), &mut numbers).state;
    check(&observed, &desired).unwrap();
    // And what it gets is attributed as it was.
    let written = |step: &Step| match step.operation {
        Operation::Put(Entry::Verdict(key, entry)) if left.iter().any(|(left, _)| *left == key) => {
            Some((entry.cookie, observed.slots[&key.slot].cookie))
        }
        Operation::Put(_) | Operation::Delete(_) | Operation::Grace => None,
    };
    let cookies: Vec<_> = plan(&observed, &desired).iter().filter_map(written).collect();
    assert!(
        !cookies.is_empty() && cookies.iter().all(|(new, slot)| new == slot && new.0 != 0),
        "{cookies:?}"
    );
}

#[test]
fn who_enters_a_slot_waits_for_the_client_that_it_still_lets_in() {
    // x/web has the slot and stays. x/db denies the client before and after, whose old label nobody else has.
    let world = |db: &str, client| {
        let mut world = world(&[(own(&[("a", "1")]), tcp(80, 80))], client);
        world.delete(&Object::NetworkPolicy(policy("x/split", &[])).key());
        for gone in ["x/one", "x/two"] {
            world.delete(&Object::Pod(pod(gone, "", &[])).key());
        }
        world.apply(Object::Pod(pod("x/db", "10.0.0.2", &[("app", db)])));
        world.apply(Object::NetworkPolicy(NetworkPolicy {
            ingress: Some(vec![]),
            ..policy("x/closed", &[("app", "db")])
        }));
        world
    };
    every_single_failure(&world("db", "1"), &world("web", "2"));
}

#[test]
fn who_enters_a_new_slot_waits_for_the_block_that_it_denies() {
    // Denied at port 80 before and after, by an identity that nobody has afterwards: the new slot would let it in.
    let narrow = || block("8.8.8.0/24", &[]);
    let before = world(&[(narrow(), tcp(443, 443))], "1");
    let mut after = world(&[], "1");
    after.delete(&Object::NetworkPolicy(policy("x/p", &[])).key());
    let deny = [narrow(), block("8.8.0.0/16", &[])].map(|peer| acts(RuleAction::Deny, peer));
    after.apply(Object::ClusterNetworkPolicy(admin("deny", 1, deny.into())));
    every_single_failure(&before, &after);
}
