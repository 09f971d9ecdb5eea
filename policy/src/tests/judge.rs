//! A second opinion: the rules read literally, entry by entry, without terms, signatures, identities or slots.

use std::net::IpAddr;

use vethwall_common::{Direction, protocol, verdict::allow};

use crate::{
    model::{
        ClusterNetworkPolicy, Mode, Peer, Peers, Pod, PortMatch, Ports, Rule, RuleAction, Tier, canonical,
    },
    world::World,
};

/// Who may be behind an address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner<'w> {
    /// This pod.
    Pod(&'w Pod),
    /// Nobody that selectors of pods can match.
    Nobody,
    /// A pod of which nothing is known.
    Unknown,
}

/// All who may be behind an address.
pub(crate) fn owners(world: &World, address: IpAddr) -> Vec<Owner<'_>> {
    let eligible = |pod: &&Pod| !pod.host_network && !pod.finished;
    if world.nodes().any(|node| node.addresses.contains(&address)) || world.own_addresses().contains(&address)
    {
        return vec![Owner::Nobody];
    }
    let local: Vec<_> = world
        .endpoints()
        .filter(|endpoint| endpoint.addresses.contains(&address))
        .map(|endpoint| match world.pod_of(endpoint) {
            None => Owner::Unknown,
            Some(pod) if eligible(&pod) => Owner::Pod(pod),
            Some(_) => Owner::Nobody,
        })
        .collect();
    if !local.is_empty() {
        return local;
    }
    let pods = world
        .pods()
        .filter(eligible)
        .filter(|pod| pod.addresses.contains(&address))
        .map(Owner::Pod);
    let pods: Vec<_> = pods.collect();
    let networks = world.pod_networks();
    let of_node = |network: &ipnet::IpNet| {
        network
            .hosts()
            .take(1)
            .chain([network.network()])
            .any(|a| a == address)
    };
    let strange = networks.iter().any(|network| network.contains(&address))
        && !world.nodes().flat_map(|node| &node.pod_cidrs).any(of_node);
    match (pods.is_empty(), strange && !world.is_complete()) {
        (false, _) => pods,
        (true, true) => vec![Owner::Unknown],
        (true, false) => vec![Owner::Nobody],
    }
}

/// No, perhaps, or yes.
type Sure = u8;
const NO: Sure = 0;
const PERHAPS: Sure = 1;
const YES: Sure = 2;

/// Of all owners together.
fn whoever(each: impl Iterator<Item = Sure>) -> Sure {
    let each: Vec<Sure> = each.collect();
    if each.iter().all(|sure| *sure == YES) {
        YES
    } else if each.iter().all(|sure| *sure == NO) {
        NO
    } else {
        PERHAPS
    }
}

/// Of one owner.
fn of(owner: Owner<'_>, holds: impl Fn(&Pod) -> bool) -> Sure {
    match owner {
        Owner::Pod(pod) if holds(pod) => YES,
        Owner::Pod(_) | Owner::Nobody => NO,
        Owner::Unknown => PERHAPS,
    }
}

/// A packet from or to a pod.
#[derive(Clone, Copy)]
struct Asked<'w> {
    world: &'w World,
    subject: &'w Pod,
    direction: Direction,
    address: IpAddr,
    owners: &'w [Owner<'w>],
    packet: (u8, u16),
}

impl Asked<'_> {
    fn peer(&self, peer: &Peer, owner: Owner<'_>) -> Sure {
        let sure = |yes| if yes { YES } else { NO };
        match peer {
            Peer::Nothing => NO,
            Peer::Everything => YES,
            Peer::Nodes(selector) => sure(
                self.world
                    .nodes()
                    .any(|node| selector.matches(&node.labels) && node.addresses.contains(&self.address)),
            ),
            Peer::Block { cidr, except } => {
                let inside = |net| canonical(net).contains(&self.address);
                sure(inside(*cidr) && !except.iter().any(|net| inside(*net)))
            }
            Peer::Pods { namespaces, pods } => of(owner, |pod| {
                let scope = match namespaces {
                    None => pod.namespace == self.subject.namespace,
                    Some(selector) => selector.matches(&self.world.namespace_labels(&pod.namespace)),
                };
                scope && pods.matches(&pod.labels)
            }),
        }
    }

    fn port(&self, port: &PortMatch, owner: Owner<'_>) -> Sure {
        let sure = |yes| if yes { YES } else { NO };
        match port {
            PortMatch::Nothing => NO,
            PortMatch::Everything => YES,
            PortMatch::Protocol(p) => sure(protocol::has_ports(*p) && *p == self.packet.0),
            PortMatch::Range {
                protocol,
                first,
                last,
            } => sure(
                protocol::has_ports(*protocol)
                    && *protocol == self.packet.0
                    && (*first..=*last).contains(&self.packet.1),
            ),
            PortMatch::Named { protocol, name } if *protocol == self.packet.0 => {
                let has = |pod: &Pod| {
                    pod.ports.iter().any(|p| {
                        p.protocol == *protocol && p.name.as_ref() == Some(name) && p.port == self.packet.1
                    })
                };
                match self.direction {
                    Direction::Ingress => sure(has(self.subject)),
                    Direction::Egress => of(owner, has),
                }
            }
            PortMatch::Named { .. } => NO,
        }
    }

    fn rule(&self, peers: &Peers, ports: &Ports) -> Sure {
        let peers: Vec<&Peer> = match peers {
            Peers::All => vec![&Peer::Everything],
            Peers::Some(peers) => peers.iter().collect(),
        };
        let ports: Vec<&PortMatch> = match ports {
            Ports::All => vec![&PortMatch::Everything],
            Ports::Some(ports) => ports.iter().collect(),
        };
        let pairs = peers
            .iter()
            .flat_map(|peer| ports.iter().map(move |port| (peer, port)));
        let pair = |(peer, port): (&&Peer, &&PortMatch)| {
            let owners = self.owners.iter();
            whoever(owners.map(|owner| self.peer(peer, *owner).min(self.port(port, *owner))))
        };
        pairs.map(pair).max().unwrap_or(NO)
    }

    /// The decision of a tier, if it makes one.
    fn tier(&self, tier: Tier, audited: bool) -> Option<bool> {
        let labels = self.world.namespace_labels(&self.subject.namespace);
        let mut policies: Vec<&ClusterNetworkPolicy> = self
            .world
            .cluster_policies()
            .filter(|policy| {
                policy.tier == tier && (audited || self.world.mode_of(policy.mode) == Mode::Enforce)
            })
            .filter(|policy| policy.namespaces.matches(&labels) && policy.pods.matches(&self.subject.labels))
            .collect();
        policies.sort_by_key(|policy| (policy.priority, policy.name.clone()));
        let mut uncertain_pass = false;
        for policy in policies {
            let rules = match self.direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            for rule in rules {
                match (rule.action, self.rule(&rule.peers, &rule.ports)) {
                    (_, NO) | (RuleAction::Accept, PERHAPS) => {}
                    (RuleAction::Deny, _) => return Some(false),
                    (RuleAction::Pass, PERHAPS) => uncertain_pass = true,
                    // Whether the tier was left before or is left here: the next one decides.
                    (RuleAction::Accept, _) if uncertain_pass => return None,
                    (RuleAction::Accept, _) => return Some(true),
                    (RuleAction::Pass, _) => return None,
                }
            }
        }
        None
    }

    fn allowed(&self, audited: bool) -> bool {
        if let Some(decision) = self.tier(Tier::Admin, audited) {
            return decision;
        }
        let (mut isolated, mut allowed) = (false, false);
        for policy in self.world.policies() {
            let rules: &Option<Vec<Rule>> = match self.direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            let Some(rules) = rules else { continue };
            let acts = policy.namespace == self.subject.namespace
                && policy.pod_selector.matches(&self.subject.labels)
                && (audited || self.world.mode_of(policy.mode) == Mode::Enforce);
            isolated |= acts;
            allowed |= acts
                && rules
                    .iter()
                    .any(|rule| self.rule(&rule.peers, &rule.ports) == YES);
        }
        if isolated {
            return allowed;
        }
        self.tier(Tier::Baseline, audited).unwrap_or(true)
    }
}

/// The [`allow`] bits for a packet between the pod and an address with one of these owners.
pub(crate) fn judge_owners(
    world: &World,
    pod: &Pod,
    direction: Direction,
    (address, owners): (IpAddr, &[Owner<'_>]),
    packet: (u8, u16),
) -> u8 {
    let asked = Asked {
        world,
        subject: pod,
        direction,
        address,
        owners,
        packet,
    };
    let bit = |yes, bit| if yes || pod.host_network { bit } else { 0 };
    bit(asked.allowed(false), allow::ENFORCED) | bit(asked.allowed(true), allow::SHADOW)
}

/// The [`allow`] bits for a packet between the pod and the address.
pub(crate) fn judge(
    world: &World,
    pod: &Pod,
    direction: Direction,
    address: IpAddr,
    packet: (u8, u16),
) -> u8 {
    let owners = owners(world, address);
    judge_owners(world, pod, direction, (address, &owners), packet)
}
