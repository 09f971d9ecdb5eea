//! A node's life under real container runtimes: the distribution's containerd and the newest, without a kubelet.
//!
//! ```text
//! new (egress: open, TCP 80) ── vethwall ──► open   TCP 80, TCP 81 and UDP 53; from anywhere
//!                                      ╳──► old    TCP 80; nothing may come in
//! ```
//!
//! Pods send from their first instruction, and those that receive tell what arrived: what policy forbids never does.

mod broken;
mod chain;
mod life;

use std::{collections::BTreeMap, fs, path::Path, thread, time::Duration};

use anyhow::{Result, anyhow};
use vethwall_datapath::{Pins, attach};
use vethwall_tests::{
    cni::{self, BIN, CONF, FLANNEL},
    runtime::{Node, Pod, Release, Spec, Traces},
    sandbox::{self, BPFFS},
};

/// The pods of all tests, and their policies.
const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: shop, uid: u-old, labels: {in: nothing}}
---
apiVersion: v1
kind: Pod
metadata: {name: open, namespace: shop, uid: u-open, labels: {app: open}}
---
apiVersion: v1
kind: Pod
metadata: {name: early, namespace: shop, uid: u-early}
---
apiVersion: v1
kind: Pod
metadata: {name: new, namespace: shop, uid: u-new, labels: {out: little}}
---
apiVersion: v1
kind: Pod
metadata: {name: late, namespace: shop, uid: u-late, labels: {out: little}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nothing-in, namespace: shop}
spec: {podSelector: {matchLabels: {in: nothing}}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: little-out, namespace: shop}
spec:
  podSelector: {matchLabels: {out: little}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: open}}}]
    ports: [{port: 80}]
";

/// Our sentence, which a kubelet shows in the pod's events.
const DELAYED: &str = "the pod's start is delayed so that it cannot run without its NetworkPolicies";

const OLD: Spec<'_> = Spec {
    name: "old",
    host_network: false,
    arguments: &["receive", "tcp/80"],
};
const OPEN: Spec<'_> = Spec {
    name: "open",
    host_network: false,
    arguments: &["receive", "tcp/80", "tcp/81", "udp/53"],
};

/// A node as kube-flannel leaves it, and what is in its CNI directories.
struct Plain {
    node: Node,
    conf: BTreeMap<String, Vec<u8>>,
    bin: BTreeMap<String, Vec<u8>>,
}

/// Runs a test on such a node, in a sandbox of its own.
fn on_a_node(release: Release, list: &str, test: impl FnOnce(&Plain) -> Result<()> + Send) {
    let outcome = sandbox::run(|| {
        cni::install(list)?;
        let (conf, bin) = (directory(CONF)?, directory(BIN)?);
        let node = Node::boot(release)?;
        node.manifests(OBJECTS)?;
        let plain = Plain { node, conf, bin };
        test(&plain).map_err(|error| anyhow!("{error:#}\n{}", plain.node.logs()))
    });
    outcome.unwrap_or_else(|error| panic!("{release:?}: {error:#}"));
}

fn directory(path: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let entries = fs::read_dir(path)?.map(|entry| {
        let entry = entry?;
        let file = entry.path();
        let content = if file.is_file() {
            fs::read(&file)?
        } else {
            Vec::new()
        };
        Ok((entry.file_name().to_string_lossy().into_owned(), content))
    });
    entries.collect()
}

/// A pod that sends to `to` what policy allows and what it does not, from its first instruction.
fn start_sender(node: &Node, name: &str, to: &Pod) -> Result<Pod> {
    let address = to.address.expect("a pod with a network of its own");
    let targets =
        ["tcp/IP:80", "tcp/IP:81", "udp/IP:53"].map(|target| target.replace("IP", &address.to_string()));
    let [first, second, third] = targets.each_ref().map(String::as_str);
    node.start_pod(&Spec {
        name,
        host_network: false,
        arguments: &["send", "20", first, second, third],
    })
}

/// What of `from` has arrived at `at`, by port.
fn arrived(node: &Node, at: &str, from: &str) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for line in node.said_by(at)? {
        // got tcp/80 SENDER NUMBER
        let words: Vec<&str> = line.split(' ').collect();
        if let ["got", port, sender, _] = words.as_slice()
            && *sender == from
        {
            *counts.entry((*port).to_owned()).or_default() += 1;
        }
    }
    Ok(counts)
}

/// That a sender is under its policy, and was with its very first packets: what is allowed was answered at once, what is
/// not was tried and never arrived.
fn assert_enforced_from_the_first(node: &Node, sender: &str) -> Result<()> {
    let tries = |port: &str, outcome: &str| -> Result<bool> {
        let said = node.said_by(sender)?;
        Ok(said
            .iter()
            .any(|line| line.starts_with("sent 3 ") && line.contains(port) && line.ends_with(outcome)))
    };
    node.until("the sender has tried everything", || {
        Ok(tries(":80 ", "answered")? && tries(":81 ", "silent")? && tries(":53 ", "silent")?)
    })?;
    let said = node.said_by(sender)?;
    assert!(
        said.iter()
            .any(|line| line.starts_with("sent 0 tcp/") && line.ends_with(":80 answered")),
        "{said:?}"
    );
    let came = arrived(node, "open", sender)?;
    assert_eq!(came.keys().collect::<Vec<_>>(), ["tcp/80"], "{came:?}");
    Ok(())
}

/// The error of something that must fail, in full.
fn refused<T: std::fmt::Debug>(outcome: Result<T>) -> String {
    format!("{:#}", outcome.unwrap_err())
}

/// Pinned links in force: two a pod, once it has settled on tcx, and the bridge's.
fn programs() -> Result<usize> {
    Ok(Traces::now()?.programs)
}

/// Pins of programs whose interfaces are gone.
fn dead_pins() -> Result<usize> {
    let links = attach::links(&Pins::new(BPFFS))?;
    Ok(links.iter().filter(|link| !link.alive).count())
}

fn own_list() -> bool {
    Path::new(CONF).join("05-vethwall.conflist").exists()
}

/// Long enough for what is sent every 20 ms to have arrived, were it let through.
fn a_moment() {
    thread::sleep(Duration::from_millis(400));
}

/// Flannel's plugins, and ours behind them where it is in force.
fn chained() -> Vec<String> {
    ["flannel", "portmap", "vethwall-cni"].map(str::to_owned).to_vec()
}

fn unchained() -> Vec<String> {
    let mut plugins = chained();
    plugins.pop();
    plugins
}

fn plain(release: Release, test: impl FnOnce(&Plain) -> Result<()> + Send) {
    on_a_node(release, FLANNEL, test);
}
