//! Random small worlds for property tests: few names, so that selectors, prefixes and policies meet often.

use std::collections::BTreeSet;

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{Index, select},
};

use crate::{
    model::{
        ClusterNetworkPolicy, ClusterRule, ContainerPort, Endpoint, Kind, Labels, Mode, NetworkPolicy,
        Object, ObjectKey, Operator, Peer, Peers, Pod, PortMatch, Ports, Requirement, Rule, RuleAction,
        Selector, Tier,
    },
    tests::world::{ICMP, TCP, UDP, ip, namespace, node},
    world::World,
};

/// Addresses that pods may have; the first ones are of this node.
pub(crate) const PODS: [&str; 8] = [
    "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1", "10.0.1.2", "10.0.1.3", "fd00::1", "fd00::2",
];
/// Others.
pub(crate) const OTHERS: [&str; 6] = [
    "10.0.0.200",
    "10.0.1.77",
    "192.168.0.1",
    "192.168.0.2",
    "8.8.8.8",
    "fd00::77",
];
/// Packets: protocol and port.
pub(crate) const PACKETS: [(u8, u16); 9] = [
    (TCP, 80),
    (TCP, 81),
    (TCP, 443),
    (TCP, 5000),
    (TCP, 65535),
    (UDP, 80),
    (UDP, 53),
    (ICMP, 0),
    (47, 0),
];
const NETS: [&str; 9] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.1.0/24",
    "10.0.1.2/32",
    "10.0.0.0/31",
    "192.168.0.1/32",
    "::/0",
    "fd00::/64",
    "fd00::1/128",
];
const NAMESPACES: [&str; 3] = ["x", "y", "z"];

fn text(values: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(values).prop_map(str::to_owned)
}

fn labels() -> impl Strategy<Value = Labels> {
    proptest::collection::btree_map(text(&["a", "b"]), text(&["1", "2", ""]), 0..=2)
}

fn selector() -> impl Strategy<Value = Selector> {
    let values = || proptest::collection::btree_set(text(&["1", "2", ""]), 1..=2);
    let operator = prop_oneof![
        3 => values().prop_map(Operator::In),
        1 => values().prop_map(Operator::NotIn),
        1 => Just(Operator::Exists),
        1 => Just(Operator::DoesNotExist),
    ];
    let requirement = (text(&["a", "b"]), operator).prop_map(|(key, operator)| Requirement { key, operator });
    vec(requirement, 0..=2).prop_map(Selector::new)
}

fn net() -> impl Strategy<Value = ipnet::IpNet> {
    select(&NETS[..]).prop_map(|net| net.parse().unwrap())
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        5 => (option::of(selector()), selector()).prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
        3 => (net(), vec(net(), 0..=2)).prop_map(|(cidr, except)| Peer::Block { cidr, except }),
        1 => Just(Peer::Nothing),
        1 => selector().prop_map(Peer::Nodes),
    ]
}

fn port() -> impl Strategy<Value = PortMatch> {
    let protocol = || select(vec![TCP, UDP]);
    let bound = || select(vec![0, 53, 80, 81, 443, 600, 1500, 5000, 5002, u16::MAX]);
    prop_oneof![
        1 => protocol().prop_map(PortMatch::Protocol),
        4 => (protocol(), bound()).prop_map(|(protocol, n)| PortMatch::Range { protocol, first: n, last: n }),
        2 => (protocol(), bound(), bound())
            .prop_map(|(protocol, first, last)| PortMatch::Range { protocol, first, last }),
        2 => (protocol(), text(&["http", "alt"])).prop_map(|(protocol, name)| PortMatch::Named { protocol, name }),
        1 => Just(PortMatch::Nothing),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let peers = prop_oneof![1 => Just(Peers::All), 5 => vec(peer(), 1..=2).prop_map(Peers::Some)];
    let ports = prop_oneof![
        2 => Just(Ports::All),
        4 => vec(port(), 1..=3).prop_map(Ports::Some),
        3 => vec(port(), 7..=11).prop_map(Ports::Some),
    ];
    (peers, ports).prop_map(|(peers, ports)| Rule { peers, ports })
}

/// A rule that denies or passes knows peers and ports that are everything; one that accepts has nothing instead.
fn cluster_rule() -> impl Strategy<Value = ClusterRule> {
    let action = prop_oneof![
        2 => Just(RuleAction::Accept),
        3 => Just(RuleAction::Deny),
        2 => Just(RuleAction::Pass),
    ];
    (
        action,
        rule(),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(action, mut rule, any_peer, any_port)| {
            if action != RuleAction::Accept {
                if let (Peers::Some(peers), true) = (&mut rule.peers, any_peer) {
                    peers.push(Peer::Everything);
                }
                if let (Ports::Some(ports), true) = (&mut rule.ports, any_port) {
                    ports.push(PortMatch::Everything);
                }
            }
            // A ClusterNetworkPolicy has no namespace that a peer could mean.
            if let Peers::Some(peers) = &mut rule.peers {
                for peer in peers {
                    if let Peer::Pods { namespaces, .. } = peer {
                        namespaces.get_or_insert_with(Selector::everything);
                    }
                }
            }
            ClusterRule {
                name: None,
                action,
                peers: rule.peers,
                ports: rule.ports,
            }
        })
}

fn cluster_policy() -> impl Strategy<Value = ClusterNetworkPolicy> {
    let rules = || vec(cluster_rule(), 0..=3);
    let mode = prop_oneof![4 => Just(None), 2 => Just(Some(Mode::Enforce)), 1 => Just(Some(Mode::Audit))];
    let tier = select(vec![Tier::Admin, Tier::Baseline]);
    let pods = || prop_oneof![1 => Just(Selector::everything()), 1 => selector()];
    (
        (text(&["p", "q", "r"]), tier, select(vec![0, 7, 1000])),
        (pods(), pods()),
        (rules(), rules()),
        mode,
    )
        .prop_map(
            |((name, tier, priority), (namespaces, pods), (ingress, egress), mode)| ClusterNetworkPolicy {
                name,
                tier,
                priority,
                namespaces,
                pods,
                ingress,
                egress,
                mode,
            },
        )
}

fn policy() -> impl Strategy<Value = NetworkPolicy> {
    let rules = || option::weighted(0.75, vec(rule(), 0..=3));
    let mode = prop_oneof![3 => Just(None), 1 => Just(Some(Mode::Enforce)), 1 => Just(Some(Mode::Audit))];
    let pods = prop_oneof![1 => Just(Selector::everything()), 1 => selector()];
    let names = (text(&NAMESPACES[..2]), text(&["p", "q", "r"]));
    (names, pods, rules(), rules(), mode).prop_map(
        |((namespace, name), pod_selector, ingress, egress, mode)| NetworkPolicy {
            namespace,
            name,
            pod_selector,
            ingress,
            egress,
            mode,
        },
    )
}

fn pod() -> impl Strategy<Value = Pod> {
    let port = (
        text(&["http", "alt"]),
        select(vec![TCP, UDP]),
        select(vec![80, 81, 5000]),
    );
    let port = port.prop_map(|(name, protocol, port)| ContainerPort {
        name: Some(name),
        protocol,
        port,
    });
    let flag = || prop::bool::weighted(0.07);
    let addresses = proptest::sample::subsequence(PODS.to_vec(), 1..=2);
    let namespace = select(vec!["x", "x", "x", "y", "y", "z"]).prop_map(str::to_owned);
    let names = (namespace, text(&["k", "l", "m"]));
    (names, labels(), addresses, flag(), flag(), vec(port, 0..=2)).prop_map(
        |((namespace, name), labels, addresses, host_network, finished, ports)| Pod {
            namespace,
            name,
            uid: String::new(),
            config_hash: None,
            host_addresses: Vec::new(),
            labels,
            node: None,
            addresses: addresses.into_iter().map(ip).collect(),
            host_network,
            finished,
            ports,
        },
    )
}

/// What makes a world.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) objects: Vec<Object>,
    pub(crate) endpoints: Vec<Endpoint>,
}

impl Parts {
    pub(crate) fn world(&self) -> World {
        let mut world = World::new("n1");
        self.objects
            .iter()
            .cloned()
            .for_each(|object| world.apply(object));
        self.endpoints
            .iter()
            .cloned()
            .for_each(|endpoint| world.attach(endpoint));
        world
    }
}

pub(crate) fn parts() -> impl Strategy<Value = Parts> {
    // Mostly of pods that are there; now and then of one that is not.
    let local = vec(
        (any::<Index>(), prop::bool::weighted(0.08), select(&PODS[..3])),
        1..=3,
    );
    let namespaces = vec((text(&NAMESPACES), labels()), 0..=3);
    let objects = (
        namespaces,
        vec(pod(), 1..=8),
        vec(policy(), 0..=5),
        prop_oneof![1 => Just(vec![]), 1 => vec(cluster_policy(), 1..=3)],
        option::of((labels(), labels())),
    );
    (objects, local).prop_map(|((namespaces, pods, policies, cluster, nodes), local)| {
        let mut objects: Vec<Object> = Vec::new();
        for (name, labels) in namespaces {
            let pairs: Vec<_> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            objects.push(namespace(&name, &pairs));
        }
        if let Some((here, there)) = nodes {
            objects.push(node("n1", "192.168.0.1", "10.0.0.0/24", here));
            objects.push(node("n2", "192.168.0.2", "10.0.1.0/24", there));
        }
        objects.extend(pods.into_iter().map(Object::Pod));
        objects.extend(policies.into_iter().map(Object::NetworkPolicy));
        objects.extend(cluster.into_iter().map(Object::ClusterNetworkPolicy));
        // The last object of a name counts; keep one of each, so that order does not matter.
        let mut seen = BTreeSet::new();
        objects.retain(|object| seen.insert(object.key()));
        let pods: Vec<ObjectKey> = objects
            .iter()
            .map(Object::key)
            .filter(|key| key.kind == Kind::Pod)
            .collect();
        let endpoint = |((pod, missing, address), ifindex): ((Index, bool, &str), u32)| {
            let ObjectKey { namespace, name, .. } = pod.get(&pods).clone();
            let pod = if missing { "gone".to_owned() } else { name };
            Endpoint {
                ifindex,
                mac: [2; 6],
                addresses: vec![ip(address)],
                namespace,
                pod,
                uid: String::new(),
            }
        };
        Parts {
            endpoints: local.into_iter().zip(7..).map(endpoint).collect(),
            objects,
        }
    })
}

/// Two worlds that have much in common.
pub(crate) fn change() -> impl Strategy<Value = (Parts, Parts)> {
    let keep = vec(prop::bool::weighted(0.75), 32);
    (parts(), parts(), keep).prop_map(|(before, other, keep)| {
        let mut after = before.clone();
        let mut keep = keep.into_iter().cycle();
        after.objects.retain(|_| keep.next() != Some(false));
        let kept: BTreeSet<_> = after.objects.iter().map(Object::key).collect();
        let new = other
            .objects
            .into_iter()
            .filter(|object| !kept.contains(&object.key()));
        after.objects.extend(new.filter(|_| keep.next() != Some(false)));
        after.endpoints.retain(|_| keep.next() != Some(false));
        for endpoint in other.endpoints {
            if !after
                .endpoints
                .iter()
                .any(|held| held.ifindex == endpoint.ifindex)
            {
                after.endpoints.push(endpoint);
            }
        }
        (before, after)
    })
}
