//! Why a pod's start was refused: each fault explains what it alone makes the runtime say. Pure.

use anyhow::{Context as _, Result};

use super::Fault;

/// Our own sentence.
pub(super) const DELAYED: &str =
    "the pod's start is delayed so that it cannot run without its NetworkPolicies";

/// The fault that made the runtime refuse a pod; an error where none of these does that.
pub(super) fn refusal(faults: &[Fault], said: &str) -> Result<Fault> {
    let fault = faults.iter().find(|fault| explains(**fault, said)).copied();
    fault.with_context(|| format!("REFUSED: a pod, for no reason that {faults:?} would have: {said}"))
}

/// The sandbox whose network could not be set up.
pub(super) fn sandbox(said: &str) -> Option<String> {
    let (_, rest) = said.split_once("network for sandbox \"")?;
    let (sandbox, _) = rest.split_once('"')?;
    Some(sandbox.to_owned())
}

fn explains(fault: Fault, said: &str) -> bool {
    let any = |reasons: &[&str]| reasons.iter().any(|reason| said.contains(reason));
    match fault {
        // Nobody answers the plugin, or nothing is pinned, for longer than it waits.
        Fault::AgentKilled | Fault::AgentUpgraded | Fault::ClockJump | Fault::BpffsUnmounted => {
            any(&[DELAYED])
        }
        Fault::PluginDeleted => any(&["failed to find plugin \"vethwall-cni\""]),
        Fault::BrokenFirst => any(&["cni plugin not initialized"]),
        Fault::K3sRestarts | Fault::RuntimeKilled => any(&[
            "containerd.sock: connect: connection refused",
            "containerd.sock: connect: no such file or directory",
            "error reading from server: EOF",
        ]),
        Fault::BridgeDeleted => said.contains("plugin type=\"flannel\" failed (add)") && any(&["cni0"]),
        // Our list stays and is whole, and so does the one that is in memory.
        Fault::FlannelRewrites | Fault::DiskFull | Fault::Crowd | Fault::Reboot => false,
    }
}
