//! Lives of namespaces, pods and interfaces: what stays in force, and until when.

use vethwall_common::{Direction, verdict::allow};

use crate::{
    compile::compile,
    model::{Kind, Labels, Namespace, NetworkPolicy, Object, ObjectKey, Pod},
    numbers::Numbers,
    reader,
    tests::world::{TCP, endpoint, ip, namespace, own, pod, policy, rule},
    world::World,
};

fn key(kind: Kind, path: &str) -> ObjectKey {
    let (namespace, name) = path.split_once('/').unwrap_or(("", path));
    ObjectKey {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn dying(name: &str) -> Object {
    Object::Namespace(Namespace {
        name: name.to_owned(),
        labels: Labels::new(),
        terminating: true,
    })
}

fn web() -> Pod {
    pod("x/web", "10.0.0.1", &[])
}

fn closed() -> Object {
    Object::NetworkPolicy(NetworkPolicy {
        ingress: Some(vec![]),
        ..policy("x/closed", &[])
    })
}

/// x/web with its interface, isolated by x/closed.
fn isolated() -> World {
    let mut world = World::new("n1");
    world.attach(endpoint(7, &web()));
    for object in [namespace("x", &[]), Object::Pod(web()), closed()] {
        world.apply(object);
    }
    assert!(!open(&world));
    world
}

fn open(world: &World) -> bool {
    let state = compile(world, &mut Numbers::default()).state;
    reader::lookup(&state, 7, Direction::Ingress, ip("8.8.8.8"), TCP, 80).allow == allow::BOTH
}

// Covers: SEMANTICS 36
#[test]
fn deleting_the_last_policy_reopens() {
    let mut world = isolated();
    world.delete(&key(Kind::NetworkPolicy, "x/closed"));
    assert!(open(&world));
    world.apply(closed());
    assert!(!open(&world));
}

// Covers: SEMANTICS 37
#[test]
fn a_dying_namespace_keeps_its_policies_until_its_pods_are_gone() {
    let mut world = isolated();
    world.apply(dying("x"));
    world.delete(&key(Kind::NetworkPolicy, "x/closed"));
    assert!(!open(&world), "the pod still runs");
    world.delete(&key(Kind::Namespace, "x"));
    assert!(!open(&world), "its namespace's object is gone, the pod is not");
    world.delete(&key(Kind::Pod, "x/web"));
    assert_eq!(world.policies().count(), 1, "its interface is still there");
    world.detach(7);
    assert_eq!(world.policies().count(), 0);

    // A namespace of the same name that is made anew has nothing of that.
    let mut world = isolated();
    world.apply(dying("x"));
    world.delete(&key(Kind::NetworkPolicy, "x/closed"));
    world.apply(namespace("x", &[]));
    assert!(open(&world));
}

// Covers: SEMANTICS 37
#[test]
fn a_dying_namespace_keeps_its_policies_over_a_resync() {
    let mut world = isolated();
    world.replace([dying("x"), Object::Pod(web())]);
    assert!(!open(&world), "deleted between two listings");
    world.replace([dying("x"), Object::Pod(web())]);
    assert!(!open(&world), "kept from before");
    world.replace([namespace("x", &[]), Object::Pod(web())]);
    assert!(open(&world), "a new namespace");
    let mut world = isolated();
    world.replace([namespace("x", &[]), Object::Pod(web())]);
    assert!(open(&world), "one that lives keeps nothing");
    // What came back counts, not what was kept.
    let mut world = isolated();
    world.apply(dying("x"));
    world.delete(&key(Kind::NetworkPolicy, "x/closed"));
    world.apply(Object::NetworkPolicy(NetworkPolicy {
        ingress: Some(vec![rule(&[], &[])]),
        ..policy("x/closed", &[])
    }));
    assert!(open(&world));
}

// Covers: SEMANTICS 33
#[test]
fn a_failed_pod_whose_interface_is_there_stays_isolated() {
    let mut world = isolated();
    world.apply(Object::Pod(Pod {
        finished: true,
        ..web()
    }));
    assert!(!open(&world));
}

// Covers: SEMANTICS 31, 33
#[test]
fn an_address_passes_on_when_its_pod_has_finished() {
    let mut world = isolated();
    world.apply(Object::NetworkPolicy(NetworkPolicy {
        ingress: Some(vec![rule(&[own(&[("role", "client")])], &[])]),
        ..policy("x/closed", &[])
    }));
    let client = pod("x/client", "10.0.1.2", &[("role", "client")]);
    let enters = |world: &World| {
        let state = compile(world, &mut Numbers::default()).state;
        reader::lookup(&state, 7, Direction::Ingress, ip("10.0.1.2"), TCP, 80).allow == allow::BOTH
    };
    world.apply(Object::Pod(client.clone()));
    assert!(enters(&world));
    world.apply(Object::Pod(Pod {
        finished: true,
        ..client
    }));
    assert!(!enters(&world));
    world.apply(Object::Pod(pod("x/next", "10.0.1.2", &[])));
    assert!(!enters(&world), "the next owner inherits nothing");
    world.apply(Object::Pod(pod("x/next", "10.0.1.2", &[("role", "client")])));
    assert!(enters(&world), "and loses nothing");
}

// Covers: SEMANTICS 34
#[test]
fn a_pod_made_anew_under_an_old_name_is_another() {
    let mut world = isolated();
    world.apply(Object::Pod(Pod {
        uid: "another".to_owned(),
        ..web()
    }));
    let state = compile(&world, &mut Numbers::default()).state;
    assert!(
        state.endpoints.is_empty(),
        "nobody knows the policy of the old one: it is closed"
    );
}

// Covers: SEMANTICS 38
#[test]
fn a_static_pod_is_known_by_either_of_its_uids() {
    for (uid, known) in [("mirror", true), ("hash", true), ("other", false), ("", true)] {
        let mut world = isolated();
        world.apply(Object::Pod(Pod {
            uid: "mirror".to_owned(),
            config_hash: Some("hash".to_owned()),
            ..web()
        }));
        world.attach(crate::model::Endpoint {
            uid: uid.to_owned(),
            ..endpoint(7, &web())
        });
        let state = compile(&world, &mut Numbers::default()).state;
        assert_eq!(!state.endpoints.is_empty(), known, "{uid:?}");
    }
}

// Covers: SEMANTICS 37
#[test]
fn policies_of_a_namespace_that_is_gone_hold_over_a_resync_while_its_pods_are_there() {
    // The namespace's own watch is ahead of the pods'.
    let mut world = isolated();
    world.apply(dying("x"));
    world.replace([Object::Pod(web())]);
    assert!(!open(&world), "it was dying a moment ago");
    world.replace([Object::Pod(web())]);
    assert!(!open(&world), "kept from before");
}
