//! Peers and protocols of ClusterNetworkPolicies: one entry of a list, exactly as far as it is understood.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::de::DeserializeOwned;
use serde_json::Value;
use vethwall_common::protocol;
use vethwall_policy::model::{Peer, PortMatch, Selector};

use super::{code, parse_cidr};
use crate::{
    k8s::{
        cluster_network_policy::{NamespacedPod, Port, PortRange, ProtocolMatch},
        selector::selector,
    },
    manifests::close,
};

/// Which rules an entry belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    /// The field with the peers.
    pub(super) const fn field(self) -> &'static str {
        match self {
            Self::Ingress => "from",
            Self::Egress => "to",
        }
    }

    /// The peers that are understood.
    const fn peers(self) -> &'static [&'static str] {
        match self {
            Self::Ingress => &["namespaces", "pods"],
            Self::Egress => &["namespaces", "pods", "nodes", "networks"],
        }
    }
}

const PROTOCOLS: &[&str] = &["tcp", "udp", "sctp", "destinationNamedPort"];

/// Why an entry is not understood.
#[derive(Debug)]
pub(super) struct Misfit {
    /// Code of the problem.
    pub(super) code: &'static str,
    /// What follows the entry's path: the rest of the path, and a sentence.
    pub(super) message: String,
}

impl Misfit {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }
}

/// The peers that an entry of `from` or `to` means.
pub(super) fn peer(direction: Direction, written: &Value) -> Result<Vec<Peer>, Misfit> {
    let (key, value) = only_field(written, direction.peers()).map_err(|error| {
        let message = match error {
            Unknown(key) if key == "domainNames" => ".domainNames: domain names are not supported".to_owned(),
            Unknown(key) if Direction::Egress.peers().contains(&key.as_str()) => {
                format!(".{key}: {key} are no peers of ingress rules")
            }
            error @ (NotOne::NoMapping | NotOne::Empty | Unknown(_) | NotOne::Several(_)) => {
                error.into_message(direction.peers())
            }
        };
        Misfit::new(code::CLUSTER_PEER, message)
    })?;
    let misfit = |message| Misfit::new(code::CLUSTER_PEER, format!(".{key}{message}"));
    Ok(match key {
        "namespaces" => vec![Peer::Pods {
            namespaces: Some(selects(".namespaces", &read(value).map_err(misfit)?)?),
            pods: Selector::everything(),
        }],
        "pods" => {
            let pods: NamespacedPod = read(value).map_err(misfit)?;
            let inner = |at, selector: Option<&LabelSelector>| {
                selector.map_or_else(|| Ok(Selector::everything()), |selector| selects(at, selector))
            };
            vec![Peer::Pods {
                namespaces: Some(inner(
                    ".pods.namespaceSelector",
                    pods.namespace_selector.as_ref(),
                )?),
                pods: inner(".pods.podSelector", pods.pod_selector.as_ref())?,
            }]
        }
        "nodes" => vec![Peer::Nodes(selects(".nodes", &read(value).map_err(misfit)?)?)],
        _ => networks(&read::<Vec<String>>(value).map_err(misfit)?)?,
    })
}

fn selects(at: &str, written: &LabelSelector) -> Result<Selector, Misfit> {
    selector(written).map_err(|error| Misfit::new(code::SELECTOR, format!("{at}.{error}")))
}

fn networks(texts: &[String]) -> Result<Vec<Peer>, Misfit> {
    if texts.is_empty() {
        let message = ".networks: expected at least one network";
        return Err(Misfit::new(code::CLUSTER_PEER, message));
    }
    let all = texts.iter().enumerate().map(|(i, text)| {
        parse_cidr(text)
            .map(|cidr| Peer::Block {
                cidr,
                except: Vec::new(),
            })
            .ok_or_else(|| {
                let message =
                    format!(".networks[{i}]: expected a network such as 10.0.0.0/8, found {text:?}");
                Misfit::new(code::CIDR, message)
            })
    });
    all.collect()
}

/// The ports that an entry of `protocols` means.
pub(super) fn protocol(written: &Value) -> Result<Vec<PortMatch>, Misfit> {
    let (key, value) = only_field(written, PROTOCOLS)
        .map_err(|error| Misfit::new(code::CLUSTER_PROTOCOL, error.into_message(PROTOCOLS)))?;
    let misfit = |message| Misfit::new(code::CLUSTER_PROTOCOL, format!(".{key}{message}"));
    let number = match key {
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "sctp" => protocol::SCTP,
        _ => return named(&read::<String>(value).map_err(misfit)?),
    };
    let ProtocolMatch { destination_port } = read(value).map_err(misfit)?;
    let port = destination_port.map_or(Ok(PortMatch::Protocol(number)), |port| destination(number, &port));
    let port = port.map_err(|message| Misfit::new(code::PORT, format!(".{key}.destinationPort{message}")))?;
    Ok(vec![port])
}

/// A named port is that of any protocol: the container says which.
fn named(name: &str) -> Result<Vec<PortMatch>, Misfit> {
    if !name.bytes().any(|byte| byte.is_ascii_alphabetic()) {
        let message = format!(".destinationNamedPort: {name:?} is no port name");
        return Err(Misfit::new(code::PORT, message));
    }
    let protocols = [protocol::TCP, protocol::UDP, protocol::SCTP];
    Ok(protocols
        .map(|protocol| PortMatch::Named {
            protocol,
            name: name.to_owned(),
        })
        .into())
}

fn destination(protocol: u8, port: &Port) -> Result<PortMatch, String> {
    let in_range = |field: &str, value: i64| match u16::try_from(value) {
        Ok(number) if number > 0 => Ok(number),
        Ok(_) | Err(_) => Err(format!(".{field}: expected 1 to 65535, found {value}")),
    };
    let (first, last) = match port {
        Port {
            number: Some(number),
            range: None,
        } => {
            let number = in_range("number", *number)?;
            (number, number)
        }
        Port {
            number: None,
            range: Some(PortRange { start, end }),
        } => (in_range("range.start", *start)?, in_range("range.end", *end)?),
        Port { .. } => return Err(": expected either number or range".to_owned()),
    };
    if port.range.is_some() && last <= first {
        return Err(format!(".range: end {last} is not greater than start {first}"));
    }
    Ok(PortMatch::Range {
        protocol,
        first,
        last,
    })
}

/// Why an entry has not exactly one known field.
enum NotOne {
    /// It is no mapping.
    NoMapping,
    /// It has no field.
    Empty,
    /// It has a field that is not known.
    Unknown(String),
    /// It has several known fields.
    Several(Vec<String>),
}

use NotOne::Unknown;

impl NotOne {
    fn into_message(self, known: &[&str]) -> String {
        let expected = known.join(", ");
        match self {
            Self::NoMapping => format!(": expected a mapping with one of {expected}"),
            Self::Empty => format!(": expected one of {expected}, found none"),
            Unknown(key) => match close(&key, known) {
                Some(meant) => format!(": unknown field {key} (did you mean {meant}?)"),
                None => format!(": unknown field {key} (expected one of {expected})"),
            },
            Self::Several(keys) => format!(": expected one of {expected}, found {}", keys.join(" and ")),
        }
    }
}

/// The only field of an entry. One that is null is absent, as it is for the API server, but only if it is known.
fn only_field<'a>(written: &'a Value, known: &[&'static str]) -> Result<(&'static str, &'a Value), NotOne> {
    let fields = written.as_object().ok_or(NotOne::NoMapping)?;
    let mut found = Vec::new();
    for (key, value) in fields {
        match known.iter().find(|name| *name == key) {
            None => return Err(Unknown(key.clone())),
            Some(_) if value.is_null() => {}
            Some(name) => found.push((*name, value)),
        }
    }
    match found.as_slice() {
        [] => Err(NotOne::Empty),
        [one] => Ok(*one),
        several => Err(NotOne::Several(
            several.iter().map(|(key, _)| (*key).to_owned()).collect(),
        )),
    }
}

/// Decodes a value of which everything must be understood. An error starts with the path below the value.
fn read<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    let mut unknown = None;
    let decoded = serde_ignored::deserialize(value, |path| {
        unknown.get_or_insert_with(|| path.to_string());
    });
    match (decoded, unknown) {
        (Ok(decoded), None) => Ok(decoded),
        (Ok(_), Some(path)) => Err(format!(": unknown field {path}")),
        (Err(error), _) => Err(format!(": {error}")),
    }
}
