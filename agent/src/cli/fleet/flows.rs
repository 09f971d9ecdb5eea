//! `kubectl vethwall flows`.

use tokio::sync::mpsc;

use super::{Node, ask, find, lines, runtime, tell_silent};
use crate::{
    api::Flow,
    cli::{
        Exit, Failure, Global, Output, Streams,
        flows::{FlowsArgs, render},
        text::{escape, json_line},
    },
    fleet::{NoAnswer, Target},
};

/// Lines that may wait to be written.
const BACKLOG: usize = 256;

/// The flows of all nodes: of their histories in the order of time, of what happens as it comes.
pub(crate) fn flows(
    args: &FlowsArgs,
    target: &Target,
    global: &Global,
    streams: &mut Streams<'_>,
) -> Result<Exit, Failure> {
    let arguments = args.words();
    let runtime = runtime()?;
    if args.follow {
        return runtime.block_on(follow(&arguments, target, global, streams));
    }
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let nodes: Result<Vec<Node<Vec<Flow>>>, Failure> = runtime.block_on(async {
        let fleet = find(target, streams).await?;
        Ok(ask(&fleet, &words).await.into_iter().map(lines).collect())
    });
    let nodes = nodes?;
    let mut flows: Vec<&Flow> = nodes
        .iter()
        .filter_map(|node| node.outcome.as_ref().ok())
        .flatten()
        .collect();
    flows.sort_by_key(|flow| flow.time);
    let first = args.last.map_or(0, |last| flows.len().saturating_sub(last));
    for flow in &flows[first..] {
        write(flow, global, streams)?;
    }
    let silent = tell_silent(&nodes, streams)?;
    if flows.is_empty() && !silent {
        writeln!(streams.err, "No flow of any node's history matches.")?;
    }
    Ok(if silent { Exit::Undecided } else { Exit::Yes })
}

async fn follow(
    arguments: &[String],
    target: &Target,
    global: &Global,
    streams: &mut Streams<'_>,
) -> Result<Exit, Failure> {
    let fleet = find(target, streams).await?;
    let mut words = arguments.to_vec();
    words.extend(["-o", "json"].map(str::to_owned));
    let (sender, mut lines) = mpsc::channel(BACKLOG);
    let asking = tokio::spawn(async move { fleet.follow(&words, sender).await });
    while let Some(line) = lines.recv().await {
        let parsed = line.text.and_then(|text| {
            serde_json::from_str::<Flow>(&text).map_err(|error| {
                NoAnswer(format!(
                    "an answer is not understood, is it of another version? {error}"
                ))
            })
        });
        match parsed {
            Ok(flow) => {
                write(&flow, global, streams)?;
                streams.out.flush()?;
            }
            Err(NoAnswer(why)) => writeln!(streams.err, "{}: {}", escape(&line.node), escape(&why))?,
        }
    }
    asking.abort();
    // Followed to the end of every node: they all went away.
    Ok(Exit::Undecided)
}

fn write(flow: &Flow, global: &Global, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let text = match global.output {
        Output::Json => json_line(flow)?,
        Output::Table => render(flow),
    };
    streams.out.write_all(text.as_bytes())?;
    Ok(())
}
