//! The node agent and the command line.
#![forbid(unsafe_code)]

pub mod api;
pub mod flows;
pub mod k8s;
pub mod manifests;
