//! vethwall in a real Kubernetes cluster on this machine: see [`vethwall_tests::e2e`].
//!
//! `vethwall-e2e` tells the whole story; `vethwall-e2e --hold` brings the cluster up alone and says how to get in.

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use clap::Parser;
use vethwall_tests::{cluster::Cluster, e2e};

/// A real cluster: installed, enforced, killed, upgraded, uninstalled.
#[derive(Parser)]
struct Arguments {
    /// Only a cluster, without vethwall, until Enter is pressed.
    #[arg(long)]
    hold: bool,
}

fn main() -> ExitCode {
    let mut say = |what: &str| eprintln!("{what}");
    let outcome = if Arguments::parse().hold {
        hold()
    } else {
        e2e::run(&mut say)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn hold() -> Result<()> {
    let start = Instant::now();
    let cluster = Cluster::up(&mut |what| eprintln!("{:6.1} s  {what}", start.elapsed().as_secs_f64()))?;
    eprintln!("{}", cluster.ways_in()?);
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
