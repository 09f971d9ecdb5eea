//! Files and objects: what can not be decoded, stands there twice, or is not enforced.

use std::collections::BTreeMap;

use super::{
    Code, Finding, Lint, codes,
    object::{IGNORE, Object, split_codes},
};
use crate::{
    k8s::convert::MODE,
    manifests::{self, Problem, Texts},
};

/// Annotations of ours begin with this.
const OURS: &str = "vethwall.io/";

/// How the decoder begins when it tells of a field that nobody knows.
const UNKNOWN: &str = "unknown field ";

/// Policies of others, by group. Of our own groups, what came before ClusterNetworkPolicy.
const FOREIGN: &[(&str, &str)] = &[
    ("policy.networking.k8s.io", "AdminNetworkPolicy"),
    ("policy.networking.k8s.io", "BaselineAdminNetworkPolicy"),
    ("cilium.io", "CiliumNetworkPolicy"),
    ("cilium.io", "CiliumClusterwideNetworkPolicy"),
    ("projectcalico.org", "NetworkPolicy"),
    ("projectcalico.org", "GlobalNetworkPolicy"),
    ("crd.projectcalico.org", "NetworkPolicy"),
    ("crd.projectcalico.org", "GlobalNetworkPolicy"),
    ("crd.antrea.io", "NetworkPolicy"),
    ("crd.antrea.io", "ClusterNetworkPolicy"),
];

/// Whether an annotation may silence it: not what leaves the object, or the annotation itself, without a meaning.
pub(super) fn can_be_silenced(code: &Code) -> bool {
    code != codes::DECODE && code != codes::ANNOTATION
}

pub(super) fn check(lint: &mut Lint<'_>, texts: &Texts) {
    for file in manifests::load_texts(texts).files {
        for problem in &file.errors {
            decoder_problem(lint, problem);
        }
    }
    twice(lint);
    for object in lint.objects {
        if FOREIGN.contains(&(object.group, object.kind)) {
            let at = object.root.get("kind").unwrap_or_else(|| object.root.clone());
            lint.find(
                object,
                codes::FOREIGN,
                &at,
                format!(
                    "vethwall does not enforce the kind {} of {}: it has no effect",
                    object.kind, object.group
                ),
                "write it as a NetworkPolicy or a ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2)",
            );
        }
        if object.kind == "Namespace" || object.is_network_policy() || object.is_cluster_policy() {
            annotations(lint, object);
        }
    }
}

/// What the decoder says of a file, with the object it says it of.
fn decoder_problem(lint: &mut Lint<'_>, problem: &Problem) {
    let Problem {
        file,
        line,
        column,
        message,
        excerpt: _,
    } = problem;
    let unknown = message.strip_prefix(UNKNOWN);
    let code = if unknown.is_some() {
        codes::UNKNOWN_FIELD
    } else {
        codes::DECODE
    };
    // Objects of a file do not overlap: it is of the last that starts before it.
    let starts = |object: &&Object<'_>| object.file == file && object.root.place().line <= *line;
    let object = lint
        .objects
        .iter()
        .filter(starts)
        .max_by_key(|object| object.root.place().line);
    let field = match unknown {
        Some(rest) => Some(rest.split(" (").next().unwrap_or(rest).to_owned()),
        None => object.and_then(|object| object.root.path_at(*line, *column)),
    };
    if let Some(object) = object.filter(|object| object.ignores(code.id) && can_be_silenced(code)) {
        let _silent = object;
        lint.silenced += 1;
        return;
    }
    let (message, fix) = match unknown {
        Some(rest) => {
            let meant = rest
                .split_once("(did you mean ")
                .and_then(|(_, rest)| rest.split_once("?)"));
            (
                format!("{message}: the API server refuses or drops it, and what it was to do is not done"),
                match meant {
                    Some((meant, _)) => format!("rename it to {meant}"),
                    None => "remove it, or put it where it belongs".to_owned(),
                },
            )
        }
        None => (
            message.clone(),
            "write what is expected here; until then the object is not understood".to_owned(),
        ),
    };
    lint.findings.push(Finding {
        code,
        severity: code.severity,
        file: file.clone(),
        line: *line,
        column: *column,
        object: object.map(Object::title),
        field: field.filter(|field| !field.is_empty()),
        message,
        fix,
    });
}

/// Objects of one kind and name.
fn twice(lint: &mut Lint<'_>) {
    let mut seen: BTreeMap<(&str, &str, &str, &str), &Object<'_>> = BTreeMap::new();
    for object in lint.objects.iter().filter(|object| !object.name.is_empty()) {
        let key = (object.group, object.kind, object.namespace, object.name);
        let Some(first) = seen.get(&key) else {
            seen.insert(key, object);
            continue;
        };
        let message = format!(
            "{} stands already in {}:{}: only one of them can be in force",
            object.title(),
            first.file.display(),
            first.name_spot().place().line
        );
        lint.find(
            object,
            codes::TWICE,
            &object.name_spot(),
            message,
            "remove one of them, or give it another name",
        );
    }
}

/// Annotations of ours.
fn annotations(lint: &mut Lint<'_>, object: &Object<'_>) {
    let annotations = object.root.at(&["metadata", "annotations"]);
    for (key, value) in annotations.map(|all| all.pairs()).unwrap_or_default() {
        let text = value.text().unwrap_or_default();
        let at = if matches!(key, MODE | IGNORE) {
            value.clone()
        } else {
            value.clone().at_key()
        };
        let mut wrong =
            |message: String, fix: String| lint.find(object, codes::ANNOTATION, &at, message, fix);
        match key {
            MODE if !matches!(text, "enforce" | "audit") => wrong(
                format!("{MODE} knows no {text:?}: the policy is enforced"),
                "write enforce or audit".to_owned(),
            ),
            MODE => {}
            IGNORE => {
                for id in split_codes(text) {
                    match codes::code(id) {
                        None => wrong(
                            format!("there is no code {id}, so nothing is silenced by it"),
                            "write codes as in LINT010,LINT060; docs/lint.md has them all".to_owned(),
                        ),
                        Some(code) if !can_be_silenced(code) => wrong(
                            format!("{id} can not be silenced"),
                            format!("remove {id} here and repair what it tells"),
                        ),
                        Some(_) => {}
                    }
                }
            }
            _ => {
                if let Some(rest) = key.strip_prefix(OURS) {
                    let known = [MODE, IGNORE].map(|key| key.trim_start_matches(OURS));
                    let close = known.iter().find(|known| strsim::osa_distance(rest, known) <= 2);
                    let fix = close.map_or_else(
                        || "remove it".to_owned(),
                        |known| format!("rename it to {OURS}{known}"),
                    );
                    wrong(format!("vethwall has no annotation {key}: it does nothing"), fix);
                }
            }
        }
    }
}
