//! Every test that crosses a crate or needs the kernel. Needs root.
#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in test functions; here their helpers are tests too"
)]

mod atomicity;
mod chain;
mod chart;
mod cluster;
mod connections;
mod datapath;
mod demo;
mod differential;
mod enforced;
mod faults;
mod kernel;
mod lab;
mod live;
mod packets;
mod plugin;
mod problems;
mod reboot;
mod rules;
mod runtime;
mod semantics;
mod suites;
mod upgrade;
mod watch;
