//! Explanations, as a person would read them.

use crate::{
    explain::{Connection, Decision, Explanation, Family, Side, SideReason, explain},
    model::{
        ClusterNetworkPolicy, ClusterRule, Labels, Mode, NetworkPolicy, Object, Peer, Pod, PolicyRef,
        PortMatch, RuleAction, Tier,
    },
    tests::world::{
        TCP, acts, block, cluster, endpoint, ip, namespace, node, own, pod, policy, port, rule, target, tcp,
        within,
    },
    world::World,
};

pub(super) fn world(policies: Vec<NetworkPolicy>) -> World {
    let mut world = World::new("n1");
    let web = Pod {
        ports: vec![port("http", TCP, 8080)],
        ..pod("x/web", "10.0.0.1 fd00::1", &[("app", "web")])
    };
    world.attach(endpoint(7, &web));
    for object in [
        namespace("y", &[("team", "y")]),
        node("n1", "192.168.0.1", "10.0.0.0/24", Labels::new()),
        node("n2", "192.168.0.2", "10.0.1.0/24", Labels::new()),
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

pub(super) fn ask(policies: Vec<NetworkPolicy>, from: &str, to: &str, port: u16) -> Explanation {
    explain(&world(policies), &target(from), &target(to), TCP, Some(port))
}

pub(super) fn ingress(peers: &[Peer], ports: &[PortMatch]) -> Vec<NetworkPolicy> {
    vec![NetworkPolicy {
        ingress: Some(vec![rule(peers, ports)]),
        ..policy("x/p", &[("app", "web")])
    }]
}

pub(super) fn why(side: &Side) -> &str {
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
    // SEMANTICS 35: policies select it, and do not act on it.
    let closed = NetworkPolicy {
        ingress: Some(vec![]),
        ..policy("y/closed", &[])
    };
    let host = ask(vec![closed], "x/web", "y/host", 80);
    assert_eq!((host.allowed, host.ingress.reason), (true, SideReason::NotAPod));
    let unknown = ask(vec![], "x/web", "x/nobody", 80);
    assert_eq!(
        (unknown.allowed, unknown.ingress.reason),
        (false, SideReason::UnknownPod)
    );
}

#[test]
fn audited_policies_are_told_apart() {
    let mut policies = ingress(&[own(&[])], &[]);
    policies[0].mode = Some(Mode::Audit);
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

pub(super) fn one_rule(name: &str, tier: Tier, action: RuleAction, peer: Peer) -> ClusterNetworkPolicy {
    let rule = ClusterRule {
        name: Some("the rule".to_owned()),
        ..acts(action, peer)
    };
    cluster(name, tier, 7, vec![rule])
}

fn asked(cluster: Vec<ClusterNetworkPolicy>, policies: Vec<NetworkPolicy>, from: &str) -> Explanation {
    let mut world = world(policies);
    let objects = cluster.into_iter().map(Object::ClusterNetworkPolicy);
    objects.for_each(|object| world.apply(object));
    explain(&world, &target(from), &target("x/web"), TCP, Some(80))
}

#[test]
fn tiers_are_told_in_the_order_in_which_they_are_asked() {
    let policies = vec![
        one_rule("late", Tier::Baseline, RuleAction::Deny, within(&[], &[])),
        one_rule(
            "early",
            Tier::Admin,
            RuleAction::Deny,
            within(&[("team", "z")], &[]),
        ),
    ];
    let side = asked(policies, ingress(&[own(&[])], &[]), "y/client").ingress;
    let names: Vec<String> = side.policies.iter().map(|p| p.policy.to_string()).collect();
    assert_eq!(names, ["early", "x/p", "late"]);
    assert_eq!((side.reason, side.decided_by), (SideReason::NoRule, None));
    let early = &side.policies[0];
    assert_eq!((early.tier, early.priority), (Some(Tier::Admin), Some(7)));
    let rule = &early.rules[0];
    assert_eq!(
        (rule.name.as_deref(), rule.action, rule.matches),
        (Some("the rule"), Some(RuleAction::Deny), false)
    );
    assert_eq!(
        rule.failed.as_deref(),
        Some("no peer matches: pods {} in namespaces team=z: namespace y fails team=z: it has team=y")
    );
    assert!(side.policies[2].rules[0].matches, "it would, but it is not asked");
}

#[test]
fn a_rule_that_denies_is_named() {
    let deny = || {
        one_rule(
            "deny",
            Tier::Admin,
            RuleAction::Deny,
            within(&[("team", "y")], &[]),
        )
    };
    let side = asked(vec![deny()], ingress(&[], &[]), "y/client").ingress;
    assert_eq!((side.allowed, side.reason), (false, SideReason::Denied));
    let by = side.decided_by.unwrap();
    assert_eq!((by.policy.to_string().as_str(), by.rule), ("deny", 0));
    // Nobody knows yet whose this address is.
    let side = asked(vec![deny()], vec![], "10.0.1.77").ingress;
    assert_eq!((side.allowed, side.reason), (false, SideReason::Denied));
    assert!(side.policies[0].rules[0].matches);
    // One that accepts may not count on it.
    let accept = one_rule(
        "accept",
        Tier::Admin,
        RuleAction::Accept,
        within(&[("team", "y")], &[]),
    );
    let policies = vec![
        accept,
        one_rule("deny", Tier::Baseline, RuleAction::Deny, within(&[], &[])),
    ];
    let side = asked(policies, vec![], "10.0.1.77").ingress;
    assert_eq!(
        side.decided_by.map(|by| by.policy.to_string()).as_deref(),
        Some("deny")
    );
    assert_eq!(
        side.policies[0].rules[0].failed.as_deref(),
        Some(
            "no peer matches: pods {} in namespaces team=y: 10.0.1.77 is in the pods' network, but no pod that is \
             known has it"
        )
    );
}

#[test]
fn selected_without_a_decision_is_open() {
    let policies = vec![one_rule(
        "a",
        Tier::Admin,
        RuleAction::Deny,
        within(&[("team", "z")], &[]),
    )];
    let explanation = asked(policies, vec![], "y/client");
    assert!(explanation.allowed && explanation.ingress.selected && !explanation.egress.selected);
    assert_eq!(explanation.ingress.reason, SideReason::NotIsolated);
}

// Covers: SEMANTICS 39
#[test]
fn a_node_without_an_object_is_known_by_the_addresses_that_its_pods_name() {
    let host = |address: &str| vec![ip(address)];
    let mut world = World::new("").complete();
    let web = Pod {
        host_addresses: host("192.168.9.1"),
        ..pod("x/web", "10.0.0.1", &[])
    };
    let agent = |name: &str, address: &str| Pod {
        host_network: true,
        host_addresses: host(address),
        ..pod(name, address, &[])
    };
    for object in [
        Object::Pod(web),
        Object::Pod(agent("x/here", "192.168.9.1")),
        Object::Pod(agent("x/there", "192.168.9.2")),
        Object::NetworkPolicy(NetworkPolicy {
            ingress: Some(vec![]),
            ..policy("x/closed", &[])
        }),
    ] {
        world.apply(object);
    }
    let enters = |from: &str| explain(&world, &target(from), &target("x/web"), TCP, Some(80)).allowed;
    assert!(enters("x/here") && enters("192.168.9.1"));
    assert!(!enters("x/there") && !enters("192.168.9.2") && !enters("10.0.0.7"));

    // By the node's name too, where no status names its addresses.
    let bound = |pod: Pod| Pod {
        node: Some("here".to_owned()),
        host_addresses: vec![],
        ..pod
    };
    let mut world = World::new("").complete();
    for object in [
        Object::Pod(bound(pod("x/web", "10.0.0.1", &[]))),
        Object::Pod(bound(Pod {
            host_network: true,
            ..pod("x/here", "192.168.9.1", &[])
        })),
        Object::NetworkPolicy(NetworkPolicy {
            ingress: Some(vec![]),
            ..policy("x/closed", &[])
        }),
    ] {
        world.apply(object);
    }
    let enters =
        |world: &World, from: &str| explain(world, &target(from), &target("x/web"), TCP, Some(80)).allowed;
    assert!(enters(&world, "192.168.9.1") && !enters(&world, "192.168.9.2"));
    let here = Object::Pod(pod("x/here", "", &[])).key();
    world.delete(&here);
    assert!(!enters(&world, "192.168.9.1"), "nobody says so any more");
}

#[test]
fn a_side_that_only_an_audit_denies_denies_the_shadow_of_both() {
    let mut policies = ingress(&[own(&[])], &[]);
    policies[0].mode = Some(Mode::Audit);
    let told = ask(policies, "y/client", "x/web", 80);
    assert!(told.allowed && told.egress.shadow_allowed && !told.shadow_allowed);
}

// Covers: SEMANTICS 39, 40
#[test]
fn the_own_node_and_the_pod_itself_are_told_where_no_policy_acts_too() {
    let reason = |from: &str| ask(vec![], from, "x/web", 80).ingress.reason;
    assert_eq!(reason("192.168.0.1"), SideReason::OwnNode);
    assert_eq!(reason("x/web"), SideReason::SelfTraffic);
    assert_eq!(reason("y/client"), SideReason::NotIsolated);
    // Where one does, it is told beside them.
    for (from, reason) in [
        ("192.168.0.1", SideReason::OwnNode),
        ("x/web", SideReason::SelfTraffic),
    ] {
        let side = ask(ingress(&[], &[tcp(1, 1)]), from, "x/web", 80).ingress;
        assert!(
            side.allowed && side.selected && side.policies.len() == 1,
            "{side:?}"
        );
        assert_eq!(side.reason, reason);
    }
}

#[test]
fn a_pod_without_an_address_is_judged_by_its_labels() {
    let mut world = world(ingress(&[within(&[], &[("app", "client")])], &[]));
    let pods = [
        ("young", "client", false, false),
        ("other", "db", false, false),
        ("host", "client", true, false),
        ("done", "client", false, true),
    ];
    let allowed = pods.map(|(name, app, host_network, finished)| {
        let name = format!("z/{name}");
        world.apply(Object::Pod(Pod {
            host_network,
            finished,
            ..pod(&name, "", &[("app", app)])
        }));
        let told = explain(&world, &target(&name), &target("x/web"), TCP, Some(80));
        told.ingress.allowed
    });
    assert_eq!(allowed, [true, false, false, false]);
}

// Covers: SEMANTICS 20
#[test]
fn a_family_that_is_asked_for_is_the_one_that_is_judged() {
    let world = world(vec![]);
    let ends = |from: &str, to: &str, family| {
        let connection = Connection {
            src: target(from),
            dst: target(to),
            protocol: TCP,
            port: Some(80),
            family,
        };
        let told = connection.explain(&world);
        [told.from.address, told.to.address]
    };
    let (v4, v6) = (["10.0.1.2", "10.0.0.1"], ["fd00::2", "fd00::1"]);
    let some = |addresses: [&str; 2]| addresses.map(|address| Some(ip(address)));
    assert_eq!(ends("y/client", "x/web", Some(Family::V4)), some(v4));
    assert_eq!(ends("y/client", "x/web", Some(Family::V6)), some(v6));
    // The only one that both have.
    assert_eq!(ends("y/client", "fd00::1", None), some(v6));
    assert_eq!(ends("y/client", "10.0.0.1", None), some(v4));
}
