//! The objects that policy is about, reduced to what policy needs.
//!
//! The border that decodes Kubernetes objects builds these. What it can not understand it still says, in the closed
//! form: [`Peer::Nothing`], [`PortMatch::Nothing`], [`Selector::everything`] for the pods that a policy isolates.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Serialize;

pub use crate::selector::{Operator, Requirement, Selector};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels; the world adds `kubernetes.io/metadata.name` where it is absent.
    pub labels: Labels,
    /// It is being deleted: its policies stay in force until its pods are gone (SEMANTICS 37).
    pub terminating: bool,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `metadata.uid`; empty where the input has none.
    pub uid: String,
    /// Of a static pod the UID that the runtime knows: the hash of its configuration (SEMANTICS 38).
    pub config_hash: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// The node it is bound to.
    pub node: Option<String>,
    /// `status.hostIPs`: addresses of that node, whether or not it has an object.
    pub host_addresses: Vec<IpAddr>,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// Shares the node's network: never selected by policy (SEMANTICS 21, 35).
    pub host_network: bool,
    /// Succeeded or Failed: owns no address any more (SEMANTICS 31).
    pub finished: bool,
    /// Ports of its containers, restartable init containers included.
    pub ports: Vec<ContainerPort>,
}

impl Pod {
    /// Whether it can be a selector peer (SEMANTICS 21, 31, 35).
    pub(crate) const fn is_peer(&self) -> bool {
        !self.host_network && !self.finished
    }
}

/// A port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// IP protocol number.
    pub protocol: u8,
    /// Its number.
    pub port: u16,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// `status.addresses` that are IP addresses.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
}

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The pods it isolates.
    pub pod_selector: Selector,
    /// Ingress rules; `None` where `policyTypes` lacks Ingress (SEMANTICS 5, 6).
    pub ingress: Option<Vec<Rule>>,
    /// Egress rules; `None` where `policyTypes` lacks Egress.
    pub egress: Option<Vec<Rule>>,
    /// In force, or only watched; `None` where nobody said, and the world's mode holds.
    pub mode: Option<Mode>,
}

/// A ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNetworkPolicy {
    /// Its name.
    pub name: String,
    /// Before or after the NetworkPolicies.
    pub tier: Tier,
    /// 0 to 1000; the lower is asked first within its tier, equal ones by name.
    pub priority: u16,
    /// Namespaces of the pods it acts on.
    pub namespaces: Selector,
    /// The pods in them.
    pub pods: Selector,
    /// Its ingress rules, in order; without any it says nothing of ingress.
    pub ingress: Vec<ClusterRule>,
    /// Its egress rules.
    pub egress: Vec<ClusterRule>,
    /// In force, or only watched; `None` where nobody said, and the world's mode holds.
    pub mode: Option<Mode>,
}

/// Where a ClusterNetworkPolicy stands: Admin, then NetworkPolicies, then Baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Tier {
    /// Before the NetworkPolicies.
    Admin,
    /// After them.
    Baseline,
}

/// What a rule of a ClusterNetworkPolicy does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum RuleAction {
    /// Allows it; no later rule is asked.
    Accept,
    /// Denies it; no later rule is asked.
    Deny,
    /// Skips the rest of the tier.
    Pass,
}

/// One rule of a ClusterNetworkPolicy: acts where both peers and ports match.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterRule {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// What it does.
    pub action: RuleAction,
    /// The other ends.
    pub peers: Peers,
    /// The destination ports.
    pub ports: Ports,
}

/// Whether a policy drops packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It only tells what it would drop.
    Audit,
}

/// One rule: matches where both peers and ports match (SEMANTICS 8).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The other ends.
    pub peers: Peers,
    /// The destination ports.
    pub ports: Ports,
}

/// Peers of a rule. Absence and emptiness both mean all (SEMANTICS 9), so the border must say which it met.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peers {
    /// Every source or destination, external addresses and nodes included.
    All,
    /// Any of these.
    Some(Vec<Peer>),
}

/// Ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ports {
    /// Every port of every protocol.
    All,
    /// Any of these.
    Some(Vec<PortMatch>),
}

/// One entry of `from` or `to`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// Pods by selectors.
    Pods {
        /// Selects namespaces; `None` is the policy's own.
        namespaces: Option<Selector>,
        /// Selects pods in them.
        pods: Selector,
    },
    /// Addresses: `cidr` minus every `except`.
    Block {
        /// The block.
        cidr: IpNet,
        /// Holes in it.
        except: Vec<IpNet>,
    },
    /// Addresses of the nodes that the selector selects.
    Nodes(Selector),
    /// An invalid peer (SEMANTICS 15), or one of an unknown kind in a rule that accepts (CNP 6).
    Nothing,
    /// A peer of an unknown kind in a rule that denies or passes: it fails closed (CNP 6).
    Everything,
}

/// One entry of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortMatch {
    /// All ports of a protocol.
    Protocol(u8),
    /// Port numbers, inclusive.
    Range {
        /// IP protocol number.
        protocol: u8,
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
    /// A container port of the destination pod, by name and protocol (SEMANTICS 27).
    Named {
        /// IP protocol number.
        protocol: u8,
        /// The port's name.
        name: String,
    },
    /// An entry that can not match: invalid, or a protocol that does not exist (SEMANTICS 28).
    Nothing,
    /// An entry of an unknown kind in a rule that denies or passes: every protocol and port (CNP 6).
    Everything,
}

/// A local interface of a pod, as the plugin or the agent found it. It lives from ADD to DEL, whatever the API says of
/// the pod (SEMANTICS 33).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Index of the host-side veth.
    pub ifindex: u32,
    /// MAC address of the pod's side.
    pub mac: [u8; 6],
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's UID as the runtime gave it; may be empty.
    pub uid: String,
}

/// Any object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A namespace.
    Namespace(Namespace),
    /// A pod.
    Pod(Pod),
    /// A node.
    Node(Node),
    /// A NetworkPolicy.
    NetworkPolicy(NetworkPolicy),
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy(ClusterNetworkPolicy),
}

impl Object {
    /// What names the object.
    pub fn key(&self) -> ObjectKey {
        let (kind, namespace, name) = match self {
            Self::Namespace(o) => (Kind::Namespace, "", &o.name),
            Self::Pod(o) => (Kind::Pod, o.namespace.as_str(), &o.name),
            Self::Node(o) => (Kind::Node, "", &o.name),
            Self::NetworkPolicy(o) => (Kind::NetworkPolicy, o.namespace.as_str(), &o.name),
            Self::ClusterNetworkPolicy(o) => (Kind::ClusterNetworkPolicy, "", &o.name),
        };
        ObjectKey {
            kind,
            namespace: namespace.to_owned(),
            name: name.clone(),
        }
    }
}

/// Kind of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`Namespace`].
    Namespace,
    /// [`Pod`].
    Pod,
    /// [`Node`].
    Node,
    /// [`NetworkPolicy`].
    NetworkPolicy,
    /// [`ClusterNetworkPolicy`].
    ClusterNetworkPolicy,
}

/// Names an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// What it is.
    pub kind: Kind,
    /// Its namespace; empty where the kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Names a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PolicyRef {
    /// Its namespace; empty for a ClusterNetworkPolicy.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// The network that a CIDR means: host bits cleared, an IPv4-mapped one as IPv4, as Go's `net.ParseCIDR` and
/// `IPNet.Contains` treat them (SEMANTICS 24).
pub fn canonical(cidr: IpNet) -> IpNet {
    match cidr.trunc() {
        IpNet::V6(net) => mapped(net).map_or(IpNet::V6(net), IpNet::V4),
        net @ IpNet::V4(_) => net,
    }
}

fn mapped(net: Ipv6Net) -> Option<Ipv4Net> {
    const MAPPED: u8 = 96;
    let (addr, length) = (
        net.addr().to_ipv4_mapped()?,
        net.prefix_len().checked_sub(MAPPED)?,
    );
    Ipv4Net::new(addr, length).ok()
}
