//! The command line.
//!
//! ```text
//! arguments ─ clap ─► Cli ─► command ─ agent.sock or manifests ─► api types ─ render ─► stdout, exit code
//! ```
//!
//! Invariants:
//! - Exit codes are [`Exit`], for every command; doubt is never disguised as a yes or a no.
//! - Answers go to stdout, everything about the asking to stderr.
//! - A reader that goes away (`| head`) ends the command quietly.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anstream::{AutoStream, ColorChoice};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::api::{ClientError, ErrorCode};

pub mod agent;
mod explain;
mod fleet;
mod flows;
mod hook;
mod install;
mod node;
mod offline;
mod peer;
mod policy;
mod probes;
mod status;
mod text;
mod version;

use text::{bad, escape, paint};

/// NetworkPolicy enforcement for flannel, on this node.
#[derive(Debug, Parser)]
#[command(
    name = "vethwall",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Exit status: 0 yes (healthy, allowed), 1 no (unhealthy, denied), 2 wrong usage, 3 could not decide.

Examples:
  vethwall agent --manifests /etc/manifests    enforce the policies of a directory on this node
  vethwall status                              is everything enforced?
  vethwall flows -f --verdict denied           what is denied, as it happens
  vethwall explain shop/web shop/db:5432       may web reach db, and which policy says so?
  kubectl vethwall status                      ... on all nodes of a cluster
  vethwall policy lint -f policies/            what is probably not meant as it is written?"
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Where the agent's sockets are.
    #[arg(long, global = true, value_name = "DIR", default_value = "/run/vethwall")]
    pub(crate) run_dir: PathBuf,
    /// `table` for people, or `json`: one object a line.
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", hide_possible_values = true,
          default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Colours: always, never, or auto (on a terminal).
    #[arg(long, global = true, value_enum, value_name = "WHEN", hide_possible_values = true,
          default_value_t = Color::Auto)]
    color: Color,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enforce policy on this node.
    Agent(agent::AgentArgs),
    /// Can vethwall be installed in a cluster, and what changes then?
    Preflight(fleet::preflight::PreflightArgs),
    /// Is everything enforced, and if not, what is wrong?
    Status(status::StatusArgs),
    /// Connections and what became of them, with the policy that decided.
    #[command(visible_alias = "observe")]
    Flows(flows::FlowsArgs),
    /// Why a connection is allowed or denied.
    Explain(explain::ExplainArgs),
    /// Pods, and what is enforced for them.
    #[command(visible_alias = "pods")]
    Endpoints(fleet::endpoints::EndpointsArgs),
    /// Policies: those in force, and those to be applied.
    Policy(policy::PolicyArgs),
    /// Put the plugin into the runtime's directory of plugins.
    Install(install::InstallArgs),
    /// Take vethwall off this node; flannel stays as it was.
    Uninstall(install::UninstallArgs),
    /// What the chart's own pods run.
    #[command(hide = true)]
    Hook(hook::HookArgs),
    /// Versions of this program and of the agent.
    Version(version::VersionArgs),
}

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Yes: healthy, allowed, done.
    Yes = 0,
    /// No: unhealthy, denied, failed.
    No = 1,
    /// Wrong usage that only showed when the command ran; clap ends with the same code.
    Usage = 2,
    /// Could not decide: the agent can not be asked, a pod is not known.
    Undecided = 3,
}

/// Why a command has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked makes no sense.
    Usage(String),
    /// Nobody could be asked, or not about this.
    Undecided(String),
    /// The agent ended with an error.
    Agent(String),
    /// The output could not be written.
    Output(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let hint = match &error {
            ClientError::Unreachable { .. } => {
                "\nIs it running? Start it with: vethwall agent --manifests DIR\nElsewhere than /run/vethwall? Say so \
                 with: --run-dir DIR"
            }
            ClientError::Forbidden { .. } => "\nOnly root may. Try: sudo vethwall ...",
            ClientError::Broken { .. } => "\nSee what the agent logged, then try: vethwall status",
            ClientError::Refused(body) => match body.code {
                ErrorCode::UnknownPod => "\nSee the pods of this node with: vethwall status",
                ErrorCode::NotReady => "\nSee what it waits for with: vethwall status",
                ErrorCode::BadRequest => "\nCompare the versions with: vethwall version",
                ErrorCode::Internal => "",
            },
        };
        Self::Undecided(format!("{}{hint}", escape(&error.to_string())))
    }
}

impl Cli {
    /// What `vethwall agent` was told; for programs that run an agent of their own.
    ///
    /// # Errors
    ///
    /// Another command, or arguments that make no sense.
    pub fn agent(self) -> anyhow::Result<crate::run::AgentConfig> {
        let Command::Agent(args) = self.command else {
            anyhow::bail!("only the agent");
        };
        args.config(&self.global, false)
            .map_err(|failure| anyhow::anyhow!("{failure:?}"))
    }
}

/// Where a command writes.
pub(crate) struct Streams<'a> {
    /// Answers.
    pub(crate) out: &'a mut dyn Write,
    /// Everything else.
    pub(crate) err: &'a mut dyn Write,
}

/// The program: reads the process's arguments, does what they say.
pub fn main() -> ExitCode {
    let matches = named(std::env::args_os().next()).try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help that nobody reads to its end is no failure.
            let _closed = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let choice = match cli.global.color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    };
    let mut out = AutoStream::new(io::stdout(), choice);
    let mut err = AutoStream::new(io::stderr(), choice);
    let color_log = err.current_choice() != ColorChoice::Never;
    let streams = Streams {
        out: &mut out,
        err: &mut err,
    };
    ExitCode::from(run(cli, color_log, streams) as u8)
}

/// The program under the name that it was called by: kubectl finds it as its plugin.
fn named(program: Option<std::ffi::OsString>) -> clap::Command {
    let name = program
        .as_deref()
        .map(std::path::Path::new)
        .and_then(std::path::Path::file_name);
    let command = Cli::command();
    if name.is_some_and(|name| name == "kubectl-vethwall") {
        command.bin_name("kubectl vethwall")
    } else {
        command
    }
}

/// Does what the arguments say.
fn run(cli: Cli, color_log: bool, streams: Streams<'_>) -> Exit {
    let Streams { out, err } = streams;
    let Cli { global, command } = cli;
    let mut inner = Streams {
        out: &mut *out,
        err: &mut *err,
    };
    let result = match command {
        Command::Agent(args) => agent::run(args, &global, color_log),
        Command::Preflight(args) => fleet::preflight::run(&args, &global, &mut inner),
        Command::Status(args) => status::run(&args, &global, &mut inner),
        Command::Flows(args) => flows::run(args, &global, &mut inner),
        Command::Explain(args) => explain::run(args, &global, &mut inner),
        Command::Endpoints(args) => fleet::endpoints::run(&args, &global, &mut inner),
        Command::Policy(args) => policy::run(&args, &global, &mut inner),
        Command::Install(args) => install::install(args, &mut inner),
        Command::Uninstall(args) => install::uninstall(args, &global, &mut inner),
        Command::Hook(args) => hook::run(args, &mut inner),
        Command::Version(args) => version::run(&args, &global, &mut inner),
    };
    let flushed = |exit| match out.flush() {
        // The answer is known, read or not.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(exit),
        result => result.map(|()| exit).map_err(Failure::Output),
    };
    let (exit, message) = match result.and_then(flushed) {
        Ok(exit) => return exit,
        // Nobody reads any more: they have seen what they wanted.
        Err(Failure::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => return Exit::Yes,
        Err(Failure::Output(e)) => (Exit::Undecided, format!("can not write the answer: {e}")),
        Err(Failure::Usage(message)) => (Exit::Usage, message),
        Err(Failure::Undecided(message)) => (Exit::Undecided, message),
        Err(Failure::Agent(message)) => (Exit::No, message),
    };
    // Without stderr there is nobody left to tell.
    let _closed = writeln!(err, "{} {message}", paint("error:", bad()));
    exit
}

#[cfg(test)]
mod tests;
