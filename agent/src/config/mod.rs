//! What the agent can be told: one type, filled from a file, the environment and the command line.
//!
//! ```text
//! --config FILE   maxPods: 250       ─┐
//! environment     VETHWALL_MAX_PODS  ─┼─► by key, the last wins ─► [`Config`] ─► the agent
//! command line    --max-pods         ─┘         └─ JSON schema ─► flags and their help, the chart's values, pages
//! ```
//!
//! Invariants:
//! - A field is a key, a variable and a flag; its doc comment describes all of them.
//! - What nobody knows or makes no sense is an error that says where it stands. Nothing is guessed.

mod given;
pub mod live;

#[cfg(test)]
mod tests;
mod types;

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf};

use schemars::{JsonSchema, Schema, generate::SchemaSettings, transform::RecursiveTransform};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::{
    given::{Error, Given, GivenOfNode, Origin},
    types::{HookChoice, LogFilter, NamespaceName},
};
use crate::{
    api::{
        Mode,
        chain::ChainMode,
        settings::{ExistingConnections, OwnNodeEgress},
    },
    cri::Socket,
};

/// Everything that the agent can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Policies that do not say it themselves, nor their namespace, by the annotation `vethwall.io/mode`: `enforce` them, or
    /// `audit`: deny nothing, and tell what they would deny. A change is in force without a restart.
    pub mode: Mode,
    /// What is logged on stderr: error, warn, info, debug or trace, or a list of module=level. A change is in force without a
    /// restart.
    pub log: LogFilter,
    /// Connections that run when policy changes, and those that are older than vethwall: `rejudge` them at their next packet, or
    /// `keep` them until they end by themselves.
    pub existing_connections: ExistingConnections,
    /// What pods send to their own node: judged by `policy` like the rest, or always `allow`.
    pub own_node_egress: OwnNodeEgress,
    /// Namespaces whose pods start without enforcement while no agent answers. All others wait.
    pub fail_open_namespaces: Vec<NamespaceName>,
    /// Pods that the node may hold: the tables of connections have room for 512 each.
    pub max_pods: NonZeroU32,
    /// How programs are attached: `tcx` (Linux 6.6), `clsact`, or the `best` that the kernel has.
    pub hook: HookChoice,
    /// How the runtime comes to call the plugin: by a list of our `own`, a `dropin` file, a `patch` of flannel's list, something
    /// `external`, not at all (`off`), or as fits the runtime (`auto`).
    pub chain: ChainMode,
    /// The bridge that flannel attaches pods to.
    pub bridge: String,
    /// Where the container runtime listens: `auto`, `none`, or the path of its socket.
    pub cri_socket: Socket,
    /// The runtime's directory of network lists; without it, the runtime is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub cni_conf_dir: Option<PathBuf>,
    /// The runtime's directory of plugins; without it, the runtime is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub cni_bin_dir: Option<PathBuf>,
    /// CNI results, in which running pods are found.
    pub cni_cache: PathBuf,
    /// Take the taint `vethwall.io/agent-not-ready` off this node whenever it is steady; nodes that join with it
    /// (`--register-with-taints`) start no pod before. It takes the right to patch nodes.
    pub startup_taint: bool,
    /// Where bpffs is mounted.
    pub bpffs: PathBuf,
    /// The name of this node; without it, the host's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub node: Option<String>,
    /// The plugin's program, to install and to put back when it is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub plugin: Option<PathBuf>,
    /// Where /metrics, /livez and /readyz are served, as address:port.
    pub http: Vec<SocketAddr>,
    /// The cluster whose objects are enforced; without it, the one that the agent is a pod of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub kubeconfig: Option<PathBuf>,
    /// Whether addresses of new pods are told to other nodes before kubelet has told the API server; needs `namespace`.
    pub early_addresses: bool,
    /// The agents' namespace in the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub namespace: Option<String>,
    /// The name of this agent's pod: what it writes for other agents goes with what owns the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub pod: Option<String>,
    /// A directory of manifests to enforce, instead of a cluster's objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub manifests: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            log: LogFilter::default(),
            existing_connections: ExistingConnections::default(),
            own_node_egress: OwnNodeEgress::default(),
            fail_open_namespaces: Vec::new(),
            // kubelet's own default.
            max_pods: const { NonZeroU32::new(110).unwrap() },
            hook: HookChoice::default(),
            chain: ChainMode::default(),
            bridge: "cni0".to_owned(),
            cri_socket: Socket::default(),
            cni_conf_dir: None,
            cni_bin_dir: None,
            // libcni's own default.
            cni_cache: "/var/lib/cni/results".into(),
            startup_taint: false,
            bpffs: vethwall_common::maps::BPFFS.into(),
            node: None,
            plugin: None,
            http: Vec::new(),
            kubeconfig: None,
            early_addresses: true,
            namespace: None,
            pod: None,
            manifests: None,
        }
    }
}

/// The type as a JSON schema: draft 7, which every helm understands, and whole in one piece.
#[must_use]
pub fn schema() -> Schema {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.transforms.push(Box::new(RecursiveTransform(plain)));
    });
    settings.into_generator().into_root_schema_for::<Config>()
}

/// A choice of words as a list of them: a reader of "none of these schemas matches" learns nothing.
fn plain(schema: &mut Schema) {
    let Some(Value::Array(choices)) = schema.get("oneOf") else {
        return;
    };
    let word = |choice: &Value| choice.get("const").cloned();
    let Some(words) = choices.iter().map(word).collect::<Option<Vec<_>>>() else {
        return;
    };
    schema.remove("oneOf");
    schema.insert("type".to_owned(), "string".into());
    schema.insert("enum".to_owned(), words.into());
}
