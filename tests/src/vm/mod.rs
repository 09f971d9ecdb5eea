//! The tests on other kernels, in virtual machines (`make test-kernels`).
//!
//! ```text
//! vethwall-vm ─ plan ─► image: this program as /init, tests, lab, their libraries, modules ─► qemu, kernel by kernel
//!                 ▲                                                                             │
//! table ◄─ report ◄──────────────── one line of JSON a test, on the second serial port ◄── guest
//! ```
//!
//! Invariants:
//! - What was planned is reported: a test of which the machine tells nothing has failed.
//! - What a kernel can not do is told as skipped, with the reason, and counts as neither passed nor failed.
//! - A machine that hangs ends with its time.

mod guest;
mod image;
mod machine;
mod plan;
mod report;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::sandbox::workspace;

/// Boots kernels in virtual machines and runs the tests that need a kernel in each. Prints a table.
#[derive(Debug, Parser)]
#[command(name = "vethwall-vm")]
struct Arguments {
    /// Kernels by the names that scripts/kernels.sh gives them, the oldest first
    #[arg(default_values = ["5.10", "6.1", "6.12", "newest"])]
    kernels: Vec<String>,
    /// Only tests whose name contains this
    #[arg(long, default_value = "")]
    filter: String,
    /// The test program; by default the newest one that was built beside this
    #[arg(long)]
    tests: Option<PathBuf>,
    /// qemu's accelerator; kvm is faster where it works
    #[arg(long, default_value = "tcg")]
    accel: String,
    /// Where images and what the machines print are kept
    #[arg(long, default_value_os_t = workspace().join(".tools/kernels"))]
    directory: PathBuf,
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Passed,
    Failed,
    /// It can not be made on this kernel.
    Skipped,
}

/// What the machine tells of one test.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    test: String,
    outcome: Outcome,
    seconds: f64,
    /// Why it was skipped, or how it ended otherwise.
    reason: String,
    measured: Vec<(String, String)>,
    /// The end of what a failed test printed.
    output: String,
}

/// Program of the host, and pid 1 of the machine.
pub fn main() -> ExitCode {
    if std::process::id() == 1 {
        return guest::init();
    }
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vethwall-vm: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let mut reports = Vec::new();
    for name in &arguments.kernels {
        let kernel = arguments.directory.join(name);
        let release = std::fs::read_to_string(kernel.join("release"))
            .with_context(|| format!("kernel {name} is not there: run 'scripts/kernels.sh {name}'"))?;
        let release = release.trim();
        let plan = plan::plan(arguments.tests.as_deref(), release, &arguments.filter)?;
        // Gone again with this loop's turn: it is some hundred megabytes.
        let image = tempfile::NamedTempFile::new_in(&arguments.directory)?;
        image::write(image.path(), &kernel, release, &plan).context("pack the machine's files")?;
        let log = arguments.directory.join(format!("{name}.log"));
        let records = machine::run(
            &kernel.join("vmlinuz"),
            image.path(),
            &log,
            &plan,
            &arguments.accel,
        )
        .with_context(|| format!("run Linux {release}"))?;
        reports.push(report::Report::new(release, &plan, records, log));
    }
    for report in &reports {
        report.failures();
    }
    println!("{}", report::table(&reports));
    Ok(reports.iter().all(report::Report::good))
}
