//! `networking.k8s.io/v1`.

use std::net::IpAddr;

use k8s_openapi::{
    api::{
        core::v1::Pod,
        networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    Direction, Met, Packet, World, cidr, has_named_port, labels_of, namespace_of,
    selector::{may_select, selects},
};

impl World {
    /// What the NetworkPolicies say; `None` where none isolates the pod in this direction (rule 1).
    pub(super) fn network_policies_say(
        &self,
        pod: &Pod,
        packet: &Packet,
        direction: Direction,
    ) -> Option<bool> {
        let mut isolated = false;
        for policy in &self.policies {
            // Go's zero value stands for an absent spec.
            let absent = NetworkPolicySpec::default();
            let spec = policy.spec.as_ref().unwrap_or(&absent);
            if namespace_of(&policy.metadata.namespace) != namespace_of(&pod.metadata.namespace)
                || !applies(spec, direction)
            {
                continue;
            }
            let selected = match &spec.pod_selector {
                None => true,                                                             // rule 4
                Some(selector) => may_select(selector, &labels_of(&pod.metadata.labels)), // rule 18
            };
            if !selected {
                continue;
            }
            isolated = true;
            // Rule 2: one that allows is enough.
            if self.policy_allows(policy, spec, pod, packet, direction) {
                return Some(true);
            }
        }
        isolated.then_some(false)
    }

    fn policy_allows(
        &self,
        policy: &NetworkPolicy,
        spec: &NetworkPolicySpec,
        pod: &Pod,
        packet: &Packet,
        direction: Direction,
    ) -> bool {
        let namespace = namespace_of(&policy.metadata.namespace);
        // Rule 8: ports and peers; entries OR within each. Rule 9: absent and empty alike mean all.
        let rule =
            |peers: &Option<Vec<NetworkPolicyPeer>>, ports: &Option<Vec<NetworkPolicyPort>>, remote| {
                let peers = peers.as_deref().unwrap_or_default();
                let ports = ports.as_deref().unwrap_or_default();
                (peers.is_empty()
                    || peers
                        .iter()
                        .any(|peer| self.peer_matches(peer, namespace, remote)))
                    && (ports.is_empty()
                        || ports
                            .iter()
                            .any(|port| self.port_matches(port, pod, packet, direction)))
            };
        // Rule 8: rules OR together. Rule 7: without any, nothing.
        match direction {
            Direction::Ingress => {
                let mut rules = spec.ingress.iter().flatten();
                rules.any(|r| rule(&r.from, &r.ports, packet.source))
            }
            Direction::Egress => {
                let mut rules = spec.egress.iter().flatten();
                rules.any(|r| rule(&r.to, &r.ports, packet.destination))
            }
        }
    }

    fn peer_matches(&self, peer: &NetworkPolicyPeer, own_namespace: &str, remote: IpAddr) -> bool {
        match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
            (Some(block), None, None) => block_contains(block, remote),
            // Rule 15.
            (Some(_), _, _) | (None, None, None) => false,
            (None, namespaces, pods) => {
                // Rules 20, 21: pods and nothing else, by any of their addresses.
                let Some(pod) = self.owner(remote) else {
                    return false;
                };
                let namespace = namespace_of(&pod.metadata.namespace);
                let namespace_selected = match namespaces {
                    None => namespace == own_namespace, // rule 11
                    Some(selector) => selects(selector, &self.namespace_labels(namespace)) == Met::Yes,
                };
                let pod_selected = match pods {
                    None => true, // rule 12
                    Some(selector) => selects(selector, &labels_of(&pod.metadata.labels)) == Met::Yes,
                };
                namespace_selected && pod_selected // rule 13
            }
        }
    }

    fn port_matches(
        &self,
        port: &NetworkPolicyPort,
        pod: &Pod,
        packet: &Packet,
        direction: Direction,
    ) -> bool {
        let protocol = port.protocol.as_deref().unwrap_or("TCP"); // rule 25
        let number = match protocol {
            "TCP" => 6,
            "UDP" => 17,
            "SCTP" => 132,
            _ => return false, // rule 28
        };
        if number != packet.protocol {
            return false; // rule 29
        }
        let real = |number: i32| (1..=65535).contains(&number);
        let asked = i32::from(packet.port);
        match (&port.port, port.end_port) {
            (None, None) => true,
            (Some(IntOrString::Int(number)), None) => real(*number) && *number == asked,
            // Rule 26.
            (Some(IntOrString::Int(first)), Some(last)) => {
                real(*first) && real(last) && *first <= asked && asked <= last
            }
            // Rule 27.
            (Some(IntOrString::String(name)), None) => self
                .destination_pod(pod, packet, direction)
                .is_some_and(|pod| has_named_port(pod, name, protocol, packet.port)),
            // Rule 26: an end needs a number to start from.
            (None | Some(IntOrString::String(_)), Some(_)) => false,
        }
    }
}

/// Rules 5 and 6: what the API server's defaulting does, then policyTypes is authoritative.
fn applies(spec: &NetworkPolicySpec, direction: Direction) -> bool {
    match (spec.policy_types.as_deref(), direction) {
        (None | Some([]), Direction::Ingress) => true,
        (None | Some([]), Direction::Egress) => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        (Some(types), Direction::Ingress) => types.iter().any(|name| name == "Ingress"),
        (Some(types), Direction::Egress) => types.iter().any(|name| name == "Egress"),
    }
}

/// Rule 22: an except is a hole in this block only. One that can not be read might be all of it.
fn block_contains(block: &IPBlock, address: IpAddr) -> bool {
    let mut holes = block.except.iter().flatten();
    cidr::contains(&block.cidr, address) == Some(true)
        && holes.all(|hole| cidr::contains(hole, address) == Some(false))
}
