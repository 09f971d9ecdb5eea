//! Rules that do not match, and why, as explanations say it.

use crate::{
    explain::{SideReason, explain},
    model::{ClusterNetworkPolicy, Mode, NetworkPolicy, Object, Peer, PortMatch, RuleAction, Tier},
    tests::{
        explain::{ask, ingress, one_rule, why, world},
        world::{ICMP, TCP, block, own, target, tcp, within},
    },
};

#[test]
fn a_hole_outside_its_block_is_not_why_an_address_is_not_in_it() {
    let told = |from: &str| {
        let peers = [block("10.1.0.0/16", &["10.1.2.0/24", "192.0.2.0/24"])];
        ask(ingress(&peers, &[]), from, "x/web", 80).ingress
    };
    assert_eq!(
        why(&told("10.1.2.3")),
        "no peer matches: addresses in 10.1.0.0/16: 10.1.2.3 is in its except 10.1.2.0/24"
    );
    assert_eq!(
        why(&told("192.0.2.1")),
        "no peer matches: addresses in 10.1.0.0/16: 192.0.2.1 is not"
    );
}

#[test]
fn a_port_that_is_not_among_those_of_a_rule_is_told_with_them() {
    let told = |port| ask(ingress(&[], &[port]), "y/client", "x/web", 443).ingress;
    assert_eq!(
        why(&told(tcp(80, 80))),
        "no port matches: TCP port 80: this is TCP port 443"
    );
    assert_eq!(
        why(&told(tcp(80, 90))),
        "no port matches: TCP ports 80 to 90: this is TCP port 443"
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
    // SEMANTICS 28: no rule can name ICMP.
    assert!(!case(&[PortMatch::Protocol(ICMP)], ICMP));
    // And so it is told.
    let told = |port| {
        let world = world(ingress(&[], &[port]));
        explain(&world, &target("y/client"), &target("x/web"), TCP, None).ingress
    };
    assert_eq!(
        why(&told(tcp(0, 80))),
        "no port matches: TCP ports 0 to 80: this is TCP without a port"
    );
    assert_eq!(why(&told(PortMatch::Protocol(TCP))), "it allows");
}

#[test]
fn a_port_means_nothing_where_the_protocol_has_none() {
    let world = world(ingress(&[], &[tcp(80, 80)]));
    let asked = explain(&world, &target("y/client"), &target("x/web"), ICMP, Some(80));
    assert_eq!(
        why(&asked.ingress),
        "no port matches: TCP port 80: this is ICMP without a port"
    );
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

#[test]
fn nodes_that_are_not_selected_are_told_why() {
    let nodes = |pairs: &[(&str, &str)]| Peer::Nodes(crate::tests::world::selector(pairs));
    let ask = |peer: Peer, to: &str| {
        let policy = one_rule("a", Tier::Admin, RuleAction::Deny, peer);
        let mut world = world(vec![]);
        world.apply(Object::ClusterNetworkPolicy(ClusterNetworkPolicy {
            egress: policy.ingress.clone(),
            ..policy
        }));
        let side = explain(&world, &target("x/web"), &target(to), TCP, Some(80)).egress;
        side.policies[0].rules[0].failed.clone()
    };
    assert_eq!(ask(nodes(&[]), "192.168.0.2"), None);
    assert_eq!(
        ask(nodes(&[("zone", "a")]), "192.168.0.2").as_deref(),
        Some("no peer matches: nodes zone=a: node n2 fails zone=a: it has no label zone")
    );
    assert_eq!(
        ask(nodes(&[]), "8.8.8.8").as_deref(),
        Some("no peer matches: nodes {}: no node lists the address 8.8.8.8")
    );
}

#[test]
fn without_a_port_the_worst_port_answers() {
    let case = |enforced: Option<PortMatch>, audited: &[PortMatch]| {
        let policies = |mode: Mode, ports: &[PortMatch]| NetworkPolicy {
            name: format!("{mode:?}"),
            mode: Some(mode),
            ..ingress(&[], ports).remove(0)
        };
        let mut all = vec![policies(Mode::Audit, audited)];
        all.extend(enforced.map(|port| policies(Mode::Enforce, &[port])));
        explain(&world(all), &target("y/client"), &target("x/web"), TCP, None).ingress
    };
    // High ports alone, which are more than half of all.
    assert!(!case(Some(tcp(40000, 65000)), &[]).allowed);
    // One port is allowed and audited; all others are neither.
    assert!(!case(Some(tcp(80, 80)), &[tcp(443, 443)]).allowed);
    let audited = case(None, &[tcp(80, 80)]);
    assert_eq!((audited.allowed, audited.reason), (true, SideReason::AuditOnly));
}
