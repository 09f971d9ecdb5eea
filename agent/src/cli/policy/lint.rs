//! `vethwall policy lint`.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use clap::Args;
use owo_colors::Style;
use serde::Serialize;

use crate::{
    api::API_VERSION,
    cli::{
        Exit, Failure, Global, Output, Streams,
        text::{WIDTH, bad, count, escape, faint, good, json_line, paint, strong, warn, wrap},
    },
    lint::{self, Finding, Report, Severity},
    manifests::{self, Texts},
};

/// What stands for the standard input.
const STDIN: &str = "-";

#[derive(Debug, Args)]
#[command(after_help = "\
No cluster is asked. Pods (or the workloads that make them), Namespaces, Nodes and Services in the
input tell what selectors, blocks and named ports match; what the input lacks is not held against a
policy, and the checks that need it are listed. docs/lint.md has every code with an example.

To silence codes for an object, annotate it: vethwall.io/lint-ignore: LINT010,LINT060

Exit status: 0 nothing at warning or above, 1 findings, 2 wrong usage, 3 the input can not be read
or holds no object.

Examples:
  vethwall policy lint -f policy.yaml
  vethwall policy lint -f policies/ -f cluster.yaml
  kubectl get networkpolicies,pods,namespaces,nodes,services -A -o yaml | vethwall policy lint -f -
  vethwall policy lint -f policies/ -o json | jq -r .code | sort | uniq -c")]
pub(crate) struct LintArgs {
    /// A file, a directory and all below it, or - for the standard input.
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,
    /// Exit with 1 for infos too.
    #[arg(long)]
    strict: bool,
}

/// A finding as a line of JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    api_version: &'static str,
    code: &'static str,
    severity: Severity,
    file: &'a Path,
    line: usize,
    column: usize,
    object: Option<&'a str>,
    field: Option<&'a str>,
    message: &'a str,
    fix: &'a str,
}

pub(crate) fn run(args: &LintArgs, global: &Global, streams: &mut Streams<'_>) -> Result<Exit, Failure> {
    let texts = read(&args.files)?;
    let report = lint::run(&texts);
    for finding in &report.findings {
        let text = match global.output {
            Output::Json => json_line(&line(finding))?,
            Output::Table => render(finding, &texts),
        };
        streams.out.write_all(text.as_bytes())?;
    }
    if report.objects == 0 {
        let names: Vec<String> = args.files.iter().map(|file| file.display().to_string()).collect();
        return Err(Failure::Undecided(format!(
            "no Kubernetes object can be read in {}",
            escape(&names.join(", "))
        )));
    }
    if global.output == Output::Table {
        streams.out.write_all(summary(&report, texts.len()).as_bytes())?;
    }
    for skipped in &report.skipped {
        let text = format!(
            "not checked, as the input has no {}: {}",
            skipped.lacks,
            skipped.codes.join(", ")
        );
        write!(
            streams.err,
            "{}",
            wrap(&text, "note: ", 6).replacen("note:", &paint("note:", strong()), 1)
        )?;
    }
    let worst = report.findings.iter().map(|finding| finding.severity).min();
    Ok(match worst {
        Some(Severity::Error | Severity::Warning) => Exit::No,
        Some(Severity::Info) if args.strict => Exit::No,
        Some(Severity::Info) | None => Exit::Yes,
    })
}

/// The texts of all files.
fn read(files: &[PathBuf]) -> Result<Texts, Failure> {
    let mut texts = Texts::new();
    for file in files {
        let failed = |error: io::Error| {
            Failure::Undecided(format!(
                "can not read {}: {error}",
                escape(&file.display().to_string())
            ))
        };
        if file == Path::new(STDIN) {
            let mut text = Vec::new();
            io::stdin().read_to_end(&mut text).map_err(failed)?;
            texts.insert("<stdin>".into(), text);
        } else if fs::metadata(file).map_err(failed)?.is_dir() {
            let below = manifests::read(file).map_err(failed)?;
            texts.extend(below.into_iter().map(|(path, text)| (file.join(path), text)));
        } else {
            texts.insert(file.clone(), fs::read(file).map_err(failed)?);
        }
    }
    Ok(texts)
}

fn line(finding: &Finding) -> Line<'_> {
    Line {
        api_version: API_VERSION,
        code: finding.code.id,
        severity: finding.severity,
        file: &finding.file,
        line: finding.line,
        column: finding.column,
        object: finding.object.as_deref(),
        field: finding.field.as_deref(),
        message: &finding.message,
        fix: &finding.fix,
    }
}

fn style(severity: Severity) -> Style {
    match severity {
        Severity::Error => bad(),
        Severity::Warning => warn().bold(),
        Severity::Info => strong(),
    }
}

/// A finding for people.
fn render(finding: &Finding, texts: &Texts) -> String {
    let head = format!("{}[{}]:", finding.severity.name(), finding.code.id);
    let style = style(finding.severity);
    let text = wrap(&escape(&finding.message), &format!("{head} "), 4);
    let mut out = text.replacen(&head, &paint(&head, style), 1);
    let number = finding.line.to_string();
    let margin = " ".repeat(number.len());
    let place = format!("{}:{}:{}", finding.file.display(), finding.line, finding.column);
    let parts = [
        Some(place.as_str()),
        finding.object.as_deref(),
        finding.field.as_deref(),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().map(escape).collect();
    out += &format!("{margin}{} {}\n", paint("-->", faint()), parts.join("  "));
    let bar = paint("|", faint());
    if let Some((excerpt, caret)) = excerpt(finding, texts) {
        out += &format!("{} {bar} {excerpt}\n", paint(&number, faint()));
        out += &format!("{margin} {bar} {}{}\n", " ".repeat(caret), paint("^", style));
    }
    let text = wrap(&escape(&finding.fix), "  fix: ", 7);
    out += &text.replacen("fix:", &paint("fix:", good()), 1);
    out.push('\n');
    out
}

/// The line of a finding, as much of it as fits, and where in it the caret stands.
fn excerpt(finding: &Finding, texts: &Texts) -> Option<(String, usize)> {
    let text = String::from_utf8_lossy(texts.get(&finding.file)?);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let line: Vec<char> = text.lines().nth(finding.line - 1)?.trim_end().chars().collect();
    let column = (finding.column - 1).min(line.len());
    let width = usize::from(WIDTH) - 10;
    // JSON without line breaks is one long line.
    let start = if line.len() <= width {
        0
    } else {
        column.saturating_sub(width / 2)
    };
    let end = line.len().min(start + width);
    let part = |from: usize, to: usize| escape(&line[from..to].iter().collect::<String>()).into_owned();
    let before = format!("{}{}", if start > 0 { "..." } else { "" }, part(start, column));
    let after = format!(
        "{}{}",
        part(column, end),
        if end < line.len() { "..." } else { "" }
    );
    let caret = before.chars().count();
    Some((before + &after, caret))
}

/// How much of what was found.
fn summary(report: &Report, files: usize) -> String {
    let policies = count(report.policies, "policy", "policies");
    let files = count(files, "file", "files");
    let counts = [
        (Severity::Error, "error", "errors"),
        (Severity::Warning, "warning", "warnings"),
        (Severity::Info, "info", "infos"),
    ];
    let found: Vec<String> = counts
        .into_iter()
        .map(|(severity, one, many)| (report.count(severity), one, many))
        .filter(|(n, _, _)| *n > 0)
        .map(|(n, one, many)| count(n, one, many))
        .collect();
    let found = if found.is_empty() {
        "nothing found".to_owned()
    } else {
        found.join(", ")
    };
    let silenced = match report.silenced {
        0 => String::new(),
        n => format!(" ({n} silenced)"),
    };
    format!("{policies} in {files}: {found}{silenced}\n")
}
