//! Faults of a node for as long as one likes: see [`vethwall_tests::faults`].
//!
//! `vethwall-faults --faults 1000 --seed 1` draws so many, half of them under each containerd.

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use vethwall_tests::{
    faults::{Fault, Plan, Report, rounds, run},
    runtime::Release,
};

/// Faults of a node, while every pod sends what policy allows and what it forbids.
#[derive(Parser)]
struct Arguments {
    /// How many faults.
    #[arg(long, default_value_t = 1000)]
    faults: usize,
    /// The same seed draws the same faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only under this containerd; else half of the faults under each.
    #[arg(long)]
    release: Option<Which>,
    /// Only faults of these kinds, with commas between them; else of all.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Fault>,
    /// How many pods come and go at once.
    #[arg(long, default_value_t = 50)]
    crowd: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    Distribution,
    Newest,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let start = Instant::now();
    let releases = match arguments.release {
        None => Release::ALL.to_vec(),
        Some(Which::Distribution) => vec![Release::Distribution],
        Some(Which::Newest) => vec![Release::Newest],
    };
    let kinds = match arguments.only.as_slice() {
        [] => Fault::ALL.to_vec(),
        only => only.to_vec(),
    };
    let mut total = Report::default();
    for release in &releases {
        let plan = Plan {
            release: *release,
            rounds: rounds(arguments.seed, arguments.faults.div_ceil(releases.len()), &kinds),
            crowd: arguments.crowd,
        };
        let last = plan.rounds.len();
        let outcome = run(&plan, |number, round, _| {
            eprintln!(
                "{release:?} {number}/{last} {:.0} s: {round}",
                start.elapsed().as_secs_f64()
            );
        });
        match outcome {
            Ok(report) => {
                println!("{release:?}\n{report}\n");
                total += report;
            }
            Err(error) => {
                println!("seed {} under {release:?}: {error:#}", arguments.seed);
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    println!("all, in {:.0} s\n{total}", start.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}
