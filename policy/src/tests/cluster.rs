//! ClusterNetworkPolicies, rule by rule, as the maps answer.

use std::net::IpAddr;

use vethwall_common::{Direction, verdict::allow};

use crate::{
    compile::{Compiled, compile},
    model::{
        ClusterNetworkPolicy, ClusterRule, Labels, Mode, NetworkPolicy, Object, Peer, Pod, PortMatch, Ports,
        RuleAction, Selector, Tier,
    },
    numbers::Numbers,
    reader,
    tests::world::{
        ICMP, TCP, UDP, acts, admin, block, cluster, endpoint, ip, labels, namespace, node, own, pod, policy,
        port, rule, selector, tcp, within,
    },
    world::World,
};

use RuleAction::{Accept, Deny, Pass};

/// y/client and z/other, pods elsewhere; x/web is asked.
const CLIENT: &str = "10.0.1.2";
const OTHER: &str = "10.0.1.3";

fn on_ports(rule: ClusterRule, ports: &[PortMatch]) -> ClusterRule {
    ClusterRule {
        ports: Ports::Some(ports.to_vec()),
        ..rule
    }
}

fn everyone() -> Peer {
    within(&[], &[])
}

fn team(name: &str) -> Peer {
    within(&[("team", name)], &[])
}

struct Case {
    world: World,
    compiled: Compiled,
}

impl Case {
    fn new(cluster: Vec<ClusterNetworkPolicy>, namespaced: Vec<NetworkPolicy>) -> Self {
        let mut world = World::new("n1");
        let web = Pod {
            ports: vec![port("http", TCP, 8080)],
            ..pod("x/web", "10.0.0.9", &[("app", "web")])
        };
        let client = Pod {
            ports: vec![port("http", TCP, 9090), port("dns", UDP, 53)],
            ..pod("y/client", CLIENT, &[("role", "client")])
        };
        world.attach(endpoint(7, &web));
        for object in [
            namespace("x", &[]),
            namespace("y", &[("team", "y")]),
            namespace("z", &[("team", "z")]),
            node("n1", "192.168.0.1", "10.0.0.0/24", labels(&[("zone", "a")])),
            node("n2", "192.168.0.2", "10.0.1.0/24", labels(&[("zone", "b")])),
            Object::Pod(web),
            Object::Pod(client),
            Object::Pod(pod("z/other", OTHER, &[])),
        ] {
            world.apply(object);
        }
        let all = cluster.into_iter().map(Object::ClusterNetworkPolicy);
        all.chain(namespaced.into_iter().map(Object::NetworkPolicy))
            .for_each(|object| world.apply(object));
        let compiled = compile(&world, &mut Numbers::default());
        assert_eq!(compiled.problems, []);
        Self { world, compiled }
    }

    fn answer(&self, direction: Direction, peer: &str, protocol: u8, port: u16) -> reader::Answer {
        let peer: IpAddr = ip(peer);
        reader::lookup(&self.compiled.state, 7, direction, peer, protocol, port)
    }

    fn enters(&self, peer: &str, port: u16) -> bool {
        self.answer(Direction::Ingress, peer, TCP, port).allow & allow::ENFORCED != 0
    }

    fn leaves(&self, peer: &str, port: u16) -> bool {
        self.answer(Direction::Egress, peer, TCP, port).allow & allow::ENFORCED != 0
    }

    /// The policy and rule that a packet to port 80 is attributed to.
    fn blamed(&self, peer: &str) -> (Vec<String>, Option<usize>) {
        let answer = self.answer(Direction::Ingress, peer, TCP, 80);
        let by = self.compiled.cookies.get(answer.cookie);
        let names = |by: &crate::compile::Attribution| by.policies.iter().map(ToString::to_string).collect();
        (by.map(names).unwrap_or_default(), by.and_then(|by| by.rule))
    }
}

fn isolating(rules: &[Peer]) -> NetworkPolicy {
    let rules = rules.iter().map(|peer| rule(std::slice::from_ref(peer), &[]));
    NetworkPolicy {
        ingress: Some(rules.collect()),
        ..policy("x/np", &[])
    }
}

// Covers: CNP 1
#[test]
fn an_admin_policy_is_final_before_networkpolicies() {
    let accepts = Case::new(
        vec![admin("a", 1, vec![acts(Accept, team("y"))])],
        vec![isolating(&[])],
    );
    assert!(accepts.enters(CLIENT, 80) && !accepts.enters(OTHER, 80));
    let denies = Case::new(
        vec![admin("a", 1, vec![acts(Deny, team("y"))])],
        vec![isolating(&[everyone()])],
    );
    assert!(!denies.enters(CLIENT, 80) && denies.enters(OTHER, 80));
    assert_eq!(denies.blamed(CLIENT), (vec!["a".to_owned()], Some(0)));
    assert_eq!(denies.blamed(OTHER), (vec!["x/np".to_owned()], Some(0)));
}

// Covers: CNP 1
#[test]
fn pass_skips_the_rest_of_its_tier_and_no_other() {
    let rules = vec![acts(Pass, team("y")), acts(Deny, everyone())];
    let later = admin("later", 9, vec![acts(Deny, everyone())]);
    let case = Case::new(vec![admin("a", 1, rules.clone()), later.clone()], vec![]);
    assert!(case.enters(CLIENT, 80) && !case.enters(OTHER, 80));
    let case = Case::new(
        vec![admin("a", 1, rules.clone()), later.clone()],
        vec![isolating(&[])],
    );
    assert!(!case.enters(CLIENT, 80), "NetworkPolicies decide then");
    let baseline = cluster("b", Tier::Baseline, 0, vec![acts(Deny, team("y"))]);
    let case = Case::new(vec![admin("a", 1, rules), later, baseline], vec![]);
    assert!(!case.enters(CLIENT, 80), "then the Baseline tier");
    let passes = vec![acts(Pass, team("y")), acts(Deny, team("y"))];
    let case = Case::new(vec![cluster("b", Tier::Baseline, 0, passes)], vec![]);
    assert!(case.enters(CLIENT, 80), "after the last tier nothing denies");
}

// Covers: CNP 2
#[test]
fn networkpolicies_are_final_in_the_direction_in_which_they_isolate() {
    let baseline = |action| {
        let rules = vec![acts(action, everyone())];
        ClusterNetworkPolicy {
            egress: rules.clone(),
            ..cluster("b", Tier::Baseline, 0, rules)
        }
    };
    let case = Case::new(vec![baseline(Deny)], vec![isolating(&[team("y")])]);
    assert!(case.enters(CLIENT, 80), "what it allows, Baseline does not deny");
    assert!(
        !case.leaves(CLIENT, 80),
        "ingress only: egress is left to Baseline"
    );
    let case = Case::new(vec![baseline(Accept)], vec![isolating(&[])]);
    assert!(!case.enters(CLIENT, 80) && case.leaves(CLIENT, 80));
    let egress_only = NetworkPolicy {
        egress: Some(vec![]),
        ..policy("x/np", &[])
    };
    let case = Case::new(vec![baseline(Deny)], vec![egress_only]);
    assert!(
        !case.enters(CLIENT, 80),
        "an egress policy does not shadow Baseline ingress"
    );
}

// Covers: CNP 3
#[test]
fn the_lower_priority_number_is_asked_first_and_names_order_equal_ones() {
    let deny = |name, priority| admin(name, priority, vec![acts(Deny, team("y"))]);
    let accept = |name, priority| admin(name, priority, vec![acts(Accept, team("y"))]);
    for (policies, enters) in [
        ([deny("a", 2), accept("b", 1)], true),
        ([deny("a", 1), accept("b", 2)], false),
        ([deny("a", 5), accept("b", 5)], false),
        ([deny("b", 5), accept("a", 5)], true),
        // By number, not by text.
        ([deny("a", 10), accept("b", 9)], true),
    ] {
        assert_eq!(
            Case::new(policies.to_vec(), vec![]).enters(CLIENT, 80),
            enters,
            "{policies:?}"
        );
    }
}

// Covers: CNP 3
#[test]
fn the_first_rule_that_matches_decides_and_none_changes_nothing() {
    let rules = vec![
        on_ports(acts(Deny, team("y")), &[tcp(81, 81)]),
        acts(Accept, team("y")),
        acts(Deny, team("y")),
    ];
    let case = Case::new(vec![admin("a", 1, rules.clone())], vec![]);
    assert!(!case.enters(CLIENT, 81) && case.enters(CLIENT, 80));
    assert!(
        case.enters(OTHER, 80),
        "no rule matched: nothing is isolated by that"
    );
    assert!(case.enters("8.8.8.8", 80));
    assert_eq!(case.blamed(CLIENT), (vec!["a".to_owned()], Some(1)));
}

// Covers: CNP 4
#[test]
fn accepting_egress_exempts_from_no_ingress_rule() {
    let egress = ClusterNetworkPolicy {
        egress: vec![acts(Accept, everyone())],
        ..admin("a", 1, vec![])
    };
    let case = Case::new(vec![egress], vec![isolating(&[])]);
    assert!(case.leaves(CLIENT, 80) && !case.enters(CLIENT, 80));
}

// Covers: CNP 5
#[test]
fn networks_match_pods_and_icmp_and_nodes_match_status_addresses() {
    let egress = |action, peer| ClusterNetworkPolicy {
        egress: vec![acts(action, peer)],
        ..admin("a", 1, vec![])
    };
    let case = Case::new(vec![egress(Deny, block("10.0.1.0/24", &[]))], vec![]);
    assert!(!case.leaves(CLIENT, 80) && case.leaves("8.8.8.8", 80));
    assert_eq!(case.answer(Direction::Egress, CLIENT, ICMP, 0).allow, 0);
    let zone = |zone: &str| Peer::Nodes(selector(&[("zone", zone)]));
    let case = Case::new(vec![egress(Deny, zone("b"))], vec![]);
    assert!(!case.leaves("192.168.0.2", 80) && case.leaves("192.168.0.1", 80));
    assert!(case.leaves(CLIENT, 80), "a pod of the node is not the node");
    let case = Case::new(vec![egress(Deny, Peer::Nodes(Selector::everything()))], vec![]);
    assert!(!case.leaves("192.168.0.1", 80) && case.leaves("192.168.0.3", 80));
    let case = Case::new(
        vec![
            egress(Accept, zone("a")),
            ClusterNetworkPolicy {
                egress: vec![acts(Deny, block("0.0.0.0/0", &[]))],
                ..admin("b", 2, vec![])
            },
        ],
        vec![],
    );
    assert!(case.leaves("192.168.0.1", 80) && !case.leaves("192.168.0.2", 80));
}

// Covers: CNP 6
#[test]
fn what_is_not_known_matches_nothing_that_accepts_and_everything_that_denies() {
    let unknown = |action| match action {
        Accept => acts(action, Peer::Nothing),
        Deny | Pass => acts(action, Peer::Everything),
    };
    let accepts = Case::new(vec![admin("a", 1, vec![unknown(Accept)])], vec![isolating(&[])]);
    assert!(!accepts.enters(CLIENT, 80));
    let denies = Case::new(vec![admin("a", 1, vec![unknown(Deny)])], vec![]);
    assert!(!denies.enters(CLIENT, 80) && !denies.enters("8.8.8.8", 80));
    assert_eq!(denies.answer(Direction::Ingress, "8.8.8.8", ICMP, 0).allow, 0);
    let passes = vec![unknown(Pass), acts(Accept, everyone())];
    let passes = Case::new(vec![admin("a", 1, passes)], vec![isolating(&[])]);
    assert!(!passes.enters(CLIENT, 80));
    let port = on_ports(acts(Deny, team("y")), &[PortMatch::Everything]);
    let port = Case::new(vec![admin("a", 1, vec![port])], vec![]);
    assert!(!port.enters(CLIENT, 80) && port.enters(OTHER, 80));
    assert_eq!(port.answer(Direction::Ingress, CLIENT, ICMP, 0).allow, 0);
    // Beside one that is known.
    let ports = on_ports(acts(Deny, team("y")), &[PortMatch::Everything, tcp(80, 80)]);
    let ports = Case::new(vec![admin("a", 1, vec![ports])], vec![]);
    assert!([79, 80, 81].iter().all(|port| !ports.enters(CLIENT, *port)));
    let nowhere = on_ports(acts(Accept, team("y")), &[PortMatch::Nothing]);
    assert!(!Case::new(vec![admin("a", 1, vec![nowhere])], vec![isolating(&[])]).enters(CLIENT, 80));
}

// Covers: CNP 7
#[test]
fn without_protocols_every_protocol_matches_and_with_them_no_other() {
    let all = Case::new(vec![admin("a", 1, vec![acts(Deny, team("y"))])], vec![]);
    for (protocol, port) in [(TCP, 80), (UDP, 53), (ICMP, 0), (47, 0)] {
        assert_eq!(all.answer(Direction::Ingress, CLIENT, protocol, port).allow, 0);
    }
    let some = on_ports(acts(Deny, team("y")), &[tcp(100, 200), PortMatch::Protocol(UDP)]);
    let some = Case::new(vec![admin("a", 1, vec![some])], vec![]);
    for (protocol, port, denied) in [
        (TCP, 99, false),
        (TCP, 100, true),
        (TCP, 200, true),
        (TCP, 201, false),
        (UDP, 1, true),
        (ICMP, 0, false),
    ] {
        let answer = some.answer(Direction::Ingress, CLIENT, protocol, port);
        assert_eq!(answer.allow == 0, denied, "{protocol} {port}");
    }
}

// Covers: SEMANTICS 27
#[test]
fn a_named_port_is_the_destinations() {
    let http = PortMatch::Named {
        protocol: TCP,
        name: "http".to_owned(),
    };
    let rules = vec![on_ports(acts(Deny, everyone()), std::slice::from_ref(&http))];
    let policy = ClusterNetworkPolicy {
        egress: rules.clone(),
        ..admin("a", 1, rules)
    };
    let case = Case::new(vec![policy], vec![]);
    assert!(
        !case.enters(CLIENT, 8080) && case.enters(CLIENT, 9090),
        "x/web's own"
    );
    assert!(
        !case.leaves(CLIENT, 9090) && case.leaves(CLIENT, 8080),
        "y/client's"
    );
    assert!(case.leaves(OTHER, 9090), "a pod without the port");
    assert!(case.leaves("8.8.8.8", 9090), "never of an external address");
}

#[test]
fn the_subject_is_of_its_namespaces_and_its_pods() {
    let subject = |namespaces: Selector, pods: Selector| ClusterNetworkPolicy {
        namespaces,
        pods,
        ..admin("a", 1, vec![acts(Deny, everyone())])
    };
    let all = Selector::everything;
    for (namespaces, pods, denied) in [
        (all(), all(), true),
        (selector(&[("team", "y")]), all(), false),
        (
            selector(&[("kubernetes.io/metadata.name", "x")]),
            selector(&[("app", "web")]),
            true,
        ),
        (all(), selector(&[("app", "db")]), false),
    ] {
        let case = Case::new(vec![subject(namespaces.clone(), pods.clone())], vec![]);
        assert_eq!(!case.enters(CLIENT, 80), denied, "{namespaces} {pods}");
    }
}

#[test]
fn an_audited_policy_only_tells() {
    let watched = ClusterNetworkPolicy {
        mode: Some(Mode::Audit),
        ..admin("a", 1, vec![acts(Deny, team("y"))])
    };
    let case = Case::new(vec![watched], vec![isolating(&[everyone()])]);
    let answer = case.answer(Direction::Ingress, CLIENT, TCP, 80);
    assert_eq!(answer.allow, allow::ENFORCED);
    assert_eq!(
        case.blamed(CLIENT),
        (vec!["a".to_owned()], Some(0)),
        "what would deny is named"
    );
    assert_eq!(case.answer(Direction::Ingress, OTHER, TCP, 80).allow, allow::BOTH);
    assert_eq!(case.blamed(OTHER), (vec!["x/np".to_owned()], Some(0)));
    let watched = ClusterNetworkPolicy {
        mode: Some(Mode::Audit),
        ..admin("a", 1, vec![acts(Accept, team("y"))])
    };
    let case = Case::new(vec![watched], vec![isolating(&[])]);
    assert_eq!(
        case.answer(Direction::Ingress, CLIENT, TCP, 80).allow,
        allow::SHADOW
    );
    assert_eq!(
        case.blamed(CLIENT),
        (vec!["x/np".to_owned()], None),
        "what denies is named"
    );
}

#[test]
fn an_address_of_the_pods_network_whose_pod_is_not_known_is_denied_by_what_denies_pods() {
    let rules = vec![acts(Deny, team("y"))];
    let case = Case::new(vec![admin("a", 1, rules.clone())], vec![]);
    assert!(!case.enters("10.0.1.77", 80), "it may be of team y");
    assert!(case.enters(OTHER, 80), "this one is known not to be");
    assert!(case.enters("8.8.8.8", 80));
    assert!(
        case.enters("10.0.1.0", 80) && case.enters("10.0.1.1", 80),
        "n2 itself, as flannel sends"
    );
    // What passes on may take: the next tier and this one both have to agree.
    let rules = vec![acts(Pass, team("y")), acts(Accept, block("10.0.0.0/8", &[]))];
    let case = Case::new(vec![admin("a", 1, rules)], vec![isolating(&[])]);
    assert!(case.enters(OTHER, 80) && !case.enters(CLIENT, 80) && !case.enters("10.0.1.77", 80));
    // Where all pods are known, it is nobody's.
    let mut world = Case::new(vec![admin("a", 1, vec![acts(Deny, team("y"))])], vec![]).world;
    world = world.complete();
    let state = compile(&world, &mut Numbers::default()).state;
    let answer = reader::lookup(&state, 7, Direction::Ingress, ip("10.0.1.77"), TCP, 80);
    assert_eq!(answer.allow, allow::BOTH);
}

#[test]
fn an_address_that_two_pods_claim_gets_what_both_would_get() {
    let claimed = |rules: Vec<ClusterRule>, namespaced| {
        let mut world = Case::new(vec![admin("a", 1, rules)], namespaced).world;
        world.apply(Object::Pod(pod("z/also", CLIENT, &[])));
        let state = compile(&world, &mut Numbers::default()).state;
        reader::lookup(&state, 7, Direction::Ingress, ip(CLIENT), TCP, 80).allow != 0
    };
    assert!(!claimed(vec![acts(Deny, team("y"))], vec![]));
    assert!(!claimed(vec![acts(Deny, team("z"))], vec![]));
    assert!(!claimed(vec![acts(Accept, team("y"))], vec![isolating(&[])]));
    assert!(claimed(vec![acts(Accept, everyone())], vec![isolating(&[])]));
    let passes = vec![acts(Pass, team("y")), acts(Accept, everyone())];
    assert!(!claimed(passes.clone(), vec![isolating(&[])]) && claimed(passes, vec![]));
}

#[test]
fn a_host_network_pod_is_neither_subject_nor_peer() {
    let mut world = Case::new(
        vec![ClusterNetworkPolicy {
            egress: vec![acts(Deny, everyone())],
            ..admin("a", 1, vec![])
        }],
        vec![isolating(&[own(&[])])],
    )
    .world;
    world.apply(Object::Pod(Pod {
        host_network: true,
        ..pod("x/host", "192.168.0.2", &[])
    }));
    let state = compile(&world, &mut Numbers::default()).state;
    let ask = |direction| reader::lookup(&state, 7, direction, ip("192.168.0.2"), TCP, 80).allow;
    assert_eq!(
        (ask(Direction::Egress), ask(Direction::Ingress)),
        (allow::BOTH, 0)
    );
}

#[test]
fn labels_change_and_verdicts_follow() {
    let mut world = Case::new(vec![admin("a", 1, vec![acts(Deny, team("y"))])], vec![]).world;
    let mut compiler = crate::compile::Compiler::default();
    let mut enters = |world: &World| {
        let state = compiler.compile(world).state;
        compiler.release(&state);
        reader::lookup(&state, 7, Direction::Ingress, ip(CLIENT), TCP, 80).allow != 0
    };
    assert!(!enters(&world));
    world.apply(namespace("y", &[("team", "w")]));
    assert!(enters(&world));
    world.apply(Object::Namespace(crate::model::Namespace {
        name: "y".to_owned(),
        labels: Labels::from([("team".to_owned(), "y".to_owned())]),
        terminating: true,
    }));
    assert!(!enters(&world));
}

#[test]
fn what_denies_a_peer_of_which_nothing_is_known_is_the_rule_that_denies() {
    let on = |action, port| ClusterRule {
        ports: Ports::Some(vec![tcp(port, port)]),
        ..acts(action, Peer::Everything)
    };
    let rules = vec![on(RuleAction::Accept, 80), on(RuleAction::Deny, 81)];
    let mut world = crate::tests::small::world();
    world.apply(Object::ClusterNetworkPolicy(admin("ports", 1, rules)));
    let compiled = crate::tests::small::compiled(&world);
    let slot = compiled.state.endpoints[&crate::tests::small::WEB].ingress.slot();
    let by = compiled.cookies.get(compiled.state.slots[&slot].cookie).unwrap();
    assert_eq!(by.rule, Some(1), "the slot's default denies by the second");
}
