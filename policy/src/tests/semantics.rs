//! What each rule of the API means in one small world.

use vethwall_common::{
    Direction::{Egress, Ingress},
    address::Addr,
    identity::AddressEntry,
    protocol::SCTP,
    verdict::allow::BOTH,
};

use crate::{
    model::{
        Labels, NetworkPolicy, Object, Operator, Peer, Pod, PortMatch, Requirement, Selector, canonical,
    },
    reader,
    tests::small::{WEB, ask, compiled, egress, ingress, with, world},
    tests::world::{
        ICMP, TCP, UDP, block, ip, labels, namespace, own, pod, policy, rule, selector, tcp, within,
    },
    world::World,
};

const OTHER_PORT: u16 = 4000;

/// Which of these peers an ingress rule with this one entry in `from` lets in.
fn admitted<'p>(peer: Peer, peers: &[&'p str]) -> Vec<&'p str> {
    let world = with(world(), &[ingress(vec![rule(&[peer], &[])])]);
    peers
        .iter()
        .copied()
        .filter(|address| ask(&world, Ingress, address, TCP, OTHER_PORT) == BOTH)
        .collect()
}

const PODS: [&str; 4] = ["10.0.0.2", "10.0.1.1", "10.0.1.2", "10.0.1.3"];

// Covers: SEMANTICS 1
#[test]
fn rule_1_a_pod_is_isolated_by_direction_and_namespace() {
    let world = with(
        world(),
        &[
            ingress(vec![]),
            NetworkPolicy {
                ingress: Some(vec![]),
                ..policy("y/p", &[])
            },
        ],
    );
    assert_eq!(ask(&world, Ingress, "10.0.1.1", TCP, 80), 0);
    assert_eq!(
        ask(&world, Egress, "10.0.1.1", TCP, 80),
        BOTH,
        "the other direction is open"
    );
    let db = reader::lookup(&compiled(&world).state, 8, Ingress, ip("10.0.1.1"), TCP, 80);
    assert_eq!(db.allow, BOTH, "not selected");
}

// Covers: SEMANTICS 2, 8
#[test]
fn rules_2_and_8_policies_rules_and_entries_add_up() {
    let mut second = ingress(vec![rule(&[own(&[("app", "db")])], &[tcp(80, 80)])]);
    second.name = "q".to_owned();
    let first = ingress(vec![
        rule(
            &[own(&[("app", "client")]), block("8.8.8.0/24", &[])],
            &[tcp(80, 80), tcp(443, 443)],
        ),
        rule(&[], &[tcp(22, 22)]),
    ]);
    let world = with(world(), &[first, second]);
    let open = |peer, port| ask(&world, Ingress, peer, TCP, port) == BOTH;
    assert!(
        open("10.0.1.1", 80) && open("10.0.1.1", 443) && open("8.8.8.8", 443),
        "entries of a list"
    );
    assert!(
        open("10.0.0.2", 80) && !open("10.0.0.2", 443),
        "another policy; ports AND peers"
    );
    assert!(open("1.1.1.1", 22) && open("10.0.0.2", 22), "another rule");
    assert!(!open("10.0.1.1", 81) && !open("9.9.9.9", 80));
}

// Covers: SEMANTICS 4
#[test]
fn rule_4_an_empty_pod_selector_selects_the_namespace() {
    let all = NetworkPolicy {
        ingress: Some(vec![]),
        ..policy("x/p", &[])
    };
    let state = compiled(&with(world(), &[all])).state;
    for ifindex in [WEB, 8] {
        assert_eq!(
            reader::lookup(&state, ifindex, Ingress, ip("10.0.1.1"), TCP, 80).allow,
            0
        );
    }
}

// Covers: SEMANTICS 6, 7
#[test]
fn rules_6_and_7_no_rule_allows_nothing_one_empty_rule_everything() {
    assert_eq!(
        ask(&with(world(), &[egress(vec![])]), Egress, "8.8.8.8", ICMP, 0),
        0
    );
    assert_eq!(
        ask(
            &with(world(), &[egress(vec![rule(&[], &[])])]),
            Egress,
            "8.8.8.8",
            ICMP,
            0
        ),
        BOTH
    );
}

// Covers: SEMANTICS 9
#[test]
fn rule_9_no_peers_means_nodes_and_the_outside_too() {
    let world = with(world(), &[ingress(vec![rule(&[], &[tcp(80, 80)])])]);
    for peer in ["8.8.8.8", "192.168.0.2", "10.0.1.3", "10.0.0.250", "2001:db8::1"] {
        assert_eq!(ask(&world, Ingress, peer, TCP, 80), BOTH, "{peer}");
        assert_eq!(ask(&world, Ingress, peer, TCP, 81), 0, "{peer}");
    }
}

// Covers: SEMANTICS 11, 12, 13, 14
#[test]
fn rules_11_to_14_selectors_in_one_entry_and_in_two() {
    assert_eq!(
        admitted(own(&[("app", "client")]), &PODS),
        ["10.0.1.1"],
        "own namespace"
    );
    assert_eq!(
        admitted(within(&[("team", "y")], &[]), &PODS),
        ["10.0.1.2"],
        "all pods of a namespace"
    );
    assert_eq!(
        admitted(within(&[], &[("app", "client")]), &PODS),
        ["10.0.1.1", "10.0.1.2"],
        "AND"
    );
    assert_eq!(
        admitted(within(&[], &[]), &PODS),
        PODS,
        "empty selects everything"
    );
    assert_eq!(admitted(own(&[]), &PODS), ["10.0.0.2", "10.0.1.1"]);
    let either = ingress(vec![rule(
        &[own(&[("app", "db")]), within(&[("team", "y")], &[])],
        &[],
    )]);
    let world = with(world(), &[either]);
    assert!(
        ["10.0.0.2", "10.0.1.2"]
            .iter()
            .all(|peer| ask(&world, Ingress, peer, TCP, 1) == BOTH),
        "OR"
    );
}

// Covers: SEMANTICS 15
#[test]
fn rule_15_an_invalid_peer_matches_nothing_and_still_isolates() {
    assert_eq!(admitted(Peer::Nothing, &PODS), [""; 0]);
    let world = with(world(), &[ingress(vec![rule(&[Peer::Nothing, own(&[])], &[])])]);
    assert_eq!(
        ask(&world, Ingress, "10.0.0.2", TCP, 1),
        BOTH,
        "its neighbours count"
    );
}

// Covers: SEMANTICS 16, 17, 18
#[test]
fn rules_16_to_18_requirements_on_labels() {
    let one = |key: &str, operator| {
        Selector::new([Requirement {
            key: key.to_owned(),
            operator,
        }])
    };
    let set = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    let has = labels(&[("a", "1"), ("e", "")]);
    assert!(selector(&[("a", "1"), ("e", "")]).matches(&has) && !selector(&[("a", "2")]).matches(&has));
    assert!(
        !selector(&[("absent", "")]).matches(&has),
        "an empty value is not an absent key"
    );
    assert!(one("a", Operator::In(set(&["1", "2"]))).matches(&has));
    assert!(!one("absent", Operator::In(set(&["1"]))).matches(&has));
    assert!(!one("a", Operator::NotIn(set(&["1"]))).matches(&has));
    assert!(one("a", Operator::NotIn(set(&["2"]))).matches(&has));
    assert!(
        one("absent", Operator::NotIn(set(&["1"]))).matches(&has),
        "NotIn matches an absent key"
    );
    assert!(one("e", Operator::Exists).matches(&has) && !one("absent", Operator::Exists).matches(&has));
    assert!(
        one("absent", Operator::DoesNotExist).matches(&has)
            && !one("e", Operator::DoesNotExist).matches(&has)
    );
    assert!(Selector::everything().matches(&Labels::new()));
    assert_eq!(
        admitted(within(&[], &[("app", "not a valid value!")]), &PODS),
        ["10.0.1.3"],
        "plain strings"
    );
}

// Covers: SEMANTICS 19
#[test]
fn rule_19_every_namespace_has_its_name_as_a_label() {
    let by_name = |name| within(&[("kubernetes.io/metadata.name", name)], &[]);
    assert_eq!(admitted(by_name("y"), &PODS), ["10.0.1.2"]);
    assert_eq!(
        admitted(by_name("z"), &PODS),
        ["10.0.1.3"],
        "also one that has no object yet"
    );
}

// Covers: SEMANTICS 20, 21, 31, 35
#[test]
fn rules_20_21_31_and_35_selectors_match_pods_at_all_their_addresses_and_nothing_else() {
    assert_eq!(
        admitted(own(&[("app", "db")]), &["10.0.0.2", "fd00::2", "fd00::3"]),
        ["10.0.0.2", "fd00::2"]
    );
    let mut world = world();
    let everybody = within(&[], &[]);
    world.apply(Object::Pod(Pod {
        host_network: true,
        ..pod("x/host", "192.168.0.2", &[])
    }));
    world.apply(Object::Pod(Pod {
        finished: true,
        ..pod("x/done", "10.0.1.9", &[])
    }));
    let world = with(world, &[ingress(vec![rule(&[everybody], &[])])]);
    for peer in ["8.8.8.8", "192.168.0.1", "192.168.0.2", "10.0.1.9"] {
        assert_eq!(ask(&world, Ingress, peer, TCP, 80), 0, "{peer}");
    }
}

// Covers: SEMANTICS 31
#[test]
fn rule_31_the_next_owner_of_an_address_inherits_nothing() {
    let mut world = with(world(), &[ingress(vec![rule(&[own(&[("app", "client")])], &[])])]);
    let mut old = world.pod("x", "client").unwrap().clone();
    old.finished = true;
    world.apply(Object::Pod(old.clone()));
    assert_eq!(ask(&world, Ingress, "10.0.1.1", TCP, 80), 0);
    world.apply(Object::Pod(pod("x/other", "10.0.1.1", &[("app", "other")])));
    assert_eq!(ask(&world, Ingress, "10.0.1.1", TCP, 80), 0);
    old.finished = false;
    world.apply(Object::Pod(old));
    assert_eq!(
        ask(&world, Ingress, "10.0.1.1", TCP, 80),
        0,
        "two claim it: only what both would get"
    );
}

// Covers: SEMANTICS 22
#[test]
fn rule_22_an_except_is_a_hole_in_its_own_block_only() {
    let holed = block("10.0.0.0/8", &["10.0.1.0/24"]);
    assert_eq!(
        admitted(holed.clone(), &["10.9.9.9", "10.0.1.1", "10.0.1.77", "11.0.0.1"]),
        ["10.9.9.9"]
    );
    let world = with(
        world(),
        &[ingress(vec![rule(&[holed, block("10.0.1.0/31", &[])], &[])])],
    );
    assert_eq!(
        ask(&world, Ingress, "10.0.1.1", TCP, 1),
        BOTH,
        "another block fills it"
    );
    assert_eq!(ask(&world, Ingress, "10.0.1.2", TCP, 1), 0);
}

// Covers: SEMANTICS 23
#[test]
fn rule_23_blocks_match_pods_and_nodes_and_families_do_not_cross() {
    let peers = ["10.0.1.2", "192.168.0.2", "8.8.8.8", "fd00::2", "2001:db8::1"];
    assert_eq!(admitted(block("0.0.0.0/0", &[]), &peers), peers[..3]);
    assert_eq!(admitted(block("::/0", &[]), &peers), peers[3..]);
    assert_eq!(admitted(block("::/0", &["fd00::/16"]), &peers), ["2001:db8::1"]);
}

// Covers: SEMANTICS 24
#[test]
fn rule_24_host_bits_and_mapped_addresses() {
    assert_eq!(admitted(block("10.0.1.77/24", &[]), &PODS), PODS[1..]);
    assert_eq!(admitted(block("::ffff:10.0.1.0/120", &[]), &PODS), PODS[1..]);
    assert_eq!(
        canonical("::ffff:10.1.2.3/104".parse().unwrap()),
        "10.0.0.0/8".parse().unwrap()
    );
    assert_eq!(
        canonical("::fffe:0:0/90".parse().unwrap()),
        "::ffc0:0:0/90".parse().unwrap()
    );
}

// Covers: SEMANTICS 25, 26, 28, 29
#[test]
fn rules_25_26_28_and_29_ports() {
    let ports = |entries: &[PortMatch]| with(world(), &[ingress(vec![rule(&[], entries)])]);
    let open = |world: &World, protocol, port| ask(world, Ingress, "8.8.8.8", protocol, port) == BOTH;
    let world = ports(&[tcp(100, 200)]);
    assert!(
        open(&world, TCP, 100) && open(&world, TCP, 200) && !open(&world, TCP, 99) && !open(&world, TCP, 201)
    );
    assert!(
        !open(&world, UDP, 150) && !open(&world, ICMP, 0) && !open(&world, 47, 0),
        "no other protocol"
    );
    let world = ports(&[PortMatch::Protocol(SCTP)]);
    assert!(open(&world, SCTP, 0) && open(&world, SCTP, 65535) && !open(&world, TCP, 80));
    let world = ports(&[
        tcp(9, 8),
        PortMatch::Nothing,
        PortMatch::Protocol(ICMP),
        PortMatch::Protocol(47),
    ]);
    assert!(!open(&world, TCP, 8) && !open(&world, TCP, 9) && !open(&world, ICMP, 0) && !open(&world, 47, 0));
    assert_eq!(
        ask(&world, Ingress, "8.8.8.8", TCP, 80),
        0,
        "and the pod is isolated"
    );
    let world = ports(&[]);
    assert!(
        open(&world, ICMP, 0) && open(&world, 47, 0),
        "without ports: every protocol"
    );
}

// Covers: SEMANTICS 27
#[test]
fn rule_27_named_ports_on_ingress_are_the_pods_own() {
    let named = |protocol, name: &str| PortMatch::Named {
        protocol,
        name: name.to_owned(),
    };
    let world = with(world(), &[ingress(vec![rule(&[], &[named(TCP, "http")])])]);
    assert_eq!(ask(&world, Ingress, "8.8.8.8", TCP, 8080), BOTH);
    assert_eq!(ask(&world, Ingress, "8.8.8.8", TCP, 9090), 0, "name and protocol");
    assert_eq!(ask(&world, Ingress, "8.8.8.8", UDP, 9090), 0);
    let world = with(world, &[ingress(vec![rule(&[], &[named(TCP, "absent")])])]);
    assert_eq!(
        ask(&world, Ingress, "8.8.8.8", TCP, 8080),
        0,
        "a name it lacks: nothing, and isolated"
    );
}

// Covers: SEMANTICS 27
#[test]
fn rule_27_named_ports_on_egress_are_the_destinations() {
    let http = PortMatch::Named {
        protocol: TCP,
        name: "http".to_owned(),
    };
    let check = |peers: &[Peer], wanted: &[(&str, u16)]| {
        let world = with(world(), &[egress(vec![rule(peers, std::slice::from_ref(&http))])]);
        let mut open = Vec::new();
        for peer in ["10.0.0.2", "10.0.1.1", "10.0.1.2", "8.8.8.8", "192.168.0.2"] {
            let allowed = |port: &u16| ask(&world, Egress, peer, TCP, *port) == BOTH;
            open.extend(
                [80u16, 81, 82, 8080]
                    .into_iter()
                    .filter(allowed)
                    .map(|port| (peer, port)),
            );
        }
        assert_eq!(open, wanted, "{peers:?}");
    };
    check(&[], &[("10.0.1.1", 81), ("10.0.1.2", 82)]);
    check(&[own(&[])], &[("10.0.1.1", 81)]);
    check(&[block("10.0.1.0/24", &["10.0.1.1/32"])], &[("10.0.1.2", 82)]);
    check(&[own(&[("app", "db")])], &[]);
}

// Covers: SEMANTICS 36
#[test]
fn rule_36_relabelling_and_deletion_take_effect() {
    let mut world = with(
        world(),
        &[ingress(vec![rule(&[within(&[("team", "y")], &[])], &[])])],
    );
    world.apply(namespace("y", &[]));
    assert_eq!(ask(&world, Ingress, "10.0.1.2", TCP, 80), 0);
    world.apply(namespace("x", &[("team", "y")]));
    assert_eq!(ask(&world, Ingress, "10.0.0.2", TCP, 80), BOTH);
    world.delete(&Object::NetworkPolicy(ingress(vec![])).key());
    assert_eq!(
        ask(&world, Ingress, "8.8.8.8", TCP, 80),
        BOTH,
        "the last policy is gone"
    );
}

// Covers: SEMANTICS 39
#[test]
fn rule_39_own_addresses_are_marked_and_are_no_pods() {
    let mut world = with(world(), &[ingress(vec![rule(&[within(&[], &[])], &[])])]);
    world.set_node_addresses(vec![ip("10.0.0.254")]);
    world.apply(Object::Pod(pod("x/liar", "192.168.0.1 10.0.0.254", &[])));
    let state = compiled(&world).state;
    for own in ["192.168.0.1", "10.0.0.254"] {
        let entry = state.addresses[&Addr::from(ip(own))];
        assert_eq!(
            (entry.flags, entry.ifindex),
            (AddressEntry::LOCAL_NODE, 0),
            "{own}"
        );
        assert_eq!(ask(&world, Ingress, own, TCP, 80), 0, "{own}");
    }
    assert!(
        !state.addresses.contains_key(&Addr::from(ip("192.168.0.2"))),
        "other nodes are addresses like others"
    );
}

// Covers: SEMANTICS 31
#[test]
fn only_running_pods_on_the_nodes_network_speak_for_their_node() {
    // No Node object says which addresses n9 has.
    let mut world = world();
    for (host_network, finished, node) in [
        (true, false, Some("n9")),
        (true, true, None),
        (false, false, None),
        (false, true, None),
    ] {
        world.apply(Object::Pod(Pod {
            node: Some("n9".to_owned()),
            host_network,
            finished,
            ..pod("x/agent", "192.168.0.9", &[])
        }));
        assert_eq!(
            world.node_of(ip("192.168.0.9")),
            node,
            "{host_network} {finished}"
        );
    }
    // Of two who say the same, one goes.
    let agent = |name: &str| {
        Object::Pod(Pod {
            node: Some("n9".to_owned()),
            host_network: true,
            ..pod(name, "192.168.0.9", &[])
        })
    };
    world.apply(agent("x/agent"));
    world.apply(agent("x/proxy"));
    world.delete(&agent("x/agent").key());
    assert_eq!(world.node_of(ip("192.168.0.9")), Some("n9"));
    world.delete(&agent("x/proxy").key());
    assert_eq!(world.node_of(ip("192.168.0.9")), None);
}

#[test]
fn a_record_that_does_not_enforce_is_pending() {
    let mut state = compiled(&world()).state;
    let pending = |state: &_| reader::lookup(state, WEB, Ingress, ip("8.8.8.8"), TCP, 80).pending;
    assert!(!pending(&state));
    state.endpoints.get_mut(&WEB).unwrap().flags = 0;
    assert!(pending(&state));
}
