//! Kubernetes objects, as the agent takes them in.

pub mod cluster_network_policy;
pub mod convert;
pub(crate) mod selector;
