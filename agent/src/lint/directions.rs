//! What a policy isolates: policyTypes, and rules that say everything or nothing.

use super::{
    Lint, codes,
    policy::{Direction, Policy},
    spot::Spot,
};

pub(super) fn check(lint: &mut Lint<'_>, policy: &Policy<'_>) {
    if policy.cluster.is_some() {
        return;
    }
    let types = policy.types();
    let mut all_known = true;
    for one in &types {
        let text = one.text().unwrap_or_default();
        if matches!(text, "Ingress" | "Egress") {
            continue;
        }
        all_known = false;
        let fix = match text.to_ascii_lowercase().as_str() {
            "ingress" => "write Ingress",
            "egress" => "write Egress",
            _ => "write Ingress or Egress",
        };
        lint.find(
            policy.object,
            codes::BAD_TYPE,
            one,
            format!("{text:?} is no policy type: the API server refuses the policy"),
            fix,
        );
    }
    for direction in policy.directions() {
        allows_all(lint, policy, direction);
        if direction.isolates {
            denies_all(lint, policy, direction, &types);
        } else if all_known {
            inert(lint, policy, direction, types.is_empty());
        }
    }
    if also_ingress(policy, &types)
        && let Some(at) = &policy.egress.spot
    {
        lint.find(
            policy.object,
            codes::ALSO_INGRESS,
            at,
            "without policyTypes a policy always isolates for ingress: with no ingress rule, nobody reaches these pods",
            "add policyTypes: [Egress], or [Ingress, Egress] if that is meant",
        );
    }
}

/// It has only egress rules and does not say which directions are meant.
fn also_ingress(policy: &Policy<'_>, types: &[Spot<'_>]) -> bool {
    types.is_empty()
        && !policy.egress.rules.is_empty()
        && policy
            .object
            .root
            .at(&["spec"])
            .is_some_and(|spec| spec.entry("ingress").is_none())
}

/// A direction as policyTypes has it.
fn word(direction: &Direction<'_>) -> &'static str {
    if direction.name == "ingress" {
        "Ingress"
    } else {
        "Egress"
    }
}

/// A field that does nothing because its direction is not among the types.
fn inert(lint: &mut Lint<'_>, policy: &Policy<'_>, direction: &Direction<'_>, no_types: bool) {
    let Some(at) = direction.spot.as_ref().filter(|spot| spot.is_list()) else {
        return;
    };
    let (name, word) = (direction.name, word(direction));
    let what = if direction.rules.is_empty() {
        format!("{name}: []")
    } else {
        format!("these {name} rules")
    };
    let verb = if direction.rules.is_empty() { "does" } else { "do" };
    let why = if no_types {
        "there is no policyTypes".to_owned()
    } else {
        format!("policyTypes leaves out {word}")
    };
    let message = format!("{what} {verb} nothing, because {why}: {name} of these pods stays open");
    let fix = if no_types {
        "add policyTypes: [Ingress, Egress]".to_owned()
    } else {
        format!("add {word} to policyTypes, or remove {name}")
    };
    lint.find(policy.object, codes::INERT, at, message, fix);
}

/// A direction in which nothing is allowed.
fn denies_all(lint: &mut Lint<'_>, policy: &Policy<'_>, direction: &Direction<'_>, types: &[Spot<'_>]) {
    let name = direction.name;
    if !direction.rules.is_empty() || suggests_deny(policy.object.name, name) || also_ingress(policy, types) {
        return;
    }
    let own = types
        .iter()
        .find(|one| one.text() == Some(word(direction)))
        .cloned();
    let at = direction
        .spot
        .clone()
        .or(own)
        .unwrap_or_else(|| policy.object.name_spot());
    let dns = if name == "egress" { ", DNS included" } else { "" };
    lint.find(
        policy.object,
        codes::DENIES_ALL,
        &at,
        format!("it isolates for {name} and has no {name} rule: all {name} of these pods is denied{dns}, unless another policy allows it"),
        format!("nothing, if that is meant; else add {name} rules, or leave {} out of policyTypes", word(direction)),
    );
}

/// An empty rule beside something that says the opposite.
fn allows_all(lint: &mut Lint<'_>, policy: &Policy<'_>, direction: &Direction<'_>) {
    let Some(rule) = direction.rules.iter().find(|rule| rule.spot.is_empty()) else {
        return;
    };
    let name = direction.name;
    let other = if name == "ingress" {
        &policy.egress
    } else {
        &policy.ingress
    };
    let says = |word: &str| words(policy.object.name).any(|own| own.starts_with(word));
    // What is told as such already.
    let told = also_ingress(policy, &policy.types());
    let explained = told || says("allow") || says("open") || says(other.name);
    let sibling = lint
        .network_policies()
        .find(|sibling| denies_what_this_allows(policy, sibling, direction));
    let (effect, why) = if direction.rules.len() > 1 {
        (
            format!("an empty rule allows all {name}"),
            "the other rules add nothing".to_owned(),
        )
    } else if suggests_deny(policy.object.name, name) {
        (
            format!("an empty rule allows all {name}"),
            format!("the name {} says the opposite", policy.object.name),
        )
    } else if let Some(sibling) = sibling {
        (
            format!("an empty rule allows all {name}"),
            format!("policies add up, so {} denies none of it", sibling.object.title()),
        )
    } else if other.isolates && other.rules.is_empty() && !explained {
        (
            format!("{name}: [{{}}] allows all {name}"),
            format!("{}: [] beside it denies all {}", other.name, other.name),
        )
    } else {
        return;
    };
    lint.find(
        policy.object,
        codes::ALLOWS_ALL,
        &rule.spot,
        format!("{effect}; {why}"),
        format!("to allow nothing write {name}: [] (no rule at all); to allow some, say from whom or on which ports"),
    );
}

/// Whether another policy denies, by its name and content, what this one allows to the same pods.
fn denies_what_this_allows(policy: &Policy<'_>, sibling: &Policy<'_>, direction: &Direction<'_>) -> bool {
    let theirs = if direction.name == "ingress" {
        &sibling.ingress
    } else {
        &sibling.egress
    };
    let selector = |policy: &Policy<'_>| policy.pods.as_ref().map(|pods| pods.selector.clone());
    let everything = policy.pods.as_ref().is_none_or(|pods| pods.is_everything());
    sibling.object.namespace == policy.object.namespace
        && theirs.isolates
        && theirs.rules.is_empty()
        && suggests_deny(sibling.object.name, direction.name)
        && (everything || selector(sibling) == selector(policy))
}

/// The words of a name.
fn words(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
}

/// Whether a name says that a direction is denied.
fn suggests_deny(name: &str, direction: &str) -> bool {
    const DENY: &[&str] = &[
        "deny",
        "denied",
        "block",
        "isolate",
        "isolated",
        "isolation",
        "lockdown",
        "none",
        "nothing",
        "no",
        "restrict",
        "restricted",
        "closed",
        "drop",
        "reject",
        "quarantine",
    ];
    let says = |word: &str| words(name).any(|own| own == word);
    let other = if direction == "ingress" {
        "egress"
    } else {
        "ingress"
    };
    let about_other = says(other) && !says(direction);
    DENY.iter().any(|word| says(word)) && !words(name).any(|word| word.starts_with("allow")) && !about_other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_deny() {
        for (name, direction, deny) in [
            ("default-deny", "ingress", true),
            ("deny-all-egress", "egress", true),
            ("deny-all-egress", "ingress", false),
            ("deny-ingress-egress", "ingress", true),
            ("deny-all-but-allow-dns", "egress", false),
            ("web", "ingress", false),
            ("node-exporter", "ingress", false),
        ] {
            assert_eq!(suggests_deny(name, direction), deny, "{name} {direction}");
        }
    }
}
