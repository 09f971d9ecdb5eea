//! `vethwall status`.

use std::time::Duration;

use clap::Args;

use super::{
    Exit, Failure, Global, Output, Streams,
    fleet::{self, Where},
    text::{self, bad, count, escape, faint, good, json_line, paint, strong, warn, wrap},
};
use crate::api::{
    Client, ClientError, Request, Response, Status,
    chain::ChainState,
    cluster::Cluster,
    settings::FailurePolicy,
    status::{AgentState, Endpoint, EndpointState, Interfaces, Isolation, ManifestProblem},
};

/// From here a map is nearly full.
const NEARLY_FULL: u64 = 80;

#[derive(Debug, Args)]
#[command(after_help = "\
Healthy: the agent is ready, every pod of this node is protected, and no manifest, policy or part of
the node has a problem.

With --cluster, and as kubectl vethwall, all nodes are asked, through pods/exec: a node that does
not answer, or has no agent, is shown, and makes the answer 3.

Exit status: 0 healthy, 1 not, 3 no agent answers, or not all.

Examples:
  vethwall status
  kubectl vethwall status --wait
  vethwall status -o json | jq '.endpoints[] | select(.state != \"enforcing\")'")]
pub(crate) struct StatusArgs {
    /// Wait until every node is healthy and chained; with --cluster.
    #[arg(long)]
    wait: bool,
    /// For how long at most, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "wait")]
    timeout: u64,
    #[command(flatten)]
    place: Where,
}

pub(crate) fn run(args: &StatusArgs, global: &Global, streams: &mut Streams<'_>) -> Result<Exit, Failure> {
    if let Some(target) = args.place.target() {
        let patience = args.wait.then(|| Duration::from_secs(args.timeout));
        return fleet::status(&target, patience, global, streams);
    }
    if args.wait {
        return Err(Failure::Usage(
            "--wait is for a whole cluster: add --cluster".to_owned(),
        ));
    }
    let response = Client::ask_one(&global.run_dir, Request::Status)?;
    let Response::Status(status) = response else {
        return Err(unexpected(global, &response).into());
    };
    let text = match global.output {
        Output::Json => json_line(&status)?,
        Output::Table => render(&status),
    };
    streams.out.write_all(text.as_bytes())?;
    Ok(if status.healthy() { Exit::Yes } else { Exit::No })
}

/// An answer to another question.
pub(super) fn unexpected(global: &Global, response: &Response) -> ClientError {
    ClientError::Broken {
        path: global.run_dir.join(crate::api::SOCKET),
        what: format!(
            "answered something else: {}",
            serde_json::to_string(response).unwrap_or_default()
        ),
    }
}

pub(super) fn render(status: &Status) -> String {
    let mut out = headline(status);
    out.push('\n');
    facts(status, &mut out);
    endpoints(status, &mut out);
    policies(status, &mut out);
    problems(status, &mut out);
    out
}

fn headline(status: &Status) -> String {
    let (word, style) = match (status.ready, status.state, status.healthy()) {
        (_, _, true) => ("healthy", good()),
        (false, _, _) | (_, AgentState::Starting, _) => ("STARTING", warn()),
        (true, AgentState::Degraded, _) => ("DEGRADED", bad()),
        (true, AgentState::Enforcing, false) => ("PROBLEMS", bad()),
    };
    let protected = format!("{}/{}", status.protected(), status.endpoints.len());
    let all = status.protected() == status.endpoints.len();
    format!(
        "vethwall v{} · {} · {} · pods protected {}\n",
        escape(&status.version),
        escape(&status.node),
        paint(word, style),
        paint(protected, if all { good() } else { bad() }),
    )
}

/// What the node and the agent are like, a line each.
fn facts(status: &Status, out: &mut String) {
    let mut fact = |name: &str, text: String| {
        out.push_str(&format!("{}  {text}\n", paint(format!("{name:<9}"), strong())));
    };
    let manifests = &status.manifests;
    let problems = match manifests.problems.len() {
        0 => "no problems".to_owned(),
        n => paint(count(n, "problem", "problems"), bad()),
    };
    let revision = status.revision;
    match &status.cluster {
        Some(followed) => {
            let text = format!("{}, {problems}, revision {revision}", cluster(followed));
            fact("Cluster", text);
        }
        None => {
            let files = count(manifests.files, "file", "files");
            let directory = escape(&manifests.directory);
            let text = format!("{directory}: {files}, {problems}, revision {revision}");
            fact("Manifests", text);
        }
    }
    let chain = &status.chain;
    fact(
        "Chain",
        match (&chain.file, chain.state) {
            (Some(file), _) => format!(
                "{} in {}, {}, put back {}, phase {}",
                escape(file),
                escape(&chain.directory),
                chain.mode.name(),
                count(
                    usize::try_from(chain.repairs).unwrap_or(usize::MAX),
                    "time",
                    "times"
                ),
                status.phase.name()
            ),
            (None, ChainState::Off) => format!("not looked after, phase {}", status.phase.name()),
            (None, state) => paint(format!("{}, phase {}", state.name(), status.phase.name()), warn()),
        },
    );
    if let Some(runtime) = &chain.runtime {
        let word = match (&runtime.error, runtime.names_us) {
            (Some(_), _) => paint("does not answer", warn()),
            (None, Some(true)) => "calls the plugin".to_owned(),
            (None, Some(false)) => paint("does not call the plugin", warn()),
            (None, None) => "does not tell whom it calls".to_owned(),
        };
        let name = format!("{} {}", escape(&runtime.name), escape(&runtime.version));
        fact("Runtime", format!("{} {word}", name.trim()));
    }
    let hook = status.hook.map_or("no program attached yet", |hook| hook.name());
    let bridge = if status.bridge.attached {
        "attached"
    } else {
        "not attached"
    };
    fact(
        "Kernel",
        format!(
            "{hook}, bridge {} {bridge}, map layout v{}, bridge-nf-call-iptables {}",
            escape(&status.bridge.name),
            status.abi,
            match status.bridge_nf_call_iptables {
                Some(true) => "1",
                Some(false) => "0",
                None => "absent",
            },
        ),
    );
    if let Some((fullest, percent)) = status
        .maps
        .iter()
        .map(|map| (map, map.entries * 100 / map.capacity.max(1)))
        .max_by_key(|(_, percent)| *percent)
    {
        let style = if percent >= NEARLY_FULL { warn() } else { faint() };
        let text = format!(
            "fullest {}: {} of {} ({percent} %)",
            escape(&fullest.name),
            fullest.entries,
            fullest.capacity
        );
        fact("Maps", paint(text, style));
    }
    let events = &status.events;
    fact("Events", format!("{} read, {} lost", events.read, events.lost));
    let settings = &status.settings;
    fact(
        "Settings",
        format!(
            "mode: {}, existing connections: {}, egress to the own node: {}",
            settings.mode.name(),
            settings.existing_connections.name(),
            settings.own_node_egress.name()
        ),
    );
    if let Some(open) = fail_open(&status.failure_policy) {
        fact("Failures", paint(open, warn()));
    }
    if let Some(text) = interfaces(&status.interfaces) {
        fact("Strangers", text);
    }
}

/// Whom the agent follows, what it does not know as it is, and how old the oldest of its knowledge is.
fn cluster(cluster: &Cluster) -> String {
    let server = if cluster.server.is_empty() {
        paint("nobody to ask", warn())
    } else {
        escape(&cluster.server).into_owned()
    };
    let watches = cluster.watches.iter();
    let behind = watches.clone().filter(|watch| !watch.state.good());
    let behind: Vec<String> = behind
        .map(|watch| format!("{} {}", escape(&watch.resource), watch.state.name()))
        .collect();
    let known = if behind.is_empty() {
        "all current".to_owned()
    } else {
        paint(behind.join(", "), warn())
    };
    match watches.filter_map(|watch| watch.heard_seconds_ago).max() {
        Some(age) => format!("{server}: {known}, heard of {age} s ago"),
        None => format!("{server}: {known}, never heard of"),
    }
}

/// The namespaces that are not safe while the agent is away, for a line of its own.
fn fail_open(policy: &FailurePolicy) -> Option<String> {
    match policy {
        FailurePolicy::Closed => None,
        FailurePolicy::Open { namespaces } => Some(format!(
            "OPEN while no agent answers, for pods of {}",
            namespaces
                .iter()
                .map(|name| escape(name))
                .collect::<Vec<_>>()
                .join(", ")
        )),
    }
}

/// Interfaces beside the known pods', where there is something to be said.
fn interfaces(interfaces: &Interfaces) -> Option<String> {
    let closed = interfaces
        .strangers
        .iter()
        .filter(|stranger| stranger.closed)
        .count();
    let open = interfaces.strangers.len() - closed;
    let number = usize::try_from(interfaces.identified).unwrap_or(usize::MAX);
    let parts = [
        (
            number,
            "came past the plugin and was found",
            "came past the plugin and were found",
        ),
        (closed, "of no known pod, closed", "of no known pods, closed"),
        (
            open,
            "of no known pod, left alone",
            "of no known pods, left alone",
        ),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(number, ..)| *number > 0)
        .map(|(number, one, many)| count(number, one, many))
        .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn endpoints(status: &Status, out: &mut String) {
    if status.endpoints.is_empty() {
        out.push_str("\nNo pods on this node.\n");
        return;
    }
    let rows = status.endpoints.iter().map(|endpoint| {
        let addresses: Vec<_> = endpoint.addresses.iter().map(ToString::to_string).collect();
        vec![
            escape(&format!("{}/{}", endpoint.namespace, endpoint.pod)).into_owned(),
            escape(&endpoint.interface).into_owned(),
            addresses.join(" "),
            state(endpoint),
            isolation(endpoint, &endpoint.ingress),
            isolation(endpoint, &endpoint.egress),
        ]
    });
    let table = text::table(
        &["POD", "INTERFACE", "ADDRESS", "STATE", "INGRESS", "EGRESS"],
        rows,
    );
    push_table(&table, out);
}

/// What needs a look is in capitals: colours are lost in pipes.
fn state(endpoint: &Endpoint) -> String {
    match endpoint.state {
        EndpointState::Enforcing => endpoint.state.name().to_owned(),
        EndpointState::Pending | EndpointState::Unprotected => endpoint.state.name().to_uppercase(),
    }
}

fn isolation(endpoint: &Endpoint, isolation: &Isolation) -> String {
    let policies = isolation.policies.len();
    match (endpoint.state, isolation.isolated, policies) {
        (EndpointState::Pending, _, _) => "closed".to_owned(),
        (EndpointState::Unprotected, _, _) => "open".to_owned(),
        (EndpointState::Enforcing, true, n) => {
            format!("isolated ({})", count(n, "policy", "policies"))
        }
        (EndpointState::Enforcing, false, 0) => "open".to_owned(),
        (EndpointState::Enforcing, false, n) => {
            format!("open ({n} audited)")
        }
    }
}

fn policies(status: &Status, out: &mut String) {
    if status.policies.is_empty() {
        out.push_str("\nNo policies: everything is allowed.\n");
        return;
    }
    let rows = status.policies.iter().map(|policy| {
        let problems = match policy.problems.len() {
            0 => String::new(),
            n => count(n, "PROBLEM", "PROBLEMS"),
        };
        vec![
            escape(&format!("{}/{}", policy.namespace, policy.name)).into_owned(),
            policy.mode.name().to_owned(),
            policy.selects.to_string(),
            problems,
        ]
    });
    push_table(&text::table(&["POLICY", "MODE", "PODS HERE", ""], rows), out);
}

/// A table after an empty line, its header in bold.
fn push_table(table: &str, out: &mut String) {
    let (header, rows) = table.split_once('\n').unwrap_or((table, ""));
    out.push_str(&format!("\n{}\n{rows}", paint(header, strong())));
}

fn problems(status: &Status, out: &mut String) {
    let mut list = String::new();
    let mut number = 0;
    for problem in &status.problems {
        number += 1;
        let first = format!("  {}  ", escape(&problem.code));
        let indent = first.chars().count();
        list.push_str(&wrap(&escape(&problem.message), &first, indent));
        if let Some(hint) = &problem.hint {
            let hint = escape(hint);
            list.push_str(&wrap(&hint, &" ".repeat(indent), indent));
        }
    }
    for problem in &status.manifests.problems {
        number += 1;
        let code = problem.code.as_deref().unwrap_or("MANIFEST");
        let first = format!("  {}  {}  ", escape(code), place(problem));
        list.push_str(&wrap(&escape(&problem.message), &first, 4));
    }
    // Problems of policies stand among those of the manifests, with their place.
    for endpoint in &status.endpoints {
        let what = match endpoint.state {
            EndpointState::Enforcing => continue,
            EndpointState::Pending => {
                "waits: its Pod object is not known yet, or its policy is not in the kernel. Until then nothing \
                 reaches it and nothing leaves it."
            }
            EndpointState::Unprotected => "has no program at its interface: nothing is enforced for it.",
        };
        number += 1;
        let first = format!(
            "  POD  {}/{}  ",
            escape(&endpoint.namespace),
            escape(&endpoint.pod)
        );
        list.push_str(&wrap(what, &first, 4));
    }
    if number > 0 {
        out.push_str(&format!(
            "\n{}\n{list}",
            paint(format!("Problems ({number})"), bad())
        ));
    }
}

/// `file:line:column`, as far as it is known.
fn place(problem: &ManifestProblem) -> String {
    let file = escape(&problem.file);
    match (problem.line, problem.column) {
        (0, _) => file.into_owned(),
        (line, 0) => format!("{file}:{line}"),
        (line, column) => format!("{file}:{line}:{column}"),
    }
}
