//! `vethwall version`.

use clap::Args;
use serde::Serialize;

use super::{
    Exit, Failure, Global, Output, Streams,
    text::{escape, json_line, paint, warn},
};
use crate::api::{API_VERSION, Client, ClientError, Request, Response, Version};

#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0, also when no agent answers.

Examples:
  vethwall version
  vethwall version -o json")]
pub(crate) struct VersionArgs {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    api_version: &'static str,
    version: &'static str,
    abi: u32,
    agent: Option<Version>,
}

pub(crate) fn run(_: &VersionArgs, global: &Global, streams: &mut Streams<'_>) -> Result<Exit, Failure> {
    let answer = Client::ask_one(&global.run_dir, Request::Version);
    let versions = Versions {
        api_version: API_VERSION,
        version: env!("CARGO_PKG_VERSION"),
        abi: vethwall_common::ABI_VERSION,
        agent: match &answer {
            Ok(Response::Version(version)) => Some(version.clone()),
            Ok(_) | Err(_) => None,
        },
    };
    if global.output == Output::Json {
        streams.out.write_all(json_line(&versions)?.as_bytes())?;
    } else {
        streams
            .out
            .write_all(render(&versions, answer.as_ref().err()).as_bytes())?;
    }
    Ok(Exit::Yes)
}

fn render(versions: &Versions, error: Option<&ClientError>) -> String {
    let mut text = format!("vethwall v{}, map layout v{}\n", versions.version, versions.abi);
    match (&versions.agent, error) {
        (Some(agent), _) => {
            text.push_str(&format!(
                "agent    v{}, map layout v{}, on node {}\n",
                escape(&agent.version),
                agent.abi,
                escape(&agent.node)
            ));
            if agent.version != versions.version {
                text.push_str(&paint(
                    "The agent is of another version; restart it to bring it to this one.\n",
                    warn(),
                ));
            }
        }
        (None, Some(error)) => text.push_str(&format!("agent    {}\n", escape(&error.to_string()))),
        (None, None) => text.push_str("agent    gave no version\n"),
    }
    text
}
