//! Manifests into the policy crate's world, by the way the agent and the command line take.

use std::path::PathBuf;

use vethwall::{
    k8s::convert::{Converted, convert},
    manifests::{Store, Texts, View, load_texts},
};
use vethwall_policy::{model, world::World};
use vethwall_tests::{
    kernel::packet::mac,
    oracle::{self, addresses, namespace_of},
    worlds::{NODE, POD_NETWORKS, subjects},
};

/// Interface of the n-th subject.
pub(crate) fn ifindex(n: usize) -> u32 {
    11 + u32::try_from(n).unwrap()
}

/// What one text holds. It is valid YAML of known kinds: of what is broken in it the names at least are known.
pub(super) fn load(text: &str) -> Converted {
    convert(&view(text))
}

pub(super) fn view(text: &str) -> View {
    let texts = Texts::from([(PathBuf::from("world.yaml"), text.as_bytes().to_vec())]);
    let view = Store::default().update(&load_texts(&texts));
    assert!(view.unreadable.is_empty(), "{text}");
    view
}

/// The world as a command line sees it: all objects, no interface.
pub(crate) fn offline(text: &str) -> World {
    let mut model = World::new(NODE).complete();
    model.set_pod_network(POD_NETWORKS.map(|text| text.parse().unwrap()).to_vec());
    model.replace(load(text).objects);
    model
}

/// The interfaces of the local pods, as the agent attaches them.
pub(crate) fn attach(model: &mut World, world: &oracle::World) {
    for (n, pod) in subjects(world).into_iter().enumerate() {
        model.attach(model::Endpoint {
            ifindex: ifindex(n),
            mac: mac(ifindex(n)),
            addresses: addresses(pod).collect(),
            namespace: namespace_of(&pod.metadata.namespace).to_owned(),
            pod: pod.metadata.name.clone().unwrap(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        });
    }
}
