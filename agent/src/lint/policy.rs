//! NetworkPolicies and ClusterNetworkPolicies in one shape, every part with its place.
//!
//! Reading is lenient: what is wrong stays as a place without a meaning, and a check tells.

use ipnet::IpNet;

use super::{object::Object, selector::Selected, spot::Spot};
use crate::k8s::convert::parse_cidr;

/// A policy.
pub(super) struct Policy<'a> {
    /// Its object.
    pub(super) object: &'a Object<'a>,
    /// What only ClusterNetworkPolicies have.
    pub(super) cluster: Option<Cluster>,
    /// Namespaces whose pods it selects; none for a NetworkPolicy: its own.
    pub(super) namespaces: Option<Selected<'a>>,
    /// Pods that it selects; none: all.
    pub(super) pods: Option<Selected<'a>>,
    /// From whom its pods may receive.
    pub(super) ingress: Direction<'a>,
    /// To whom they may send.
    pub(super) egress: Direction<'a>,
}

/// Where a ClusterNetworkPolicy stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cluster {
    /// In the tier before all NetworkPolicies; else after them.
    pub(super) admin: bool,
    /// Lower comes first.
    pub(super) priority: i64,
}

/// One direction of a policy.
pub(super) struct Direction<'a> {
    /// `ingress` or `egress`.
    pub(super) name: &'static str,
    /// `from` or `to`.
    pub(super) peers: &'static str,
    /// The field, where it is there.
    pub(super) spot: Option<Spot<'a>>,
    /// A NetworkPolicy isolates its pods in this direction.
    pub(super) isolates: bool,
    /// Its rules.
    pub(super) rules: Vec<Rule<'a>>,
}

/// A rule.
pub(super) struct Rule<'a> {
    /// Its place.
    pub(super) spot: Spot<'a>,
    /// What a ClusterNetworkPolicy's rule does.
    pub(super) action: Option<Action>,
    /// The field with its peers, where it is there; may be null.
    pub(super) peers_field: Option<Spot<'a>>,
    /// Its peers; none: everybody.
    pub(super) peers: Vec<Peer<'a>>,
    /// The field with its ports.
    pub(super) ports_field: Option<Spot<'a>>,
    /// Its ports; none: all.
    pub(super) ports: Vec<Port<'a>>,
}

/// What a ClusterNetworkPolicy's rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Lets it pass, finally.
    Accept,
    /// Drops it, finally.
    Deny,
    /// Leaves it to the next tier.
    Pass,
}

/// A peer.
pub(super) struct Peer<'a> {
    /// Its place.
    pub(super) spot: Spot<'a>,
    /// Namespaces; none beside `pods`: the policy's own.
    pub(super) namespaces: Option<Selected<'a>>,
    /// Pods.
    pub(super) pods: Option<Selected<'a>>,
    /// Nodes.
    pub(super) nodes: Option<Spot<'a>>,
    /// Networks.
    pub(super) blocks: Vec<Block<'a>>,
}

/// A network.
pub(super) struct Block<'a> {
    /// The CIDR's place.
    pub(super) spot: Spot<'a>,
    /// The network, if it is one.
    pub(super) net: Option<IpNet>,
    /// What is taken out of it.
    pub(super) except: Vec<(Spot<'a>, Option<IpNet>)>,
}

/// An entry of a rule's ports.
pub(super) struct Port<'a> {
    /// Its place.
    pub(super) spot: Spot<'a>,
    /// TCP, UDP or SCTP; none: all of them, or one that nobody knows.
    pub(super) protocol: Option<&'a str>,
    /// Which ports.
    pub(super) ports: Ports<'a>,
}

/// Which ports an entry means.
pub(super) enum Ports<'a> {
    /// All of its protocol.
    All,
    /// First to last.
    Range(Spot<'a>, i64, i64),
    /// By name.
    Named(Spot<'a>, &'a str),
    /// What can not be understood.
    Wrong,
}

impl<'a> Policy<'a> {
    /// The policy that an object is.
    pub(super) fn of(object: &'a Object<'a>) -> Option<Self> {
        if object.is_network_policy() {
            Some(Self::network(object))
        } else if object.is_cluster_policy() {
            Some(Self::cluster(object))
        } else {
            None
        }
    }

    fn network(object: &'a Object<'a>) -> Self {
        let spec = object.root.get("spec");
        let field = |key: &str| spec.as_ref().and_then(|spec| spec.get(key));
        let types = field("policyTypes").map(|list| list.items()).unwrap_or_default();
        let direction = |name: &'static str, peers: &'static str, word: &str| {
            let spot = field(name);
            let rules = spot.as_ref().map(|list| list.items()).unwrap_or_default();
            let isolates = if types.is_empty() {
                name == "ingress" || !rules.is_empty()
            } else {
                types.iter().any(|one| one.text() == Some(word))
            };
            let rules = rules.into_iter().map(|rule| network_rule(rule, peers)).collect();
            Direction {
                name,
                peers,
                spot,
                isolates,
                rules,
            }
        };
        Self {
            object,
            cluster: None,
            namespaces: None,
            pods: field("podSelector").map(Selected::read),
            ingress: direction("ingress", "from", "Ingress"),
            egress: direction("egress", "to", "Egress"),
        }
    }

    fn cluster(object: &'a Object<'a>) -> Self {
        let field = |keys: &[&str]| object.root.at(keys);
        let direction = |name: &'static str, peers: &'static str| {
            let spot = field(&["spec", name]);
            let rules = spot.as_ref().map(|list| list.items()).unwrap_or_default();
            let rules = rules.into_iter().map(|rule| cluster_rule(rule, peers)).collect();
            Direction {
                name,
                peers,
                spot,
                isolates: false,
                rules,
            }
        };
        let namespaces = field(&["spec", "subject", "namespaces"]);
        Self {
            object,
            cluster: Some(Cluster {
                admin: field(&["spec", "tier"]).and_then(|tier| tier.text()) != Some("Baseline"),
                priority: field(&["spec", "priority"])
                    .and_then(|spot| spot.number())
                    .unwrap_or(0),
            }),
            namespaces: namespaces
                .or_else(|| field(&["spec", "subject", "pods", "namespaceSelector"]))
                .map(Selected::read),
            pods: field(&["spec", "subject", "pods", "podSelector"]).map(Selected::read),
            ingress: direction("ingress", "from"),
            egress: direction("egress", "to"),
        }
    }

    /// The items of a NetworkPolicy's policyTypes.
    pub(super) fn types(&self) -> Vec<Spot<'a>> {
        let types = self.object.root.at(&["spec", "policyTypes"]);
        types.map(|types| types.items()).unwrap_or_default()
    }

    /// Both directions.
    pub(super) const fn directions(&self) -> [&Direction<'a>; 2] {
        [&self.ingress, &self.egress]
    }

    /// Every rule, with its direction.
    pub(super) fn rules(&self) -> impl Iterator<Item = (&Direction<'a>, &Rule<'a>)> {
        self.directions()
            .into_iter()
            .flat_map(|direction| direction.rules.iter().map(move |rule| (direction, rule)))
    }

    /// Every peer.
    pub(super) fn peers(&self) -> impl Iterator<Item = &Peer<'a>> {
        self.rules().flat_map(|(_, rule)| &rule.peers)
    }
}

fn network_rule<'a>(spot: Spot<'a>, peers: &str) -> Rule<'a> {
    let (peers_field, ports_field) = (spot.entry(peers), spot.entry("ports"));
    let items = |field: &Option<Spot<'a>>| field.as_ref().map(Spot::items).unwrap_or_default();
    Rule {
        action: None,
        peers: items(&peers_field).into_iter().map(network_peer).collect(),
        ports: items(&ports_field).into_iter().map(network_port).collect(),
        spot,
        peers_field,
        ports_field,
    }
}

fn network_peer(spot: Spot<'_>) -> Peer<'_> {
    let block = spot.get("ipBlock").and_then(|block| {
        let cidr = block.get("cidr")?;
        let except = block.get("except").map(|list| list.items()).unwrap_or_default();
        Some(Block {
            net: cidr.text().and_then(parse_cidr),
            spot: cidr,
            except: except
                .into_iter()
                .map(|spot| (spot.clone(), spot.text().and_then(parse_cidr)))
                .collect(),
        })
    });
    Peer {
        namespaces: spot.get("namespaceSelector").map(Selected::read),
        pods: spot.get("podSelector").map(Selected::read),
        nodes: None,
        blocks: block.into_iter().collect(),
        spot,
    }
}

fn network_port(spot: Spot<'_>) -> Port<'_> {
    let protocol = spot
        .get("protocol")
        .map_or(Some("TCP"), |protocol| known_protocol(protocol.text()?));
    let end = spot.get("endPort");
    let ports = match (spot.get("port"), end) {
        (None, None) => Ports::All,
        (Some(port), None) => match (port.number(), port.text()) {
            (Some(number), _) => Ports::Range(port, number, number),
            (None, Some(name)) if name.bytes().any(|b| b.is_ascii_alphabetic()) => Ports::Named(port, name),
            (None, _) => Ports::Wrong,
        },
        (Some(port), Some(end)) => match (port.number(), end.number()) {
            (Some(first), Some(last)) => Ports::Range(port, first, last),
            _ => Ports::Wrong,
        },
        (None, Some(_)) => Ports::Wrong,
    };
    Port {
        ports: if protocol.is_some() { ports } else { Ports::Wrong },
        protocol,
        spot,
    }
}

fn known_protocol(name: &str) -> Option<&'static str> {
    ["TCP", "UDP", "SCTP"].into_iter().find(|known| *known == name)
}

fn cluster_rule<'a>(spot: Spot<'a>, peers: &str) -> Rule<'a> {
    let (peers_field, ports_field) = (spot.entry(peers), spot.entry("protocols"));
    let items = |field: &Option<Spot<'a>>| field.as_ref().map(Spot::items).unwrap_or_default();
    Rule {
        action: match spot.text_of("action") {
            Some("Accept") => Some(Action::Accept),
            Some("Pass") => Some(Action::Pass),
            // Any other is told, and denies.
            _ => Some(Action::Deny),
        },
        peers: items(&peers_field).into_iter().map(cluster_peer).collect(),
        ports: items(&ports_field).into_iter().map(cluster_port).collect(),
        spot,
        peers_field,
        ports_field,
    }
}

fn cluster_peer(spot: Spot<'_>) -> Peer<'_> {
    let networks = spot.get("networks").map(|list| list.items()).unwrap_or_default();
    let blocks = networks.into_iter().map(|spot| Block {
        net: spot.text().and_then(parse_cidr),
        spot,
        except: Vec::new(),
    });
    let namespaces = spot
        .get("namespaces")
        .or_else(|| spot.at(&["pods", "namespaceSelector"]));
    Peer {
        // Of all namespaces, where it does not say: there is no namespace of its own.
        namespaces: namespaces
            .or_else(|| spot.get("pods").filter(Spot::is_empty))
            .map(Selected::read),
        pods: spot.at(&["pods", "podSelector"]).map(Selected::read),
        nodes: spot.get("nodes"),
        blocks: blocks.collect(),
        spot,
    }
}

fn cluster_port(spot: Spot<'_>) -> Port<'_> {
    if let Some(named) = spot.get("destinationNamedPort") {
        let ports = named.text().map(|name| Ports::Named(named, name));
        return Port {
            protocol: None,
            ports: ports.unwrap_or(Ports::Wrong),
            spot,
        };
    }
    let found = [("tcp", "TCP"), ("udp", "UDP"), ("sctp", "SCTP")]
        .into_iter()
        .find_map(|(key, protocol)| Some((spot.get(key)?, protocol)));
    let Some((fields, protocol)) = found else {
        return Port {
            protocol: None,
            ports: Ports::Wrong,
            spot,
        };
    };
    let ports = match fields.get("destinationPort") {
        None => Ports::All,
        Some(port) => {
            let number = |keys: &[&str]| port.at(keys).and_then(|spot| Some((spot.number()?, spot)));
            match (
                number(&["number"]),
                number(&["range", "start"]),
                number(&["range", "end"]),
            ) {
                (Some((number, spot)), _, _) => Ports::Range(spot, number, number),
                (None, Some((first, spot)), Some((last, _))) => Ports::Range(spot, first, last),
                _ => Ports::Wrong,
            }
        }
    };
    Port {
        protocol: Some(protocol),
        ports,
        spot,
    }
}
