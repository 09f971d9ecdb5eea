//! `vethwall agent` as the next version of the map layouts would be: the same programs, with maps, pins and tags of their own.
//! What an upgrade or a downgrade between layouts does to a node is tested with it.
#![forbid(unsafe_code)]

use clap::Parser as _;
use vethwall::{cli::Cli, run};
use vethwall_common::ABI_VERSION;

fn main() -> anyhow::Result<()> {
    let mut config = Cli::parse().agent()?;
    config.abi = ABI_VERSION + 1;
    run::run(config)
}
