//! ClusterNetworkPolicies. What is not understood fails closed (CNP 6): a rule that accepts matches nothing by it, one
//! that denies or passes matches everything.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;
use vethwall_policy::model::{
    ClusterNetworkPolicy, ClusterRule, Mode, Peer, Peers, PolicyRef, PortMatch, Ports, RuleAction, Tier,
};

use super::{
    Converter,
    cluster_entry::{self, Direction},
    code,
};
use crate::k8s::cluster_network_policy::{self as api, EgressRule, IngressRule};

/// A rule as written, of either direction.
struct Written<'a> {
    /// Path of the rule.
    at: String,
    direction: Direction,
    name: Option<&'a String>,
    action: Option<&'a str>,
    peers: &'a [Value],
    protocols: &'a [Value],
}

impl Converter {
    pub(super) fn cluster_policy(&mut self, object: &api::ClusterNetworkPolicy) -> ClusterNetworkPolicy {
        let name = object.metadata.name.clone().unwrap_or_default();
        self.policy = Some(PolicyRef {
            namespace: String::new(),
            name: name.clone(),
        });
        let mode = self.mode(&object.metadata);
        let spec = object.spec.clone().unwrap_or_default();
        let subject = spec.subject.clone().unwrap_or_default();
        let pods = subject.pods.clone().unwrap_or_default();
        let priority = spec.priority.and_then(|priority| u16::try_from(priority).ok());
        let (Ok(()), Some(priority)) = (object.check(), priority) else {
            return self.unusable(object, mode);
        };
        let (tier, known) = self.tier(spec.tier.as_deref());
        let place = (name.clone(), self.file.clone(), self.line);
        self.ranks.entry((tier, priority)).or_default().push(place);
        let namespaces = subject.namespaces.or(pods.namespace_selector);
        let ingress = spec
            .ingress
            .iter()
            .flatten()
            .enumerate()
            .map(|(i, rule)| ingress(i, rule));
        let egress = spec
            .egress
            .iter()
            .flatten()
            .enumerate()
            .map(|(i, rule)| egress(i, rule));
        ClusterNetworkPolicy {
            name,
            tier,
            priority,
            namespaces: self.subject("spec.subject", namespaces.as_ref()),
            pods: self.subject("spec.subject.pods.podSelector", pods.pod_selector.as_ref()),
            ingress: ingress.map(|rule| self.cluster_rule(&rule, known)).collect(),
            egress: egress.map(|rule| self.cluster_rule(&rule, known)).collect(),
            mode,
        }
    }

    /// The closed form of a policy that can not be followed: the pods it acts on, as far as that can be read, may
    /// neither send nor receive.
    pub(super) fn closed(
        &mut self,
        name: String,
        namespaces: Option<&LabelSelector>,
        pods: Option<&LabelSelector>,
        mode: Option<Mode>,
    ) -> ClusterNetworkPolicy {
        let deny = ClusterRule {
            name: None,
            action: RuleAction::Deny,
            peers: Peers::All,
            ports: Ports::All,
        };
        ClusterNetworkPolicy {
            name,
            tier: Tier::Admin,
            priority: 0,
            namespaces: self.subject("spec.subject", namespaces),
            pods: self.subject("spec.subject.pods.podSelector", pods),
            ingress: vec![deny.clone()],
            egress: vec![deny],
            mode,
        }
    }

    /// Of the API server only: manifests are checked when they are decoded.
    fn unusable(&mut self, object: &api::ClusterNetworkPolicy, mode: Option<Mode>) -> ClusterNetworkPolicy {
        let message = object
            .check()
            .err()
            .map(|unusable| unusable.message)
            .unwrap_or_default();
        let subject = object.spec.as_ref().and_then(|spec| spec.subject.as_ref());
        let (namespaces, pods) = match subject.map(|subject| (&subject.namespaces, &subject.pods)) {
            Some((Some(namespaces), None)) => (Some(namespaces), None),
            Some((None, Some(pods))) => (pods.namespace_selector.as_ref(), pods.pod_selector.as_ref()),
            Some((Some(_), Some(_)) | (None, None)) | None => (None, None),
        };
        let selects = match (namespaces, pods) {
            (None, None) => "every pod",
            _ => super::SELECTED,
        };
        self.problem(
            code::ISOLATES,
            format!("{message}: {selects} may neither send nor receive"),
        );
        let name = object.metadata.name.clone().unwrap_or_default();
        self.closed(name, namespaces, pods, mode)
    }

    /// The tier, and whether it is a known one.
    fn tier(&mut self, name: Option<&str>) -> (Tier, bool) {
        match name {
            Some("Admin") => (Tier::Admin, true),
            Some("Baseline") => (Tier::Baseline, true),
            other => {
                let found = other.map_or_else(|| "nothing".to_owned(), |name| format!("{name:?}"));
                // Which of the two was meant is a guess. Denying before the NetworkPolicies is the closed one, but to
                // accept or pass there might open what they or other policies close.
                self.problem(
                    code::TIER,
                    format!(
                        "spec.tier: expected Admin or Baseline, found {found}; its rules deny as in Admin, and neither accept nor pass"
                    ),
                );
                (Tier::Admin, false)
            }
        }
    }

    fn cluster_rule(&mut self, rule: &Written<'_>, known_tier: bool) -> ClusterRule {
        let Written { at, direction, .. } = rule;
        let action = match rule.action {
            Some("Accept") => RuleAction::Accept,
            Some("Deny") => RuleAction::Deny,
            Some("Pass") => RuleAction::Pass,
            other => {
                let found = other.map_or_else(|| "nothing".to_owned(), |name| format!("{name:?}"));
                self.problem(
                    code::ACTION,
                    format!("{at}.action: expected Accept, Deny or Pass, found {found}; the rule denies"),
                );
                RuleAction::Deny
            }
        };
        let peers = if rule.peers.is_empty() {
            let (peers, means) = match action {
                RuleAction::Accept => (Peers::Some(vec![Peer::Nothing]), "the rule accepts nothing"),
                RuleAction::Deny => (Peers::All, "the rule denies everything"),
                RuleAction::Pass => (Peers::All, "the rule passes everything"),
            };
            let field = direction.field();
            self.problem(
                code::CLUSTER_PEER,
                format!("{at}.{field}: expected at least one peer; {means}"),
            );
            peers
        } else {
            let all = rule.peers.iter().enumerate();
            let peers = all.flat_map(|(i, written)| {
                let at = format!("{at}.{}[{i}]", direction.field());
                self.cluster_peer(&at, *direction, action, written)
            });
            Peers::Some(peers.collect())
        };
        let peers = if known_tier || action == RuleAction::Deny {
            peers
        } else {
            Peers::Some(vec![Peer::Nothing])
        };
        let ports = if rule.protocols.is_empty() {
            Ports::All
        } else {
            let all = rule.protocols.iter().enumerate();
            let ports = all.flat_map(|(i, written)| {
                self.cluster_protocol(&format!("{at}.protocols[{i}]"), action, written)
            });
            Ports::Some(ports.collect())
        };
        ClusterRule {
            name: rule.name.filter(|name| !name.is_empty()).cloned(),
            action,
            peers,
            ports,
        }
    }

    fn cluster_peer(
        &mut self,
        at: &str,
        direction: Direction,
        action: RuleAction,
        written: &Value,
    ) -> Vec<Peer> {
        match cluster_entry::peer(direction, written) {
            Ok(peers) => peers,
            Err(error) => {
                let (peer, means) = match action {
                    RuleAction::Accept => (Peer::Nothing, "nobody is accepted by it"),
                    RuleAction::Deny => (Peer::Everything, "the rule denies every peer"),
                    RuleAction::Pass => (Peer::Everything, "the rule passes every peer"),
                };
                self.problem(error.code, format!("{at}{}; {means}", error.message));
                vec![peer]
            }
        }
    }

    fn cluster_protocol(&mut self, at: &str, action: RuleAction, written: &Value) -> Vec<PortMatch> {
        match cluster_entry::protocol(written) {
            Ok(ports) => ports,
            Err(error) => {
                let (port, means) = match action {
                    RuleAction::Accept => (PortMatch::Nothing, "nothing is accepted by it"),
                    RuleAction::Deny => (PortMatch::Everything, "the rule denies every protocol and port"),
                    RuleAction::Pass => (PortMatch::Everything, "the rule passes every protocol and port"),
                };
                self.problem(error.code, format!("{at}{}; {means}", error.message));
                vec![port]
            }
        }
    }

    /// Tells of policies whose order only their names decide (CNP 3).
    pub(super) fn equal_priorities(&mut self) {
        for ((tier, priority), mut policies) in std::mem::take(&mut self.ranks) {
            policies.sort();
            let names: Vec<_> = policies.iter().map(|(name, ..)| name.clone()).collect();
            for (i, (name, file, line)) in policies.into_iter().enumerate().skip(1) {
                (self.file, self.line) = (file, line);
                self.policy = Some(PolicyRef {
                    namespace: String::new(),
                    name,
                });
                let others = names[..i].join(", ");
                self.problem(
                    code::PRIORITY,
                    format!(
                        "spec.priority: {priority} in the {tier:?} tier is taken by {others} too; they are asked in the order of their names"
                    ),
                );
            }
        }
    }
}

fn ingress(i: usize, rule: &IngressRule) -> Written<'_> {
    Written {
        at: format!("spec.ingress[{i}]"),
        direction: Direction::Ingress,
        name: rule.name.as_ref(),
        action: rule.action.as_deref(),
        peers: rule.from.as_deref().unwrap_or_default(),
        protocols: rule.protocols.as_deref().unwrap_or_default(),
    }
}

fn egress(i: usize, rule: &EgressRule) -> Written<'_> {
    Written {
        at: format!("spec.egress[{i}]"),
        direction: Direction::Egress,
        name: rule.name.as_ref(),
        action: rule.action.as_deref(),
        peers: rule.to.as_deref().unwrap_or_default(),
        protocols: rule.protocols.as_deref().unwrap_or_default(),
    }
}
