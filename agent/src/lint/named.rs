//! Ports by name, which every destination pod resolves for itself.

use std::collections::BTreeSet;

use super::{
    Lint, codes,
    policy::{Direction, Policy, Port, Ports, Rule},
    reach,
    world::Pod,
};

pub(super) fn check(lint: &mut Lint<'_>, policy: &Policy<'_>) {
    for (direction, rule) in policy.rules() {
        for port in &rule.ports {
            let Ports::Named(at, name) = &port.ports else {
                continue;
            };
            let Some(pods) = destinations(lint, policy, direction, rule) else {
                continue;
            };
            let pods: Vec<&Pod> = pods.into_iter().filter(|pod| !pod.host_network).collect();
            if pods.is_empty() || pods.iter().any(|pod| has(pod, name, port)) {
                continue;
            }
            let whose = if direction.name == "ingress" {
                "that the policy selects"
            } else {
                "of these destinations"
            };
            let other: BTreeSet<&str> = named(&pods)
                .filter(|(other, _)| other == name)
                .map(|(_, protocol)| protocol.as_str())
                .collect();
            if let Some(protocol) = other.first() {
                let asked = port.protocol.unwrap_or_default();
                let message = format!(
                    "{name} is a port over {protocol} in the pods {whose}, not over {asked}: it matches nothing"
                );
                lint.find(
                    policy.object,
                    codes::OTHER_PROTOCOL,
                    at,
                    message,
                    format!("write protocol: {protocol}"),
                );
                continue;
            }
            let names: BTreeSet<&str> = named(&pods).map(|(name, _)| name.as_str()).collect();
            let names: Vec<&str> = names.into_iter().take(6).collect();
            let message =
                format!("no pod {whose} has a port named {name} in these manifests: it matches nothing");
            let fix = if names.is_empty() {
                "they name no ports: name the container's port, or write its number".to_owned()
            } else {
                format!(
                    "write a name that they have ({}), or a number; a Service's port names do not count",
                    names.join(", ")
                )
            };
            lint.find(policy.object, codes::NO_NAMED_PORT, at, message, fix);
        }
    }
}

/// The pods at whose ports a rule looks.
fn destinations<'w>(
    lint: &Lint<'w>,
    policy: &'w Policy<'_>,
    direction: &Direction<'_>,
    rule: &Rule<'_>,
) -> Option<Vec<&'w Pod>> {
    let world = lint.world;
    if direction.name == "ingress" {
        return reach::subject(world, policy);
    }
    if rule.peers.is_empty() {
        return Some(world.pods().collect());
    }
    // A block may hold any pod.
    let peers: Option<Vec<Vec<&Pod>>> = rule
        .peers
        .iter()
        .map(|peer| reach::peer(world, policy, peer))
        .collect();
    Some(peers?.into_iter().flatten().collect())
}

fn named<'w>(pods: &[&'w Pod]) -> impl Iterator<Item = &'w (String, String)> {
    pods.iter().flat_map(|pod| &pod.named)
}

fn has(pod: &Pod, name: &str, port: &Port<'_>) -> bool {
    // Without a protocol the container's own counts.
    pod.named
        .iter()
        .any(|(own, protocol)| own == name && port.protocol.is_none_or(|asked| asked == protocol))
}
