//! The command `vethwall-lab`.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use vethwall::manifests::Problem;
use vethwall_datapath::Choice;

use super::{
    dns,
    life::{self, Applied, Lab, Options},
    probe::{self, Probe},
    state::{Backend, Engine, Families, State},
    supervisor::Request,
};

/// A flannel cluster's network on one machine, without a cluster: nodes, pods, Services and real traffic.
#[derive(Debug, Parser)]
#[command(
    name = "vethwall-lab",
    version,
    after_help = "\
Examples:
  vethwall-lab up --manifests examples/demo/world
  vethwall-lab exec shop/web -- ip addr
  echo '{\"from\":\"shop/web\",\"to\":\"shop/svc/db\",\"port\":5432,\"protocol\":\"TCP\"}' | vethwall-lab probe --probes - -o table
  vethwall-lab apply other/manifests
  vethwall-lab exec node/node1 -- vethwall status
  vethwall-lab down

Needs root. Exit status: 0 done, 1 something is wrong, 2 the command or its input is wrong."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Name {
    /// The lab's name [default: `default`, or that of the only lab].
    #[arg(long, env = "VETHWALL_LAB")]
    name: Option<String>,
}

impl Name {
    fn fresh(self) -> String {
        self.name.unwrap_or_else(|| "default".to_owned())
    }

    /// Of a lab that is there.
    fn known(self) -> String {
        self.name.unwrap_or_else(|| match State::names().as_slice() {
            [only] => only.clone(),
            _ => "default".to_owned(),
        })
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a lab from a directory of manifests.
    Up {
        #[command(flatten)]
        name: Name,
        /// Directory of Namespaces, Pods, Services and NetworkPolicies.
        #[arg(long, value_name = "DIR")]
        manifests: PathBuf,
        /// How many nodes.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=32))]
        nodes: u8,
        /// How packets get from node to node.
        #[arg(long, default_value = "vxlan")]
        backend: Backend,
        /// The address families.
        #[arg(long, default_value = "4")]
        families: Families,
        /// Who enforces policies.
        #[arg(long, default_value = "vethwall")]
        engine: Engine,
        /// How vethwall attaches its programs: tcx, clsact or best.
        #[arg(long, default_value = "best")]
        hook: Choice,
    },
    /// Take a lab down; the machine is as it was.
    Down {
        #[command(flatten)]
        name: Name,
        /// All labs.
        #[arg(long)]
        all: bool,
    },
    /// Make a directory the whole desired state; returns when every node enforces it.
    Apply {
        #[command(flatten)]
        name: Name,
        /// Directory of manifests.
        directory: PathBuf,
    },
    /// Run a command in NS/POD, node/NAME or outside.
    Exec {
        #[command(flatten)]
        name: Name,
        /// NS/POD, node/NAME or outside.
        target: String,
        /// The command.
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Send real traffic and say what came of it.
    Probe {
        #[command(flatten)]
        name: Name,
        /// File of JSON lines {"from","to","port","protocol","family","bytes"}; - is standard input.
        #[arg(long, value_name = "FILE")]
        probes: PathBuf,
        /// How to print.
        #[arg(short, long, default_value = "json")]
        output: Output,
    },
    /// Start or stop vethwall in a running lab.
    Engine {
        #[command(subcommand)]
        verb: EngineVerb,
    },
    /// What runs in a lab.
    Status {
        #[command(flatten)]
        name: Name,
        /// How to print.
        #[arg(short, long, default_value = "table")]
        output: Output,
    },
    /// Which labs there are.
    List,
    /// Ask the name server of /etc/resolv.conf; for `exec`.
    Resolve {
        /// The name.
        name: String,
    },
    #[command(hide = true)]
    Internal {
        #[arg(allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum EngineVerb {
    /// Start the agents and put vethwall into the chain; running pods are not restarted.
    Start {
        #[command(flatten)]
        name: Name,
        /// Only on this node.
        #[arg(long)]
        node: Option<String>,
    },
    /// Kill the agents; what is enforced stays enforced.
    Stop {
        #[command(flatten)]
        name: Name,
        /// Only on this node.
        #[arg(long)]
        node: Option<String>,
        /// SIGTERM instead of SIGKILL.
        #[arg(long)]
        gently: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Json,
    Table,
}

/// Runs `vethwall-lab`.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match run(cli.verb) {
        Ok(code) => code,
        // Whoever read the output has enough.
        Err(error)
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("vethwall-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    let started = Instant::now();
    let mut say = progress();
    match verb {
        Verb::Up {
            name,
            manifests,
            nodes,
            backend,
            families,
            engine,
            hook,
        } => {
            let name = name.fresh();
            let options = Options {
                name: name.clone(),
                manifests: manifests.clone(),
                nodes,
                backend,
                families,
                engine,
                hook,
            };
            let (lab, applied) = Lab::up(&options, &mut say)?;
            let pods = lab.state.pods.values().filter(|pod| pod.running()).count();
            eprintln!(
                "lab {name} is up: {nodes} nodes, {pods} pods, {:.1} s",
                started.elapsed().as_secs_f32()
            );
            Ok(report(&applied, &manifests))
        }
        Verb::Down { name, all } => {
            let names = if all { State::names() } else { vec![name.known()] };
            for name in &names {
                if Lab::down(name)? {
                    eprintln!("lab {name} is down");
                } else {
                    let others = State::names();
                    let hint = if others.is_empty() {
                        String::new()
                    } else {
                        format!("; up: {} (--name)", others.join(", "))
                    };
                    eprintln!("no lab {name} is up{hint}");
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Apply { name, directory } => {
            let mut lab = Lab::attach(&name.known())?;
            let applied = lab.apply(&directory, &mut say)?;
            if applied.complete() {
                eprintln!("applied in {:.1} s", started.elapsed().as_secs_f32());
            }
            Ok(report(&applied, &directory))
        }
        Verb::Exec {
            name,
            target,
            command,
        } => {
            let code = Lab::attach(&name.known())?.exec(&target, &command)?;
            Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)))
        }
        Verb::Probe { name, probes, output } => {
            let lab = Lab::attach(&name.known())?;
            let probes = match read(&lab, &probes) {
                Ok(probes) => probes,
                Err(error) => {
                    eprintln!("vethwall-lab probe: {error:#}");
                    return Ok(ExitCode::from(2));
                }
            };
            send(&lab, &probes, output)
        }
        Verb::Engine {
            verb: EngineVerb::Start { name, node },
        } => {
            let applied = Lab::attach(&name.known())?.start_engine(node.as_deref(), &mut say)?;
            eprintln!("vethwall runs after {:.1} s", started.elapsed().as_secs_f32());
            Ok(report(&applied, &PathBuf::new()))
        }
        Verb::Engine {
            verb: EngineVerb::Stop { name, node, gently },
        } => {
            Lab::attach(&name.known())?.stop_engine(node.as_deref(), gently)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Status { name, output } => status(&Lab::attach(&name.known())?, output),
        Verb::List => {
            for name in State::names() {
                let alive = State::load(&name)?.is_some_and(|state| state.alive());
                println!(
                    "{name}\t{}",
                    if alive {
                        "up"
                    } else {
                        "dead: clean up with `vethwall-lab down --name NAME`"
                    }
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Resolve { name } => {
            for address in dns::resolve(&name)? {
                println!("{address}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Internal { arguments } => life::internal(&arguments).map(|()| ExitCode::SUCCESS),
    }
}

/// Says what takes longer than two seconds.
fn progress() -> impl FnMut(&str) {
    let started = Instant::now();
    move |what: &str| {
        if started.elapsed() > Duration::from_secs(2) {
            eprintln!("{:5.1} s  {what}", started.elapsed().as_secs_f32());
        }
    }
}

fn report(applied: &Applied, directory: &std::path::Path) -> ExitCode {
    for Problem {
        file,
        line,
        column,
        message,
        excerpt,
    } in &applied.problems
    {
        eprintln!("{}:{line}:{column}: {message}", directory.join(file).display());
        if let Some(excerpt) = excerpt {
            eprintln!("    {excerpt}\n    {:>1$}", "^", *column);
        }
    }
    for (pod, why) in &applied.waiting {
        eprintln!("pod {pod} does not run: {why}");
    }
    for warning in &applied.warnings {
        eprintln!("{warning}");
    }
    if !applied.problems.is_empty() {
        eprintln!("The last good version of what is broken stays in force.");
    }
    if applied.complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn read(lab: &Lab, file: &PathBuf) -> Result<Vec<Probe>> {
    let text = if file.as_os_str() == "-" {
        life::standard_input()?
    } else {
        fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?
    };
    let probes = Probe::parse_all(&text)?;
    ensure!(
        !probes.is_empty(),
        "no probes; a line is {{\"from\":\"NS/POD\",\"to\":\"NS/POD\",\"port\":80,\"protocol\":\"TCP\"}}"
    );
    probe::plan(&lab.state, &probes)?;
    Ok(probes)
}

fn send(lab: &Lab, probes: &[Probe], output: Output) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let outcomes = lab.probe(probes)?;
    let mut failed = false;
    let width = |pick: fn(&Probe) -> &str| {
        probes
            .iter()
            .map(|probe| pick(probe).len())
            .max()
            .unwrap_or(0)
            .max(4)
    };
    let (from, to) = (width(|probe| &probe.from), width(|probe| &probe.to));
    if output == Output::Table {
        writeln!(
            out,
            "{:from$}  {:to$}  {:>5}  {:8}  RESULT",
            "FROM", "TO", "PORT", "PROTOCOL"
        )?;
    }
    for (probe, outcome) in probes.iter().zip(&outcomes) {
        failed |= outcome.result == "error";
        match output {
            Output::Json => writeln!(out, "{}", serde_json::to_string(&outcome.line)?)?,
            Output::Table => {
                let more = outcome
                    .answer
                    .as_deref()
                    .filter(|_| outcome.result == "allowed")
                    .or(outcome.detail.as_deref());
                let more = more
                    .filter(|more| !more.is_empty() && probe.port != 53)
                    .map(|more| format!(" ({more})"));
                writeln!(
                    out,
                    "{:from$}  {:to$}  {:>5}  {:8}  {}{}",
                    probe.from,
                    probe.to,
                    probe.port,
                    probe.protocol,
                    outcome.result,
                    more.unwrap_or_default()
                )?;
            }
        }
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn status(lab: &Lab, output: Output) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if output == Output::Json {
        writeln!(out, "{}", serde_json::to_string(&lab.state)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let state = &lab.state;
    writeln!(
        out,
        "lab {}: flannel {:?}, engine {:?}",
        state.name, state.backend, state.engine
    )?;
    let running = lab.ask(&Request::List)?.running;
    let join = |addresses: &[std::net::IpAddr]| {
        addresses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    for node in &state.nodes {
        let agent = match running.contains_key(&format!("agent/{}", node.name)) {
            true => "agent runs",
            false => "no agent",
        };
        writeln!(
            out,
            "node {}  {}  {agent}",
            node.name,
            join(&node.addresses(state.families))
        )?;
    }
    for (key, pod) in &state.pods {
        let why = pod.waiting.as_ref().map(|why| format!("  waits: {why}"));
        let finished = if pod.finished { "  finished" } else { "" };
        writeln!(
            out,
            "pod {key}  {}  {}{finished}{}",
            pod.node,
            join(&pod.addresses),
            why.unwrap_or_default()
        )?;
    }
    for (key, service) in &state.services {
        let ports: Vec<_> = service
            .ports
            .iter()
            .map(|port| match port.node_port {
                Some(node_port) => format!("{}:{node_port}/{}", port.port, port.protocol),
                None => format!("{}/{}", port.port, port.protocol),
            })
            .collect();
        writeln!(
            out,
            "service {key}  {}  {}",
            join(&service.addresses),
            ports.join(" ")
        )?;
    }
    for (theirs, ours) in &state.aliases {
        writeln!(out, "node {theirs} of the manifests is {ours} here")?;
    }
    if !state.alive() {
        bail!("the lab has died");
    }
    Ok(ExitCode::SUCCESS)
}
