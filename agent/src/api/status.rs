//! The node's state: `status -o json`.

use std::net::IpAddr;

use super::{
    API_VERSION, Mode, PolicyName,
    chain::Chain,
    cluster::Cluster,
    settings::{FailurePolicy, Settings},
};
use serde::{Deserialize, Serialize};

/// The node's state, as one agent knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// [`super::API_VERSION`].
    pub api_version: String,
    /// The node's name.
    pub node: String,
    /// The manifests were read, the pods that existed were taken over, and policy is in the kernel.
    pub ready: bool,
    /// What the agent is doing.
    pub state: AgentState,
    /// How far it has taken over the node.
    #[serde(default)]
    pub phase: Phase,
    /// The agent's version.
    pub version: String,
    /// Version of the kernel maps' layout.
    pub abi: u32,
    /// How programs are attached on this kernel; unknown until the first one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<Hook>,
    /// The pods' bridge.
    pub bridge: Bridge,
    /// The sysctl `net.bridge.bridge-nf-call-iptables`; absent where br_netfilter is not loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge_nf_call_iptables: Option<bool>,
    /// Counts the changes of input that are fully in the kernel.
    pub revision: u64,
    /// Where the objects come from.
    pub manifests: Manifests,
    /// The cluster that they come from; absent where they come from a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// The pods' interfaces on this node.
    pub endpoints: Vec<Endpoint>,
    /// What was seen of interfaces beside them.
    #[serde(default)]
    pub interfaces: Interfaces,
    /// All policies.
    pub policies: Vec<Policy>,
    /// How full the kernel's maps are.
    pub maps: Vec<MapUse>,
    /// What became of the events.
    pub events: Events,
    /// What this agent was told to do where upstream leaves it open.
    #[serde(default)]
    pub settings: Settings,
    /// What becomes of pods that start while no agent answers.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// Connections that the kernel knew and the programs did not.
    #[serde(default)]
    pub connections: Connections,
    /// How the runtime comes to call our plugin.
    #[serde(default)]
    pub chain: Chain,
    /// What is wrong. Problems of manifests stand there, not here.
    pub problems: Vec<Problem>,
    /// Packets by how they ended; only those that are not zero.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counters: Vec<Counter>,
}

/// What the agent is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AgentState {
    /// Not everything is in the kernel for the first time; what was pinned before stays in force.
    #[default]
    Starting,
    /// The kernel holds what the manifests ask for.
    Enforcing,
    /// Something could not be written to the kernel; it is tried again, and what is in the kernel stays in force. Or
    /// egress beyond the pods can not be judged and is dropped where a policy isolates.
    Degraded,
}

/// How far the agent has taken over the node. Each includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Programs and maps are loaded, or adopted from an earlier agent.
    #[default]
    Loaded,
    /// The objects are known and their policy is in the kernel.
    Synced,
    /// Every pod that ran already carries the programs: the runtime may call the plugin.
    Ready,
    /// The list that names the plugin is in place, and pods that started before it was were looked for.
    Steady,
    /// vethwall was uninstalled; nothing of it is in the kernel.
    Removed,
}

impl Phase {
    /// All, in their order.
    pub const ALL: [Self; 5] = [
        Self::Loaded,
        Self::Synced,
        Self::Ready,
        Self::Steady,
        Self::Removed,
    ];

    /// One word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Synced => "synced",
            Self::Ready => "ready",
            Self::Steady => "steady",
            Self::Removed => "removed",
        }
    }
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// tcx link, kernel 6.6 and later.
    Tcx,
    /// clsact filter.
    Clsact,
}

impl Hook {
    /// `tcx` or `clsact`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// The pods' bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Its program is attached: egress to a Service is judged by the pod behind it.
    pub attached: bool,
}

/// Where the objects come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifests {
    /// The directory; empty where the objects come from a cluster.
    pub directory: String,
    /// Of the content that is fully in the kernel: `vethwall::manifests::digest`, or a cluster's last step.
    pub digest: String,
    /// How many files it has.
    pub files: usize,
    /// What is wrong with them, or with the cluster's objects. Of what can not be read the last good version stays in force.
    pub problems: Vec<ManifestProblem>,
}

/// Something wrong in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestProblem {
    /// The file, relative to the directory; or a cluster's object, `Pod shop/web`.
    pub file: String,
    /// Line, from 1; 0 where unknown.
    pub line: usize,
    /// Column, from 1; 0 where unknown.
    pub column: usize,
    /// What was expected and what stands there.
    pub message: String,
    /// Stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// A pod's interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's UID; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Index of the host-side veth.
    pub ifindex: u32,
    /// Name of the host-side veth.
    pub interface: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether its policy is in force.
    pub state: EndpointState,
    /// Towards the pod.
    pub ingress: Isolation,
    /// From the pod.
    pub egress: Isolation,
    /// How its programs are attached; absent where they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<Hook>,
    /// When the agent or the plugin took it, RFC 3339; absent where that was before this agent started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<jiff::Timestamp>,
    /// Who told that the interface is the pod's.
    #[serde(default)]
    pub found_by: FoundBy,
}

/// Who told that an interface is a pod's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FoundBy {
    /// Our plugin, when the pod started.
    #[default]
    Plugin,
    /// libcni's result cache.
    Cache,
    /// The container runtime.
    Runtime,
    /// The record that an earlier agent left in the kernel, and the pod that has its address.
    Record,
}

impl FoundBy {
    /// `plugin`, `cache`, `runtime` or `record`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plugin => "plugin",
            Self::Cache => "cache",
            Self::Runtime => "runtime",
            Self::Record => "record",
        }
    }
}

/// What was seen of interfaces that nobody announced, since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interfaces {
    /// Pods that came past the plugin: closed as they appeared, and enforced when they were identified.
    pub identified: u64,
    /// Veths on the pods' bridge that are no known pod's.
    pub strangers: Vec<Stranger>,
    /// How often changes were too many for the kernel to tell, and everything was looked at instead.
    pub lost: u64,
}

/// A veth on the pods' bridge that is no known pod's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stranger {
    /// Its name.
    pub interface: String,
    /// Nothing but ARP and neighbour discovery passes. False of what was there before the node was ready.
    pub closed: bool,
}

/// Whether an endpoint's policy is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EndpointState {
    /// Everything but ARP and neighbour discovery is dropped until the pod's policy is known and in the kernel.
    #[default]
    Pending,
    /// Its policy is in the kernel and its programs are attached.
    Enforcing,
    /// Its programs are not attached: nothing is enforced.
    Unprotected,
}

impl EndpointState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Enforcing, Self::Unprotected];

    /// `pending`, `enforcing` or `unprotected`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Enforcing => "enforcing",
            Self::Unprotected => "unprotected",
        }
    }
}

/// What isolates a pod in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Isolation {
    /// A policy in force selects the pod; without one everything is allowed.
    pub isolated: bool,
    /// The policies that select it, audited ones too.
    pub policies: Vec<PolicyName>,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// In force, or only watched.
    pub mode: Mode,
    /// How many pods of this node it selects.
    pub selects: usize,
    /// What is wrong with it. The bad part matches nothing.
    pub problems: Vec<String>,
}

/// How full a map is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapUse {
    /// Its name.
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries there can be.
    pub capacity: u64,
}

/// What became of the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Events {
    /// Read since the agent started.
    pub read: u64,
    /// Found the ring buffer full.
    pub lost: u64,
}

/// What was learnt from the kernel's connection tracking since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// Entries made for connections that are older than the programs, or that the programs had forgotten.
    pub seeded: u64,
    /// Dropped packets about which the kernel was asked.
    pub asked: u64,
    /// Dropped packets about which it was not asked: they were too many.
    pub unasked: u64,
    /// Connections to a Service whose answers were stopped, because policy denies the pod behind it.
    pub revoked: u64,
}

/// Something wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Stable code.
    pub code: String,
    /// What is wrong, a sentence.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// Something wrong, with what to do about it where that is known.
    pub fn new(code: &str, message: String, hint: Option<&str>) -> Self {
        Self {
            code: code.to_owned(),
            message,
            hint: hint.map(str::to_owned),
        }
    }
}

/// Packets that ended alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counter {
    /// `allowed`, `denied` or `audited`.
    pub verdict: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// Name of a [`vethwall_common::verdict::Reason`].
    pub reason: String,
    /// How many.
    pub packets: u64,
}

impl Status {
    /// A status with only its version filled in.
    pub fn new() -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: vethwall_common::ABI_VERSION,
            ..Self::default()
        }
    }

    /// Pods whose policy is in force.
    pub fn protected(&self) -> usize {
        self.endpoints
            .iter()
            .filter(|endpoint| endpoint.state == EndpointState::Enforcing)
            .count()
    }

    /// Nothing is left to do for anyone: what `status` answers with 0 and what the headline says.
    pub fn healthy(&self) -> bool {
        self.ready
            && self.state == AgentState::Enforcing
            && self.problems.is_empty()
            && self.manifests.problems.is_empty()
            && self.policies.iter().all(|policy| policy.problems.is_empty())
            && self.protected() == self.endpoints.len()
    }
}
