//! All agents of a cluster, asked from anywhere.
//!
//! ```text
//! kubeconfig ─► API server ─► pods of vethwall, nodes
//!                   └─ pods/exec `vethwall COMMAND -o json` in each, at once ─► lines, exit status ─► one answer a node
//! ```
//! No service of ours and no certificate: whoever may exec into the agents' pods may ask.
//!
//! Invariants:
//! - A node that has no agent, or whose agent did not answer, is an answer too, and never left out.
//! - What an agent says is data: it is parsed, and rendered by who asked.

pub mod ask;
pub mod connect;
pub mod find;
pub mod preflight;

pub use self::{
    ask::{Answer, Line, NoAnswer},
    connect::{Error, Target},
    find::{Agent, Fleet},
};
