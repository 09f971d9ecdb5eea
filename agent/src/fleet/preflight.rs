//! What is known of a cluster before vethwall is installed.
//!
//! ```text
//! API server ─► nodes, daemonsets, policies, pods ─► Facts ─ judge (pure) ─────► Finding: ok, warn, fail or unknown
//!     └─ probe: a pod a node ─ here ─► log ─► what each says ─ answer::merge (pure) ─►┘
//! ```
//! What only a node knows (bpffs, br_netfilter, the runtime's list of networks) stays unknown unless the nodes are looked at
//! ([`probe`]).

pub mod answer;
pub mod here;
pub mod pod;
pub mod probe;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{Node, Pod},
        networking::v1::NetworkPolicy,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{Api, Client, api::ListParams};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Error;
use crate::k8s::selector::selector;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Nothing stands against an installation.
    Ok,
    /// It will work, and there is something to know.
    Warn,
    /// Nobody could tell.
    Unknown,
    /// It will not work.
    Fail,
}

impl Outcome {
    /// `ok`, `WARN`, `UNKNOWN` or `FAIL`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "WARN",
            Self::Unknown => "UNKNOWN",
            Self::Fail => "FAIL",
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was looked at, a word.
    pub check: Cow<'static, str>,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Names that belong to it: policies, nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

impl Finding {
    fn new(check: &'static str, outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            check: Cow::Borrowed(check),
            outcome,
            message: message.into(),
            hint: None,
            names: Vec::new(),
        }
    }

    fn hint(self, hint: &str) -> Self {
        Self {
            hint: Some(hint.to_owned()),
            ..self
        }
    }

    fn names(self, names: Vec<String>) -> Self {
        Self { names, ..self }
    }
}

/// What the API server told. A list that it refused is an error of its own, and what rests on it unknown.
#[derive(Debug)]
pub struct Facts {
    /// Nodes.
    pub nodes: Vec<Node>,
    /// DaemonSets of all namespaces.
    pub daemonsets: Result<Vec<DaemonSet>, String>,
    /// NetworkPolicies of all namespaces.
    pub policies: Result<Vec<NetworkPolicy>, String>,
    /// Pods of all namespaces.
    pub pods: Result<Vec<Pod>, String>,
}

impl Facts {
    /// Asks the API server.
    ///
    /// # Errors
    ///
    /// Its nodes can not be listed: then there is nothing to say.
    pub async fn gather(client: &Client) -> Result<Self, Error> {
        async fn list<K>(client: &Client, what: &str) -> Result<Vec<K>, Error>
        where
            K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
        {
            let listed = Api::<K>::all(client.clone()).list(&ListParams::default()).await;
            listed
                .map(|list| list.items)
                .map_err(|error| Error::of("list", what, &error))
        }
        fn text<T>(result: Result<T, Error>) -> Result<T, String> {
            result.map_err(|error| error.to_string())
        }
        Ok(Self {
            nodes: list(client, "nodes").await?,
            daemonsets: text(list(client, "daemonsets in all namespaces").await),
            policies: text(list(client, "networkpolicies in all namespaces").await),
            pods: text(list(client, "pods in all namespaces").await),
        })
    }
}

/// Judges a cluster, with what its nodes say where they were looked at.
pub fn judge(facts: &Facts, nodes: Option<Vec<Finding>>) -> Vec<Finding> {
    let enforcers = enforcers(facts);
    let mut findings = vec![platform(facts), flannel(facts), kernels(facts), runtimes(facts)];
    findings.extend(enforcers.findings());
    findings.push(policies(facts, enforcers.any()));
    findings.extend(nodes.unwrap_or_else(|| {
        let unknown = Finding::new(
            "node",
            Outcome::Unknown,
            "bpffs, br_netfilter and the runtime's network lists are known on the nodes only",
        );
        vec![
            unknown
                .hint("--probe looks there, by a pod on each node that only reads and is deleted afterwards"),
        ]
    }));
    findings
}

fn annotation<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    Some(node.metadata.annotations.as_ref()?.get(key)?.as_str())
}

fn name(node: &Node) -> String {
    node.metadata.name.clone().unwrap_or_default()
}

/// A field of `status.nodeInfo`.
fn info<'n>(
    node: &'n Node,
    field: impl Fn(&'n k8s_openapi::api::core::v1::NodeSystemInfo) -> &'n str,
) -> &'n str {
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    info.map_or("", field)
}

fn is_k3s(facts: &Facts) -> bool {
    facts
        .nodes
        .iter()
        .any(|node| info(node, |info| &info.kubelet_version).contains("+k3s"))
}

fn platform(facts: &Facts) -> Finding {
    let versions: BTreeSet<&str> = facts
        .nodes
        .iter()
        .map(|node| info(node, |info| &info.kubelet_version))
        .collect();
    let kind = if is_k3s(facts) {
        "k3s"
    } else if versions.iter().any(|version| version.contains("+rke2")) {
        "RKE2"
    } else {
        "Kubernetes"
    };
    let versions: Vec<&str> = versions.into_iter().collect();
    let message = format!("{kind} {}, {} nodes", versions.join(", "), facts.nodes.len());
    if facts.nodes.is_empty() {
        return Finding::new("platform", Outcome::Fail, "the cluster has no nodes");
    }
    Finding::new("platform", Outcome::Ok, message)
}

/// flanneld writes its back end into the node (flannel pkg/subnet/kube).
fn flannel(facts: &Facts) -> Finding {
    const BACKEND: &str = "flannel.alpha.coreos.com/backend-type";
    let mut backends: BTreeMap<&str, usize> = BTreeMap::new();
    let mut without = Vec::new();
    for node in &facts.nodes {
        match annotation(node, BACKEND) {
            Some(backend) => *backends.entry(backend).or_default() += 1,
            None => without.push(name(node)),
        }
    }
    let all: Vec<String> = backends
        .iter()
        .map(|(backend, nodes)| format!("{backend} on {nodes}"))
        .collect();
    let all = all.join(", ");
    if backends.is_empty() {
        return Finding::new(
            "flannel",
            Outcome::Fail,
            "no node has flannel's annotation: flannel is not this cluster's network",
        )
        .hint("vethwall enforces on flannel's bridge; on Canal and others see docs/migrating.md");
    }
    if !without.is_empty() {
        return Finding::new("flannel", Outcome::Warn, format!("{all}; not on all nodes")).names(without);
    }
    Finding::new("flannel", Outcome::Ok, all)
}

/// `5.15` of `5.15.0-119-generic`.
fn kernel(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

const OLDEST: (u32, u32) = (5, 10);
/// From here on there is tcx.
const TCX: (u32, u32) = (6, 6);

fn kernels(facts: &Facts) -> Finding {
    let mut old = Vec::new();
    let mut unread = Vec::new();
    let (mut oldest, mut clsact) = (None, 0);
    for node in &facts.nodes {
        let text = info(node, |info| &info.kernel_version);
        match kernel(text) {
            None => unread.push(format!("{} ({text})", name(node))),
            Some(version) => {
                if version < OLDEST {
                    old.push(format!("{} ({text})", name(node)));
                }
                clsact += usize::from(version < TCX);
                oldest = Some(oldest.map_or(version, |known: (u32, u32)| known.min(version)));
            }
        }
    }
    if !old.is_empty() {
        return Finding::new("kernel", Outcome::Fail, "older than Linux 5.10").names(old);
    }
    if !unread.is_empty() {
        return Finding::new("kernel", Outcome::Unknown, "a version that is not understood").names(unread);
    }
    let (major, minor) = oldest.unwrap_or_default();
    let mut message = format!("Linux {major}.{minor} or newer");
    if clsact > 0 {
        message.push_str(&format!("; filters of clsact on {clsact} older than 6.6"));
    }
    Finding::new("kernel", Outcome::Ok, message)
}

fn runtimes(facts: &Facts) -> Finding {
    let mut runtimes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for node in &facts.nodes {
        let runtime = info(node, |info| &info.container_runtime_version);
        let kind = runtime.split("://").next().unwrap_or_default();
        runtimes.entry(kind.to_owned()).or_default().push(name(node));
    }
    let others: Vec<String> = runtimes
        .iter()
        .filter(|(kind, _)| *kind != "containerd")
        .flat_map(|(kind, nodes)| nodes.iter().map(move |node| format!("{node} ({kind})")))
        .collect();
    if others.is_empty() {
        return Finding::new("runtime", Outcome::Ok, "containerd on all nodes");
    }
    Finding::new(
        "runtime",
        Outcome::Warn,
        "not only containerd, which alone was tried",
    )
    .names(others)
}

/// Who enforces NetworkPolicy now.
#[derive(Default)]
struct Enforcers {
    found: Vec<String>,
    unknown: Option<String>,
}

/// DaemonSets by a piece of an image's name, and what they are.
const IMAGES: [(&str, &str); 6] = [
    ("calico/node", "Calico (Canal)"),
    ("cilium/cilium", "Cilium"),
    ("kube-router", "kube-router"),
    ("kube-network-policies", "kube-network-policies"),
    ("weave-npc", "Weave Net"),
    ("antrea", "Antrea"),
];

fn enforcers(facts: &Facts) -> Enforcers {
    let mut all = Enforcers::default();
    match &facts.daemonsets {
        Err(why) => all.unknown = Some(why.clone()),
        Ok(daemonsets) => {
            for daemonset in daemonsets {
                let spec = daemonset.spec.template.spec.as_ref();
                let containers = spec.map_or(&[][..], |spec| &spec.containers);
                let images = containers
                    .iter()
                    .filter_map(|container| container.image.as_deref());
                for image in images {
                    if let Some((_, what)) = IMAGES.iter().find(|(piece, _)| image.contains(piece)) {
                        all.found.push(format!(
                            "{what} (daemonset {}/{})",
                            daemonset.metadata.namespace.as_deref().unwrap_or_default(),
                            daemonset.metadata.name.as_deref().unwrap_or_default()
                        ));
                        break;
                    }
                }
            }
        }
    }
    // k3s tells its arguments in the node, a JSON list (k3s pkg/nodeconfig).
    let built_in = |node: &&Node| {
        let arguments = annotation(node, "k3s.io/node-args").unwrap_or_default();
        info(node, |info| &info.kubelet_version).contains("+k3s")
            && arguments.contains("\"server\"")
            && !arguments.contains("disable-network-policy")
    };
    let servers: Vec<String> = facts.nodes.iter().filter(built_in).map(name).collect();
    if !servers.is_empty() {
        all.found.push(format!(
            "k3s' built-in controller (servers {})",
            servers.join(", ")
        ));
    }
    all
}

impl Enforcers {
    fn any(&self) -> bool {
        !self.found.is_empty()
    }

    fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for found in &self.found {
            findings.push(
                Finding::new(
                    "enforcer",
                    Outcome::Warn,
                    format!("{found} enforces policies: beside it, a packet passes only what both allow"),
                )
                .hint("docs/migrating.md says in which order to go"),
            );
        }
        if let Some(why) = &self.unknown {
            findings.push(Finding::new(
                "enforcer",
                Outcome::Unknown,
                format!("whether somebody enforces is not known: {why}"),
            ));
        } else if self.found.is_empty() {
            findings.push(Finding::new(
                "enforcer",
                Outcome::Ok,
                "nobody enforces policies here",
            ));
        }
        findings
    }
}

/// Policies that are there, and the pods that they isolate from the moment of the installation.
fn policies(facts: &Facts, enforced: bool) -> Finding {
    let (policies, pods) = match (&facts.policies, &facts.pods) {
        (Ok(policies), Ok(pods)) => (policies, pods),
        (Err(why), _) | (_, Err(why)) => return Finding::new("policies", Outcome::Unknown, why.clone()),
    };
    if policies.is_empty() {
        return Finding::new(
            "policies",
            Outcome::Ok,
            "there are none: nothing changes until there is one",
        );
    }
    let mut selected = BTreeSet::new();
    let mut namespaces = BTreeSet::new();
    let mut names = Vec::new();
    for policy in policies {
        let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
        let selector = policy
            .spec
            .as_ref()
            .and_then(|spec| spec.pod_selector.clone())
            .unwrap_or_default();
        names.push(format!(
            "{namespace}/{}",
            policy.metadata.name.as_deref().unwrap_or_default()
        ));
        namespaces.insert(namespace);
        for pod in pods {
            let host = pod
                .spec
                .as_ref()
                .is_some_and(|spec| spec.host_network == Some(true));
            if !host && pod.metadata.namespace.as_deref() == Some(namespace) && matches(&selector, pod) {
                selected.insert((namespace, pod.metadata.name.as_deref().unwrap_or_default()));
            }
        }
    }
    let (count, of) = (policies.len(), selected.len());
    let spaces = namespaces.len();
    if enforced {
        let message = format!(
            "{count} policies in {spaces} namespaces select {of} pods; what another engine enforces of them may differ"
        );
        return Finding::new("policies", Outcome::Warn, message).names(names);
    }
    Finding::new(
        "policies",
        Outcome::Warn,
        format!("{count} policies in {spaces} namespaces that nobody enforces today select {of} pods, and take effect at once"),
    )
    .hint("see what they would deny first: install with --set config.mode=audit; or try them offline: vethwall policy lint, vethwall explain --manifests")
    .names(names)
}

fn matches(written: &LabelSelector, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    // A selector that can not be evaluated isolates nobody here; the agent tells of it.
    selector(written).is_ok_and(|selector| selector.matches(&labels))
}

#[cfg(test)]
mod tests;
