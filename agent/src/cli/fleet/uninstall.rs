//! `kubectl vethwall uninstall`: each node lets go, before the chart takes the agents away.

use std::time::Duration;

use super::{Node, find, lines, runtime, tell_silent};
use crate::{
    cli::{
        Exit, Failure, Global, Output, Streams,
        text::{escape, json_line},
    },
    fleet::Target,
};

/// The agent of each node takes its programs off within half a minute.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks every agent to take vethwall off its node.
pub(crate) fn uninstall(
    target: &Target,
    global: &Global,
    streams: &mut Streams<'_>,
) -> Result<Exit, Failure> {
    let words = ["uninstall", "-o", "json"].map(str::to_owned);
    writeln!(
        streams.err,
        "every node takes its programs off; pods are not interrupted"
    )?;
    let nodes: Result<Vec<Node<Vec<serde_json::Value>>>, Failure> = runtime()?.block_on(async {
        let fleet = find(target, streams).await?;
        Ok(fleet.ask(&words, PATIENCE).await.into_iter().map(lines).collect())
    });
    let nodes = nodes?;
    for node in &nodes {
        let Ok(removed) = &node.outcome else { continue };
        match global.output {
            Output::Json => {
                let line = serde_json::json!({"node": node.name, "removed": removed.first()});
                streams.out.write_all(json_line(&line)?.as_bytes())?;
            }
            Output::Table => writeln!(
                streams.out,
                "{}  nothing is enforced any more",
                escape(&node.name)
            )?,
        }
    }
    if tell_silent(&nodes, streams)? {
        writeln!(
            streams.err,
            "run it again when they answer; what is done stays done"
        )?;
        return Ok(Exit::Undecided);
    }
    if global.output == Output::Table {
        writeln!(
            streams.out,
            "Now take the agents away with: helm uninstall vethwall"
        )?;
    }
    Ok(Exit::Yes)
}
