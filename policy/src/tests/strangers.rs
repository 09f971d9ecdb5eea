//! Addresses of the pods' networks that no pod is known to have, while a rule denies some pods.

use vethwall_common::{Direction::Ingress, identity::PrefixEntry, verdict::allow::BOTH};

use crate::{
    explain::explain,
    model::{Labels, Object, RuleAction},
    owners::key,
    reader,
    tests::small::{WEB, ask, compiled, ingress, world},
    tests::world::{TCP, acts, admin, block, ip, node, rule, target, within},
    world::World,
};

/// Everybody may ask x/web but pods of team y.
fn denying() -> World {
    let mut world = world();
    let deny = acts(RuleAction::Deny, within(&[("team", "y")], &[]));
    world.apply(Object::ClusterNetworkPolicy(admin("deny", 1, vec![deny])));
    world
}

#[test]
fn nodes_own_addresses_among_the_pods_are_no_unknown_pods() {
    let mut world = denying();
    world.apply(node("n3", "192.168.0.3", "fd00:3::/64", Labels::new()));
    world.apply(node("n4", "192.168.0.4", "10.0.4.0/24", Labels::new()));
    let state = compiled(&world).state;
    let slot = state.endpoints[&WEB].ingress.slot();
    // By its own entry, and as a packet that this node masqueraded: by the prefix around it.
    let open = |address: &str| {
        let by_prefix = reader::prefix_identity(&state, ip(address).into());
        let by_entry = reader::lookup(&state, WEB, Ingress, ip(address), TCP, 80).allow;
        [by_entry, reader::slot(&state, slot, by_prefix, TCP, 80).0]
    };
    for nodes in ["10.0.4.0", "10.0.4.1", "fd00:3::", "fd00:3::1"] {
        assert_eq!(open(nodes), [BOTH; 2], "{nodes}");
    }
    for unknown in ["10.0.4.2", "fd00:3::2"] {
        assert_eq!(open(unknown), [0; 2], "{unknown}");
    }
    assert_eq!(open("8.8.8.8"), [BOTH; 2]);
}

#[test]
fn nodes_own_addresses_have_no_prefixes_where_nothing_is_taken_from_pods() {
    let networks = |world: &World| compiled(world).state.prefixes.len();
    assert_eq!(networks(&world()), 2, "the pods' networks of two nodes");
    assert!(networks(&denying()) > 2);
}

#[test]
fn the_clusters_pod_network_is_the_pods_where_no_node_says_so() {
    let mut world = denying();
    let enters = |world: &World| ask(world, Ingress, "10.9.0.77", TCP, 80);
    assert_eq!(enters(&world), BOTH, "an address of the world");
    world.set_pod_network(vec!["10.9.0.0/16".parse().unwrap()]);
    assert_eq!(enters(&world), 0, "perhaps a pod of team y");
}

#[test]
fn a_block_beyond_the_pods_networks_is_no_pods() {
    let mut world = denying();
    let allows = ingress(vec![rule(
        &[block("8.0.0.0/8", &[]), block("10.0.1.0/25", &[])],
        &[],
    )]);
    world.apply(Object::NetworkPolicy(allows));
    let state = compiled(&world).state;
    let flags = |net: &str| state.prefixes[&key(&net.parse().unwrap())].flags;
    assert_eq!(
        ["8.0.0.0/8", "10.0.1.0/25"].map(flags),
        [0, PrefixEntry::POD_NETWORK]
    );
    let enters = |peer: &str| ask(&world, Ingress, peer, TCP, 80);
    assert_eq!(enters("8.8.8.8"), BOTH);
    assert_eq!(enters("10.0.1.77"), 0, "perhaps a pod of team y");
}

#[test]
fn a_network_of_one_address_takes_no_neighbours_from_the_pods() {
    let mut world = denying();
    world.set_pod_network(vec!["10.9.0.0/16".parse().unwrap(), "fd09::/64".parse().unwrap()]);
    for (name, cidr) in [
        ("n3", "10.9.0.4/32"),
        ("n4", "10.9.0.9/32"),
        ("n5", "fd09::4/128"),
        ("n6", "fd09::9/128"),
    ] {
        world.apply(node(name, "192.168.0.3", cidr, Labels::new()));
    }
    let enters = |peer: &str| ask(&world, Ingress, peer, TCP, 80);
    for own in ["10.9.0.4", "10.9.0.9", "fd09::4", "fd09::9"] {
        assert_eq!(enters(own), BOTH, "{own}");
    }
    for unknown in ["10.9.0.5", "10.9.0.8", "fd09::5", "fd09::8"] {
        assert_eq!(enters(unknown), 0, "{unknown}");
    }
}

#[test]
fn explain_knows_the_same_strangers() {
    let world = denying();
    for address in [
        "10.0.1.0",
        "10.0.1.1",
        "10.0.1.3",
        "10.0.1.77",
        "8.8.8.8",
        "192.168.0.2",
    ] {
        let told = explain(&world, &target(address), &target("x/web"), TCP, Some(80));
        let entered = ask(&world, Ingress, address, TCP, 80) == BOTH;
        assert_eq!(told.ingress.allowed, entered, "{address}");
    }
}
