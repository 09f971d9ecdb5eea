//! A world that is told changes is the world that was made of the outcome.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::{
    compile::compile,
    model::{Kind, Namespace, Object, ObjectKey},
    numbers::Numbers,
    tests::{
        random::{self, Parts},
        world::{namespace, node, pod, policy},
    },
    world::{Change, World},
};

const KINDS: [Kind; 5] = [
    Kind::Namespace,
    Kind::Pod,
    Kind::Node,
    Kind::NetworkPolicy,
    Kind::ClusterNetworkPolicy,
];

/// Everything listed anew, kind by kind.
fn listed(objects: &[Object]) -> Vec<Change> {
    let of = |kind| objects.iter().filter(move |object| object.key().kind == kind);
    let listed = |kind| all(kind, of(kind).cloned().collect());
    KINDS.into_iter().map(listed).collect()
}

fn all(kind: Kind, objects: Vec<Object>) -> Change {
    Change::All {
        kind,
        objects,
        unread: [].into(),
    }
}

/// The difference, object by object.
fn told(before: &[Object], after: &[Object]) -> Vec<Change> {
    let by_key = |objects: &[Object]| -> BTreeMap<ObjectKey, Object> {
        let keyed = objects.iter().map(|object| (object.key(), object.clone()));
        keyed.collect()
    };
    let (before, after) = (by_key(before), by_key(after));
    let gone = before.into_keys().filter(|key| !after.contains_key(key));
    let gone: Vec<Change> = gone.map(Change::Delete).collect();
    let there = after.into_values().map(Change::Apply);
    gone.into_iter().chain(there).collect()
}

fn follow(world: &mut World, changes: Vec<Change>) -> Vec<bool> {
    changes.into_iter().map(|change| world.follow(change)).collect()
}

/// The world with the interfaces of the later one.
fn from(before: &Parts, after: &Parts) -> World {
    let held = Parts {
        endpoints: after.endpoints.clone(),
        objects: before.objects.clone(),
    };
    held.world()
}

proptest! {
    #[test]
    fn however_it_is_told_the_world_is_the_same((before, after) in random::change(), seed in any::<u64>()) {
        let wanted = after.world();
        let mut shuffled = told(&before.objects, &after.objects);
        shuffled.sort_by_cached_key(|change| {
            // Any order will do: fixed by the seed, and unlike that of the objects.
            let text = format!("{change:?}{seed}");
            text.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
        });
        for changes in [listed(&after.objects), told(&before.objects, &after.objects), shuffled] {
            let mut world = from(&before, &after);
            follow(&mut world, changes);
            prop_assert_eq!(&world, &wanted);
            let state = |world: &World| compile(world, &mut Numbers::default()).state;
            prop_assert_eq!(state(&world), state(&wanted));
            // Told again, it is nothing new.
            let again = follow(&mut world, listed(&after.objects));
            prop_assert!(again.iter().all(|new| !new), "{:?}", again);
        }
    }
}

#[test]
fn only_what_says_something_new_is_a_change() {
    let mut world = World::new("n");
    let web = pod("x/web", "10.0.0.2", &[("app", "web")]);
    let objects = [
        namespace("x", &[]),
        Object::Pod(web.clone()),
        Object::NetworkPolicy(policy("x/p", &[])),
        node("n", "192.168.0.1", "10.0.0.0/24", [].into()),
    ];
    for object in objects {
        assert!(world.follow(Change::Apply(object.clone())));
        assert!(!world.follow(Change::Apply(object.clone())), "{object:?}");
        assert!(world.follow(Change::Delete(object.key())));
        assert!(!world.follow(Change::Delete(object.key())), "{object:?}");
        assert!(world.follow(Change::Apply(object)));
    }
    let stamp = |world: &World| world.spaces()["x"].stamp();
    let before = stamp(&world);
    assert!(!world.follow(Change::Apply(Object::Pod(web.clone()))));
    assert!(stamp(&world).same(before), "nothing is compiled again");
    let mut moved = web;
    moved.addresses.clear();
    assert!(world.follow(Change::Apply(Object::Pod(moved.clone()))));
    assert!(!stamp(&world).same(before));
    // One that is listed and can not be read stays as it was known.
    let unread = |name: &str| Change::All {
        kind: Kind::Pod,
        objects: Vec::new(),
        unread: [Object::Pod(pod(name, "", &[])).key()].into(),
    };
    assert!(!world.follow(unread("x/web")));
    assert_eq!(world.pod("x", "web"), Some(&moved));
    assert!(world.follow(unread("x/other")));
    assert_eq!(world.pods().count(), 0);
}

// Covers: SEMANTICS 37
#[test]
fn a_list_without_the_policies_of_a_dying_namespace_keeps_them() {
    let mut world = World::new("n");
    let web = pod("x/web", "10.0.0.2", &[]);
    for object in [Object::Pod(web), Object::NetworkPolicy(policy("x/p", &[]))] {
        world.apply(object);
    }
    let dying = Object::Namespace(Namespace {
        name: "x".to_owned(),
        labels: [].into(),
        terminating: true,
    });
    assert!(world.follow(all(Kind::Namespace, vec![dying])));
    assert!(world.follow(all(Kind::NetworkPolicy, Vec::new())));
    assert_eq!(world.policies().count(), 1);
    assert!(!world.follow(all(Kind::NetworkPolicy, Vec::new())));
    assert!(world.follow(all(Kind::Pod, Vec::new())));
    assert_eq!(world.policies().count(), 0);
}

// Covers: SEMANTICS 37
#[test]
fn policies_of_a_namespace_that_is_gone_before_them_hold_while_its_pods_are_there() {
    let mut world = World::new("n");
    let web = Object::Pod(pod("x/web", "10.0.0.2", &[]));
    let closed = Object::NetworkPolicy(policy("x/p", &[]));
    world.apply(web.clone());
    world.apply(closed.clone());
    let object = |terminating| {
        Object::Namespace(Namespace {
            name: "x".to_owned(),
            labels: [].into(),
            terminating,
        })
    };
    // The watch of namespaces is ahead of the others.
    world.apply(object(true));
    world.delete(&object(true).key());
    world.delete(&closed.key());
    assert_eq!(world.policies().count(), 1);
    let mut anew = world.clone();
    anew.apply(object(false));
    assert_eq!(anew.policies().count(), 0, "another one, of the same name");
    world.delete(&web.key());
    assert_eq!(world, World::new("n"));
}

#[test]
fn namespaces_are_those_that_have_an_object() {
    let mut world = World::new("n1");
    world.apply(namespace("y", &[("team", "y")]));
    world.apply(Object::Pod(pod("z/a", "10.0.0.3", &[])));
    let names: Vec<&str> = world.namespaces().map(|space| space.name.as_str()).collect();
    assert_eq!(names, ["y"]);
}
