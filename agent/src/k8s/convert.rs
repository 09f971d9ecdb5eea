//! Kubernetes objects into [`vethwall_policy::model`]: the one place that knows both.
//!
//! What the API server would refuse can still stand in a file or, stored by an older server, in the API. It is never
//! skipped: a policy selects as written, the part of it that makes no sense matches nothing, and a [`Problem`] with a
//! stable code tells.

mod cidr;
mod cluster;
mod cluster_entry;
mod policy;
mod selector;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use vethwall_common::protocol;
use vethwall_policy::model::{
    ContainerPort, Labels, Mode, Namespace, NetworkPolicy, Node, Object, Pod, PolicyRef, Tier,
};

pub use self::cidr::parse_cidr;
use self::cidr::parse_ip;
use super::cluster_network_policy::GROUP;
use crate::manifests::{DEFAULT_NAMESPACE, Isolated, Isolation, Manifest, Sourced, View};

/// Annotation of a namespace or a policy: `enforce` or `audit`.
pub const MODE: &str = "vethwall.io/mode";

/// Annotation that holds a static pod's UID as the runtime knows it (SEMANTICS 38).
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// Something in an object that can not be done as asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, where one is known.
    pub file: Option<PathBuf>,
    /// The object's first line; 0 where unknown.
    pub line: usize,
    /// The policy, where one is concerned.
    pub policy: Option<PolicyRef>,
    /// Stable code.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Stable codes of problems.
pub mod code {
    /// A peer without a field, or with an ipBlock beside selectors.
    pub const PEER: &str = "POL001";
    /// A CIDR that is none.
    pub const CIDR: &str = "POL002";
    /// A port or a range of ports that is none.
    pub const PORT: &str = "POL003";
    /// A protocol that policies do not know.
    pub const PROTOCOL: &str = "POL004";
    /// A policy type that is none.
    pub const POLICY_TYPE: &str = "POL005";
    /// A selector that can not be evaluated.
    pub const SELECTOR: &str = "POL006";
    /// A mode that is none.
    pub const MODE: &str = "POL007";
    /// An except that lies outside its block.
    pub const EXCEPT: &str = "POL008";
    /// A kind of policy that is not enforced.
    pub const KIND: &str = "POL009";
    /// A policy that was never understood isolates what it selects.
    pub const ISOLATES: &str = "POL010";
    /// Two ClusterNetworkPolicies of one tier with the same priority.
    pub const PRIORITY: &str = "POL011";
    /// A peer of a ClusterNetworkPolicy that is not understood, or a rule without peers. It fails closed.
    pub const CLUSTER_PEER: &str = "POL012";
    /// An entry of `protocols` of a ClusterNetworkPolicy that is not understood. It fails closed.
    pub const CLUSTER_PROTOCOL: &str = "POL013";
    /// An action that is none: the rule denies.
    pub const ACTION: &str = "POL014";
    /// A tier that is none: the policy denies as one of the Admin tier, and neither accepts nor passes.
    pub const TIER: &str = "POL015";
}

/// What a view means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Converted {
    /// The objects.
    pub objects: Vec<Object>,
    /// What is wrong with them.
    pub problems: Vec<Problem>,
}

/// Converts all objects of a view.
pub fn convert(view: &View) -> Converted {
    let mut converter = Converter::default();
    for sourced in &view.objects {
        if let Manifest::Namespace(namespace) = &*sourced.object {
            converter.begin(sourced, None);
            converter.namespace(namespace);
        }
    }
    for sourced in &view.objects {
        converter.object(sourced);
    }
    for isolation in &view.isolations {
        converter.isolation(isolation);
    }
    converter.equal_priorities();
    Converted {
        objects: converter.objects,
        problems: converter.problems,
    }
}

#[derive(Default)]
struct Converter {
    objects: Vec<Object>,
    problems: Vec<Problem>,
    /// Modes of namespaces that name one.
    modes: BTreeMap<String, Mode>,
    /// Where the object at hand stands.
    file: Option<PathBuf>,
    line: usize,
    policy: Option<PolicyRef>,
    /// The ClusterNetworkPolicies met so far, by the place they are asked at.
    ranks: Ranks,
}

/// ClusterNetworkPolicies by tier and priority, and where each stands.
type Ranks = BTreeMap<(Tier, u16), Vec<(String, Option<PathBuf>, usize)>>;

impl Converter {
    fn begin(&mut self, sourced: &Sourced, policy: Option<PolicyRef>) {
        self.file = Some(sourced.file.clone());
        self.line = sourced.line;
        self.policy = policy;
    }

    fn problem(&mut self, code: &'static str, message: String) {
        let (file, line, policy) = (self.file.clone(), self.line, self.policy.clone());
        self.problems.push(Problem {
            file,
            line,
            policy,
            code,
            message,
        });
    }

    fn object(&mut self, sourced: &Sourced) {
        self.begin(sourced, None);
        match &*sourced.object {
            Manifest::Namespace(_) | Manifest::Service(_) => {}
            Manifest::Pod(object) => self.objects.push(pod(object)),
            Manifest::Node(object) => self.objects.push(node(object)),
            Manifest::NetworkPolicy(object) => {
                let (namespace, name) = names(&object.metadata);
                self.policy = Some(PolicyRef { namespace, name });
                let policy = self.network_policy(object);
                self.objects.push(Object::NetworkPolicy(policy));
            }
            Manifest::ClusterNetworkPolicy(object) => {
                let policy = self.cluster_policy(object);
                self.objects.push(Object::ClusterNetworkPolicy(policy));
            }
            Manifest::Other {
                api_version,
                kind,
                name,
                ..
            } => {
                if api_version
                    .split_once('/')
                    .is_some_and(|(group, _)| group == GROUP)
                {
                    self.problem(
                        code::KIND,
                        format!("{kind} {name} is not enforced by this version"),
                    );
                }
            }
        }
    }

    fn namespace(&mut self, object: &core::Namespace) {
        let name = object.metadata.name.clone().unwrap_or_default();
        if let Some(mode) = self.mode(&object.metadata) {
            self.modes.insert(name.clone(), mode);
        }
        let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
        self.objects.push(Object::Namespace(Namespace {
            name,
            labels: labels(&object.metadata),
            terminating: object.metadata.deletion_timestamp.is_some() || phase == Some("Terminating"),
        }));
    }

    /// A policy that nobody could read in full: isolates both ways (SEMANTICS 18).
    fn isolation(&mut self, isolation: &Isolation) {
        let Isolation { file, line, name, of } = isolation;
        (self.file, self.line) = (Some(file.clone()), *line);
        let (namespace, selects) = match of {
            Isolated::NetworkPolicy { namespace, pods } => (
                namespace.as_str(),
                pods.as_ref().map_or("every pod of its namespace", |_| SELECTED),
            ),
            Isolated::ClusterNetworkPolicy { namespaces, pods, .. } => {
                let known = namespaces.is_some() || pods.is_some();
                ("", if known { SELECTED } else { "every pod" })
            }
        };
        self.policy = Some(PolicyRef {
            namespace: namespace.to_owned(),
            name: name.clone(),
        });
        self.problem(
            code::ISOLATES,
            format!("it could not be read and no good version of it is known: {selects} may neither send nor receive"),
        );
        let object = match of {
            Isolated::NetworkPolicy { namespace, pods } => Object::NetworkPolicy(NetworkPolicy {
                namespace: namespace.clone(),
                name: name.clone(),
                pod_selector: self.subject("spec.podSelector", pods.as_ref()),
                ingress: Some(Vec::new()),
                egress: Some(Vec::new()),
                mode: None,
            }),
            Isolated::ClusterNetworkPolicy {
                namespaces,
                pods,
                mode,
            } => {
                let mode = mode.as_ref().map(|mode| self.mode_named(mode));
                let (namespaces, pods) = (namespaces.as_ref(), pods.as_ref());
                Object::ClusterNetworkPolicy(self.closed(name.clone(), namespaces, pods, mode))
            }
        };
        self.objects.push(object);
    }

    fn mode(&mut self, metadata: &ObjectMeta) -> Option<Mode> {
        let value = metadata.annotations.as_ref()?.get(MODE)?;
        Some(self.mode_named(value))
    }

    fn mode_named(&mut self, value: &str) -> Mode {
        match value {
            "enforce" => Mode::Enforce,
            "audit" => Mode::Audit,
            other => {
                self.problem(
                    code::MODE,
                    format!("{MODE}: expected enforce or audit, found {other:?}; it is enforced"),
                );
                Mode::Enforce
            }
        }
    }
}

/// The pods of a policy whose selectors can be read.
const SELECTED: &str = "the pods it selects";

fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "TCP" => Some(protocol::TCP),
        "UDP" => Some(protocol::UDP),
        "SCTP" => Some(protocol::SCTP),
        _ => None,
    }
}

fn names(metadata: &ObjectMeta) -> (String, String) {
    let namespace = metadata.namespace.as_deref().filter(|name| !name.is_empty());
    (
        namespace.unwrap_or(DEFAULT_NAMESPACE).to_owned(),
        metadata.name.clone().unwrap_or_default(),
    )
}

fn labels(metadata: &ObjectMeta) -> Labels {
    metadata.labels.clone().unwrap_or_default()
}

/// What policy needs of a pod.
pub(crate) fn pod(object: &core::Pod) -> Object {
    let (namespace, name) = names(&object.metadata);
    let annotations = object.metadata.annotations.as_ref();
    let config_hash = annotations.and_then(|annotations| annotations.get(CONFIG_HASH));
    let spec = object.spec.clone().unwrap_or_default();
    let status = object.status.clone().unwrap_or_default();
    let host_network = spec.host_network.unwrap_or(false);
    let own = status.pod_ips.into_iter().flatten().map(|entry| entry.ip);
    let mut addresses = parse_all(own.chain(status.pod_ip));
    let node = status.host_ips.into_iter().flatten().map(|entry| entry.ip);
    let host_addresses = parse_all(node.chain(status.host_ip));
    if host_network && addresses.is_empty() {
        addresses.clone_from(&host_addresses);
    }
    // Sidecars: init containers that stay (SEMANTICS 27).
    let sidecars = spec
        .init_containers
        .into_iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .into_iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.unwrap_or_default());
    Object::Pod(Pod {
        namespace,
        name,
        uid: object.metadata.uid.clone().unwrap_or_default(),
        config_hash: config_hash.cloned(),
        labels: labels(&object.metadata),
        node: spec.node_name,
        host_addresses,
        addresses,
        host_network,
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        ports: ports.filter_map(|port| container_port(&port)).collect(),
    })
}

/// Each address once, in the order of the text. What is no address is none.
fn parse_all(texts: impl Iterator<Item = String>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for address in texts.filter_map(|text| parse_ip(&text)) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn container_port(port: &core::ContainerPort) -> Option<ContainerPort> {
    Some(ContainerPort {
        name: port.name.clone().filter(|name| !name.is_empty()),
        protocol: port
            .protocol
            .as_deref()
            .map_or(Some(protocol::TCP), protocol_number)?,
        port: u16::try_from(port.container_port).ok().filter(|port| *port > 0)?,
    })
}

/// What policy needs of a node.
pub(crate) fn node(object: &core::Node) -> Object {
    let spec = object.spec.clone().unwrap_or_default();
    let status = object.status.clone().unwrap_or_default();
    let cidrs = spec.pod_cidrs.into_iter().flatten().chain(spec.pod_cidr);
    let mut pod_cidrs: Vec<IpNet> = cidrs.filter_map(|text| parse_cidr(&text)).collect();
    pod_cidrs.sort();
    pod_cidrs.dedup();
    Object::Node(Node {
        name: object.metadata.name.clone().unwrap_or_default(),
        labels: labels(&object.metadata),
        // Host names are no addresses.
        addresses: status
            .addresses
            .into_iter()
            .flatten()
            .filter_map(|entry| parse_ip(&entry.address))
            .collect(),
        pod_cidrs,
    })
}
