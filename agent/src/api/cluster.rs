//! How well the agent knows its cluster: part of `status -o json`.

use serde::{Deserialize, Serialize};

/// A cluster that the agent follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// The API server's URL; empty while it is not known whom to ask.
    pub server: String,
    /// What is followed.
    pub watches: Vec<Watch>,
}

/// A resource that is followed. Ages are in seconds, by a clock that nobody sets; absent: never.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watch {
    /// As rights name it: `pods`, `networkpolicies.networking.k8s.io`.
    pub resource: String,
    /// How it is.
    pub state: WatchState,
    /// When the API server last said anything of it, if only that nothing happened: once a minute at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_seconds_ago: Option<u64>,
    /// When an object last came, changed or went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_seconds_ago: Option<u64>,
    /// How often all objects were listed.
    pub lists: u64,
    /// How often a list or a watch failed.
    pub failures: u64,
    /// Why it is not current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Whether a resource is known as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WatchState {
    /// It was never listed.
    #[default]
    Starting,
    /// It was listed, and its watch is open.
    Current,
    /// Its watch is interrupted: what was known stays in force.
    Behind,
    /// The API server does not serve it; it is looked for now and then.
    NotServed,
}

impl WatchState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Current, Self::Behind, Self::NotServed];

    /// `starting`, `current`, `behind` or `not served`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Current => "current",
            Self::Behind => "behind",
            Self::NotServed => "not served",
        }
    }

    /// All that there is, is known.
    pub const fn good(self) -> bool {
        matches!(self, Self::Current | Self::NotServed)
    }
}
