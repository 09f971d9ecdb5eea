//! The shape of what the compiler writes: what is shared, what is left out, what is named.

use vethwall_common::{
    Direction::Ingress,
    address::Addr,
    identity::{AddressEntry, Identity},
    verdict::{SlotRecord, allow::BOTH},
};

use crate::{
    compile::{Attribution, Compiler},
    model::{
        ClusterNetworkPolicy, ClusterRule, Mode, NetworkPolicy, Object, Operator, Peer, Peers, Pod,
        PolicyRef, PortMatch, Ports, Requirement, Rule, RuleAction, Selector,
    },
    reader,
    state::State,
    tests::small::{WEB, ask, compiled, egress, ingress, web, with, world},
    tests::world::{TCP, acts, admin, block, ip, own, pod, policy, rule, selector, tcp, within},
    world::World,
};

#[test]
fn local_pods_have_entries_whatever_they_match() {
    let state = compiled(&world()).state;
    let entries: Vec<_> = state
        .addresses
        .iter()
        .map(|(addr, entry)| (*addr, entry.flags, entry.ifindex))
        .collect();
    let mut wanted = vec![
        (Addr::from(ip("10.0.0.1")), AddressEntry::POD, WEB),
        (Addr::from(ip("10.0.0.2")), AddressEntry::POD, 8),
        (Addr::from(ip("fd00::2")), AddressEntry::POD, 8),
        (Addr::from(ip("192.168.0.1")), AddressEntry::LOCAL_NODE, 0),
    ];
    wanted.sort();
    assert_eq!(entries, wanted);
    assert!(
        state
            .addresses
            .values()
            .all(|entry| entry.identity == Identity::WORLD),
        "no policy tells them from anybody"
    );
    let record = state.endpoints[&8];
    assert_eq!(
        record.addresses,
        [Addr::from(ip("10.0.0.2")), Addr::from(ip("fd00::2"))]
    );
    assert!(
        state
            .slots
            .values()
            .all(|slot| slot.flags == SlotRecord::OPEN && slot.allow == BOTH)
    );
}

#[test]
fn where_a_policy_has_no_mode_the_worlds_holds_and_a_change_is_in_force() {
    for (own, enforcing, auditing) in [
        (None, 0, 1),
        (Some(Mode::Enforce), 0, 0),
        (Some(Mode::Audit), 1, 1),
    ] {
        let policy = NetworkPolicy {
            mode: own,
            ..ingress(vec![])
        };
        let mut world = with(world(), &[policy]);
        for (mode, expected) in [
            (Mode::Enforce, enforcing),
            (Mode::Audit, auditing),
            (Mode::Enforce, enforcing),
        ] {
            world.set_mode(mode);
            let found = ask(&world, Ingress, "10.0.1.1", TCP, 80);
            assert_eq!(found, expected, "{own:?} in a world of {mode:?}");
        }
    }
}

#[test]
fn audited_policies_deny_in_the_shadow_only() {
    let mut audited = ingress(vec![rule(&[own(&[])], &[tcp(80, 80)])]);
    audited.mode = Some(Mode::Audit);
    let only = with(world(), std::slice::from_ref(&audited));
    assert_eq!(ask(&only, Ingress, "10.0.1.1", TCP, 80), BOTH);
    assert_eq!(
        ask(&only, Ingress, "10.0.1.1", TCP, 81),
        1,
        "open, but the shadow denies"
    );
    let mut enforced = ingress(vec![rule(&[], &[tcp(443, 443)])]);
    enforced.name = "q".to_owned();
    let both = with(only, &[enforced]);
    let answers = [80, 81, 443].map(|port| ask(&both, Ingress, "10.0.1.1", TCP, port));
    assert_eq!(
        answers,
        [2, 0, BOTH],
        "what only the audited policy allows stays denied"
    );
}

#[test]
fn cookies_name_the_rule_that_allows_and_the_policies_that_deny() {
    let mut audited = ingress(vec![]);
    (audited.name, audited.mode) = ("a-audited".to_owned(), Some(Mode::Audit));
    let p = ingress(vec![
        rule(&[own(&[("app", "nobody")])], &[]),
        rule(&[own(&[])], &[tcp(80, 80)]),
    ]);
    let mut q = ingress(vec![]);
    q.name = "q".to_owned();
    let compiled = compiled(&with(world(), &[audited, p, q]));
    let name = |name: &str| PolicyRef {
        namespace: "x".to_owned(),
        name: name.to_owned(),
    };
    let by = |port| {
        let answer = reader::lookup(&compiled.state, WEB, Ingress, ip("10.0.1.1"), TCP, port);
        compiled.cookies.get(answer.cookie).unwrap().clone()
    };
    assert_eq!(
        by(80),
        Attribution {
            policies: vec![name("p")],
            rule: Some(1),
            direction: Ingress
        }
    );
    assert_eq!(
        by(81),
        Attribution {
            policies: vec![name("p"), name("q")],
            rule: None,
            direction: Ingress
        }
    );
}

#[test]
fn identical_pods_share_a_slot_and_equal_peers_an_identity() {
    let mut world = with(
        world(),
        &[NetworkPolicy {
            ingress: Some(vec![rule(&[own(&[])], &[])]),
            ..policy("x/p", &[])
        }],
    );
    let one = compiled(&world).state;
    assert_eq!(one.endpoints[&WEB].ingress, one.endpoints[&8].ingress);
    let entries = one.verdicts.len();
    for i in 10..60 {
        world.apply(Object::Pod(pod(
            &format!("x/more-{i}"),
            &format!("10.0.1.{i}"),
            &[("n", &i.to_string())],
        )));
    }
    assert_eq!(
        compiled(&world).state.verdicts.len(),
        entries,
        "fifty pods, labels all different, nothing to tell"
    );
}

#[test]
fn many_ports_go_to_pages_and_the_largest_stay_inline() {
    let single = |n: u16| tcp(n * 600, n * 600);
    let mut entries: Vec<PortMatch> = (1..=7).map(single).collect();
    entries.push(tcp(10_000, 60_000));
    let world = with(
        world(),
        &[ingress(vec![Rule {
            peers: Peers::All,
            ports: Ports::Some(entries),
        }])],
    );
    let state = compiled(&world).state;
    assert_eq!(state.ports.len(), 4, "the big range takes no page");
    for port in 0..=u16::MAX {
        let wanted = (10_000..=60_000).contains(&port) || (port % 600 == 0 && (600..=4200).contains(&port));
        let answer = reader::lookup(&state, WEB, Ingress, ip("8.8.8.8"), TCP, port);
        assert_eq!(answer.allow == BOTH, wanted, "{port}");
    }
}

#[test]
fn neighbouring_ranges_become_one() {
    let world = with(
        world(),
        &[ingress(vec![rule(
            &[],
            &[tcp(80, 80), tcp(81, 90), tcp(85, 100), tcp(0, 79)],
        )])],
    );
    let state = compiled(&world).state;
    let entry = state.verdicts.values().next().unwrap();
    assert_eq!(
        (entry.count, entry.ranges[0].first, entry.ranges[0].last),
        (1, 0, 100)
    );
}

#[test]
fn numbers_are_kept_while_in_use_and_come_back_late() {
    let mut compiler = Compiler::default();
    let mut world = world();
    let mut seen = Vec::new();
    for i in 0..20_000u16 {
        // More policies than there are slots, one after the other.
        world.apply(Object::NetworkPolicy(ingress(vec![rule(&[], &[tcp(i, i)])])));
        let compiled = compiler.compile(&world);
        assert_eq!(compiled.problems, vec![], "{i}");
        seen.push((
            compiled.state.endpoints[&WEB].ingress.slot(),
            compiled.state.endpoints[&WEB].index,
        ));
        compiler.release(&compiled.state);
        if i % 1000 != 0 {
            continue;
        }
        assert_eq!(compiler.compile(&world), compiled);
    }
    assert!(
        seen.windows(100)
            .all(|w| w[1..].iter().all(|(slot, _)| *slot != w[0].0)),
        "not at once again"
    );
    assert!(seen.iter().all(|(_, index)| *index == seen[0].1));
}

#[test]
fn a_kernel_that_somebody_else_wrote_keeps_its_numbers_and_indices() {
    let world = with(world(), &[ingress(vec![rule(&[own(&[])], &[tcp(80, 80)])])]);
    let old = compiled(&world).state;
    let new = Compiler::above(&old).compile(&world).state;
    assert!(new.slots.keys().all(|slot| !old.slots.contains_key(slot)));
    assert!(new.verdicts.keys().all(|key| {
        !old.verdicts
            .keys()
            .any(|o| o.identity == key.identity && key.identity.0 >= 256)
    }));
    for (ifindex, record) in &new.endpoints {
        assert_eq!(record.index, old.endpoints[ifindex].index);
    }
}

// Covers: SEMANTICS 33, 34
#[test]
fn rules_33_and_34_the_interface_lives_apart_from_the_object() {
    let mut world = with(world(), &[ingress(vec![])]);
    world.apply(Object::Pod(Pod {
        finished: true,
        ..web()
    }));
    assert_eq!(
        ask(&world, Ingress, "8.8.8.8", TCP, 80),
        0,
        "failed, but its interface is there"
    );
    assert!(!compiled(&world).state.endpoints.is_empty());
    world.apply(Object::Pod(Pod {
        uid: "another".to_owned(),
        ..web()
    }));
    assert!(
        !compiled(&world).state.endpoints.contains_key(&WEB),
        "a new pod of the old name: not this interface's"
    );
    world.apply(Object::Pod(Pod {
        uid: String::new(),
        ..web()
    }));
    assert!(
        compiled(&world).state.endpoints.contains_key(&WEB),
        "no UID known: by name"
    );
}

#[test]
fn every_local_interface_has_a_number_of_its_own() {
    let state = compiled(&world()).state;
    let [one, two] = [7, 8].map(|ifindex| state.endpoints[&ifindex].index);
    assert!(one != two && one != 0 && two != 0, "{one} {two}");
}

#[test]
fn pods_whose_ports_no_policy_could_use_are_not_told_apart() {
    let http = PortMatch::Named {
        protocol: TCP,
        name: "http".to_owned(),
    };
    let nodes = || Peer::Nodes(selector(&[("zone", "a")]));
    for peers in [
        vec![Peer::Nothing],
        vec![nodes()],
        vec![own(&[("app", "db")]), nodes()],
    ] {
        let world = with(
            world(),
            &[egress(vec![rule(&peers, std::slice::from_ref(&http))])],
        );
        let state = compiled(&world).state;
        // x/client has http at 81 and y/client at 82.
        for client in ["10.0.1.1", "10.0.1.2"] {
            assert!(
                !state.addresses.contains_key(&Addr::from(ip(client))),
                "{client} {peers:?}"
            );
        }
    }
}

#[test]
fn a_slot_says_whether_cluster_policies_decide_in_it() {
    let mut world = with(world(), &[ingress(vec![])]);
    let flags = |world: &World| {
        let state = compiled(world).state;
        [WEB, 8].map(|ifindex| state.slots[&state.endpoints[&ifindex].ingress.slot()].flags)
    };
    assert_eq!(flags(&world), [0, SlotRecord::OPEN]);
    let deny = acts(RuleAction::Deny, block("8.0.0.0/8", &[]));
    world.apply(Object::ClusterNetworkPolicy(admin("deny", 1, vec![deny])));
    assert_eq!(flags(&world), [SlotRecord::CLUSTER; 2]);
}

#[test]
fn who_is_denied_by_isolation_alone_is_told_so_beside_a_rule_that_denies_a_port() {
    let mut world = with(world(), &[ingress(vec![])]);
    let deny = ClusterRule {
        ports: Ports::Some(vec![tcp(81, 81)]),
        ..acts(RuleAction::Deny, within(&[("team", "y")], &[]))
    };
    world.apply(Object::ClusterNetworkPolicy(admin("deny", 1, vec![deny])));
    let compiled = compiled(&world);
    let slot = compiled.state.endpoints[&WEB].ingress.slot();
    let by = |cookie| compiled.cookies.get(cookie).unwrap().policies[0].to_string();
    assert_eq!(by(compiled.state.slots[&slot].cookie), "x/p", "who has no entry");
    let blamed = |port| by(reader::lookup(&compiled.state, WEB, Ingress, ip("10.0.1.2"), TCP, port).cookie);
    assert_eq!([80, 81].map(blamed), ["x/p", "deny"]);
}

#[test]
fn what_an_audited_policy_would_deny_by_isolation_is_its_own() {
    let audited = NetworkPolicy {
        mode: Some(Mode::Audit),
        ..ingress(vec![])
    };
    let compiled = compiled(&with(world(), &[audited]));
    let cookie = reader::lookup(&compiled.state, WEB, Ingress, ip("8.8.8.8"), TCP, 80).cookie;
    let by = compiled.cookies.get(cookie).unwrap();
    assert_eq!(
        by.policies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["x/p"]
    );
}

#[test]
fn identities_say_what_their_addresses_match() {
    let named = PortMatch::Named {
        protocol: TCP,
        name: "http".to_owned(),
    };
    let either = Peer::Pods {
        namespaces: None,
        pods: Selector::new([Requirement {
            key: "app".to_owned(),
            operator: Operator::In(["client", "db"].map(str::to_owned).into()),
        }]),
    };
    let mut world = with(
        world(),
        &[egress(vec![
            rule(&[either], &[named]),
            rule(&[within(&[("team", "y")], &[]), block("10.0.1.0/24", &[])], &[]),
        ])],
    );
    let deny = ClusterNetworkPolicy {
        egress: vec![acts(RuleAction::Deny, Peer::Nodes(selector(&[])))],
        ..admin("deny", 1, vec![acts(RuleAction::Deny, own(&[("app", "odd")]))])
    };
    world.apply(Object::ClusterNetworkPolicy(deny));
    world.apply(Object::Pod(pod("x/also", "10.0.1.2", &[("app", "client")])));
    let compiled = compiled(&world);
    let said = |address: &str| {
        let identity = reader::identity(&compiled.state, ip(address));
        compiled.identities[&identity].join("; ")
    };
    assert_eq!(
        said("10.0.1.1"),
        "10.0.1.0/24; pods app in (client,db) in x; port http of protocol 6"
    );
    assert_eq!(said("192.168.0.2"), "nodes {}");
    assert_eq!(
        said("10.0.1.2"),
        "10.0.1.0/24; maybe pods app in (client,db) in x; maybe pods {} in namespaces team=y"
    );
    assert_eq!(said("10.0.1.77"), "10.0.1.0/24; maybe a pod not known yet");
    assert_eq!(said("8.8.8.8"), "");
}

#[test]
fn a_state_is_its_entries() {
    let world = with(world(), &[ingress(vec![rule(&[own(&[])], &[tcp(80, 80)])])]);
    let state = compiled(&world).state;
    assert_eq!(state.entries().collect::<State>(), state);
    // What the planner knows of the kernel beside them says nothing of policy.
    let after = State {
        generation: 5,
        rejudge: [WEB].into(),
        ..state.clone()
    };
    assert_eq!(after.without_generations(), state);
}
