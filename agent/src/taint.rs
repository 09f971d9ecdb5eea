//! The taint that keeps pods off a node which joins, until it is steady. Only where the agent is told to take it away.
//!
//! ```text
//! thread "taint": steady? ─ asked of thread "node" ─► node's taints ─ without ours ─► patch, if they are still the same
//! ```
//!
//! It looks again now and then: a node that was deleted joins anew, with its taint.

use std::{
    sync::mpsc::Sender,
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::oneshot;
use tracing::info;

use crate::{api::status::Phase, cluster::Place, node::Input};

/// The taint's key; its value and effect are whoever's who sets it.
pub const KEY: &str = "vethwall.io/agent-not-ready";

/// Between two questions whether the node is steady.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at a steady node.
const LOOK: Duration = Duration::from_secs(30);

/// The taints that stay, if ours is among them.
fn without(taints: &[Taint]) -> Option<Vec<Taint>> {
    let rest: Vec<Taint> = taints.iter().filter(|taint| taint.key != KEY).cloned().collect();
    (rest.len() < taints.len()).then_some(rest)
}

/// Takes the taint off the node; false where it has none. Nothing is changed if somebody else changes taints meanwhile.
async fn lift(client: Client, node: &str) -> Result<bool, kube::Error> {
    let nodes: Api<Node> = Api::all(client);
    // Rights to list are there anyway; to get would be one more.
    let this = ListParams::default().fields(&format!("metadata.name={node}"));
    let Some(found) = nodes.list(&this).await?.items.pop() else {
        return Ok(false);
    };
    let taints = found.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let Some(rest) = without(&taints) else {
        return Ok(false);
    };
    // With its version, so that a taint which comes meanwhile is not lost: a conflict is looked at again.
    let patch = json!({
        "metadata": {"resourceVersion": found.metadata.resource_version},
        "spec": {"taints": rest},
    });
    nodes
        .patch(node, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(true)
}

/// Whether the node's thread says that new pods are protected; `None` when it has ended.
fn is_steady(node: &Sender<Input>) -> Option<bool> {
    let (reply, answer) = oneshot::channel();
    node.send(Input::Status(reply)).ok()?;
    answer
        .blocking_recv()
        .ok()
        .map(|status| status.phase == Phase::Steady)
}

/// Starts the thread.
///
/// # Errors
/// The process may start no thread.
pub fn spawn(name: String, cluster: Place, node: Sender<Input>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // A client for each look: they are rare, and credentials are replaced.
    let look = move |name: &str| {
        runtime.block_on(async {
            let client = cluster.client().await?;
            lift(client, name).await.map_err(|error| error.to_string())
        })
    };
    let run = move || {
        let mut next = Instant::now();
        loop {
            thread::sleep(PAUSE);
            match is_steady(&node) {
                None => return,
                Some(false) => {
                    next = Instant::now();
                    continue;
                }
                Some(true) if Instant::now() < next => continue,
                Some(true) => {}
            }
            next = Instant::now() + LOOK;
            let looked = look(&name);
            if looked == Ok(true) {
                info!("the node is steady, and its taint {KEY} is gone");
            }
            if node.send(Input::Taint(looked.map(drop))).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("taint".to_owned())
        .spawn(run)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_taint_goes() {
        let taint = |key: &str, effect: &str| Taint {
            key: key.to_owned(),
            effect: effect.to_owned(),
            ..Taint::default()
        };
        assert_eq!(without(&[]), None);
        let other = taint("node.kubernetes.io/not-ready", "NoSchedule");
        assert_eq!(without(std::slice::from_ref(&other)), None);
        let all = [taint(KEY, "NoSchedule"), other.clone(), taint(KEY, "NoExecute")];
        assert_eq!(without(&all), Some(vec![other]));
    }
}
