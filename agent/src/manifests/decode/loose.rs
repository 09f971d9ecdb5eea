//! What can still be said of a document that is not understood.

use std::{path::Path, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{Decoder, strict::parse};
use crate::manifests::{
    Broken, DEFAULT_NAMESPACE, Isolation, Manifest, ObjectName,
    tree::{Node, Value},
};

impl Decoder<'_> {
    /// Notes what is known of a document whose syntax breaks somewhere. What was open there may say less than it was to
    /// say, and so means nothing.
    pub(super) fn cut_off(&mut self, root: &Node) {
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
    pub(super) fn broken(&mut self, node: &Node, kind: Option<&str>, lenient: Option<Manifest>) {
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
            file: self.path.to_owned(),
            line,
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
            lenient: lenient.map(Arc::new),
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
}

fn placeholder(path: &Path, line: usize) -> String {
    format!("{}:{line}", path.display())
}
