//! One node from its first pod to an uninstall. `auto` is own on containerd.

use std::path::Path;

use anyhow::Result;
use nix::sys::signal::Signal;
use vethwall_tests::{
    cni::{BIN, FLANNEL, write_list},
    runtime::{AGENT, Release, Spec},
    sandbox::BPFFS,
};

use super::{
    DELAYED, OLD, OPEN, Plain, Traces, a_moment, arrived, assert_enforced_from_the_first, chained, dead_pins,
    directory, own_list, plain, programs, refused, start_sender, unchained,
};

#[test]
fn under_the_distributions_containerd() {
    plain(Release::Distribution, life);
}

#[test]
fn under_the_newest_containerd() {
    plain(Release::Newest, life);
}

fn life(plain: &Plain) -> Result<()> {
    let node = &plain.node;
    assert_eq!(node.chain()?, unchained());
    // Before vethwall everybody reaches everybody.
    let old = node.start_pod(&OLD)?;
    let open = node.start_pod(&OPEN)?;
    let target = format!("tcp/{}:80", old.address.unwrap());
    let early = node.start_pod(&Spec {
        name: "early",
        host_network: false,
        arguments: &["send", "20", &target],
    })?;
    node.until("early reaches old", || {
        Ok(!arrived(node, "old", "early")?.is_empty())
    })?;

    // It comes, and restarts nobody.
    node.steady_agent("auto")?;
    assert!(own_list());
    assert_eq!(node.chain()?, chained());
    let enforcing = |pods: &[&str]| {
        pods.iter()
            .map(|pod| ((*pod).to_owned(), "enforcing".to_owned()))
            .collect()
    };
    assert_eq!(node.endpoints()?, enforcing(&["early", "old", "open"]));
    let before = arrived(node, "old", "early")?;
    a_moment();
    assert_eq!(arrived(node, "old", "early")?, before);

    // A new pod's first packets.
    let new = start_sender(node, "new", &open)?;
    assert_enforced_from_the_first(node, "new")?;
    let all = Traces::now()?;
    assert_eq!((all.leases, all.results, all.interfaces), (4, 4, 4));
    node.until("all have settled on tcx", || Ok(programs()? == 9))?;

    // Without the agent what runs stays enforced; flannel or k3s writes its list again, containerd starts again, as at a
    // boot; and no pod comes up unprotected.
    node.end(AGENT, Signal::SIGKILL)?;
    write_list(FLANNEL)?;
    node.restart_containerd()?;
    assert_eq!(node.chain()?, chained());
    let said = refused(start_sender(node, "late", &open));
    assert!(said.contains(DELAYED), "{said}");
    assert_eq!(
        Traces::now()?,
        all,
        "of the pod that did not start something is left"
    );
    assert_enforced_from_the_first(node, "new")?;
    // Pods with the node's own network need none of this, or no agent would ever start.
    let host = node.start_pod(&Spec {
        name: "host",
        host_network: true,
        arguments: &["pause"],
    })?;
    node.stop_pod(&host)?;
    // A pod ends, and gives back what it had.
    node.stop_pod(&early)?;
    let fewer = Traces::now()?;
    assert_eq!(
        (fewer.leases, fewer.results, fewer.interfaces, programs()?),
        (3, 3, 3, 7)
    );

    // The agent returns, and collects what only it can see is over.
    node.steady_agent("auto")?;
    node.until("pins without an interface are gone", || Ok(dead_pins()? == 0))?;
    let late = start_sender(node, "late", &open)?;
    assert_enforced_from_the_first(node, "late")?;
    assert_eq!(node.endpoints()?, enforcing(&["late", "new", "old", "open"]));
    assert_eq!(Traces::now()?, all);

    // Off the node: nobody is disturbed, and the plugin waits for the pods that it was called for.
    let done = node.uninstall(&["-o", "json"])?;
    let told: serde_json::Value = serde_json::from_slice(&done.stdout)?;
    assert_eq!(told["namedBy"].as_array().map(Vec::len), Some(2), "{told}");
    assert_eq!(node.chain()?, unchained());
    assert_eq!(
        (programs()?, Path::new(BPFFS).join("vethwall").exists()),
        (0, false)
    );
    node.until("late reaches what it could not", || {
        Ok(arrived(node, "open", "late")?.len() == 3)
    })?;
    for pod in [&new, &late, &old, &open] {
        node.stop_pod(pod)?;
    }
    let purged = node.uninstall(&["--purge", "--wait"])?;
    assert!(
        purged.status.success(),
        "{}",
        String::from_utf8_lossy(&purged.stderr)
    );
    assert_eq!(directory(super::CONF)?, plain.conf);
    assert_eq!(directory(BIN)?, plain.bin);
    assert_eq!(Traces::now()?, Traces::default());
    // Flannel goes on.
    let again = node.start_pod(&OLD)?;
    node.stop_pod(&again)
}
