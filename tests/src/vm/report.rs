//! What became of all of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use comfy_table::{Table, presets};

use super::{Outcome, Record, plan::Plan};
use crate::kernel::Program;

/// The measurement of [`crate::vm`]'s own: which hook the kernel gave.
const HOOK: &str = "hook";

/// One kernel's results.
pub(super) struct Report {
    release: String,
    records: Vec<Record>,
    measured: BTreeMap<String, String>,
    log: PathBuf,
}

impl Report {
    /// A planned test without a record has failed.
    pub(super) fn new(release: &str, plan: &Plan, mut records: Vec<Record>, log: PathBuf) -> Self {
        let told: BTreeSet<_> = records.iter().map(|record| record.test.clone()).collect();
        for test in plan.tests.iter().filter(|test| !told.contains(&test.label())) {
            records.push(Record {
                test: test.label(),
                outcome: Outcome::Failed,
                seconds: 0.0,
                reason: "the machine told nothing of it".to_owned(),
                measured: Vec::new(),
                output: String::new(),
            });
        }
        let measured = records
            .iter()
            .flat_map(|record| record.measured.clone())
            .collect();
        Self {
            release: release.to_owned(),
            records,
            measured,
            log,
        }
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.records
            .iter()
            .filter(|record| record.outcome == outcome)
            .count()
    }

    /// Nothing failed, and something passed.
    pub(super) fn good(&self) -> bool {
        self.count(Outcome::Failed) == 0 && self.count(Outcome::Passed) > 0
    }

    /// Tells of each test that failed, and why others were skipped.
    pub(super) fn failures(&self) {
        let mut skipped: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for record in &self.records {
            match record.outcome {
                Outcome::Passed => {}
                Outcome::Skipped => skipped.entry(&record.reason).or_default().push(&record.test),
                Outcome::Failed => println!(
                    "{}: {} FAILED ({}, {:.1} s)\n{}",
                    self.release,
                    record.test,
                    record.reason,
                    record.seconds,
                    record.output.trim()
                ),
            }
        }
        for (reason, tests) in skipped {
            println!("{}: skipped, {reason}: {}", self.release, tests.join(", "));
        }
        if !self.good() {
            println!(
                "{}: the machine's console is in {}",
                self.release,
                self.log.display()
            );
        }
    }
}

/// One line a kernel.
pub(super) fn table(reports: &[Report]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let mut header = vec!["kernel".to_owned(), HOOK.to_owned()];
    header.extend(Program::ALL.map(|program| format!("{} instructions", program.name())));
    header.extend(["passed", "failed", "skipped"].map(str::to_owned));
    table.set_header(header);
    for report in reports {
        let measured = |name: &str| {
            report
                .measured
                .get(name)
                .cloned()
                .unwrap_or_else(|| "-".to_owned())
        };
        let mut row = vec![report.release.clone(), measured(HOOK)];
        row.extend(Program::ALL.map(|program| measured(program.name())));
        let outcomes = [Outcome::Passed, Outcome::Failed, Outcome::Skipped];
        row.extend(outcomes.map(|outcome| report.count(outcome).to_string()));
        table.add_row(row);
    }
    table
}
