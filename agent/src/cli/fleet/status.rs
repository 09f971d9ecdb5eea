//! `kubectl vethwall status`.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use super::{Node, Silent, ask, find, line, runtime};
use crate::{
    api::{
        Status,
        status::{AgentState, Phase},
    },
    cli::{
        Exit, Failure, Global, Output, Streams,
        text::{self, bad, count, escape, good, json_line, paint, strong, wrap},
    },
    fleet::{NoAnswer, Target},
};

/// Between two rounds of waiting.
const PAUSE: Duration = Duration::from_secs(2);

/// Shows all nodes; with a `patience` only when all are well, or it is over.
pub(crate) fn status(
    target: &Target,
    patience: Option<Duration>,
    global: &Global,
    streams: &mut Streams<'_>,
) -> Result<Exit, Failure> {
    let runtime = runtime()?;
    let deadline = patience.map(|patience| Instant::now() + patience);
    let mut told = String::new();
    let nodes = loop {
        let nodes: Result<Vec<Node<Status>>, Failure> = runtime.block_on(async {
            let fleet = find(target, streams).await?;
            Ok(ask(&fleet, &["status"]).await.into_iter().map(line).collect())
        });
        let over = deadline.is_none_or(|deadline| Instant::now() + PAUSE >= deadline);
        match nodes {
            Ok(nodes) if over || verdict(&nodes) == Exit::Yes => break nodes,
            Ok(nodes) => {
                let waits = waiting(&nodes);
                if waits != told {
                    writeln!(streams.err, "waiting: {waits}")?;
                    told = waits;
                }
            }
            Err(failure) if over => return Err(failure),
            // Just installed: its pods may not be there yet.
            Err(_) => {}
        }
        thread::sleep(PAUSE);
    };
    match global.output {
        Output::Json => {
            for node in &nodes {
                let text = match &node.outcome {
                    Ok(status) => json_line(status)?,
                    Err(why) => json_line(&Silent::new(&node.name, why))?,
                };
                streams.out.write_all(text.as_bytes())?;
            }
        }
        Output::Table => streams.out.write_all(render(&nodes).as_bytes())?,
    }
    Ok(verdict(&nodes))
}

fn verdict(nodes: &[Node<Status>]) -> Exit {
    if nodes.iter().any(|node| node.outcome.is_err()) {
        Exit::Undecided
    } else if nodes.iter().all(|node| well(node.outcome.as_ref().ok())) {
        Exit::Yes
    } else {
        Exit::No
    }
}

/// Healthy, and chained.
fn well(status: Option<&Status>) -> bool {
    status.is_some_and(|status| status.healthy() && matches!(status.phase, Phase::Steady))
}

fn waiting(nodes: &[Node<Status>]) -> String {
    let unwell = nodes.iter().filter(|node| !well(node.outcome.as_ref().ok()));
    let each = unwell.take(3).map(|node| {
        let what = match &node.outcome {
            Ok(status) => match status.problems.first() {
                Some(problem) => problem.code.clone(),
                None => format!("phase {}", status.phase.name()),
            },
            Err(NoAnswer(why)) => why.clone(),
        };
        escape(&format!("{}: {what}", node.name)).into_owned()
    });
    let well = nodes
        .iter()
        .filter(|node| well(node.outcome.as_ref().ok()))
        .count();
    format!(
        "{well} of {} nodes are well; {}",
        nodes.len(),
        each.collect::<Vec<_>>().join(", ")
    )
}

fn render(nodes: &[Node<Status>]) -> String {
    let answers: Vec<&Status> = nodes
        .iter()
        .filter_map(|node| node.outcome.as_ref().ok())
        .collect();
    let pods: usize = answers.iter().map(|status| status.endpoints.len()).sum();
    let protected: usize = answers.iter().map(|status| status.protected()).sum();
    let word = match verdict(nodes) {
        Exit::Yes => paint("healthy", good()),
        Exit::Undecided => paint("NOT ALL ANSWER", bad()),
        Exit::No | Exit::Usage => paint("PROBLEMS", bad()),
    };
    let mut out = format!(
        "vethwall · {word} · {}/{} nodes answer · pods protected {protected}/{pods}\n\n",
        answers.len(),
        nodes.len()
    );
    let rows = nodes.iter().map(|node| match &node.outcome {
        Ok(status) => row(status),
        Err(_) => {
            let mut cells = vec![escape(&node.name).into_owned(), "NO ANSWER".to_owned()];
            cells.resize(HEADER.len(), "-".to_owned());
            cells
        }
    });
    let table = text::table(&HEADER, rows);
    let (header, rows) = table.split_once('\n').unwrap_or((&table, ""));
    out.push_str(&format!("{}\n{rows}", paint(header, strong())));
    out.push_str(&silent(nodes));
    out.push_str(&problems(&answers));
    out
}

const HEADER: [&str; 8] = [
    "NODE", "AGENT", "PHASE", "HOOK", "CHAIN", "PODS", "POLICIES", "DENIED",
];

fn row(status: &Status) -> Vec<String> {
    let agent = match (status.state, status.healthy()) {
        (_, true) => "healthy",
        (AgentState::Starting, _) => "STARTING",
        (AgentState::Degraded, _) => "DEGRADED",
        (AgentState::Enforcing, false) => "PROBLEMS",
    };
    let denied = status
        .counters
        .iter()
        .filter(|counter| counter.verdict == "denied");
    vec![
        escape(&status.node).into_owned(),
        agent.to_owned(),
        status.phase.name().to_owned(),
        status.hook.map_or("-", |hook| hook.name()).to_owned(),
        format!("{} {}", status.chain.mode.name(), status.chain.state.name()),
        format!("{}/{}", status.protected(), status.endpoints.len()),
        status.policies.len().to_string(),
        denied.map(|counter| counter.packets).sum::<u64>().to_string(),
    ]
}

fn silent(nodes: &[Node<Status>]) -> String {
    let mut list = String::new();
    let mut number = 0;
    for node in nodes {
        if let Err(NoAnswer(why)) = &node.outcome {
            number += 1;
            list.push_str(&wrap(&escape(why), &format!("  {}  ", escape(&node.name)), 4));
        }
    }
    if number == 0 {
        return list;
    }
    format!("\n{}\n{list}", paint(format!("No answer ({number})"), bad()))
}

/// Each once, with the nodes that have it.
fn problems(answers: &[&Status]) -> String {
    let mut all: BTreeMap<(&str, &str, Option<&str>), Vec<&str>> = BTreeMap::new();
    for status in answers {
        for problem in &status.problems {
            let key = (
                problem.code.as_str(),
                problem.message.as_str(),
                problem.hint.as_deref(),
            );
            all.entry(key).or_default().push(&status.node);
        }
        for problem in &status.manifests.problems {
            let code = problem.code.as_deref().unwrap_or("MANIFEST");
            all.entry((code, &problem.message, None))
                .or_default()
                .push(&status.node);
        }
    }
    if all.is_empty() {
        return String::new();
    }
    let mut out = format!("\n{}\n", paint(format!("Problems ({})", all.len()), bad()));
    for ((code, message, hint), nodes) in all {
        let on = match nodes.len() {
            n if n == answers.len() && n > 1 => "all nodes".to_owned(),
            n if n > 3 => format!(
                "{} and {}",
                nodes[..2].join(", "),
                count(n - 2, "other", "others")
            ),
            _ => nodes.join(", "),
        };
        let first = format!("  {}  ", escape(code));
        let indent = first.chars().count();
        out.push_str(&wrap(&escape(&format!("{on}: {message}")), &first, indent));
        if let Some(hint) = hint {
            out.push_str(&wrap(&escape(hint), &" ".repeat(indent), indent));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::Problem;

    fn node(name: &str, problems: &[&str]) -> Node<Status> {
        let mut status = Status::new();
        status.node = name.to_owned();
        (status.ready, status.state, status.phase) = (true, AgentState::Enforcing, Phase::Steady);
        let problem = |code: &&str| Problem::new(code, "something is wrong".to_owned(), None);
        status.problems = problems.iter().map(problem).collect();
        Node {
            name: name.to_owned(),
            outcome: Ok(status),
        }
    }

    fn dead(name: &str) -> Node<Status> {
        Node {
            name: name.to_owned(),
            outcome: Err(NoAnswer("no agent is on this node".to_owned())),
        }
    }

    #[test]
    fn one_node_without_an_answer_is_doubt() {
        assert_eq!(verdict(&[node("a", &[]), node("b", &[])]), Exit::Yes);
        assert_eq!(verdict(&[node("a", &[]), node("b", &["CNI003"])]), Exit::No);
        assert_eq!(verdict(&[node("a", &["CNI003"]), dead("b")]), Exit::Undecided);
        let text = anstream::adapter::strip_str(&render(&[node("a", &[]), dead("b")])).to_string();
        assert!(
            text.contains("NOT ALL ANSWER") && text.contains("1/2 nodes answer"),
            "{text}"
        );
        assert!(text.contains("b  no agent is on this node"), "{text}");
    }

    #[test]
    fn a_problem_of_all_is_told_once() {
        let text = render(&[node("a", &["CNI003"]), node("b", &["CNI003", "KRN001"])]);
        let text = anstream::adapter::strip_str(&text).to_string();
        assert!(text.contains("Problems (2)"), "{text}");
        assert!(text.contains("CNI003  all nodes: something is wrong"), "{text}");
        assert!(text.contains("KRN001  b: something is wrong"), "{text}");
    }
}
