//! What the world is asked.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{Space, Stamp, World};
use crate::model::{ClusterNetworkPolicy, Endpoint, Labels, Namespace, NetworkPolicy, Node, Pod, canonical};

impl World {
    /// The node the world is seen from.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Whether every pod there is has its object here.
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// All namespaces that have an object.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.spaces.values().filter_map(|space| space.object.as_ref())
    }

    /// Labels of a namespace. One without an object has its name as its only label.
    pub fn namespace_labels(&self, name: &str) -> Cow<'_, Labels> {
        match self.spaces.get(name) {
            Some(space) => Cow::Borrowed(space.labels()),
            None => Cow::Owned(Space::new(name).name_only),
        }
    }

    /// All pods.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.spaces
            .values()
            .flat_map(|space| space.pods.values().map(Arc::as_ref))
    }

    /// Everything by namespace.
    pub(crate) const fn spaces(&self) -> &BTreeMap<String, Space> {
        &self.spaces
    }

    /// One pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.spaces.get(namespace)?.pods.get(name).map(Arc::as_ref)
    }

    /// The pods that can be peers (SEMANTICS 21, 31, 35) and have this address in their status.
    pub fn pods_with(&self, address: IpAddr) -> &[Arc<Pod>] {
        self.claimants
            .get(&address.to_canonical())
            .map_or(&[], Vec::as_slice)
    }

    /// The addresses that more than one pod which can be a peer has.
    pub(crate) const fn contested(&self) -> &BTreeSet<IpAddr> {
        &self.contested
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// All policies in force.
    pub fn policies(&self) -> impl Iterator<Item = &NetworkPolicy> {
        self.spaces.values().flat_map(Space::all_policies)
    }

    /// The policies in force in a namespace.
    pub fn policies_of(&self, namespace: &str) -> impl Iterator<Item = &NetworkPolicy> {
        self.spaces
            .get(namespace)
            .into_iter()
            .flat_map(Space::all_policies)
    }

    /// All ClusterNetworkPolicies, by name.
    pub fn cluster_policies(&self) -> impl Iterator<Item = &ClusterNetworkPolicy> {
        self.cluster_policies.values()
    }

    pub(crate) const fn cluster_stamp(&self) -> Stamp {
        self.cluster_stamp
    }

    /// All local interfaces, by index.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values()
    }

    /// The pod behind a local interface: same namespace and name, and same UID unless one side does not know it. A pod
    /// that was made anew under an old name is another pod (SEMANTICS 34); of a static pod the runtime knows another UID
    /// than the API (SEMANTICS 38).
    pub fn pod_of(&self, endpoint: &Endpoint) -> Option<&Pod> {
        let pod = self.pod(&endpoint.namespace, &endpoint.pod)?;
        let known = [Some(&pod.uid), pod.config_hash.as_ref()];
        let same = known.into_iter().flatten().any(|uid| *uid == endpoint.uid);
        (same || pod.uid.is_empty() || endpoint.uid.is_empty()).then_some(pod)
    }

    /// Addresses of this node.
    pub fn own_addresses(&self) -> BTreeSet<IpAddr> {
        let own = self.nodes.get(&self.node);
        let listed = own
            .into_iter()
            .flat_map(|node| node.addresses.iter().map(IpAddr::to_canonical));
        listed.chain(self.node_addresses.iter().copied()).collect()
    }

    /// The node that has an address: this one, one whose object lists it, or else one whose pods name it as theirs.
    pub fn node_of(&self, address: IpAddr) -> Option<&str> {
        let address = address.to_canonical();
        if self.own_addresses().contains(&address) {
            return Some(&self.node);
        }
        let lists = |node: &&Node| node.addresses.iter().any(|own| own.to_canonical() == address);
        let named = || self.hosts.get(&address)?.keys().next().map(String::as_str);
        self.nodes
            .values()
            .find(lists)
            .map(|node| node.name.as_str())
            .or_else(named)
    }

    /// Every network in which pods have addresses.
    pub fn pod_networks(&self) -> BTreeSet<IpNet> {
        let nodes = self
            .nodes
            .values()
            .flat_map(|node| node.pod_cidrs.iter().copied().map(canonical));
        nodes.chain(self.pod_network.iter().copied()).collect()
    }
}
