//! `vethwall explain`.

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::Args;
use vethwall_policy::world::World;

use super::{
    Exit, Failure, Global, Output, Streams,
    peer::{Destination, destination, peer},
    status,
    text::{self, bad, count, escape, faint, good, json_line, paint, strong, warn, wrap},
};
use crate::{
    api::{
        Client, ExplainRequest, Explanation, Mode, Peer, Request, Response,
        explain::{EntryAnswer, Party, PolicyAnswer, RuleAnswer, Side, SideReason, answer as answer_of},
    },
    k8s, manifests,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Ends are NAMESPACE/POD or an IP address; an IPv6 address with a port is written [ADDRESS]:PORT.
Without PROTO it is TCP; for ICMP write DST:ICMP. A connection needs both: the egress of its source
and the ingress of its destination.

The agent of this node is asked, which knows what is enforced now. With --manifests nobody is asked:
the answer is what these files mean, on any machine.

Exit status: 0 allowed (audited too), 1 denied, 2 wrong usage, 3 could not decide (no agent answers,
no such pod).

Examples:
  vethwall explain shop/web shop/db:5432
  vethwall explain shop/web kube-system/coredns:53/UDP
  vethwall explain shop/web 203.0.113.9:443 -o json
  vethwall explain 2001:db8::7 '[2001:db8::9]:443'
  vethwall explain --manifests ./cluster shop/web shop/db:5432")]
pub(crate) struct ExplainArgs {
    /// Who opens the connection.
    #[arg(value_name = "SRC", value_parser = peer)]
    source: Peer,
    /// To whom, and on which port.
    #[arg(value_name = "DST[:PORT[/PROTO]]", value_parser = destination)]
    destination: Destination,
    /// Answer from this directory of manifests, without an agent.
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
}

pub(crate) fn run(args: ExplainArgs, global: &Global, streams: &mut Streams<'_>) -> Result<Exit, Failure> {
    let request = ExplainRequest {
        source: args.source,
        destination: args.destination.peer,
        protocol: args.destination.protocol,
        port: args.destination.port,
    };
    let explanation = match &args.manifests {
        Some(directory) => offline(directory, &request, streams)?,
        None => {
            let response = Client::ask_one(&global.run_dir, Request::Explain(request))?;
            let Response::Explanation(explanation) = response else {
                return Err(status::unexpected(global, &response).into());
            };
            *explanation
        }
    };
    let text = match global.output {
        Output::Json => json_line(&explanation)?,
        Output::Table => render(&explanation),
    };
    streams.out.write_all(text.as_bytes())?;
    Ok(if explanation.passes() { Exit::Yes } else { Exit::No })
}

/// What a directory of manifests means, without an agent.
fn offline(
    directory: &Path,
    request: &ExplainRequest,
    streams: &mut Streams<'_>,
) -> Result<Explanation, Failure> {
    let shown = escape(&directory.display().to_string()).into_owned();
    let loaded = manifests::load(directory)
        .map_err(|e| Failure::Undecided(format!("can not read the manifests in {shown}: {e}")))?;
    let view = manifests::Store::default().update(&loaded);
    let converted = k8s::convert::convert(&view);
    for problem in &view.problems {
        let place = format!("{}:{}:{}", problem.file.display(), problem.line, problem.column);
        warning(streams, &place, &problem.message)?;
    }
    for problem in &converted.problems {
        let place = match &problem.file {
            Some(file) => format!("{}:{}", file.display(), problem.line),
            None => problem.code.to_owned(),
        };
        warning(streams, &place, &problem.message)?;
    }
    // Seen from no node: which one is a pod's own is in its object.
    let mut world = World::new("");
    world.replace(converted.objects);
    let explanation = answer_of(&world, request)
        .map_err(|body| Failure::Undecided(format!("{} in {shown}", escape(&body.message))))?;
    if let Some(file) = view.unreadable.first() {
        // It may hold a policy: what the others say is no answer.
        return Err(Failure::Undecided(format!(
            "nothing in {} can be read, so nobody knows what it holds; repair it and ask again",
            escape(&file.display().to_string())
        )));
    }
    Ok(explanation)
}

fn warning(streams: &mut Streams<'_>, place: &str, message: &str) -> io::Result<()> {
    let mark = paint("warning:", warn());
    writeln!(streams.err, "{mark} {}: {}", escape(place), escape(message))
}

pub(super) fn render(explanation: &Explanation) -> String {
    let port = match explanation.port {
        Some(port) => format!(" port {port}/{}", escape(&explanation.protocol)),
        None => format!(" {}", escape(&explanation.protocol)),
    };
    let mut out = format!(
        "{} -> {}{port}  {}\n\n",
        party(&explanation.source),
        party(&explanation.destination),
        text::verdict(explanation.verdict),
    );
    side(
        "EGRESS ",
        "of",
        &explanation.source,
        &explanation.egress,
        &mut out,
    );
    side(
        "INGRESS",
        "of",
        &explanation.destination,
        &explanation.ingress,
        &mut out,
    );
    if !explanation.notes.is_empty() {
        out.push('\n');
    }
    for note in &explanation.notes {
        out.push_str(&wrap(&escape(note), "note: ", 6));
    }
    out
}

/// `shop/web`, or an address and whose it is.
fn party(party: &Party) -> String {
    let peer = escape(&party.peer.to_string()).into_owned();
    match (&party.peer, &party.owner, &party.node) {
        (Peer::Pod { .. }, _, _) => peer,
        (Peer::Address { .. }, Some(pod), _) => format!("{peer} ({})", escape(pod)),
        (Peer::Address { .. }, None, Some(node)) => format!("{peer} (node {})", escape(node)),
        (Peer::Address { .. }, None, None) => format!("{peer} (world)"),
    }
}

fn side(name: &str, of: &str, party: &Party, side: &Side, out: &mut String) {
    let who = party.owner.clone().unwrap_or_else(|| party.peer.to_string());
    out.push_str(&format!(
        "{} {of} {}  {}  {}\n",
        paint(name, strong()),
        escape(&who),
        text::verdict(side.verdict),
        reason(side)
    ));
    for policy in &side.policies {
        answer(policy, out);
    }
}

fn reason(side: &Side) -> String {
    let direction = side.direction.name();
    let enforced = side.policies.iter().filter(|answer| answer.mode == Mode::Enforce);
    let names: Vec<_> = enforced.clone().map(|answer| answer.policy.clone()).collect();
    let rules: usize = enforced.map(|answer| answer.rules.len()).sum();
    let names = text::policies(&names);
    match side.reason {
        SideReason::NotAPod => "not a pod that policy acts on".to_owned(),
        SideReason::NotIsolated => format!("no policy isolates it for {direction}"),
        SideReason::AuditOnly => format!("only audited policies isolate it for {direction}"),
        SideReason::Rule => match &side.allowed_by {
            Some(by) => format!("by {} rule {}", escape(&by.policy.to_string()), by.rule),
            None => "by a rule".to_owned(),
        },
        SideReason::NoRule => {
            let none = match rules {
                0 => format!("no {direction} rules"),
                1 => "the one rule does not match".to_owned(),
                n => format!("none of {n} rules matches"),
            };
            format!("isolated by {names}; {none}")
        }
        SideReason::SelfTraffic => "a pod always reaches itself".to_owned(),
        SideReason::OwnNode => "a pod's own node always reaches it".to_owned(),
        SideReason::UnknownPod => "no such pod is known".to_owned(),
    }
}

fn answer(answer: &PolicyAnswer, out: &mut String) {
    let rules = if answer.rules.is_empty() {
        "no rules: allows nothing".to_owned()
    } else {
        count(answer.rules.len(), "rule", "rules")
    };
    let mode = match answer.mode {
        Mode::Enforce => "",
        Mode::Audit => " (audited, not in force)",
    };
    out.push_str(&format!(
        "  {}{mode}  {}\n",
        escape(&answer.policy.to_string()),
        paint(rules, faint())
    ));
    for answer in &answer.rules {
        rule(answer, out);
    }
}

fn rule(answer: &RuleAnswer, out: &mut String) {
    let RuleAnswer {
        rule,
        allows,
        failed,
        peers,
        ports,
    } = answer;
    let why = match (allows, failed, peers.is_empty() && ports.is_empty()) {
        (true, _, true) => "allows everything",
        (true, _, false) => "matches",
        (false, Some(failed), true) => failed.as_str(),
        (false, ..) => "does not match",
    };
    marked(*allows, &format!("rule {rule}  "), why, 4, out);
    for (name, entries) in [("peer", peers), ("port", ports)] {
        for EntryAnswer { matches, detail } in entries {
            marked(*matches, &format!("{name}  "), detail, 6, out);
        }
    }
}

/// A line with ✓ or ✗ before it, wrapped.
fn marked(yes: bool, label: &str, text: &str, indent: usize, out: &mut String) {
    let (mark, style) = if yes { ("✓", good()) } else { ("✗", bad()) };
    let first = format!("{:indent$}{mark} {label}", "");
    let line = wrap(&escape(text), &first, first.chars().count());
    // Painted after wrapping, which counts characters.
    out.push_str(&line.replacen(mark, &paint(mark, style), 1));
}
