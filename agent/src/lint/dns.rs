//! Egress that is isolated without a way to DNS.
//!
//! Policies add up, so it is the pod that has DNS or has not. Where the input has the pods, each is looked at; else
//! those policies of the namespace count that select at least what this one selects.
//!
//! What could be DNS is taken widely: an entry for port 53 says that its author thought of DNS, so of its peer only what
//! can not be DNS is told.

use std::net::IpAddr;

use ipnet::IpNet;
use vethwall_policy::model::{Labels, Selector};

use super::{
    Lint, codes,
    policy::{Action, Block, Peer, Policy, Port, Ports, Rule},
    reach,
    selector::METADATA_NAME,
    world::{Pod, World},
};

/// The port of DNS.
const DNS: i64 = 53;

/// Where DNS runs, nearly everywhere.
const DNS_NAMESPACE: &str = "kube-system";

/// Ranges in which a cluster's DNS may have its address.
const PRIVATE: &[&str] = &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

/// By which protocols DNS is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ways {
    /// UDP: every question.
    pub(super) udp: bool,
    /// TCP: long answers.
    pub(super) tcp: bool,
}

impl Ways {
    const fn or(self, other: Self) -> Self {
        Self {
            udp: self.udp || other.udp,
            tcp: self.tcp || other.tcp,
        }
    }

    const fn and(self, other: Self) -> Self {
        Self {
            udp: self.udp && other.udp,
            tcp: self.tcp && other.tcp,
        }
    }
}

pub(super) fn check(lint: &mut Lint<'_>) {
    let isolating: Vec<(&Policy<'_>, Ways)> = lint
        .network_policies()
        .filter(|policy| policy.egress.isolates)
        .map(|policy| {
            let ways = policy
                .egress
                .rules
                .iter()
                .map(|rule| of_rule(lint.world, policy, rule));
            (policy, ways.fold(Ways::default(), Ways::or))
        })
        .collect();
    // It goes before all NetworkPolicies. Whom it is for is not looked at: better silent than wrong.
    let admin = lint
        .policies
        .iter()
        .filter(|policy| policy.cluster.is_some_and(|cluster| cluster.admin));
    let admin_rules = admin.flat_map(|policy| policy.egress.rules.iter().map(move |rule| (policy, rule)));
    let admin_ways = admin_rules
        .filter(|(_, rule)| rule.action == Some(Action::Accept))
        .map(|(policy, rule)| of_rule(lint.world, policy, rule))
        .fold(Ways::default(), Ways::or);
    for (policy, own) in &isolating {
        // What allows nothing at all is told by itself, and DNS for its own sake asks nobody.
        if policy.egress.rules.is_empty() || is_dns_itself(policy) {
            continue;
        }
        let ways = own.or(admin_ways).or(of_others(lint.world, policy, &isolating));
        let at = policy
            .egress
            .spot
            .clone()
            .unwrap_or_else(|| policy.object.name_spot());
        let rule = "allow port 53 over UDP and TCP to pods k8s-app=kube-dns in namespace kube-system";
        if !ways.udp {
            let over = if ways.tcp {
                "DNS is allowed over TCP only, and is asked over UDP"
            } else {
                "no egress rule allows DNS"
            };
            let wrong_peer = policy.egress.rules.iter().any(has_port_53) && !ways.tcp;
            let hint = if wrong_peer {
                " (a rule for port 53 is there, but not over UDP, or not to where DNS runs)"
            } else {
                ""
            };
            let message = format!(
                "{over}{hint}: names do not resolve in the pods it selects, also those of what it allows"
            );
            lint.find(policy.object, codes::NO_DNS, &at, message, rule);
        } else if !ways.tcp {
            let message = "DNS is allowed over UDP only: answers that are too long for it are asked for again over TCP, and get lost";
            lint.find(
                policy.object,
                codes::DNS_UDP,
                &at,
                message,
                "allow port 53 over TCP too, beside UDP",
            );
        }
    }
}

/// What other policies allow to all pods of this one.
fn of_others(world: &World, policy: &Policy<'_>, all: &[(&Policy<'_>, Ways)]) -> Ways {
    let others = || {
        all.iter()
            .filter(|(other, _)| other.object.namespace == policy.object.namespace)
    };
    let pods = reach::subject(world, policy).unwrap_or_default();
    let pods: Vec<&Pod> = pods.into_iter().filter(|pod| !pod.host_network).collect();
    if pods.is_empty() {
        let wider = others().filter(|(other, _)| selects_as_much(other, policy));
        return wider.fold(Ways::default(), |ways, (_, other)| ways.or(*other));
    }
    let of_pod = |pod: &Pod| {
        let selecting = others().filter(|(other, _)| match &other.pods {
            None => true,
            Some(pods) => pods
                .selector
                .as_ref()
                .is_some_and(|selector| selector.matches(&pod.labels)),
        });
        selecting.fold(Ways::default(), |ways, (_, other)| ways.or(*other))
    };
    let every = Ways { udp: true, tcp: true };
    pods.into_iter().map(of_pod).fold(every, Ways::and)
}

/// Whether a policy selects every pod that another one selects, whatever pods there are.
fn selects_as_much(wide: &Policy<'_>, narrow: &Policy<'_>) -> bool {
    let requirements = |policy: &Policy<'_>| match &policy.pods {
        None => Some(Vec::new()),
        Some(pods) => pods
            .selector
            .as_ref()
            .map(|selector| selector.requirements().to_vec()),
    };
    match (requirements(wide), requirements(narrow)) {
        (Some(wide), Some(narrow)) => wide.iter().all(|one| narrow.contains(one)),
        _ => false,
    }
}

/// The policy is for the cluster's DNS.
fn is_dns_itself(policy: &Policy<'_>) -> bool {
    let names = |key: &str| {
        policy
            .pods
            .as_ref()
            .is_some_and(|pods| pods.asks_for(key, |value| value.contains("dns")))
    };
    names("k8s-app") || (policy.object.namespace == DNS_NAMESPACE && names("app.kubernetes.io/name"))
}

/// Whether a rule has an entry for DNS among its ports.
pub(super) fn has_port_53(rule: &Rule<'_>) -> bool {
    rule.ports.iter().any(is_port_53)
}

fn is_port_53(port: &Port<'_>) -> bool {
    match &port.ports {
        Ports::Range(_, first, last) => *first == DNS && *last == DNS,
        Ports::Named(_, name) => name.contains("dns"),
        Ports::All | Ports::Wrong => false,
    }
}

/// How a rule allows DNS.
fn of_rule(world: &World, policy: &Policy<'_>, rule: &Rule<'_>) -> Ways {
    let mut ways = Ways::default();
    if rule.ports.is_empty() {
        ways = Ways { udp: true, tcp: true };
    }
    for port in &rule.ports {
        let covers = match &port.ports {
            Ports::All => true,
            Ports::Range(_, first, last) => (*first..=*last).contains(&DNS),
            Ports::Named(..) => is_port_53(port),
            Ports::Wrong => false,
        };
        // Without a protocol, as ClusterNetworkPolicies have it, the container's own counts.
        let over = |protocol: &str| covers && port.protocol.is_none_or(|own| own == protocol);
        ways = ways.or(Ways {
            udp: over("UDP"),
            tcp: over("TCP"),
        });
    }
    let thought_of = has_port_53(rule);
    let reaches = rule.peers.is_empty()
        || rule
            .peers
            .iter()
            .any(|peer| could_be_dns(world, policy, peer, thought_of));
    if reaches { ways } else { Ways::default() }
}

/// Whether a peer could be DNS. An entry for port 53 beside it says that it is meant to be.
fn could_be_dns(world: &World, policy: &Policy<'_>, peer: &Peer<'_>, thought_of: bool) -> bool {
    if peer
        .blocks
        .iter()
        .any(|block| thought_of || block_could_be_dns(world, block))
    {
        return true;
    }
    if peer.nodes.is_some() {
        // A cache on each node.
        return thought_of;
    }
    let known = world.dns_pods().next().is_some();
    if known && let Some(pods) = reach::peer(world, policy, peer) {
        let answers = |pod: &Pod| pod.numbers.iter().any(|(number, _)| *number == DNS);
        return pods
            .iter()
            .any(|pod| world.dns_pods().any(|dns| std::ptr::eq(dns, *pod)) || answers(pod));
    }
    let mentions_dns = ["k8s-app", "app", "app.kubernetes.io/name"].iter().any(|key| {
        peer.pods
            .as_ref()
            .is_some_and(|pods| pods.asks_for(key, |value| value.contains("dns")))
    });
    match (&peer.namespaces, &peer.pods) {
        (Some(namespaces), _) => {
            let there = namespaces
                .selector
                .as_ref()
                .is_some_and(|selector| could_be_there(world, selector));
            let pods = peer
                .pods
                .as_ref()
                .is_none_or(|pods| pods.selector.as_ref().is_some_and(is_for_dns));
            thought_of || (there && pods)
        }
        (None, Some(pods)) if policy.object.namespace == DNS_NAMESPACE => {
            thought_of || pods.selector.as_ref().is_some_and(is_for_dns)
        }
        // DNS is not in this namespace; a resolver of its own may be.
        (None, Some(pods)) => thought_of && !mentions_dns && !pods.is_everything(),
        (None, None) => false,
    }
}

/// Whether a namespace selector could match the namespace of DNS.
fn could_be_there(world: &World, selector: &Selector) -> bool {
    let name = Labels::from([(METADATA_NAME.to_owned(), DNS_NAMESPACE.to_owned())]);
    let labels = world.namespace_labels(DNS_NAMESPACE).unwrap_or(&name);
    selector.matches(labels)
}

/// Whether a pod selector matches DNS pods as they are commonly labelled.
fn is_for_dns(selector: &Selector) -> bool {
    let common = [
        ("k8s-app", "kube-dns"),
        ("k8s-app", "coredns"),
        ("app.kubernetes.io/name", "coredns"),
    ];
    common
        .iter()
        .any(|(key, value)| selector.matches(&Labels::from([((*key).to_owned(), (*value).to_owned())])))
}

/// Whether a block without ports beside it could hold the address of DNS.
fn block_could_be_dns(world: &World, block: &Block<'_>) -> bool {
    let Some(net) = block.net else { return false };
    let holes: Vec<IpNet> = block.except.iter().filter_map(|(_, hole)| *hole).collect();
    let known: Vec<&IpAddr> = world.dns_pods().flat_map(|pod| &pod.addresses).collect();
    if !known.is_empty() {
        return known
            .iter()
            .any(|address| net.contains(*address) && !holes.iter().any(|hole| hole.contains(*address)));
    }
    let private = PRIVATE.iter().filter_map(|range| range.parse::<IpNet>().ok());
    // The part of the range that the block holds is the smaller of the two.
    let held = private.filter_map(|range| {
        if net.contains(&range) {
            Some(range)
        } else {
            range.contains(&net).then_some(net)
        }
    });
    held.into_iter()
        .any(|part| !holes.iter().any(|hole| hole.contains(&part)))
}

/// Whether a rule of a ClusterNetworkPolicy surely matches DNS over UDP.
pub(super) fn surely_matches(world: &World, policy: &Policy<'_>, rule: &Rule<'_>) -> bool {
    let asked = rule.ports.is_empty()
        || rule.ports.iter().any(|port| match &port.ports {
            Ports::All => port.protocol == Some("UDP"),
            Ports::Range(_, first, last) => port.protocol == Some("UDP") && (*first..=*last).contains(&DNS),
            Ports::Named(..) | Ports::Wrong => false,
        });
    let dns: Vec<&Pod> = world.dns_pods().collect();
    asked
        && rule.peers.iter().any(|peer| {
            let everywhere = peer
                .blocks
                .iter()
                .filter_map(|block| block.net)
                .any(|net| net.prefix_len() == 0 && net.addr().is_ipv4());
            if everywhere {
                return true;
            }
            if !dns.is_empty() {
                let addresses = || dns.iter().flat_map(|pod| &pod.addresses);
                let nets = || peer.blocks.iter().filter_map(|block| block.net);
                let blocked = addresses().next().is_some()
                    && addresses().all(|address| nets().any(|net| net.contains(address)));
                let selected = reach::peer(world, policy, peer).is_some_and(|pods| {
                    dns.iter()
                        .all(|dns| pods.iter().any(|pod| std::ptr::eq(*dns, *pod)))
                });
                return blocked || selected;
            }
            let there = peer
                .namespaces
                .as_ref()
                .and_then(|namespaces| namespaces.selector.as_ref());
            there.is_some_and(|selector| could_be_there(world, selector))
                && peer
                    .pods
                    .as_ref()
                    .is_none_or(|pods| pods.selector.as_ref().is_some_and(is_for_dns))
        })
}

/// Whether a rule of a ClusterNetworkPolicy may match DNS over UDP.
pub(super) fn may_match(world: &World, policy: &Policy<'_>, rule: &Rule<'_>) -> bool {
    of_rule(world, policy, rule).udp
}
