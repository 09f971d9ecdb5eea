//! A YAML document as a tree of places: where each key and value stands.
//!
//! The typed decoder says what an object means; this says where. It also serves when the typed decoder gives up: up to
//! a syntax error the tree holds what was read, so that a broken policy can still isolate what it selects.

use std::collections::BTreeMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};

/// Most nodes that aliases may copy; beyond it they read as null.
const MAX_COPIES: usize = 100_000;

/// Deepest nesting that is followed.
const MAX_DEPTH: usize = 64;

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Line in the text.
    pub(crate) line: usize,
    /// Column, in characters.
    pub(crate) column: usize,
}

/// A value and where it starts and ends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// Where it starts.
    pub(crate) place: Place,
    /// Byte offsets in the text, end exclusive; 0 and 0 where the parser gave none.
    pub(crate) bytes: (usize, usize),
    /// What it is.
    pub(crate) value: Value,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Absent, `~` or `null`.
    Null,
    /// A scalar, with quotes or without.
    Scalar {
        /// Its text.
        text: String,
        /// Written without quotes: may be a number or a boolean.
        plain: bool,
    },
    /// A sequence.
    Sequence(Vec<Node>),
    /// A mapping, in the order of the text.
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    /// Its text.
    pub(crate) text: String,
    /// Where it stands.
    pub(crate) place: Place,
}

/// A step into a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// To the value of a key.
    Key(String),
    /// To an element of a sequence.
    Index(usize),
}

/// What could be read of a text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tree {
    /// The first document's value; null where there is none.
    pub(crate) root: Node,
    /// Where the syntax broke, and how.
    pub(crate) error: Option<(Place, String)>,
}

impl Tree {
    /// Reads the first document of a text.
    pub(crate) fn read(text: &str) -> Self {
        let mut builder = Builder::default();
        let mut parser = Parser::new_from_str(text);
        let mut error = None;
        while let Some(event) = parser.next_event() {
            match event {
                Ok((Event::DocumentEnd, _)) => break,
                Ok((event, span)) => builder.event(event, &span),
                Err(cause) => {
                    let marker = cause.marker();
                    let place = Place {
                        line: marker.line().max(1),
                        column: marker.col() + 1,
                    };
                    error = Some((place, cause.kind().to_string()));
                    break;
                }
            }
        }
        Self {
            root: builder.finish(text.len()),
            error,
        }
    }
}

impl Node {
    fn null(place: Place) -> Self {
        Self {
            place,
            bytes: (0, 0),
            value: Value::Null,
        }
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|(_, value)| value)
    }

    /// A key and its value.
    pub(crate) fn entry(&self, key: &str) -> Option<(&Key, &Self)> {
        match &self.value {
            Value::Mapping(entries) => entries
                .iter()
                .find(|(name, _)| name.text == key)
                .map(|(name, value)| (name, value)),
            Value::Null | Value::Scalar { .. } | Value::Sequence(_) => None,
        }
    }

    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::Null | Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    /// The elements of a sequence.
    pub(crate) fn elements(&self) -> Option<&[Self]> {
        match &self.value {
            Value::Sequence(nodes) => Some(nodes),
            Value::Null | Value::Scalar { .. } | Value::Mapping(_) => None,
        }
    }

    /// Where a path leads: the place of its last key, or of the last step that could be found.
    pub(crate) fn locate(&self, path: &[Segment]) -> Place {
        let mut node = self;
        let mut place = self.place;
        for segment in path {
            let next = match segment {
                Segment::Key(key) => node.entry(key).map(|(key, value)| (key.place, value)),
                Segment::Index(index) => node
                    .elements()
                    .and_then(|nodes| nodes.get(*index))
                    .map(|node| (node.place, node)),
            };
            let Some((found, value)) = next else { break };
            place = found;
            node = value;
        }
        place
    }

    /// The value that starts at a place, or whose key does: its path as people write it, and its own place.
    pub(crate) fn find(&self, place: Place) -> Option<(String, Place)> {
        let inner = match &self.value {
            Value::Null | Value::Scalar { .. } => None,
            Value::Sequence(nodes) => nodes.iter().enumerate().find_map(|(index, node)| {
                node.find(place)
                    .map(|(rest, at)| (join(&format!("[{index}]"), &rest), at))
            }),
            Value::Mapping(entries) => entries.iter().find_map(|(key, node)| {
                if key.place == place {
                    return Some((key.text.clone(), node.place));
                }
                node.find(place).map(|(rest, at)| (join(&key.text, &rest), at))
            }),
        };
        inner.or_else(|| (self.place == place).then(|| (String::new(), place)))
    }

    /// Where a list has an empty item.
    pub(crate) fn null_item(&self) -> Option<Place> {
        match &self.value {
            Value::Null | Value::Scalar { .. } => None,
            Value::Sequence(nodes) => {
                let empty = nodes
                    .iter()
                    .find(|node| node.value == Value::Null)
                    .map(|node| node.place);
                empty.or_else(|| nodes.iter().find_map(Self::null_item))
            }
            Value::Mapping(entries) => entries.iter().find_map(|(_, node)| node.null_item()),
        }
    }

    fn size(&self) -> usize {
        1 + match &self.value {
            Value::Null | Value::Scalar { .. } => 0,
            Value::Sequence(nodes) => nodes.iter().map(Self::size).sum(),
            Value::Mapping(entries) => entries.iter().map(|(_, node)| node.size()).sum(),
        }
    }
}

fn join(first: &str, rest: &str) -> String {
    let dot = if rest.is_empty() || rest.starts_with('[') {
        ""
    } else {
        "."
    };
    format!("{first}{dot}{rest}")
}

/// A collection that is not closed yet.
struct Open {
    node: Node,
    anchor: usize,
    /// The key that waits for its value.
    key: Option<Key>,
}

#[derive(Default)]
struct Builder {
    stack: Vec<Open>,
    root: Option<Node>,
    anchors: BTreeMap<usize, Node>,
    copied: usize,
    /// Collections open beyond [`MAX_DEPTH`]; their content is left out.
    too_deep: usize,
}

impl Builder {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other events carry no value")]
    fn event(&mut self, event: Event<'_>, span: &Span) {
        let place = Place {
            line: span.start.line().max(1),
            column: span.start.col() + 1,
        };
        let bytes = (
            span.start.byte_offset().unwrap_or(0),
            span.end.byte_offset().unwrap_or(0),
        );
        match event {
            Event::SequenceStart(_, anchor, _) => {
                self.open(Value::Sequence(Vec::new()), place, bytes, anchor)
            }
            Event::MappingStart(_, anchor, _) => self.open(Value::Mapping(Vec::new()), place, bytes, anchor),
            Event::SequenceEnd | Event::MappingEnd => self.close(bytes.1),
            Event::Scalar(text, style, anchor, _) => {
                let plain = style == ScalarStyle::Plain;
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null {
                    Value::Null
                } else {
                    Value::Scalar {
                        text: text.into_owned(),
                        plain,
                    }
                };
                self.add(Node { place, bytes, value }, anchor);
            }
            Event::Alias(anchor) => {
                let copy = self.anchors.get(&anchor).cloned();
                self.copied += copy.as_ref().map_or(0, Node::size);
                let copy = copy.filter(|_| self.copied <= MAX_COPIES);
                self.add(
                    copy.map_or_else(|| Node::null(place), |node| Node { place, ..node }),
                    0,
                );
            }
            _ => {}
        }
    }

    fn open(&mut self, value: Value, place: Place, bytes: (usize, usize), anchor: usize) {
        if self.stack.len() >= MAX_DEPTH {
            self.too_deep += 1;
            return;
        }
        self.stack.push(Open {
            node: Node { place, bytes, value },
            anchor,
            key: None,
        });
    }

    fn close(&mut self, end: usize) {
        if self.too_deep > 0 {
            self.too_deep -= 1;
            if self.too_deep == 0 {
                // Keeps keys and values in step.
                let place = self
                    .stack
                    .last()
                    .map_or(Place { line: 1, column: 1 }, |open| open.node.place);
                self.too_deep = 0;
                self.add(Node::null(place), 0);
            }
            return;
        }
        if let Some(Open { mut node, anchor, .. }) = self.stack.pop() {
            node.bytes.1 = end.max(node.bytes.0);
            self.add(node, anchor);
        }
    }

    fn add(&mut self, node: Node, anchor: usize) {
        if self.too_deep > 0 {
            return;
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.stack.last_mut() else {
            self.root.get_or_insert(node);
            return;
        };
        match &mut open.node.value {
            Value::Sequence(nodes) => nodes.push(node),
            Value::Mapping(entries) => match open.key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let text = node.text().unwrap_or_default().to_owned();
                    open.key = Some(Key {
                        text,
                        place: node.place,
                    });
                }
            },
            Value::Null | Value::Scalar { .. } => {}
        }
    }

    /// Closes what a syntax error left open.
    fn finish(mut self, end: usize) -> Node {
        self.too_deep = 0;
        while !self.stack.is_empty() {
            self.close(end);
        }
        self.root
            .unwrap_or_else(|| Node::null(Place { line: 1, column: 1 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Segment {
        Segment::Key(text.to_owned())
    }

    #[test]
    fn places_are_those_of_the_text() {
        let tree = Tree::read("a:\n  - b: 1\n    c: {d: [x, 'y']}\n");
        assert_eq!(tree.error, None);
        let d = [key("a"), Segment::Index(0), key("c"), key("d")];
        assert_eq!(tree.root.locate(&d), Place { line: 3, column: 9 });
        let y = [key("a"), Segment::Index(0), key("c"), key("d"), Segment::Index(1)];
        assert_eq!(tree.root.locate(&y), Place { line: 3, column: 16 });
    }

    #[test]
    fn a_missing_step_leaves_the_last_place() {
        let tree = Tree::read("a:\n  b: 1\n");
        assert_eq!(
            tree.root.locate(&[key("a"), key("z"), key("y")]),
            Place { line: 1, column: 1 }
        );
    }

    #[test]
    fn what_stands_before_a_syntax_error_is_kept() {
        let tree =
            Tree::read("kind: NetworkPolicy\nmetadata: {name: x, namespace: n}\nspec: {podSelector: {\n");
        assert!(tree.error.is_some());
        assert_eq!(tree.root.get("kind").and_then(Node::text), Some("NetworkPolicy"));
        assert_eq!(
            tree.root
                .get("metadata")
                .and_then(|m| m.get("name"))
                .and_then(Node::text),
            Some("x")
        );
    }

    #[test]
    fn aliases_are_followed_and_bombs_are_not() {
        let tree = Tree::read("a: &x {k: v}\nb: *x\n");
        assert_eq!(
            tree.root.get("b").and_then(|b| b.get("k")).and_then(Node::text),
            Some("v")
        );
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..12 {
            let p = i - 1;
            bomb += &format!("a{i}: &a{i} [*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p}]\n");
        }
        assert!(Tree::read(&bomb).root.size() < 1_000_000);
    }

    #[test]
    fn deep_nesting_ends_somewhere() {
        let text = format!("a: {}{}\nb: 1\n", "[".repeat(200), "]".repeat(200));
        let tree = Tree::read(&text);
        if tree.error.is_none() {
            assert_eq!(tree.root.get("b").and_then(Node::text), Some("1"));
        }
        let block = (0..100)
            .map(|i| format!("{}k:\n", " ".repeat(i)))
            .collect::<String>();
        let _ = Tree::read(&block);
    }
}
