//! Kubernetes objects, as the agent takes them in.

pub mod convert;
