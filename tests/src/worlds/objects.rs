//! Namespaces, nodes and pods.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerPort, Namespace, Node, NodeAddress, NodeSpec, NodeStatus, Pod, PodIP, PodSpec,
        PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{DEFAULT, NAME_LABEL, NAMESPACES, NODES, PORTS, labels};

/// Some of the namespaces have no object, and some objects not the label that the API server gives them.
pub(super) fn namespaces() -> impl Strategy<Value = Vec<Namespace>> {
    let object = (labels(), any::<bool>());
    vec(option::weighted(0.8, object), NAMESPACES.len()).prop_map(|all| {
        let some = NAMESPACES
            .iter()
            .zip(all)
            .filter_map(|(name, object)| Some((*name, object?)));
        some.map(|(name, (mut labels, complete))| {
            if complete {
                labels.insert(NAME_LABEL.to_owned(), name.to_owned());
            }
            Namespace {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    labels: Some(labels),
                    ..Default::default()
                },
                ..Default::default()
            }
        })
        .collect()
    })
}

/// The first node always has an object.
pub(super) fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let object = || (labels(), any::<bool>());
    (object(), vec(option::weighted(0.8, object()), NODES.len() - 1)).prop_map(|(first, others)| {
        let all = std::iter::once(Some(first)).chain(others);
        let some = all
            .enumerate()
            .filter_map(|(number, object)| Some((number, object?)));
        some.map(|(number, (labels, external))| node(number, labels, external))
            .collect()
    })
}

fn node(number: usize, labels: BTreeMap<String, String>, external: bool) -> Node {
    let name = NODES[number];
    let address = |type_: &str, address: String| NodeAddress {
        type_: type_.to_owned(),
        address,
    };
    let mut addresses = vec![address("Hostname", name.to_owned())];
    addresses.extend(node_ips(number).map(|ip| address("InternalIP", ip)));
    if external {
        addresses.push(address("ExternalIP", format!("203.0.113.{}", number + 1)));
    }
    Node {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels),
            ..Default::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: Some(format!("10.244.{number}.0/24")),
            pod_cidrs: Some(vec![
                format!("10.244.{number}.0/24"),
                format!("fd00:10:244:{number}::/64"),
            ]),
            ..Default::default()
        }),
        status: Some(NodeStatus {
            addresses: Some(addresses),
            ..Default::default()
        }),
    }
}

fn node_ips(number: usize) -> [String; 2] {
    [
        format!("192.168.0.{}", number + 1),
        format!("fd00:192:168::{}", number + 1),
    ]
}

/// Pods on the first node, pods elsewhere, and perhaps a finished one whose address a later pod has.
pub(super) fn pods(local: usize) -> impl Strategy<Value = Vec<Pod>> {
    let finished = (
        pod(),
        select(&["Succeeded", "Failed"][..]),
        any::<prop::sample::Index>(),
        any::<bool>(),
    );
    (
        vec(pod(), 1..=local),
        vec(pod(), 0..=4),
        option::weighted(0.3, finished),
    )
        .prop_map(|(here, there, finished)| {
            let here = here.into_iter().enumerate();
            let there = there.into_iter().enumerate();
            let mut pods: Vec<Pod> = here.map(|(number, draft)| place(draft, number, 0)).collect();
            pods.extend(there.map(|(number, draft)| place(draft, number, 1 + number % 2)));
            if let Some((draft, phase, heir, first)) = finished {
                let heir = heir.get(&pods).clone();
                let mut old = place(draft, 9, 0);
                old.metadata.name = Some("old".to_owned());
                old.metadata.uid = Some("uid-old".to_owned());
                let spec = old.spec.get_or_insert_default();
                spec.node_name = heir.spec.and_then(|spec| spec.node_name);
                spec.host_network = None;
                let status = old.status.get_or_insert_default();
                status.phase = Some(phase.to_owned());
                let (ip, ips) = heir.status.map(|s| (s.pod_ip, s.pod_ips)).unwrap_or_default();
                (status.pod_ip, status.pod_ips) = (ip, ips);
                pods.insert(if first { 0 } else { pods.len() }, old);
            }
            pods
        })
}

/// Leaves of a pod what a lab can make so: it runs on one of the first two nodes with one IPv4 address.
pub(super) fn tame(pod: &mut Pod) {
    pod.metadata.deletion_timestamp = None;
    pod.metadata.namespace.get_or_insert_with(|| DEFAULT.to_owned());
    let spec = pod.spec.get_or_insert_default();
    let local = spec.node_name.as_deref() == Some(NODES[0]);
    let number = pod.metadata.name.as_deref().unwrap_or_default();
    let number: usize = number
        .rsplit('-')
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    if local {
        spec.host_network = None;
    } else {
        spec.node_name = Some(NODES[1].to_owned());
    }
    let status = pod.status.get_or_insert_default();
    if local || status.phase.as_deref() == Some("Pending") {
        status.phase = Some("Running".to_owned());
    }
    let ip = format!("10.244.{}.{}", usize::from(!local), number + 1);
    status.pod_ips = Some(vec![PodIP { ip: ip.clone() }]);
    status.pod_ip = Some(ip);
}

/// A pod before it has a name and a place.
#[derive(Clone, Debug)]
struct Draft {
    pod: Pod,
    families: &'static [usize],
    plural: bool,
}

fn place(draft: Draft, number: usize, node: usize) -> Pod {
    let mut pod = draft.pod;
    pod.metadata.name = Some(format!("pod-{node}-{number}"));
    pod.metadata.uid = Some(format!("uid-{node}-{number}"));
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(NODES[node].to_owned());
    let own = if spec.host_network == Some(true) {
        node_ips(node)
    } else {
        [
            format!("10.244.{node}.{}", number + 1),
            format!("fd00:10:244:{node}::{}", number + 1),
        ]
    };
    let ips: Vec<String> = draft.families.iter().map(|family| own[*family].clone()).collect();
    let status = pod.status.get_or_insert_default();
    status.pod_ip = ips.first().cloned();
    if draft.plural || ips.len() > 1 {
        status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
    }
    pod
}

fn pod() -> impl Strategy<Value = Draft> {
    let phase =
        prop_oneof![8 => Just("Running"), 1 => Just("Succeeded"), 1 => Just("Failed"), 1 => Just("Pending")];
    let host_network = prop_oneof![6 => Just(None), 1 => Just(Some(false)), 1 => Just(Some(true))];
    let families = prop_oneof![
        4 => Just(&[0_usize][..]),
        1 => Just(&[1][..]),
        3 => Just(&[0, 1][..]),
        1 => Just(&[1, 0][..]),
        1 => Just(&[][..]),
    ];
    (
        (select(&NAMESPACES[..]), any::<bool>(), labels()),
        (phase, host_network, option::weighted(0.2, Just(()))),
        (families, any::<bool>()),
        containers(),
        containers(),
    )
        .prop_map(
            |(
                (namespace, named, labels),
                (phase, host_network, deleted),
                (families, plural),
                containers,
                init,
            )| {
                let pod = Pod {
                    metadata: ObjectMeta {
                        namespace: (named || namespace != DEFAULT).then(|| namespace.to_owned()),
                        labels: Some(labels),
                        deletion_timestamp: deleted.map(|()| deletion()),
                        ..Default::default()
                    },
                    spec: Some(PodSpec {
                        containers,
                        init_containers: (!init.is_empty())
                            .then(|| init.into_iter().enumerate().map(sidecar).collect()),
                        host_network,
                        ..Default::default()
                    }),
                    status: Some(PodStatus {
                        phase: Some(phase.to_owned()),
                        ..Default::default()
                    }),
                };
                Draft {
                    pod,
                    families,
                    plural,
                }
            },
        )
}

fn deletion() -> Time {
    serde_json::from_value(serde_json::json!("2026-01-02T03:04:05Z")).expect("a time")
}

/// The first init container is a sidecar.
fn sidecar((number, container): (usize, Container)) -> Container {
    Container {
        name: format!("init-{number}"),
        restart_policy: (number == 0).then(|| "Always".to_owned()),
        ..container
    }
}

fn containers() -> impl Strategy<Value = Vec<Container>> {
    let protocol = select(&[None, Some("TCP"), Some("UDP"), Some("SCTP")][..]);
    let port = (
        option::of(select(&["web", "dns"][..])),
        select(&PORTS[..]),
        protocol,
    )
        .prop_map(|(name, number, protocol)| ContainerPort {
            name: name.map(Into::into),
            container_port: number.into(),
            protocol: protocol.map(Into::into),
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
