//! Addresses of the pods' networks that no pod is known to have, while a rule denies some pods.

use vethwall_common::{Direction::Ingress, verdict::allow::BOTH};

use crate::{
    model::{Labels, Object, RuleAction},
    reader,
    tests::small::{WEB, ask, compiled, world},
    tests::world::{TCP, acts, admin, ip, node, within},
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
fn the_clusters_pod_network_is_the_pods_where_no_node_says_so() {
    let mut world = denying();
    let enters = |world: &World| ask(world, Ingress, "10.9.0.77", TCP, 80);
    assert_eq!(enters(&world), BOTH, "an address of the world");
    world.set_pod_network(vec!["10.9.0.0/16".parse().unwrap()]);
    assert_eq!(enters(&world), 0, "perhaps a pod of team y");
}
