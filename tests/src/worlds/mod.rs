//! Random small clusters, as Kubernetes objects.
//!
//! ```text
//! alphabets ─► pods, nodes, namespaces ┐
//!           ─► NetworkPolicies         ├─► World ─► YAML ─► the border and everything behind it
//!           ─► ClusterNetworkPolicies  ┘       └──► the judge
//! ```
//! The alphabets are small on purpose: three namespaces, two label keys with three values (one of them empty), a handful
//! of ports and prefixes, so that selectors, blocks and ports meet all the time, at their edges too. Whatever the API
//! could hold is in them, what is invalid included.

mod cluster;
pub mod manifests;
mod objects;
mod policies;

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::{core::v1::Pod, networking::v1::NetworkPolicy},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::oracle::{World, addresses, finished, node_addresses, on_host_network};

/// The node whose pods are the subjects.
pub const NODE: &str = "node-a";
/// The nodes' names. The pods of the n-th have addresses in `10.244.N.0/24` and `fd00:10:244:N::/64`.
pub const NODES: [&str; 3] = [NODE, "node-b", "node-c"];
/// The networks of all pods.
pub const POD_NETWORKS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];
/// Addresses that no pod has: outside, inside a block's exception, and in the pod network.
pub const STRANGERS: [&str; 6] = [
    "192.0.2.7",
    "198.51.100.9",
    "10.244.0.200",
    "10.244.1.201",
    "2001:db8::7",
    "fd00:10:244::200",
];
/// Destination ports worth asking about.
pub const PORTS: [u16; 7] = [1, 53, 79, 80, 8080, 8081, 65535];

const DEFAULT: &str = "default";
const NAMESPACES: [&str; 3] = ["a", "b", DEFAULT];
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const KEYS: [&str; 2] = ["app", "tier"];
const VALUES: [&str; 3] = ["web", "db", ""];
const PORT_NAMES: [&str; 3] = ["web", "dns", "none"];
/// Networks in the usual notation: everything, pods, nodes and strangers, whole and in part.
const NETWORKS: [&str; 16] = [
    "0.0.0.0/0",
    "10.244.0.0/16",
    "10.244.0.0/24",
    "10.244.0.2/32",
    "10.244.1.0/30",
    "192.0.2.0/24",
    "192.0.2.7/32",
    "198.51.100.8/31",
    "192.168.0.0/16",
    "192.168.0.2/32",
    "::/0",
    "fd00:10:244::/48",
    "fd00:10:244::/64",
    "fd00:10:244::2/128",
    "fd00:192:168::/64",
    "2001:db8::/32",
];
/// Networks in other notations, and what is no network at all.
const SLOPPY: [&str; 10] = [
    "010.244.000.000/24",
    "10.244.0.3/31",
    "10.244.0.0/016",
    "::ffff:10.244.0.0/112",
    "::ffff:10.244.0.2/0",
    "fd00:10:244::00003/127",
    "10.244.0.0",
    "10.244.0.256/24",
    "0.0.0.0/33",
    "",
];

/// What a world is made of.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// The most pods on [`NODE`].
    pub local: usize,
    /// The most ClusterNetworkPolicies.
    pub cluster_policies: usize,
}

/// A world that a lab can bring to life: NetworkPolicies only, pods with one IPv4 address and a namespace that they
/// name, those of [`NODE`] running.
pub fn world(local: usize) -> impl Strategy<Value = World> {
    let scope = Scope {
        local,
        cluster_policies: 0,
    };
    world_of(scope).prop_map(|mut world| {
        world.nodes.clear();
        // A finished pod whose address another has can not be told from it there.
        world
            .pods
            .retain(|pod| pod.metadata.name.as_deref() != Some("old"));
        world.pods.iter_mut().for_each(objects::tame);
        for policy in &mut world.policies {
            policy
                .metadata
                .namespace
                .get_or_insert_with(|| DEFAULT.to_owned());
        }
        world
    })
}

/// A world of this scope.
pub fn world_of(scope: Scope) -> impl Strategy<Value = World> {
    (
        objects::namespaces(),
        objects::nodes(),
        objects::pods(scope.local),
        vec(policies::policy(), 0..=4),
        vec(cluster::policy(), 0..=scope.cluster_policies),
    )
        .prop_map(|(namespaces, nodes, pods, policies, cluster_policies)| {
            let number = |(i, mut policy): (usize, NetworkPolicy)| {
                policy.metadata.name = Some(format!("policy-{i}"));
                policy
            };
            let number_cluster = |(i, mut policy): (usize, serde_json::Value)| {
                policy["metadata"]["name"] = format!("cluster-{i}").into();
                policy
            };
            let cluster_policies = cluster_policies.into_iter().enumerate();
            World {
                namespaces,
                nodes,
                pods,
                policies: policies.into_iter().enumerate().map(number).collect(),
                cluster_policies: cluster_policies.map(number_cluster).collect(),
            }
        })
}

/// The pods of [`NODE`] that have an interface: on the pod network, and with addresses that no later pod has.
pub fn subjects(world: &World) -> Vec<&Pod> {
    let pods = world.pods.iter().filter(|pod| {
        let here = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(NODE);
        here && !on_host_network(pod) && addresses(pod).next().is_some()
    });
    let inherited = |pod: &Pod| addresses(pod).any(|address| world.owner(address).is_some());
    pods.filter(|pod| !(finished(pod) && inherited(pod))).collect()
}

/// Every address that is worth asking about, once: of pods, nodes and strangers.
pub fn ends(world: &World) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = world.pods.iter().flat_map(addresses).collect();
    all.extend(world.nodes.iter().flat_map(node_addresses));
    all.extend(STRANGERS.map(|text| text.parse::<IpAddr>().expect("an address")));
    all.sort_unstable();
    all.dedup();
    all
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    vec(option::of(select(&VALUES[..])), KEYS.len()).prop_map(|values| {
        let pairs = KEYS.iter().zip(values);
        pairs
            .filter_map(|(key, value)| Some(((*key).into(), value?.into())))
            .collect()
    })
}

fn strings(all: Vec<&str>) -> Vec<String> {
    all.into_iter().map(Into::into).collect()
}

/// A selector of pods or nodes.
fn selector() -> impl Strategy<Value = LabelSelector> {
    (
        option::of(labels()),
        option::weighted(0.4, vec(requirement(), 0..=2)),
    )
        .prop_map(|(match_labels, match_expressions)| LabelSelector {
            match_labels,
            match_expressions,
        })
}

/// A selector of namespaces: by labels or by name.
fn namespace_selector() -> impl Strategy<Value = LabelSelector> {
    let by_name =
        (select(&["In", "NotIn"][..]), vec(select(&NAMESPACES[..]), 1..=2)).prop_map(|(operator, names)| {
            let requirement = LabelSelectorRequirement {
                key: NAME_LABEL.into(),
                operator: operator.into(),
                values: Some(strings(names)),
            };
            LabelSelector {
                match_expressions: Some(vec![requirement]),
                match_labels: None,
            }
        });
    prop_oneof![2 => selector(), 1 => by_name]
}

fn requirement() -> impl Strategy<Value = LabelSelectorRequirement> {
    let of = |operator: &'static str, values: Option<Vec<&'static str>>| (operator, values);
    let values = || vec(select(&VALUES[..]), 1..=2);
    let shape = prop_oneof![
        8 => (select(&["In", "NotIn"][..]), values()).prop_map(move |(operator, values)| of(operator, Some(values))),
        8 => select(&["Exists", "DoesNotExist"][..]).prop_map(move |operator| of(operator, None)),
        1 => select(&["In", "NotIn"][..]).prop_map(move |operator| of(operator, Some(Vec::new()))),
        1 => select(&["Exists", "DoesNotExist", "Equals"][..]).prop_map(move |operator| of(operator, Some(vec!["web"]))),
    ];
    (select(&KEYS[..]), shape).prop_map(|(key, (operator, values))| LabelSelectorRequirement {
        key: key.into(),
        operator: operator.into(),
        values: values.map(strings),
    })
}
