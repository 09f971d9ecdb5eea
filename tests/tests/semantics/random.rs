//! Random worlds. One that fails is made small and kept in `tests/data/regressions`.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use proptest::{
    strategy::Strategy,
    test_runner::{Config, TestCaseError, TestError, TestRunner},
};
use vethwall_tests::{
    oracle::World,
    worlds::{Scope, manifests, world_of},
};

use super::{
    border::{attach, offline},
    cases,
    compare::{Difference, explanations, lookups},
};

pub(super) const REGRESSIONS: &str = "data/regressions";

type Judgement = fn(&World) -> Result<usize, Difference>;

/// Judges random worlds; the number of questions.
fn judge(default: u32, scope: Scope, judgement: Judgement) -> usize {
    let config = Config {
        cases: cases(default),
        failure_persistence: None,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let asked = std::cell::Cell::new(0);
    let outcome = TestRunner::new(config).run(&world_of(scope).prop_map(Box::new), |world| {
        let questions =
            judgement(&world).map_err(|difference| TestCaseError::fail(difference.to_string()))?;
        asked.set(asked.get() + questions);
        Ok(())
    });
    match outcome {
        Ok(()) => asked.get(),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
        Err(TestError::Fail(reason, world)) => {
            let Err(difference) = judgement(&world) else {
                panic!("it failed only once: {reason}")
            };
            let (file, text) = keep(&world, &difference);
            panic!("{difference}\nkept as {}:\n{text}", file.display());
        }
    }
}

/// Writes the world down for the replay.
fn keep(world: &World, difference: &Difference) -> (PathBuf, String) {
    let probe = manifests::probe(&difference.packet, world.enforced().allowed(&difference.packet));
    let text = format!("# {difference}\n{probe}{}", manifests::text(world));
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(REGRESSIONS);
    let file = directory.join(format!("random-{:08x}.yaml", hasher.finish() >> 32));
    fs::write(&file, &text).unwrap_or_else(|error| panic!("{}: {error}\n{text}", file.display()));
    (file, text)
}

const NETWORK_POLICIES: Scope = Scope {
    local: 3,
    cluster_policies: 0,
};

const TIERS: Scope = Scope {
    local: 2,
    cluster_policies: 4,
};

fn maps(world: &World) -> Result<usize, Difference> {
    let mut model = offline(&manifests::text(world));
    attach(&mut model, world);
    lookups(world, &model)
}

fn words(world: &World) -> Result<usize, Difference> {
    explanations(world, &offline(&manifests::text(world)), 7)
}

// Covers: SEMANTICS 1, 15, 16, 17, 18, 19, 25, 26, 29
#[test]
fn maps_of_network_policies_answer_as_the_texts_do() {
    let asked = judge(40, NETWORK_POLICIES, maps);
    println!("{asked} questions");
}

// Covers: SEMANTICS 3, 5, 27, 31, 39, 40
#[test]
fn explanations_of_network_policies_answer_as_the_texts_do() {
    let asked = judge(40, NETWORK_POLICIES, words);
    println!("{asked} questions");
}

// Covers: CNP 2, 6, 7
#[test]
fn maps_of_tiers_answer_as_the_texts_do() {
    let asked = judge(40, TIERS, maps);
    println!("{asked} questions");
}

// Covers: CNP 6
#[test]
fn explanations_of_tiers_answer_as_the_texts_do() {
    let asked = judge(40, TIERS, words);
    println!("{asked} questions");
}
