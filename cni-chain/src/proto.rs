//! What the plugin and the agent say to each other: one line of JSON each way on [`SOCKET`] in the run directory.
//!
//! Plugin and agent may be of different versions while a node is upgraded: fields are only ever added, with defaults.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Where the sockets are, unless the configuration says otherwise. For root only.
pub const RUN_DIR: &str = "/run/vethwall";
/// Name of the socket in the run directory.
pub const SOCKET: &str = "cni.sock";
/// No request and no response is longer.
pub const MAX_LINE: usize = 64 * 1024;

/// The socket's path.
pub fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join(SOCKET)
}

/// What the plugin asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Answer when the pod's own policy is in force on this interface.
    Add(AddRequest),
    /// The pod goes.
    Del(DelRequest),
    /// Would an ADD be served?
    Status,
}

/// A pod whose interface is attached and pending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddRequest {
    /// The runtime's name for the pod's sandbox.
    pub container_id: String,
    /// The interface inside the pod.
    pub ifname: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid; empty where the runtime does not tell.
    #[serde(default)]
    pub uid: String,
    /// The host's end.
    pub ifindex: u32,
    /// Its name.
    pub host_ifname: String,
    /// MAC address of the pod's end.
    pub mac: [u8; 6],
    /// The pod's global addresses.
    pub addresses: Vec<IpAddr>,
}

/// A pod that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelRequest {
    /// The runtime's name for the pod's sandbox.
    pub container_id: String,
    /// The interface inside the pod.
    pub ifname: String,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    /// It could not be done.
    Failed {
        /// Why.
        error: Failure,
    },
    /// It is done.
    Done {
        /// Always true.
        ok: bool,
        /// Number of the state that is in force.
        #[serde(default)]
        revision: u64,
    },
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A CNI error code; [`crate::code::TRY_LATER`] where waiting helps.
    pub code: u32,
    /// A sentence for people.
    pub message: String,
}

impl Response {
    /// It is done.
    pub fn done(revision: u64) -> Self {
        Self::Done { ok: true, revision }
    }

    /// It could not be done.
    pub fn failed(code: u32, message: impl Into<String>) -> Self {
        Self::Failed {
            error: Failure {
                code,
                message: message.into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_documented() {
        let del = Request::Del(DelRequest {
            container_id: "c".into(),
            ifname: "eth0".into(),
        });
        let text = r#"{"del":{"container_id":"c","ifname":"eth0"}}"#;
        assert_eq!(serde_json::to_string(&del).unwrap(), text);
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), del);
        assert_eq!(
            serde_json::to_string(&Response::done(7)).unwrap(),
            r#"{"ok":true,"revision":7}"#
        );
        let failed = Response::failed(11, "later");
        let text = r#"{"error":{"code":11,"message":"later"}}"#;
        assert_eq!(serde_json::to_string(&failed).unwrap(), text);
        assert_eq!(serde_json::from_str::<Response>(text).unwrap(), failed);
    }

    #[test]
    fn an_unknown_field_of_a_newer_version_is_ignored() {
        let text = r#"{"add":{"container_id":"c","ifname":"eth0","namespace":"n","pod":"p","ifindex":4,
            "host_ifname":"veth1","mac":[1,2,3,4,5,6],"addresses":["10.0.0.1","fd00::1"],"new":{}}}"#;
        let Request::Add(add) = serde_json::from_str(text).unwrap() else {
            panic!()
        };
        assert_eq!(add.uid, "");
        assert_eq!(add.addresses.len(), 2);
    }
}
