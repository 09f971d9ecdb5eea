//! One file into objects, strictly; and what can still be said where that fails.

use std::{ops::RangeInclusive, path::Path};

use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node as KubernetesNode, Pod, Service},
        networking::v1::NetworkPolicy,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use serde::de::DeserializeOwned;
use serde_saphyr::MessageFormatter as _;

use super::{
    Broken, DEFAULT_NAMESPACE, Document, File, Isolation, Manifest, ObjectName, Problem, fields,
    tree::{Node, Place, Segment, Tree, Value},
};

/// The kinds that are decoded, and the only version of each.
const KINDS: &[(&str, &str)] = &[
    ("Namespace", "v1"),
    ("Pod", "v1"),
    ("Node", "v1"),
    ("Service", "v1"),
    ("NetworkPolicy", "networking.k8s.io/v1"),
];

/// Decodes a file.
pub(super) fn file(path: &Path, bytes: &[u8]) -> File {
    let mut file = File {
        path: path.to_owned(),
        ..File::default()
    };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let good = &bytes[..error.valid_up_to()];
            let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
            let column = 1 + good.iter().rev().take_while(|byte| **byte != b'\n').count();
            file.errors.push(Problem {
                file: path.to_owned(),
                line,
                column,
                message: "expected UTF-8 text".to_owned(),
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
            self.broken(
                node,
                Some(fields::close(kind, &["NetworkPolicy"]).unwrap_or(kind)),
                None,
            );
            return;
        }
        match self.decode(node, &header) {
            Decoded::Good(object) => {
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
            _ => self.typed::<NetworkPolicy>(node, header, Manifest::NetworkPolicy),
        };
        if name.is_empty() && !matches!(decoded, Decoded::Bad) {
            let place = metadata.map_or(node.place, |metadata| metadata.place);
            self.problem(place, format!("{}: metadata.name is missing", header.kind));
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
                if let Some(place) = node.null_item().filter(|_| header.kind == "NetworkPolicy") {
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

    /// Notes what is known of a document whose syntax breaks somewhere. What was open there may say less than it was to
    /// say, and so means nothing.
    fn cut_off(&mut self, root: &Node) {
        let mut root = root.clone();
        let end = self.text.len();
        let whole =
            |node: Option<&Node>| node.is_some_and(|node| node.value != Value::Null && node.bytes.1 < end);
        let metadata = whole(root.get("metadata"));
        let selector = root.get("spec").and_then(|spec| spec.get("podSelector"));
        let keep_selector = selector.is_none() || whole(selector);
        if let Value::Mapping(entries) = &mut root.value {
            entries.retain(|(key, _)| match key.text.as_str() {
                "metadata" => metadata,
                "spec" => keep_selector,
                _ => true,
            });
        }
        self.broken(&root, None, None);
        let kind = root.get("kind").and_then(Node::text);
        if let Some(broken) = self.file.broken.last_mut()
            && !metadata
            && kind.is_none_or(|kind| kind == "NetworkPolicy")
        {
            *broken = Broken {
                line: broken.line,
                unreadable: true,
                ..Broken::default()
            };
        }
    }

    /// Notes what is known of a document that is not understood.
    fn broken(&mut self, node: &Node, kind: Option<&str>, lenient: Option<Manifest>) {
        let line = node.place.line + self.first_line - 1;
        let written = node.get("kind").and_then(Node::text);
        let kind = kind.or(written);
        let selector = node.get("spec").and_then(|spec| spec.get("podSelector"));
        let metadata = |key| {
            node.get("metadata")
                .and_then(|metadata| metadata.get(key))
                .and_then(Node::text)
        };
        let namespace = metadata("namespace")
            .filter(|name| !name.is_empty())
            .unwrap_or(DEFAULT_NAMESPACE);
        let name = metadata("name").filter(|name| !name.is_empty());
        let policy = match kind {
            Some(kind) => kind == "NetworkPolicy",
            None => selector.is_some(),
        };
        let isolates = policy.then(|| Isolation {
            namespace: namespace.to_owned(),
            name: name.map_or_else(|| placeholder(self.path, line), str::to_owned),
            pods: selector.and_then(|selector| self.selector(selector)),
        });
        let cluster_wide = matches!(kind, Some("Namespace" | "Node"));
        let namespace = if cluster_wide { "" } else { namespace };
        self.file.broken.push(Broken {
            line,
            name: kind.zip(name).map(|(kind, name)| ObjectName {
                kind: kind.to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
            unreadable: kind.is_none() && isolates.is_none() && !matches!(node.value, Value::Mapping(_)),
            isolates,
            lenient: lenient.map(Box::new),
        });
    }

    /// A selector, if all of it can be read.
    fn selector(&self, node: &Node) -> Option<LabelSelector> {
        if node.bytes.1 <= node.bytes.0 {
            return None;
        }
        let text = format!(
            "{}{}",
            " ".repeat(node.place.column - 1),
            &self.text[node.bytes.0..node.bytes.1]
        );
        let (selector, unknown) = parse::<LabelSelector>(&text).ok()?;
        unknown.is_empty().then_some(selector)
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

fn placeholder(path: &Path, line: usize) -> String {
    format!("{}:{line}", path.display())
}

fn check_kind(header: &Header<'_>) -> Result<(), (&'static str, String)> {
    let Header { kind, api_version } = *header;
    if let Some((_, version)) = KINDS.iter().find(|(known, _)| *known == kind) {
        // The same name in a group of its own is another kind: Knative's Service, Calico's NetworkPolicy.
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let expected = version.split_once('/').map_or("", |(group, _)| group);
        let same = group == expected || group.is_empty() || group == "extensions";
        if api_version != *version && same {
            return Err((
                "apiVersion",
                format!("expected apiVersion {version} for a {kind}, found {api_version}"),
            ));
        }
        return Ok(());
    }
    let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
    let ours = !api_version.contains('/') || api_version.starts_with("networking.k8s.io/");
    match fields::close(kind, &names) {
        Some(meant) if ours => Err(("kind", format!("unknown kind {kind} (did you mean {meant}?)"))),
        _ => Ok(()),
    }
}

fn unknown_field(kind: &str, path: &[Segment]) -> String {
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
fn describe(error: &serde_saphyr::Error) -> String {
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
fn parse<T: DeserializeOwned>(text: &str) -> Result<(T, Vec<Vec<Segment>>), serde_saphyr::Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: b}\n";

    fn read(text: &str) -> File {
        file(Path::new("f.yaml"), text.as_bytes())
    }

    /// The only error of a policy whose spec is this: line and column in the spec's text, and message.
    fn spec_error(spec: &str) -> (usize, usize, String) {
        let file = read(&format!("{HEAD}{spec}"));
        assert_eq!(file.documents, []);
        let [error] = file.errors.as_slice() else {
            panic!("{:?}", file.errors)
        };
        assert_eq!(error.excerpt.as_deref(), spec.lines().nth(error.line - 4));
        (error.line - 3, error.column, error.message.clone())
    }

    fn isolates(text: &str) -> (String, Option<LabelSelector>) {
        let file = read(text);
        let [broken] = file.broken.as_slice() else {
            panic!("{:?}", file.broken)
        };
        let isolation = broken.isolates.clone().unwrap_or_else(|| panic!("{broken:?}"));
        (isolation.namespace, isolation.pods)
    }

    #[test]
    fn errors_name_line_column_and_what_was_expected() {
        let cases = [
            (
                "spec:\n  ingresss: []\n",
                2,
                3,
                "unknown field spec.ingresss (did you mean ingress?)",
            ),
            (
                "spec:\n  ingress:\n  - from:\n    - colour: {}\n",
                4,
                7,
                "unknown field spec.ingress[0].from[0].colour (expected one of podSelector, namespaceSelector, ipBlock)",
            ),
            (
                "spec:\n  ingress:\n    - ports: [{protocol: TCP, port: [80], endPort: 90}]\n",
                3,
                37,
                "spec.ingress[0].ports[0].port: expected a number or a name, found sequence",
            ),
            (
                "spec:\n  podSelector: {matchLabels: {v: 1}}\n",
                2,
                34,
                "spec.podSelector.matchLabels.v: expected a string, found 1; if the text is meant, put it in quotes",
            ),
            (
                "spec:\n  podSelector: []\n",
                2,
                16,
                "spec.podSelector: expected a mapping",
            ),
            (
                "spec:\n  policyTypes: Ingress\n",
                2,
                16,
                "spec.policyTypes: expected a list",
            ),
            ("spec:\n  ingress: {}\n", 2, 12, "spec.ingress: expected a list"),
            (
                "spec:\n  egress:\n  - ports: [{port: 1, endPort: x}]\n",
                3,
                32,
                "spec.egress[0].ports[0].endPort: expected a whole number",
            ),
            (
                "spec:\n  ingress:\n  -\n",
                3,
                4,
                "expected a mapping, found an empty list item",
            ),
            ("spec: {}\nspec: {}\n", 2, 1, "spec: the key spec is there twice"),
            (
                "spec:\n\tpodSelector: {}\n",
                2,
                2,
                "tabs disallowed within this context (block indentation)",
            ),
        ];
        for (spec, line, column, message) in cases {
            assert_eq!(spec_error(spec), (line, column, message.to_owned()), "{spec}");
        }
    }

    #[test]
    fn places_count_from_the_start_of_the_file_and_in_characters() {
        let file = read(&format!(
            "# é\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: é}}\n---\n{HEAD}spec: {{ñ: 1}}\n"
        ));
        let [error] = file.errors.as_slice() else {
            panic!("{:?}", file.errors)
        };
        assert_eq!((error.line, error.column), (10, 8));
        let [pod] = file.documents.as_slice() else {
            panic!("{:?}", file.documents)
        };
        assert_eq!(pod.lines, 3..=5);
        assert_eq!(pod.object.object_name().name, "é");
    }

    #[test]
    fn a_broken_document_leaves_its_neighbours_alone() {
        let file = read(&format!("{HEAD}---\n{HEAD}spec: [\n---\n{HEAD}spec: {{}}\n"));
        assert_eq!(file.documents.len(), 2);
        assert_eq!(file.errors.len(), 1);
        assert_eq!(file.broken.len(), 1);
    }

    #[test]
    fn lists_are_their_items() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: é}\n\
                    - apiVersion: v1\n  kind: Namespace\n  metadata: {name: y, labells: {}}\n# end\n";
        let file = read(text);
        let [namespace] = file.documents.as_slice() else {
            panic!("{:?}", file.documents)
        };
        assert_eq!((namespace.lines.clone(), namespace.in_list), (4..=6, true));
        let [error] = file.errors.as_slice() else {
            panic!("{:?}", file.errors)
        };
        assert_eq!((error.line, error.column), (9, 23));
        assert_eq!(
            error.message,
            "unknown field metadata.labells (did you mean labels?)"
        );

        let text = "{\"apiVersion\":\"v1\",\"kind\":\"PodList\",\"items\":[{\"metadata\":{\"name\":\"p\"}},\n\
                    \t{\"metadata\":{\"name\":\"q\"},\"spec\":{\"nodename\":\"x\",\"containers\":[]}}]}\n";
        let file = read(text);
        assert_eq!(file.documents.len(), 1);
        assert_eq!(file.documents[0].object.kind(), "Pod");
        let [error] = file.errors.as_slice() else {
            panic!("{:?}", file.errors)
        };
        assert_eq!((error.line, error.column), (2, 35));
        assert!(file.broken[0].lenient.is_some());
    }

    #[test]
    fn comments_and_empty_documents_are_nothing() {
        for text in ["", "---\n", "# only words\n---\n...\n", "%YAML 1.2\n---\n# x\n"] {
            assert_eq!(
                read(text),
                File {
                    path: "f.yaml".into(),
                    ..File::default()
                },
                "{text}"
            );
        }
    }

    #[test]
    fn other_kinds_are_named_and_not_looked_at() {
        let file = read(
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x}\nspec: {any: thing}\n",
        );
        assert_eq!(file.errors, []);
        assert!(matches!(&file.documents[0].object, Manifest::Other { kind, .. } if kind == "Service"));
    }

    #[test]
    fn kinds_and_versions_that_were_meant_are_told() {
        let file = read(&HEAD.replace("NetworkPolicy", "Networkpolicy"));
        assert_eq!(
            file.errors[0].message,
            "unknown kind Networkpolicy (did you mean NetworkPolicy?)"
        );
        assert!(file.broken[0].isolates.is_some(), "it would have been a policy");
        let file = read(&HEAD.replace("/v1", "/v1beta1"));
        assert_eq!((file.errors[0].line, file.errors[0].column), (1, 13));
        assert!(
            file.errors[0]
                .message
                .contains("expected apiVersion networking.k8s.io/v1")
        );
        assert!(file.broken[0].isolates.is_some());
    }

    #[test]
    fn a_broken_policy_isolates_what_it_selects() {
        let selector = |value: &str| LabelSelector {
            match_labels: Some([("app".to_owned(), value.to_owned())].into()),
            ..LabelSelector::default()
        };
        let good = "spec:\n  podSelector: {matchLabels: {app: x}}\n";
        let unknown = format!("{HEAD}{good}  ingresss: []\n");
        assert_eq!(isolates(&unknown), ("b".to_owned(), Some(selector("x"))));
        let wrong_type = format!("{HEAD}{good}  ingress: 7\n");
        assert_eq!(isolates(&wrong_type), ("b".to_owned(), Some(selector("x"))));
        let syntax = format!("{HEAD}{good}  ingress: [\n");
        assert_eq!(isolates(&syntax), ("b".to_owned(), Some(selector("x"))));
        let no_kind = format!("{}{good}", HEAD.replace("kind: NetworkPolicy\n", ""));
        assert_eq!(isolates(&no_kind), ("b".to_owned(), Some(selector("x"))));
    }

    #[test]
    fn a_selector_that_can_not_be_read_in_full_isolates_the_namespace() {
        for spec in [
            "spec:\n  podSelector: {matchLabel: {app: x}}\n",
            "spec:\n  podSelector: 5\n",
            "spec:\n  podSelector:\n    matchLabels:\n      app: x\n      tier: [\n",
            "spec: {podSelector: {matchLabels: {app: x",
            "spec: 5\n",
        ] {
            assert_eq!(
                isolates(&format!("{HEAD}{spec}")),
                ("b".to_owned(), None),
                "{spec}"
            );
        }
    }

    #[test]
    fn what_may_have_been_a_policy_of_any_namespace_is_unreadable() {
        for text in [
            "{",
            "kind: NetworkPolicy\nmetadata: {name: x",
            "some words\n",
            "- a\n",
            "\u{0}\u{1}",
        ] {
            assert!(
                read(text).broken.iter().any(|broken| broken.unreadable),
                "{text:?}"
            );
        }
        assert!(file(Path::new("x"), b"kind: \xff\n").broken[0].unreadable);
        // Of these it is known that they are no policy.
        for text in ["a: b\n", "kind: ConfigMap\ndata: [\n"] {
            assert!(
                read(text).broken.iter().all(|broken| !broken.unreadable),
                "{text:?}"
            );
        }
    }

    #[test]
    fn numbers_are_quantities_and_y_is_a_name() {
        let file = read(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: y, creationTimestamp: null, labels: {pod: n}}\n\
             spec: {containers: [{name: x, image: i, resources: {limits: {cpu: 1, memory: 1Gi}}}]}\n\
             status: {startTime: 2024-01-01T00:00:00Z, podIPs: [{ip: 10.0.0.1}]}\n",
        );
        assert_eq!(file.errors, []);
    }
}
