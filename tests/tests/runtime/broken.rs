//! What goes wrong on nodes: the plugin is gone, a list can not be parsed, the runtime is silent. Nothing of it opens a pod.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;
use vethwall_tests::{
    cni::{BIN, CONF},
    runtime::{AGENT, CONTAINERD, Release},
};

use super::{
    OPEN, Plain, Traces, assert_enforced_from_the_first, chained, own_list, plain, refused, start_sender,
};

#[test]
fn a_plugin_that_is_gone_lets_no_pod_start_and_is_put_back() {
    for release in Release::ALL {
        plain(release, plugin_gone);
    }
}

fn plugin_gone(plain: &Plain) -> Result<()> {
    let node = &plain.node;
    node.steady_agent("own")?;
    assert_eq!(node.chain()?, chained());
    let open = node.start_pod(&OPEN)?;
    let before = Traces::now()?;
    node.end(AGENT, Signal::SIGKILL)?;
    // As when a package of plugins is upgraded: kubernetes-cni replaces the whole directory.
    let plugin = Path::new(BIN).join("vethwall-cni");
    fs::remove_file(&plugin)?;
    let said = refused(start_sender(node, "new", &open));
    assert!(said.contains("failed to find plugin"), "{said}");
    assert_eq!(node.chain()?, chained());

    node.steady_agent("own")?;
    assert!(plugin.exists());
    // Without the plugin the runtime could not take down what it had begun; now it can. containerd 2 has forgotten the
    // sandbox by then, and flannel's IPAM keeps its address for ever.
    let swept = node.sweep()?;
    assert!(swept <= 1);
    let leases = before.leases + 1 - swept;
    assert_eq!(Traces::now()?, Traces { leases, ..before });
    start_sender(node, "new", &open)?;
    assert_enforced_from_the_first(node, "new")?;
    // With an agent it is not gone for long.
    fs::remove_file(&plugin)?;
    node.until("the plugin is back", || Ok(plugin.exists()))?;
    let after = Traces::now()?;
    assert_eq!(
        (after.leases, after.interfaces),
        (leases + 1, before.interfaces + 1)
    );
    Ok(())
}

#[test]
fn a_first_list_that_can_not_be_parsed_opens_no_pod() {
    for release in Release::ALL {
        plain(release, unparsable);
    }
}

fn unparsable(plain: &Plain) -> Result<()> {
    let node = &plain.node;
    node.steady_agent("own")?;
    assert_eq!(node.chain()?, chained());
    let open = node.start_pod(&OPEN)?;
    start_sender(node, "new", &open)?;
    let before = Traces::now()?;
    let broken = Path::new(CONF).join("00-broken.conflist");
    fs::write(&broken, "{\"name\": \"x\", ")?;
    node.until("containerd has no network", || Ok(node.chain()?.is_empty()))?;
    // Not even flannel alone: the node has no network for new pods, and says so.
    let said = refused(start_sender(node, "late", &open));
    assert!(said.contains("cni plugin not initialized"), "{said}");
    assert_eq!(Traces::now()?, before);
    node.until("status tells", || {
        let chain = node.status()?["chain"].clone();
        Ok(chain["state"] != "chained")
    })?;
    assert_enforced_from_the_first(node, "new")?;

    fs::remove_file(&broken)?;
    node.until("containerd has its network again", || {
        Ok(node.chain()? == chained())
    })?;
    node.until("the agent too", || {
        Ok(node.status()?["chain"]["state"] == "chained")
    })?;
    node.sweep()?;
    start_sender(node, "late", &open)?;
    assert_enforced_from_the_first(node, "late")
}

#[test]
fn an_agent_that_starts_while_the_runtime_is_silent_waits_to_learn_its_directories() {
    plain(Release::Newest, silent);
}

/// Only containerd knows where this node's lists are.
fn silent(plain: &Plain) -> Result<()> {
    let node = &plain.node;
    node.signal(CONTAINERD, Signal::SIGSTOP)?;
    node.start_agent("own")?;
    // It asks more than once.
    thread::sleep(Duration::from_secs(5));
    assert!(node.runs(AGENT) && !own_list());
    node.signal(CONTAINERD, Signal::SIGCONT)?;
    let steady = || node.until("the agent is steady", || Ok(node.status()?["phase"] == "steady"));
    steady()?;
    assert!(own_list());
    assert_eq!(node.chain()?, chained());

    // One that ends takes its socket along.
    node.end(AGENT, Signal::SIGTERM)?;
    node.end(CONTAINERD, Signal::SIGTERM)?;
    assert!(!Path::new("/run/containerd/containerd.sock").exists());
    node.start_agent("own")?;
    thread::sleep(Duration::from_secs(2));
    node.start_containerd()?;
    steady()?;
    assert_eq!(node.chain()?, chained());
    Ok(())
}
