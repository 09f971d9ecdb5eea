//! Kubernetes objects into [`vethwall_policy::model`]: the one place that knows both.
//!
//! What the API server would refuse can still stand in a file or, stored by an older server, in the API. It is never
//! skipped: a policy selects as written, the part of it that makes no sense matches nothing, and a [`Problem`] with a
//! stable code tells.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

use ipnet::IpNet;
use k8s_openapi::{
    api::{
        core::v1 as core,
        networking::v1::{self as networking, NetworkPolicyPeer, NetworkPolicyPort},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use vethwall_common::protocol;
use vethwall_policy::model::{
    ContainerPort, Labels, Mode, Namespace, NetworkPolicy, Node, Object, Operator, Peer, Peers, Pod,
    PolicyRef, PortMatch, Ports, Requirement, Rule, Selector, canonical,
};

use crate::manifests::{DEFAULT_NAMESPACE, Isolation, Manifest, Sourced, View};

/// Annotation of a namespace or a policy: `enforce` or `audit`.
pub const MODE: &str = "vethwall.io/mode";

/// Annotation that holds a static pod's UID as the runtime knows it (SEMANTICS 38).
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// API group of the policies that come with clusters' tiers.
const CLUSTER_POLICIES: &str = "policy.networking.k8s.io/";

/// Something in an object that can not be done as asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, where one is known.
    pub file: Option<PathBuf>,
    /// The object's first line; 0 where unknown.
    pub line: usize,
    /// The policy, where one is concerned.
    pub policy: Option<PolicyRef>,
    /// Stable code.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Stable codes of problems.
pub mod code {
    /// A peer without a field, or with an ipBlock beside selectors.
    pub const PEER: &str = "POL001";
    /// A CIDR that is none.
    pub const CIDR: &str = "POL002";
    /// A port or a range of ports that is none.
    pub const PORT: &str = "POL003";
    /// A protocol that policies do not know.
    pub const PROTOCOL: &str = "POL004";
    /// A policy type that is none.
    pub const POLICY_TYPE: &str = "POL005";
    /// A selector that can not be evaluated.
    pub const SELECTOR: &str = "POL006";
    /// A mode that is none.
    pub const MODE: &str = "POL007";
    /// An except that lies outside its block.
    pub const EXCEPT: &str = "POL008";
    /// A kind of policy that is not enforced.
    pub const KIND: &str = "POL009";
    /// A policy that was never understood isolates what it selects.
    pub const ISOLATES: &str = "POL010";
}

/// What a view means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Converted {
    /// The objects.
    pub objects: Vec<Object>,
    /// What is wrong with them.
    pub problems: Vec<Problem>,
}

/// Converts all objects of a view.
pub fn convert(view: &View) -> Converted {
    let mut converter = Converter::default();
    for sourced in &view.objects {
        if let Manifest::Namespace(namespace) = &sourced.object {
            converter.begin(sourced, None);
            converter.namespace(namespace);
        }
    }
    for sourced in &view.objects {
        converter.object(sourced);
    }
    for isolation in &view.isolations {
        converter.isolation(isolation);
    }
    Converted {
        objects: converter.objects,
        problems: converter.problems,
    }
}

#[derive(Default)]
struct Converter {
    objects: Vec<Object>,
    problems: Vec<Problem>,
    /// Modes of namespaces that name one.
    modes: BTreeMap<String, Mode>,
    /// Where the object at hand stands.
    file: Option<PathBuf>,
    line: usize,
    policy: Option<PolicyRef>,
}

impl Converter {
    fn begin(&mut self, sourced: &Sourced, policy: Option<PolicyRef>) {
        self.file = Some(sourced.file.clone());
        self.line = sourced.line;
        self.policy = policy;
    }

    fn problem(&mut self, code: &'static str, message: String) {
        let (file, line, policy) = (self.file.clone(), self.line, self.policy.clone());
        self.problems.push(Problem {
            file,
            line,
            policy,
            code,
            message,
        });
    }

    fn object(&mut self, sourced: &Sourced) {
        self.begin(sourced, None);
        match &sourced.object {
            Manifest::Namespace(_) | Manifest::Service(_) => {}
            Manifest::Pod(object) => self.objects.push(Object::Pod(pod(object))),
            Manifest::Node(object) => self.objects.push(Object::Node(node(object))),
            Manifest::NetworkPolicy(object) => {
                let (namespace, name) = names(&object.metadata);
                self.policy = Some(PolicyRef { namespace, name });
                let policy = self.network_policy(object);
                self.objects.push(Object::NetworkPolicy(policy));
            }
            Manifest::Other {
                api_version,
                kind,
                name,
                ..
            } => {
                if api_version.starts_with(CLUSTER_POLICIES) {
                    self.problem(
                        code::KIND,
                        format!("{kind} {name} is not enforced by this version"),
                    );
                }
            }
        }
    }

    fn namespace(&mut self, object: &core::Namespace) {
        let name = object.metadata.name.clone().unwrap_or_default();
        if let Some(mode) = self.mode(&object.metadata) {
            self.modes.insert(name.clone(), mode);
        }
        self.objects.push(Object::Namespace(Namespace {
            name,
            labels: labels(&object.metadata),
        }));
    }

    /// A policy that nobody could read in full: isolates both ways (SEMANTICS 18).
    fn isolation(&mut self, isolation: &Isolation) {
        let Isolation {
            namespace,
            name,
            pods,
        } = isolation;
        (self.file, self.line) = (None, 0);
        self.policy = Some(PolicyRef {
            namespace: namespace.clone(),
            name: name.clone(),
        });
        let selects = if pods.is_some() {
            "the pods it selects"
        } else {
            "every pod of its namespace"
        };
        self.problem(
            code::ISOLATES,
            format!("it could not be read and no good version of it is known: {selects} may neither send nor receive"),
        );
        let pod_selector = pods
            .as_ref()
            .map_or_else(Selector::everything, |pods| self.subject(Some(pods)));
        self.objects.push(Object::NetworkPolicy(NetworkPolicy {
            namespace: namespace.clone(),
            name: name.clone(),
            pod_selector,
            ingress: Some(Vec::new()),
            egress: Some(Vec::new()),
            mode: Mode::Enforce,
        }));
    }

    fn mode(&mut self, metadata: &ObjectMeta) -> Option<Mode> {
        let value = metadata.annotations.as_ref()?.get(MODE)?;
        Some(match value.as_str() {
            "enforce" => Mode::Enforce,
            "audit" => Mode::Audit,
            other => {
                self.problem(
                    code::MODE,
                    format!("{MODE}: expected enforce or audit, found {other:?}; it is enforced"),
                );
                Mode::Enforce
            }
        })
    }

    fn network_policy(&mut self, object: &networking::NetworkPolicy) -> NetworkPolicy {
        let (namespace, name) = names(&object.metadata);
        let own = self.mode(&object.metadata);
        let mode = own
            .or_else(|| self.modes.get(&namespace).copied())
            .unwrap_or_default();
        // Without a spec it is the zero spec, as it is for the API server: all pods, no ingress.
        let spec = object.spec.clone().unwrap_or_default();
        let (ingress, egress) = self.directions(&spec);
        let pod_selector = self.subject(spec.pod_selector.as_ref());
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

    /// The pods that a policy isolates. What can not be evaluated is left out: more pods are isolated, not fewer.
    fn subject(&mut self, selector: Option<&LabelSelector>) -> Selector {
        let Some(selector) = selector else {
            return Selector::everything();
        };
        let (requirements, errors) = requirements(selector);
        for error in errors {
            let message = format!("spec.podSelector.{error}; it is taken as always true");
            self.problem(code::SELECTOR, message);
        }
        Selector::new(requirements)
    }

    /// Peers. What can not be evaluated selects nobody.
    fn peer_selector(&mut self, at: &str, selector: &LabelSelector) -> Option<Selector> {
        let (requirements, errors) = requirements(selector);
        let good = errors.is_empty();
        for error in errors {
            self.problem(code::SELECTOR, format!("{at}.{error}; the peer matches nothing"));
        }
        good.then(|| Selector::new(requirements))
    }
}

fn requirements(selector: &LabelSelector) -> (Vec<Requirement>, Vec<String>) {
    let LabelSelector {
        match_expressions,
        match_labels,
    } = selector;
    let pairs = match_labels.iter().flatten();
    let mut all: Vec<_> = pairs
        .map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In([value.clone()].into()),
        })
        .collect();
    let mut errors = Vec::new();
    for (i, expression) in match_expressions.iter().flatten().enumerate() {
        let LabelSelectorRequirement {
            key,
            operator,
            values,
        } = expression;
        let values: std::collections::BTreeSet<String> = values.iter().flatten().cloned().collect();
        let operator = match operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(format!(
                    "matchExpressions[{i}].values: {operator} needs at least one value"
                ));
                continue;
            }
            "In" => Operator::In(values),
            "NotIn" => Operator::NotIn(values),
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(format!(
                    "matchExpressions[{i}].values: {operator} takes no values"
                ));
                continue;
            }
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                let expected = "expected In, NotIn, Exists or DoesNotExist";
                errors.push(format!(
                    "matchExpressions[{i}].operator: {expected}, found {other:?}"
                ));
                continue;
            }
        };
        all.push(Requirement {
            key: key.clone(),
            operator,
        });
    }
    (all, errors)
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

fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "TCP" => Some(protocol::TCP),
        "UDP" => Some(protocol::UDP),
        "SCTP" => Some(protocol::SCTP),
        _ => None,
    }
}

fn names(metadata: &ObjectMeta) -> (String, String) {
    let namespace = metadata.namespace.as_deref().filter(|name| !name.is_empty());
    (
        namespace.unwrap_or(DEFAULT_NAMESPACE).to_owned(),
        metadata.name.clone().unwrap_or_default(),
    )
}

fn labels(metadata: &ObjectMeta) -> Labels {
    metadata.labels.clone().unwrap_or_default()
}

fn pod(object: &core::Pod) -> Pod {
    let (namespace, name) = names(&object.metadata);
    let annotations = object.metadata.annotations.as_ref();
    let hash = annotations.and_then(|annotations| annotations.get(CONFIG_HASH));
    let uid = hash.or(object.metadata.uid.as_ref()).cloned().unwrap_or_default();
    let spec = object.spec.clone().unwrap_or_default();
    let status = object.status.clone().unwrap_or_default();
    let listed = status.pod_ips.into_iter().flatten().map(|entry| entry.ip);
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in listed.chain(status.pod_ip).filter_map(|text| parse_ip(&text)) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    // Sidecars: init containers that stay (SEMANTICS 27).
    let sidecars = spec
        .init_containers
        .into_iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .into_iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.unwrap_or_default());
    Pod {
        namespace,
        name,
        uid,
        labels: labels(&object.metadata),
        node: spec.node_name,
        addresses,
        host_network: spec.host_network.unwrap_or(false),
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        ports: ports.filter_map(|port| container_port(&port)).collect(),
    }
}

fn container_port(port: &core::ContainerPort) -> Option<ContainerPort> {
    Some(ContainerPort {
        name: port.name.clone().filter(|name| !name.is_empty()),
        protocol: port
            .protocol
            .as_deref()
            .map_or(Some(protocol::TCP), protocol_number)?,
        port: u16::try_from(port.container_port).ok().filter(|port| *port > 0)?,
    })
}

fn node(object: &core::Node) -> Node {
    let spec = object.spec.clone().unwrap_or_default();
    let status = object.status.clone().unwrap_or_default();
    let cidrs = spec.pod_cidrs.into_iter().flatten().chain(spec.pod_cidr);
    let mut pod_cidrs: Vec<IpNet> = cidrs.filter_map(|text| parse_cidr(&text)).collect();
    pod_cidrs.sort();
    pod_cidrs.dedup();
    Node {
        name: object.metadata.name.clone().unwrap_or_default(),
        labels: labels(&object.metadata),
        // Host names are no addresses.
        addresses: status
            .addresses
            .into_iter()
            .flatten()
            .filter_map(|entry| parse_ip(&entry.address))
            .collect(),
        pod_cidrs,
    }
}

/// An address as Kubernetes' own parser takes it: leading zeros are decimal (k8s.io/utils/net `ParseIPSloppy`).
fn parse_ip(text: &str) -> Option<IpAddr> {
    let sloppy = without_leading_zeros(text);
    sloppy.parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// A network as Kubernetes' own parser takes it (`ParseCIDRSloppy`): leading zeros are decimal, host bits are masked,
/// an IPv4-mapped network is IPv4 (SEMANTICS 24).
pub fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let length: u8 = length.parse().ok()?;
    let address: IpAddr = without_leading_zeros(address).parse().ok()?;
    let net = match address {
        // `::ffff:a.b.c.d/n` with n below 96 covers more than IPv4; it stays what it is.
        IpAddr::V6(v6) => IpNet::new(IpAddr::V6(v6), length).ok()?,
        IpAddr::V4(v4) => IpNet::new(IpAddr::V4(v4), length).ok()?,
    };
    Some(canonical(net))
}

/// Drops leading zeros from every group of an address.
fn without_leading_zeros(text: &str) -> String {
    // A lone `Ipv6Addr` never needs this; a group of only zeros keeps one.
    if text.parse::<Ipv6Addr>().is_ok() {
        return text.to_owned();
    }
    let mut result = String::with_capacity(text.len());
    for group in text.split_inclusive(['.', ':']) {
        let (digits, separator) = match group.strip_suffix(['.', ':']) {
            Some(digits) => (digits, &group[digits.len()..]),
            None => (group, ""),
        };
        let trimmed = digits.trim_start_matches('0');
        result += if trimmed.is_empty() && !digits.is_empty() {
            "0"
        } else {
            trimmed
        };
        result += separator;
    }
    result
}

#[cfg(test)]
mod tests;
