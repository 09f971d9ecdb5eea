//! All cases of [`super::dimensions`], every pod to every pod on every port that anybody serves, judged by the oracle;
//! and some of them by tables that were written by hand.

use std::collections::BTreeMap;

use serde_json::json;
use vethwall_common::protocol::{ICMP, SCTP, TCP, UDP};

use super::{
    case::{self, Question},
    dimensions::{self, Case},
    directory,
    judge::{Cluster, Stage},
};

/// What is asked of each pair of pods.
const PACKETS: [(u8, u16); 7] = [
    (TCP, 53),
    (TCP, 80),
    (TCP, 81),
    (UDP, 80),
    (UDP, 81),
    (SCTP, 81),
    (ICMP, 0),
];
/// Explaining takes long: one question of so many. No multiple of the number of packets or pods.
const EXPLAINED: usize = 31;

fn start() -> Cluster {
    let mut cluster = Cluster::default();
    let world = std::fs::read_to_string(directory("netpol").join("world.yaml")).unwrap();
    cluster.apply("the world", &[], &world);
    for name in ["x", "y", "z"] {
        cluster.put("the world", dimensions::namespace(name, json!({"ns": name})));
    }
    cluster
}

/// The worlds after each step of a case.
fn stages(dimension: &str, case: &Case) -> Vec<(String, Stage)> {
    let mut cluster = start();
    let mut stages = Vec::new();
    for (number, step) in (1..).zip(&case.steps) {
        let at = format!("{dimension}: {}, step {number}", case.name);
        cluster.apply(&at, &step.gone, "");
        step.objects
            .iter()
            .for_each(|object| cluster.put(&at, object.clone()));
        let stage = Stage::new(cluster.model(&at, &[]), cluster.oracle(&at));
        stages.push((at, stage));
    }
    stages
}

// Covers: SEMANTICS 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 16, 17, 20, 22, 23, 25, 26, 27, 28, 29, 36
#[test]
fn policies_that_differ_in_one_respect() {
    let (mut cases, mut asked, mut denied, mut explained) = (BTreeMap::new(), 0, 0, 0);
    let mut differences = Vec::new();
    for (dimension, all) in dimensions::cases() {
        cases.insert(dimension, all.len());
        for case in &all {
            for (at, stage) in stages(dimension, case) {
                let pods = stage.pods();
                let pairs = pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to)));
                for ((from, to), (protocol, port)) in
                    pairs.flat_map(|pair| PACKETS.map(|packet| (pair, packet)))
                {
                    let (from, to) = (from.clone(), to.clone());
                    let mut question = Question {
                        from,
                        to,
                        protocol,
                        port,
                        allowed: false,
                    };
                    question.allowed = stage.foretold(&question);
                    asked += 1;
                    denied += usize::from(!question.allowed);
                    let differs = if asked % EXPLAINED == 0 {
                        explained += 1;
                        stage.judge(&question)
                    } else {
                        (stage.looked_up(&question) != question.allowed)
                            .then(|| format!("{question:?}, but not to the maps"))
                    };
                    differences.extend(differs.map(|difference| format!("{at}: {difference}")));
                }
            }
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n")
    );
    println!("generated: {cases:?}, {asked} questions, {denied} to be denied, {explained} explained");
    let wanted = [
        ("actions", 6),
        ("conflicts", 26),
        ("direction", 4),
        ("example", 1),
        ("peers", 114),
        ("ports", 70),
        ("rules", 6),
        ("target", 6),
    ];
    assert_eq!(cases, BTreeMap::from(wanted), "none may vanish");
    assert!(
        denied * 20 > asked,
        "{denied} of {asked}: these policies deny too little"
    );
}

#[test]
fn some_of_them_as_written_by_hand() {
    let path = directory("generated").join("tables.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let tables: BTreeMap<String, Vec<String>> = serde_saphyr::from_str(&text).unwrap();
    let all = dimensions::cases();
    let (mut questions, mut differences) = (0, Vec::new());
    for (name, tables) in &tables {
        let (dimension, rest) = name.split_once(": ").unwrap();
        let cases = all
            .iter()
            .find(|(known, _)| *known == dimension)
            .map(|(_, cases)| cases);
        let case = cases.and_then(|cases| cases.iter().find(|case| case.name == rest));
        let case = case.unwrap_or_else(|| panic!("there is no case {name:?}"));
        let (at, stage) = stages(dimension, case).pop().unwrap();
        for question in tables
            .iter()
            .flat_map(|table| case::table(&at, table, &stage.pods()))
        {
            questions += 1;
            differences.extend(
                stage
                    .judge(&question)
                    .map(|difference| format!("{at}: {difference}")),
            );
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n")
    );
    println!("{} cases by hand, {questions} questions", tables.len());
    assert_eq!(tables.len(), 14, "none may vanish");
}
