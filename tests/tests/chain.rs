//! A node's life under the real libcni: chained, restarted, upgraded by flannel, uninstalled.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use vethwall_cni::{code, retired};
use vethwall_datapath::{Pins, attach};
use vethwall_tests::{
    cni::{BIN, CONF, FLANNEL, write_list},
    hooks,
    sandbox::{self, BPFFS, ip, program},
};

use crate::plugin::node::{Node, call, error, text};

pub(crate) const MANIFESTS: &str = "/run/manifests";
const PATIENCE: Duration = Duration::from_secs(20);

/// Pods `old` and `new`, and a policy that lets nothing in.
const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: shop, uid: u-old}
---
apiVersion: v1
kind: Pod
metadata: {name: new, namespace: shop, uid: u-new}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

pub(crate) struct Agent(Child);

impl Agent {
    pub(crate) fn start(mode: &str) -> Self {
        Self::of("vethwall", mode)
    }

    /// Another program as the agent.
    pub(crate) fn of(name: &str, mode: &str) -> Self {
        Self::with(name, &["--manifests", MANIFESTS], mode)
    }

    /// An agent of a cluster.
    pub(crate) fn of_cluster(kubeconfig: &str, mode: &str) -> Self {
        Self::with("vethwall", &["--kubeconfig", kubeconfig], mode)
    }

    /// The same, with a namespace where agents tell each other of new pods.
    pub(crate) fn at_home(kubeconfig: &str, namespace: &str, mode: &str) -> Self {
        let source = ["--kubeconfig", kubeconfig, "--namespace", namespace];
        Self::with("vethwall", &source, mode)
    }

    fn with(name: &str, source: &[&str], mode: &str) -> Self {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open("/run/agent.log")
            .unwrap();
        let child = Command::new(program(name).unwrap())
            .arg("agent")
            .args(source)
            .args(["--node", "n", "--chain", mode])
            .args(["--cni-conf-dir", CONF, "--cni-bin-dir", BIN, "--plugin"])
            .arg(program("vethwall-cni").unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }

    pub(crate) fn steady(mode: &str) -> Self {
        let agent = Self::start(mode);
        until("the agent is steady", || status()["phase"] == "steady");
        agent
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }

    pub(crate) fn terminate(mut self) {
        self.signal(Signal::SIGTERM);
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        let log = || fs::read_to_string("/run/agent.log").unwrap_or_default();
        assert!(
            start.elapsed() < PATIENCE,
            "{what}: not in time: {}\n{}",
            status(),
            log()
        );
        thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn vethwall(args: &[&str]) -> Output {
    Command::new(program("vethwall").unwrap())
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

pub(crate) fn uninstall(more: &[&str]) -> Output {
    vethwall(&[&["uninstall", "--cni-conf-dir", CONF, "--cni-bin-dir", BIN], more].concat())
}

/// Null while nobody answers.
pub(crate) fn status() -> Value {
    serde_json::from_slice(&vethwall(&["status", "-o", "json"]).stdout).unwrap_or_default()
}

pub(crate) fn endpoints() -> BTreeMap<String, String> {
    let status = status();
    let endpoints = status["endpoints"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    endpoints
        .iter()
        .map(|e| (text(&e["pod"]), text(&e["state"])))
        .collect()
}

pub(crate) fn directory(path: &str) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let content = if entry.path().is_file() {
            fs::read(entry.path()).unwrap()
        } else {
            Vec::new()
        };
        files.insert(entry.file_name().into_string().unwrap(), content);
    }
    files
}

pub(crate) fn pod(node: &Node, verb: &str, name: &str) -> Output {
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};K8S_POD_UID=u-{name}");
    node.cnitool_as(verb, &format!("/run/netns/{name}"), &args)
}

pub(crate) fn starts(node: &Node, name: &str) {
    let output = pod(node, "add", name);
    assert!(output.status.success(), "{}", text(&output));
}

/// A node as kube-flannel leaves it, with a pod that runs; and what is in its CNI directories.
pub(crate) fn plain_node() -> (Node, [BTreeMap<String, Vec<u8>>; 2]) {
    let node = Node::new(FLANNEL);
    fs::remove_file(Path::new(BIN).join("vethwall-cni")).unwrap();
    fs::create_dir(MANIFESTS).unwrap();
    fs::write(Path::new(MANIFESTS).join("all.yaml"), OBJECTS).unwrap();
    for name in ["old", "new"] {
        ip(&format!("netns add {name}")).unwrap();
    }
    let before = [directory(CONF), directory(BIN)];
    starts(&node, "old");
    (node, before)
}

pub(crate) fn programs() -> usize {
    hooks::judging(&Pins::new(BPFFS)).unwrap()
}

#[test]
fn a_node_is_chained_and_left_as_it_was() {
    for (mode, rewritten) in [("own", false), ("patch", true)] {
        sandbox::run(|| {
            let (node, [conf, bin]) = plain_node();
            let agent = Agent::steady(mode);
            // The pod that ran is enforced, and was not restarted.
            assert_eq!(endpoints(), [("old".into(), "enforcing".into())].into());
            assert_eq!(
                directory(CONF)["10-flannel.conflist"] != conf["10-flannel.conflist"],
                rewritten
            );
            // flannel's pod starts again and writes its list; k3s does at every start.
            write_list(FLANNEL).unwrap();
            until("chained again", || {
                let chain = &status()["chain"];
                chain["state"] == "chained" && (!rewritten || chain["repairs"] == 1)
            });
            starts(&node, "new");
            assert_eq!(endpoints()["new"], "enforcing");
            assert_eq!(programs(), 5);

            // Without an agent everything stays, and no pod starts unprotected.
            agent.terminate();
            assert_eq!(programs(), 5);
            assert!(pod(&node, "del", "new").status.success());
            let refused = pod(&node, "add", "new");
            assert!(
                !refused.status.success() && text(&refused).contains("agent is not ready"),
                "{}",
                text(&refused)
            );
            assert!(pod(&node, "del", "new").status.success());
            let agent = Agent::steady(mode);
            assert_eq!(endpoints(), [("old".into(), "enforcing".into())].into());
            starts(&node, "new");

            // `new` has our plugin in its cached result, `old` has not.
            let done = uninstall(&["-o", "json"]);
            assert!(done.status.success(), "{}", text(&done));
            let told: Value = serde_json::from_slice(&done.stdout).unwrap();
            assert_eq!(
                (told["plugin"].as_str(), told["namedBy"].as_array().unwrap().len()),
                (Some("retired"), 1),
                "{told}"
            );
            assert_eq!(directory(CONF), conf);
            assert_eq!(
                (programs(), Path::new(BPFFS).join("vethwall").exists()),
                (0, false)
            );
            assert_eq!(status()["phase"], "removed");
            drop(agent);
            // It can be said again, and the plugin waits for its pod.
            assert_eq!(uninstall(&["--purge"]).status.code(), Some(3));
            assert!(pod(&node, "del", "new").status.success());
            let purged = uninstall(&["--purge", "--wait"]);
            assert!(purged.status.success(), "{}", text(&purged));
            assert_eq!((directory(CONF), directory(BIN)), (conf, bin));
            // flannel goes on.
            starts(&node, "new");
            for name in ["old", "new"] {
                assert!(pod(&node, "del", name).status.success());
            }
            assert_eq!(node.leftovers(), (0, 0));
        });
    }
}

#[test]
fn a_retired_plugin_lets_everything_pass_until_it_is_installed_again() {
    sandbox::run(|| {
        let (_node, _) = plain_node();
        let mut agent = Agent::steady("own");
        let done = uninstall(&[]);
        assert!(done.status.success(), "{}", text(&done));
        let result = "{ \"cniVersion\":\"1.1.0\",\t\"ips\" : [] }";
        let config = format!(
            "{{\"cniVersion\":\"1.1.0\",\"name\":\"cbr0\",\"type\":\"vethwall-cni\",\"prevResult\":{result}}}"
        );
        let retired = |verb: &str| {
            let plugin = Path::new(BIN).join("vethwall-cni");
            let mut child = Command::new(plugin)
                .env_clear()
                .env("CNI_COMMAND", verb)
                .env("CNI_PATH", BIN)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), config.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            (output.status.success(), String::from_utf8(output.stdout).unwrap())
        };
        let elsewhere = vethwall(&["uninstall", "--cni-conf-dir", "/nowhere", "--cni-bin-dir", BIN]);
        assert!(elsewhere.status.code() == Some(2) && text(&elsewhere).contains("--cni-conf-dir"));
        // A runtime that has the old chain in memory; a list of somebody else that still names us.
        assert_eq!(retired("ADD"), (true, result.to_owned()));
        for verb in ["DEL", "CHECK", "GC", "STATUS"] {
            assert_eq!(retired(verb), (true, String::new()), "{verb}");
        }
        // The same plugin elsewhere is not retired.
        assert_eq!(
            error(call(
                "ADD",
                &[("CNI_NETNS", "/run/netns/old"), ("CNI_IFNAME", "eth0")],
                &config
            ))
            .0,
            u64::from(code::ENVIRONMENT)
        );

        // Installed again, the agent that let go of everything ends, for whoever starts agents to start one.
        let install = || {
            let plugin = program("vethwall-cni").unwrap();
            let done = vethwall(&[
                "install",
                "--cni-bin-dir",
                BIN,
                "--plugin",
                plugin.to_str().unwrap(),
            ]);
            assert!(done.status.success(), "{}", text(&done));
            assert!(!Path::new(BIN).join(retired::MARK).exists());
        };
        install();
        until("the agent ended", || agent.0.try_wait().unwrap().is_some());
        assert!(!agent.0.wait().unwrap().success());
        assert!(!Path::new(CONF).join("05-vethwall.conflist").exists());
        let again = Agent::steady("own");
        assert_eq!(endpoints(), [("old".into(), "enforcing".into())].into());

        // An agent that is started after an uninstall, by a kubelet for one, stays away until then.
        assert!(uninstall(&[]).status.success());
        drop(again);
        // Once more when the agent is gone, as the chart does: nothing of it is left.
        assert!(Path::new("/run/vethwall/cni.sock").exists());
        assert!(uninstall(&[]).status.success());
        assert_eq!(fs::read_dir("/run/vethwall").unwrap().count(), 0);
        let _idle = Agent::start("own");
        thread::sleep(Duration::from_secs(2));
        assert_eq!(
            (programs(), Path::new(CONF).join("05-vethwall.conflist").exists()),
            (0, false)
        );
        install();
        until("the agent took over", || status()["phase"] == "steady");
        assert_eq!(endpoints(), [("old".into(), "enforcing".into())].into());
    });
}

#[test]
fn an_uninstall_may_be_interrupted_anywhere() {
    sandbox::run(|| {
        for steps in 0..4 {
            let (node, [conf, bin]) = if steps == 0 {
                plain_node()
            } else {
                (Node::again(), [directory(CONF), directory(BIN)])
            };
            if steps > 0 {
                starts(&node, "old");
            }
            let agent = Agent::steady("own");
            // The agent is killed, and with it whoever uninstalls, after so many of the steps.
            drop(agent);
            if steps > 0 {
                fs::write(Path::new(BIN).join(retired::MARK), "").unwrap();
            }
            if steps > 1 {
                fs::remove_file(Path::new(CONF).join("05-vethwall.conflist")).unwrap();
            }
            if steps > 2 {
                attach::remove_all(&Pins::new(BPFFS)).unwrap();
            }
            let done = uninstall(&["--purge"]);
            assert!(done.status.success(), "after {steps}: {}", text(&done));
            assert_eq!(
                (directory(CONF), directory(BIN), programs()),
                (conf, bin, 0),
                "after {steps}"
            );
            assert!(pod(&node, "del", "old").status.success());
        }
    });
}
