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

mod case;
mod dimensions;
mod generated;
mod judge;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use case::Case;
use judge::{Cluster, Stage};

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

/// Runs every case of a suite and fails with all that differs.
fn run(suite: &str) -> Tally {
    let directory = directory(suite);
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let world = read(&directory.join("world.yaml"));
    let files: BTreeSet<PathBuf> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().is_some_and(|name| name != "world.yaml"))
        .collect();
    let (mut tally, mut differences) = (Tally::default(), Vec::new());
    for path in &files {
        let name = format!("{suite}/{}", path.file_stem().unwrap().display());
        let case = Case::read(&name, &read(path));
        let mut cluster = Cluster::default();
        cluster.apply(&name, &[], &world);
        tally.cases += 1;
        for (number, step) in (1..).zip(&case.steps) {
            let at = format!("{name} ({}), step {number}, {}", case.title, step.says);
            cluster.apply(&at, &step.gone, &step.manifests);
            let stage = Stage::new(cluster.model(&at, &step.problems), cluster.oracle(&at));
            let questions = step.questions(&at, &stage.pods());
            assert!(!questions.is_empty(), "{at}: asks nothing");
            tally.parts += usize::from(!step.continues);
            for question in &questions {
                *(if question.allowed {
                    &mut tally.allowed
                } else {
                    &mut tally.denied
                }) += 1;
                differences.extend(
                    stage
                        .judge(question)
                        .map(|difference| format!("{at}: {difference}")),
                );
            }
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
// Covers: SEMANTICS 31, 32, 35, 36, 39, 40
// Covers: CNP 1, 2, 3, 4, 5, 6, 7
#[test]
fn what_those_suites_do_not_try() {
    let tally = run("gaps");
    assert_eq!((tally.cases, tally.parts), (39, 119), "none may vanish");
    assert!(tally.allowed > 100 && tally.denied > 100, "{tally:?}");
}
