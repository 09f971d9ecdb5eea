//! Why a pod's start was refused: each fault explains what it alone makes the runtime say. Pure.

use anyhow::{Context as _, Result};

use super::Fault;

/// Our own sentence.
pub(super) const DELAYED: &str =
    "the pod's start is delayed so that it cannot run without its NetworkPolicies";

/// The fault that made the runtime refuse a pod; an error where none of these does that.
pub(super) fn refusal(faults: &[Fault], said: &str) -> Result<Fault> {
    let said = &plain(said);
    let fault = faults.iter().find(|fault| explains(**fault, said)).copied();
    fault.with_context(|| format!("REFUSED: a pod, for no reason that {faults:?} would have: {said}"))
}

/// The sandbox whose network could not be set up.
pub(super) fn sandbox(said: &str) -> Option<String> {
    let said = plain(said);
    let (_, rest) = said.split_once("network for sandbox \"")?;
    let (sandbox, _) = rest.split_once('"')?;
    Some(sandbox.to_owned())
}

/// crictl quotes what the runtime says.
fn plain(said: &str) -> String {
    said.replace("\\\"", "\"")
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
        // The agent is there and has more to do than the plugin waits for.
        Fault::Crowd => any(&["the agent did not answer in time"]),
        // Our list stays and is whole, and so does the one that is in memory.
        Fault::FlannelRewrites | Fault::DiskFull | Fault::Reboot => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_only_the_fault_s_that_makes_it() {
        let delayed = format!(
            "plugin type=\"vethwall-cni\" failed (add): vethwall: the node agent is not ready; {DELAYED}"
        );
        let missing = "failed to setup network for sandbox \"4a1f\": plugin type=\"vethwall-cni\" failed (add): failed to find plugin \"vethwall-cni\" in path [/run/bin]";
        let all = [Fault::DiskFull, Fault::PluginDeleted, Fault::AgentKilled];
        assert_eq!(refusal(&all, &delayed).unwrap(), Fault::AgentKilled);
        assert_eq!(refusal(&all, missing).unwrap(), Fault::PluginDeleted);
        assert_eq!(sandbox(missing).as_deref(), Some("4a1f"));
        assert_eq!(sandbox(&delayed), None);
        let quoted = missing.replace('"', "\\\"");
        assert_eq!(refusal(&all, &quoted).unwrap(), Fault::PluginDeleted);
        assert_eq!(sandbox(&quoted).as_deref(), Some("4a1f"));
        for fault in Fault::ALL {
            for said in ["vethwall: the pod has no policy", "no such file or directory", ""] {
                assert!(refusal(&[fault], said).is_err(), "{fault:?} explains {said:?}");
            }
        }
        for quiet in [
            Fault::FlannelRewrites,
            Fault::DiskFull,
            Fault::Crowd,
            Fault::Reboot,
        ] {
            assert!(refusal(&[quiet], &delayed).is_err(), "{quiet:?}");
        }
    }
}
