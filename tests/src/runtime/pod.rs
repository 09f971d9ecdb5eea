//! Pods, by way of the container runtime's interface as a kubelet uses it: a sandbox, one container in it.

use std::{fs, net::IpAddr, path::PathBuf, sync::atomic::Ordering};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Node, image};
use crate::lab::Tap;

const NAMESPACE: &str = "shop";
const LOGS: &str = "/run/pods";

/// A pod that runs.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name, in the namespace `shop`. Its UID is `u-NAME`.
    pub name: String,
    /// The runtime's name for its sandbox.
    pub sandbox: String,
    /// Its address; none with the node's own network.
    pub address: Option<IpAddr>,
}

/// What there is to say about a pod before it runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spec<'a> {
    /// Its name.
    pub name: &'a str,
    /// With the node's own network.
    pub host_network: bool,
    /// What `vethwall-pod` is told: `src/bin/vethwall-pod.rs`.
    pub arguments: &'a [&'a str],
}

impl Node {
    /// Starts a pod as a kubelet does. The error is the runtime's.
    pub fn start_pod(&self, spec: &Spec<'_>) -> Result<Pod> {
        // A sandbox that did not start keeps its name until it is removed.
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        let directory = format!("{LOGS}/{}", spec.name);
        fs::create_dir_all(&directory)?;
        let network = if spec.host_network { 2 } else { 0 };
        let sandbox = json!({
            "metadata": {"name": spec.name, "namespace": NAMESPACE, "uid": format!("u-{}", spec.name), "attempt": attempt},
            "hostname": if spec.host_network { "" } else { spec.name },
            "log_directory": directory,
            "linux": {
                "cgroup_parent": format!("/{}", self.cgroup),
                "security_context": {"namespace_options": {"network": network}},
            },
        });
        let container = json!({
            "metadata": {"name": "main", "attempt": 0},
            "image": {"image": image::IMAGE},
            "command": [image::PROGRAM],
            "args": spec.arguments,
            "log_path": "main.log",
            "linux": {},
        });
        let (sandbox_file, container_file) = (
            format!("{directory}/sandbox.json"),
            format!("{directory}/main.json"),
        );
        fs::write(&sandbox_file, sandbox.to_string())?;
        fs::write(&container_file, container.to_string())?;
        let id = self.crictl(&["runp", &sandbox_file])?.trim().to_owned();
        let main = self.crictl(&["create", &id, &container_file, &sandbox_file])?;
        self.crictl(&["start", main.trim()])?;
        let status: Value = serde_json::from_str(&self.crictl(&["inspectp", "--output", "json", &id])?)?;
        let address = status["status"]["network"]["ip"].as_str().unwrap_or_default();
        Ok(Pod {
            name: spec.name.to_owned(),
            sandbox: id,
            address: if address.is_empty() {
                None
            } else {
                Some(address.parse()?)
            },
        })
    }

    /// Sees all that comes in at a pod's interface. It keeps the pod's network namespace, until it is dropped.
    pub fn tap(&self, pod: &Pod) -> Result<Tap> {
        let status: Value =
            serde_json::from_str(&self.crictl(&["inspectp", "--output", "json", &pod.sandbox])?)?;
        let pid = &status["info"]["pid"];
        let netns = self.root().join(format!("proc/{pid}/ns/net"));
        Tap::inside(&netns, "eth0").with_context(|| format!("listen at {}", pod.name))
    }

    /// Takes a pod down: `StopPodSandbox` (here CNI DEL is called), then `RemovePodSandbox`.
    pub fn stop_pod(&self, pod: &Pod) -> Result<()> {
        self.crictl(&["stopp", &pod.sandbox])?;
        self.crictl(&["rmp", &pod.sandbox]).map(drop)
    }

    /// Takes down what did not start, or has ended, as a kubelet does again and again. Returns how many.
    pub fn sweep(&self) -> Result<usize> {
        let sandboxes = self.crictl(&["pods", "--state", "NotReady", "--quiet"])?;
        for sandbox in sandboxes.lines() {
            self.crictl(&["stopp", sandbox])?;
            self.crictl(&["rmp", sandbox])?;
        }
        Ok(sandboxes.lines().count())
    }

    /// What a pod's program has said, the last line last.
    pub fn said_by(&self, pod: &str) -> Result<Vec<String>> {
        let file = Self::log_of(pod);
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(text.lines().filter_map(Self::line_of_log).collect())
    }

    /// The file into which the runtime writes what a pod's program says.
    pub fn log_of(pod: &str) -> PathBuf {
        format!("{LOGS}/{pod}/main.log").into()
    }

    /// What the program said, in a line of that file.
    pub fn line_of_log(line: &str) -> Option<String> {
        // TIME stdout F the line
        line.splitn(4, ' ').nth(3).map(str::to_owned)
    }
}
