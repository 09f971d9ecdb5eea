//! The node goes down in the middle of an install, an upgrade or an uninstall.
//!
//! ```text
//! step ─ power off ─► /run, bpffs, interfaces gone; /etc, /opt, /var kept ─► what the node starts ─► steady, or as flannel left it
//! ```
//! In between no pod is reached that policy forbids: a list that names the plugin lets no pod start without the agent.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use vethwall_cni::retired;
use vethwall_datapath::{Choice, Hook, Kernel, Pins, attach, surroundings, veth};
use vethwall_tests::{
    cni::{BIN, CONF, FLANNEL, write_list},
    kernel::has_tcx,
    sandbox::{self, BPFFS, command, ip, program},
};

use crate::{
    chain::{Agent, directory, endpoints, plain_node, pod, starts, status, uninstall, until, vethwall},
    plugin::node::{Node, text},
};

/// What is done to a node, one step after the other; the power fails after one of them.
type Step = (&'static str, fn());

const INSTALL: [Step; 4] = [
    ("the plugin is there", install),
    ("programs are loaded", || {
        drop(Kernel::load_or_adopt(BPFFS).unwrap())
    }),
    ("pods are attached", || {
        let _agent = Agent::start("off");
        until("the agent is ready", || status()["ready"] == true);
    }),
    ("the chain names us", || drop(Agent::steady("own"))),
];
const UPGRADE: [Step; 3] = [
    ("the next version is loaded", || {
        drop(Kernel::load_with(next(), &Default::default()).unwrap())
    }),
    ("it has the bridge", || {
        let bridge = veth::ifindex("cni0").unwrap().unwrap();
        attach::attach_bridge(&next(), bridge, "cni0", Choice::Best).unwrap();
    }),
    ("it has everything", || {
        let _agent = Agent::of("vethwall-next", "own");
        until("the next version has taken over", || {
            !Pins::new(BPFFS).root().exists()
        });
    }),
];
const UNINSTALL: [Step; 4] = [
    ("the plugin is retired", || {
        fs::write(Path::new(BIN).join(retired::MARK), "").unwrap()
    }),
    ("the chain names us no more", || {
        fs::remove_file(Path::new(CONF).join("05-vethwall.conflist")).unwrap()
    }),
    ("programs are off", || {
        attach::remove_all(&Pins::new(BPFFS)).unwrap()
    }),
    ("the plugin is gone", || {
        let done = uninstall(&["--purge"]);
        assert!(done.status.success(), "{}", text(&done));
    }),
];

fn next() -> Pins {
    Pins::of(BPFFS, vethwall_common::ABI_VERSION + 1)
}

fn install() {
    let plugin = program("vethwall-cni").unwrap();
    let done = vethwall(&[
        "install",
        "--cni-bin-dir",
        BIN,
        "--plugin",
        plugin.to_str().unwrap(),
    ]);
    assert!(done.status.success(), "{}", text(&done));
}

/// Everything in memory is gone: processes (the caller's agent has ended), interfaces, bpffs, /run without what stands for
/// /etc and /opt here.
fn reboot() {
    for name in ["old", "new"] {
        ip(&format!("netns del {name}")).unwrap();
    }
    for interface in surroundings::interfaces().unwrap() {
        if interface.name != "lo" && veth::ifindex(&interface.name).unwrap().is_some() {
            ip(&format!("link del {}", interface.name)).unwrap();
        }
    }
    command("umount", &[BPFFS]).unwrap();
    command("mount", &["-t", "bpf", "bpf", BPFFS]).unwrap();
    for what in ["-F", "-X"] {
        command("iptables", &["-t", "nat", what]).unwrap();
    }
    let _none = fs::remove_dir_all("/run/vethwall");
    for name in ["old", "new"] {
        ip(&format!("netns add {name}")).unwrap();
    }
}

/// What a pod's address is, once it is started.
fn start(node: &Node, name: &str) -> IpAddr {
    let output = pod(node, "add", name);
    assert!(output.status.success(), "{}", text(&output));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let address = result["ips"][0]["address"].as_str().unwrap();
    address.split('/').next().unwrap().parse().unwrap()
}

fn stop(node: &Node, name: &str) {
    let output = pod(node, "del", name);
    assert!(output.status.success(), "{}", text(&output));
}

/// Whether `old` reaches an address, where nobody listens: a refusal is an answer.
fn reached(address: IpAddr) -> bool {
    let attempt = thread::spawn(move || {
        setns(
            fs::File::open("/run/netns/old").unwrap(),
            CloneFlags::CLONE_NEWNET,
        )
        .unwrap();
        TcpStream::connect_timeout(&SocketAddr::new(address, 9), Duration::from_millis(500)).unwrap_err()
    });
    let error = attempt.join().unwrap();
    let refused = error.kind() == std::io::ErrorKind::ConnectionRefused;
    assert!(refused || error.kind() == std::io::ErrorKind::TimedOut, "{error}");
    refused
}

/// As flannel left it: the directories, and nothing of ours in the kernel.
fn assert_plain(before: &[BTreeMap<String, Vec<u8>>; 2], why: &str) {
    assert_eq!([directory(CONF), directory(BIN)], *before, "{why}");
    assert!(!Path::new(BPFFS).join("vethwall").exists(), "{why}");
    for interface in surroundings::interfaces().unwrap() {
        for hook in [Hook::Tcx, Hook::Clsact] {
            assert!(
                attached(&interface.name, hook).is_empty(),
                "{why}: {}",
                interface.name
            );
        }
    }
}

fn attached(name: &str, hook: Hook) -> String {
    use aya::programs::{SchedClassifier, TcAttachType};
    match hook {
        Hook::Tcx => [TcAttachType::Ingress, TcAttachType::Egress]
            .into_iter()
            // A kernel without tcx has none.
            .filter_map(|side| SchedClassifier::query_tcx(name, side).ok())
            .flat_map(|(_, programs)| programs)
            .map(|program| format!("{} ", program.id()))
            .collect(),
        Hook::Clsact => {
            let shown = command("tc", &["qdisc", "show", "dev", name]).unwrap();
            shown.lines().filter(|line| line.contains("clsact")).collect()
        }
    }
}

fn names_us() -> bool {
    Path::new(CONF).join("05-vethwall.conflist").exists()
}

/// What the node's owner wants when it comes back.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    Vethwall,
    /// No more, but an agent is started all the same.
    Gone,
    /// No more, and nothing starts agents.
    Forgotten,
}

/// A node where these steps were done; then the power fails, and it comes back.
fn interrupted(steps: &[&[Step]], wanted: Wanted) {
    sandbox::run(|| {
        let (node, before) = plain_node();
        assert!(
            reached(start(&node, "new")),
            "without vethwall everything arrives"
        );
        stop(&node, "new");
        let mut why = "nothing was done";
        for (name, step) in steps.iter().copied().flatten() {
            why = name;
            step();
        }
        reboot();
        write_list(FLANNEL).unwrap();
        // The runtime is there before the agent is, and takes down what it had.
        for name in ["old", "new"] {
            stop(&node, name);
        }
        if names_us() && wanted == Wanted::Vethwall {
            let refused = pod(&node, "add", "new");
            assert!(!refused.status.success(), "{why}: a pod starts without the agent");
            stop(&node, "new");
        }
        let agent = (wanted != Wanted::Forgotten).then(|| Agent::start("own"));
        if wanted == Wanted::Vethwall {
            until(why, || status()["phase"] == "steady");
        } else {
            until(why, || !names_us());
        }
        starts(&node, "old");
        let address = start(&node, "new");
        if wanted == Wanted::Vethwall {
            let states = endpoints();
            assert!(
                states.len() == 2 && states.values().all(|state| state == "enforcing"),
                "{why}: {states:?}"
            );
        }
        assert_eq!(reached(address), wanted != Wanted::Vethwall, "{why}");
        for name in ["old", "new"] {
            stop(&node, name);
        }
        let purged = uninstall(&["--purge"]);
        assert!(purged.status.success(), "{why}: {}", text(&purged));
        drop(agent);
        assert_plain(&before, why);
        assert_eq!(node.leftovers(), (0, 0), "{why}");
    });
}

#[test]
fn power_fails_during_an_install() {
    for done in 0..=INSTALL.len() {
        interrupted(&[&INSTALL[..done]], Wanted::Vethwall);
    }
}

#[test]
fn power_fails_during_an_upgrade() {
    for done in 1..=UPGRADE.len() {
        interrupted(&[&INSTALL, &UPGRADE[..done]], Wanted::Vethwall);
    }
}

#[test]
fn power_fails_during_an_uninstall() {
    for done in 1..=UNINSTALL.len() {
        let wanted = if done < UNINSTALL.len() {
            Wanted::Gone
        } else {
            Wanted::Forgotten
        };
        interrupted(&[&INSTALL, &UNINSTALL[..done]], wanted);
    }
}

/// The processes alone end, again and again while they take a node over from each other.
#[test]
fn agents_that_are_killed_while_they_take_over_leave_one_judge_on_every_hook() {
    sandbox::run(|| {
        let (node, before) = plain_node();
        let address = start(&node, "new");
        drop(Agent::steady("own"));
        assert!(!reached(address));
        let names: Vec<String> = surroundings::interfaces()
            .unwrap()
            .into_iter()
            .map(|interface| interface.name)
            .filter(|name| name.starts_with("veth"))
            .collect();
        assert_eq!(names.len(), 2);
        for turn in 0..24 {
            let agent = Agent::of(["vethwall-next", "vethwall"][turn % 2], "own");
            thread::sleep(Duration::from_millis(turn as u64 * 25));
            drop(agent);
            for name in &names {
                let programs = attached(name, Hook::Tcx);
                if has_tcx().unwrap() {
                    assert_eq!(
                        programs.split(' ').filter(|id| !id.is_empty()).count(),
                        2,
                        "{turn}: {name} {programs}"
                    );
                }
            }
            assert!(!reached(address), "{turn}");
        }
        for (name, abi) in [("vethwall-next", 2), ("vethwall", 1)] {
            let _agent = Agent::of(name, "own");
            until("it has taken over", || {
                let pins = Pins::of(BPFFS, abi);
                pins.others().unwrap().is_empty() && status()["phase"] == "steady"
            });
            assert!(!reached(address));
            assert_eq!(
                attach::links(&Pins::of(BPFFS, abi)).unwrap().len(),
                if has_tcx().unwrap() { 5 } else { 0 }
            );
        }
        for name in ["old", "new"] {
            stop(&node, name);
        }
        assert!(uninstall(&["--purge"]).status.success());
        assert_plain(&before, "after all");
    });
}
