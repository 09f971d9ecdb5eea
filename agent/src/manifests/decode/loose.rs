//! What can still be said of a document that is not understood.

use std::{path::Path, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{Decoder, POLICIES, strict::parse};
use crate::{
    k8s::{cluster_network_policy as cluster, convert::MODE},
    manifests::{
        Broken, DEFAULT_NAMESPACE, Isolated, Isolation, Manifest, ObjectName,
        tree::{Node, Value},
    },
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
        let selector = ["podSelector", "subject"]
            .iter()
            .find_map(|key| root.get("spec").and_then(|spec| spec.get(key)));
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
            && kind.is_none_or(|kind| POLICIES.contains(&kind))
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
        let metadata = |key| {
            node.get("metadata")
                .and_then(|metadata| metadata.get(key))
                .and_then(Node::text)
        };
        let namespace = metadata("namespace")
            .filter(|name| !name.is_empty())
            .unwrap_or(DEFAULT_NAMESPACE);
        let name = metadata("name").filter(|name| !name.is_empty());
        let isolates = self.isolated(node, kind, namespace).map(|of| Isolation {
            file: self.path.to_owned(),
            line,
            name: name.map_or_else(|| placeholder(self.path, line), str::to_owned),
            of,
        });
        let cluster_wide = matches!(kind, Some("Namespace" | "Node" | cluster::KIND));
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

    /// The pods it isolates, if it is or may be a policy.
    fn isolated(&self, node: &Node, kind: Option<&str>, namespace: &str) -> Option<Isolated> {
        let spec = |key| node.get("spec").and_then(|spec| spec.get(key));
        let group = node
            .get("apiVersion")
            .and_then(Node::text)
            .and_then(|version| version.split_once('/'));
        let kind = kind.or_else(|| match group {
            Some((cluster::GROUP, _)) => Some(cluster::KIND),
            // Other kinds have a subject too, but no tier.
            _ if spec("subject").is_some() && spec("tier").is_some() => Some(cluster::KIND),
            _ => spec("podSelector").map(|_| "NetworkPolicy"),
        })?;
        match kind {
            "NetworkPolicy" => Some(Isolated::NetworkPolicy {
                namespace: namespace.to_owned(),
                pods: spec("podSelector").and_then(|selector| self.selector(selector)),
            }),
            cluster::KIND => {
                let (namespaces, pods) = spec("subject").map_or((None, None), |node| self.subject(node));
                let mode = node
                    .get("metadata")
                    .and_then(|metadata| metadata.get("annotations"))
                    .and_then(|annotations| annotations.get(MODE))
                    .and_then(Node::text);
                Some(Isolated::ClusterNetworkPolicy {
                    namespaces,
                    pods,
                    mode: mode.map(str::to_owned),
                })
            }
            _ => None,
        }
    }

    /// Selectors of the namespaces and the pods that a ClusterNetworkPolicy acts on; `None` for all of them. A subject
    /// that says more than one thing may mean any pod.
    fn subject(&self, node: &Node) -> (Option<LabelSelector>, Option<LabelSelector>) {
        let Value::Mapping(entries) = &node.value else {
            return (None, None);
        };
        let [(key, value)] = entries.as_slice() else {
            return (None, None);
        };
        match (key.text.as_str(), &value.value) {
            ("namespaces", _) => (self.selector(value), None),
            ("pods", Value::Mapping(selectors))
                if selectors
                    .iter()
                    .all(|(key, _)| matches!(&*key.text, "namespaceSelector" | "podSelector")) =>
            {
                let read = |key| value.get(key).and_then(|selector| self.selector(selector));
                (read("namespaceSelector"), read("podSelector"))
            }
            _ => (None, None),
        }
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
