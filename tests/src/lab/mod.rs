//! A flannel cluster's network on one machine, without a cluster.
//!
//! ```text
//! manifests ─ input ─► State ─┬ flannel: nodes, underlay, tunnels     (namespaces, `ip`)
//!                             ├ wiring: pods by cnitool and the real plugins, their servers
//!                             ├ proxy: Services in iptables, as kube-proxy writes them
//!                             ├ cluster: the directory that the agents read
//!                             └ engine: vethwall in the chain, an agent on every node
//! probes ─ probe ─► prober in every source's namespace ─► outcomes
//! ```
//!
//! Invariants:
//! - Everything of a lab is inside the pid namespace of its supervisor and ends with it; outside is only
//!   `/run/vethwall-lab/NAME`. No link, address or rule is made in the machine's own network namespace.
//! - Every wait is bounded.

mod build;
mod cli;
mod cluster;
mod dns;
mod engine;
mod enter;
mod flannel;
mod holder;
mod input;
mod inside;
mod life;
mod probe;
mod prober;
mod proxy;
mod raw;
mod server;
mod state;
mod supervisor;
mod wiring;

pub use self::{
    cli::main,
    enter::Place,
    life::{Applied, Lab, Options},
    probe::{Outcome, Probe},
    raw::Tap,
    state::{Backend, Engine, Families, Node, Pod, Port, Service, ServicePort, State},
};
pub(crate) use self::{
    engine::PATIENCE_VARIABLE,
    enter::private,
    holder::{own, set_sysctls},
};
