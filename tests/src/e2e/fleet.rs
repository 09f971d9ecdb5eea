//! `kubectl vethwall`, as from a laptop: before anything is installed, while all is well, and while an agent is silent.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Story;

/// What it came to: exit status, the objects on standard output, and what was told to people.
struct Said {
    status: Option<i32>,
    lines: Vec<Value>,
    told: String,
}

impl Said {
    fn exits(&self, status: i32) -> Result<()> {
        ensure!(
            self.status == Some(status),
            "exit status {:?}, not {status}: {} {:?}",
            self.status,
            self.told,
            self.lines
        );
        Ok(())
    }

    /// A text of each line.
    fn each(&self, pointer: &str) -> BTreeSet<&str> {
        let lines = self.lines.iter();
        lines.filter_map(|line| line.pointer(pointer)?.as_str()).collect()
    }
}

const NODES: [&str; 2] = ["left", "right"];

impl Story {
    fn ask(&self, arguments: &[&str]) -> Result<Said> {
        let output = self.cluster.vethwall(&[arguments, &["-o", "json"]].concat())?;
        let (out, told) = (
            String::from_utf8(output.stdout)?,
            String::from_utf8(output.stderr)?,
        );
        let lines = out.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        Ok(Said {
            status: output.status.code(),
            lines: lines.with_context(|| format!("{arguments:?} says {out:?}"))?,
            told,
        })
    }
}

/// A policy is there that nobody enforces; that is told, and who could tell the rest is not there yet.
pub(super) fn preflight(story: &mut Story) -> Result<()> {
    story.cluster.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: decorative, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{}]}
",
    )?;
    let said = story.ask(&["preflight"])?;
    said.exits(3)?;
    let outcome = |check: &str| said.lines.iter().find(|line| line["check"] == check);
    let policies = outcome("policies").context("policies are not looked at")?;
    ensure!(
        policies["outcome"] == "warn" && policies["names"][0] == "shop/decorative",
        "{policies}"
    );
    for check in ["platform", "flannel", "kernel", "runtime", "enforcer"] {
        let found = outcome(check).context(check)?;
        ensure!(found["outcome"] == "ok", "{found}");
    }
    // Nobody is there to be asked anything else.
    let said = story.ask(&["status"])?;
    said.exits(3)?;
    ensure!(said.told.contains("helm install"), "{}", said.told);
    Ok(())
}

/// Every node answers every question.
pub(super) fn every_node_answers(story: &mut Story) -> Result<()> {
    story
        .cluster
        .kubectl(&["delete", "networkpolicy", "--namespace", "shop", "decorative"])?;
    let status = story.ask(&["status", "--wait"])?;
    status.exits(0)?;
    ensure!(
        status.each("/node") == BTreeSet::from(NODES),
        "{:?}",
        status.lines
    );
    ensure!(
        status.each("/phase") == BTreeSet::from(["steady"]),
        "{:?}",
        status.lines
    );
    story.cluster.apply(ONE_FRIEND)?;
    story.expect("shop/client", &[("tcp/web-right:80", "silent")])?;
    let endpoints = story.ask(&["endpoints"])?;
    endpoints.exits(0)?;
    let pods: BTreeSet<&str> = endpoints.each("/pod");
    ensure!(
        ["client", "friend", "web-left", "web-right"]
            .iter()
            .all(|pod| pods.contains(pod)),
        "{:?}",
        endpoints.lines
    );
    let policies = story.ask(&["policy", "list"])?;
    policies.exits(0)?;
    ensure!(
        policies.each("/name").contains("one-friend"),
        "{:?}",
        policies.lines
    );
    let allowed = story.ask(&["explain", "shop/friend", "shop/web-right:80"])?;
    allowed.exits(0)?;
    let denied = story.ask(&["explain", "shop/client", "shop/web-right:80"])?;
    denied.exits(1)?;
    let flows = story.ask(&["flows", "--verdict", "denied", "--from-pod", "shop/client"])?;
    flows.exits(0)?;
    ensure!(!flows.lines.is_empty(), "no flow is known of what was denied");
    story
        .cluster
        .kubectl(&["delete", "networkpolicy", "--namespace", "shop", "one-friend"])
        .map(drop)
}

const ONE_FRIEND: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: one-friend, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]
";

/// While the agent of a node is frozen: the other answers, and who did not is told, with the reason and by the exit status.
pub(super) fn one_is_silent(story: &Story, frozen: &str) -> Result<()> {
    let said = story.ask(&["status"])?;
    said.exits(3)?;
    for line in &said.lines {
        let silent = line["node"] == frozen;
        let fits = line["error"].is_string() == silent && (line["phase"] == "steady") != silent;
        ensure!(fits, "{line}");
    }
    ensure!(said.lines.len() == NODES.len(), "{:?}", said.lines);
    Ok(())
}
