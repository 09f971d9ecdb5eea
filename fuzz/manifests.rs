//! What must hold whatever a file says. Included by the fuzz target and by the agent's own tests, which replay the
//! corpus.

use std::{collections::BTreeSet, path::PathBuf};

use vethwall_policy::{
    compile::compile,
    model::{Endpoint, Object},
    numbers::Numbers,
    world::World,
};

use super::{k8s::convert::convert, manifests};

/// Ends one state of the directory and starts the next: a form feed, which no YAML holds.
const NEXT: u8 = 0x0c;

/// Most states that are looked at.
const STATES: usize = 3;

/// Reads the bytes as what a directory's only file holds, one state after another, and follows each to the maps.
pub(super) fn run(bytes: &[u8]) {
    let mut store = manifests::Store::default();
    let mut loader = manifests::Loader::default();
    let mut numbers = Numbers::default();
    for state in bytes.split(|byte| *byte == NEXT).take(STATES) {
        let texts: manifests::Texts = [(PathBuf::from("f.yaml"), state.to_vec())].into();
        let loaded = manifests::load_texts(&texts);
        let view = store.update(&loaded);
        let converted = convert(&view);

        // What the agent keeps of an object says the same.
        let kept = convert(&manifests::Store::default().update(&loader.load(texts)));
        let fresh = convert(&manifests::Store::default().update(&loaded));
        assert_eq!(kept, fresh);

        for file in &loaded.files {
            assert!(file.errors.iter().all(|error| error.line > 0 && error.column > 0));
            assert!(file.broken.is_empty() || !file.errors.is_empty(), "not told");
        }
        for problem in &converted.problems {
            assert!(!problem.code.is_empty() && !problem.message.is_empty());
        }
        // Whatever is, or may be, a policy has its say: as it is, as it was, or closed.
        let policies: BTreeSet<_> = converted.objects.iter().map(Object::key).collect();
        for isolation in &view.isolations {
            assert!(
                policies.iter().any(|key| key.name == isolation.name),
                "{isolation:?}"
            );
        }

        let mut world = World::new("node-a");
        let pods = converted.objects.iter().zip(1..);
        for (object, ifindex) in pods {
            if let Object::Pod(pod) = object {
                world.attach(Endpoint {
                    ifindex,
                    mac: [2, 0, 0, 0, 0, 1],
                    addresses: pod.addresses.clone(),
                    namespace: pod.namespace.clone(),
                    pod: pod.name.clone(),
                    uid: pod.uid.clone(),
                });
            }
        }
        world.replace(converted.objects);
        let compiled = compile(&world, &mut numbers);
        numbers.release(&compiled.state);
    }
}
