//! A directory of manifests as objects.
//!
//! ```text
//! DIR/**/*.yaml ─ read ─► texts ─ split at `---` ─► document ─ decode (strict) ─► Manifest
//!                                                      │ fails
//!                                                      └─ read loosely ─► Broken (what it would have been)
//! Loaded ─► Store (keeps the last good version) ─► View ─► k8s::convert
//! ```
//!
//! Invariants:
//! - Every document is decoded by itself: one that is broken takes no other with it.
//! - Lines and columns count from 1, in the file.
//! - A field that nobody knows is an error: a typing mistake in a policy must not open what it was to close.

mod decode;
mod digest;
mod fields;
#[cfg(test)]
mod replay;
mod store;
pub(crate) mod tree;

use std::{
    collections::BTreeMap,
    io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::{
    api::{
        core::v1::{Container, Namespace, Node, Pod, PodSpec, PodStatus, Service},
        networking::v1::NetworkPolicy,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde::{Deserialize, Serialize};

use crate::k8s::cluster_network_policy::ClusterNetworkPolicy;

pub(crate) use self::fields::close;
pub use self::{
    digest::{Texts, digest, digest_of, read},
    store::{Sourced, Store, View},
};

/// What a directory holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// Its files, sorted by path.
    pub files: Vec<File>,
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// Path below the directory.
    pub path: PathBuf,
    /// The documents that are understood, in the order of the file.
    pub documents: Vec<Document>,
    /// What is wrong with the others.
    pub errors: Vec<Problem>,
    /// What can still be said of the others.
    pub broken: Vec<Broken>,
}

/// An object and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The object, shared with whoever remembers it.
    pub object: Arc<Manifest>,
    /// First to last line that it takes in the file.
    pub lines: RangeInclusive<usize>,
    /// It is an item of a List; the lines are the item's.
    pub in_list: bool,
}

/// A document that is not understood.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Broken {
    /// Line on which it starts.
    pub line: usize,
    /// What it would have been, if that can be read.
    pub name: Option<ObjectName>,
    /// It is, or may be, a policy: what it isolates while no good version is known.
    pub isolates: Option<Isolation>,
    /// The object, where only unknown fields are wrong with it.
    pub lenient: Option<Arc<Manifest>>,
    /// Not even the kind can be read: it may have been anything.
    pub unreadable: bool,
}

/// Names an object of any kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty where the kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What a policy isolates that can not be read in full.
#[derive(Clone, Debug, PartialEq)]
pub struct Isolation {
    /// The file it stands in.
    pub file: PathBuf,
    /// Its first line.
    pub line: usize,
    /// Its name, or a place holder.
    pub name: String,
    /// The pods.
    pub of: Isolated,
}

/// The pods that a policy isolates which can not be read in full.
#[derive(Clone, Debug, PartialEq)]
pub enum Isolated {
    /// A NetworkPolicy's.
    NetworkPolicy {
        /// Its namespace.
        namespace: String,
        /// The pods; `None` where that can not be read: every pod of the namespace.
        pods: Option<LabelSelector>,
    },
    /// A ClusterNetworkPolicy's.
    ClusterNetworkPolicy {
        /// Namespaces of the pods; `None` where that can not be read: all.
        namespaces: Option<LabelSelector>,
        /// The pods in them; `None` where that can not be read: all.
        pods: Option<LabelSelector>,
        /// Its mode as the annotation says it, where that can be read.
        mode: Option<String>,
    },
}

/// An object, as the API types have it.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large kinds are the ones there are most of"
)]
pub enum Manifest {
    /// v1 Namespace.
    Namespace(Namespace),
    /// v1 Pod.
    Pod(Pod),
    /// v1 Node.
    Node(Node),
    /// v1 Service.
    Service(Service),
    /// networking.k8s.io/v1 NetworkPolicy.
    NetworkPolicy(NetworkPolicy),
    /// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
    ClusterNetworkPolicy(ClusterNetworkPolicy),
    /// Any other kind; its content is not looked at.
    Other {
        /// `apiVersion`.
        api_version: String,
        /// `kind`.
        kind: String,
        /// `metadata.namespace`.
        namespace: Option<String>,
        /// `metadata.name`.
        name: String,
    },
}

/// Something wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// Path below the directory.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// A sentence for people.
    pub message: String,
    /// The line's text, for the caret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<String>,
}

impl Manifest {
    /// Its kind.
    pub fn kind(&self) -> &str {
        match self {
            Self::Namespace(_) => "Namespace",
            Self::Pod(_) => "Pod",
            Self::Node(_) => "Node",
            Self::Service(_) => "Service",
            Self::NetworkPolicy(_) => "NetworkPolicy",
            Self::ClusterNetworkPolicy(_) => "ClusterNetworkPolicy",
            Self::Other { kind, .. } => kind,
        }
    }

    /// What names it. A namespaced object without a namespace belongs to `default`.
    pub fn object_name(&self) -> ObjectName {
        let of = |meta: &ObjectMeta, namespaced: bool| {
            let namespace = meta.namespace.as_deref().filter(|name| !name.is_empty());
            (
                if namespaced {
                    namespace.unwrap_or(DEFAULT_NAMESPACE).to_owned()
                } else {
                    String::new()
                },
                meta.name.clone().unwrap_or_default(),
            )
        };
        let (namespace, name) = match self {
            Self::Namespace(object) => of(&object.metadata, false),
            Self::Node(object) => of(&object.metadata, false),
            Self::Pod(object) => of(&object.metadata, true),
            Self::Service(object) => of(&object.metadata, true),
            Self::NetworkPolicy(object) => of(&object.metadata, true),
            Self::ClusterNetworkPolicy(object) => of(&object.metadata, false),
            Self::Other { namespace, name, .. } => (namespace.clone().unwrap_or_default(), name.clone()),
        };
        ObjectName {
            kind: self.kind().to_owned(),
            namespace,
            name,
        }
    }
}

/// The namespace of an object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Reads every manifest below a directory.
pub fn load(directory: &Path) -> io::Result<Loaded> {
    Ok(load_texts(&read(directory)?))
}

/// The same for texts that were read before.
pub fn load_texts(texts: &Texts) -> Loaded {
    Loaded {
        files: texts
            .iter()
            .map(|(path, text)| decode::file(path, text))
            .collect(),
    }
}

/// What a text holds that may be in no file at all.
pub(crate) fn load_text(name: &Path, text: &[u8]) -> File {
    decode::file(name, text)
}

/// The documents of a text as trees of places, each with the number of its first line. A place's line counts within its
/// document.
pub(crate) fn trees(text: &str) -> Vec<(usize, tree::Tree)> {
    decode::trees(text)
}

/// Decodes again only the files that changed. Of pods and Services it keeps what policy needs: it lives as long as the
/// agent does.
#[derive(Debug, Default)]
pub struct Loader {
    known: BTreeMap<PathBuf, (Vec<u8>, File)>,
}

impl Loader {
    /// What the texts hold.
    pub fn load(&mut self, texts: Texts) -> Loaded {
        let mut known = BTreeMap::new();
        for (path, text) in texts {
            let file = match self.known.remove(&path) {
                Some((before, file)) if before == text => file,
                Some(_) | None => {
                    let mut file = decode::file(&path, &text);
                    for document in &mut file.documents {
                        // Nobody else has it yet.
                        Arc::get_mut(&mut document.object).into_iter().for_each(prune);
                    }
                    file
                }
            };
            known.insert(path, (text, file));
        }
        self.known = known;
        Loaded {
            files: self.known.values().map(|(_, file)| file.clone()).collect(),
        }
    }
}

/// Drops what policy never asks for.
fn prune(object: &mut Manifest) {
    match object {
        Manifest::Pod(pod) => {
            pod.metadata.managed_fields = None;
            if let Some(spec) = &mut pod.spec {
                let container = |container: &Container| Container {
                    name: container.name.clone(),
                    ports: container.ports.clone(),
                    restart_policy: container.restart_policy.clone(),
                    ..Container::default()
                };
                *spec = PodSpec {
                    containers: spec.containers.iter().map(container).collect(),
                    init_containers: spec
                        .init_containers
                        .as_ref()
                        .map(|all| all.iter().map(container).collect()),
                    node_name: spec.node_name.take(),
                    host_network: spec.host_network,
                    ..PodSpec::default()
                };
            }
            if let Some(status) = &mut pod.status {
                *status = PodStatus {
                    phase: status.phase.take(),
                    pod_ip: status.pod_ip.take(),
                    pod_ips: status.pod_ips.take(),
                    host_ip: status.host_ip.take(),
                    host_ips: status.host_ips.take(),
                    ..PodStatus::default()
                };
            }
        }
        Manifest::Service(service) => (service.spec, service.status) = (None, None),
        Manifest::Namespace(_)
        | Manifest::Node(_)
        | Manifest::NetworkPolicy(_)
        | Manifest::ClusterNetworkPolicy(_)
        | Manifest::Other { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::convert::convert;

    fn texts(files: &[(&str, &str)]) -> Texts {
        files
            .iter()
            .map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec()))
            .collect()
    }

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, uid: u, labels: {a: b}}\nspec: {nodeName: n, \
        hostNetwork: true, containers: [{name: c, image: i, env: [{name: A, value: b}], ports: [{name: h, containerPort: 1}]}], \
        initContainers: [{name: s, image: i, restartPolicy: Always, ports: [{containerPort: 2}]}]}\n\
        status: {phase: Failed, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], hostIP: 10.9.9.9}\n";

    #[test]
    fn the_loader_follows_changes_and_drops_only_what_policy_never_asks_for() {
        let mut loader = Loader::default();
        let one = texts(&[
            ("a.yaml", POD),
            ("b.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n"),
        ]);
        let means = |loaded: &Loaded| convert(&Store::default().update(loaded));
        for _ in 0..2 {
            let loaded = loader.load(one.clone());
            assert_ne!(loaded, load_texts(&one), "the image is gone");
            assert_eq!(means(&loaded), means(&load_texts(&one)));
        }
        let two = texts(&[("a.yaml", &POD.replace("Failed", "Running"))]);
        assert_eq!(means(&loader.load(two.clone())), means(&load_texts(&two)));
    }
}
