//! The values of the chart.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::agent_schema;

/// Something of Kubernetes' own, which the API server looks at.
type Object = Map<String, Value>;

/// Values of the chart vethwall. Nothing has to be set.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Values {
    /// Where the nodes keep their CNI directories and runtime: `generic` is kubeadm's way, `auto` tells `k3s` from it by its version.
    #[schemars(schema_with = "platform")]
    pub platform: String,
    /// The agent's image.
    pub image: Image,
    /// Secrets to pull the image with, `[{name: NAME}]`.
    pub image_pull_secrets: Vec<Object>,
    /// The agents' configuration.
    #[schemars(schema_with = "config")]
    pub config: Object,
    /// Of every container. A CPU limit would delay the start of pods.
    pub resources: Object,
    /// A class that is not evicted for others.
    pub priority_class_name: String,
    /// Of the agents' pods: every node is to have one.
    pub tolerations: Vec<Object>,
    /// Nodes that get an agent; on the others nothing is enforced.
    pub node_selector: BTreeMap<String, String>,
    /// As `nodeSelector`, in more words.
    pub affinity: Object,
    /// Agents that an upgrade may replace at a time, a number or a share.
    #[schemars(extend("type" = ["integer", "string"], "pattern" = "^[0-9]+%$", "minimum" = 1))]
    pub max_unavailable: Value,
    /// Further labels of the agents' pods.
    pub pod_labels: BTreeMap<String, String>,
    /// Further annotations of the agents' pods.
    pub pod_annotations: BTreeMap<String, String>,
    /// Further environment of the agent, for instance KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT where the API server is to
    /// be found without kube-proxy.
    pub extra_env: Vec<Object>,
    /// Capabilities beside BPF, NET_ADMIN and PERFMON: SYS_RESOURCE on Linux 5.10, where maps count as locked memory.
    #[schemars(schema_with = "capabilities")]
    pub extra_capabilities: Vec<String>,
    /// Of every container, where SELinux is enforcing: `{type: spc_t}`.
    pub se_linux_options: Object,
    /// Port of the agent's probes, on the node's loopback only.
    #[schemars(range(min = 1, max = 65535))]
    pub probe_port: u16,
    /// How the agents are observed.
    pub metrics: Metrics,
    /// What `helm uninstall` does.
    pub uninstall: Uninstall,
}

/// The agent's image.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    /// Where it is pulled from.
    #[schemars(length(min = 1))]
    pub repository: String,
    /// Its tag; without one, the chart's version.
    pub tag: String,
    /// `sha256:...`, which counts more than the tag.
    #[schemars(regex(pattern = r"^(sha256:[0-9a-f]{64})?$"))]
    pub digest: String,
    /// When it is pulled.
    #[schemars(extend("enum" = ["Always", "IfNotPresent", "Never"]))]
    pub pull_policy: String,
}

/// What Prometheus and Grafana are given.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metrics {
    /// Serve /metrics. Whoever reaches the node can read it: numbers, and no pod's name.
    pub enabled: bool,
    /// Where it is served on each node; `[::]` for both families.
    #[schemars(length(min = 1))]
    pub address: String,
    /// At which port of the node.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    pub pod_monitor: PodMonitor,
    pub prometheus_rule: Extra,
    pub dashboard: Extra,
}

/// For the Prometheus operator.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodMonitor {
    /// Make a PodMonitor, for the Prometheus operator.
    pub enabled: bool,
    /// Labels by which a Prometheus chooses it.
    pub labels: BTreeMap<String, String>,
    /// How often agents are asked.
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h)$"))]
    pub interval: String,
}

/// Something more to make.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Extra {
    /// Make it: alerts as a PrometheusRule, or a Grafana dashboard in a ConfigMap.
    pub enabled: bool,
    /// Labels by which it is found.
    pub labels: BTreeMap<String, String>,
}

/// What `helm uninstall` does on the nodes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Uninstall {
    /// `helm uninstall` takes vethwall off every node first. Without it nodes stay as they are, and new pods wait for an agent.
    pub enabled: bool,
    /// How long it waits for all nodes before it fails and says which are left; less than helm's own --timeout.
    #[schemars(range(min = 10, max = 3600))]
    pub timeout_seconds: u32,
}

fn platform(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["auto", "generic", "k3s", "microk8s"]})
}

fn capabilities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {"type": "string", "pattern": "^[A-Z_]+$"}})
}

fn config(_: &mut SchemaGenerator) -> Schema {
    agent_schema().into()
}
