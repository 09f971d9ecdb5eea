//! `policy.networking.k8s.io/v1alpha2`, read from the object as it was written.
//!
//! Go's decoder does not tell null from absent, nor an empty string or list from either, so neither does this.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::{
    Direction, Labels, Met, Packet, World, cidr, has_named_port, labels_of, met, namespace_of,
    node_addresses,
    selector::{may_select_as_written, selects_as_written},
};

/// What a tier says of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Accept,
    Deny,
    /// No rule matched, or one passed.
    Nothing,
}

const PROTOCOLS: [(&str, &str, u8); 3] = [("tcp", "TCP", 6), ("udp", "UDP", 17), ("sctp", "SCTP", 132)];

impl World {
    /// Asks the policies of a tier in their order (CNP 3).
    pub(super) fn tier_says(&self, tier: &str, pod: &Pod, packet: &Packet, direction: Direction) -> Said {
        let mut policies: Vec<&Value> = self.cluster_policies.iter().collect();
        policies.retain(|policy| self.tier_of(policy) == tier);
        policies.sort_by_key(|policy| {
            let name = policy["metadata"]["name"].as_str().unwrap_or_default();
            let first = if self.is_readable(policy) {
                priority(policy)
            } else {
                Some(0)
            };
            (first, name)
        });
        for policy in policies {
            let subject = &policy["spec"]["subject"];
            if !self.is_readable(policy) {
                // Rule 18: it closes those whom it is about, as far as that can be read, and before all others.
                if self.may_be_subject(subject, pod) {
                    return Said::Deny;
                }
                continue;
            }
            if self.is_subject(subject, pod) == Met::No {
                continue;
            }
            let rules = match direction {
                Direction::Ingress => &policy["spec"]["ingress"],
                Direction::Egress => &policy["spec"]["egress"],
            };
            let mut rules = rules.as_array().into_iter().flatten();
            // The first match decides (CNP 3).
            let Some(rule) = rules.find(|rule| self.rule_matches(rule, pod, packet, direction)) else {
                continue;
            };
            return match rule["action"].as_str() {
                Some("Accept") => Said::Accept,
                Some("Pass") => Said::Nothing, // skips the rest of its tier (CNP 1)
                _ => Said::Deny,
            };
        }
        Said::Nothing
    }

    /// A tier that nobody knows is the one that nothing overrides, and so is that of a policy that can not be read.
    fn tier_of(&self, policy: &Value) -> &'static str {
        match policy["spec"]["tier"].as_str() {
            Some("Baseline") if self.is_readable(policy) => "Baseline",
            _ => "Admin",
        }
    }

    /// It says whom it is about and when it is to be asked.
    fn is_readable(&self, policy: &Value) -> bool {
        let subject = self.is_subject(&policy["spec"]["subject"], &Pod::default());
        priority(policy).is_some() && subject != Met::Unknown
    }

    fn is_subject(&self, subject: &Value, pod: &Pod) -> Met {
        match fields(subject).as_slice() {
            [("namespaces", selector)] => self.in_namespaces(selector, pod),
            [("pods", pods)] => self.among_pods(pods, pod),
            _ => Met::Unknown,
        }
    }

    fn may_be_subject(&self, subject: &Value, pod: &Pod) -> bool {
        let namespace = self.namespace_labels(namespace_of(&pod.metadata.namespace));
        let labels = labels_of(&pod.metadata.labels);
        match fields(subject).as_slice() {
            [("namespaces", selector)] => may_select_as_written(selector, &namespace),
            [("pods", pods)] => {
                may_select_as_written(&pods["namespaceSelector"], &namespace)
                    && may_select_as_written(&pods["podSelector"], &labels)
            }
            _ => true,
        }
    }

    fn in_namespaces(&self, selector: &Value, pod: &Pod) -> Met {
        let namespace = namespace_of(&pod.metadata.namespace);
        selects_as_written(selector, &self.namespace_labels(namespace))
    }

    fn among_pods(&self, pods: &Value, pod: &Pod) -> Met {
        let known = fields(pods)
            .iter()
            .all(|(key, _)| ["namespaceSelector", "podSelector"].contains(key));
        if !known || !pods.is_object() {
            return Met::Unknown;
        }
        let namespace = self.in_namespaces(&pods["namespaceSelector"], pod);
        let itself = selects_as_written(&pods["podSelector"], &labels_of(&pod.metadata.labels));
        if namespace == Met::Unknown || itself == Met::Unknown {
            Met::Unknown
        } else {
            met(namespace == Met::Yes && itself == Met::Yes)
        }
    }

    fn rule_matches(&self, rule: &Value, pod: &Pod, packet: &Packet, direction: Direction) -> bool {
        let accepts = rule["action"].as_str() == Some("Accept");
        // CNP 6: what is not understood matches nothing in Accept, and everything in Deny and Pass.
        let closed = |met: Met| match met {
            Met::Yes => true,
            Met::No => false,
            Met::Unknown => !accepts,
        };
        let (peers, remote) = match direction {
            Direction::Ingress => (&rule["from"], packet.source),
            Direction::Egress => (&rule["to"], packet.destination),
        };
        let peers = match peers.as_array().map(Vec::as_slice) {
            None | Some([]) => closed(Met::Unknown),
            Some(peers) => peers
                .iter()
                .any(|peer| closed(self.cluster_peer(peer, remote, direction))),
        };
        let protocols = match rule["protocols"].as_array().map(Vec::as_slice) {
            None | Some([]) => true, // CNP 7
            Some(protocols) => protocols
                .iter()
                .any(|protocol| closed(self.cluster_protocol(protocol, pod, packet, direction))),
        };
        peers && protocols
    }

    fn cluster_peer(&self, peer: &Value, remote: IpAddr, direction: Direction) -> Met {
        // Pods, and never those of the host network. What is no pod is not selected, unless the selector makes no sense.
        let nobody = Pod::default();
        let pod = self.owner(remote);
        let only_pods = |met: Met| {
            if pod.is_none() && met == Met::Yes {
                Met::No
            } else {
                met
            }
        };
        match (fields(peer).as_slice(), direction) {
            ([("namespaces", selector)], _) => {
                only_pods(self.in_namespaces(selector, pod.unwrap_or(&nobody)))
            }
            ([("pods", pods)], _) => only_pods(self.among_pods(pods, pod.unwrap_or(&nobody))),
            ([("nodes", selector)], Direction::Egress) => self.is_node(selector, remote),
            ([("networks", Value::Array(networks))], Direction::Egress) => {
                // CNP 5: internal addresses too. One that is no CIDR spoils the peer.
                let contains = |network: &Value| cidr::contains(network.as_str()?, remote);
                let all: Option<Vec<bool>> = networks.iter().map(contains).collect();
                all.map_or(Met::Unknown, |all| met(all.contains(&true)))
            }
            // Also domainNames, and what ingress does not know.
            _ => Met::Unknown,
        }
    }

    /// CNP 5: by the addresses in the status of the nodes.
    fn is_node(&self, selector: &Value, remote: IpAddr) -> Met {
        if selects_as_written(selector, &Labels::new()) == Met::Unknown {
            return Met::Unknown;
        }
        let mut nodes = self
            .nodes
            .iter()
            .filter(|node| selects_as_written(selector, &labels_of(&node.metadata.labels)) == Met::Yes);
        met(nodes.any(|node| node_addresses(node).any(|address| address == remote)))
    }

    fn cluster_protocol(&self, protocol: &Value, pod: &Pod, packet: &Packet, direction: Direction) -> Met {
        let [(kind, content)] = fields(protocol)[..] else {
            return Met::Unknown;
        };
        if kind == "destinationNamedPort" {
            let Some(name) = content.as_str() else {
                return Met::Unknown;
            };
            // The protocol is the container port's own.
            let own = PROTOCOLS.iter().find(|(_, _, number)| *number == packet.protocol);
            let pod = self.destination_pod(pod, packet, direction);
            return met(own.is_some_and(|(_, own, _)| {
                pod.is_some_and(|pod| has_named_port(pod, name, own, packet.port))
            }));
        }
        let Some((_, _, number)) = PROTOCOLS.iter().find(|(key, _, _)| *key == kind) else {
            return Met::Unknown;
        };
        let port = match fields(content).as_slice() {
            _ if !content.is_object() => None,
            [] => Some(true),
            [("destinationPort", port)] => port_matches(port, packet.port),
            _ => None,
        };
        port.map_or(Met::Unknown, |matches| met(*number == packet.protocol && matches))
    }
}

/// `None` where it is no port.
fn port_matches(port: &Value, asked: u16) -> Option<bool> {
    let number = |value: &Value| {
        let number = value.as_u64().filter(|number| (1..=65535).contains(number))?;
        u16::try_from(number).ok()
    };
    match fields(port).as_slice() {
        _ if !port.is_object() => None,
        [("number", value)] => Some(number(value)? == asked),
        [("range", range)] => {
            let mut keys = fields(range).into_iter().map(|(key, _)| key);
            let known = keys.all(|key| ["start", "end"].contains(&key));
            let (first, last) = (number(&range["start"])?, number(&range["end"])?);
            (known && first < last).then_some(first <= asked && asked <= last)
        }
        _ => None,
    }
}

fn priority(policy: &Value) -> Option<u64> {
    let priority = policy["spec"]["priority"].as_u64();
    priority.filter(|priority| *priority <= 1000)
}

/// The fields of an object that are set.
fn fields(object: &Value) -> Vec<(&str, &Value)> {
    let all = object.as_object().into_iter().flatten();
    let set = all.filter(|(_, value)| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => true,
    });
    set.map(|(key, value)| (key.as_str(), value)).collect()
}
