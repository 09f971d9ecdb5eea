//! A value in a document and the way to it: what every check reads, and where its finding points.

use crate::manifests::tree::{Node, Place, Value};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Spot<'a> {
    node: &'a Node,
    /// Where its key stands, for the value of a mapping.
    key: Option<Place>,
    /// The way from the object to it, as people write it: `spec.ingress[0].from`.
    path: String,
    /// Lines of the file before its document.
    before: usize,
    /// The finding is about the key, whatever its value.
    at_key: bool,
}

impl<'a> Spot<'a> {
    /// The root of an object whose document starts after so many lines.
    pub(super) const fn root(node: &'a Node, before: usize) -> Self {
        Self {
            node,
            key: None,
            path: String::new(),
            before,
            at_key: false,
        }
    }

    /// The same, where a finding is about the key.
    pub(super) fn at_key(mut self) -> Self {
        self.at_key = true;
        self
    }

    /// Whether it is a list.
    pub(super) const fn is_list(&self) -> bool {
        matches!(self.node.value, Value::Sequence(_))
    }

    /// The value of a key; none where it is absent or null, which mean the same to Kubernetes.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        self.entry(key).filter(|spot| spot.node.value != Value::Null)
    }

    /// The value of a key, null included.
    pub(super) fn entry(&self, key: &str) -> Option<Self> {
        let (found, node) = self.node.entry(key)?;
        let dot = if self.path.is_empty() { "" } else { "." };
        Some(Self {
            node,
            key: Some(found.place),
            path: format!("{}{dot}{key}", self.path),
            before: self.before,
            at_key: false,
        })
    }

    /// The value that a way of keys leads to.
    pub(super) fn at(&self, keys: &[&str]) -> Option<Self> {
        keys.iter().try_fold(self.clone(), |spot, key| spot.get(key))
    }

    /// The elements of a list that are not null.
    pub(super) fn items(&self) -> Vec<Self> {
        let items = self.node.elements().unwrap_or_default().iter().enumerate();
        items
            .filter(|(_, node)| node.value != Value::Null)
            .map(|(index, node)| Self {
                node,
                key: None,
                path: format!("{}[{index}]", self.path),
                before: self.before,
                at_key: false,
            })
            .collect()
    }

    /// The keys of a mapping with their values.
    pub(super) fn pairs(&self) -> Vec<(&'a str, Self)> {
        let Value::Mapping(entries) = &self.node.value else {
            return Vec::new();
        };
        let pairs = entries.iter().map(|(key, _)| key.text.as_str());
        pairs.filter_map(|key| Some((key, self.entry(key)?))).collect()
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&'a str> {
        self.node.text()
    }

    /// The text of the scalar at a key.
    pub(super) fn text_of(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(|spot| spot.text())
    }

    /// The number it is, where it is one without quotes.
    pub(super) fn number(&self) -> Option<i64> {
        match &self.node.value {
            Value::Scalar { text, plain: true } => text.parse().ok(),
            Value::Scalar { plain: false, .. } | Value::Null | Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    /// Whether it is null, `[]` or `{}`.
    pub(super) fn is_empty(&self) -> bool {
        match &self.node.value {
            Value::Null => true,
            Value::Scalar { .. } => false,
            Value::Sequence(nodes) => nodes.is_empty(),
            Value::Mapping(entries) => entries.is_empty(),
        }
    }

    /// Whether two values say the same, wherever they stand.
    pub(super) fn same(&self, other: &Self) -> bool {
        same(self.node, other.node)
    }

    /// The way to it.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Its last key or index: `from[1]`, `podSelector`.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    /// Where a finding about it points: a scalar or an item at itself, anything else at its key.
    pub(super) fn place(&self) -> Place {
        let own = matches!(self.node.value, Value::Scalar { .. }) && !self.at_key;
        let place = self.key.filter(|_| !own).unwrap_or(self.node.place);
        Place {
            line: place.line + self.before,
            column: place.column,
        }
    }

    /// The path of what stands at a place of the file.
    pub(super) fn path_at(&self, line: usize, column: usize) -> Option<String> {
        let line = line.checked_sub(self.before)?;
        self.node.find(Place { line, column }).map(|(path, _)| path)
    }
}

fn same(one: &Node, other: &Node) -> bool {
    match (&one.value, &other.value) {
        (Value::Mapping(a), Value::Mapping(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, value)| other.get(&key.text).is_some_and(|other| same(value, other)))
        }
        (Value::Sequence(a), Value::Sequence(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::tree::Tree;

    #[test]
    fn a_spot_knows_its_way_and_its_place() {
        let tree = Tree::read("a:\n  - b: 1\n    c: {d: [x, ~, y]}\n");
        let root = Spot::root(&tree.root, 10);
        let c = root.get("a").unwrap().items().remove(0).get("c").unwrap();
        let d = c.get("d").unwrap();
        assert_eq!((c.path(), c.name()), ("a[0].c", "c"));
        assert_eq!(c.place(), Place { line: 13, column: 5 }, "at its key");
        let items = d.items();
        assert_eq!(items.len(), 2, "null is nothing");
        assert_eq!(items[1].path(), "a[0].c.d[2]");
        assert_eq!(items[1].place(), Place { line: 13, column: 19 }, "at itself");
        assert_eq!(root.path_at(13, 19), Some("a[0].c.d[2]".to_owned()));
    }

    #[test]
    fn order_of_keys_and_places_do_not_matter() {
        let tree = Tree::read(
            "- {a: 1, b: {c: [x]}}\n- b:\n    c:\n    - x\n  a: 1\n- {a: 1}\n- {a: '1', b: {c: [x]}}\n",
        );
        let items = Spot::root(&tree.root, 0).items();
        assert!(items[0].same(&items[1]));
        assert!(!items[0].same(&items[2]) && !items[0].same(&items[3]));
    }
}
