//! NetworkPolicies, whose every part may be invalid.

use k8s_openapi::{
    api::networking::v1::{self as networking, NetworkPolicyPeer, NetworkPolicyPort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use vethwall_common::protocol;
use vethwall_policy::model::{NetworkPolicy, Peer, Peers, PortMatch, Ports, Rule, Selector};

use super::{Converter, code, names, parse_cidr, protocol_number};

impl Converter {
    pub(super) fn network_policy(&mut self, object: &networking::NetworkPolicy) -> NetworkPolicy {
        let (namespace, name) = names(&object.metadata);
        let own = self.mode(&object.metadata);
        let mode = own.or_else(|| self.modes.get(&namespace).copied());
        // Without a spec it is the zero spec, as it is for the API server: all pods, no ingress.
        let spec = object.spec.clone().unwrap_or_default();
        let (ingress, egress) = self.directions(&spec);
        let pod_selector = self.subject("spec.podSelector", spec.pod_selector.as_ref());
        let ingress = ingress.then(|| {
            let rules = spec.ingress.iter().flatten().enumerate();
            rules
                .map(|(i, rule)| {
                    self.rule(
                        &format!("ingress[{i}]"),
                        "from",
                        rule.from.as_ref(),
                        rule.ports.as_ref(),
                    )
                })
                .collect()
        });
        let egress = egress.then(|| {
            let rules = spec.egress.iter().flatten().enumerate();
            rules
                .map(|(i, rule)| {
                    self.rule(
                        &format!("egress[{i}]"),
                        "to",
                        rule.to.as_ref(),
                        rule.ports.as_ref(),
                    )
                })
                .collect()
        });
        NetworkPolicy {
            namespace,
            name,
            pod_selector,
            ingress,
            egress,
            mode,
        }
    }

    /// The directions in which a policy isolates (SEMANTICS 5, 6).
    fn directions(&mut self, spec: &networking::NetworkPolicySpec) -> (bool, bool) {
        let types = spec.policy_types.as_deref().unwrap_or_default();
        if types.is_empty() {
            return (true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()));
        }
        let (mut ingress, mut egress) = (false, false);
        for name in types {
            match name.as_str() {
                "Ingress" => ingress = true,
                "Egress" => egress = true,
                other => {
                    // Which direction was meant is a guess; both is the closed one.
                    let meant = other.to_ascii_lowercase();
                    ingress |= meant != "egress";
                    egress |= meant != "ingress";
                    self.problem(
                        code::POLICY_TYPE,
                        format!("spec.policyTypes: expected Ingress or Egress, found {other:?}"),
                    );
                }
            }
        }
        (ingress, egress)
    }

    fn rule(
        &mut self,
        at: &str,
        peers_field: &str,
        peers: Option<&Vec<NetworkPolicyPeer>>,
        ports: Option<&Vec<NetworkPolicyPort>>,
    ) -> Rule {
        let peers = match peers.map(Vec::as_slice).unwrap_or_default() {
            [] => Peers::All,
            peers => {
                let at = |i| format!("spec.{at}.{peers_field}[{i}]");
                Peers::Some(
                    peers
                        .iter()
                        .enumerate()
                        .map(|(i, peer)| self.peer(&at(i), peer))
                        .collect(),
                )
            }
        };
        let ports = match ports.map(Vec::as_slice).unwrap_or_default() {
            [] => Ports::All,
            ports => {
                let at = |i| format!("spec.{at}.ports[{i}]");
                Ports::Some(
                    ports
                        .iter()
                        .enumerate()
                        .map(|(i, port)| self.port(&at(i), port))
                        .collect(),
                )
            }
        };
        Rule { peers, ports }
    }

    fn peer(&mut self, at: &str, peer: &NetworkPolicyPeer) -> Peer {
        let NetworkPolicyPeer {
            ip_block,
            namespace_selector,
            pod_selector,
        } = peer;
        match (ip_block, namespace_selector, pod_selector) {
            (Some(block), None, None) => self.block(at, block),
            (Some(_), _, _) => {
                self.problem(
                    code::PEER,
                    format!("{at}: ipBlock stands beside a selector; it matches nothing"),
                );
                Peer::Nothing
            }
            (None, None, None) => {
                let message =
                    format!("{at}: expected podSelector, namespaceSelector or ipBlock; it matches nothing");
                self.problem(code::PEER, message);
                Peer::Nothing
            }
            (None, namespaces, pods) => {
                let namespaces = namespaces
                    .as_ref()
                    .map(|selector| self.peer_selector(&format!("{at}.namespaceSelector"), selector));
                let pods = pods.as_ref().map_or_else(
                    || Some(Selector::everything()),
                    |selector| self.peer_selector(&format!("{at}.podSelector"), selector),
                );
                match (namespaces, pods) {
                    (None, Some(pods)) => Peer::Pods {
                        namespaces: None,
                        pods,
                    },
                    (Some(Some(namespaces)), Some(pods)) => Peer::Pods {
                        namespaces: Some(namespaces),
                        pods,
                    },
                    (Some(None), _) | (_, None) => Peer::Nothing,
                }
            }
        }
    }

    fn block(&mut self, at: &str, block: &networking::IPBlock) -> Peer {
        let Some(cidr) = parse_cidr(&block.cidr) else {
            let message = format!(
                "{at}.ipBlock.cidr: expected a network such as 10.0.0.0/8, found {:?}; it matches nothing",
                block.cidr
            );
            self.problem(code::CIDR, message);
            return Peer::Nothing;
        };
        let mut except = Vec::new();
        for (i, text) in block.except.iter().flatten().enumerate() {
            let Some(hole) = parse_cidr(text) else {
                // Without its hole the block would allow too much.
                let message = format!(
                    "{at}.ipBlock.except[{i}]: expected a network such as 10.1.0.0/16, found {text:?}; the block matches nothing"
                );
                self.problem(code::CIDR, message);
                return Peer::Nothing;
            };
            if !cidr.contains(&hole) && !hole.contains(&cidr) {
                let message =
                    format!("{at}.ipBlock.except[{i}]: {hole} lies outside {cidr} and changes nothing");
                self.problem(code::EXCEPT, message);
            }
            except.push(hole);
        }
        Peer::Block { cidr, except }
    }

    fn port(&mut self, at: &str, port: &NetworkPolicyPort) -> PortMatch {
        let protocol = match port.protocol.as_deref() {
            None => protocol::TCP,
            Some(name) => match protocol_number(name) {
                Some(number) => number,
                None => {
                    let message = format!(
                        "{at}.protocol: expected TCP, UDP or SCTP, found {name:?}; it matches nothing"
                    );
                    self.problem(code::PROTOCOL, message);
                    return PortMatch::Nothing;
                }
            },
        };
        match port_match(protocol, port.port.as_ref(), port.end_port) {
            Ok(ports) => ports,
            Err(message) => {
                self.problem(code::PORT, format!("{at}.{message}; it matches nothing"));
                PortMatch::Nothing
            }
        }
    }
}

/// Which ports an entry means (SEMANTICS 25 to 27), or what is wrong with it.
fn port_match(protocol: u8, port: Option<&IntOrString>, end: Option<i32>) -> Result<PortMatch, String> {
    let number = |field: &str, value: i32| match u16::try_from(value) {
        Ok(number) if number > 0 => Ok(number),
        Ok(_) | Err(_) => Err(format!("{field}: expected 1 to 65535, found {value}")),
    };
    match (port, end) {
        (None, None) => Ok(PortMatch::Protocol(protocol)),
        (None, Some(_)) => Err("endPort: it needs a port beside it".to_owned()),
        (Some(IntOrString::Int(first)), end) => {
            let first = number("port", *first)?;
            let last = end.map_or(Ok(first), |last| number("endPort", last))?;
            if last < first {
                return Err(format!("endPort: {last} is smaller than port {first}"));
            }
            Ok(PortMatch::Range {
                protocol,
                first,
                last,
            })
        }
        (Some(IntOrString::String(name)), end) => {
            if !name.bytes().any(|byte| byte.is_ascii_alphabetic()) {
                return Err(format!(
                    "port: {name:?} is no port name; write a number without quotes"
                ));
            }
            if end.is_some() {
                return Err(format!(
                    "endPort: it needs a number as port, not the name {name:?}"
                ));
            }
            Ok(PortMatch::Named {
                protocol,
                name: name.clone(),
            })
        }
    }
}
