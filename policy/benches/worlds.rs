//! Clusters made up for measuring, the same in every run.
//!
//! | world | pods | namespaces | policies | nodes | pods of this node |
//! |---|---|---|---|---|---|
//! | `S1` | 5,000 | 200 | 500 | 10 | 50 |
//! | `S1+CNP` | the same, with ten ClusterNetworkPolicies that accept, deny and pass | | | | |
//! | `S2` | 20,000 | 10,000 | 20,000 | 200 | 100 |
//! | `S3` | 5,000, no two with the same labels | 200 | 200 | 10 | 50 |
//!
//! In S1 and S2 pods are replicas of a namespace's applications, every fourth has an IPv6 address too; policies are those
//! that people write: [`policies`]. In S3 every policy lets the pods of all namespaces reach 50 ports.

mod policies;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use vethwall_common::protocol::TCP;
use vethwall_policy::{
    model::{ContainerPort, Endpoint, Labels, Namespace, Node, Object, ObjectKey, Pod},
    world::World,
};

/// The size of a world.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) name: &'static str,
    pods: usize,
    namespaces: usize,
    policies: usize,
    nodes: usize,
    local: usize,
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    /// What people do.
    Usual { cluster_policies: bool },
    /// What makes compilers explode.
    Adversarial,
}

const S1: Scale = Scale {
    name: "S1",
    pods: 5_000,
    namespaces: 200,
    policies: 500,
    nodes: 10,
    local: 50,
    shape: Shape::Usual {
        cluster_policies: false,
    },
};

/// Every world there is.
pub(crate) const SCALES: [Scale; 4] = [
    S1,
    Scale {
        name: "S1+CNP",
        shape: Shape::Usual {
            cluster_policies: true,
        },
        ..S1
    },
    Scale {
        name: "S2",
        pods: 20_000,
        namespaces: 10_000,
        policies: 20_000,
        nodes: 200,
        local: 100,
        ..S1
    },
    Scale {
        name: "S3",
        policies: 200,
        shape: Shape::Adversarial,
        ..S1
    },
];

/// Something that happens to one object.
#[derive(Clone)]
pub(crate) enum Event {
    Apply(Object),
    Delete(ObjectKey),
}

impl Event {
    pub(crate) fn happen(self, world: &mut World) {
        match self {
            Self::Apply(object) => world.apply(object),
            Self::Delete(key) => world.delete(&key),
        }
    }
}

/// A change of one object, and back.
pub(crate) struct Change {
    pub(crate) name: &'static str,
    there: Event,
    back: Event,
}

impl Change {
    /// Whether every other time is the way back.
    pub(crate) fn event(&self, time: usize) -> Event {
        let event = if time.is_multiple_of(2) {
            &self.there
        } else {
            &self.back
        };
        event.clone()
    }
}

/// What makes up a world: the objects and this node's interfaces.
pub(crate) struct Parts {
    objects: Vec<Object>,
    endpoints: Vec<Endpoint>,
    pub(crate) changes: [Change; 4],
}

impl Parts {
    pub(crate) fn world(&self) -> World {
        let mut world = World::new(node_name(0));
        for endpoint in &self.endpoints {
            world.attach(endpoint.clone());
        }
        for object in &self.objects {
            world.apply(object.clone());
        }
        world
    }
}

/// Namespaces that every cluster has, first of all; then the teams'.
const SHARED: [&str; 3] = ["kube-system", "monitoring", "ingress-nginx"];
const ENVIRONMENTS: [&str; 3] = ["prod", "staging", "dev"];
const TEAMS: usize = 40;
const REPLICAS: usize = 3;
/// Pods whose numbers differ by a multiple of this are never on one node.
const HOSTS: usize = 1_000;
/// Applications of a namespace, with their tier.
const APPS: [(&str, &str); 4] = [
    ("web", "frontend"),
    ("api", "backend"),
    ("store", "db"),
    ("worker", "backend"),
];

impl Scale {
    /// Makes the world's parts.
    pub(crate) fn parts(&self) -> Parts {
        let namespaces: Vec<Namespace> = (0..self.namespaces).map(|i| self.namespace(i)).collect();
        let pods: Vec<Pod> = (0..self.pods).map(|i| self.pod(i)).collect();
        let policies = match self.shape {
            Shape::Usual { .. } => policies::usual(self.namespaces, self.policies),
            Shape::Adversarial => policies::adversarial(self.namespaces, self.policies),
        };
        let local = (0..self.pods).filter(|i| self.node_of(*i) == 0);
        let endpoints = (100..).zip(local).map(|(ifindex, i)| endpoint(ifindex, &pods[i]));
        let endpoints = endpoints.collect();

        // Everything happens in the namespace of the first local pod that is a team's, or, what happens to the namespace,
        // next to it.
        let near = (0..self.pods)
            .filter(|i| self.node_of(*i) == 0)
            .map(|i| self.namespace_of(i));
        let near = near
            .skip_while(|i| *i < SHARED.len())
            .find(|i| i % 2 == 0)
            .unwrap_or(0);
        let remote = (0..self.pods).find(|i| self.namespace_of(*i) == near && self.node_of(*i) != 0);
        let remote = &pods[remote.unwrap_or(0)];
        let changes = [
            relabelled(remote),
            added(self.pods, remote),
            policies::edited(&policies, &namespaces[near].name),
            namespace_relabelled(&namespaces[near + 1]),
        ];

        let mut objects: Vec<Object> = (0..self.nodes).map(node).map(Object::Node).collect();
        objects.extend(namespaces.into_iter().map(Object::Namespace));
        objects.extend(pods.into_iter().map(Object::Pod));
        objects.extend((0..self.nodes).map(proxy).map(Object::Pod));
        objects.extend(policies.into_iter().map(Object::NetworkPolicy));
        if let Shape::Usual {
            cluster_policies: true,
        } = self.shape
        {
            objects.extend(policies::cluster().into_iter().map(Object::ClusterNetworkPolicy));
        }
        Parts {
            objects,
            endpoints,
            changes,
        }
    }

    fn namespace(&self, i: usize) -> Namespace {
        let name = namespace_name(i);
        let team = format!("team-{}", i % TEAMS);
        let environment = ENVIRONMENTS[i / TEAMS % ENVIRONMENTS.len()];
        Namespace {
            labels: labels(&[
                ("kubernetes.io/metadata.name", &name),
                ("team", &team),
                ("env", environment),
                ("pod-security.kubernetes.io/enforce", "baseline"),
            ]),
            name,
            terminating: false,
        }
    }

    fn per_namespace(&self) -> usize {
        self.pods / self.namespaces
    }

    fn namespace_of(&self, pod: usize) -> usize {
        pod / self.per_namespace()
    }

    /// This node is node 0.
    fn node_of(&self, pod: usize) -> usize {
        let every = self.pods / self.local;
        if pod.is_multiple_of(every) {
            0
        } else {
            1 + pod % (self.nodes - 1)
        }
    }

    /// What no other pod of the same node has.
    fn host(&self, pod: usize) -> usize {
        if self.node_of(pod) == 0 {
            pod / (self.pods / self.local)
        } else {
            pod % HOSTS
        }
    }

    fn pod(&self, i: usize) -> Pod {
        let namespace = self.namespace_of(i);
        let place = i % self.per_namespace();
        let (app, tier) = match SHARED.get(namespace).copied() {
            Some("kube-system") => ("coredns", "dns"),
            Some("monitoring") => ("prometheus", "monitoring"),
            Some(_) => ("ingress-nginx", "ingress"),
            None => APPS[(namespace + place / REPLICAS) % APPS.len()],
        };
        let hash = format!("{:010x}", i / REPLICAS * 0x9E37);
        let name = format!("{app}-{hash}-{i:05}");
        let version = format!("v{}", namespace % 5);
        let labels = match (self.shape, tier) {
            (Shape::Adversarial, _) => labels(&[
                ("app", app),
                ("statefulset.kubernetes.io/pod-name", &name),
                ("id", &hash),
            ]),
            (Shape::Usual { .. }, "dns") => labels(&[("k8s-app", "kube-dns"), ("pod-template-hash", &hash)]),
            (Shape::Usual { .. }, _) => labels(&[
                ("app", app),
                ("tier", tier),
                ("version", &version),
                ("pod-template-hash", &hash),
            ]),
        };
        let (serving, number) = match tier {
            "db" => ("postgres", 5432),
            "dns" => ("dns-tcp", 53),
            _ => ("http", 8080),
        };
        Pod {
            namespace: namespace_name(namespace),
            uid: format!("00000000-0000-4000-8000-{i:012x}"),
            config_hash: None,
            node: Some(node_name(self.node_of(i))),
            host_addresses: vec![node_address(self.node_of(i))],
            addresses: addresses(self.node_of(i), self.host(i), i.is_multiple_of(4)),
            host_network: false,
            finished: false,
            ports: vec![port(serving, number), port("metrics", 9090)],
            labels,
            name,
        }
    }
}

fn relabelled(pod: &Pod) -> Change {
    let mut there = pod.clone();
    let tier = if pod.labels.get("tier").is_some_and(|tier| tier == "frontend") {
        "backend"
    } else {
        "frontend"
    };
    there.labels.insert("tier".to_owned(), tier.to_owned());
    Change {
        name: "pod relabelled",
        there: Event::Apply(Object::Pod(there)),
        back: Event::Apply(Object::Pod(pod.clone())),
    }
}

/// Another one like this.
fn added(number: usize, like: &Pod) -> Change {
    let pod = Object::Pod(Pod {
        name: format!("{}-more", like.name),
        uid: format!("00000000-0000-4000-8000-{number:012x}"),
        addresses: addresses(1, HOSTS, true),
        ..like.clone()
    });
    Change {
        name: "pod added or removed",
        back: Event::Delete(pod.key()),
        there: Event::Apply(pod),
    }
}

fn namespace_relabelled(namespace: &Namespace) -> Change {
    let mut there = namespace.clone();
    let environment = if namespace.labels.get("env").is_some_and(|env| env == "prod") {
        "dev"
    } else {
        "prod"
    };
    there.labels.insert("env".to_owned(), environment.to_owned());
    Change {
        name: "namespace relabelled",
        there: Event::Apply(Object::Namespace(there)),
        back: Event::Apply(Object::Namespace(namespace.clone())),
    }
}

fn namespace_name(i: usize) -> String {
    match SHARED.get(i) {
        Some(name) => (*name).to_owned(),
        None => format!("team-{}-{}", i % TEAMS, i / TEAMS),
    }
}

fn node_name(i: usize) -> String {
    format!("node-{i}")
}

fn node(i: usize) -> Node {
    let zone = ["a", "b", "c"][i % 3];
    let name = node_name(i);
    Node {
        labels: labels(&[
            ("kubernetes.io/hostname", &name),
            ("kubernetes.io/os", "linux"),
            ("topology.kubernetes.io/zone", zone),
        ]),
        addresses: vec![node_address(i)],
        pod_cidrs: vec![
            IpNet::V4(Ipv4Net::new_assert(v4(i, 0), 22)),
            IpNet::V6(Ipv6Net::new_assert(v6(i, 0), 64)),
        ],
        name,
    }
}

/// A pod in the node's own network, as there is one of on every node.
fn proxy(node: usize) -> Pod {
    Pod {
        namespace: SHARED[0].to_owned(),
        name: format!("kube-proxy-{node:05}"),
        uid: format!("00000000-0000-4000-9000-{node:012x}"),
        config_hash: None,
        labels: labels(&[("k8s-app", "kube-proxy")]),
        node: Some(node_name(node)),
        host_addresses: vec![node_address(node)],
        addresses: vec![node_address(node)],
        host_network: true,
        finished: false,
        ports: Vec::new(),
    }
}

fn endpoint(ifindex: u32, pod: &Pod) -> Endpoint {
    Endpoint {
        ifindex,
        mac: [2, 0, 0, 0, 0, 1],
        addresses: pod.addresses.clone(),
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
    }
}

fn port(name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        protocol: TCP,
        port,
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let owned = pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    owned.collect()
}

fn node_address(i: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0xC0A8_0001 + small(i)))
}

fn addresses(node: usize, host: usize, dual: bool) -> Vec<IpAddr> {
    // The first two are the node's own.
    let first = IpAddr::V4(v4(node, host + 2));
    let second = dual.then(|| IpAddr::V6(v6(node, host + 2)));
    [Some(first), second].into_iter().flatten().collect()
}

/// Of the node's /22 in 10.128.0.0/9.
fn v4(node: usize, host: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0A80_0000 + small(node) * 1024 + small(host))
}

/// Of the node's /64 in fd00:10::/32.
fn v6(node: usize, host: usize) -> Ipv6Addr {
    let network = 0xFD00_0010_u128 << 96 | u128::from(small(node)) << 64;
    Ipv6Addr::from_bits(network | u128::from(small(host)))
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
