//! `kubectl vethwall preflight --probe`: what only the nodes know, from pods that are gone afterwards.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Story;

/// What its pods are found by.
const PODS: [&str; 5] = [
    "pods",
    "--namespace",
    "kube-system",
    "--selector",
    "app.kubernetes.io/component=preflight",
];

/// One of br_netfilter's switches.
const SYSCTL: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Every node is well; one of them is not; no image can be had; and nothing is left of it.
pub(super) fn probe(story: &mut Story) -> Result<()> {
    let (status, findings) = story.preflight(&["--probe"])?;
    ensure!(status == Some(0), "exit status {status:?}: {findings:?}");
    for check in ["bpffs", "bridge", "networks"] {
        // Of all nodes together.
        let found = only(&findings, check)?;
        ensure!(found["outcome"] == "ok" && found["names"].is_null(), "{found}");
    }
    let lists = only(&findings, "networks")?["message"].to_string();
    ensure!(lists.contains("already"), "{lists}");

    let right = story.cluster.worker("right")?;
    let switch = |to: &str| right.on(|_| std::fs::write(SYSCTL, to).context(SYSCTL));
    switch("0")?;
    let asked = story.preflight(&["--probe"]);
    switch("1")?;
    let (status, findings) = asked?;
    ensure!(status == Some(1), "exit status {status:?}: {findings:?}");
    let ill = findings.iter().find(|found| found["outcome"] == "fail");
    let ill = ill.context("nothing fails")?;
    ensure!(
        ill["check"] == "bridge"
            && ill["names"] == json!(["right"])
            && ill["message"].to_string().contains("KRN001"),
        "{ill}"
    );

    // A name that no registry is asked for: the runtime refuses it at once.
    let (status, findings) = story.preflight(&["--probe", "--probe-image", "no such image"])?;
    ensure!(status == Some(3), "exit status {status:?}: {findings:?}");
    let unknown = only(&findings, "node")?;
    ensure!(
        unknown["names"] == json!(["left", "right"])
            && unknown["message"].to_string().contains("InvalidImageName"),
        "{unknown}"
    );

    let left = story.cluster.get(&PODS)?;
    ensure!(left["items"] == json!([]), "pods are left: {left}");
    Ok(())
}

/// The only finding of a check.
fn only<'f>(findings: &'f [Value], check: &str) -> Result<&'f Value> {
    let mut found = findings.iter().filter(|found| found["check"] == check);
    let first = found
        .next()
        .with_context(|| format!("{check} is not looked at"))?;
    ensure!(found.next().is_none(), "nodes differ in {check}: {findings:?}");
    Ok(first)
}

impl Story {
    /// Exit status and findings.
    fn preflight(&self, arguments: &[&str]) -> Result<(Option<i32>, Vec<Value>)> {
        let output = self
            .cluster
            .vethwall(&[&["preflight", "-o", "json"], arguments].concat())?;
        let text = String::from_utf8(output.stdout)?;
        let findings = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        let findings = findings.with_context(|| {
            format!(
                "{arguments:?} says {text:?}, {}",
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        Ok((output.status.code(), findings))
    }
}
