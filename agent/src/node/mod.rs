//! The node's side: one thread that owns the world, and what feeds it.
//!
//! ```text
//! manifests ─► objects ─┐
//! cni.sock ──► ADD, DEL ├─► Node (one thread) ─► Control: world ─ compile ─ plan ─► maps
//! CNI cache ─► pods ────┤       │  └─ attach, detach, bridge
//! kernel ────► interfaces┤      └─► names ─► flows
//! runtime ───► pods ─────┤
//! agent.sock ► questions┘
//! ```
//!
//! Invariants:
//! - Only [`control::Control`] writes the maps, and only after the first complete set of objects: what an earlier agent
//!   pinned stays in force until then.
//! - A pod that runs gets its records before its programs, so nothing it may do is cut; a new pod gets its programs
//!   (from the plugin) before its records, so nothing it may not do passes.

pub mod asked;
pub mod connections;
pub mod control;
mod early;
mod enforcers;
pub mod existing;
pub mod flannel;
mod health;
mod hooks;
pub mod links;
pub(crate) mod problems;
mod settings;
mod strangers;
pub(crate) mod surroundings;
pub mod thread;
mod versions;
mod waiting;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use tokio::sync::oneshot;
use vethwall_cni::proto;
use vethwall_common::event::Event;
use vethwall_datapath::LinkChange;
use vethwall_policy::{
    model::Object,
    world::{Change, Claim},
};

use crate::api::{
    ErrorBody, Mode, PolicyName,
    explain::{ExplainRequest, Explanation},
    status::{ManifestProblem, Problem, Status},
};
use crate::cri::{client, view::Sandbox};

/// The objects as they are now.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// The objects.
    pub content: Content,
    /// What is wrong with policies that are in force as far as they can be.
    pub policy_problems: BTreeMap<PolicyName, Vec<String>>,
    /// The directory that they come from; empty where they come from a cluster.
    pub directory: String,
    /// Names the content that they were made of: a digest of the directory, or the number of the step that a cluster took.
    pub digest: String,
    /// How many files there are.
    pub files: usize,
    /// What is wrong with the files, or with the cluster's objects.
    pub problems: Vec<ManifestProblem>,
    /// Why these can not be everything: a file that was never readable may hold a policy. Nothing is enforced anew
    /// while this is so, and no pod is let in.
    pub incomplete: Option<String>,
}

/// Objects, or what changed in them.
#[derive(Clone, Debug)]
pub enum Content {
    /// All there are.
    All(Vec<Object>),
    /// What changed since the last ones, in this order; to be in force in one.
    Changes(Vec<Change>),
}

impl Default for Content {
    fn default() -> Self {
        Self::Changes(Vec::new())
    }
}

/// What a configuration says while the agent runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// The mode of policies that have none of their own.
    pub mode: Mode,
    /// What is wrong with it, or waits for a restart.
    pub problems: Vec<Problem>,
}

/// What the thread is asked.
#[derive(Debug)]
pub enum Input {
    /// The objects changed.
    Objects(Box<Objects>),
    /// Addresses of new pods, as their node tells them.
    Early(Change),
    /// What of this node's is written for others to read, or why it is not.
    Published(Result<BTreeSet<Claim>, String>),
    /// That the other nodes' are listened to, or why not.
    Heard(Result<(), String>),
    /// A pod's interface is attached and waits for its policy.
    Add(proto::AddRequest, oneshot::Sender<proto::Response>),
    /// A pod goes.
    Del(proto::DelRequest, oneshot::Sender<proto::Response>),
    /// Would an ADD be served?
    CniStatus(oneshot::Sender<proto::Response>),
    /// Interfaces came, changed or went; or that can not be told any more, and why.
    Links(Result<Vec<LinkChange>, String>),
    /// The pods that the container runtime runs.
    Sandboxes(Result<Vec<Sandbox>, client::Error>),
    /// Packets were dropped that may belong to connections of which only the kernel knows.
    Dropped(Vec<Event>),
    /// Whether the node's start-up taint could be taken away.
    Taint(Result<(), String>),
    /// What the agent is told changed.
    Config(Configured),
    /// How are things?
    Status(oneshot::Sender<Status>),
    /// Why is this so?
    Explain(ExplainRequest, oneshot::Sender<Result<Explanation, ErrorBody>>),
    /// SIGTERM: leave everything in place and end.
    Stop,
}

/// A pod's interface on this node, as found by the plugin or in the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// The runtime's name for the sandbox.
    pub container_id: String,
    /// The interface inside the pod.
    pub ifname: String,
    /// The host's end.
    pub host_ifname: String,
    /// Index of the host's end.
    pub ifindex: u32,
    /// MAC address of the pod's end.
    pub mac: [u8; 6],
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's UID as the runtime gave it; may be empty.
    pub uid: String,
}

impl Interface {
    /// What the runtime calls an interface by: the sandbox, and the name in it. A pod may have several.
    fn attachment(&self) -> (String, String) {
        (self.container_id.clone(), self.ifname.clone())
    }
}

impl From<proto::AddRequest> for Interface {
    fn from(add: proto::AddRequest) -> Self {
        let proto::AddRequest {
            container_id,
            ifname,
            namespace,
            pod,
            uid,
            ifindex,
            host_ifname,
            mac,
            addresses,
        } = add;
        Self {
            container_id,
            ifname,
            host_ifname,
            ifindex,
            mac,
            addresses,
            namespace,
            pod,
            uid,
        }
    }
}
