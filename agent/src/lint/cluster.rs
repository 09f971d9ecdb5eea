//! ClusterNetworkPolicies: order within a tier, rules nobody reaches, and what fails closed.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{
    Lint, codes, dns,
    policy::{Action, Direction, Peer, Policy, Rule},
    spot::Spot,
};

/// Most rules of a direction that the API takes.
const MAX_RULES: usize = 25;

pub(super) fn check(lint: &mut Lint<'_>) {
    priorities(lint);
    for policy in lint.policies.iter().filter(|policy| policy.cluster.is_some()) {
        complete(lint, policy);
        for direction in policy.directions() {
            for rule in &direction.rules {
                fails_closed(lint, policy, direction, rule);
            }
            unreachable(lint, policy, direction);
        }
    }
    cuts_dns(lint);
}

/// Policies of one tier with the same priority.
fn priorities(lint: &mut Lint<'_>) {
    let mut seen: BTreeMap<(bool, i64), &Policy<'_>> = BTreeMap::new();
    for policy in lint.policies {
        let Some(cluster) = policy.cluster else { continue };
        let Some(at) = policy
            .object
            .root
            .at(&["spec", "priority"])
            .filter(|spot| spot.number().is_some())
        else {
            continue;
        };
        let Some(first) = seen.get(&(cluster.admin, cluster.priority)) else {
            seen.insert((cluster.admin, cluster.priority), policy);
            continue;
        };
        // The same object again is told as such.
        if first.object.name == policy.object.name {
            continue;
        }
        let tier = if cluster.admin { "Admin" } else { "Baseline" };
        let message = format!(
            "{} has priority {} in tier {tier} too: which of them comes first is up to the implementation (vethwall goes by name)",
            first.object.name, cluster.priority
        );
        lint.find(
            policy.object,
            codes::PRIORITY,
            &at,
            message,
            "give each policy of a tier a priority of its own; the lower one comes first",
        );
    }
}

/// Fields without which a policy says nothing.
fn complete(lint: &mut Lint<'_>, policy: &Policy<'_>) {
    let root = &policy.object.root;
    let at = |keys: &[&str]| root.at(keys);
    let spec = at(&["spec"]).unwrap_or_else(|| policy.object.name_spot());
    let mut wrong = |at: &Spot<'_>, message: &str, fix: &str| {
        lint.find(policy.object, codes::BAD_CLUSTER, at, message, fix)
    };
    match at(&["spec", "tier"]) {
        None => wrong(
            &spec,
            "it has no tier: the API server refuses it",
            "add tier: Admin or tier: Baseline",
        ),
        Some(tier) if !matches!(tier.text(), Some("Admin" | "Baseline")) => {
            wrong(
                &tier,
                "there is no such tier: the API server refuses it",
                "write Admin (before NetworkPolicies) or Baseline (after them)",
            );
        }
        Some(_) => {}
    }
    match at(&["spec", "priority"]) {
        None => wrong(
            &spec,
            "it has no priority: the API server refuses it",
            "add a priority from 0 (first) to 1000 (last)",
        ),
        Some(priority)
            if !priority
                .number()
                .is_some_and(|number| (0..=1000).contains(&number)) =>
        {
            wrong(
                &priority,
                "this is no priority: the API server refuses it",
                "write a number from 0 (first) to 1000 (last)",
            );
        }
        Some(_) => {}
    }
    match at(&["spec", "subject"]) {
        None => wrong(
            &spec,
            "it has no subject: the API server refuses it",
            "add subject: with namespaces: or pods:; namespaces: {} is every pod",
        ),
        Some(subject) => {
            let fields = ["namespaces", "pods"]
                .iter()
                .filter(|key| subject.get(key).is_some())
                .count();
            if fields != 1 {
                wrong(
                    &subject,
                    "a subject has exactly one of namespaces and pods: the API server refuses it",
                    "keep one of them; namespaces: {} is every pod",
                );
            }
        }
    }
    for direction in policy.directions() {
        if let Some(field) = direction
            .spot
            .as_ref()
            .filter(|_| direction.rules.len() > MAX_RULES)
        {
            wrong(
                field,
                "it has more than 25 rules: the API server refuses it",
                "split it into policies of neighbouring priorities",
            );
        }
        for rule in &direction.rules {
            let action = rule.spot.get("action");
            if !matches!(
                action.as_ref().and_then(|action| action.text()),
                Some("Accept" | "Deny" | "Pass")
            ) {
                let place = action.unwrap_or_else(|| rule.spot.clone());
                let fix = match place.text() {
                    Some("Allow" | "allow" | "accept") => "write Accept",
                    Some("deny" | "Drop" | "drop" | "Reject") => "write Deny",
                    _ => "write Accept, Deny or Pass",
                };
                wrong(
                    &place,
                    "a rule's action is Accept, Deny or Pass: the API server refuses any other, and vethwall denies",
                    fix,
                );
            }
            if rule.peers.is_empty() {
                let place = rule.peers_field.clone().unwrap_or_else(|| rule.spot.clone());
                let message = format!(
                    "a rule without {} is refused: a stored one accepts nothing, or denies or passes everything",
                    direction.peers
                );
                let fix = format!(
                    "add {}: with a peer; namespaces: {{}} is every pod",
                    direction.peers
                );
                wrong(&place, &message, &fix);
            }
        }
    }
}

/// Peers and protocols of which a part is not known.
fn fails_closed(lint: &mut Lint<'_>, policy: &Policy<'_>, direction: &Direction<'_>, rule: &Rule<'_>) {
    let known: &[&str] = if direction.name == "ingress" {
        &["namespaces", "pods"]
    } else {
        &["namespaces", "pods", "nodes", "networks"]
    };
    let effect = match rule.action {
        Some(Action::Accept) => "it matches nothing, so that nothing is accepted by mistake",
        _ => "it matches everything, so that nothing passes by mistake",
    };
    let mut wrong = |at: &Spot<'_>, what: String, fix: String| {
        lint.find(
            policy.object,
            codes::FAILS_CLOSED,
            at,
            format!("{what}: {effect}"),
            fix,
        );
    };
    for peer in &rule.peers {
        one_of(&peer.spot, "peer", known, &mut wrong);
        if let Some(pods) = peer.spot.get("pods") {
            for (key, at) in pods
                .pairs()
                .into_iter()
                .filter(|(key, _)| !matches!(*key, "namespaceSelector" | "podSelector"))
            {
                wrong(
                    &at.at_key(),
                    format!("pods has no field {key}"),
                    "write namespaceSelector and podSelector".to_owned(),
                );
            }
        }
    }
    for port in &rule.ports {
        one_of(
            &port.spot,
            "protocol",
            &["tcp", "udp", "sctp", "destinationNamedPort"],
            &mut wrong,
        );
        for key in ["tcp", "udp", "sctp"] {
            let Some(fields) = port.spot.get(key) else {
                continue;
            };
            for (key, at) in fields
                .pairs()
                .into_iter()
                .filter(|(key, _)| *key != "destinationPort")
            {
                wrong(
                    &at.at_key(),
                    format!("a protocol has no field {key}"),
                    "write destinationPort: {number: 80}, or a range".to_owned(),
                );
            }
            if let Some(port) = fields.get("destinationPort") {
                one_of(&port, "port", &["number", "range"], &mut wrong);
            }
        }
    }
}

/// Tells unless a mapping has exactly one of these keys and no other.
fn one_of(spot: &Spot<'_>, what: &str, known: &[&str], wrong: &mut dyn FnMut(&Spot<'_>, String, String)) {
    let pairs = spot.pairs();
    let list = known.join(", ");
    if let Some((key, at)) = pairs.iter().find(|(key, _)| !known.contains(key)) {
        let close = known.iter().find(|known| strsim::osa_distance(known, key) <= 2);
        let fix = close.map_or_else(
            || format!("write one of {list}"),
            |close| format!("did you mean {close}?"),
        );
        wrong(
            &at.clone().at_key(),
            format!("vethwall knows no {key} in a {what} here"),
            fix,
        );
    } else if known.iter().filter(|key| spot.get(key).is_some()).count() != 1 {
        wrong(
            spot,
            format!("a {what} has exactly one of {list}"),
            format!("write one field; for more write one {what} each"),
        );
    }
}

/// Rules behind others that take all of what they match.
fn unreachable(lint: &mut Lint<'_>, policy: &Policy<'_>, direction: &Direction<'_>) {
    for (index, rule) in direction.rules.iter().enumerate() {
        if rule.peers.is_empty() {
            continue;
        }
        let covers = |earlier: &&Rule<'_>| {
            covers_ports(earlier, rule)
                && rule
                    .peers
                    .iter()
                    .all(|peer| earlier.peers.iter().any(|wide| covers_peer(wide, peer)))
        };
        // Both lists are at most 25 where the API server had a say.
        let Some(earlier) = direction.rules[..index].iter().take(100).find(covers) else {
            continue;
        };
        if earlier.spot.same(&rule.spot) {
            continue;
        }
        let action = match earlier.action {
            Some(Action::Accept) => "accepts",
            Some(Action::Pass) => "passes on",
            Some(Action::Deny) | None => "denies",
        };
        let message = format!(
            "{} {action} all that this rule matches: it is never reached",
            earlier.spot.path()
        );
        lint.find(
            policy.object,
            codes::UNREACHABLE,
            &rule.spot,
            message,
            format!("move it before {}, or remove it", earlier.spot.name()),
        );
    }
}

fn covers_ports(wide: &Rule<'_>, narrow: &Rule<'_>) -> bool {
    let among = |spot: &Spot<'_>| wide.ports.iter().any(|port| port.spot.same(spot));
    wide.ports.is_empty() || (!narrow.ports.is_empty() && narrow.ports.iter().all(|port| among(&port.spot)))
}

fn covers_peer(wide: &Peer<'_>, narrow: &Peer<'_>) -> bool {
    if wide.spot.same(&narrow.spot) {
        return !narrow.spot.is_empty();
    }
    let nets = || wide.blocks.iter().filter_map(|block| block.net);
    if !narrow.blocks.is_empty() {
        let covered = |net: IpNet| nets().any(|wide| wide.contains(&net));
        return narrow.blocks.iter().all(|block| block.net.is_some_and(covered));
    }
    let everywhere = |v4: bool| nets().any(|net| net.prefix_len() == 0 && net.addr().is_ipv4() == v4);
    if everywhere(true) && everywhere(false) {
        return true;
    }
    let all_pods = wide
        .namespaces
        .as_ref()
        .is_some_and(|namespaces| namespaces.is_everything())
        && wide.pods.as_ref().is_none_or(|pods| pods.is_everything());
    all_pods && (narrow.namespaces.is_some() || narrow.pods.is_some())
}

/// A Deny before anything that lets DNS pass.
fn cuts_dns(lint: &mut Lint<'_>) {
    let mut policies: Vec<(&Policy<'_>, bool, i64)> = lint
        .policies
        .iter()
        .filter_map(|policy| {
            policy
                .cluster
                .map(|cluster| (policy, cluster.admin, cluster.priority))
        })
        .collect();
    // In order of evaluation: the Admin tier first, and in a tier the lower priority.
    policies.sort_by_key(|(policy, admin, priority)| (!admin, *priority, policy.object.name));
    let mut accepted = false;
    let mut passed_in = None;
    for (policy, admin, _) in policies {
        for rule in &policy.egress.rules {
            if accepted || passed_in == Some(admin) {
                break;
            }
            match rule.action {
                // Whom the policies are for is not compared: better silent than wrong.
                Some(Action::Accept) => accepted = dns::may_match(lint.world, policy, rule),
                Some(Action::Pass) if dns::may_match(lint.world, policy, rule) => passed_in = Some(admin),
                Some(Action::Pass) => {}
                Some(Action::Deny) | None => {
                    if dns::surely_matches(lint.world, policy, rule) {
                        let tier = if admin { "Admin" } else { "Baseline" };
                        let more = if admin {
                            ", and no NetworkPolicy can allow it again"
                        } else {
                            ""
                        };
                        let message = format!(
                            "this {tier} Deny takes DNS too: names do not resolve in the pods it is for{more}"
                        );
                        let fix = "put a rule before it that accepts port 53 over UDP and TCP to pods k8s-app=kube-dns in namespace kube-system";
                        lint.find(policy.object, codes::CUTS_DNS, &rule.spot, message, fix);
                        break;
                    }
                }
            }
        }
    }
}
