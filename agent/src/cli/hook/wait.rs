//! Waits until each node's pod of a DaemonSet is ready, and says which nodes are left.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ContainerStatus, Pod},
};
use kube::{Api, api::ListParams};
use tokio::time::timeout;

use super::super::{Exit, Failure, Streams, text::escape};
use crate::cluster::Place;

const PAUSE: Duration = Duration::from_secs(1);
/// For one question.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Where it is.
    #[arg(long, value_name = "NAME")]
    namespace: String,
    /// Its name.
    #[arg(long, value_name = "NAME")]
    daemonset: String,
    /// For how long.
    #[arg(long, value_name = "N")]
    seconds: u64,
}

pub(super) fn run(args: &WaitArgs, streams: &mut Streams<'_>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let deadline = Instant::now() + Duration::from_secs(args.seconds);
    let mut told = BTreeSet::new();
    loop {
        let left = match runtime.block_on(in_time(args)) {
            Ok((daemonset, pods)) => left(&daemonset, &pods),
            Err(error) => Some(BTreeSet::from([format!(
                "the API server was asked in vain: {error}"
            )])),
        };
        match left {
            Some(left) if left.is_empty() => {
                writeln!(streams.out, "every node is done")?;
                return Ok(Exit::Yes);
            }
            Some(left) => {
                for line in left.difference(&told) {
                    writeln!(streams.out, "{}", escape(line))?;
                }
                told = left;
            }
            None => {}
        }
        if Instant::now() >= deadline {
            let left: Vec<&str> = told.iter().map(String::as_str).collect();
            return Err(Failure::Agent(format!(
                "not every node was done within {} s:\n{}\nMend these nodes, or delete those that will not come back, and run helm uninstall again; \
                 with --no-hooks they stay as they are",
                args.seconds,
                escape(&left.join("\n"))
            )));
        }
        thread::sleep(PAUSE);
    }
}

/// A connection that hangs must not outlast the time that there is.
async fn in_time(args: &WaitArgs) -> Result<(DaemonSet, Vec<Pod>), String> {
    timeout(PATIENCE, ask(args))
        .await
        .unwrap_or_else(|_| Err("no answer".to_owned()))
}

/// The DaemonSet and its pods. The client is made anew each time: this is short, and the token may be replaced.
async fn ask(args: &WaitArgs) -> Result<(DaemonSet, Vec<Pod>), String> {
    let client = Place::InCluster.client().await?;
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), &args.namespace);
    let pods: Api<Pod> = Api::namespaced(client, &args.namespace);
    let daemonset = sets
        .get(&args.daemonset)
        .await
        .map_err(|error| error.to_string())?;
    let selector = daemonset.spec.selector.match_labels.clone();
    let labels: Vec<String> = selector
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let of_it = ListParams::default().labels(&labels.join(","));
    let pods = pods.list(&of_it).await.map_err(|error| error.to_string())?;
    Ok((daemonset, pods.items))
}

/// What is left, a line for each pod that is not ready; `None` while its controller has not said for how many nodes it is.
fn left(daemonset: &DaemonSet, pods: &[Pod]) -> Option<BTreeSet<String>> {
    let status = daemonset.status.as_ref()?;
    if status.observed_generation < daemonset.metadata.generation {
        return None;
    }
    let mut left: BTreeSet<String> = pods.iter().filter_map(unready).collect();
    let missing = status.desired_number_scheduled - status.number_ready;
    if missing > 0 && left.is_empty() {
        left.insert(format!("{missing} nodes have no pod of it yet"));
    }
    Some(left)
}

fn unready(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref();
    let mut conditions = status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten();
    if conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True") {
        return None;
    }
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let node = node.unwrap_or("a node that it is not bound to yet");
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let all = status.map(|status| [&status.init_container_statuses, &status.container_statuses]);
    let why = all.into_iter().flatten().flatten().flatten().find_map(why);
    Some(format!(
        "{node}: pod {name}: {}",
        why.unwrap_or_else(|| "not started".to_owned())
    ))
}

/// What keeps a container from running.
fn why(container: &ContainerStatus) -> Option<String> {
    let ended = |state: Option<&k8s_openapi::api::core::v1::ContainerState>| {
        let ended = state?.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
        Some(format!("{} ended with {}", container.name, ended.exit_code))
    };
    let state = container.state.as_ref();
    let waits = || {
        let waiting = state?.waiting.as_ref()?;
        let reason = waiting
            .reason
            .as_deref()
            .filter(|reason| *reason != "PodInitializing")?;
        Some(
            format!("{reason} {}", waiting.message.as_deref().unwrap_or_default())
                .trim()
                .to_owned(),
        )
    };
    let works = || {
        state?
            .running
            .as_ref()
            .map(|_| format!("{} is at work", container.name))
    };
    ended(state)
        .or_else(|| ended(container.last_state.as_ref()))
        .or_else(waits)
        .or_else(works)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn daemonset(generation: i64, observed: i64, desired: i32, ready: i32) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "generation": generation},
            "spec": {"selector": {}, "template": {}},
            "status": {"observedGeneration": observed, "desiredNumberScheduled": desired, "numberReady": ready,
                       "currentNumberScheduled": desired, "numberMisscheduled": 0}
        }))
        .unwrap()
    }

    fn pod(node: Option<&str>, ready: bool, container: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "d-1"},
            "spec": {"containers": [], "nodeName": node},
            "status": {
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
                "initContainerStatuses": [container],
            }
        }))
        .unwrap()
    }

    fn container(state: serde_json::Value, last: serde_json::Value) -> serde_json::Value {
        json!({"name": "uninstall", "image": "", "imageID": "", "ready": false, "restartCount": 1, "state": state, "lastState": last})
    }

    #[test]
    fn it_is_done_when_every_node_is_and_not_before_their_number_is_known() {
        let unseen = DaemonSet {
            status: None,
            ..daemonset(1, 1, 0, 0)
        };
        assert_eq!(left(&unseen, &[]), None);
        assert_eq!(left(&daemonset(2, 1, 3, 3), &[]), None, "of another generation");
        assert_eq!(
            left(&daemonset(1, 1, 0, 0), &[]),
            Some(BTreeSet::new()),
            "no node"
        );
        let good = pod(Some("a"), true, container(json!({}), json!({})));
        assert_eq!(
            left(&daemonset(1, 1, 1, 1), std::slice::from_ref(&good)),
            Some(BTreeSet::new())
        );
        let some = left(&daemonset(1, 1, 3, 1), &[good]).unwrap();
        assert_eq!(some.first().unwrap(), "2 nodes have no pod of it yet");
    }

    #[test]
    fn who_is_left_is_named_with_the_reason() {
        for (node, state, last, expected) in [
            (
                Some("b"),
                json!({"running": {}}),
                json!({}),
                "b: pod d-1: uninstall is at work",
            ),
            (
                Some("b"),
                json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}),
                json!({"terminated": {"exitCode": 1}}),
                "b: pod d-1: uninstall ended with 1",
            ),
            (
                Some("b"),
                json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}),
                json!({}),
                "b: pod d-1: ImagePullBackOff no such image",
            ),
            (
                None,
                json!({}),
                json!({}),
                "a node that it is not bound to yet: pod d-1: not started",
            ),
        ] {
            let pods = [pod(node, false, container(state, last))];
            let left = left(&daemonset(1, 1, 2, 1), &pods).unwrap();
            assert_eq!(left.into_iter().collect::<Vec<_>>(), [expected]);
        }
    }
}
