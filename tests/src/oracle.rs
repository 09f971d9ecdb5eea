//! The judge: NetworkPolicy v1 evaluated naively, straight from the API text.
//!
//! Written apart from `vethwall-policy` and sharing nothing with it: it walks Kubernetes objects for every single
//! question, knows no identities, slots or port sets, and is slow. Where both agree on random worlds, the compiler, the
//! maps and the programs are right; where they differ, the comment of the `networking.k8s.io/v1` field decides.
//!
//! Only enforced policies count here; audit is not the API's.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::{
        core::v1::{Namespace, Pod},
        networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

/// The objects of a cluster.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// All namespaces.
    pub namespaces: Vec<Namespace>,
    /// All pods, with `status.podIPs`.
    pub pods: Vec<Pod>,
    /// All policies.
    pub policies: Vec<NetworkPolicy>,
}

/// A packet that opens a connection, as the pod sees it (after address translation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, where the protocol has ports.
    pub port: u16,
}

#[derive(Clone, Copy)]
enum Direction {
    Ingress,
    Egress,
}

type Labels = BTreeMap<String, String>;

impl World {
    /// Whether `pod`'s policies let the packet in (rules 1 and 3 of the contract: the destination's half).
    pub fn ingress_allowed(&self, pod: &Pod, packet: &Packet) -> bool {
        self.allowed(pod, packet, Direction::Ingress)
    }

    /// Whether `pod`'s policies let the packet out (the source's half).
    pub fn egress_allowed(&self, pod: &Pod, packet: &Packet) -> bool {
        self.allowed(pod, packet, Direction::Egress)
    }

    /// The pod that owns an address: on the pod network and not finished (rules 21 and 31).
    pub fn owner(&self, address: IpAddr) -> Option<&Pod> {
        self.pods
            .iter()
            .find(|pod| is_on_pod_network(pod) && addresses(pod).any(|a| a == address))
    }

    fn allowed(&self, pod: &Pod, packet: &Packet, direction: Direction) -> bool {
        if packet.source == packet.destination {
            return true; // rule 40
        }
        let isolating: Vec<_> = self
            .policies
            .iter()
            .filter(|policy| {
                namespace_of(&policy.metadata.namespace) == namespace_of(&pod.metadata.namespace)
            })
            .filter(|policy| applies(policy, direction))
            .filter(|policy| {
                let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
                selector.is_none_or(|selector| selects(selector, &labels(&pod.metadata.labels)))
            })
            .collect();
        isolating.is_empty()
            || isolating
                .iter()
                .any(|policy| self.policy_allows(policy, packet, direction))
    }

    fn policy_allows(&self, policy: &NetworkPolicy, packet: &Packet, direction: Direction) -> bool {
        let Some(spec) = &policy.spec else { return false };
        let namespace = namespace_of(&policy.metadata.namespace);
        let rule =
            |peers: &Option<Vec<NetworkPolicyPeer>>, ports: &Option<Vec<NetworkPolicyPort>>, remote| {
                let peers = peers.as_deref().unwrap_or_default();
                let ports = ports.as_deref().unwrap_or_default();
                (peers.is_empty()
                    || peers
                        .iter()
                        .any(|peer| self.peer_matches(peer, namespace, remote)))
                    && (ports.is_empty() || ports.iter().any(|port| self.port_matches(port, packet)))
            };
        match direction {
            Direction::Ingress => {
                let rules = spec.ingress.as_deref().unwrap_or_default();
                rules.iter().any(|r| rule(&r.from, &r.ports, packet.source))
            }
            Direction::Egress => {
                let rules = spec.egress.as_deref().unwrap_or_default();
                rules.iter().any(|r| rule(&r.to, &r.ports, packet.destination))
            }
        }
    }

    fn peer_matches(&self, peer: &NetworkPolicyPeer, policy_namespace: &str, remote: IpAddr) -> bool {
        if let Some(block) = &peer.ip_block {
            // Rule 15: ipBlock beside selectors is invalid and matches nothing.
            return peer.pod_selector.is_none()
                && peer.namespace_selector.is_none()
                && block_contains(block, remote);
        }
        if peer.pod_selector.is_none() && peer.namespace_selector.is_none() {
            return false;
        }
        let Some(pod) = self.owner(remote) else {
            return false;
        };
        let pod_namespace = namespace_of(&pod.metadata.namespace);
        let namespace_matches = match &peer.namespace_selector {
            None => pod_namespace == policy_namespace,
            Some(selector) => selects(selector, &self.namespace_labels(pod_namespace)),
        };
        namespace_matches
            && peer
                .pod_selector
                .as_ref()
                .is_none_or(|selector| selects(selector, &labels(&pod.metadata.labels)))
    }

    fn port_matches(&self, port: &NetworkPolicyPort, packet: &Packet) -> bool {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => 6,
            Some("UDP") => 17,
            Some("SCTP") => 132,
            Some(_) => return false,
        };
        if protocol != packet.protocol {
            return false;
        }
        match (&port.port, port.end_port) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(IntOrString::Int(first)), None) => *first == i32::from(packet.port),
            (Some(IntOrString::Int(first)), Some(last)) => {
                *first <= last && (*first..=last).contains(&i32::from(packet.port))
            }
            // Rule 27: by name and protocol on the destination pod, on egress too.
            (Some(IntOrString::String(name)), None) => self.owner(packet.destination).is_some_and(|pod| {
                pod_has_port(pod, name, port.protocol.as_deref().unwrap_or("TCP"), packet.port)
            }),
            (Some(IntOrString::String(_)), Some(_)) => false,
        }
    }

    fn namespace_labels(&self, name: &str) -> Labels {
        let object = self
            .namespaces
            .iter()
            .find(|ns| ns.metadata.name.as_deref() == Some(name));
        let mut all = object.map(|ns| labels(&ns.metadata.labels)).unwrap_or_default();
        all.entry("kubernetes.io/metadata.name".to_owned())
            .or_insert_with(|| name.to_owned()); // rule 19
        all
    }
}

/// Rules 5 and 6: what the API server's defaulting does, then policyTypes is authoritative.
fn applies(policy: &NetworkPolicy, direction: Direction) -> bool {
    let Some(spec) = &policy.spec else { return false };
    match (spec.policy_types.as_deref(), direction) {
        (None | Some([]), Direction::Ingress) => true,
        (None | Some([]), Direction::Egress) => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        (Some(types), Direction::Ingress) => types.iter().any(|t| t == "Ingress"),
        (Some(types), Direction::Egress) => types.iter().any(|t| t == "Egress"),
    }
}

fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let value = labels.get(&requirement.key);
            let among = |v: &String| {
                requirement
                    .values
                    .iter()
                    .flatten()
                    .any(|candidate| candidate == v)
            };
            match requirement.operator.as_str() {
                "In" => value.is_some_and(among),
                "NotIn" => !value.is_some_and(among), // rule 17: an absent key too
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

fn block_contains(block: &IPBlock, address: IpAddr) -> bool {
    // Rule 22: an except is a hole in this block only.
    prefix_contains(&block.cidr, address)
        && !block
            .except
            .iter()
            .flatten()
            .any(|hole| prefix_contains(hole, address))
}

/// Canonical notation only; sloppy notation has tests of its own.
fn prefix_contains(text: &str, address: IpAddr) -> bool {
    let Some((network, length)) = text.split_once('/') else {
        return false;
    };
    let (Ok(network), Ok(length)) = (network.parse::<IpAddr>(), length.parse::<u32>()) else {
        return false;
    };
    match (network, address) {
        (IpAddr::V4(n), IpAddr::V4(a)) => {
            length <= 32 && (length == 0 || (u32::from(n) ^ u32::from(a)) >> (32 - length) == 0)
        }
        (IpAddr::V6(n), IpAddr::V6(a)) => {
            length <= 128 && (length == 0 || (u128::from(n) ^ u128::from(a)) >> (128 - length) == 0)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false, // rule 23
    }
}

fn pod_has_port(pod: &Pod, name: &str, protocol: &str, number: u16) -> bool {
    let Some(spec) = &pod.spec else { return false };
    // Of the init containers only restartable ones serve while the pod runs.
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .any(|port| {
            port.name.as_deref() == Some(name)
                && port.protocol.as_deref().unwrap_or("TCP") == protocol
                && port.container_port == i32::from(number)
        })
}

fn is_on_pod_network(pod: &Pod) -> bool {
    let host_network = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.host_network)
        .unwrap_or(false);
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !host_network && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// The addresses in a pod's status.
pub fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> + '_ {
    let status = pod.status.as_ref();
    let many = status
        .and_then(|status| status.pod_ips.as_deref())
        .unwrap_or_default()
        .iter()
        .map(|p| &p.ip);
    let one = status.and_then(|status| status.pod_ip.as_ref());
    many.chain(one).filter_map(|text| text.parse().ok())
}

fn labels(of: &Option<BTreeMap<String, String>>) -> Labels {
    of.clone().unwrap_or_default()
}

fn namespace_of(of: &Option<String>) -> &str {
    of.as_deref().unwrap_or("default")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(yaml: serde_json::Value) -> World {
        let take = |key: &str| yaml.get(key).cloned().unwrap_or(serde_json::json!([]));
        World {
            namespaces: serde_json::from_value(take("namespaces")).unwrap(),
            pods: serde_json::from_value(take("pods")).unwrap(),
            policies: serde_json::from_value(take("policies")).unwrap(),
        }
    }

    fn pod(namespace: &str, name: &str, label: &str, ip: &str) -> serde_json::Value {
        serde_json::json!({
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": label}},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"podIP": ip}
        })
    }

    fn tcp(source: &str, destination: &str, port: u16) -> Packet {
        Packet {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol: 6,
            port,
        }
    }

    /// A table small enough to be checked by reading it against the API comments.
    #[test]
    fn answers_that_can_be_read_off_the_api_text() {
        let pods = serde_json::json!([
            pod("a", "one", "web", "10.0.0.1"),
            pod("a", "two", "db", "10.0.0.2"),
            pod("b", "three", "web", "10.0.0.3"),
        ]);
        let ingress = |rules: serde_json::Value| {
            world(serde_json::json!({"pods": pods, "policies": [{
                "metadata": {"namespace": "a", "name": "p"},
                "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": rules}
            }]}))
        };
        let ask = |world: &World, source: &str, port| {
            world.ingress_allowed(&world.pods[0], &tcp(source, "10.0.0.1", port))
        };
        let closed = ingress(serde_json::json!([]));
        assert!(!ask(&closed, "10.0.0.2", 80), "isolated, no rule");
        assert!(
            closed.ingress_allowed(&closed.pods[1], &tcp("10.0.0.1", "10.0.0.2", 80)),
            "not selected"
        );
        assert!(
            closed.egress_allowed(&closed.pods[0], &tcp("10.0.0.1", "10.0.0.2", 80)),
            "ingress only"
        );
        let open = ingress(serde_json::json!([{}]));
        assert!(ask(&open, "192.0.2.1", 80), "one empty rule allows everything");
        let own = ingress(serde_json::json!([{"from": [{"podSelector": {}}]}]));
        assert!(
            ask(&own, "10.0.0.2", 80) && !ask(&own, "10.0.0.3", 80),
            "podSelector alone: own namespace"
        );
        let named = ingress(serde_json::json!([{"ports": [{"port": "web"}]}]));
        assert!(
            ask(&named, "10.0.0.3", 8080) && !ask(&named, "10.0.0.3", 8081),
            "named port of the destination"
        );
        let hole = ingress(serde_json::json!([
            {"from": [{"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.2/31"]}}]},
            {"from": [{"ipBlock": {"cidr": "10.0.0.3/32"}}]}
        ]));
        assert!(
            !ask(&hole, "10.0.0.2", 80) && ask(&hole, "10.0.0.3", 80),
            "a hole in its own block only"
        );
    }
}
