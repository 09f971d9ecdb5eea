//! Alerts and dashboard: promtool tries the rules, and both name only what an agent serves.

use std::{collections::BTreeSet, fs, process::Command};

use serde_json::Value;
use vethwall::{
    api::{
        cluster::{Cluster, Watch},
        status::{Counter, MapUse, Problem, Status},
    },
    metrics,
};

use super::{directory, root, tool};

fn promtool(arguments: &[&str]) {
    let output = Command::new(tool("promtool/promtool"))
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn each_alert_fires_when_it_should_and_not_before() {
    let rules = directory().join("files/rules.yaml");
    promtool(&["check", "rules", &rules.display().to_string()]);
    let mut tried = String::new();
    for tests in ["rules_test.yaml", "rules_days_test.yaml"] {
        let tests = root().join("tests/data/chart").join(tests);
        promtool(&["test", "rules", &tests.display().to_string()]);
        tried += &fs::read_to_string(tests).unwrap();
    }
    let rules = fs::read_to_string(rules).unwrap();
    for alert in rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        assert!(
            tried.contains(&format!("alertname: {alert}\n")),
            "{alert} is not tried"
        );
    }
}

/// Names of our metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("vethwall_") && *word != "vethwall_tests")
        .map(str::to_owned)
        .collect()
}

/// What an agent serves that has something of everything.
fn served() -> BTreeSet<String> {
    let status = Status {
        problems: vec![Problem::new("CNI003", "x".into(), None)],
        maps: vec![MapUse::default()],
        counters: vec![Counter::default()],
        cluster: Some(Cluster {
            watches: vec![Watch {
                heard_seconds_ago: Some(1),
                ..Watch::default()
            }],
            ..Cluster::default()
        }),
        ..Status::new()
    };
    let text = metrics::text(&status).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .flat_map(|line| line.split(['{', ' ']).next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn rules_and_dashboard_name_only_what_is_served() {
    let served = served();
    for file in ["files/rules.yaml", "files/dashboard.json"] {
        let text = fs::read_to_string(directory().join(file)).unwrap();
        let unknown: Vec<_> = named(&text).difference(&served).cloned().collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?} of {served:?}");
    }
}

#[test]
fn the_dashboard_brings_no_data_source_of_its_own() {
    let text = fs::read_to_string(directory().join("files/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut panels = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        if panel["type"] == "row" {
            continue;
        }
        panels += 1;
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        assert!(
            !panel["targets"].as_array().unwrap().is_empty(),
            "{}",
            panel["title"]
        );
    }
    assert!(panels > 8, "{panels}");
}
