//! The node agent and the command line.
//!
//! ```text
//! manifests, cluster ─► k8s::convert ─► node (world, maps, attachments) ─► kernel
//! kernel ─► events ─► flows ─► sockets ◄─► api ◄─► cli
//! ```
#![forbid(unsafe_code)]

pub mod api;
mod bounded;
pub mod chain;
pub mod cli;
pub mod cluster;
pub mod cni_cache;
pub mod config;
pub mod cri;
pub mod fleet;
pub mod flows;
pub mod k8s;
pub mod lint;
pub mod manifests;
pub mod metrics;
pub mod node;
pub mod run;
pub mod sockets;
pub mod source;
pub mod taint;
pub mod watch;
