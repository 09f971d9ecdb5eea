//! Packets of every kind, programs against the judge of packets.
//!
//! VETHWALL_PACKETS sets how many packets are tried, VETHWALL_SEED where to begin.

use std::fs;

use vethwall_tests::{
    fuzz::{Bench, Case, run},
    sandbox,
};

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| {
        text.parse().unwrap_or_else(|e| panic!("{name}: {e}"))
    })
}

// Covers: SEMANTICS 39, 40, 43, 44, 46, 47, 48, 49, 50, 51, 52, 53, 54
#[test]
fn programs_and_judge_agree_on_random_packets() {
    let (packets, first) = (number("VETHWALL_PACKETS", 250_000), number("VETHWALL_SEED", 1));
    sandbox::run(|| {
        let mut bench = Bench::new(None).unwrap_or_else(|e| panic!("{e:#}"));
        if let Some((case, found)) = run(&mut bench, packets, first, 1).unwrap().pop() {
            panic!("{found}\n{}", serde_json::to_string_pretty(&case).unwrap());
        }
        let (passed, either) = (bench.passed, bench.either.values().sum::<u64>());
        // Neither answer is rare, but having no opinion is.
        assert!(
            passed * 5 > packets && passed * 5 < packets * 4,
            "{passed} passed"
        );
        assert!(either * 5 < packets, "{either} either way");
    });
}

#[test]
fn differences_that_were_found_stay_mended() {
    let folder = sandbox::workspace().join("tests/data/packets");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    files.sort();
    sandbox::run(|| {
        let mut bench = Bench::new(None).unwrap_or_else(|e| panic!("{e:#}"));
        for path in &files {
            let text = fs::read_to_string(path).unwrap();
            let mut case: Case =
                serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            if let Some(found) = bench.replay(&mut case).unwrap() {
                panic!("{}: {found}", path.display());
            }
        }
    });
}
