//! Label selectors, and what makes one impossible to evaluate.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use vethwall_policy::model::{Operator, Requirement, Selector};

/// The selector, or what is wrong with it first: the field below the selector, and what was expected.
pub(crate) fn selector(selector: &LabelSelector) -> Result<Selector, String> {
    let (requirements, errors) = requirements(selector);
    errors
        .into_iter()
        .next()
        .map_or_else(|| Ok(Selector::new(requirements)), Err)
}

/// Whether a selector can be evaluated; if not, the field below the selector and what was expected.
pub(crate) fn check_selector(written: &LabelSelector) -> Result<(), String> {
    selector(written).map(drop)
}

/// What can be evaluated of a selector, and what is wrong with the rest.
pub(crate) fn requirements(selector: &LabelSelector) -> (Vec<Requirement>, Vec<String>) {
    let LabelSelector {
        match_expressions,
        match_labels,
    } = selector;
    let pairs = match_labels.iter().flatten();
    let mut all: Vec<_> = pairs
        .map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In([value.clone()].into()),
        })
        .collect();
    let mut errors = Vec::new();
    for (i, expression) in match_expressions.iter().flatten().enumerate() {
        let LabelSelectorRequirement {
            key,
            operator,
            values,
        } = expression;
        let values: BTreeSet<String> = values.iter().flatten().cloned().collect();
        let operator = match operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(format!(
                    "matchExpressions[{i}].values: {operator} needs at least one value"
                ));
                continue;
            }
            "In" => Operator::In(values),
            "NotIn" => Operator::NotIn(values),
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(format!(
                    "matchExpressions[{i}].values: {operator} takes no values"
                ));
                continue;
            }
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                let expected = "expected In, NotIn, Exists or DoesNotExist";
                errors.push(format!(
                    "matchExpressions[{i}].operator: {expected}, found {other:?}"
                ));
                continue;
            }
        };
        all.push(Requirement {
            key: key.clone(),
            operator,
        });
    }
    (all, errors)
}
