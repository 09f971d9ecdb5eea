//! What others test network policies with, as data of our own: small worlds, policies, and who may reach whom.
//!
//! ```text
//! tests/data/suites/SUITE/world.yaml  the cluster
//!                        /NN-*.yaml   a case: steps of manifests, each with what is expected after it
//!                             │
//! manifests ─┬─► convert ─► policy::world ─┬─► explain          all three must answer
//!            │                             └─► compile ─► reader    as the data says
//!            └─► oracle
//! ```
//!
//! - `netpol`: the cases of Kubernetes' own end-to-end tests of NetworkPolicy, over all nine pods.
//! - `cnp`: the cases of the network policy API's conformance tests of ClusterNetworkPolicy.
//! - `gaps`: what neither of them tries.
//! - `generated`: what cyclonus combines, made by [`dimensions`] and judged by the oracle, and some of it by hand.
//!
//! [`mutants`] asks whether all this would notice a mistake; [`live`] measures what tables can not say.

mod case;
mod dimensions;
mod generated;
mod judge;
mod live;
mod mutants;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use case::{Case, Question};
use judge::{Cluster, Stage};
use vethwall_policy::model::Object;
use vethwall_tests::oracle;

/// What a suite held.
#[derive(Debug, Default)]
struct Tally {
    cases: usize,
    /// Steps that do not go on with the one before.
    parts: usize,
    allowed: usize,
    denied: usize,
}

fn directory(suite: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data/suites")
        .join(suite)
}

/// A step of a case, read.
#[derive(Debug)]
struct Scene {
    at: String,
    /// It belongs to the step before.
    continues: bool,
    objects: Vec<Object>,
    oracle: oracle::World,
    questions: Vec<Question>,
}

/// Reads every case of a suite: how many they are, and their steps.
fn scenes(suite: &str) -> (usize, Vec<Scene>) {
    let directory = directory(suite);
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let world = read(&directory.join("world.yaml"));
    let files: BTreeSet<PathBuf> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().is_some_and(|name| name != "world.yaml"))
        .collect();
    let mut scenes = Vec::new();
    for path in &files {
        let name = format!("{suite}/{}", path.file_stem().unwrap().display());
        let case = Case::read(&name, &read(path));
        let mut cluster = Cluster::default();
        cluster.apply(&name, &[], &world);
        for (number, step) in (1..).zip(&case.steps) {
            let at = format!("{name} ({}), step {number}, {}", case.title, step.says);
            cluster.apply(&at, &step.gone, &step.manifests);
            let objects = cluster.model(&at, &step.problems);
            let questions = step.questions(&at, &judge::pods(&objects));
            assert!(!questions.is_empty(), "{at}: asks nothing");
            scenes.push(Scene {
                oracle: cluster.oracle(&at),
                continues: step.continues,
                objects,
                questions,
                at,
            });
        }
    }
    (files.len(), scenes)
}

/// Runs every case of a suite and fails with all that differs.
fn run(suite: &str) -> Tally {
    let (cases, scenes) = scenes(suite);
    let (mut tally, mut differences) = (
        Tally {
            cases,
            ..Tally::default()
        },
        Vec::new(),
    );
    for scene in scenes {
        let stage = Stage::new(scene.objects, scene.oracle);
        tally.parts += usize::from(!scene.continues);
        for question in &scene.questions {
            *(if question.allowed {
                &mut tally.allowed
            } else {
                &mut tally.denied
            }) += 1;
            let difference = stage.judge(question);
            differences.extend(difference.map(|difference| format!("{}: {difference}", scene.at)));
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n")
    );
    println!("{suite}: {tally:?}, no difference");
    tally
}

// Covers: SEMANTICS 1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, 16, 17, 19, 20, 22, 23, 25, 27, 28, 36
#[test]
fn the_cases_of_kubernetes_own_suite() {
    let tally = run("netpol");
    assert_eq!((tally.cases, tally.parts), (48, 58), "none may vanish");
    assert!(tally.allowed > tally.denied && tally.denied > 500, "{tally:?}");
}

// Covers: CNP 1, 2, 3, 4, 5, 7
#[test]
fn the_cases_of_the_network_policy_apis_conformance_suite() {
    let tally = run("cnp");
    assert_eq!((tally.cases, tally.parts), (24, 92), "none may vanish");
    assert!(tally.allowed > 100 && tally.denied > 100, "{tally:?}");
}

// Covers: SEMANTICS 5, 6, 7, 8, 9, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29
// Covers: SEMANTICS 31, 32, 35, 36, 39, 40, 42
// Covers: CNP 1, 2, 3, 4, 5, 6, 7
#[test]
fn what_those_suites_do_not_try() {
    let tally = run("gaps");
    assert_eq!((tally.cases, tally.parts), (40, 122), "none may vanish");
    assert!(tally.allowed > 100 && tally.denied > 100, "{tally:?}");
}
