//! vethwall's life in a real cluster, step by step: pods that run already, `helm install`, policies, crashes, an upgrade,
//! `helm uninstall`.
//!
//! Invariants: a step says what must hold and waits for it a bounded time; the first that does not hold ends the story.

mod before;
mod life;
mod pods;
mod policies;

use std::time::Instant;

use anyhow::{Context as _, Result};

pub use self::before::Before;
use crate::cluster::Cluster;

/// A cluster, and what the steps need to know of each other.
#[derive(Debug)]
pub struct Story {
    /// The cluster.
    pub cluster: Cluster,
    /// What the nodes were like without vethwall.
    before: Option<Before>,
}

type Step = (&'static str, fn(&mut Story) -> Result<()>);

/// All steps, in order.
const STEPS: &[Step] = &[
    ("pods talk over flannel, without vethwall", pods::start),
    (
        "helm install: every node is ready, no pod restarts",
        life::install,
    ),
    ("pods of before: deny all", policies::deny_all),
    ("allow by label, on both nodes", policies::allow_by_label),
    ("a label changes", policies::relabel),
    (
        "egress: DNS by its Service, and nothing else",
        policies::egress_to_dns,
    ),
    (
        "egress through a Service is judged behind it",
        policies::egress_through_service,
    ),
    ("policies are deleted", policies::delete_all),
    (
        "new pods send from their first instruction",
        life::first_instruction,
    ),
    ("the agents are killed", life::kill_agents),
    ("the DaemonSet rolls", life::roll),
    ("helm upgrade", life::upgrade),
    ("helm uninstall: flannel is as it was", life::uninstall),
    ("no pod has restarted or hangs", pods::sound),
];

/// Brings a cluster up and tells the whole story. `say` hears of each step and how long it took.
pub fn run(say: &mut dyn FnMut(&str)) -> Result<()> {
    let start = Instant::now();
    let mut told = |what: &str| say(&format!("{:6.1} s  {what}", start.elapsed().as_secs_f64()));
    let cluster = Cluster::up(&mut told)?;
    let mut story = Story {
        cluster,
        before: None,
    };
    for (what, step) in STEPS {
        let outcome = step(&mut story);
        if let Err(error) = outcome {
            let state = story
                .cluster
                .kubectl(&["get", "pods,events", "--all-namespaces", "--output", "wide"])
                .unwrap_or_else(|error| format!("{error:#}"));
            return Err(error)
                .with_context(|| what.to_string())
                .with_context(|| format!("{state}\n{}", story.cluster.logs()));
        }
        told(what);
    }
    Ok(())
}
