//! The container runtime, asked over CRI: which chain it has in memory, and which pods it runs.
//!
//! ```text
//! runtime's socket ─ gRPC ─► [`client`] ─► JSON of `info` ─► [`view`] (pure) ─► keeper: does it call our plugin?
//!                                                                        └────► node: pods that no cache tells of
//! ```
//!
//! A file in a directory is not a chain: containerd reads its directory when it notices a change and keeps what it read, so
//! only the runtime can say whom it will call. It says so in the verbose answer to `Status`, which is for people to
//! debug with and not part of the CRI's contract: what is not understood is "not told", never a mistake of ours.
//!
//! Invariants:
//! - Questions only, each with a time limit and a limit of size; nothing is ever changed through this socket.
//! - Nothing that enforces depends on an answer.

pub mod client;
mod messages;
pub mod view;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use client::Client;
pub use view::View;

/// Where runtimes listen, in the order in which they are looked for: a k3s or MicroK8s node may have a containerd of its
/// own beside the one that runs its pods.
const SOCKETS: [&str; 5] = [
    "run/k3s/containerd/containerd.sock",
    "var/snap/microk8s/common/run/containerd.sock",
    "run/k0s/containerd.sock",
    "run/containerd/containerd.sock",
    "run/crio/crio.sock",
];

/// Which runtime to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^(auto|none|(unix://)?/.*)$"))]
pub enum Socket {
    /// The first of the usual sockets that is there; looked for at every question.
    #[default]
    Detect,
    /// This one.
    At(PathBuf),
    /// Nobody is asked.
    Nobody,
}

impl Socket {
    /// The socket to ask, if there is one, on a machine whose files begin at `root`.
    #[must_use]
    pub fn find(&self, root: &Path) -> Option<PathBuf> {
        match self {
            Self::Nobody => None,
            Self::At(path) => Some(path.clone()),
            Self::Detect => SOCKETS
                .iter()
                .map(|path| root.join(path))
                .find(|path| path.exists()),
        }
    }
}

impl TryFrom<String> for Socket {
    type Error = String;

    /// `auto`, `none` or an absolute path, which may begin with `unix://` as kubelet's does.
    fn try_from(text: String) -> Result<Self, String> {
        match text.strip_prefix("unix://").unwrap_or(&text) {
            "auto" => Ok(Self::Detect),
            "none" => Ok(Self::Nobody),
            path if path.starts_with('/') => Ok(Self::At(path.into())),
            other => Err(format!("{other:?} is neither auto, none nor an absolute path")),
        }
    }
}

impl From<Socket> for String {
    fn from(socket: Socket) -> Self {
        match socket {
            Socket::Detect => "auto".to_owned(),
            Socket::Nobody => "none".to_owned(),
            Socket::At(path) => path.display().to_string(),
        }
    }
}

/// Whoever can be asked which chain is in memory.
pub trait Runtime: Send {
    /// What the runtime says; `None` where there is none to ask.
    fn view(&mut self) -> Option<Result<View, client::Error>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_and_named() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Socket::Detect.find(root.path()), None);
        for path in ["run/containerd", "run/k3s/containerd"] {
            std::fs::create_dir_all(root.path().join(path)).unwrap();
            let socket = root.path().join(path).join("containerd.sock");
            std::fs::write(&socket, "").unwrap();
            assert_eq!(
                Socket::Detect.find(root.path()),
                Some(socket),
                "k3s' own comes first"
            );
        }
        let named = |text: &str| Socket::try_from(text.to_owned());
        assert_eq!(named("none").unwrap().find(root.path()), None);
        let at = Socket::At("/run/x.sock".into());
        assert_eq!(named("unix:///run/x.sock").as_ref(), Ok(&at));
        assert_eq!(named("/run/x.sock").as_ref(), Ok(&at));
        assert!(named("run/x.sock").is_err());
        for socket in [Socket::Detect, Socket::Nobody, at] {
            assert_eq!(named(&String::from(socket.clone())), Ok(socket));
        }
    }
}
