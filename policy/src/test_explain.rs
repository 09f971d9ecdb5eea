//! Explanations, as a person would read them.

use crate::{
    explain::{Decision, Explanation, Side, SideReason, Target, explain},
    model::{Mode, NetworkPolicy, Object, Peer, Pod, PolicyRef, PortMatch},
    test_world::{
        ICMP, TCP, block, endpoint, ip, namespace, node, own, pod, policy, port, rule, tcp, within,
    },
    world::World,
};

fn world(policies: Vec<NetworkPolicy>) -> World {
    let mut world = World::new("n1");
    let web = Pod {
        ports: vec![port("http", TCP, 8080)],
        ..pod("x/web", "10.0.0.1 fd00::1", &[("app", "web")])
    };
    world.attach(endpoint(7, &web));
    for object in [
        namespace("y", &[("team", "y")]),
        node("n1", "192.168.0.1", "10.0.0.0/24"),
        node("n2", "192.168.0.2", "10.0.1.0/24"),
        Object::Pod(web),
        Object::Pod(pod("y/client", "10.0.1.2 fd00::2", &[("app", "client")])),
        Object::Pod(Pod {
            host_network: true,
            node: Some("n1".to_owned()),
            ..pod("y/host", "192.168.0.1", &[])
        }),
    ] {
        world.apply(object);
    }
    policies
        .into_iter()
        .for_each(|policy| world.apply(Object::NetworkPolicy(policy)));
    world
}

fn target(text: &str) -> Target {
    match text.split_once('/') {
        Some((namespace, name)) => Target::Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        },
        None => Target::Address(ip(text)),
    }
}

fn ask(policies: Vec<NetworkPolicy>, from: &str, to: &str, port: u16) -> Explanation {
    explain(&world(policies), &target(from), &target(to), TCP, Some(port))
}

fn ingress(peers: &[Peer], ports: &[PortMatch]) -> Vec<NetworkPolicy> {
    vec![NetworkPolicy {
        ingress: Some(vec![rule(peers, ports)]),
        ..policy("x/p", &[("app", "web")])
    }]
}

fn why(side: &Side) -> &str {
    side.policies[0].rules[0].failed.as_deref().unwrap_or("it allows")
}

// Covers: SEMANTICS 3
#[test]
fn rule_3_both_sides_must_agree() {
    let mut policies = ingress(&[within(&[("team", "y")], &[])], &[]);
    policies.push(NetworkPolicy {
        egress: Some(vec![]),
        ..policy("y/none", &[])
    });
    let explanation = ask(policies.clone(), "y/client", "x/web", 80);
    assert!(!explanation.allowed && explanation.ingress.allowed);
    assert_eq!(
        (explanation.egress.allowed, explanation.egress.reason),
        (false, SideReason::NoRule)
    );
    let p = PolicyRef {
        namespace: "x".to_owned(),
        name: "p".to_owned(),
    };
    assert_eq!(
        explanation.ingress.decided_by,
        Some(Decision { policy: p, rule: 0 })
    );
    policies.pop();
    let explanation = ask(policies, "y/client", "x/web", 80);
    assert!(explanation.allowed);
    assert_eq!(explanation.egress.reason, SideReason::NotIsolated);
}

#[test]
fn the_first_thing_that_failed_is_named() {
    let case = |peers: &[Peer], ports: &[PortMatch], from: &str| {
        let explanation = ask(ingress(peers, ports), from, "x/web", 80);
        assert!(!explanation.allowed);
        why(&explanation.ingress).to_owned()
    };
    let wanted = [
        (
            case(&[own(&[])], &[], "y/client"),
            "no peer matches: pods {} in namespace x: y/client is in another namespace",
        ),
        (
            case(&[within(&[("team", "z")], &[])], &[], "y/client"),
            "no peer matches: pods {} in namespaces team=z: namespace y fails team=z: it has team=y",
        ),
        (
            case(&[within(&[], &[("role", "x")])], &[], "y/client"),
            "no peer matches: pods role=x in namespaces {}: y/client fails role=x: it has no label role",
        ),
        (
            case(&[own(&[])], &[], "8.8.8.8"),
            "no peer matches: pods {} in namespace x: 8.8.8.8 is not a pod",
        ),
        (
            case(&[own(&[])], &[], "192.168.0.2"),
            "no peer matches: pods {} in namespace x: node n2 is not a pod",
        ),
        (
            case(&[block("10.0.0.0/8", &["10.0.1.0/24"])], &[], "y/client"),
            "no peer matches: addresses in 10.0.0.0/8: 10.0.1.2 is in its except 10.0.1.0/24",
        ),
        (
            case(&[block("11.0.0.0/8", &[]), Peer::Nothing], &[], "y/client"),
            "no peer matches: addresses in 11.0.0.0/8: 10.0.1.2 is not; the entry is not valid and matches nothing",
        ),
        (
            case(&[], &[tcp(443, 443)], "8.8.8.8"),
            "no port matches: TCP port 443: this is TCP port 80",
        ),
        (
            case(
                &[],
                &[PortMatch::Named {
                    protocol: TCP,
                    name: "http".to_owned(),
                }],
                "8.8.8.8",
            ),
            "no port matches: TCP port http of x/web (8080): this is TCP port 80",
        ),
    ];
    for (said, wanted) in wanted {
        assert_eq!(said, wanted);
    }
}

// Covers: SEMANTICS 39, 40
#[test]
fn rule_39_the_own_node_passes_and_rule_40_a_pod_reaches_itself() {
    let none = || ingress(&[Peer::Nothing], &[]);
    assert_eq!(
        ask(none(), "192.168.0.1", "x/web", 80).ingress.reason,
        SideReason::OwnNode
    );
    assert_eq!(
        ask(none(), "y/host", "x/web", 80).ingress.reason,
        SideReason::OwnNode
    );
    assert_eq!(
        ask(none(), "192.168.0.2", "x/web", 80).ingress.reason,
        SideReason::NoRule
    );
    let own = ask(none(), "x/web", "10.0.0.1", 80);
    assert!(own.allowed && own.ingress.reason == SideReason::SelfTraffic);
}

#[test]
fn ends_that_policy_does_not_act_on() {
    let out = ask(vec![], "x/web", "8.8.8.8", 80);
    assert_eq!((out.allowed, out.ingress.reason), (true, SideReason::NotAPod));
    let unknown = ask(vec![], "x/web", "x/nobody", 80);
    assert_eq!(
        (unknown.allowed, unknown.ingress.reason),
        (false, SideReason::UnknownPod)
    );
}

// Covers: SEMANTICS 29
#[test]
fn without_a_port_only_rules_that_do_not_ask_for_one_match() {
    let case = |ports: &[PortMatch], protocol| {
        let world = world(ingress(&[], ports));
        explain(&world, &target("y/client"), &target("x/web"), protocol, None).allowed
    };
    assert!(case(&[], ICMP) && case(&[], TCP) && case(&[PortMatch::Protocol(TCP)], TCP));
    assert!(!case(&[tcp(0, 80)], TCP) && !case(&[PortMatch::Protocol(TCP)], ICMP));
}

#[test]
fn audited_policies_are_told_apart() {
    let mut policies = ingress(&[own(&[])], &[]);
    policies[0].mode = Mode::Audit;
    let side = ask(policies, "y/client", "x/web", 80).ingress;
    assert_eq!(
        (side.allowed, side.shadow_allowed, side.reason),
        (true, false, SideReason::AuditOnly)
    );
    assert_eq!(side.policies[0].mode, Mode::Audit);
}

// Covers: SEMANTICS 20, 23
#[test]
fn pods_of_two_families_meet_in_the_one_they_share() {
    let explanation = ask(ingress(&[block("fd00::/64", &[])], &[]), "fd00::2", "x/web", 80);
    assert!(explanation.allowed);
    assert_eq!(explanation.to.address, Some(ip("fd00::1")));
    assert_eq!(explanation.from.pod.as_deref(), Some("y/client"));
}
