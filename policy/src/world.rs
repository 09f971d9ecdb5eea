//! The objects as they are now.

mod changes;
mod early;
mod look;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ipnet::IpNet;

pub use self::{changes::Change, early::Claim};
use crate::model::{
    ClusterNetworkPolicy, Endpoint, Kind, Labels, Mode, Namespace, NetworkPolicy, Node, Object, ObjectKey,
    Pod, canonical,
};

/// The label that every namespace has (SEMANTICS 19).
pub const METADATA_NAME: &str = "kubernetes.io/metadata.name";

/// Everything that policy depends on, seen from one node. A function of the current objects only: however they came,
/// equal contents compare equal. The one thing remembered is which policies a dying namespace lost while it still had
/// pods: they stay in force (SEMANTICS 37).
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    node: String,
    complete: bool,
    mode: Mode,
    spaces: BTreeMap<String, Space>,
    nodes: BTreeMap<String, Node>,
    cluster_policies: BTreeMap<String, ClusterNetworkPolicy>,
    cluster_stamp: Stamp,
    endpoints: BTreeMap<u32, Endpoint>,
    pod_network: BTreeSet<IpNet>,
    node_addresses: BTreeSet<IpAddr>,
    /// Pods that can be peers, by address.
    claimants: BTreeMap<IpAddr, Vec<Arc<Pod>>>,
    /// Of these addresses, those that more than one pod has.
    contested: BTreeSet<IpAddr>,
    /// Nodes by the addresses that pods name as their node's, and by how many pods.
    hosts: BTreeMap<IpAddr, BTreeMap<String, usize>>,
    early: early::Early,
}

/// One namespace, with or without an object of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Space {
    object: Option<Namespace>,
    /// The object went while it was terminating, before what the namespace held.
    gone: bool,
    /// Those of a namespace without an object.
    name_only: Labels,
    pods: BTreeMap<String, Arc<Pod>>,
    policies: BTreeMap<String, Arc<NetworkPolicy>>,
    /// Deleted while the namespace was terminating and had pods.
    kept: BTreeMap<String, Arc<NetworkPolicy>>,
    stamp: Stamp,
}

/// Tells one state of something from every other, in any world: what was derived from it holds as long as the stamp is
/// the same. No part of what the world says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stamp(u64);

impl Stamp {
    fn next() -> Self {
        // Zero is the default: derived from nothing.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) const fn same(self, other: Self) -> bool {
        self.0 == other.0
    }
}

impl PartialEq for Stamp {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Space {
    fn new(name: &str) -> Self {
        let mut space = Self::default();
        space.set_object(name, None);
        space
    }

    fn set_object(&mut self, name: &str, object: Option<Namespace>) {
        self.gone = object.is_none() && self.terminating();
        self.object = object;
        let labels = match &mut self.object {
            Some(object) => {
                self.name_only.clear();
                &mut object.labels
            }
            None => &mut self.name_only,
        };
        labels
            .entry(METADATA_NAME.to_owned())
            .or_insert_with(|| name.to_owned());
    }

    fn terminating(&self) -> bool {
        self.gone || self.object.as_ref().is_some_and(|object| object.terminating)
    }

    fn is_empty(&self) -> bool {
        self.object.is_none() && self.pods.is_empty() && self.policies.is_empty() && self.kept.is_empty()
    }

    pub(crate) const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Its labels, `kubernetes.io/metadata.name` among them.
    pub(crate) fn labels(&self) -> &Labels {
        self.object
            .as_ref()
            .map_or(&self.name_only, |object| &object.labels)
    }

    /// Its pods, by name.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values()
    }
}

impl World {
    /// An empty world, seen from this node.
    pub fn new(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            complete: false,
            mode: Mode::default(),
            spaces: BTreeMap::new(),
            nodes: BTreeMap::new(),
            cluster_policies: BTreeMap::new(),
            cluster_stamp: Stamp::next(),
            endpoints: BTreeMap::new(),
            pod_network: BTreeSet::new(),
            node_addresses: BTreeSet::new(),
            claimants: BTreeMap::new(),
            contested: BTreeSet::new(),
            hosts: BTreeMap::new(),
            early: early::Early::default(),
        }
    }

    /// Says that every pod there is has its object here, as in a directory of manifests. A world that follows a cluster
    /// is not so: an address in the pods' network whose owner is not known yet may be any pod's, so every rule that
    /// denies pods denies it.
    #[must_use]
    pub fn complete(mut self) -> Self {
        self.complete = true;
        self
    }

    /// The mode of policies that have none of their own.
    pub fn set_mode(&mut self, mode: Mode) {
        if self.mode == mode {
            return;
        }
        self.mode = mode;
        self.cluster_stamp = Stamp::next();
        for space in self.spaces.values_mut() {
            space.stamp = Stamp::next();
        }
    }

    /// What holds of a policy with this mode of its own.
    pub fn mode_of(&self, own: Option<Mode>) -> Mode {
        own.unwrap_or(self.mode)
    }

    /// Adds an object, or replaces the one of its name.
    pub fn apply(&mut self, object: Object) {
        match object {
            Object::Namespace(namespace) => {
                let name = namespace.name.clone();
                let space = self.space(&name);
                space.set_object(&name, Some(namespace));
                self.settle(&name);
            }
            Object::Pod(pod) => {
                self.forget_written(&pod.namespace, &pod.name);
                let node = pod.node.clone();
                let before = self.put_pod(Arc::new(pod)).and_then(|before| before.node.clone());
                self.settle_claims_of(node.as_deref());
                if before != node {
                    self.settle_claims_of(before.as_deref());
                }
            }
            Object::Node(node) => {
                let name = node.name.clone();
                self.nodes.insert(name.clone(), node);
                self.settle_claims_of(Some(&name));
            }
            Object::NetworkPolicy(policy) => {
                let space = self.space(&policy.namespace);
                space.kept.remove(&policy.name);
                space.policies.insert(policy.name.clone(), Arc::new(policy));
            }
            Object::ClusterNetworkPolicy(policy) => {
                self.cluster_stamp = Stamp::next();
                self.cluster_policies.insert(policy.name.clone(), policy);
            }
        }
    }

    /// Removes an object; nothing happens where there is none.
    pub fn delete(&mut self, key: &ObjectKey) {
        match key.kind {
            Kind::Namespace => {
                if self.spaces.contains_key(&key.name) {
                    self.space(&key.name).set_object(&key.name, None);
                    self.settle(&key.name);
                }
            }
            Kind::Pod => {
                if self.spaces.contains_key(&key.namespace)
                    && let Some(pod) = self.space(&key.namespace).pods.remove(&key.name)
                {
                    self.disclaim(&pod);
                    self.forget_written(&key.namespace, &key.name);
                    self.settle(&key.namespace);
                    self.settle_claims_of(pod.node.as_deref());
                }
            }
            Kind::Node => {
                self.nodes.remove(&key.name);
                self.settle_claims_of(Some(&key.name));
            }
            Kind::NetworkPolicy => {
                if self.spaces.contains_key(&key.namespace) {
                    let space = self.space(&key.namespace);
                    if let Some(policy) = space.policies.remove(&key.name)
                        && space.terminating()
                    {
                        space.kept.insert(key.name.clone(), policy);
                    }
                    self.settle(&key.namespace);
                }
            }
            Kind::ClusterNetworkPolicy => {
                self.cluster_stamp = Stamp::next();
                self.cluster_policies.remove(&key.name);
            }
        }
    }

    /// Makes these all the objects there are. Local interfaces stay: they are not objects.
    pub fn replace(&mut self, objects: impl IntoIterator<Item = Object>) {
        let before = std::mem::take(&mut self.spaces);
        self.claimants.clear();
        self.contested.clear();
        self.hosts.clear();
        self.early = early::Early::default();
        self.nodes.clear();
        self.cluster_policies.clear();
        self.cluster_stamp = Stamp::next();
        for object in objects {
            self.apply(object);
        }
        // As if every policy that is missing had been deleted just now.
        for (name, old) in before {
            let dying = old.terminating() || !old.kept.is_empty();
            let dying = dying || self.spaces.get(&name).is_some_and(Space::terminating);
            if dying {
                let space = self.space(&name);
                space.gone = space.object.is_none();
                for (policy, object) in old.kept.into_iter().chain(old.policies) {
                    if !space.policies.contains_key(&policy) {
                        space.kept.insert(policy, object);
                    }
                }
                self.settle(&name);
            }
        }
    }

    /// Adds a local interface, or replaces the one of its index.
    pub fn attach(&mut self, endpoint: Endpoint) {
        self.endpoints.insert(endpoint.ifindex, endpoint);
    }

    /// Removes a local interface.
    pub fn detach(&mut self, ifindex: u32) {
        if let Some(endpoint) = self.endpoints.remove(&ifindex) {
            self.settle(&endpoint.namespace);
        }
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

    /// The namespace, about to change.
    fn space(&mut self, name: &str) -> &mut Space {
        let space = self
            .spaces
            .entry(name.to_owned())
            .or_insert_with(|| Space::new(name));
        space.stamp = Stamp::next();
        space
    }

    /// After something of a namespace went: policies are kept only while it has pods and did not come back; nothing is
    /// left of one that is empty.
    fn settle(&mut self, name: &str) {
        let has_interface = self.endpoints.values().any(|endpoint| endpoint.namespace == name);
        let Some(space) = self.spaces.get_mut(name) else {
            return;
        };
        let came_back = space.object.is_some() && !space.terminating();
        let gone = space.pods.is_empty() && !has_interface;
        space.gone &= !gone;
        if (came_back || gone) && !space.kept.is_empty() {
            space.kept.clear();
            space.stamp = Stamp::next();
        }
        if space.is_empty() {
            self.spaces.remove(name);
        }
    }

    /// Puts a pod in the place of the one of its name, which comes back.
    fn put_pod(&mut self, pod: Arc<Pod>) -> Option<Arc<Pod>> {
        let space = self.space(&pod.namespace);
        let before = space.pods.insert(pod.name.clone(), Arc::clone(&pod));
        if let Some(before) = &before {
            self.disclaim(before);
        }
        self.claim(&pod);
        before
    }

    fn claim(&mut self, pod: &Arc<Pod>) {
        for (address, node) in host_addresses(pod) {
            let names = self.hosts.entry(address).or_default();
            *names.entry(node.to_owned()).or_default() += 1;
        }
        for address in addresses(pod) {
            let all = self.claimants.entry(address).or_default();
            all.push(Arc::clone(pod));
            all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
            if all.len() > 1 {
                self.contested.insert(address);
            }
        }
    }

    fn disclaim(&mut self, pod: &Arc<Pod>) {
        for (address, node) in host_addresses(pod) {
            if let Some(names) = self.hosts.get_mut(&address) {
                if let Some(count) = names.get_mut(node) {
                    *count -= 1;
                }
                names.retain(|_, count| *count > 0);
                if names.is_empty() {
                    self.hosts.remove(&address);
                }
            }
        }
        for address in addresses(pod) {
            if let Some(all) = self.claimants.get_mut(&address) {
                all.retain(|other| !Arc::ptr_eq(other, pod));
                if all.len() < 2 {
                    self.contested.remove(&address);
                }
                if all.is_empty() {
                    self.claimants.remove(&address);
                }
            }
        }
    }
}

impl Space {
    fn all_policies(&self) -> impl Iterator<Item = &NetworkPolicy> {
        let all = self.policies.values().chain(self.kept.values());
        all.map(Arc::as_ref)
    }
}

/// What a pod says of its node's addresses: where the node has no object, that is all there is.
fn host_addresses(pod: &Pod) -> BTreeSet<(IpAddr, &str)> {
    // SEMANTICS 31: one that has finished speaks for no address any more.
    let shared = if pod.host_network && !pod.finished {
        pod.addresses.as_slice()
    } else {
        &[]
    };
    let all = pod.host_addresses.iter().chain(shared);
    let node = pod.node.as_deref();
    all.filter_map(|address| Some((address.to_canonical(), node?)))
        .collect()
}

/// The addresses at which a pod can be a peer.
pub(crate) fn addresses(pod: &Pod) -> BTreeSet<IpAddr> {
    let all = pod.addresses.iter().map(IpAddr::to_canonical);
    all.filter(|_| pod.is_peer()).collect()
}
