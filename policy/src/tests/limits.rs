//! Beyond a limit the policy at fault allows nothing, says so, and takes no other with it.

use vethwall_common::{Direction, address::Addr, verdict::allow};

use crate::{
    compile::{Compiled, Compiler, compile_within},
    limits::Limits,
    model::{ClusterRule, Labels, Mode, NetworkPolicy, Object, Peer, Peers, RuleAction},
    numbers::Numbers,
    reader,
    tests::world::{
        TCP, acts, admin, block, endpoint, ip, namespace, node, own, pod, policy, rule, tcp, within,
    },
    world::World,
};

/// x/a and y/b on this node; in x many clients, each with a label of its own.
fn world(policies: Vec<Object>) -> World {
    let mut world = World::new("n1");
    for (ifindex, path, address) in [(7, "x/a", "10.0.0.1"), (8, "y/b", "10.0.0.2")] {
        let pod = pod(path, address, &[("app", "server")]);
        world.attach(endpoint(ifindex, &pod));
        world.apply(Object::Pod(pod));
    }
    for i in 1..=20 {
        let (path, n) = (format!("x/c{i}"), i.to_string());
        world.apply(Object::Pod(pod(&path, &format!("10.0.1.{i}"), &[("n", &n)])));
    }
    world.apply(namespace("x", &[]));
    policies.into_iter().for_each(|object| world.apply(object));
    world
}

fn ingress(path: &str, peers: &[Peer]) -> Object {
    let rules = peers
        .iter()
        .map(|peer| rule(std::slice::from_ref(peer), &[tcp(80, 80)]));
    Object::NetworkPolicy(NetworkPolicy {
        ingress: Some(rules.collect()),
        ..policy(path, &[("app", "server")])
    })
}

/// A rule for each client: as many identities and entries.
fn greedy() -> Object {
    let peers: Vec<Peer> = (1..=20).map(|n| own(&[("n", &n.to_string())])).collect();
    ingress("x/greedy", &peers)
}

fn compiled(policies: Vec<Object>, limits: Limits) -> Compiled {
    compile_within(&world(policies), &mut Numbers::default(), &limits)
}

fn enters(compiled: &Compiled, ifindex: u32, peer: &str) -> bool {
    let answer = reader::lookup(&compiled.state, ifindex, Direction::Ingress, ip(peer), TCP, 80);
    answer.allow & allow::ENFORCED != 0
}

fn codes(compiled: &Compiled) -> Vec<&str> {
    compiled.problems.iter().map(|problem| problem.code).collect()
}

#[test]
fn only_the_policy_that_needs_too_much_allows_nothing() {
    let modest = ingress("x/modest", &[block("10.0.1.1/32", &[])]);
    let other = ingress("y/other", &[block("10.0.1.2/32", &[])]);
    let all = vec![greedy(), modest, other];
    let enough = compiled(all.clone(), Limits::default());
    assert_eq!(codes(&enough), Vec::<&str>::new());
    assert!(enters(&enough, 7, "10.0.1.5") && enters(&enough, 7, "10.0.1.1"));
    let limits = Limits {
        verdicts: 10,
        namespaces: 1,
        ..Limits::default()
    };
    let short = compiled(all, limits);
    assert_eq!(codes(&short), ["LIM001"]);
    assert!(
        short.problems[0].message.contains("x/greedy"),
        "{:?}",
        short.problems
    );
    assert!(!enters(&short, 7, "10.0.1.5"), "it allows nothing");
    assert!(
        enters(&short, 7, "10.0.1.1"),
        "another policy of the same pod still does"
    );
    assert!(enters(&short, 8, "10.0.1.2"), "and another pod's");
    assert!(short.state.verdicts.len() <= 10);
}

#[test]
fn what_there_is_room_for_again_allows_what_it_did() {
    let blocks: Vec<Peer> = (1..=10).map(|n| block(&format!("192.0.2.{n}/32"), &[])).collect();
    let other = ingress("y/other", &blocks);
    let limits = Limits {
        verdicts: 24,
        namespaces: 1,
        ..Limits::default()
    };
    let mut peers: Vec<Peer> = (1..=20).map(|n| own(&[("n", &n.to_string())])).collect();
    peers.push(within(&[], &[("n", "new")]));
    let mut world = world(vec![ingress("x/greedy", &peers), other.clone()]);
    let mut compiler = Compiler::default().within(limits);
    let short = compiler.compile(&world);
    assert_eq!(codes(&short), ["LIM001"]);
    assert!(!enters(&short, 7, "10.0.1.5"));
    compiler.compile(&world);
    compiler.release(&short.state);
    // Nobody had this label so far.
    world.apply(Object::Pod(pod("z/new", "10.0.1.99", &[("n", "new")])));
    world.delete(&other.key());
    let enough = compiler.compile(&world);
    assert_eq!(codes(&enough), Vec::<&str>::new());
    assert!(enters(&enough, 7, "10.0.1.5") && enters(&enough, 7, "10.0.1.99"));
}

#[test]
fn a_namespace_takes_no_more_than_its_share() {
    let other = ingress("y/other", &[block("10.0.1.2/32", &[])]);
    let limits = Limits {
        verdicts: 60,
        namespaces: 4,
        ..Limits::default()
    };
    let short = compiled(vec![greedy(), other], limits);
    assert_eq!(
        codes(&short),
        ["LIM001"],
        "20 entries of 60, but 15 are a namespace's share"
    );
    assert!(!enters(&short, 7, "10.0.1.5") && enters(&short, 8, "10.0.1.2"));
}

#[test]
fn a_slot_that_nothing_makes_small_enough_is_closed() {
    let rules = (1..=20).map(|n: u32| acts(RuleAction::Deny, within(&[], &[("n", &n.to_string())])));
    let wide = Object::ClusterNetworkPolicy(admin("wide", 1, rules.collect()));
    let limits = Limits {
        verdicts: 10,
        ..Limits::default()
    };
    let short = compiled(vec![wide.clone()], limits);
    assert_eq!(codes(&short), ["LIM006"]);
    assert!(!enters(&short, 7, "8.8.8.8"), "closed");
    assert!(enters(&compiled(vec![wide], Limits::default()), 7, "8.8.8.8"));
}

#[test]
fn with_too_many_prefixes_blocks_allow_nothing_and_deny_everything() {
    let many: Vec<Peer> = (1..=9).map(|n| block(&format!("10.{n}.0.0/16"), &[])).collect();
    let limits = Limits {
        prefixes: 4,
        ..Limits::default()
    };
    let few = ingress("y/few", &[block("10.1.0.0/16", &[])]);
    let short = compiled(vec![ingress("x/many", &many), few], limits);
    assert_eq!(codes(&short), ["LIM002"]);
    assert!(!enters(&short, 7, "10.1.0.1") && enters(&short, 8, "10.1.0.1"));
    let limits_that_suffice = (1..=20).find(|most| {
        let limits = Limits {
            prefixes: *most,
            ..Limits::default()
        };
        codes(&compiled(vec![ingress("x/many", &many)], limits)).is_empty()
    });
    let enough = compiled(vec![ingress("x/many", &many)], Limits::default());
    assert_eq!(
        limits_that_suffice,
        Some(enough.state.prefixes.len()),
        "as many as it writes"
    );
    let rule = ClusterRule {
        peers: Peers::Some(many),
        ..acts(RuleAction::Deny, Peer::Nothing)
    };
    let deny = Object::ClusterNetworkPolicy(admin("many", 1, vec![rule]));
    let short = compiled(vec![deny], limits);
    assert_eq!(codes(&short), ["LIM002"]);
    assert!(
        !enters(&short, 7, "8.8.8.8"),
        "which addresses it denies is not known"
    );
}

#[test]
fn with_too_many_addresses_what_denies_pods_denies_who_is_left_out() {
    let rule = acts(RuleAction::Deny, within(&[], &[("n", "20")]));
    let deny = Object::ClusterNetworkPolicy(admin("deny", 1, vec![rule]));
    let limits = Limits {
        addresses: 12,
        ..Limits::default()
    };
    let short = compiled(vec![deny.clone()], limits);
    assert_eq!(codes(&short), ["LIM003"]);
    assert!(!enters(&short, 7, "10.0.1.20"), "the one that it denies");
    assert!(!enters(&short, 7, "10.0.1.19"), "and who may be it");
    let enough = compiled(vec![deny.clone()], Limits::default());
    assert!(!enters(&enough, 7, "10.0.1.20") && enters(&enough, 7, "10.0.1.19"));
    let exactly = Limits {
        addresses: enough.state.addresses.len(),
        ..Limits::default()
    };
    assert_eq!(codes(&compiled(vec![deny], exactly)), Vec::<&str>::new());
}

/// Allows every client ten ports, each on a page of its own; four of them need none.
fn paged(path: &str) -> Object {
    let ports: Vec<_> = (0..10).map(|n| tcp(n * 512, n * 512)).collect();
    Object::NetworkPolicy(NetworkPolicy {
        ingress: Some(vec![rule(&[block("10.0.1.0/24", &[])], &ports)]),
        ..policy(path, &[("app", "server")])
    })
}

#[test]
fn pages_of_ports_are_limited_for_the_node_and_for_a_namespace() {
    let of = |policies: Vec<Object>, port_pages, namespaces| {
        let limits = Limits {
            port_pages,
            namespaces,
            ..Limits::default()
        };
        let compiled = compiled(policies, limits);
        (codes(&compiled).join(" "), compiled.state.ports.len())
    };
    let one = || vec![paged("x/one")];
    assert_eq!(of(one(), 6, 1), (String::new(), 6));
    assert_eq!(of(one(), 5, 1), ("LIM001".to_owned(), 0));
    assert_eq!(
        of(one(), 12, 2),
        (String::new(), 6),
        "half is a namespace's share"
    );
    assert_eq!(of(one(), 11, 2), ("LIM001".to_owned(), 0));
    // Another set in another namespace: there is room for one of them.
    let more: Vec<_> = (0..10).map(|n| tcp(n * 512 + 7, n * 512 + 7)).collect();
    let other = Object::NetworkPolicy(NetworkPolicy {
        ingress: Some(vec![rule(&[block("10.0.1.0/24", &[])], &more)]),
        ..policy("y/other", &[("app", "server")])
    });
    assert_eq!(
        of(vec![paged("x/one"), other.clone()], 12, 1),
        (String::new(), 12)
    );
    assert_eq!(of(vec![paged("x/one"), other], 11, 1), ("LIM001".to_owned(), 6));
    // The same set is written once, whoever needs it.
    assert_eq!(
        of(vec![paged("x/one"), paged("y/same")], 6, 1),
        (String::new(), 6)
    );
}

#[test]
fn what_is_closed_says_whose_it_is() {
    let limits = Limits {
        verdicts: 10,
        ..Limits::default()
    };
    let rules = (1..=20).map(|n: u32| acts(RuleAction::Deny, within(&[], &[("n", &n.to_string())])));
    let wide = Object::ClusterNetworkPolicy(admin("wide", 1, rules.collect()));
    // Who only watches closes nothing.
    let audited = Object::NetworkPolicy(NetworkPolicy {
        ingress: Some(vec![]),
        mode: Some(Mode::Audit),
        ..policy("x/audited", &[])
    });
    let short = compiled(vec![wide, audited], limits);
    assert!(short.problems[0].message.contains("wide"), "{:?}", short.problems);
    let denied = reader::lookup(&short.state, 7, Direction::Ingress, ip("10.0.1.1"), TCP, 80);
    assert_eq!(denied.allow, 0);
    let named = &short.cookies.get(denied.cookie).unwrap().policies;
    assert!(
        named.iter().map(|policy| policy.name.as_str()).eq(["wide"]),
        "{named:?}"
    );
}

#[test]
fn who_needs_least_is_served_first() {
    // By name the other way round: the greedy one is the first.
    let one = |path: &str, n: u8| {
        let peers: Vec<Peer> = (1..=n).map(|n| block(&format!("10.0.1.{n}/32"), &[])).collect();
        ingress(path, &peers)
    };
    let limits = Limits {
        verdicts: 7,
        namespaces: 1,
        ..Limits::default()
    };
    let short = compiled(vec![one("x/greedy", 6), one("y/modest", 2)], limits);
    assert_eq!(codes(&short), ["LIM001"]);
    assert!(
        short.problems[0].message.contains("x/greedy"),
        "{:?}",
        short.problems
    );
    assert!(enters(&short, 8, "10.0.1.2") && !enters(&short, 7, "10.0.1.2"));
    // And of one pod's policies.
    let short = compiled(vec![one("x/b-greedy", 6), one("x/a-modest", 2)], limits);
    assert_eq!(codes(&short), Vec::<&str>::new(), "both fit: the same addresses");
    let limits = Limits {
        verdicts: 5,
        ..limits
    };
    for (greedy, modest) in [("x/a", "x/b"), ("x/b", "x/a")] {
        let short = compiled(vec![one(greedy, 6), one(modest, 2)], limits);
        assert_eq!(codes(&short), ["LIM001"]);
        assert!(short.problems[0].message.contains(greedy), "{:?}", short.problems);
        assert!(enters(&short, 7, "10.0.1.2") && !enters(&short, 7, "10.0.1.5"));
    }
}

#[test]
fn with_too_many_addresses_nodes_and_this_nodes_pods_keep_theirs() {
    let clients = ingress("x/clients", &[own(&[])]);
    let mut world = world(vec![clients]);
    world.apply(node("n1", "192.168.0.1", "10.0.0.0/24", Labels::new()));
    let limits = Limits {
        addresses: 2,
        ..Limits::default()
    };
    let short = compile_within(&world, &mut Numbers::default(), &limits);
    assert_eq!(codes(&short), ["LIM003"]);
    let wanted = ["10.0.0.1", "10.0.0.2", "192.168.0.1"].map(|address| Addr::from(ip(address)));
    assert!(
        short.state.addresses.keys().eq(&wanted),
        "{:?}",
        short.state.addresses
    );
}
