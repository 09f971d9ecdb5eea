//! Commands over all nodes of a cluster: ask every agent for its JSON, and show it as one.

pub(crate) mod endpoints;
mod explain;
mod flows;
pub(crate) mod policies;
pub(crate) mod preflight;
mod status;
mod uninstall;

pub(crate) use self::{explain::explain, flows::flows, status::status, uninstall::uninstall};

use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Failure, Streams,
    text::{escape, paint, warn},
};
use crate::{
    api::API_VERSION,
    fleet::{Answer, Error, Fleet, NoAnswer, Target, ask},
};

/// As kubectl finds it, this program is for the cluster and not for a node.
const PLUGIN: &str = "kubectl-";

/// One node, or all of them.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Which cluster")]
pub(crate) struct Where {
    /// Ask the agents of all nodes, by kubeconfig; `kubectl vethwall` does.
    #[arg(long)]
    cluster: bool,
    /// The kubeconfig; means --cluster [default: as kubectl's].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Its context; means --cluster [default: the current one].
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Namespace of the agents; means --cluster [default: all are searched].
    #[arg(long, value_name = "NS")]
    agent_namespace: Option<String>,
}

impl Where {
    /// The cluster, or `None` for this node's agent.
    pub(crate) fn target(&self) -> Option<Target> {
        let called = std::env::args_os().next().unwrap_or_default();
        self.target_of(Path::new(&called))
    }

    fn target_of(&self, called: &Path) -> Option<Target> {
        let Self {
            cluster,
            kubeconfig,
            context,
            agent_namespace,
        } = self;
        let name = called.file_name().unwrap_or_default().to_string_lossy();
        let any = *cluster || kubeconfig.is_some() || context.is_some() || agent_namespace.is_some();
        (any || name.starts_with(PLUGIN)).then(|| Target {
            kubeconfig: kubeconfig.clone(),
            context: context.clone(),
            namespace: agent_namespace.clone(),
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = match &error {
            Error::Kubeconfig(_) => {
                "\nName it with: --kubeconfig FILE, and --context NAME. On a node, without either: vethwall status"
            }
            Error::Unreachable(_) => "\nDoes kubectl reach it? Try: kubectl get --raw /readyz",
            Error::Forbidden { .. } => {
                "\nAsk for: list pods and nodes, and create pods/exec in vethwall's namespace"
            }
            Error::Refused { .. } => "",
        };
        Self::Undecided(format!("{}{hint}", escape(&error.to_string())))
    }
}

/// The end of a node's answer: data, or why there is none.
#[derive(Clone, Debug)]
struct Node<T> {
    name: String,
    outcome: Result<T, NoAnswer>,
}

/// How a node that did not answer is told to programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Silent<'a> {
    api_version: &'static str,
    node: &'a str,
    error: &'a str,
}

impl<'a> Silent<'a> {
    fn new(node: &'a str, NoAnswer(error): &'a NoAnswer) -> Self {
        Self {
            api_version: API_VERSION,
            node,
            error,
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Failure::Output)
}

/// Finds the agents; there must be one at least.
async fn find(target: &Target, streams: &mut Streams<'_>) -> Result<Fleet, Failure> {
    let fleet = Fleet::find(target).await?;
    if fleet.agents.iter().all(|agent| agent.pod.is_none()) {
        return Err(Failure::Undecided(format!(
            "no agent of vethwall is in this cluster ({} nodes)\nInstall it with: helm install vethwall; look before with: kubectl vethwall preflight",
            fleet.agents.len()
        )));
    }
    if let Some(why) = &fleet.nodes_unknown {
        writeln!(
            streams.err,
            "{} nodes without an agent are not shown: {}",
            paint("warning:", warn()),
            escape(why)
        )?;
    }
    Ok(fleet)
}

/// Asks every agent the same.
async fn ask(fleet: &Fleet, arguments: &[&str]) -> Vec<Answer> {
    let mut words: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    words.extend(["-o", "json"].map(str::to_owned));
    fleet.ask(&words, ask::PATIENCE).await
}

/// The lines of an answer. An exit status other than yes and no has its reason on stderr.
fn lines<T: DeserializeOwned>(answer: Answer) -> Node<Vec<T>> {
    let parsed = answer.outcome.and_then(|output| {
        if !matches!(output.status, 0 | 1) {
            let why = output.err.lines().next().unwrap_or_default();
            let why = why.strip_prefix("error: ").unwrap_or(why);
            return Err(NoAnswer(format!(
                "its agent says: {why} (exit status {})",
                output.status
            )));
        }
        let each = output.out.lines().map(serde_json::from_str::<T>);
        each.collect::<Result<Vec<T>, _>>().map_err(|error| {
            NoAnswer(format!(
                "its answer is not understood, is it of another version? {error}"
            ))
        })
    });
    Node {
        name: answer.node,
        outcome: parsed,
    }
}

/// The only line of an answer.
fn line<T: DeserializeOwned>(answer: Answer) -> Node<T> {
    let Node { name, outcome } = lines(answer);
    let outcome = outcome.and_then(|lines| {
        let first = lines.into_iter().next();
        first.ok_or_else(|| NoAnswer("its agent answered nothing".to_owned()))
    });
    Node { name, outcome }
}

/// Tells which nodes did not answer; true if there are any.
fn tell_silent<T>(nodes: &[Node<T>], streams: &mut Streams<'_>) -> Result<bool, Failure> {
    let silent: Vec<_> = nodes
        .iter()
        .filter_map(|node| Some((&node.name, node.outcome.as_ref().err()?)))
        .collect();
    if silent.is_empty() {
        return Ok(false);
    }
    let answered = nodes.len() - silent.len();
    writeln!(
        streams.err,
        "{} {answered} of {} nodes answered",
        paint("warning:", warn()),
        nodes.len()
    )?;
    for (node, NoAnswer(why)) in silent {
        writeln!(streams.err, "  {}  {}", escape(node), escape(why))?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::ask::Output;

    #[test]
    fn kubectl_and_any_word_about_a_cluster_mean_the_cluster() {
        let here = Where::default();
        assert!(here.target_of(Path::new("/usr/bin/vethwall")).is_none());
        assert!(here.target_of(Path::new("/usr/bin/kubectl-vethwall")).is_some());
        let context = Where {
            context: Some("prod".to_owned()),
            ..Where::default()
        };
        let target = context.target_of(Path::new("vethwall")).unwrap();
        assert_eq!(target.context.as_deref(), Some("prod"));
    }

    fn answer(status: i32, out: &str, err: &str) -> Answer {
        let (out, err) = (out.to_owned(), err.to_owned());
        Answer {
            node: "a".to_owned(),
            outcome: Ok(Output { out, err, status }),
        }
    }

    #[test]
    fn what_is_no_answer_says_why() {
        assert_eq!(lines::<u8>(answer(1, "1\n2\n", "")).outcome.unwrap(), [1, 2]);
        let refused = lines::<u8>(answer(3, "", "error: no agent\nIs it running?\n"));
        assert_eq!(
            refused.outcome.unwrap_err().0,
            "its agent says: no agent (exit status 3)"
        );
        let strange = lines::<u8>(answer(0, "one\n", ""));
        assert!(strange.outcome.unwrap_err().0.contains("another version"));
        assert!(line::<u8>(answer(0, "", "")).outcome.is_err());
    }
}
