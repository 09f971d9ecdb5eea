//! The chained CNI plugin: the last link of flannel's chain.
//!
//! ```text
//! runtime ─► flannel ─► portmap ─► vethwall-cni ── find veth ─► attach (pending: closed) ─► ask the agent ─► prevResult
//!                                                                                 └── no answer: error 11, pod waits
//! ```
//!
//! Invariants:
//! - A pod starts only when its own policies are in force: every doubt on ADD is an error. The one exception is asked for by
//!   name: a namespace in `failOpenNamespaces`, while no agent answers.
//! - The result is the previous plugin's, byte for byte.
//! - DEL never fails and takes at most a second: the runtime stops at the first error and leaks the pod's address.
//! - No network, no credentials, no threads that outlive a call; everything the plugin needs is on the node.

pub mod client;
mod commands;
pub mod conflist;
mod error;
pub mod input;
pub mod proto;
pub mod retired;

pub use commands::{Outcome, run};
pub use error::{CniError, code};
