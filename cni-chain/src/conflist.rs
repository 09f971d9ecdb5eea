//! Our entry in a plugin chain: put in and taken out without touching a byte of the rest.
//!
//! Invariants: `remove(insert(x)) == x` for every list without us; `insert` is idempotent and leaves us last; whatever
//! other programs wrote (order, white space, fields we do not know) stays as it is.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

/// `type` of our entry: the name of the plugin's file.
pub const PLUGIN: &str = "vethwall-cni";

/// A list that can not be edited.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a list of plugins.
    #[error("this is no CNI configuration list: {0}")]
    Syntax(#[from] serde_json::Error),
    /// There is nothing to be chained to.
    #[error("the list has no other plugin, so there is no interface to protect")]
    Empty,
    /// The entry to insert is not one of ours.
    #[error("the entry is not a JSON object of type {PLUGIN}")]
    Entry,
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    plugins: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Plugin {
    #[serde(rename = "type", default)]
    kind: String,
}

/// One plugin's place in the text.
struct Place {
    range: Range<usize>,
    ours: bool,
}

fn places(list: &str) -> Result<Vec<Place>, Error> {
    let List { plugins } = serde_json::from_str(list)?;
    let place = |raw: &RawValue| {
        // The raw value is a slice of the text.
        let start = raw.get().as_ptr().addr() - list.as_ptr().addr();
        let kind = serde_json::from_str::<Plugin>(raw.get()).map(|plugin| plugin.kind);
        Place {
            range: start..start + raw.get().len(),
            ours: kind.is_ok_and(|kind| kind == PLUGIN),
        }
    };
    Ok(plugins.into_iter().map(place).collect())
}

/// The entry for the usual directories.
pub fn default_entry() -> String {
    format!("{{\"type\":\"{PLUGIN}\"}}")
}

/// Puts our entry last. Entries of ours that are there already make way.
pub fn insert(list: &str, entry: &str) -> Result<String, Error> {
    match serde_json::from_str::<Plugin>(entry) {
        Ok(plugin) if plugin.kind == PLUGIN => {}
        _ => return Err(Error::Entry),
    }
    let list = remove(list)?;
    let last = places(&list)?.pop().ok_or(Error::Empty)?;
    let (head, tail) = list.split_at(last.range.end);
    Ok(format!("{head},{entry}{tail}"))
}

/// Takes all entries of ours out.
pub fn remove(list: &str) -> Result<String, Error> {
    let mut text = list.to_owned();
    loop {
        let places = places(&text)?;
        let Some(at) = places.iter().position(|place| place.ours) else {
            return Ok(text);
        };
        let own = &places[at].range;
        let cut = match (at.checked_sub(1), places.get(at + 1)) {
            (Some(before), _) => places[before].range.end..own.end,
            (None, Some(after)) => own.start..after.range.start,
            (None, None) => own.clone(),
        };
        text.replace_range(cut, "");
    }
}

/// Whether we are in the list, and last.
pub fn is_chained(list: &str) -> Result<bool, Error> {
    Ok(places(list)?.last().is_some_and(|place| place.ours))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FLANNEL: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "flannel",
      "delegate": { "hairpinMode": true, "isDefaultGateway": true, "plugins": [1] }
    },
    {
      "type": "portmap",
      "capabilities": { "portMappings": true }
    }
  ]
}
"#;

    #[test]
    fn flannels_list_as_it_ships() {
        let chained = insert(FLANNEL, &default_entry()).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&chained).unwrap();
        let types: Vec<_> = parsed["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| &p["type"])
            .collect();
        assert_eq!(types, ["flannel", "portmap", PLUGIN]);
        assert!(is_chained(&chained).unwrap());
        assert!(!is_chained(FLANNEL).unwrap());
        assert_eq!(remove(&chained).unwrap(), FLANNEL);
        assert_eq!(insert(&chained, &default_entry()).unwrap(), chained);
    }

    #[test]
    fn duplicates_and_odd_places_are_cleaned_up() {
        let entry = default_entry();
        let list = format!("{{\"plugins\":[ {entry} , {{\"type\":\"a\"}},{entry},{entry} ]}}");
        assert_eq!(remove(&list).unwrap(), "{\"plugins\":[ {\"type\":\"a\"} ]}");
        assert_eq!(
            insert(&list, &entry).unwrap(),
            format!("{{\"plugins\":[ {{\"type\":\"a\"}},{entry} ]}}")
        );
        assert_eq!(
            remove(&format!("{{\"plugins\":[{entry}]}}")).unwrap(),
            "{\"plugins\":[]}"
        );
    }

    #[test]
    fn what_is_no_chain_is_refused() {
        let entry = default_entry();
        assert!(matches!(insert("{\"plugins\":[]}", &entry), Err(Error::Empty)));
        assert!(matches!(insert("{\"plugins\":[", &entry), Err(Error::Syntax(_))));
        assert!(matches!(
            insert("{\"type\":\"bridge\"}", &entry),
            Err(Error::Syntax(_))
        ));
        assert!(matches!(
            insert(FLANNEL, "{\"type\":\"other\"}"),
            Err(Error::Entry)
        ));
        assert!(matches!(
            insert(FLANNEL, "{\"type\":\"vethwall-cni\"},1"),
            Err(Error::Entry)
        ));
    }

    fn space() -> impl Strategy<Value = String> {
        "[ \n\t]{0,3}"
    }

    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("1.50e3".to_owned()),
            "\"[a-z\\]\\[{},]{0,6}\"",
            Just("\"\\\"vethwall-cni\\\"\\u00e9\"".to_owned()),
            Just("{\"type\":\"vethwall-cni\"}".to_owned()),
        ];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec((space(), inner.clone()), 0..3).prop_map(|v| format!(
                    "[{}]",
                    v.iter()
                        .map(|(s, j)| format!("{s}{j}"))
                        .collect::<Vec<_>>()
                        .join(",")
                )),
                prop::collection::vec((space(), "[a-z]{1,4}", inner), 0..3).prop_map(|v| {
                    let fields = v
                        .iter()
                        .enumerate()
                        .map(|(i, (s, k, j))| format!("{s}\"{k}{i}\":{j}"));
                    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
                }),
            ]
        })
    }

    fn plugin() -> impl Strategy<Value = String> {
        (space(), "[a-z-]{1,12}", space(), json(), space())
            .prop_map(|(a, kind, b, value, c)| format!("{{{a}\"x\":{value},{b}\"type\":\"{kind}\"{c}}}"))
            .prop_filter("not ours", |text| !text.contains("\"type\":\"vethwall-cni\"\n"))
    }

    proptest! {
        #[test]
        fn what_is_put_in_comes_out(
            before in json(), after in json(), s in prop::collection::vec(space(), 6),
            plugins in prop::collection::vec((space(), plugin(), space()), 1..5),
        ) {
            let list: Vec<String> = plugins.iter().map(|(a, p, b)| format!("{a}{p}{b}")).collect();
            let text = format!(
                "{}{{{}\"before\":{before},\"plugins\"{}:{}[{}]{},\"after\":{after}}}{}",
                s[0], s[1], s[2], s[3], list.join(","), s[4], s[5],
            );
            let entry = "{ \"type\": \"vethwall-cni\", \"runDir\": \"/x\" }";
            let chained = insert(&text, entry).unwrap();
            prop_assert!(is_chained(&chained).unwrap());
            prop_assert_eq!(remove(&chained).unwrap(), text);
            prop_assert_eq!(insert(&chained, entry).unwrap(), chained);
        }
    }
}
