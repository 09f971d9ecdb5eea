//! Strict decoding, and its errors in words that tell what was expected.

use serde::de::DeserializeOwned;
use serde_saphyr::MessageFormatter as _;

use crate::manifests::{fields, tree::Segment};

/// The sentence about a field that nobody knows.
pub(super) fn unknown_field(kind: &str, path: &[Segment]) -> String {
    let mut text = String::from("unknown field ");
    for (index, segment) in path.iter().enumerate() {
        match segment {
            Segment::Key(key) if index == 0 => text += key,
            Segment::Key(key) => text += &format!(".{key}"),
            Segment::Index(at) => text += &format!("[{at}]"),
        }
    }
    let known = fields::siblings(kind, path);
    if let Some(Segment::Key(name)) = path.last() {
        match fields::close(name, known) {
            Some(meant) => text += &format!(" (did you mean {meant}?)"),
            None if !known.is_empty() => text += &format!(" (expected one of {})", known.join(", ")),
            None => {}
        }
    }
    text
}

/// An error without its place, in words that tell what was expected.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the decoder's own words do for the other sixty"
)]
pub(super) fn describe(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as E;
    match error {
        E::SerdeInvalidType {
            unexpected, expected, ..
        }
        | E::SerdeInvalidValue {
            unexpected, expected, ..
        } => {
            format!("expected {}, found {unexpected}", readable(expected))
        }
        E::InvalidScalar { ty, .. } => format!("expected {}", readable(ty)),
        E::QuotingRequired { value, .. } => {
            format!("expected a string, found {value}; if the text is meant, put it in quotes")
        }
        E::DuplicateMappingKey { key, .. } => {
            format!("the key {} is there twice", key.as_deref().unwrap_or_default())
        }
        E::Unexpected { expected, .. } => format!("expected {}", readable(expected)),
        E::NullIntoString { .. } => "expected a string, found nothing".to_owned(),
        E::NonFiniteFloat { value, .. } => format!("expected a number, found {value}"),
        E::InvalidBooleanStrict { .. } => "expected true or false".to_owned(),
        other => serde_saphyr::DefaultMessageFormatter
            .format_message(other)
            .into_owned(),
    }
}

/// The decoder's names for what it expects, as an administrator calls them.
fn readable(expected: &str) -> String {
    match expected {
        "i32" | "i64" => "a whole number".to_owned(),
        "bool" | "a boolean" => "true or false".to_owned(),
        "sequence start" => "a list".to_owned(),
        "mapping start" => "a mapping".to_owned(),
        "IntOrString" => "a number or a name".to_owned(),
        name if name.starts_with(char::is_uppercase) => format!("a mapping ({name})"),
        other => other.to_owned(),
    }
}

/// Decodes strictly: a number is no string, and unknown fields are told.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<(T, Vec<Vec<Segment>>), serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        no_schema: true,
        // `y` is a name, as it is for YAML 1.2; only true and false are booleans.
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_events: 10_000_000,
            max_nodes: 5_000_000,
        },
    };
    let mut unknown = Vec::new();
    let object = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        serde_ignored::deserialize(deserializer, |path| unknown.push(segments(&path)))
    })?;
    Ok((object, unknown))
}

fn segments(path: &serde_ignored::Path<'_>) -> Vec<Segment> {
    use serde_ignored::Path as P;
    let (parent, last) = match path {
        P::Root => return Vec::new(),
        P::Seq { parent, index } => (parent, Some(Segment::Index(*index))),
        P::Map { parent, key } => (parent, Some(Segment::Key(key.clone()))),
        P::Some { parent } | P::NewtypeStruct { parent } | P::NewtypeVariant { parent } => (parent, None),
    };
    let mut all = segments(parent);
    all.extend(last);
    all
}
