//! The nearest fix: that it helps, and how it reads.

use proptest::{prelude::*, sample::select};
use vethwall_common::{Direction, verdict::allow};

use crate::{
    explain::{
        Connection, Family, SideReason, Target,
        fix::{Change, RuleRef},
        nearest::{Fix, nearest},
    },
    model::{
        ClusterNetworkPolicy, Labels, Mode, NetworkPolicy, Object, Operator, Peer, Pod, PolicyRef,
        Requirement, Rule, RuleAction, Selector,
    },
    tests::judge::judge,
    tests::random::{OTHERS, PACKETS, PODS, parts},
    tests::world::{
        ICMP, TCP, UDP, acts, admin, block, ip, namespace, node, own, pod, policy, port, rule, target, tcp,
        within,
    },
    world::World,
};

/// `y/client` and `x/web`, which the policies are about.
fn world(policies: Vec<Object>) -> World {
    let mut world = World::new("n1");
    for object in [
        namespace("x", &[]),
        namespace("y", &[("team", "y")]),
        node("n2", "192.168.0.2", "10.0.1.0/24", Labels::new()),
        Object::Pod(Pod {
            ports: vec![port("http", TCP, 8080)],
            ..pod("x/web", "10.0.0.1 fd00::1", &[("app", "web")])
        }),
        Object::Pod(pod(
            "x/db",
            "10.0.0.2",
            &[("app", "db"), ("pod-template-hash", "7d9f8")],
        )),
        Object::Pod(pod("y/client", "10.0.1.2 fd00::2", &[("app", "client")])),
    ]
    .into_iter()
    .chain(policies)
    {
        world.apply(object);
    }
    world
}

/// The sentence for a connection that the destination denies; each of its changes alone makes it pass.
fn told(policies: Vec<Object>, from: &str, to: &str, (protocol, port): (u8, Option<u16>)) -> String {
    let world = world(policies);
    let connection = Connection {
        src: target(from),
        dst: target(to),
        protocol,
        port,
        family: None,
    };
    let before = connection.explain(&world);
    assert!(!before.allowed);
    let side = [Direction::Egress, Direction::Ingress]
        .into_iter()
        .find(|direction| !before.side(*direction).allowed)
        .unwrap();
    let fix = nearest(&world, &connection, &before, side).unwrap();
    for change in fix.0.last().unwrap() {
        let mut after = done(&world, &fix);
        let (before, object) = (after.clone(), change.object(&after));
        assert!(change.apply(&mut after));
        assert!(connection.explain(&after).allowed, "{change}");
        // What is not new can be taken back.
        match object {
            Some(object) => {
                after.apply(object);
                assert_eq!(after, before, "{change}");
            }
            None => assert!(matches!(change, Change::AddPolicy { .. }), "{change}"),
        }
    }
    fix.to_string()
}

/// After all steps but the last.
fn done(world: &World, fix: &Fix) -> World {
    let mut world = world.clone();
    let (_, steps) = fix.0.split_last().unwrap();
    for step in steps {
        assert!(step[0].apply(&mut world));
    }
    world
}

fn ingress(rules: Vec<Rule>) -> Vec<Object> {
    vec![Object::NetworkPolicy(NetworkPolicy {
        ingress: Some(rules),
        ..policy("x/p", &[("app", "web")])
    })]
}

fn needs(requirements: &[(&str, Operator)]) -> Peer {
    let requirements = requirements.iter().map(|(key, operator)| Requirement {
        key: (*key).to_owned(),
        operator: operator.clone(),
    });
    Peer::Pods {
        namespaces: None,
        pods: Selector::new(requirements),
    }
}

const WEB: (u8, Option<u16>) = (TCP, Some(8080));

#[test]
fn a_port_is_missing() {
    let rules = || vec![rule(&[own(&[("app", "db")])], &[tcp(80, 80)])];
    assert_eq!(
        told(ingress(rules()), "x/db", "x/web", WEB),
        "add TCP port 8080 to the ports of ingress rule 1 of x/p"
    );
    assert_eq!(
        told(ingress(rules()), "x/db", "x/web", (UDP, None)),
        "add every port of UDP to the ports of ingress rule 1 of x/p"
    );
    // No entry can name ICMP.
    assert_eq!(
        told(ingress(rules()), "x/db", "x/web", (ICMP, None)),
        "add an ingress rule to x/p that allows podSelector app=db on every port and protocol"
    );
}

#[test]
fn a_label_is_missing_or_another() {
    let one = |peer| {
        ingress(vec![
            rule(&[Peer::Nothing], &[tcp(1, 1)]),
            rule(&[peer], &[tcp(8080, 8080)]),
        ])
    };
    assert_eq!(
        told(one(own(&[("role", "frontend")])), "x/db", "x/web", WEB),
        "label pod x/db with role=frontend, or add a peer to from of ingress rule 2 of x/p: podSelector app=db"
    );
    assert_eq!(
        told(one(own(&[("app", "api")])), "x/db", "x/web", WEB),
        "add a peer to from of ingress rule 2 of x/p: podSelector app=db, or label pod x/db with app=api"
    );
    assert_eq!(
        told(
            one(needs(&[("app", Operator::DoesNotExist)])),
            "x/db",
            "x/web",
            WEB
        ),
        "add a peer to from of ingress rule 2 of x/p: podSelector app=db, or take the label app off pod x/db"
    );
    assert_eq!(
        told(one(needs(&[("ready", Operator::Exists)])), "x/db", "x/web", WEB),
        "label pod x/db with ready=true, or add a peer to from of ingress rule 2 of x/p: podSelector app=db"
    );
    // Two labels are more than one entry.
    assert_eq!(
        told(one(own(&[("app", "api"), ("role", "x")])), "x/db", "x/web", WEB),
        "add a peer to from of ingress rule 2 of x/p: podSelector app=db"
    );
}

#[test]
fn it_is_another_namespace() {
    let rules = vec![rule(&[own(&[("app", "client")])], &[])];
    assert_eq!(
        told(ingress(rules), "y/client", "x/web", WEB),
        "add a peer to from of ingress rule 1 of x/p: namespaceSelector kubernetes.io/metadata.name=y and podSelector \
         app=client"
    );
    let mut with_bare = ingress(vec![rule(&[own(&[("app", "client")])], &[])]);
    with_bare.push(Object::Pod(pod("y/bare", "10.0.1.3", &[])));
    assert_eq!(
        told(with_bare, "y/bare", "x/web", WEB),
        "add a peer to from of ingress rule 1 of x/p: namespaceSelector kubernetes.io/metadata.name=y"
    );
}

#[test]
fn an_address_that_another_pod_has_too_is_named_as_an_address() {
    let closed = Object::NetworkPolicy(NetworkPolicy {
        ingress: Some(vec![]),
        ..policy("x/closed", &[])
    });
    let other = Object::Pod(pod("y/other", "10.0.1.2", &[("app", "other")]));
    assert_eq!(
        told(vec![closed, other], "y/client", "x/web", WEB),
        "add a NetworkPolicy to namespace x that selects pods app=web and allows ingress from ipBlock 10.0.1.2/32 on TCP \
         port 8080"
    );
}

#[test]
fn an_address_is_in_a_hole_or_outside() {
    let rules = |holes: &[&str]| ingress(vec![rule(&[own(&[]), block("10.0.0.0/8", holes)], &[])]);
    assert_eq!(
        told(rules(&["10.9.0.0/16", "10.7.0.7/32"]), "10.7.0.7", "x/web", WEB),
        "remove 10.7.0.7/32 from the except of from[1] of ingress rule 1 of x/p"
    );
    assert_eq!(
        told(rules(&["10.7.0.0/16", "10.7.0.7/32"]), "10.7.0.7", "x/web", WEB),
        "add a peer to from of ingress rule 1 of x/p: ipBlock 10.7.0.7/32",
        "two holes: neither alone"
    );
    assert_eq!(
        told(rules(&[]), "192.0.2.1", "x/web", WEB),
        "add a peer to from of ingress rule 1 of x/p: ipBlock 192.0.2.1/32"
    );
}

#[test]
fn there_is_no_rule() {
    assert_eq!(
        told(ingress(vec![]), "x/db", "x/web", WEB),
        "add an ingress rule to x/p that allows podSelector app=db on TCP port 8080"
    );
    // What denies everything to all stays as it is.
    let deny = |path: &str| {
        Object::NetworkPolicy(NetworkPolicy {
            egress: Some(vec![]),
            ..policy(path, &[])
        })
    };
    assert_eq!(
        told(
            vec![deny("y/web-allow"), deny("y/client-allow")],
            "y/client",
            "192.0.2.1",
            WEB
        ),
        "add a NetworkPolicy to namespace y that selects pods app=client and allows egress to ipBlock 192.0.2.1/32 on \
         TCP port 8080"
    );
}

#[test]
fn the_smallest_change_wins() {
    let rules = vec![
        rule(&[own(&[("app", "api")])], &[tcp(8080, 8080)]),
        rule(&[own(&[("app", "db")])], &[tcp(80, 80)]),
    ];
    assert_eq!(
        told(ingress(rules), "x/db", "x/web", WEB),
        "add TCP port 8080 to the ports of ingress rule 2 of x/p"
    );
}

#[test]
fn a_change_that_closes_the_other_side_is_not_told() {
    // With role=frontend the source would be isolated.
    let mut policies = ingress(vec![rule(&[own(&[("role", "frontend")])], &[])]);
    policies.push(Object::NetworkPolicy(NetworkPolicy {
        egress: Some(vec![]),
        ..policy("x/frontend", &[("role", "frontend")])
    }));
    assert_eq!(
        told(policies, "x/db", "x/web", WEB),
        "add a peer to from of ingress rule 1 of x/p: podSelector app=db"
    );
}

#[test]
fn an_audited_policy_is_not_changed() {
    let mut policies = ingress(vec![]);
    policies.push(Object::NetworkPolicy(NetworkPolicy {
        ingress: Some(vec![rule(&[own(&[("app", "db")])], &[tcp(80, 80)])]),
        mode: Some(Mode::Audit),
        ..policy("x/audited", &[("app", "web")])
    }));
    assert_eq!(
        told(policies, "x/db", "x/web", WEB),
        "add an ingress rule to x/p that allows podSelector app=db on TCP port 8080"
    );
}

#[test]
fn what_no_change_makes_allow_does_not_hide_the_change_that_does() {
    // In front of x/p by name, more than are tried.
    let many = |mode: Mode, peer: Peer| -> Vec<Object> {
        let one = |n| NetworkPolicy {
            ingress: Some(vec![rule(std::slice::from_ref(&peer), &[tcp(9, 9)])]),
            mode: Some(mode),
            ..policy(&format!("x/a{n}"), &[("app", "web")])
        };
        (10..50).map(one).map(Object::NetworkPolicy).collect()
    };
    let with = |mut others: Vec<Object>, peer, port| {
        others.extend(ingress(vec![rule(&[peer], &[tcp(port, port)])]));
        told(others, "x/db", "x/web", WEB)
    };
    let (db, beyond) = (own(&[("app", "db")]), block("9.0.0.0/8", &[]));
    // Policies that only watch, each one port away; rules of which neither half matches.
    for others in [many(Mode::Audit, db), many(Mode::Enforce, beyond.clone())] {
        assert_eq!(
            with(others, beyond.clone(), 8080),
            "add a peer to from of ingress rule 1 of x/p: podSelector app=db"
        );
    }
}

#[test]
fn a_change_names_all_of_its_ports() {
    let add = |port| Change::AddPort {
        rule: RuleRef {
            policy: PolicyRef {
                namespace: "x".to_owned(),
                name: "p".to_owned(),
            },
            direction: Direction::Ingress,
            rule: 0,
        },
        port,
    };
    let said = [tcp(80, 80), tcp(80, 90)].map(|port| add(port).to_string());
    assert_eq!(
        said,
        [
            "add TCP port 80 to the ports of ingress rule 1 of x/p",
            "add TCP ports 80 to 90 to the ports of ingress rule 1 of x/p"
        ]
    );
}

fn fence(ingress: Vec<Peer>, egress: Vec<Peer>) -> Vec<Object> {
    let denied = |peers: Vec<Peer>| {
        peers
            .into_iter()
            .map(|peer| acts(RuleAction::Deny, peer))
            .collect()
    };
    vec![Object::ClusterNetworkPolicy(ClusterNetworkPolicy {
        egress: denied(egress),
        ..admin("fence", 7, denied(ingress))
    })]
}

#[test]
fn of_rules_that_deny_no_more_than_eight_are_gone_through() {
    let removes = |rules: usize| {
        let policies = fence(vec![Peer::Everything; rules], vec![]);
        let (world, connection) = (
            world(policies),
            Connection {
                src: target("192.0.2.1"),
                dst: target("x/web"),
                protocol: TCP,
                port: Some(8080),
                family: None,
            },
        );
        let told = connection.explain(&world);
        nearest(&world, &connection, &told, Direction::Ingress).map(|fix| fix.0.len())
    };
    assert_eq!([1, 8, 9].map(removes), [Some(1), Some(8), None]);
}

#[test]
fn a_cluster_policy_denies() {
    let policies = fence(
        vec![within(&[("team", "x")], &[]), within(&[("team", "y")], &[])],
        vec![],
    );
    assert_eq!(
        told(policies, "y/client", "x/web", WEB),
        "put a rule that accepts namespaceSelector kubernetes.io/metadata.name=y and podSelector app=client on TCP port \
         8080 before ingress rule 2 of ClusterNetworkPolicy fence, which denies it"
    );
    let policies = fence(vec![], vec![block("0.0.0.0/0", &[])]);
    assert_eq!(
        told(policies, "y/client", "192.0.2.1", (ICMP, None)),
        "put a rule that accepts ipBlock 192.0.2.1/32 on every port and protocol before egress rule 1 of \
         ClusterNetworkPolicy fence, which denies it"
    );
    let mut policies = fence(vec![Peer::Everything], vec![]);
    assert_eq!(
        told(policies.clone(), "192.0.2.1", "x/web", WEB),
        "change or remove ingress rule 1 of ClusterNetworkPolicy fence, which denies it: no rule that accepts could name \
         this peer"
    );
    policies.extend(ingress(vec![]));
    assert_eq!(
        told(policies, "192.0.2.1", "x/web", WEB),
        "change or remove ingress rule 1 of ClusterNetworkPolicy fence, which denies it: no rule that accepts could name \
         this peer; then add an ingress rule to x/p that allows ipBlock 192.0.2.1/32 on TCP port 8080"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is told helps, says a judge who knows nothing of it; and something is told.
    #[test]
    fn a_fix_helps(
        parts in parts(),
        from in select([&PODS[..], &OTHERS[..]].concat()),
        to in select([&PODS[..], &OTHERS[..]].concat()),
        packet in select(&PACKETS[..]),
    ) {
        let (from, to) = (ip(from), ip(to));
        prop_assume!(from.is_ipv4() == to.is_ipv4());
        let world = parts.world();
        let connection = Connection {
            src: Target::Address(from),
            dst: Target::Address(to),
            protocol: packet.0,
            port: Some(packet.1),
            family: Some(if from.is_ipv4() { Family::V4 } else { Family::V6 }),
        };
        let before = connection.explain(&world);
        for (direction, own, peer) in [(Direction::Egress, &before.from, to), (Direction::Ingress, &before.to, from)] {
            let side = before.side(direction);
            let fix = nearest(&world, &connection, &before, direction);
            if let Some(change) = fix.iter().flat_map(|fix| fix.0.iter().flatten()).next()
                && let Some(object) = change.object(&world)
            {
                let mut again = world.clone();
                prop_assert!(change.apply(&mut again));
                again.apply(object);
                prop_assert_eq!(&again, &world, "{}", change);
            }
            prop_assert_eq!(fix.is_some(), !side.allowed, "{:?}", side);
            let Some(fix) = fix else { continue };
            for change in fix.0.last().unwrap() {
                let before = done(&world, &fix);
                let mut after = before.clone();
                prop_assert!(change.apply(&mut after));
                prop_assert_ne!(&after, &before);
                let (namespace, name) = own.pod.as_deref().and_then(|pod| pod.split_once('/')).unwrap();
                let pod = after.pod(namespace, name).unwrap();
                let bits = judge(&after, pod, direction, peer, packet);
                prop_assert!(bits & allow::ENFORCED != 0, "{change}");
                if side.reason == SideReason::Denied && fix.0.len() == 1 {
                    let cluster = matches!(change, Change::AcceptBefore { .. } | Change::RemoveRule { .. });
                    prop_assert!(cluster, "{change}");
                }
            }
        }
    }
}
