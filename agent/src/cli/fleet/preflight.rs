//! `kubectl vethwall preflight`: whether vethwall can be installed, and what that changes.

use clap::Args;

use super::{Where, runtime};
use crate::{
    cli::{
        Exit, Failure, Global, Output, Streams,
        text::{bad, escape, good, json_line, paint, warn, wrap},
    },
    fleet::preflight::{
        Facts, Finding, Outcome,
        answer::merge,
        here, judge,
        probe::{Interrupted, Probe},
    },
};

/// Where the chart has its image from, unless it is told another place.
const REPOSITORY: &str = "ghcr.io/vethwall/vethwall";
/// Where the chart is usually installed; pods that use their node's directories may be made there.
const NAMESPACE: &str = "kube-system";

/// Of a list of names that stands for itself in -o json.
const SHOWN: usize = 8;

#[derive(Debug, Args)]
#[command(after_help = "\
Reads nodes, daemonsets, policies and pods, and changes nothing. It works before anything is
installed.

What only the nodes know stays unknown, unless --probe looks there: a pod on each node, in the
namespace of --agent-namespace or kube-system, that sees the node's network, /sys/fs/bpf and the
runtime's network lists, can change nothing, and is deleted afterwards, within a minute. It takes
the rights to create, list and delete pods there, and to get pods/log.

Exit status: 0 nothing stands against it, 1 something does, 3 some of it is not known; warnings
change nothing.

Examples:
  vethwall preflight --context prod
  kubectl vethwall preflight --probe
  kubectl vethwall preflight -o json")]
pub(crate) struct PreflightArgs {
    /// Look at each node, too, by a pod that only reads.
    #[arg(long)]
    probe: bool,
    /// Image of these pods [default: the chart's].
    #[arg(long, value_name = "IMAGE", requires = "probe")]
    probe_image: Option<String>,
    /// What such a pod runs: say what is found on this node.
    #[arg(long, hide = true, conflicts_with = "probe")]
    here: bool,
    #[command(flatten)]
    place: Where,
}

impl PreflightArgs {
    fn probe(&self, namespace: Option<String>) -> Option<Probe> {
        let usual = || format!("{REPOSITORY}:{}", env!("CARGO_PKG_VERSION"));
        self.probe.then(|| Probe {
            namespace: namespace.unwrap_or_else(|| NAMESPACE.to_owned()),
            image: self.probe_image.clone().unwrap_or_else(usual),
        })
    }
}

pub(crate) fn run(args: &PreflightArgs, global: &Global, streams: &mut Streams<'_>) -> Result<Exit, Failure> {
    if args.here {
        return tell(&here::look(), "this node", global, streams);
    }
    // It is always about a cluster.
    let target = args.place.target().unwrap_or_default();
    let probe = args.probe(target.namespace.clone());
    let (findings, server) = runtime()?.block_on(async {
        let (client, server) = target.connect().await?;
        let facts = Facts::gather(&client).await?;
        let mut nodes = None;
        if let Some(probe) = probe {
            // Without stderr nobody hears it, and there are pods to delete.
            let mut say = |text: &str| drop(writeln!(streams.err, "{}", escape(text)));
            let answers = probe.ask(&client, &facts.nodes, &mut say).await;
            nodes = Some(merge(answers.map_err(|Interrupted| {
                Failure::Undecided("interrupted before the nodes had answered".to_owned())
            })?));
        }
        Ok::<_, Failure>((judge(&facts, nodes), server))
    })?;
    tell(&findings, &server, global, streams)
}

fn tell(
    findings: &[Finding],
    server: &str,
    global: &Global,
    streams: &mut Streams<'_>,
) -> Result<Exit, Failure> {
    let text = match global.output {
        Output::Json => findings.iter().map(json_line).collect::<Result<String, _>>()?,
        Output::Table => render(findings, server),
    };
    streams.out.write_all(text.as_bytes())?;
    let worst = findings.iter().map(|finding| finding.outcome).max();
    Ok(match worst {
        Some(Outcome::Fail) => Exit::No,
        Some(Outcome::Unknown) => Exit::Undecided,
        Some(Outcome::Ok | Outcome::Warn) | None => Exit::Yes,
    })
}

fn render(findings: &[Finding], server: &str) -> String {
    let mut out = format!("Cluster  {}\n\n", escape(server));
    for finding in findings {
        let style = match finding.outcome {
            Outcome::Ok => good(),
            Outcome::Warn | Outcome::Unknown => warn(),
            Outcome::Fail => bad(),
        };
        let plain = format!("{:<8} {:<9} ", finding.outcome.name(), escape(&finding.check));
        let indent = plain.chars().count();
        let text = wrap(&escape(&finding.message), &plain, indent);
        let word = finding.outcome.name();
        out.push_str(&text.replacen(word, &paint(word, style), 1));
        if !finding.names.is_empty() {
            let mut names = finding.names[..finding.names.len().min(SHOWN)].join(", ");
            if finding.names.len() > SHOWN {
                names.push_str(&format!(
                    " and {} more (-o json has all)",
                    finding.names.len() - SHOWN
                ));
            }
            out.push_str(&wrap(&escape(&names), &" ".repeat(indent), indent));
        }
        if let Some(hint) = &finding.hint {
            out.push_str(&wrap(&escape(hint), &" ".repeat(indent), indent));
        }
    }
    let number = |outcome| findings.iter().filter(|f| f.outcome == outcome).count();
    let warnings = number(Outcome::Warn);
    let unknown = match number(Outcome::Unknown) {
        0 => String::new(),
        n => format!(", {n} not known"),
    };
    let last = match number(Outcome::Fail) {
        0 => format!("Nothing stands against an installation; {warnings} warnings{unknown}."),
        n => format!("Not ready: {n} failed, {warnings} warnings{unknown}."),
    };
    format!("{out}\n{last}\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use k8s_openapi::api::core::v1::Node;

    use super::*;
    use crate::{
        cli::{Cli, Command, run},
        fleet::preflight::{answer::read, here::CHECKS, pod::pod},
    };

    #[test]
    fn what_a_pod_is_told_is_understood_and_what_it_answers_is_read() {
        let pod = pod(&Node::default(), "image", "run");
        let told = pod.spec.unwrap().containers.remove(0).args.unwrap();
        let program = std::iter::once("vethwall".to_owned());
        let cli = Cli::try_parse_from(program.chain(told)).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let streams = Streams {
            out: &mut out,
            err: &mut err,
        };
        let exit = run(cli, false, streams);
        let findings = read(&String::from_utf8(out).unwrap(), exit as i32).unwrap();
        for check in CHECKS {
            assert!(findings.iter().any(|finding| finding.check == check), "{check}");
        }
    }

    #[test]
    fn pods_are_made_only_where_they_are_asked_for() {
        let parse = |words: &[&str]| {
            let words = ["vethwall", "preflight"].iter().chain(words);
            Cli::try_parse_from(words).map(|cli| {
                let Command::Preflight(args) = cli.command else {
                    panic!("{:?}", cli.command)
                };
                args.probe(None)
            })
        };
        assert_eq!(parse(&[]).unwrap(), None);
        let usual = parse(&["--probe"]).unwrap().unwrap();
        let image = format!("ghcr.io/vethwall/vethwall:{}", env!("CARGO_PKG_VERSION"));
        assert_eq!((usual.namespace.as_str(), usual.image), ("kube-system", image));
        let other = parse(&["--probe", "--probe-image", "mirror/vethwall:1"]).unwrap();
        assert_eq!(other.unwrap().image, "mirror/vethwall:1");
        assert!(parse(&["--probe-image", "mirror/vethwall:1"]).is_err());
    }

    #[test]
    fn what_is_not_known_is_counted_and_what_nodes_say_is_escaped() {
        let finding = |check: &'static str, outcome| Finding {
            check: check.into(),
            outcome,
            message: "said\u{1b}[2J".to_owned(),
            hint: None,
            names: vec!["a".to_owned()],
        };
        let findings = [
            finding("no\u{7}de", Outcome::Unknown),
            finding("bridge", Outcome::Warn),
        ];
        let text = anstream::adapter::strip_str(&render(&findings, "https://cluster")).to_string();
        assert!(
            text.ends_with("installation; 1 warnings, 1 not known.\n"),
            "{text}"
        );
        assert!(
            text.contains("no\\u{7}de") && text.contains("said\\u{1b}[2J"),
            "{text}"
        );
    }
}
