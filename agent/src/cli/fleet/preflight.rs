//! `kubectl vethwall preflight`: whether vethwall can be installed, and what that changes.

use clap::Args;

use super::{Where, runtime};
use crate::{
    cli::{
        Exit, Failure, Global, Output, Streams,
        text::{bad, escape, good, json_line, paint, warn, wrap},
    },
    fleet::preflight::{Facts, Finding, Outcome, judge},
};

/// Of a list of names that stands for itself in -o json.
const SHOWN: usize = 8;

#[derive(Debug, Args)]
#[command(after_help = "\
Reads nodes, daemonsets, policies and pods, and changes nothing. It works before anything is
installed.

Exit status: 0 nothing stands against it, 1 something does, 3 some of it is not known; warnings
change nothing.

Examples:
  vethwall preflight --context prod
  kubectl vethwall preflight -o json")]
pub(crate) struct PreflightArgs {
    #[command(flatten)]
    place: Where,
}

pub(crate) fn run(args: &PreflightArgs, global: &Global, streams: &mut Streams<'_>) -> Result<Exit, Failure> {
    // It is always about a cluster.
    let target = args.place.target().unwrap_or_default();
    let (facts, server) = runtime()?.block_on(async {
        let (client, server) = target.connect().await?;
        Ok::<_, Failure>((Facts::gather(&client).await?, server))
    })?;
    let findings = judge(&facts);
    let text = match global.output {
        Output::Json => findings.iter().map(json_line).collect::<Result<String, _>>()?,
        Output::Table => render(&findings, &server),
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
        let plain = format!("{:<8} {:<9} ", finding.outcome.name(), finding.check);
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
    let warnings = findings.iter().filter(|f| f.outcome == Outcome::Warn).count();
    let failed = findings.iter().filter(|f| f.outcome == Outcome::Fail).count();
    let last = match failed {
        0 => format!("Nothing stands against an installation; {warnings} warnings."),
        n => format!("Not ready: {n} failed, {warnings} warnings."),
    };
    format!("{out}\n{last}\n")
}
