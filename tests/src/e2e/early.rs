//! Pods that start together, and what comes of their first tries at a pod of the other node.
//!
//! Policy allows them on both sides, by labels: until the other node knows whose a new address is, it denies.

use anyhow::{Context as _, Result, ensure};

use super::{Story, pods::Spec};

/// As many as the promise is about.
const PODS: usize = 20;
/// Nearly none is without early addresses (`helm --set config.earlyAddresses=false`). The rest is room for a machine that does
/// much else.
const AT_FIRST: usize = 15;

const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: crowd-in, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {role: crowd}}}], ports: [{port: 80}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: crowd-out, namespace: shop}
spec:
  podSelector: {matchLabels: {role: crowd}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]
";

/// Twenty at once; then twenty strangers, on addresses of which some were the first ones'.
pub(super) fn together(story: &mut Story) -> Result<()> {
    story.cluster.apply(POLICIES)?;
    story.expect("shop/client", &[("tcp/web-left:80", "silent")])?;
    let first = story.crowd("crowd")?;
    let at_first = first
        .iter()
        .filter(|tries| tries.first().is_some_and(|line| answered(line)));
    let at_first = at_first.count();
    ensure!(
        at_first >= AT_FIRST,
        "{at_first} of {PODS} were answered at their first try"
    );
    ensure!(
        first.iter().all(|tries| tries.iter().any(|line| answered(line))),
        "some were never answered"
    );
    story.found = format!(": {at_first} of {PODS} are answered at their first try");
    // What an address was allowed to goes with its pod.
    let strangers = story.crowd("stranger")?;
    ensure!(
        strangers.iter().flatten().all(|line| !answered(line)),
        "a stranger was answered: {strangers:?}"
    );
    story
        .cluster
        .kubectl(&[
            "delete",
            "networkpolicy",
            "--namespace",
            "shop",
            "crowd-in",
            "crowd-out",
        ])
        .map(drop)
}

fn answered(line: &str) -> bool {
    line.ends_with(" answered")
}

impl Story {
    /// Starts pods of a role on the right, waits until each has tried several times, ends them; their tries.
    fn crowd(&self, role: &str) -> Result<Vec<Vec<String>>> {
        let target = format!("tcp/{}:80", self.address("shop", "web-left")?);
        let names: Vec<String> = (0..PODS).map(|number| format!("{role}-{number}")).collect();
        let labels = format!("role: {role}");
        let arguments = ["send", "50", target.as_str()];
        let pods: Vec<_> = names
            .iter()
            .map(|name| Spec {
                namespace: "shop",
                name,
                node: "right",
                labels: &labels,
                arguments: &arguments,
            })
            .collect();
        self.begin(&pods)?;
        let mut tries = Vec::new();
        for name in &names {
            self.cluster.until("a pod of the crowd has tried", || {
                Ok(self.said_by("shop", name)?.lines().count() > 8)
            })?;
            let said = self.said_by("shop", name)?;
            let lines: Vec<String> = said
                .lines()
                .filter(|line| line.starts_with("sent "))
                .map(str::to_owned)
                .collect();
            ensure!(
                lines.first().context("nothing was sent")?.starts_with("sent 0 "),
                "{lines:?}"
            );
            tries.push(lines);
        }
        self.end("shop", &names)?;
        Ok(tries)
    }
}
