//! Label selectors, read from a tree with what is wrong in them.

use std::collections::BTreeSet;

use vethwall_policy::model::{Operator, Requirement, Selector};

use super::spot::Spot;

/// The label that every namespace has: its name.
pub(super) const METADATA_NAME: &str = "kubernetes.io/metadata.name";

/// A selector and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Selected<'a> {
    /// Its place.
    pub(super) spot: Spot<'a>,
    /// What it selects; none where that can not be said.
    pub(super) selector: Option<Selector>,
    /// What is wrong with it, and where.
    pub(super) errors: Vec<(Spot<'a>, String)>,
}

impl<'a> Selected<'a> {
    /// Reads a selector.
    pub(super) fn read(spot: Spot<'a>) -> Self {
        let mut requirements = Vec::new();
        let mut errors = Vec::new();
        for (key, value) in spot
            .get("matchLabels")
            .map(|labels| labels.pairs())
            .unwrap_or_default()
        {
            let text = value.text().unwrap_or_default();
            check_key(key, &value, &mut errors);
            check_value(text, &value, &mut errors);
            requirements.push(Requirement {
                key: key.to_owned(),
                operator: Operator::In([text.to_owned()].into()),
            });
        }
        let expressions = spot.get("matchExpressions").map(|list| list.items());
        for expression in expressions.unwrap_or_default() {
            requirements.extend(requirement(&expression, &mut errors));
        }
        Self {
            spot,
            selector: errors.is_empty().then(|| Selector::new(requirements)),
            errors,
        }
    }

    /// It selects everything of its kind.
    pub(super) fn is_everything(&self) -> bool {
        self.selector
            .as_ref()
            .is_some_and(|selector| selector.requirements().is_empty())
    }

    /// It asks for some value of a label.
    pub(super) fn asks_for(&self, key: &str, value: impl Fn(&str) -> bool) -> bool {
        let requirements = self.selector.iter().flat_map(Selector::requirements);
        requirements
            .filter(|requirement| requirement.key == key)
            .any(|requirement| match &requirement.operator {
                Operator::In(values) => values.iter().any(|text| value(text)),
                Operator::Exists => true,
                Operator::NotIn(_) | Operator::DoesNotExist => false,
            })
    }

    /// The place where a label is asked for.
    pub(super) fn label(&self, key: &str) -> Spot<'a> {
        let label = self.spot.get("matchLabels").and_then(|labels| labels.get(key));
        let expressions = self.spot.get("matchExpressions").map(|list| list.items());
        let expression = expressions
            .unwrap_or_default()
            .into_iter()
            .find(|expression| expression.text_of("key") == Some(key))
            .and_then(|expression| expression.get("key"));
        label.or(expression).unwrap_or_else(|| self.spot.clone())
    }

    /// How people write it.
    pub(super) fn words(&self) -> String {
        self.selector
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default()
    }
}

fn requirement<'a>(spot: &Spot<'a>, errors: &mut Vec<(Spot<'a>, String)>) -> Option<Requirement> {
    let key = spot.text_of("key").unwrap_or_default();
    let at = |key: &str| spot.get(key).unwrap_or_else(|| spot.clone());
    check_key(key, &at("key"), errors);
    let list = spot
        .get("values")
        .map(|values| values.items())
        .unwrap_or_default();
    let values: BTreeSet<String> = list
        .iter()
        .filter_map(|value| value.text())
        .map(str::to_owned)
        .collect();
    for value in &list {
        check_value(value.text().unwrap_or_default(), value, errors);
    }
    let mut wrong = |at: Spot<'a>, message: String| {
        errors.push((at, message));
        None
    };
    let operator = match spot.text_of("operator").unwrap_or_default() {
        name @ ("In" | "NotIn") if values.is_empty() => {
            return wrong(at("operator"), format!("{name} needs at least one value"));
        }
        "In" => Operator::In(values),
        "NotIn" => Operator::NotIn(values),
        name @ ("Exists" | "DoesNotExist") if !values.is_empty() => {
            return wrong(at("values"), format!("{name} takes no values"));
        }
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => {
            let message = format!("expected the operator In, NotIn, Exists or DoesNotExist, found {other:?}");
            return wrong(at("operator"), message);
        }
    };
    Some(Requirement {
        key: key.to_owned(),
        operator,
    })
}

fn check_key<'a>(key: &str, spot: &Spot<'a>, errors: &mut Vec<(Spot<'a>, String)>) {
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefix_is_good = prefix.is_none_or(|prefix| {
        let label = |label: &str| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        prefix.len() <= 253 && prefix.split('.').all(label)
    });
    if name.is_empty() || !is_word(name) || !prefix_is_good {
        errors.push((spot.clone(), format!("{key:?} is no key that a label can have")));
    }
}

fn check_value<'a>(value: &str, spot: &Spot<'a>, errors: &mut Vec<(Spot<'a>, String)>) {
    if !value.is_empty() && !is_word(value) {
        errors.push((
            spot.clone(),
            format!("{value:?} is no value that a label can have"),
        ));
    }
}

/// At most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.
fn is_word(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= 63
        && ends.iter().flatten().all(u8::is_ascii_alphanumeric)
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
