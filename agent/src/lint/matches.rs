//! Selectors that match nothing in the input, or nothing that policy reaches.

use std::collections::BTreeSet;

use vethwall_policy::model::{Labels, Operator, Selector};

use super::{
    Lint, Severity, codes,
    policy::{Peer, Policy},
    reach,
    selector::{METADATA_NAME, Selected},
    world::Pod,
};

/// The label that is taken for the name of a namespace.
const NAME: &str = "name";

pub(super) fn check(lint: &mut Lint<'_>, policy: &Policy<'_>) {
    let peers = policy.peers().flat_map(|peer| [&peer.namespaces, &peer.pods]);
    for selected in peers.chain([&policy.namespaces, &policy.pods]).flatten() {
        for (at, message) in &selected.errors {
            let message = format!("{message}: the API server refuses the selector");
            lint.find(
                policy.object,
                codes::BAD_SELECTOR,
                at,
                message,
                "write a selector that the API server takes",
            );
        }
    }
    subject(lint, policy);
    for peer in policy.peers() {
        if let Some(namespaces) = &peer.namespaces {
            namespace_selector(lint, policy, namespaces);
        }
        peer_pods(lint, policy, peer);
    }
}

/// The pods that the policy is for.
fn subject(lint: &mut Lint<'_>, policy: &Policy<'_>) {
    let world = lint.world;
    if let (Some(_), Some(namespaces)) = (&policy.cluster, &policy.namespaces)
        && namespace_selector(lint, policy, namespaces)
    {
        return;
    }
    let own = policy.object.namespace;
    let of_name = policy.object.root.at(&["metadata", "namespace"]);
    let at_namespace = of_name.unwrap_or_else(|| policy.object.name_spot());
    if policy.cluster.is_none() && world.has_namespaces && !world.has_namespace(own) {
        let close = closest(own, world.namespaces());
        lint.find(
            policy.object,
            codes::MISSING_NAMESPACE,
            &at_namespace,
            format!("there is no namespace {own} in these manifests: the policy protects nothing"),
            close.map_or_else(
                || "create the namespace, or name one that exists".to_owned(),
                |close| format!("did you mean {close}?"),
            ),
        );
        return;
    }
    let Some(namespaces) = reach::subject_namespaces(world, policy) else {
        return;
    };
    let pods = reach::everybody(world, &namespaces);
    if pods.is_empty() {
        if world.has_pods() {
            let message = match &policy.cluster {
                None => {
                    format!("namespace {own} has no pods in these manifests: the policy does nothing yet")
                }
                Some(_) => {
                    "the namespaces it selects have no pods in these manifests: the policy does nothing yet"
                        .to_owned()
                }
            };
            lint.find(
                policy.object,
                codes::EMPTY_NAMESPACE,
                &at_namespace,
                message,
                "nothing, if the pods come later; else check the namespace",
            );
        }
        return;
    }
    let Some(matching) = reach::subject(world, policy) else {
        return;
    };
    let at = policy
        .pods
        .as_ref()
        .map_or_else(|| policy.object.name_spot(), |pods| pods.spot.clone());
    if matching.is_empty() {
        let whose = if policy.cluster.is_some() {
            "of the namespaces it selects".to_owned()
        } else {
            format!("of namespace {own}")
        };
        let Some(selector) = policy.pods.as_ref().and_then(|pods| pods.selector.as_ref()) else {
            return;
        };
        let message =
            format!("no pod {whose} matches {selector} in these manifests: the policy protects nothing");
        lint.find(
            policy.object,
            codes::NO_SUBJECT,
            &at,
            message,
            suggestion(selector, pods.iter().map(|pod| &pod.labels)),
        );
    } else if matching.iter().all(|pod| pod.host_network) {
        let message = format!(
            "it selects only pods with hostNetwork ({}), which have no network of their own: the policy has no effect",
            titles(&matching)
        );
        lint.find(
            policy.object,
            codes::HOST_SUBJECT,
            &at,
            message,
            "select other pods, or filter the node's traffic by other means",
        );
    }
}

/// What is wrong with a namespace selector of a peer or subject; true where something is.
fn namespace_selector(lint: &mut Lint<'_>, policy: &Policy<'_>, selected: &Selected<'_>) -> bool {
    let Some(selector) = &selected.selector else {
        return true;
    };
    let world = lint.world;
    let asked = |key: &str| -> BTreeSet<&str> {
        let of_key = selector
            .requirements()
            .iter()
            .filter(move |requirement| requirement.key == key);
        of_key
            .filter_map(|requirement| match &requirement.operator {
                Operator::In(values) => Some(values.iter().map(String::as_str)),
                Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => None,
            })
            .flatten()
            .collect()
    };
    let labelled = |value: &str| {
        world
            .namespaces()
            .filter_map(|name| world.namespace_labels(name))
            .any(|labels| labels.get(NAME).is_some_and(|label| label == value))
    };
    let names = asked(NAME);
    if !names.is_empty() && !names.iter().any(|name| labelled(name)) {
        let list = names.iter().copied().collect::<Vec<_>>().join(", ");
        let known = if names.iter().any(|name| world.has_namespace(name)) {
            format!("namespace {list} exists, but nobody gave it the label name")
        } else if world.has_namespaces {
            format!("no namespace in these manifests has the label name={list}")
        } else {
            "only namespaces that somebody labelled so have a label name".to_owned()
        };
        // Without Namespaces the label may well be there.
        let severity = if world.has_namespaces {
            codes::NAME_LABEL.severity
        } else {
            Severity::Info
        };
        let message =
            format!("{known}: Kubernetes itself sets only {METADATA_NAME}, so this may select nothing");
        let fix = format!("write {METADATA_NAME}: {list}");
        lint.find_as(
            severity,
            policy.object,
            codes::NAME_LABEL,
            &selected.label(NAME),
            message,
            fix,
        );
        return true;
    }
    let missing: Vec<&str> = asked(METADATA_NAME)
        .into_iter()
        .filter(|name| world.has_namespaces && !world.has_namespace(name))
        .collect();
    for name in &missing {
        let fix = closest(name, world.namespaces()).map_or_else(
            || "name a namespace that exists, or create it".to_owned(),
            |close| format!("did you mean {close}?"),
        );
        let message = format!("there is no namespace {name} in these manifests: it matches nothing");
        lint.find(
            policy.object,
            codes::MISSING_NAMESPACE,
            &selected.label(METADATA_NAME),
            message,
            fix,
        );
    }
    if !missing.is_empty() {
        return true;
    }
    if world.matching(selector).is_some_and(|found| found.is_empty()) {
        let all = world.namespaces();
        let labels: Vec<&Labels> = all.filter_map(|name| world.namespace_labels(name)).collect();
        let message = format!("no namespace in these manifests matches {selector}: it matches nothing");
        lint.find(
            policy.object,
            codes::NO_NAMESPACE,
            &selected.spot,
            message,
            suggestion(selector, labels.iter().copied()),
        );
        return true;
    }
    false
}

/// The pods of a peer.
fn peer_pods(lint: &mut Lint<'_>, policy: &Policy<'_>, peer: &Peer<'_>) {
    let world = lint.world;
    let Some(Selected {
        selector: Some(selector),
        spot: at,
        ..
    }) = peer.pods.as_ref().or(peer.namespaces.as_ref())
    else {
        return;
    };
    let Some(namespaces) = reach::peer_namespaces(world, policy, peer) else {
        return;
    };
    let pods = reach::everybody(world, &namespaces);
    // Namespaces without pods in the input may have some elsewhere.
    if pods.is_empty() {
        return;
    }
    let Some(matching) = reach::peer(world, policy, peer) else {
        return;
    };
    if matching.is_empty() {
        let own = policy.object.namespace;
        let whose = if peer.namespaces.is_some() || own.is_empty() {
            "of those namespaces".to_owned()
        } else {
            format!("of namespace {own}")
        };
        let message = format!("no pod {whose} matches {selector} in these manifests: this peer is nobody");
        let elsewhere = (peer.namespaces.is_none() && !own.is_empty())
            .then(|| world.pods().find(|pod| selector.matches(&pod.labels)))
            .flatten();
        let fix = match elsewhere {
            Some(pod) => format!(
                "{} is in namespace {}: add a namespaceSelector ({METADATA_NAME}: {}) to the same item",
                pod.title, pod.namespace, pod.namespace
            ),
            None => suggestion(selector, pods.iter().map(|pod| &pod.labels)),
        };
        lint.find(policy.object, codes::NO_PEER, at, message, fix);
    } else if matching.iter().all(|pod| pod.host_network) {
        let message = format!(
            "it matches only pods with hostNetwork ({}), whose traffic is the node's: this peer is nobody",
            titles(&matching)
        );
        lint.find(
            policy.object,
            codes::HOST_PEER,
            at,
            message,
            "name the nodes' addresses in an ipBlock",
        );
    }
}

fn titles(pods: &[&Pod]) -> String {
    let more = if pods.len() > 2 { ", ..." } else { "" };
    let names: Vec<&str> = pods.iter().take(2).map(|pod| pod.title.as_str()).collect();
    format!("{}{more}", names.join(", "))
}

/// What may have been meant by a selector that matches none of these.
fn suggestion<'a>(selector: &Selector, all: impl Iterator<Item = &'a Labels> + Clone) -> String {
    for requirement in selector.requirements() {
        if all.clone().any(|labels| requirement.holds(labels)) {
            continue;
        }
        let key = &requirement.key;
        let present: BTreeSet<&str> = all
            .clone()
            .filter_map(|labels| labels.get(key))
            .map(String::as_str)
            .collect();
        if let Operator::In(values) = &requirement.operator
            && let Some(close) = values
                .iter()
                .find_map(|value| closest(value, present.iter().copied()))
        {
            return format!("did you mean {key}={close}?");
        }
        if !present.is_empty() {
            let some: Vec<&str> = present.iter().copied().take(4).collect();
            return format!(
                "nothing there has {requirement}; {key} is one of: {}",
                some.join(", ")
            );
        }
        let keys = all.clone().flat_map(|labels| labels.keys()).map(String::as_str);
        return match closest(key, keys) {
            Some(close) => format!("did you mean the label {close}?"),
            None => format!("nothing there has the label {key}: correct the selector or label what is meant"),
        };
    }
    "each part of the selector matches something, but nothing matches them all: correct the selector"
        .to_owned()
}

/// The name that a misspelt one was probably meant to be.
fn closest<'a>(name: &str, all: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = if name.len() > 4 { 2 } else { 1 };
    all.map(|other| (strsim::osa_distance(name, other), other))
        .filter(|(distance, _)| (1..=near).contains(distance))
        .min()
        .map(|(_, other)| other)
}
