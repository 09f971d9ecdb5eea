//! Label selectors, as apimachinery's `labels/selector.go` reads them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::{Labels, Met};

/// Whether a selector selects these labels; [`Met::Unknown`] where it can not be evaluated.
pub(super) fn selects(selector: &LabelSelector, labels: &Labels) -> Met {
    let mut all = true;
    for (key, value) in selector.match_labels.iter().flatten() {
        // Rule 16: the key must exist with exactly that value, the empty one too.
        all &= labels.get(key) == Some(value);
    }
    for requirement in selector.match_expressions.iter().flatten() {
        let value = labels.get(&requirement.key);
        let values = requirement.values.as_deref().unwrap_or_default();
        let among = value.is_some_and(|value| values.contains(value));
        // Rule 17: all of them. NotIn matches an absent key too.
        all &= match (requirement.operator.as_str(), values) {
            ("In", [_, ..]) => among,
            ("NotIn", [_, ..]) => !among,
            ("Exists", []) => value.is_some(),
            ("DoesNotExist", []) => value.is_none(),
            _ => return Met::Unknown,
        };
    }
    if all { Met::Yes } else { Met::No }
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
    match serde_json::from_value::<LabelSelector>(selector.clone()) {
        Ok(selector) => selects(&selector, labels),
        Err(_) => Met::Unknown,
    }
}
