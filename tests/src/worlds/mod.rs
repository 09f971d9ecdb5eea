//! Random small clusters, as Kubernetes objects.
//!
//! The alphabets are small on purpose: three namespaces, two label keys with three values (one of them empty), a handful
//! of ports and prefixes, so that selectors, blocks and ports meet all the time, at their edges too.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{Container, ContainerPort, Namespace, Pod, PodIP, PodSpec, PodStatus},
        networking::v1::{
            IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
            NetworkPolicyPort, NetworkPolicySpec,
        },
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::oracle::World;

/// The node whose pods are the subjects.
pub const NODE: &str = "node-a";
/// Addresses that no pod has: outside, inside a block's exception, and in the pod network.
pub const STRANGERS: [&str; 4] = ["192.0.2.7", "198.51.100.9", "10.244.0.200", "10.244.1.201"];
/// Destination ports worth asking about.
pub const PORTS: [u16; 6] = [53, 79, 80, 8080, 8081, 65535];

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const KEYS: [&str; 2] = ["app", "tier"];
const VALUES: [&str; 3] = ["web", "db", ""];
const TYPES: [Option<&[&str]>; 4] = [
    None,
    Some(&["Ingress"]),
    Some(&["Egress"]),
    Some(&["Ingress", "Egress"]),
];
const BLOCKS: [&str; 8] = [
    "0.0.0.0/0",
    "10.244.0.0/16",
    "10.244.0.0/24",
    "10.244.0.2/32",
    "10.244.1.0/30",
    "192.0.2.0/24",
    "192.0.2.7/32",
    "198.51.100.8/31",
];

/// A world with `1..=local` pods on [`NODE`] and up to four elsewhere.
pub fn world(local: usize) -> impl Strategy<Value = World> {
    let namespaces = vec(labels(), NAMESPACES.len()).prop_map(|all| {
        let named = NAMESPACES.iter().zip(all);
        named
            .map(|(name, labels)| Namespace {
                metadata: ObjectMeta {
                    name: Some((*name).into()),
                    labels: Some(labels),
                    ..Default::default()
                },
                ..Default::default()
            })
            .collect()
    });
    let pods = (vec(pod(), 1..=local), vec(pod(), 0..=4)).prop_map(|(here, there)| {
        let place = |node: &'static str, subnet: u8| {
            move |(number, mut pod): (usize, Pod)| {
                pod.metadata.name = Some(format!("pod-{subnet}-{number}"));
                pod.metadata.uid = Some(format!("uid-{subnet}-{number}"));
                pod.spec.get_or_insert_default().node_name = Some(node.into());
                let ip = format!("10.244.{subnet}.{}", number + 1);
                let status = pod.status.get_or_insert_default();
                status.pod_ips = Some(vec![PodIP { ip: ip.clone() }]);
                status.pod_ip = Some(ip);
                pod
            }
        };
        let here = here.into_iter().map(running).enumerate().map(place(NODE, 0));
        here.chain(there.into_iter().enumerate().map(place("node-b", 1)))
            .collect()
    });
    (namespaces, pods, vec(policy(), 0..=4)).prop_map(|(namespaces, pods, policies)| {
        let number = |(i, mut policy): (usize, NetworkPolicy)| {
            policy.metadata.name = Some(format!("policy-{i}"));
            policy
        };
        World {
            namespaces,
            pods,
            policies: policies.into_iter().enumerate().map(number).collect(),
            ..World::default()
        }
    })
}

/// A subject has an interface, so it runs on the pod network.
fn running(mut pod: Pod) -> Pod {
    pod.status.get_or_insert_default().phase = Some("Running".into());
    pod.spec.get_or_insert_default().host_network = None;
    pod
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    vec(option::of(select(&VALUES[..])), KEYS.len()).prop_map(|values| {
        let pairs = KEYS.iter().zip(values);
        pairs
            .filter_map(|(key, value)| Some(((*key).into(), value?.into())))
            .collect()
    })
}

fn pod() -> impl Strategy<Value = Pod> {
    let phase = prop_oneof![6 => Just("Running"), 1 => Just("Succeeded"), 1 => Just("Failed")];
    let host_network = prop_oneof![6 => Just(None), 1 => Just(Some(true))];
    (
        select(&NAMESPACES[..]),
        labels(),
        phase,
        host_network,
        containers(),
        containers(),
    )
        .prop_map(
            |(namespace, labels, phase, host_network, containers, sidecars)| Pod {
                metadata: ObjectMeta {
                    namespace: Some(namespace.into()),
                    labels: Some(labels),
                    ..Default::default()
                },
                spec: Some(PodSpec {
                    containers,
                    init_containers: Some(
                        sidecars
                            .into_iter()
                            .enumerate()
                            .map(|(i, c)| Container {
                                restart_policy: (i == 0).then(|| "Always".into()),
                                ..c
                            })
                            .collect(),
                    ),
                    host_network,
                    ..Default::default()
                }),
                status: Some(PodStatus {
                    phase: Some(phase.into()),
                    ..Default::default()
                }),
            },
        )
}

fn containers() -> impl Strategy<Value = Vec<Container>> {
    let port = (
        option::of(select(&["web", "dns"][..])),
        select(&PORTS[..]),
        protocol(),
    )
        .prop_map(|(name, number, protocol)| ContainerPort {
            name: name.map(Into::into),
            container_port: number.into(),
            protocol,
            ..Default::default()
        });
    vec(vec(port, 0..=2), 0..=2).prop_map(|containers| {
        let named = containers.into_iter().enumerate();
        named
            .map(|(i, ports)| Container {
                name: format!("c{i}"),
                ports: Some(ports),
                ..Default::default()
            })
            .collect()
    })
}

fn protocol() -> impl Strategy<Value = Option<String>> {
    select(&[None, Some("TCP"), Some("UDP")][..]).prop_map(|p| p.map(Into::into))
}

fn policy() -> impl Strategy<Value = NetworkPolicy> {
    let types = select(&TYPES[..]);
    let rules = || option::of(vec((peers(), ports()), 0..=3));
    (
        select(&NAMESPACES[..]),
        option::weighted(0.9, selector()),
        types,
        rules(),
        rules(),
    )
        .prop_map(
            |(namespace, pod_selector, types, ingress, egress)| NetworkPolicy {
                metadata: ObjectMeta {
                    namespace: Some(namespace.into()),
                    ..Default::default()
                },
                spec: Some(NetworkPolicySpec {
                    pod_selector,
                    policy_types: types.map(|all| all.iter().map(|t| (*t).into()).collect()),
                    ingress: ingress.map(|rules| {
                        let rules = rules.into_iter();
                        rules
                            .map(|(from, ports)| NetworkPolicyIngressRule { from, ports })
                            .collect()
                    }),
                    egress: egress.map(|rules| {
                        let rules = rules.into_iter();
                        rules
                            .map(|(to, ports)| NetworkPolicyEgressRule { to, ports })
                            .collect()
                    }),
                }),
            },
        )
}

fn peers() -> impl Strategy<Value = Option<Vec<NetworkPolicyPeer>>> {
    let block =
        (select(&BLOCKS[..]), option::of(vec(select(&BLOCKS[..]), 0..=2))).prop_map(|(cidr, except)| {
            let except = except.map(|all| all.into_iter().map(Into::into).collect());
            NetworkPolicyPeer {
                ip_block: Some(IPBlock {
                    cidr: cidr.into(),
                    except,
                }),
                ..Default::default()
            }
        });
    let pods =
        (option::of(selector()), option::of(selector())).prop_map(|(namespace_selector, pod_selector)| {
            NetworkPolicyPeer {
                namespace_selector,
                pod_selector,
                ip_block: None,
            }
        });
    option::of(vec(prop_oneof![block, pods], 0..=3))
}

fn ports() -> impl Strategy<Value = Option<Vec<NetworkPolicyPort>>> {
    let number = prop_oneof![
        4 => (select(&PORTS[..]), option::of(select(&PORTS[..])))
            .prop_map(|(first, last)| (Some(IntOrString::Int(first.into())), last.map(i32::from))),
        2 => select(&["web", "dns", "none"][..]).prop_map(|name| (Some(IntOrString::String(name.into())), None)),
        1 => Just((None, None)),
    ];
    let port = (number, protocol()).prop_map(|((port, end_port), protocol)| NetworkPolicyPort {
        port,
        end_port,
        protocol,
    });
    option::of(vec(port, 0..=6))
}

fn selector() -> impl Strategy<Value = LabelSelector> {
    let requirement = (
        select(&KEYS[..]),
        select(&["In", "NotIn", "Exists", "DoesNotExist"][..]),
        vec(select(&VALUES[..]), 1..=2),
    )
        .prop_map(|(key, operator, values)| LabelSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: operator
                .ends_with("In")
                .then(|| values.into_iter().map(Into::into).collect()),
        });
    (
        option::of(labels()),
        option::weighted(0.4, vec(requirement, 0..=2)),
    )
        .prop_map(|(match_labels, match_expressions)| LabelSelector {
            match_labels,
            match_expressions,
        })
}
