//! What else the input holds: the pods, namespaces, nodes and Services that policies are about.
//!
//! An input is seldom a whole cluster. What is not in it may still exist, so a check may say "matches nothing" only of
//! a kind that is there at all, and of pods only in namespaces whose pods are there. Pods also come as the templates of
//! workloads.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use vethwall_policy::model::{Labels, Selector};

use super::{object::Object, selector::METADATA_NAME, spot::Spot};
use crate::k8s::convert::parse_cidr;

/// Namespaces that every cluster has.
const SYSTEM: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// A pod, or the template of some.
#[derive(Debug)]
pub(super) struct Pod {
    /// `shop/web` or `Deployment shop/web`.
    pub(super) title: String,
    /// Its namespace.
    pub(super) namespace: String,
    /// Its labels.
    pub(super) labels: Labels,
    /// It has the node's network and no policy.
    pub(super) host_network: bool,
    /// Its ports with names, and the protocol of each.
    pub(super) named: Vec<(String, String)>,
    /// Its port numbers with their protocols.
    pub(super) numbers: Vec<(i64, String)>,
    /// Its addresses; none for a template.
    pub(super) addresses: Vec<IpAddr>,
}

/// What the input holds.
#[derive(Debug, Default)]
pub(super) struct World {
    pods: BTreeMap<String, Vec<Pod>>,
    namespaces: BTreeMap<String, Labels>,
    /// The input has Namespace objects.
    pub(super) has_namespaces: bool,
    /// The pod ranges of its Nodes.
    pub(super) pod_ranges: Vec<(String, IpNet)>,
    /// The virtual addresses of its Services.
    pub(super) cluster_ips: Vec<(String, IpAddr)>,
}

impl World {
    /// Collects what the objects say.
    pub(super) fn of(objects: &[Object<'_>]) -> Self {
        let mut world = Self::default();
        for object in objects {
            match (object.group, object.kind) {
                ("", "Namespace") => {
                    let mut labels = labels(object.root.at(&["metadata", "labels"]));
                    labels
                        .entry(METADATA_NAME.to_owned())
                        .or_insert_with(|| object.name.to_owned());
                    world.namespaces.insert(object.name.to_owned(), labels);
                    world.has_namespaces = true;
                }
                ("", "Node") => world.node(object),
                ("", "Service") => world.service(object),
                _ => {
                    let pod = pod(object);
                    world
                        .pods
                        .entry(object.namespace.to_owned())
                        .or_default()
                        .extend(pod);
                }
            }
        }
        world.pods.retain(|_, pods| !pods.is_empty());
        // They exist, whether or not the input has their objects; of their labels only the name is known.
        let implied: Vec<String> = world
            .pods
            .keys()
            .cloned()
            .chain(SYSTEM.iter().map(|&name| name.to_owned()))
            .collect();
        for name in implied {
            let labels = Labels::from([(METADATA_NAME.to_owned(), name.clone())]);
            world.namespaces.entry(name).or_insert(labels);
        }
        world
    }

    fn node(&mut self, object: &Object<'_>) {
        let list = object
            .root
            .at(&["spec", "podCIDRs"])
            .map(|list| list.items())
            .unwrap_or_default();
        let all = list.into_iter().chain(object.root.at(&["spec", "podCIDR"]));
        let ranges: BTreeSet<IpNet> = all.filter_map(|spot| parse_cidr(spot.text()?)).collect();
        self.pod_ranges
            .extend(ranges.into_iter().map(|range| (object.name.to_owned(), range)));
    }

    fn service(&mut self, object: &Object<'_>) {
        let list = object
            .root
            .at(&["spec", "clusterIPs"])
            .map(|list| list.items())
            .unwrap_or_default();
        let all = list.into_iter().chain(object.root.at(&["spec", "clusterIP"]));
        // `None` is no address.
        let addresses: BTreeSet<IpAddr> = all.filter_map(|spot| spot.text()?.parse().ok()).collect();
        let name = format!("{}/{}", object.namespace, object.name);
        self.cluster_ips
            .extend(addresses.into_iter().map(|address| (name.clone(), address)));
    }

    /// The input has pods.
    pub(super) fn has_pods(&self) -> bool {
        !self.pods.is_empty()
    }

    /// The pods of a namespace.
    pub(super) fn pods_of(&self, namespace: &str) -> &[Pod] {
        self.pods.get(namespace).map(Vec::as_slice).unwrap_or_default()
    }

    /// All pods.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().flatten()
    }

    /// Whether a namespace exists, as far as the input tells.
    pub(super) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains_key(name)
    }

    /// The labels of a namespace.
    pub(super) fn namespace_labels(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// The names of all namespaces.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.keys().map(String::as_str)
    }

    /// The namespaces that a selector matches. None where the input can not tell: without Namespaces nothing is known
    /// of their labels but the name.
    pub(super) fn matching(&self, selector: &Selector) -> Option<Vec<&str>> {
        let matching = self
            .namespaces
            .iter()
            .filter(|(_, labels)| selector.matches(labels));
        let names: Vec<&str> = matching.map(|(name, _)| name.as_str()).collect();
        let by_name = selector
            .requirements()
            .iter()
            .all(|requirement| requirement.key == METADATA_NAME);
        (self.has_namespaces || (by_name && !names.is_empty())).then_some(names)
    }

    /// The pods in the input that look like the cluster's DNS.
    pub(super) fn dns_pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods().filter(|pod| is_dns(&pod.namespace, &pod.labels))
    }
}

/// Whether a pod looks like the cluster's DNS.
pub(super) fn is_dns(namespace: &str, labels: &Labels) -> bool {
    let label = |key: &str| labels.get(key).map(String::as_str).unwrap_or_default();
    let named = [
        label("k8s-app"),
        label("app.kubernetes.io/name"),
        label("app"),
        label("dns.operator.openshift.io/daemonset-dns"),
    ];
    label("k8s-app") == "kube-dns"
        || labels.contains_key("dns.operator.openshift.io/daemonset-dns")
        || (namespace == "kube-system"
            && named
                .iter()
                .any(|name| matches!(*name, "coredns" | "kube-dns" | "rke2-coredns")))
}

fn labels(spot: Option<Spot<'_>>) -> Labels {
    let pairs = spot.map(|spot| spot.pairs()).unwrap_or_default();
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.text().unwrap_or_default().to_owned()))
        .collect()
}

/// The pod that an object is or makes.
fn pod(object: &Object<'_>) -> Option<Pod> {
    let template = match (object.group, object.kind) {
        ("", "Pod") => object.root.clone(),
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job")
        | ("", "ReplicationController") => object.root.at(&["spec", "template"])?,
        ("batch", "CronJob") => object.root.at(&["spec", "jobTemplate", "spec", "template"])?,
        _ => return None,
    };
    let spec = template.get("spec");
    let of_spec = |key: &str| spec.as_ref().and_then(|spec| spec.get(key));
    let list = |key: &str| of_spec(key).map(|list| list.items()).unwrap_or_default();
    // Sidecars: init containers that stay.
    let sidecars = list("initContainers")
        .into_iter()
        .filter(|container| container.text_of("restartPolicy") == Some("Always"));
    let mut named = Vec::new();
    let mut numbers = Vec::new();
    for container in list("containers").into_iter().chain(sidecars) {
        for port in container
            .get("ports")
            .map(|ports| ports.items())
            .unwrap_or_default()
        {
            let protocol = port.text_of("protocol").unwrap_or("TCP");
            if let Some(name) = port.text_of("name") {
                named.push((name.to_owned(), protocol.to_owned()));
            }
            let number = port.get("containerPort").and_then(|port| port.number());
            numbers.extend(number.map(|number| (number, protocol.to_owned())));
        }
    }
    let ips = object
        .root
        .at(&["status", "podIPs"])
        .map(|list| list.items())
        .unwrap_or_default();
    let ips = ips.iter().filter_map(|entry| entry.text_of("ip"));
    let ip = object.root.at(&["status", "podIP"]).and_then(|ip| ip.text());
    let addresses: BTreeSet<IpAddr> = ips.chain(ip).filter_map(|text| text.parse().ok()).collect();
    let title = format!("{}/{}", object.namespace, object.name);
    Some(Pod {
        title: if object.kind == "Pod" {
            title
        } else {
            format!("{} {title}", object.kind)
        },
        namespace: object.namespace.to_owned(),
        labels: labels(template.at(&["metadata", "labels"])),
        host_network: of_spec("hostNetwork").and_then(|spot| spot.text()) == Some("true"),
        named,
        numbers,
        addresses: addresses.into_iter().collect(),
    })
}
