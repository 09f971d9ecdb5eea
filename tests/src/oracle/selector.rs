//! Label selectors, as apimachinery's `labels/selector.go` reads them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize as _;
use serde_json::Value;

use super::{Labels, Met, met};

/// Whether a selector selects these labels; [`Met::Unknown`] where it can not be evaluated.
pub(super) fn selects(selector: &LabelSelector, labels: &Labels) -> Met {
    let all = requirements(selector, labels);
    if all.contains(&Met::Unknown) {
        Met::Unknown
    } else if all.contains(&Met::No) {
        Met::No
    } else {
        Met::Yes
    }
}

/// Whether a selector selects these labels as far as it can be read (rule 18): what can not be narrows nothing.
pub(super) fn may_select(selector: &LabelSelector, labels: &Labels) -> bool {
    !requirements(selector, labels).contains(&Met::No)
}

fn requirements(selector: &LabelSelector, labels: &Labels) -> Vec<Met> {
    let mut all = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        // Rule 16: the key must exist with exactly that value, the empty one too.
        all.push(met(labels.get(key) == Some(value)));
    }
    for requirement in selector.match_expressions.iter().flatten() {
        let value = labels.get(&requirement.key);
        let values = requirement.values.as_deref().unwrap_or_default();
        let among = value.is_some_and(|value| values.contains(value));
        // Rule 17: all of them. NotIn matches an absent key too.
        all.push(match (requirement.operator.as_str(), values) {
            ("In", [_, ..]) => met(among),
            ("NotIn", [_, ..]) => met(!among),
            ("Exists", []) => met(value.is_some()),
            ("DoesNotExist", []) => met(value.is_none()),
            _ => Met::Unknown,
        });
    }
    all
}

/// The same for a selector as it was written. Absent or null it is empty.
pub(super) fn selects_as_written(selector: &Value, labels: &Labels) -> Met {
    let known = match selector {
        Value::Null => return Met::Yes,
        Value::Object(fields) => fields
            .keys()
            .all(|key| key == "matchLabels" || key == "matchExpressions"),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => false,
    };
    if !known {
        return Met::Unknown;
    }
    match LabelSelector::deserialize(selector) {
        Ok(selector) => selects(&selector, labels),
        Err(_) => Met::Unknown,
    }
}

/// As far as it can be read.
pub(super) fn may_select_as_written(selector: &Value, labels: &Labels) -> bool {
    match LabelSelector::deserialize(selector) {
        Ok(selector) => may_select(&selector, labels),
        Err(_) => true,
    }
}
