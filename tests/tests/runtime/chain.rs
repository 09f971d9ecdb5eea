//! The other ways into the chain: patch, dropin, external; and lists of CNI 1.1.

use std::{fs, path::Path};

use anyhow::Result;
use nix::sys::signal::Signal;
use serde_json::json;
use vethwall_cni::conflist;
use vethwall_datapath::{
    Hook, Pins,
    surroundings::{self, Presence},
    veth,
};
use vethwall_tests::{
    cni::{CONF, FLANNEL, write_list},
    runtime::{AGENT, Pod, Release},
    sandbox::{BPFFS, ip, program},
    told,
};

use super::{
    DELAYED, OPEN, Plain, arrived, assert_enforced_from_the_first, chained, directory, on_a_node, own_list,
    plain, refused, start_sender, unchained,
};

#[test]
fn patch_comes_back_when_flannel_writes_its_list() {
    for release in Release::ALL {
        plain(release, |plain| {
            let node = &plain.node;
            node.steady_agent("patch")?;
            assert_eq!(node.chain()?, chained());
            write_list(FLANNEL)?;
            node.until("the list is patched again", || {
                Ok(node.status()?["chain"]["repairs"] == 1)
            })?;
            node.until("containerd has read it", || Ok(node.chain()? == chained()))?;
            assert!(!own_list());
            let open = node.start_pod(&OPEN)?;
            let new = start_sender(node, "new", &open)?;
            assert_enforced_from_the_first(node, "new")?;
            leave(plain, &[&new, &open])
        });
    }
}

#[test]
fn a_drop_in_is_read_by_the_newest() {
    plain(Release::Newest, |plain| {
        let node = &plain.node;
        assert!(node.release.reads_drop_ins()?);
        node.steady_agent("dropin")?;
        node.until("containerd has read the drop-in", || {
            Ok(node.chain()? == chained())
        })?;
        // Flannel's own list is as it was, and may be written again.
        write_list(FLANNEL)?;
        assert_eq!(directory(CONF)?["10-flannel.conflist"], FLANNEL.as_bytes());
        let open = node.start_pod(&OPEN)?;
        let new = start_sender(node, "new", &open)?;
        assert_enforced_from_the_first(node, "new")?;
        // As at a boot: the list is flannel's own, containerd starts before the agent.
        node.end(AGENT, Signal::SIGKILL)?;
        node.restart_containerd()?;
        assert_eq!(node.chain()?, chained());
        let said = refused(start_sender(node, "late", &open));
        assert!(said.contains(DELAYED), "{said}");
        leave(plain, &[&new, &open])
    });
}

#[test]
fn a_drop_in_is_ignored_by_releases_before_2_1() {
    if Release::Distribution.reads_drop_ins().unwrap() {
        return told::skipped("the distribution's containerd reads drop-ins");
    }
    plain(Release::Distribution, |plain| {
        let node = &plain.node;
        node.start_agent("dropin")?;
        node.until("status tells that a drop-in would not be read", || {
            let status = node.status()?;
            let problems = status["problems"].as_array().cloned().unwrap_or_default();
            Ok(problems.iter().any(|problem| problem["code"] == "CNI003"))
        })?;
        // Nor is it written; written by somebody else it would be ignored.
        assert_eq!(directory(CONF)?, plain.conf);
        let folder = Path::new(CONF).join("cbr0");
        fs::create_dir(&folder)?;
        fs::write(folder.join("50-vethwall.conf"), conflist::default_entry())?;
        node.restart_containerd()?;
        assert_eq!(node.chain()?, unchained());
        fs::remove_dir_all(folder)?;
        let open = node.start_pod(&OPEN)?;
        // An agent that runs sees the interface of a pod that comes past the plugin, and closes it at once.
        let new = start_sender(node, "new", &open)?;
        node.until("new has its policy", || {
            Ok(!arrived(node, "open", "new")?.is_empty())
        })?;
        // One that does not run can not: this is what `own` is for, and how all tests here would see it if it failed.
        node.end(AGENT, Signal::SIGKILL)?;
        let late = start_sender(node, "late", &open)?;
        node.until("late is not protected", || {
            Ok(arrived(node, "open", "late")?.len() == 3)
        })?;
        assert_eq!(
            arrived(node, "open", "new")?.into_keys().collect::<Vec<_>>(),
            ["tcp/80"]
        );
        node.start_agent("dropin")?;
        let found = || {
            Ok(node
                .endpoints()?
                .get("late")
                .is_some_and(|state| state == "enforcing"))
        };
        node.until("the agent has found late", found)?;
        leave(plain, &[&new, &late, &open])
    });
}

#[test]
fn external_is_somebody_elses_list() {
    for release in Release::ALL {
        let list = conflist::insert(FLANNEL, &conflist::default_entry()).unwrap();
        on_a_node(release, &list, |plain| {
            let node = &plain.node;
            // Whoever writes such a list installs the plugin before.
            let plugin = program("vethwall-cni")?.display().to_string();
            let installed = node.vethwall(&["install", "--plugin", &plugin])?;
            assert!(installed.status.success(), "{installed:?}");
            assert_eq!(node.chain()?, chained());
            // Before the agent was ever here no pod starts.
            let said = refused(node.start_pod(&OPEN));
            assert!(said.contains("vethwall"), "{said}");
            node.steady_agent("external")?;
            assert_eq!(directory(CONF)?, plain.conf);
            let open = node.start_pod(&OPEN)?;
            start_sender(node, "new", &open)?;
            assert_enforced_from_the_first(node, "new")
        });
    }
}

/// With a list of CNI 1.1 the newest asks the plugin for its STATUS. Flannel's own plugin speaks 0.4.0 at most, so the list
/// names what flannel delegates to.
#[test]
fn a_list_of_cni_1_1_tells_the_kubelet_that_the_agent_is_gone() {
    let list = json!({
        "cniVersion": "1.1.0",
        "name": "cbr0",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.1.0/24"}]]},
            },
            {"type": "vethwall-cni"},
        ],
    });
    on_a_node(Release::Newest, &list.to_string(), |plain| {
        let node = &plain.node;
        fs::copy(
            program("vethwall-cni")?,
            Path::new(super::BIN).join("vethwall-cni"),
        )?;
        let network = || -> Result<(bool, String)> {
            let info = node.info()?;
            let conditions = info["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let ready = conditions
                .iter()
                .find(|condition| condition["type"] == "NetworkReady");
            let ready = ready.cloned().unwrap_or_default();
            Ok((ready["status"] == true, ready["message"].to_string()))
        };
        let (ready, message) = network()?;
        assert!(
            !ready && message.contains("vethwall: the node agent is not ready"),
            "{message}"
        );
        node.start_agent("external")?;
        node.until("the network is ready", || Ok(network()?.0))?;
        let open = node.start_pod(&OPEN)?;
        start_sender(node, "new", &open)?;
        assert_enforced_from_the_first(node, "new")?;
        node.end(AGENT, Signal::SIGKILL)?;
        let (ready, message) = network()?;
        assert!(
            !ready && message.contains("vethwall: the node agent is not ready"),
            "{message}"
        );
        Ok(())
    });
}

/// Who is on the bridge for half a second, and the plugin that the runtime calls has not come.
#[test]
fn a_stranger_is_closed_by_what_the_chain_leaves_room_for() {
    let portmap = r#""portMappings": true
      }
    }"#;
    let bandwidth = FLANNEL.replace(portmap, &format!(r#"{portmap}, {{"type": "bandwidth"}}"#));
    assert_ne!(bandwidth, FLANNEL);
    for (list, hook) in [(FLANNEL, Hook::Clsact), (&bandwidth, Hook::Tcx)] {
        on_a_node(Release::Newest, list, |plain| {
            ip("link add cni0 type bridge")?;
            plain.node.steady_agent("own")?;
            ip("link add nobody type veth peer name other")?;
            ip("link set nobody master cni0")?;
            let ifindex = veth::ifindex("nobody").unwrap().unwrap();
            let pins = Pins::new(BPFFS);
            let hangs = |hook| surroundings::endpoint(&pins, ifindex, hook).unwrap() != Presence::Missing;
            plain.node.until("the stranger is closed", || {
                Ok(surroundings::is_judged(&pins, ifindex).unwrap() && hangs(hook))
            })?;
            let other = if hook == Hook::Tcx {
                Hook::Clsact
            } else {
                Hook::Tcx
            };
            assert!(!hangs(other), "{list}");
            Ok(())
        });
    }
}

/// Pods end, vethwall goes, and everything is as flannel left it.
fn leave(plain: &Plain, pods: &[&Pod]) -> Result<()> {
    for pod in pods {
        plain.node.stop_pod(pod)?;
    }
    let done = plain.node.uninstall(&["--purge", "--wait"])?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    plain.node.until("containerd has forgotten us", || {
        Ok(plain.node.chain()? == unchained())
    })?;
    assert_eq!(directory(CONF)?, plain.conf);
    assert_eq!(directory(super::BIN)?, plain.bin);
    assert_eq!(super::Traces::now()?, super::Traces::default());
    Ok(())
}
