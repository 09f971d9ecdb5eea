//! One small world, and questions to it. Names and numbers as in a manifest: `x/web` is the local pod under test,
//! interface 7, 10.0.0.1.

use vethwall_common::Direction;

use crate::{
    compile::{Compiled, compile},
    model::{Labels, NetworkPolicy, Object, Pod, Rule},
    numbers::Numbers,
    reader,
    tests::world::{TCP, UDP, endpoint, ip, namespace, node, pod, policy, port},
    world::World,
};

pub(crate) const WEB: u32 = 7;

pub(crate) fn web() -> Pod {
    Pod {
        ports: vec![port("http", TCP, 8080), port("http", UDP, 9090)],
        ..pod("x/web", "10.0.0.1", &[("app", "web")])
    }
}

/// x/web and x/db here, x/client, y/client and z/odd elsewhere.
pub(crate) fn world() -> World {
    let mut world = World::new("n1");
    for object in [
        namespace("x", &[]),
        namespace("y", &[("team", "y")]),
        node("n1", "192.168.0.1", "10.0.0.0/24", Labels::new()),
        node("n2", "192.168.0.2", "10.0.1.0/24", Labels::new()),
        Object::Pod(web()),
        Object::Pod(pod("x/db", "10.0.0.2 fd00::2", &[("app", "db"), ("empty", "")])),
        Object::Pod(Pod {
            ports: vec![port("http", TCP, 81)],
            ..pod("x/client", "10.0.1.1", &[("app", "client")])
        }),
        Object::Pod(Pod {
            ports: vec![port("http", TCP, 82)],
            ..pod("y/client", "10.0.1.2", &[("app", "client")])
        }),
        Object::Pod(pod("z/odd", "10.0.1.3", &[("app", "not a valid value!")])),
    ] {
        world.apply(object);
    }
    world.attach(endpoint(WEB, &web()));
    world.attach(endpoint(8, world.pod("x", "db").unwrap()));
    world
}

pub(crate) fn with(mut world: World, policies: &[NetworkPolicy]) -> World {
    policies
        .iter()
        .cloned()
        .for_each(|policy| world.apply(Object::NetworkPolicy(policy)));
    world
}

pub(crate) fn compiled(world: &World) -> Compiled {
    let compiled = compile(world, &mut Numbers::default());
    assert_eq!(compiled.problems, vec![]);
    compiled
}

pub(crate) fn ask(world: &World, direction: Direction, peer: &str, protocol: u8, port: u16) -> u8 {
    reader::lookup(&compiled(world).state, WEB, direction, ip(peer), protocol, port).allow
}

pub(crate) fn ingress(rules: Vec<Rule>) -> NetworkPolicy {
    NetworkPolicy {
        ingress: Some(rules),
        ..policy("x/p", &[("app", "web")])
    }
}

pub(crate) fn egress(rules: Vec<Rule>) -> NetworkPolicy {
    NetworkPolicy {
        egress: Some(rules),
        ..policy("x/p", &[("app", "web")])
    }
}
