//! The objects as they are now.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::model::{
    ClusterNetworkPolicy, Endpoint, Kind, Labels, Namespace, NetworkPolicy, Node, Object, ObjectKey, Pod,
    canonical,
};

/// The label that every namespace has (SEMANTICS 19).
pub const METADATA_NAME: &str = "kubernetes.io/metadata.name";

/// Everything that policy depends on, seen from one node. A function of the current objects only: however they came,
/// equal contents compare equal.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    node: String,
    namespaces: BTreeMap<String, Namespace>,
    pods: BTreeMap<String, BTreeMap<String, Pod>>,
    nodes: BTreeMap<String, Node>,
    policies: BTreeMap<String, BTreeMap<String, NetworkPolicy>>,
    cluster_policies: BTreeMap<String, ClusterNetworkPolicy>,
    endpoints: BTreeMap<u32, Endpoint>,
    pod_network: BTreeSet<IpNet>,
    node_addresses: BTreeSet<IpAddr>,
}

impl World {
    /// An empty world, seen from this node.
    pub fn new(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            policies: BTreeMap::new(),
            cluster_policies: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            pod_network: BTreeSet::new(),
            node_addresses: BTreeSet::new(),
        }
    }

    /// Adds an object, or replaces the one of its name.
    pub fn apply(&mut self, object: Object) {
        match object {
            Object::Namespace(mut namespace) => {
                let name = namespace.name.clone();
                namespace
                    .labels
                    .entry(METADATA_NAME.to_owned())
                    .or_insert_with(|| name.clone());
                self.namespaces.insert(name, namespace);
            }
            Object::Pod(pod) => {
                self.pods
                    .entry(pod.namespace.clone())
                    .or_default()
                    .insert(pod.name.clone(), pod);
            }
            Object::Node(node) => _ = self.nodes.insert(node.name.clone(), node),
            Object::NetworkPolicy(policy) => {
                let namespace = self.policies.entry(policy.namespace.clone()).or_default();
                namespace.insert(policy.name.clone(), policy);
            }
            Object::ClusterNetworkPolicy(policy) => {
                self.cluster_policies.insert(policy.name.clone(), policy);
            }
        }
    }

    /// Removes an object; nothing happens where there is none.
    pub fn delete(&mut self, key: &ObjectKey) {
        match key.kind {
            Kind::Namespace => _ = self.namespaces.remove(&key.name),
            Kind::Pod => remove(&mut self.pods, key),
            Kind::Node => _ = self.nodes.remove(&key.name),
            Kind::NetworkPolicy => remove(&mut self.policies, key),
            Kind::ClusterNetworkPolicy => _ = self.cluster_policies.remove(&key.name),
        }
    }

    /// Makes these all the objects there are. Local interfaces stay: they are not objects.
    pub fn replace(&mut self, objects: impl IntoIterator<Item = Object>) {
        self.namespaces.clear();
        self.pods.clear();
        self.nodes.clear();
        self.policies.clear();
        self.cluster_policies.clear();
        for object in objects {
            self.apply(object);
        }
    }

    /// Adds a local interface, or replaces the one of its index.
    pub fn attach(&mut self, endpoint: Endpoint) {
        self.endpoints.insert(endpoint.ifindex, endpoint);
    }

    /// Removes a local interface.
    pub fn detach(&mut self, ifindex: u32) {
        self.endpoints.remove(&ifindex);
    }

    /// The cluster's pod networks, beside the nodes' `podCIDRs`, which always count.
    pub fn set_pod_network(&mut self, networks: Vec<IpNet>) {
        self.pod_network = networks.into_iter().map(canonical).collect();
    }

    /// Addresses of this node beside those of its Node object: the bridge's, flannel's, any other interface's.
    pub fn set_node_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.node_addresses = addresses
            .into_iter()
            .map(|address| address.to_canonical())
            .collect();
    }

    /// The node the world is seen from.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// All namespaces that have an object.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values()
    }

    /// Labels of a namespace. One without an object has its name as its only label.
    pub fn namespace_labels(&self, name: &str) -> Labels {
        match self.namespaces.get(name) {
            Some(namespace) => namespace.labels.clone(),
            None => Labels::from([(METADATA_NAME.to_owned(), name.to_owned())]),
        }
    }

    /// All pods.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().flat_map(BTreeMap::values)
    }

    /// Pods by namespace.
    pub fn pods_by_namespace(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &Pod>)> {
        self.pods
            .iter()
            .map(|(namespace, pods)| (namespace.as_str(), pods.values()))
    }

    /// One pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.get(namespace)?.get(name)
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// All policies.
    pub fn policies(&self) -> impl Iterator<Item = &NetworkPolicy> {
        self.policies.values().flat_map(BTreeMap::values)
    }

    /// The policies of a namespace, by name.
    pub fn policies_of(&self, namespace: &str) -> impl Iterator<Item = &NetworkPolicy> {
        self.policies
            .get(namespace)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// All local interfaces, by index.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values()
    }

    /// The pod behind a local interface: same namespace and name, and same UID unless one side does not know it. A pod
    /// that was made anew under an old name is another pod (SEMANTICS 34).
    pub fn pod_of(&self, endpoint: &Endpoint) -> Option<&Pod> {
        let pod = self.pod(&endpoint.namespace, &endpoint.pod)?;
        let same = pod.uid == endpoint.uid || pod.uid.is_empty() || endpoint.uid.is_empty();
        same.then_some(pod)
    }

    /// Addresses of this node.
    pub fn own_addresses(&self) -> BTreeSet<IpAddr> {
        let own = self.nodes.get(&self.node);
        let listed = own
            .into_iter()
            .flat_map(|node| node.addresses.iter().map(IpAddr::to_canonical));
        listed.chain(self.node_addresses.iter().copied()).collect()
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

fn remove<T>(objects: &mut BTreeMap<String, BTreeMap<String, T>>, key: &ObjectKey) {
    if let Some(namespace) = objects.get_mut(&key.namespace) {
        namespace.remove(&key.name);
        if namespace.is_empty() {
            objects.remove(&key.namespace);
        }
    }
}
