//! Who there is to ask.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, api::ListParams};

use super::{Error, Target};

/// How the agents' pods are labelled; the chart does so.
pub const SELECTOR: &str = "app.kubernetes.io/name=vethwall,app.kubernetes.io/component=agent";

/// An agent, or its absence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// The node.
    pub node: String,
    /// Namespace and name of its pod; `None`: no pod of vethwall's is on this node.
    pub pod: Option<(String, String)>,
    /// Why its pod can not be asked, if it is known already.
    pub down: Option<String>,
}

/// The agents of a cluster.
#[derive(Clone)]
pub struct Fleet {
    pub(super) client: Client,
    /// One for each node, ordered by name.
    pub agents: Vec<Agent>,
    /// Why nodes without an agent are not among them, if the nodes could not be listed.
    pub nodes_unknown: Option<String>,
}

impl Fleet {
    /// Finds the agents.
    ///
    /// # Errors
    ///
    /// The cluster can not be reached, or its pods not be listed.
    pub async fn find(target: &Target) -> Result<Self, Error> {
        let (client, _) = target.connect().await?;
        let pods: Api<Pod> = match &target.namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let what = match &target.namespace {
            Some(namespace) => format!("pods in namespace {namespace}"),
            None => "pods in all namespaces (name the one of vethwall with --agent-namespace)".to_owned(),
        };
        let pods = pods
            .list(&ListParams::default().labels(SELECTOR))
            .await
            .map_err(|error| Error::of("list", &what, &error))?;
        let nodes: Api<Node> = Api::all(client.clone());
        let (nodes, nodes_unknown) = match nodes.list_metadata(&ListParams::default()).await {
            Ok(nodes) => (
                nodes
                    .items
                    .into_iter()
                    .filter_map(|node| node.metadata.name)
                    .collect(),
                None,
            ),
            Err(error) => (Vec::new(), Some(Error::of("list", "nodes", &error).to_string())),
        };
        Ok(Self {
            client,
            agents: agents(nodes, pods.items),
            nodes_unknown,
        })
    }
}

/// One agent for each node: of several pods, as while one replaces another, the one that runs.
fn agents(nodes: Vec<String>, pods: Vec<Pod>) -> Vec<Agent> {
    let mut agents: BTreeMap<String, Agent> = nodes
        .into_iter()
        .map(|node| {
            let agent = Agent {
                node: node.clone(),
                pod: None,
                down: None,
            };
            (node, agent)
        })
        .collect();
    for pod in pods {
        let spec = pod.spec.unwrap_or_default();
        let (Some(node), Some(name), Some(namespace)) =
            (spec.node_name, pod.metadata.name, pod.metadata.namespace)
        else {
            continue;
        };
        let status = pod.status.unwrap_or_default();
        let container = status.container_statuses.unwrap_or_default().into_iter().next();
        let state = container
            .and_then(|container| container.state)
            .unwrap_or_default();
        let waiting = state.waiting.and_then(|waiting| waiting.reason);
        let down = (state.running.is_none() || pod.metadata.deletion_timestamp.is_some()).then(|| {
            let phase = status.phase.unwrap_or_else(|| "Unknown".to_owned());
            format!(
                "its pod {namespace}/{name} does not run: {}",
                waiting.unwrap_or(phase)
            )
        });
        let agent = Agent {
            node: node.clone(),
            pod: Some((namespace, name)),
            down,
        };
        match agents.get(&node) {
            Some(Agent {
                pod: Some(_),
                down: None,
                ..
            }) => {}
            _ => _ = agents.insert(node, agent),
        }
    }
    agents.into_values().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str, running: bool) -> Pod {
        let state = match running {
            true => json!({"running": {}}),
            false => json!({"waiting": {"reason": "CrashLoopBackOff"}}),
        };
        let pod = json!({"metadata": {"name": name, "namespace": "kube-system"}, "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": running,
                "restartCount": 0, "state": state}]}});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn every_node_is_there_with_the_agent_that_runs() {
        let nodes = ["b", "a", "c"].map(str::to_owned).to_vec();
        let pods = vec![
            pod("new", "a", true),
            pod("old", "a", false),
            pod("x", "c", false),
        ];
        let all = agents(nodes, pods);
        let names: Vec<&str> = all.iter().map(|agent| agent.node.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let a = ("kube-system".to_owned(), "new".to_owned());
        assert_eq!((&all[0].pod, &all[0].down), (&Some(a), &None));
        assert_eq!(all[1].pod, None);
        assert!(all[2].down.as_ref().unwrap().contains("CrashLoopBackOff"));
    }
}
