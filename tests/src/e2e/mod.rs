//! vethwall's life in a real cluster, step by step: pods that run already, `helm install`, policies, crashes, an upgrade,
//! `helm uninstall`.
//!
//! Invariants: a step says what must hold and waits for it a bounded time; the first that does not hold ends the story.

mod before;
mod early;
mod fleet;
mod life;
mod pods;
mod policies;
mod probe;

use std::time::Instant;

use anyhow::Result;

pub use self::before::Before;
use crate::cluster::Cluster;

/// A cluster, and what the steps need to know of each other.
#[derive(Debug)]
pub struct Story {
    /// The cluster.
    pub cluster: Cluster,
    /// What the nodes were like without vethwall.
    before: Option<Before>,
    /// What a step has to say beside that it held.
    found: String,
}

type Step = (&'static str, fn(&mut Story) -> Result<()>);

/// All steps, in order.
const STEPS: &[Step] = &[
    ("pods talk over flannel, without vethwall", pods::start),
    ("kubectl vethwall preflight, before", fleet::preflight),
    (
        "helm install: every node is ready, no pod restarts",
        life::install,
    ),
    ("helm test", life::helm_test),
    ("preflight --probe", probe::probe),
    ("kubectl vethwall: every node answers", fleet::every_node_answers),
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
    ("twenty pods start together", early::together),
    ("the agents are killed", life::kill_agents),
    ("the DaemonSet rolls", life::roll),
    ("helm upgrade", life::upgrade),
    ("helm uninstall: flannel is as it was", life::uninstall),
    ("no pod has restarted or hangs", pods::sound),
];

/// Brings a cluster up and tells the whole story. `say` hears of each step, and when it was over. After `hold` steps a line is
/// waited for on standard input.
pub fn run(hold: Option<usize>, say: &mut dyn FnMut(&str)) -> Result<()> {
    let start = Instant::now();
    let at = |what: &str| format!("{:6.1} s  {what}", start.elapsed().as_secs_f64());
    let cluster = Cluster::up(&mut |what| say(&at(what)))?;
    let mut story = Story {
        cluster,
        before: None,
        found: String::new(),
    };
    for (number, (what, step)) in STEPS.iter().enumerate() {
        if hold == Some(number) {
            say(&story.cluster.ways_in()?);
            std::io::stdin().read_line(&mut String::new())?;
        }
        if let Err(error) = step(&mut story) {
            say(&story.state());
            return Err(error.context(what.to_string()));
        }
        say(&at(&format!("{what}{}", std::mem::take(&mut story.found))));
    }
    Ok(())
}

impl Story {
    /// What there is to say when a step failed.
    fn state(&self) -> String {
        let asked: [&[&str]; 3] = [
            &["get", "pods", "--all-namespaces", "--output", "wide"],
            &["get", "events", "--all-namespaces", "--sort-by", ".lastTimestamp"],
            &[
                "logs",
                "--namespace",
                "kube-system",
                "--selector",
                "app.kubernetes.io/name=vethwall",
                "--all-containers",
                "--prefix",
                "--tail=40",
            ],
        ];
        let said = asked.map(|arguments| {
            self.cluster
                .kubectl(arguments)
                .unwrap_or_else(|error| format!("{error:#}\n"))
        });
        format!("{}\n{}", self.cluster.logs(), said.join("\n"))
    }
}
