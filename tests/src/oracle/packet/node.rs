//! A node as its programs know it, in the words of an admin: pods, who their peers are, what policy says about them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A way through a pod's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Towards the pod.
    In,
    /// From the pod.
    Out,
}

impl Way {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::In => Self::Out,
            Self::Out => Self::In,
        }
    }
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// IPv4 destinations are judged at the bridge.
    pub bridge_v4: bool,
    /// IPv6 destinations are.
    pub bridge_v6: bool,
    /// MAC address of the bridge.
    #[serde(default = "bridge_mac")]
    pub bridge_mac: [u8; 6],
    /// `ownNodeEgress: allow`.
    pub own_node_egress: bool,
    /// `existingConnections: keep`.
    pub keep_connections: bool,
    /// A connection that has ended is forgotten at once.
    pub forget_ended: bool,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// What is known of other addresses.
    pub others: Vec<Other>,
    /// What is known of networks.
    pub networks: Vec<Network>,
}

fn bridge_mac() -> [u8; 6] {
    [2, 0, 0, 0, 0, 2]
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    /// Its interface on the node.
    pub interface: u32,
    /// Its number, as a tag carries it.
    pub index: u16,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Its policy is in force.
    pub in_force: bool,
    /// Who it is, to policies.
    pub class: String,
    /// Policy towards it.
    pub ingress: Policy,
    /// Policy from it.
    pub egress: Policy,
}

/// The policy of one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Rises with each change.
    pub version: u32,
    /// No policy selects the pod.
    pub open: bool,
    /// A ClusterNetworkPolicy is among the policies.
    pub cluster: bool,
    /// What those get of whom no rule speaks.
    pub anybody: bool,
    /// By the class of the peer.
    pub rules: BTreeMap<String, Rule>,
}

/// What one class of peers gets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Where no port decides.
    pub rest: bool,
    /// The ranges are written as a set of ports.
    pub set: bool,
    /// Disjoint ranges.
    pub ports: Vec<Ports>,
}

/// A range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// The protocol.
    pub protocol: u8,
    /// The first one.
    pub first: u16,
    /// The last one, included.
    pub last: u16,
    /// Whether they are allowed.
    pub allowed: bool,
}

/// What an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A pod of another node.
    Pod,
    /// This node.
    ThisNode,
    /// Something else that policies speak about.
    Named,
}

/// An address that is no local pod's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Other {
    /// The address.
    pub address: IpAddr,
    /// What it is.
    pub kind: Kind,
    /// Who it is, to policies.
    pub class: String,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// The network.
    pub network: IpNet,
    /// It is the pods', or part of it.
    pub pods: bool,
    /// Who its addresses are, to policies.
    pub class: String,
}

/// Who an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// To policies.
    pub class: String,
    /// An address in the pods' network: nothing translates it.
    pub pod: bool,
    /// This node.
    pub own_node: bool,
}

impl Peer {
    /// There is no such address.
    pub fn nobody() -> Self {
        Self {
            class: NOBODY.to_owned(),
            pod: true,
            own_node: false,
        }
    }
}

/// The class of those of whom nothing is known.
pub const WORLD: &str = "world";
/// The class of an address in the pods' network whose owner is not known.
pub const UNKNOWN_POD: &str = "unknown-pod";
/// The class of an address that there is not. No rule speaks of it.
pub const NOBODY: &str = "nobody";

impl Node {
    /// The pod behind an interface, whose policy is in force.
    pub fn pod(&self, interface: u32) -> Option<&Pod> {
        self.pods
            .iter()
            .find(|pod| pod.interface == interface && pod.in_force)
    }

    /// The local pod that has an address.
    pub fn owner(&self, address: IpAddr) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.addresses.contains(&address))
    }

    /// The local pod of this number.
    pub fn numbered(&self, index: u32) -> Option<&Pod> {
        self.pods.iter().find(|pod| u32::from(pod.index) == index)
    }

    fn network_of(&self, address: IpAddr) -> Option<&Network> {
        let containing = self
            .networks
            .iter()
            .filter(|network| network.network.contains(&address));
        containing.max_by_key(|network| network.network.prefix_len())
    }

    /// Who an address is. `forwarded`: it is the source of a packet that did not begin here; an address of this node
    /// then hides somebody else, and counts as any address of its network does.
    pub fn peer(&self, address: IpAddr, forwarded: bool) -> Peer {
        if let Some(pod) = self.owner(address) {
            return Peer {
                class: pod.class.clone(),
                pod: true,
                own_node: false,
            };
        }
        if address == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            return Peer::nobody();
        }
        let known = self.others.iter().find(|other| other.address == address);
        let masked = forwarded && known.is_some_and(|other| other.kind == Kind::ThisNode);
        if let Some(other) = known.filter(|_| !masked) {
            return Peer {
                class: other.class.clone(),
                pod: other.kind == Kind::Pod,
                own_node: other.kind == Kind::ThisNode,
            };
        }
        let network = self.network_of(address);
        Peer {
            class: network.map_or_else(|| WORLD.to_owned(), |network| network.class.clone()),
            pod: network.is_some_and(|network| network.pods) && !masked,
            own_node: false,
        }
    }
}

impl Pod {
    /// Policy of one direction.
    pub fn policy(&self, way: Way) -> &Policy {
        match way {
            Way::In => &self.ingress,
            Way::Out => &self.egress,
        }
    }

    /// Whether the address is its own.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Its address of a family.
    pub fn address(&self, six: bool) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv6() == six)
    }
}

impl Policy {
    /// Whether somebody may, at a protocol and, where it has ports, a port.
    pub fn allows(&self, class: &str, protocol: u8, port: Option<u16>) -> bool {
        if self.open {
            return true;
        }
        let Some(rule) = self.rules.get(class) else {
            return self.anybody;
        };
        let decides = |range: &&Ports| {
            range.protocol == protocol && port.is_some_and(|port| range.first <= port && port <= range.last)
        };
        rule.ports
            .iter()
            .find(decides)
            .map_or(rule.rest, |range| range.allowed)
    }

    /// Whether it lets those pass of whom no rule speaks.
    pub fn lets_anybody(&self) -> bool {
        self.open || self.anybody
    }
}
