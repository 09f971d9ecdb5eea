//! The objects of a text, each with its places.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::spot::Spot;
use crate::manifests::{self, DEFAULT_NAMESPACE, Texts, tree::Tree};

/// Annotation that silences codes on its object, separated by commas.
pub(super) const IGNORE: &str = "vethwall.io/lint-ignore";

/// Kinds that stand in no namespace.
const CLUSTER_WIDE: &[&str] = &[
    "Namespace",
    "Node",
    "ClusterNetworkPolicy",
    "AdminNetworkPolicy",
    "BaselineAdminNetworkPolicy",
    "CiliumClusterwideNetworkPolicy",
    "GlobalNetworkPolicy",
];

/// API group of ClusterNetworkPolicies.
const CLUSTER_GROUP: &str = "policy.networking.k8s.io";

/// A document of a file.
pub(super) struct Document {
    file: PathBuf,
    /// Lines of the file before it.
    before: usize,
    tree: Tree,
}

/// An object and where it stands.
pub(super) struct Object<'a> {
    /// Its file.
    pub(super) file: &'a Path,
    /// `kind`.
    pub(super) kind: &'a str,
    /// The group of `apiVersion`; empty for the core.
    pub(super) group: &'a str,
    /// Its namespace; empty where the kind has none.
    pub(super) namespace: &'a str,
    /// Its name.
    pub(super) name: &'a str,
    /// All of it.
    pub(super) root: Spot<'a>,
    /// Codes it silences.
    ignores: BTreeSet<&'a str>,
}

/// The documents of all files.
pub(super) fn documents(texts: &Texts) -> Vec<Document> {
    let mut all = Vec::new();
    for (file, bytes) in texts {
        // What is no text is told by the decoder.
        let Ok(text) = std::str::from_utf8(bytes) else {
            continue;
        };
        all.extend(manifests::trees(text).into_iter().map(|(line, tree)| Document {
            file: file.clone(),
            before: line - 1,
            tree,
        }));
    }
    all
}

/// The objects of the documents. What was cut off by a syntax error says less than it was to say, and is left out.
pub(super) fn objects(documents: &[Document]) -> Vec<Object<'_>> {
    let mut all = Vec::new();
    for document in documents.iter().filter(|document| document.tree.error.is_none()) {
        let root = Spot::root(&document.tree.root, document.before);
        let kind = root.text_of("kind").unwrap_or_default();
        let items = root.entry("items");
        match (kind.strip_suffix("List"), items) {
            (Some(of), Some(_)) => {
                let version = root.text_of("apiVersion").unwrap_or_default();
                let nodes = document.tree.root.get("items").and_then(|items| items.elements());
                let items = nodes.unwrap_or_default().iter();
                // An item's paths begin at itself.
                let spots = items.map(|node| Spot::root(node, document.before));
                all.extend(spots.filter_map(|spot| object(&document.file, spot, of, version)));
            }
            _ => all.extend(object(&document.file, root, "", "")),
        }
    }
    all
}

fn object<'a>(
    file: &'a Path,
    root: Spot<'a>,
    default_kind: &'a str,
    default_version: &'a str,
) -> Option<Object<'a>> {
    let kind = root.text_of("kind").unwrap_or(default_kind);
    let version = root.text_of("apiVersion").unwrap_or(default_version);
    if kind.is_empty() {
        return None;
    }
    let metadata = |key| root.at(&["metadata", key]).and_then(|spot| spot.text());
    let namespace = metadata("namespace").filter(|name| !name.is_empty());
    let ignores = root
        .at(&["metadata", "annotations", IGNORE])
        .and_then(|spot| spot.text());
    Some(Object {
        file,
        kind,
        group: version.split_once('/').map_or("", |(group, _)| group),
        namespace: if CLUSTER_WIDE.contains(&kind) {
            ""
        } else {
            namespace.unwrap_or(DEFAULT_NAMESPACE)
        },
        name: metadata("name").unwrap_or_default(),
        ignores: ignores.into_iter().flat_map(split_codes).collect(),
        root,
    })
}

/// The codes that an annotation lists.
pub(super) fn split_codes(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\n']).filter(|code| !code.is_empty())
}

impl Object<'_> {
    /// `NetworkPolicy shop/web`.
    pub(super) fn title(&self) -> String {
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        format!("{} {}{slash}{}", self.kind, self.namespace, self.name)
    }

    /// Whether it silences a code.
    pub(super) fn ignores(&self, code: &str) -> bool {
        self.ignores.contains(code)
    }

    /// Its name's place, or its own.
    pub(super) fn name_spot(&self) -> Spot<'_> {
        let name = self.root.at(&["metadata", "name"]);
        name.unwrap_or_else(|| self.root.clone())
    }

    /// It is a NetworkPolicy of Kubernetes itself.
    pub(super) fn is_network_policy(&self) -> bool {
        self.kind == "NetworkPolicy" && matches!(self.group, "networking.k8s.io" | "extensions" | "")
    }

    /// It is a ClusterNetworkPolicy.
    pub(super) fn is_cluster_policy(&self) -> bool {
        self.kind == "ClusterNetworkPolicy" && self.group == CLUSTER_GROUP
    }
}
