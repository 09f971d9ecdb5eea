//! `vethwall policy`.

mod lint;

use clap::{Args, Subcommand};

use super::{Exit, Failure, Global, Streams, fleet::policies};

#[derive(Debug, Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  vethwall policy list
  vethwall policy lint -f policies/
  helm template . | vethwall policy lint -f -"
)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Policies that are known, and how many pods each selects.
    List(policies::ListArgs),
    /// Mistakes in policies, found before anybody applies them.
    Lint(lint::LintArgs),
}

pub(crate) fn run(args: &PolicyArgs, global: &Global, streams: &mut Streams<'_>) -> Result<Exit, Failure> {
    match &args.command {
        PolicyCommand::List(args) => policies::run(args, global, streams),
        PolicyCommand::Lint(args) => lint::run(args, global, streams),
    }
}
