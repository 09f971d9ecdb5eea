//! Worlds that once went wrong, or easily could: every file of `tests/data/regressions`.
//!
//! A file is manifests, with connections and their answers in comments (`# probe: SOURCE DESTINATION PROTOCOL PORT
//! allowed|denied`). The judge must agree with them, and maps and explanations with the judge, over the whole world.

use std::{collections::BTreeMap, fs, path::Path};

use vethwall_policy::explain::{Target, explain};
use vethwall_tests::worlds::manifests;

use super::{
    border::{attach, offline},
    compare::{explanations, lookups},
    random::REGRESSIONS,
};

fn texts() -> BTreeMap<String, String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(REGRESSIONS);
    let files = fs::read_dir(&directory).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

// Covers: SEMANTICS 15, 17, 18, 19, 22, 24, 27, 28, 31, 35, 39
// Covers: CNP 2, 6
#[test]
fn what_once_went_wrong_stays_right() {
    let texts = texts();
    assert!(texts.len() >= 12, "{:?}", texts.keys());
    for (name, text) in texts {
        let world = manifests::read(&text);
        let mut model = offline(&text);
        let probes = manifests::probes(&text);
        assert!(!probes.is_empty(), "{name} has no probe");
        for (packet, expected) in probes {
            assert_eq!(
                world.enforced().allowed(&packet),
                expected,
                "{name}, the judge: {packet:?}"
            );
            let (from, to) = (
                Target::Address(packet.source),
                Target::Address(packet.destination),
            );
            let told = explain(&model, &from, &to, packet.protocol, Some(packet.port));
            assert_eq!(told.allowed, expected, "{name}, explain: {packet:?}");
        }
        explanations(&world, &model, 1).unwrap_or_else(|difference| panic!("{name}: {difference}"));
        attach(&mut model, &world);
        lookups(&world, &model).unwrap_or_else(|difference| panic!("{name}: {difference}"));
    }
}
