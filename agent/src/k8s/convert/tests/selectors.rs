//! Selectors against apimachinery's text and kube's matcher.
//!
//! kube's own conversion is looser than apimachinery (pkg/apis/meta/v1/helpers.go, `LabelSelectorAsSelector`): it takes
//! In and NotIn with an empty list, and Exists and DoesNotExist with values, which are errors there. So whether a
//! selector can be evaluated is judged by apimachinery's text, what it selects by both. One thing is neither's: label
//! keys and values that are not valid are compared as they are (SEMANTICS 18), where apimachinery gives up.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::core::{Selector as KubeSelector, SelectorExt as _};
use proptest::{collection, option, prelude::*};

use super::*;
use crate::k8s::selector::{check_selector, selector};

/// `LabelSelectorAsSelector` without the syntax of keys and values, and `Requirement.Matches` of labels/selector.go.
fn apimachinery(selector: &LabelSelector, labels: &Labels) -> Option<bool> {
    let mut all = true;
    for (key, value) in selector.match_labels.iter().flatten() {
        all &= labels.contains_key(key) && labels[key] == *value;
    }
    for requirement in selector.match_expressions.iter().flatten() {
        let LabelSelectorRequirement {
            key,
            operator,
            values,
        } = requirement;
        let values = values.as_deref().unwrap_or_default();
        let has = labels.contains_key(key);
        all &= match (operator.as_str(), values.is_empty()) {
            ("In", false) => has && values.contains(&labels[key]),
            ("NotIn", false) => !has || !values.contains(&labels[key]),
            ("Exists", true) => has,
            ("DoesNotExist", true) => !has,
            _ => return None,
        };
    }
    Some(all)
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["a", "b"]),
        1 => prop::sample::select(vec!["", "not/a/key", "kubernetes.io/metadata.name"]),
    ]
    .prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["", "x", "y"]),
        1 => prop::sample::select(vec!["X", "x ", "not a value!", "\u{e9}", "-"]),
    ]
    .prop_map(str::to_owned)
}

fn requirement() -> impl Strategy<Value = LabelSelectorRequirement> {
    let operator = prop_oneof![
        8 => prop::sample::select(vec!["In", "NotIn", "Exists", "DoesNotExist"]),
        1 => prop::sample::select(vec!["in", "Equals", ""]),
    ];
    (
        key(),
        operator,
        option::of(collection::vec(value(), 0..3)),
        any::<bool>(),
    )
        .prop_map(|(key, operator, values, sensible)| {
            let wants = matches!(operator, "In" | "NotIn");
            let fits = values.as_ref().is_some_and(|values| !values.is_empty()) == wants;
            let values = match sensible && !fits {
                true if wants => Some(vec!["x".to_owned()]),
                true => None,
                false => values,
            };
            LabelSelectorRequirement {
                key,
                operator: operator.to_owned(),
                values,
            }
        })
}

fn label_selector() -> impl Strategy<Value = LabelSelector> {
    let labels = option::of(collection::btree_map(key(), value(), 0..3));
    let expressions = option::of(collection::vec(requirement(), 0..4));
    (labels, expressions).prop_map(|(match_labels, match_expressions)| LabelSelector {
        match_expressions,
        match_labels,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    // Covers: SEMANTICS 14, 16, 17, 18
    #[test]
    fn selectors_select_what_apimachinery_and_kube_select(
        written in label_selector(),
        labels in collection::vec(collection::btree_map(key(), value(), 0..4), 1..8),
    ) {
        let kube = KubeSelector::try_from(written.clone());
        for labels in &labels {
            let ours = selector(&written).ok().map(|selector| selector.matches(labels));
            prop_assert_eq!(ours, apimachinery(&written, labels), "{:?}", labels);
            if let Some(ours) = ours {
                let kube = kube.as_ref().map(|kube| kube.matches(labels));
                prop_assert_eq!(kube.ok(), Some(ours), "{:?}", labels);
            }
        }
        prop_assert_eq!(check_selector(&written).is_ok(), apimachinery(&written, &labels[0]).is_some());
    }
}

proptest! {
    // Each goes through the text of a manifest.
    #![proptest_config(ProptestConfig::with_cases(500))]

    // Covers: SEMANTICS 18
    #[test]
    fn a_policy_isolates_no_fewer_and_allows_no_more_pods_than_its_selectors_say(
        written in label_selector(),
        labels in collection::btree_map(key(), value(), 0..4),
    ) {
        let spec = serde_json::json!({"podSelector": written, "ingress": [{"from": [{"podSelector": written}]}]});
        let (policy, problems) = policy(&spec.to_string());
        let isolated = policy.pod_selector.matches(&labels);
        let allowed = match &policy.ingress.as_deref().unwrap()[0].peers {
            Peers::Some(peers) => peers.iter().any(|peer| match peer {
                Peer::Pods { pods, .. } => pods.matches(&labels),
                Peer::Nothing => false,
                Peer::Block { .. } | Peer::Nodes(_) | Peer::Everything => panic!("{peer:?}"),
            }),
            Peers::All => panic!("{policy:?}"),
        };
        match apimachinery(&written, &labels) {
            Some(expected) => prop_assert_eq!((isolated, allowed, problems.len()), (expected, expected, 0)),
            None => {
                // What can be evaluated of it still narrows the subject.
                let mut rest = written.clone();
                rest.match_expressions.iter_mut().flatten().for_each(|requirement| {
                    let alone = LabelSelector {
                        match_expressions: Some(vec![requirement.clone()]),
                        match_labels: None,
                    };
                    if check_selector(&alone).is_err() {
                        // Always true of these labels.
                        requirement.operator = if labels.contains_key(&requirement.key) { "Exists" } else { "DoesNotExist" }.to_owned();
                        requirement.values = None;
                    }
                });
                prop_assert_eq!((Some(isolated), allowed), (apimachinery(&rest, &labels), false));
                prop_assert!(!problems.is_empty());
            }
        }
    }
}
