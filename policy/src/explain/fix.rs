//! Changes to a world, as a person would make them: what [`super::nearest`] finds.
//!
//! A change is data first: [`Change::apply`] makes it in a world, so that whether it helps can be asked, not hoped. Its
//! sentence is made from the same data.

use std::fmt;

use ipnet::IpNet;
use vethwall_common::{Direction, protocol};

use super::sentences::protocol_name;
use crate::{
    model::{
        ClusterNetworkPolicy, ClusterRule, Labels, NetworkPolicy, Object, Peer, Peers, PolicyRef, PortMatch,
        Ports, Rule, Selector,
    },
    world::{METADATA_NAME, World},
};

/// One change; rules and entries count from 0 here and from 1 in the sentence, as everywhere, but for list entries,
/// which YAML tools count from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// One more entry in `ports` of a rule of a NetworkPolicy.
    AddPort {
        /// Whose rule.
        rule: RuleRef,
        /// The entry.
        port: PortMatch,
    },
    /// One more entry in `from` or `to` of a rule of a NetworkPolicy.
    AddPeer {
        /// Whose rule.
        rule: RuleRef,
        /// The entry.
        peer: Peer,
    },
    /// One hole less in an ipBlock.
    RemoveExcept {
        /// Whose rule.
        rule: RuleRef,
        /// The ipBlock's place in `from` or `to`.
        peer: usize,
        /// The hole, as it is written.
        hole: IpNet,
    },
    /// Another label on a pod, or one less.
    Label {
        /// The pod's namespace.
        namespace: String,
        /// Its name.
        pod: String,
        /// The label's key.
        key: String,
        /// Its new value; none takes it away.
        value: Option<String>,
    },
    /// One more rule in a NetworkPolicy.
    AddRule {
        /// The policy.
        policy: PolicyRef,
        /// In `ingress` or `egress`.
        direction: Direction,
        /// The rule.
        rule: Rule,
    },
    /// One more NetworkPolicy, with one rule in this direction.
    AddPolicy {
        /// The policy.
        policy: NetworkPolicy,
        /// The direction of its rule.
        direction: Direction,
    },
    /// A rule that accepts, before one of a ClusterNetworkPolicy that denies.
    AcceptBefore {
        /// The rule that denies.
        rule: RuleRef,
        /// The new one.
        accept: ClusterRule,
    },
    /// Without the rule of a ClusterNetworkPolicy that denies: no rule that accepts could name this peer.
    RemoveRule {
        /// The rule that denies.
        rule: RuleRef,
    },
}

/// Names a rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// The policy.
    pub policy: PolicyRef,
    /// In its `ingress` or `egress`.
    pub direction: Direction,
    /// Its place there.
    pub rule: usize,
}

impl Change {
    /// What it changes, as that is; none where the change makes something new.
    pub fn object(&self, world: &World) -> Option<Object> {
        let cluster = |name: &str| {
            let mut policies = world.cluster_policies();
            policies
                .find(|policy| policy.name == name)
                .cloned()
                .map(Object::ClusterNetworkPolicy)
        };
        match self {
            Self::AddPort { rule, .. } | Self::AddPeer { rule, .. } | Self::RemoveExcept { rule, .. } => {
                find(world, &rule.policy).map(Object::NetworkPolicy)
            }
            Self::AddRule { policy, .. } => find(world, policy).map(Object::NetworkPolicy),
            Self::Label { namespace, pod, .. } => world.pod(namespace, pod).cloned().map(Object::Pod),
            Self::AcceptBefore { rule, .. } | Self::RemoveRule { rule } => cluster(&rule.policy.name),
            Self::AddPolicy { .. } => None,
        }
    }

    /// Makes the change; false where the world has not what it changes.
    pub fn apply(&self, world: &mut World) -> bool {
        let object = match self {
            Self::AddPort { rule, port } => edit(world, rule, |rule| match &mut rule.ports {
                Ports::Some(ports) => ports.push(port.clone()),
                Ports::All => {}
            }),
            Self::AddPeer { rule, peer } => edit(world, rule, |rule| match &mut rule.peers {
                Peers::Some(peers) => peers.push(peer.clone()),
                Peers::All => {}
            }),
            Self::RemoveExcept { rule, peer, hole } => edit(world, rule, |rule| {
                if let Peers::Some(peers) = &mut rule.peers
                    && let Some(Peer::Block { except, .. }) = peers.get_mut(*peer)
                {
                    except.retain(|other| other != hole);
                }
            }),
            Self::Label {
                namespace,
                pod,
                key,
                value,
            } => world.pod(namespace, pod).cloned().map(|mut pod| {
                match value {
                    Some(value) => _ = pod.labels.insert(key.clone(), value.clone()),
                    None => _ = pod.labels.remove(key),
                }
                Object::Pod(pod)
            }),
            Self::AddRule {
                policy,
                direction,
                rule,
            } => find(world, policy).map(|mut policy| {
                rules(&mut policy, *direction)
                    .get_or_insert_default()
                    .push(rule.clone());
                Object::NetworkPolicy(policy)
            }),
            Self::AddPolicy { policy, .. } => Some(Object::NetworkPolicy(policy.clone())),
            Self::AcceptBefore { rule, accept } => edit_cluster(world, rule, |rules, at| {
                rules.insert(at, accept.clone());
            }),
            Self::RemoveRule { rule } => edit_cluster(world, rule, |rules, at| _ = rules.remove(at)),
        };
        let found = object.is_some();
        object.into_iter().for_each(|object| world.apply(object));
        found
    }
}

fn find(world: &World, name: &PolicyRef) -> Option<NetworkPolicy> {
    let mut policies = world.policies_of(&name.namespace);
    policies.find(|policy| policy.name == name.name).cloned()
}

const fn rules(policy: &mut NetworkPolicy, direction: Direction) -> &mut Option<Vec<Rule>> {
    match direction {
        Direction::Ingress => &mut policy.ingress,
        Direction::Egress => &mut policy.egress,
    }
}

fn edit(world: &World, at: &RuleRef, change: impl FnOnce(&mut Rule)) -> Option<Object> {
    let mut policy = find(world, &at.policy)?;
    change(rules(&mut policy, at.direction).as_mut()?.get_mut(at.rule)?);
    Some(Object::NetworkPolicy(policy))
}

fn edit_cluster(
    world: &World,
    at: &RuleRef,
    change: impl FnOnce(&mut Vec<ClusterRule>, usize),
) -> Option<Object> {
    let mut policies = world.cluster_policies();
    let mut policy: ClusterNetworkPolicy = policies.find(|policy| policy.name == at.policy.name)?.clone();
    let rules = match at.direction {
        Direction::Ingress => &mut policy.ingress,
        Direction::Egress => &mut policy.egress,
    };
    if at.rule >= rules.len() {
        return None;
    }
    change(rules, at.rule);
    Some(Object::ClusterNetworkPolicy(policy))
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddPort { rule, port } => write!(f, "add {} to the ports of {rule}", Port(port)),
            Self::AddPeer { rule, peer } => {
                write!(
                    f,
                    "add a peer to {} of {rule}: {}",
                    list(rule.direction),
                    Who(peer)
                )
            }
            Self::RemoveExcept { rule, peer, hole } => write!(
                f,
                "remove {hole} from the except of {}[{peer}] of {rule}",
                list(rule.direction)
            ),
            Self::Label {
                namespace,
                pod,
                key,
                value: Some(value),
            } => write!(f, "label pod {namespace}/{pod} with {key}={value}"),
            Self::Label {
                namespace,
                pod,
                key,
                value: None,
            } => write!(f, "take the label {key} off pod {namespace}/{pod}"),
            Self::AddRule {
                policy,
                direction,
                rule,
            } => write!(
                f,
                "add an {} rule to {policy} that allows {} on {}",
                direction_name(*direction),
                Everybody(&rule.peers),
                Every(&rule.ports)
            ),
            Self::AddPolicy { policy, direction } => {
                let rules = match direction {
                    Direction::Ingress => &policy.ingress,
                    Direction::Egress => &policy.egress,
                };
                write!(
                    f,
                    "add a NetworkPolicy to namespace {} that selects {} and allows {}",
                    policy.namespace,
                    pods(&policy.pod_selector),
                    direction_name(*direction),
                )?;
                match rules.iter().flatten().next() {
                    Some(rule) => write!(
                        f,
                        " {} {} on {}",
                        list(*direction),
                        Everybody(&rule.peers),
                        Every(&rule.ports)
                    ),
                    None => Ok(()),
                }
            }
            Self::AcceptBefore { rule, accept } => write!(
                f,
                "put a rule that accepts {} on {} before {rule}, which denies it",
                Everybody(&accept.peers),
                Every(&accept.ports)
            ),
            Self::RemoveRule { rule } => write!(
                f,
                "change or remove {rule}, which denies it: no rule that accepts could name this peer"
            ),
        }
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.policy.namespace.is_empty() {
            "ClusterNetworkPolicy "
        } else {
            ""
        };
        write!(
            f,
            "{} rule {} of {kind}{}",
            direction_name(self.direction),
            self.rule + 1,
            self.policy
        )
    }
}

const fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// The field that holds a rule's peers.
const fn list(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    }
}

fn pods(selector: &Selector) -> String {
    if selector.requirements().is_empty() {
        "every pod".to_owned()
    } else {
        format!("pods {selector}")
    }
}

/// A peer, by the fields that make it.
struct Who<'a>(&'a Peer);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Peer::Pods {
                namespaces: None,
                pods,
            } => write!(f, "podSelector {pods}"),
            Peer::Pods {
                namespaces: Some(namespaces),
                pods,
            } if pods.requirements().is_empty() => write!(f, "namespaceSelector {namespaces}"),
            Peer::Pods {
                namespaces: Some(namespaces),
                pods,
            } => write!(f, "namespaceSelector {namespaces} and podSelector {pods}"),
            Peer::Block { cidr, .. } => write!(f, "ipBlock {cidr}"),
            Peer::Nodes(nodes) => write!(f, "nodes {nodes}"),
            Peer::Nothing => f.write_str("nobody"),
            Peer::Everything => f.write_str("everybody"),
        }
    }
}

struct Everybody<'a>(&'a Peers);

impl fmt::Display for Everybody<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Peers::All => f.write_str("everybody"),
            Peers::Some(peers) => {
                for (i, peer) in peers.iter().enumerate() {
                    let or = if i == 0 { "" } else { " or " };
                    write!(f, "{or}{}", Who(peer))?;
                }
                Ok(())
            }
        }
    }
}

struct Port<'a>(&'a PortMatch);

impl fmt::Display for Port<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            PortMatch::Protocol(p) => write!(f, "every port of {}", protocol_name(*p)),
            PortMatch::Range {
                protocol,
                first,
                last,
            } if first == last => write!(f, "{} port {first}", protocol_name(*protocol)),
            PortMatch::Range {
                protocol,
                first,
                last,
            } => write!(f, "{} ports {first} to {last}", protocol_name(*protocol)),
            PortMatch::Named { protocol, name } => write!(f, "{} port {name}", protocol_name(*protocol)),
            PortMatch::Nothing => f.write_str("no port"),
            PortMatch::Everything => f.write_str("every port and protocol"),
        }
    }
}

struct Every<'a>(&'a Ports);

impl fmt::Display for Every<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ports::All => f.write_str("every port and protocol"),
            Ports::Some(ports) => {
                for (i, port) in ports.iter().enumerate() {
                    let or = if i == 0 { "" } else { ", " };
                    write!(f, "{or}{}", Port(port))?;
                }
                Ok(())
            }
        }
    }
}

/// Labels that come and go with a pod's copy or version: nobody selects by them.
const PASSING: [&str; 12] = [
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "controller-revision-hash",
    "controller-uid",
    "helm.sh/chart",
    "job-name",
    "pod-template-generation",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];

/// Selects pods like the one with these labels.
pub(super) fn like(labels: &Labels) -> Selector {
    let lasting = labels.iter().filter(|(key, _)| !PASSING.contains(&key.as_str()));
    Selector::labels(lasting.map(|(key, value)| (key.as_str(), value.as_str())))
}

/// Selects one namespace.
pub(super) fn only(namespace: &str) -> Selector {
    Selector::labels([(METADATA_NAME, namespace)])
}

/// The entry for a packet; none where no entry can name its protocol.
pub(super) fn entry(protocol: u8, port: Option<u16>) -> Option<PortMatch> {
    let entry = match port {
        Some(port) => PortMatch::Range {
            protocol,
            first: port,
            last: port,
        },
        None => PortMatch::Protocol(protocol),
    };
    protocol::has_ports(protocol).then_some(entry)
}
