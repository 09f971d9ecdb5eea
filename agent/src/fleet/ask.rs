//! One question to every agent.

use std::{io, time::Duration};

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{AttachParams, AttachedProcess},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader},
    sync::mpsc,
    time::timeout,
};

use super::{Agent, Fleet, connect::Error};
use crate::cluster::connect::cause;

/// The container of an agent's pod; the chart names it so.
const CONTAINER: &str = "agent";
/// What an agent that is well needs at most, to the end of its answer.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// No answer of one node is larger; beyond it somebody is at work whom nobody should read.
const LARGEST: u64 = 64 << 20;

/// Why a node did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAnswer(pub String);

/// What one node answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The node.
    pub node: String,
    /// What the command wrote to stdout and stderr, and its exit status.
    pub outcome: Result<Output, NoAnswer>,
}

/// How a command ended on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
    /// Its exit status.
    pub status: i32,
}

/// A line of one node, while the command goes on.
#[derive(Clone, Debug)]
pub struct Line {
    /// The node.
    pub node: String,
    /// The line without its end, or why there will be no more.
    pub text: Result<String, NoAnswer>,
}

impl Fleet {
    /// Runs a command of `vethwall` on every node at once, each for at most `patience`.
    pub async fn ask(&self, arguments: &[String], patience: Duration) -> Vec<Answer> {
        let each = self.agents.iter().map(async |agent| Answer {
            node: agent.node.clone(),
            outcome: match timeout(patience, self.run(agent, arguments)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(NoAnswer(format!("no answer within {} s", patience.as_secs()))),
            },
        });
        join_all(each).await
    }

    /// Runs a command that goes on, on every node. Ends when each of them has ended, or nobody listens any more.
    pub async fn follow(&self, arguments: &[String], lines: mpsc::Sender<Line>) {
        let each = self.agents.iter().map(async |agent| {
            let tell = async |text| {
                let node = agent.node.clone();
                lines.send(Line { node, text }).await.is_ok()
            };
            let ended = match self.start(agent, arguments).await {
                Err(error) => error,
                Ok(mut process) => match process.stdout() {
                    None => NoAnswer("its output can not be read".to_owned()),
                    Some(out) => {
                        let mut out = BufReader::new(out).lines();
                        loop {
                            match out.next_line().await {
                                Ok(Some(line)) => {
                                    if !tell(Ok(line)).await {
                                        return;
                                    }
                                }
                                Ok(None) => break NoAnswer("the connection to its agent ended".to_owned()),
                                Err(error) => break NoAnswer(error.to_string()),
                            }
                        }
                    }
                },
            };
            tell(Err(ended)).await;
        });
        join_all(each).await;
    }

    async fn start(&self, agent: &Agent, arguments: &[String]) -> Result<AttachedProcess, NoAnswer> {
        let Some((namespace, name)) = &agent.pod else {
            return Err(NoAnswer("no agent is on this node".to_owned()));
        };
        if let Some(why) = &agent.down {
            return Err(NoAnswer(why.clone()));
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut command = vec!["vethwall".to_owned()];
        command.extend_from_slice(arguments);
        let parameters = AttachParams::default().stdin(false).container(CONTAINER);
        pods.exec(name, command, &parameters).await.map_err(|error| {
            let what = format!("pods/exec of {namespace}/{name}");
            NoAnswer(if matches!(error, kube::Error::Api(_)) {
                Error::of("create", &what, &error).to_string()
            } else {
                format!("{what}: {}", cause(&error))
            })
        })
    }

    async fn run(&self, agent: &Agent, arguments: &[String]) -> Result<Output, NoAnswer> {
        let mut process = self.start(agent, arguments).await?;
        let status = process.take_status();
        let (out, err) = (process.stdout(), process.stderr());
        let (out, err) = tokio::join!(text(out), text(err));
        let broken = |error: io::Error| NoAnswer(format!("its answer can not be read: {error}"));
        let (out, err) = (out.map_err(broken)?, err.map_err(broken)?);
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        let Some(status) = status else {
            return Err(NoAnswer("the connection to its agent broke".to_owned()));
        };
        let code = match status.status.as_deref() {
            Some("Success") => Some(0),
            _ => exit_code(&status),
        };
        match code {
            Some(status) => Ok(Output { out, err, status }),
            None => Err(NoAnswer(
                status
                    .message
                    .unwrap_or_else(|| "the command could not be run".to_owned()),
            )),
        }
    }
}

async fn text(stream: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let mut text = String::new();
    if let Some(stream) = stream {
        let read = stream.take(LARGEST).read_to_string(&mut text).await?;
        if read as u64 == LARGEST {
            return Err(io::Error::other("it is too long"));
        }
    }
    Ok(text)
}

/// The exit status of a command that ran and failed (`NonZeroExitCode` with a cause `ExitCode`, k8s.io/apimachinery
/// pkg/util/remotecommand).
fn exit_code(status: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Status) -> Option<i32> {
    let causes = status.details.as_ref()?.causes.as_ref()?;
    let cause = causes
        .iter()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"))?;
    cause.message.as_ref()?.parse().ok()
}
