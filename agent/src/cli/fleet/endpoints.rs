//! `vethwall endpoints`: pods and what is enforced for them, on this node or on all.

use clap::Args;
use serde::Serialize;

use super::{Node, Where, ask, find, line, runtime, tell_silent};
use crate::{
    api::{
        API_VERSION, Client, Request, Response, Status,
        status::{Endpoint, EndpointState, Isolation},
    },
    cli::{
        Exit, Failure, Global, Output, Streams, status,
        text::{self, escape, json_line},
    },
};

#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 every pod that is shown is protected, 1 some are not, 3 an agent does not answer.

Examples:
  vethwall endpoints -n shop
  kubectl vethwall endpoints -o json | jq 'select(.state != \"enforcing\")'")]
pub(crate) struct EndpointsArgs {
    /// Only pods of this namespace.
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    #[command(flatten)]
    place: Where,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    api_version: &'static str,
    node: &'a str,
    #[serde(flatten)]
    endpoint: &'a Endpoint,
}

pub(crate) fn run(args: &EndpointsArgs, global: &Global, streams: &mut Streams<'_>) -> Result<Exit, Failure> {
    let nodes = statuses(&args.place, global, streams)?;
    let mut lines: Vec<Line<'_>> = nodes
        .iter()
        .filter_map(|node| Some((&node.name, node.outcome.as_ref().ok()?)))
        .flat_map(|(node, status)| status.endpoints.iter().map(move |endpoint| (node, endpoint)))
        .filter(|(_, endpoint)| {
            args.namespace
                .as_ref()
                .is_none_or(|wanted| endpoint.namespace == *wanted)
        })
        .map(|(node, endpoint)| Line {
            api_version: API_VERSION,
            node,
            endpoint,
        })
        .collect();
    lines.sort_by_key(|line| (&line.endpoint.namespace, &line.endpoint.pod));
    let text = match global.output {
        Output::Json => lines.iter().map(json_line).collect::<Result<String, _>>()?,
        Output::Table if lines.is_empty() => "No pods.\n".to_owned(),
        Output::Table => text::table(
            &[
                "POD",
                "NODE",
                "ADDRESS",
                "INTERFACE",
                "HOOK",
                "STATE",
                "INGRESS",
                "EGRESS",
            ],
            lines.iter().map(row),
        ),
    };
    streams.out.write_all(text.as_bytes())?;
    let protected = lines
        .iter()
        .all(|line| line.endpoint.state == EndpointState::Enforcing);
    Ok(match (tell_silent(&nodes, streams)?, protected) {
        (true, _) => Exit::Undecided,
        (false, true) => Exit::Yes,
        (false, false) => Exit::No,
    })
}

/// The status of this node, or of all.
pub(super) fn statuses(
    place: &Where,
    global: &Global,
    streams: &mut Streams<'_>,
) -> Result<Vec<Node<Status>>, Failure> {
    let Some(target) = place.target() else {
        let response = Client::ask_one(&global.run_dir, Request::Status)?;
        let Response::Status(status) = response else {
            return Err(status::unexpected(global, &response).into());
        };
        return Ok(vec![Node {
            name: status.node.clone(),
            outcome: Ok(*status),
        }]);
    };
    runtime()?.block_on(async {
        let fleet = find(&target, streams).await?;
        Ok(ask(&fleet, &["status"]).await.into_iter().map(line).collect())
    })
}

fn row(line: &Line<'_>) -> Vec<String> {
    let endpoint = line.endpoint;
    let addresses: Vec<_> = endpoint.addresses.iter().map(ToString::to_string).collect();
    let side = |isolation: &Isolation| match (isolation.isolated, isolation.policies.len()) {
        (false, 0) => "open".to_owned(),
        (false, audited) => format!("open ({audited} audited)"),
        (true, policies) => format!("isolated ({policies})"),
    };
    let state = match endpoint.state {
        EndpointState::Enforcing => endpoint.state.name().to_owned(),
        EndpointState::Pending | EndpointState::Unprotected => endpoint.state.name().to_uppercase(),
    };
    vec![
        escape(&format!("{}/{}", endpoint.namespace, endpoint.pod)).into_owned(),
        escape(line.node).into_owned(),
        addresses.join(" "),
        escape(&endpoint.interface).into_owned(),
        endpoint.hook.map_or("-", |hook| hook.name()).to_owned(),
        state,
        side(&endpoint.ingress),
        side(&endpoint.egress),
    ]
}
