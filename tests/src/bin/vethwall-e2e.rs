//! vethwall in a real Kubernetes cluster on this machine: see [`vethwall_tests::e2e`].
//!
//! `vethwall-e2e` tells the whole story. `vethwall-e2e --hold 2` waits after two steps and says how to get into the machines;
//! `--hold 0` is a cluster without vethwall.

use std::process::ExitCode;

use clap::Parser;
use vethwall_tests::e2e;

/// A real cluster: installed, enforced, killed, upgraded, uninstalled.
#[derive(Parser)]
struct Arguments {
    /// After so many steps, wait until Enter is pressed.
    #[arg(long, value_name = "STEPS")]
    hold: Option<usize>,
}

fn main() -> ExitCode {
    match e2e::run(Arguments::parse().hold, &mut |what| eprintln!("{what}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
