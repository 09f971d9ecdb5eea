//! Addresses that a node tells before its pods' status does.

use std::{collections::BTreeMap, net::IpAddr};

use proptest::prelude::*;

use crate::{
    model::{Object, ObjectKey, Pod},
    tests::world::{node, pod},
    world::{Change, Claim, World},
};

const ADDRESS: &str = "10.0.1.7";

fn claim(address: &str, pod: &str) -> Claim {
    Claim {
        address: address.parse().unwrap(),
        namespace: "x".to_owned(),
        pod: pod.to_owned(),
        uid: format!("uid-{pod}"),
    }
}

/// A pod of node `n`.
fn of_n(name: &str, address: &str) -> Pod {
    Pod {
        node: Some("n".to_owned()),
        uid: format!("uid-{name}"),
        ..pod(&format!("x/{name}"), address, &[])
    }
}

fn early(node: &str, claims: &[Claim]) -> Change {
    Change::Early {
        node: node.to_owned(),
        claims: claims.iter().cloned().collect(),
    }
}

fn world(pods: &[Pod]) -> World {
    let mut world = World::new("elsewhere");
    world.apply(node("n", "192.168.0.1", "10.0.1.0/24", [].into()));
    pods.iter().cloned().for_each(|pod| world.apply(Object::Pod(pod)));
    world
}

fn owners(world: &World) -> Vec<&str> {
    let address: IpAddr = ADDRESS.parse().unwrap();
    world
        .pods_with(address)
        .iter()
        .map(|pod| pod.name.as_str())
        .collect()
}

#[test]
fn a_new_pod_has_its_address_before_its_status_says_so() {
    let mut world = world(&[of_n("new", "")]);
    assert!(world.follow(early("n", &[claim(ADDRESS, "new")])));
    assert_eq!(owners(&world), ["new"]);
    assert!(!world.follow(early("n", &[claim(ADDRESS, "new")])), "nothing new");
    assert!(
        !world.follow(Change::Apply(Object::Pod(of_n("new", "")))),
        "nothing new"
    );
    // Its status comes, and then its node is silent.
    assert!(world.follow(Change::Apply(Object::Pod(of_n("new", ADDRESS)))));
    assert!(world.follow(early("n", &[])));
    assert_eq!(owners(&world), ["new"]);
}

#[test]
fn who_had_the_address_last_has_it_no_more() {
    let mut world = world(&[of_n("old", ADDRESS), of_n("new", "")]);
    assert!(world.follow(early("n", &[claim(ADDRESS, "new")])));
    assert_eq!(owners(&world), ["new"]);
    // The old one's object may change once more, or go.
    let mut dying = of_n("old", ADDRESS);
    dying.labels.insert("leaving".to_owned(), String::new());
    world.apply(Object::Pod(dying.clone()));
    assert_eq!(owners(&world), ["new"]);
    assert_eq!(
        world.written_addresses(world.pod("x", "old").unwrap()),
        dying.addresses
    );
    assert!(world.follow(early("n", &[])));
    assert_eq!(
        owners(&world),
        ["old"],
        "what its status says, as long as nobody says otherwise"
    );
}

#[test]
fn a_node_speaks_only_for_its_own_pods_and_addresses() {
    let elsewhere = Pod {
        node: Some("m".to_owned()),
        ..of_n("elsewhere", "")
    };
    let finished = Pod {
        finished: true,
        ..of_n("finished", "")
    };
    let host = Pod {
        host_network: true,
        ..of_n("host", "")
    };
    let mut all = world(&[of_n("new", ""), elsewhere, finished, host]);
    let nameless = Claim {
        uid: String::new(),
        ..claim(ADDRESS, "new")
    };
    let another = Claim {
        uid: "uid-another".to_owned(),
        ..claim(ADDRESS, "new")
    };
    for wrong in [
        claim(ADDRESS, "elsewhere"),
        claim(ADDRESS, "finished"),
        claim(ADDRESS, "host"),
        claim(ADDRESS, "nobody"),
        claim("10.0.2.7", "new"),
        claim("192.168.0.1", "new"),
        nameless,
        another,
    ] {
        all.follow(early("n", std::slice::from_ref(&wrong)));
        assert!(all.pods_with(wrong.address).is_empty(), "{wrong:?}");
        // Nor is it taken from who has it.
        let mut used = all.clone();
        used.apply(Object::Pod(of_n("has", ADDRESS)));
        assert_eq!(owners(&used), ["has"], "{wrong:?}");
    }
    // Another node's word about this one's pod.
    all.apply(node("m", "192.168.0.2", "10.0.1.0/24", [].into()));
    all.follow(early("m", &[claim(ADDRESS, "new")]));
    assert_eq!(owners(&all), [""; 0]);
}

#[test]
fn a_pod_that_is_on_another_node_now_leaves_its_address_to_who_has_it() {
    let mut world = world(&[of_n("old", ADDRESS), of_n("new", "")]);
    world.follow(early("n", &[claim(ADDRESS, "new")]));
    assert_eq!(owners(&world), ["new"]);
    // Of the same name and, as with a static pod, of the same UID.
    let elsewhere = Pod {
        node: Some("m".to_owned()),
        ..of_n("new", "")
    };
    world.follow(Change::Apply(Object::Pod(elsewhere)));
    assert_eq!(owners(&world), ["old"]);
}

const NODES: [&str; 2] = ["m", "n"];

/// A step of a life, out of few.
fn change() -> impl Strategy<Value = Change> {
    let address = prop_oneof![Just(""), Just(ADDRESS), Just("10.0.1.8")];
    let name = prop_oneof![Just("a"), Just("b"), Just("c")];
    let claims = prop::collection::vec((prop_oneof![Just(ADDRESS), Just("10.0.1.8")], name.clone()), 0..3);
    let on = prop::sample::select(&NODES[..]);
    let object = |name: &str| node(name, "192.168.0.1", "10.0.1.0/24", [].into());
    prop_oneof![
        4 => (name.clone(), address, on.clone()).prop_map(|(name, address, on)| {
            let pod = Pod { node: Some(on.to_owned()), ..of_n(name, address) };
            Change::Apply(Object::Pod(pod))
        }),
        2 => name.prop_map(|name| Change::Delete(Object::Pod(of_n(name, "")).key())),
        3 => (claims, on.clone()).prop_map(|(claims, on)| {
            let claims: Vec<Claim> = claims.into_iter().map(|(address, name)| claim(address, name)).collect();
            early(on, &claims)
        }),
        1 => on.clone().prop_map(move |on| Change::Apply(object(on))),
        1 => on.prop_map(move |on| Change::Delete(object(on).key())),
    ]
}

proptest! {
    #[test]
    fn what_holds_does_not_depend_on_how_it_came(changes in prop::collection::vec(change(), 1..12)) {
        let mut lived = World::new("elsewhere");
        let mut objects = BTreeMap::<ObjectKey, Object>::new();
        let mut claims = BTreeMap::<String, Change>::new();
        for change in changes {
            match &change {
                Change::Apply(object) => _ = objects.insert(object.key(), object.clone()),
                Change::Delete(key) => _ = objects.remove(key),
                Change::Early { node, .. } => _ = claims.insert(node.clone(), change.clone()),
                Change::All { .. } => {}
            }
            lived.follow(change);
            let claimed = |world: &mut World| {
                for claims in claims.values() {
                    world.follow(claims.clone());
                }
            };
            let mut first = World::new("elsewhere");
            claimed(&mut first);
            let mut last = World::new("elsewhere");
            for object in objects.values() {
                first.apply(object.clone());
                last.apply(object.clone());
            }
            claimed(&mut last);
            prop_assert_eq!(&lived, &first);
            prop_assert_eq!(&lived, &last);
        }
    }
}
