//! The judge: NetworkPolicy v1 and ClusterNetworkPolicy v1alpha2 evaluated naively, straight from the API texts.
//!
//! ```text
//! connection ─► source a pod?      ─► its egress  ┐   one direction of one pod:
//!           └─► destination a pod? ─► its ingress ┴─►   itself? ─► Admin ─► NetworkPolicy ─► Baseline ─► allowed
//! ```
//! Written apart from `vethwall-policy` and the border, and sharing nothing with them: it walks Kubernetes objects for
//! every single question, knows no identities, slots or port sets, and is slow. Where both agree on random worlds, the
//! border, the compiler, the maps and the programs are right; where they differ, the comment of the API field decides.
//!
//! Invariants:
//! - No answer is remembered and nothing is derived ahead: each rule of the texts is a line that can be read beside it.
//! - What can not be understood never opens: `Met::Unknown` is decided where it is known what open means.

mod cidr;
mod cluster;
mod network_policy;
pub mod packet;
mod selector;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    networking::v1::NetworkPolicy,
};
use serde_json::Value;

use self::cluster::Said;

/// The objects of a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// Namespaces that have an object.
    pub namespaces: Vec<Namespace>,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// All pods, with `status.podIPs`.
    pub pods: Vec<Pod>,
    /// All NetworkPolicies.
    pub policies: Vec<NetworkPolicy>,
    /// All ClusterNetworkPolicies, as they were written.
    pub cluster_policies: Vec<Value>,
}

/// A packet that opens a connection, as the pod sees it (after address translation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, where the protocol has ports.
    pub port: u16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

/// Whether something matches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Met {
    Yes,
    No,
    /// It is not understood.
    Unknown,
}

fn met(yes: bool) -> Met {
    if yes { Met::Yes } else { Met::No }
}

type Labels = BTreeMap<String, String>;

/// The label that every namespace has (rule 19).
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Annotation of a policy; `audit` makes it one that is only watched.
const MODE: &str = "vethwall.io/mode";

impl World {
    /// Whether a connection from the source address to the destination address is allowed by both ends (rule 3). What
    /// comes from a node's address is taken as generated on that node.
    pub fn allowed(&self, packet: &Packet) -> bool {
        let leaves = self
            .owner(packet.source)
            .is_none_or(|pod| self.egress_allowed(pod, packet));
        let enters = self.owner(packet.destination).is_none_or(|pod| {
            // Rule 39: a kubelet must reach its pods, whatever policies say.
            self.generated_on_the_node_of(pod, packet.source) || self.ingress_allowed(pod, packet)
        });
        leaves && enters
    }

    /// Whether `pod`'s policies let the packet in (the destination's half of rule 3). Who generated it is not asked.
    pub fn ingress_allowed(&self, pod: &Pod, packet: &Packet) -> bool {
        self.side_allowed(pod, packet, Direction::Ingress)
    }

    /// Whether `pod`'s policies let the packet out (the source's half).
    pub fn egress_allowed(&self, pod: &Pod, packet: &Packet) -> bool {
        self.side_allowed(pod, packet, Direction::Egress)
    }

    /// The pod that owns an address: on the pod network (rules 21, 35) and not finished (rule 31). A pod that is being
    /// deleted still does (rule 32).
    pub fn owner(&self, address: IpAddr) -> Option<&Pod> {
        let mut owning = self
            .pods
            .iter()
            .filter(|pod| !on_host_network(pod) && !finished(pod));
        owning.find(|pod| addresses(pod).any(|own| own == address))
    }

    /// The name of the node that has an address.
    pub fn node_of(&self, address: IpAddr) -> Option<&str> {
        let node = self
            .nodes
            .iter()
            .find(|node| node_addresses(node).any(|own| own == address));
        let sharing = || {
            // Rule 35: the traffic of a hostNetwork pod is node traffic.
            let mut pods = self
                .pods
                .iter()
                .filter(|pod| on_host_network(pod) && !finished(pod));
            pods.find(|pod| addresses(pod).any(|own| own == address))
        };
        match node {
            Some(node) => node.metadata.name.as_deref(),
            None => sharing().and_then(node_name),
        }
    }

    /// The same world without the policies that are only watched.
    #[must_use]
    pub fn enforced(&self) -> Self {
        let mut world = self.clone();
        world.policies.retain(|policy| {
            let annotations = policy.metadata.annotations.as_ref();
            annotations.and_then(|all| all.get(MODE)).map(String::as_str) != Some("audit")
        });
        world
            .cluster_policies
            .retain(|policy| policy["metadata"]["annotations"][MODE] != "audit");
        world
    }

    fn generated_on_the_node_of(&self, pod: &Pod, source: IpAddr) -> bool {
        let node = self.node_of(source);
        node.is_some() && node == node_name(pod)
    }

    fn side_allowed(&self, pod: &Pod, packet: &Packet, direction: Direction) -> bool {
        if packet.source == packet.destination {
            return true; // rule 40
        }
        if on_host_network(pod) {
            return true; // rule 35: never subject
        }
        // CNP 1: Admin, then NetworkPolicy, then Baseline, then allow.
        match self.tier_says("Admin", pod, packet, direction) {
            Said::Accept => return true,
            Said::Deny => return false,
            Said::Nothing => {}
        }
        // CNP 2: final for a pod that a NetworkPolicy isolates in this direction.
        if let Some(answer) = self.network_policies_say(pod, packet, direction) {
            return answer;
        }
        match self.tier_says("Baseline", pod, packet, direction) {
            Said::Accept | Said::Nothing => true,
            Said::Deny => false,
        }
    }

    /// The pod whose container ports a named port means (rule 27). On ingress it is the pod that is asked.
    fn destination_pod<'a>(
        &'a self,
        subject: &'a Pod,
        packet: &Packet,
        direction: Direction,
    ) -> Option<&'a Pod> {
        match direction {
            Direction::Ingress => Some(subject),
            Direction::Egress => self.owner(packet.destination),
        }
    }

    /// Rule 19: `kubernetes.io/metadata.name` is there, also where the object lacks it or there is no object.
    fn namespace_labels(&self, name: &str) -> Labels {
        let object = self
            .namespaces
            .iter()
            .find(|namespace| namespace.metadata.name.as_deref() == Some(name));
        let mut labels = object
            .map(|ns| labels_of(&ns.metadata.labels))
            .unwrap_or_default();
        if !labels.contains_key(NAME_LABEL) {
            labels.insert(NAME_LABEL.to_owned(), name.to_owned());
        }
        labels
    }
}

/// A pod has a container port of this name and protocol with this number (rule 27). Of the init containers only
/// restartable ones serve while the pod runs.
fn has_named_port(pod: &Pod, name: &str, protocol: &str, number: u16) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    ports.any(|port| {
        // The empty name is Go's for no name, and the empty protocol is TCP.
        let own_protocol = port.protocol.as_deref().filter(|text| !text.is_empty());
        !name.is_empty()
            && port.name.as_deref() == Some(name)
            && own_protocol.unwrap_or("TCP") == protocol
            && port.container_port == i32::from(number)
    })
}

/// Rule 35.
pub fn on_host_network(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.host_network).unwrap_or(false)
}

/// Rule 31.
pub fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())
}

/// The addresses in a pod's status.
pub fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> + '_ {
    let status = pod.status.as_ref();
    let many = status
        .and_then(|status| status.pod_ips.as_deref())
        .unwrap_or_default()
        .iter()
        .map(|p| &p.ip);
    let one = status.and_then(|status| status.pod_ip.as_ref());
    many.chain(one).filter_map(|text| text.parse().ok())
}

/// The addresses in a node's status that are IP addresses.
pub fn node_addresses(node: &Node) -> impl Iterator<Item = IpAddr> + '_ {
    let all = node
        .status
        .as_ref()
        .and_then(|status| status.addresses.as_deref());
    let all = all.unwrap_or_default().iter();
    all.filter_map(|entry| entry.address.parse().ok())
}

fn labels_of(of: &Option<Labels>) -> Labels {
    of.clone().unwrap_or_default()
}

/// The namespace of an object; `default` where it names none.
pub fn namespace_of(of: &Option<String>) -> &str {
    of.as_deref().filter(|name| !name.is_empty()).unwrap_or("default")
}
