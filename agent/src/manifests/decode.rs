//! One file into objects, strictly; and what can still be said where that fails.

mod loose;
mod strict;
#[cfg(test)]
mod tests;

use std::{ops::RangeInclusive, path::Path, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Namespace, Node as KubernetesNode, Pod, Service},
    networking::v1::NetworkPolicy,
};
use serde::de::DeserializeOwned;

use self::strict::{describe, parse, unknown_field};
use super::{
    Broken, Document, File, Manifest, Problem, fields,
    tree::{Node, Place, Segment, Tree, Value},
};
use crate::k8s::cluster_network_policy::{self as cluster, ClusterNetworkPolicy};

/// The kinds that are decoded, and the only version of each.
const KINDS: &[(&str, &str)] = &[
    ("Namespace", "v1"),
    ("Pod", "v1"),
    ("Node", "v1"),
    ("Service", "v1"),
    ("NetworkPolicy", "networking.k8s.io/v1"),
    (cluster::KIND, cluster::API_VERSION),
];

/// The kinds that isolate pods while they can not be read.
const POLICIES: &[&str] = &["NetworkPolicy", cluster::KIND];

/// The reader's time grows with the square of a line's length. No object that an API server has stored needs a longer one:
/// etcd takes 1.5 MiB at most.
const MAX_LINE: usize = 2 << 20;

/// Decodes a file.
pub(super) fn file(path: &Path, bytes: &[u8]) -> File {
    let mut file = File {
        path: path.to_owned(),
        ..File::default()
    };
    let text = match text(bytes) {
        Ok(text) => text,
        Err((line, column, message)) => {
            file.errors.push(Problem {
                file: path.to_owned(),
                line,
                column,
                message,
                excerpt: None,
            });
            file.broken.push(Broken {
                line: 1,
                unreadable: true,
                ..Broken::default()
            });
            return file;
        }
    };
    for (first_line, chunk) in split(text) {
        let mut decoder = Decoder {
            path,
            text: chunk,
            first_line,
            file: &mut file,
        };
        decoder.document();
    }
    file
}

/// The text of a file; or line, column and what is wrong there.
fn text(bytes: &[u8]) -> Result<&str, (usize, usize, String)> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        let column = 1 + good.iter().rev().take_while(|byte| **byte != b'\n').count();
        (line, column, "expected UTF-8 text".to_owned())
    })?;
    let long = text.lines().zip(1..).find(|(line, _)| line.len() > MAX_LINE);
    if let Some((line, number)) = long {
        let message = format!(
            "expected lines of at most {} MiB, found {} MiB in one; JSON is broken into lines by: jq .",
            MAX_LINE >> 20,
            line.len() >> 20
        );
        return Err((number, 1, message));
    }
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// The documents of a text, each with the number of its first line. Document markers stand at the start of a line
/// wherever they are, also inside block scalars (YAML 1.2, 9.1.2), so lines are all that need be looked at.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut chunks = Vec::new();
    let (mut start, mut first_line, mut offset) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marker = |mark: &str| {
            line.strip_prefix(mark)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        };
        if marker("---") && offset > start {
            chunks.push((first_line, &text[start..offset]));
            (start, first_line) = (offset, index + 1);
        } else if marker("...") {
            chunks.push((first_line, &text[start..offset]));
            (start, first_line) = (offset + line.len(), index + 2);
        }
        offset += line.len();
    }
    chunks.push((first_line, &text[start.min(text.len())..]));
    chunks.retain(|(_, chunk)| {
        chunk.lines().any(|line| {
            let content = line.strip_prefix("---").unwrap_or(line).trim();
            !content.is_empty() && !content.starts_with('#') && !content.starts_with('%')
        })
    });
    chunks
}

/// The documents of a text as trees, each with the number of its first line.
pub(super) fn trees(text: &str) -> Vec<(usize, Tree)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = split(text).into_iter();
    documents
        .map(|(line, document)| (line, Tree::read(document)))
        .collect()
}

/// What an object says of itself.
struct Header<'a> {
    kind: &'a str,
    api_version: &'a str,
}

/// What came of one object.
enum Decoded {
    Good(Manifest),
    /// Wrong only in fields that nobody knows.
    Lenient(Manifest),
    Bad,
}

struct Decoder<'a> {
    path: &'a Path,
    /// The document.
    text: &'a str,
    /// Number of its first line in the file.
    first_line: usize,
    file: &'a mut File,
}

impl Decoder<'_> {
    fn document(&mut self) {
        let tree = Tree::read(self.text);
        if let Some((place, message)) = tree.error {
            self.problem(place, message);
            self.cut_off(&tree.root);
            return;
        }
        let root = &tree.root;
        match &root.value {
            Value::Null => {}
            Value::Scalar { .. } | Value::Sequence(_) => {
                let found = if root.text().is_some() {
                    "a plain value"
                } else {
                    "a sequence"
                };
                self.problem(
                    root.place,
                    format!("expected a Kubernetes object (apiVersion, kind, ...), found {found}"),
                );
                self.broken(root, None, None);
            }
            Value::Mapping(_) => {
                let kind = root.get("kind").and_then(Node::text).unwrap_or_default();
                let items = root.get("items").and_then(Node::elements);
                match (kind.strip_suffix("List"), items) {
                    (Some(of), Some(items)) => {
                        let version = root.get("apiVersion").and_then(Node::text).unwrap_or_default();
                        let header = Some(Header {
                            kind: of,
                            api_version: version,
                        })
                        .filter(|_| !of.is_empty());
                        for item in items {
                            self.object(item, header.as_ref(), true);
                        }
                    }
                    (Some(_), None) if root.get("items").is_none_or(|items| items.value == Value::Null) => {}
                    _ => self.object(root, None, false),
                }
            }
        }
    }

    fn object(&mut self, node: &Node, of_list: Option<&Header<'_>>, in_list: bool) {
        let own = |key: &str| node.get(key).and_then(Node::text).filter(|text| !text.is_empty());
        let kind = own("kind").or(of_list.map(|list| list.kind));
        let api_version = own("apiVersion").or(of_list.map(|list| list.api_version));
        let (Some(kind), Some(api_version)) = (kind, api_version) else {
            let missing = if kind.is_none() { "kind" } else { "apiVersion" };
            self.problem(
                node.place,
                format!("expected a Kubernetes object: {missing} is missing"),
            );
            self.broken(node, kind, None);
            return;
        };
        let header = Header { kind, api_version };
        if let Err((key, message)) = check_kind(&header) {
            let place = node.entry(key).map_or(node.place, |(_, value)| value.place);
            self.problem(place, message);
            self.broken(node, Some(fields::close(kind, POLICIES).unwrap_or(kind)), None);
            return;
        }
        match self.decode(node, &header) {
            Decoded::Good(object) => {
                let object = Arc::new(object);
                let lines = self.lines(node, in_list);
                self.file.documents.push(Document {
                    object,
                    lines,
                    in_list,
                });
            }
            Decoded::Lenient(object) => self.broken(node, Some(kind), Some(object)),
            Decoded::Bad => self.broken(node, Some(kind), None),
        }
    }

    fn decode(&mut self, node: &Node, header: &Header<'_>) -> Decoded {
        let known = KINDS.contains(&(header.kind, header.api_version));
        let metadata = node.get("metadata");
        let name = metadata
            .and_then(|metadata| metadata.get("name"))
            .and_then(Node::text)
            .unwrap_or_default();
        if !known {
            let namespace = metadata
                .and_then(|metadata| metadata.get("namespace"))
                .and_then(Node::text);
            return Decoded::Good(Manifest::Other {
                api_version: header.api_version.to_owned(),
                kind: header.kind.to_owned(),
                namespace: namespace.map(str::to_owned),
                name: name.to_owned(),
            });
        }
        let decoded = match header.kind {
            "Namespace" => self.typed::<Namespace>(node, header, Manifest::Namespace),
            "Pod" => self.typed::<Pod>(node, header, Manifest::Pod),
            "Node" => self.typed::<KubernetesNode>(node, header, Manifest::Node),
            "Service" => self.typed::<Service>(node, header, Manifest::Service),
            cluster::KIND => {
                let decoded =
                    self.typed::<ClusterNetworkPolicy>(node, header, Manifest::ClusterNetworkPolicy);
                self.usable(node, decoded)
            }
            _ => self.typed::<NetworkPolicy>(node, header, Manifest::NetworkPolicy),
        };
        if name.is_empty() && !matches!(decoded, Decoded::Bad) {
            let place = metadata.map_or(node.place, |metadata| metadata.place);
            self.problem(place, format!("{}: metadata.name is missing", header.kind));
            return Decoded::Bad;
        }
        decoded
    }

    /// A ClusterNetworkPolicy that can not be followed even in part counts as not understood, so that its last good
    /// version stays.
    fn usable(&mut self, node: &Node, decoded: Decoded) -> Decoded {
        if let Decoded::Good(Manifest::ClusterNetworkPolicy(object)) = &decoded
            && let Err(unusable) = object.check()
        {
            let keys = unusable.field.iter().copied();
            let path: Vec<_> = keys.map(|key| Segment::Key(key.to_owned())).collect();
            self.problem(node.locate(&path), unusable.message);
            return Decoded::Bad;
        }
        decoded
    }

    fn typed<T: DeserializeOwned>(
        &mut self,
        node: &Node,
        header: &Header<'_>,
        wrap: fn(T) -> Manifest,
    ) -> Decoded {
        // Spaces up to the object keep its columns.
        let text = format!(
            "{}{}",
            " ".repeat(node.place.column - 1),
            &self.text[node.bytes.0..node.bytes.1]
        );
        match parse::<T>(&text) {
            Ok((object, unknown)) => {
                // An empty item would read as an empty rule, which allows everything.
                if let Some(place) = node.null_item().filter(|_| POLICIES.contains(&header.kind)) {
                    self.problem(place, "expected a mapping, found an empty list item".to_owned());
                    return Decoded::Bad;
                }
                if unknown.is_empty() {
                    return Decoded::Good(wrap(object));
                }
                for path in unknown {
                    let message = unknown_field(header.kind, &path);
                    self.problem(node.locate(&path), message);
                }
                Decoded::Lenient(wrap(object))
            }
            Err(error) => {
                let place = error.location().map_or(node.place, |location| Place {
                    line: usize::try_from(location.line()).unwrap_or(1) + node.place.line - 1,
                    column: usize::try_from(location.column()).unwrap_or(1),
                });
                let message = describe(error.without_snippet());
                let twice = matches!(
                    error.without_snippet(),
                    serde_saphyr::Error::DuplicateMappingKey { .. }
                );
                let (path, value) = node.find(place).unwrap_or((String::new(), place));
                let message = if path.is_empty() {
                    message
                } else {
                    format!("{path}: {message}")
                };
                let place = if twice { place } else { value };
                self.problem(place, message);
                Decoded::Bad
            }
        }
    }

    fn problem(&mut self, place: Place, message: String) {
        let excerpt = self
            .text
            .lines()
            .nth(place.line - 1)
            .map(|line| line.trim_end().to_owned());
        self.file.errors.push(Problem {
            file: self.path.to_owned(),
            line: place.line + self.first_line - 1,
            column: place.column,
            message,
            excerpt,
        });
    }

    fn lines(&self, node: &Node, in_list: bool) -> RangeInclusive<usize> {
        let (first, body) = if in_list {
            (node.place.line, &self.text[node.bytes.0..node.bytes.1])
        } else {
            let lines = self.text.lines();
            let skipped = lines.take_while(|line| matches!(line.trim(), "" | "---")).count();
            let start: usize = self.text.split_inclusive('\n').take(skipped).map(str::len).sum();
            (1 + skipped, &self.text[start..])
        };
        let last = first + body.trim_end().matches('\n').count();
        let offset = self.first_line - 1;
        first + offset..=last + offset
    }
}

fn check_kind(header: &Header<'_>) -> Result<(), (&'static str, String)> {
    let Header { kind, api_version } = *header;
    let group = |version: &str| version.split_once('/').map_or("", |(group, _)| group).to_owned();
    if let Some((_, version)) = KINDS.iter().find(|(known, _)| *known == kind) {
        let written = group(api_version);
        // The same name in a group of its own is another kind: Knative's Service, Calico's NetworkPolicy.
        let same = match kind {
            // Another version is one that nobody here has read; conversion says that it is not enforced.
            cluster::KIND => written.is_empty() || written == "networking.k8s.io",
            _ => written == group(version) || written.is_empty() || written == "extensions",
        };
        if api_version != *version && same {
            return Err((
                "apiVersion",
                format!("expected apiVersion {version} for a {kind}, found {api_version}"),
            ));
        }
        return Ok(());
    }
    let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
    let ours = matches!(&*group(api_version), "" | "networking.k8s.io" | cluster::GROUP);
    match fields::close(kind, &names) {
        Some(meant) if ours => Err(("kind", format!("unknown kind {kind} (did you mean {meant}?)"))),
        _ => Ok(()),
    }
}
