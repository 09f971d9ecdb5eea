//! One object of the API server, as far as policy needs it.
//!
//! A policy goes through the same strict reader as a manifest: a field that nobody knows may be one that a newer API
//! server understands as a restriction, so the policy is not half understood (SEMANTICS 18). Of other kinds, fields that
//! nobody knows are no concern of policy.

use std::{path::Path, sync::Arc};

use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use vethwall_policy::model::{Object, ObjectKey};

use super::Resource;
use crate::{
    k8s::convert,
    manifests::{self, Isolation, Manifest},
};

/// An object as it was seen.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) key: ObjectKey,
    pub(super) what: Decoded,
}

/// What an object says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decoded {
    /// All that policy needs of a pod or a node.
    Object(Object),
    /// A namespace or a policy; what it means depends on others.
    Manifest(Arc<Manifest>),
    /// It is not understood.
    Broken {
        /// What a policy isolates while no good version of it is known.
        isolates: Option<Isolation>,
        /// What is wrong with it.
        problems: Vec<String>,
    },
}

/// What every object has.
#[derive(Debug, Deserialize)]
struct Named {
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    resource_version: String,
}

/// The object's name and its version.
///
/// # Errors
/// It has none, and so is no object.
pub(super) fn name(resource: Resource, raw: &RawValue) -> Result<(ObjectKey, String), serde_json::Error> {
    let Named { metadata } = serde_json::from_str(raw.get())?;
    let key = ObjectKey {
        kind: resource.kind(),
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name,
    };
    Ok((key, metadata.resource_version))
}

/// What the object says.
pub(super) fn decode(resource: Resource, key: &ObjectKey, raw: &RawValue) -> Decoded {
    match resource {
        Resource::Pods => typed::<core::Pod>(raw, |pod| Decoded::Object(convert::pod(&pod))),
        Resource::Nodes => typed::<core::Node>(raw, |node| Decoded::Object(convert::node(&node))),
        Resource::Namespaces => typed::<core::Namespace>(raw, |mut namespace| {
            namespace.metadata = ObjectMeta {
                name: namespace.metadata.name,
                labels: namespace.metadata.labels,
                deletion_timestamp: namespace.metadata.deletion_timestamp,
                annotations: namespace.metadata.annotations.map(|mut all| {
                    all.retain(|name, _| name == convert::MODE);
                    all
                }),
                ..ObjectMeta::default()
            };
            Decoded::Manifest(Arc::new(Manifest::Namespace(namespace)))
        }),
        Resource::NetworkPolicies | Resource::ClusterNetworkPolicies => policy(resource, key, raw),
    }
}

fn typed<T: DeserializeOwned>(raw: &RawValue, then: impl FnOnce(T) -> Decoded) -> Decoded {
    match serde_json::from_str(raw.get()) {
        Ok(object) => then(object),
        Err(error) => Decoded::Broken {
            isolates: None,
            problems: vec![error.to_string()],
        },
    }
}

fn policy(resource: Resource, key: &ObjectKey, raw: &RawValue) -> Decoded {
    let mut object: Value = serde_json::from_str(raw.get()).unwrap_or_default();
    if let Value::Object(fields) = &mut object {
        // Items of a list say neither.
        fields.insert("apiVersion".to_owned(), resource.api_version().into());
        fields.insert("kind".to_owned(), resource.kind_name().into());
        // A NetworkPolicy of 1.24 to 1.27 has one, and it says nothing to us.
        fields.remove("status");
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            // Of what else is there, the API server may have fields that are newer than this reader.
            metadata.retain(|field, _| matches!(&**field, "name" | "namespace" | "annotations"));
            if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
                annotations.retain(|name, _| name == convert::MODE);
            }
        }
    }
    // Broken into lines, as the reader wants it.
    let text = serde_json::to_string_pretty(&object).unwrap_or_default();
    let mut file = manifests::load_text(Path::new(&label(key)), text.as_bytes());
    match (file.documents.pop(), file.broken.pop()) {
        (Some(document), None) => Decoded::Manifest(document.object),
        (_, broken) => Decoded::Broken {
            isolates: broken.and_then(|broken| broken.isolates).map(|mut isolation| {
                isolation.line = 0;
                isolation
            }),
            problems: file.errors.into_iter().map(|problem| problem.message).collect(),
        },
    }
}

/// The object for people, where a manifest would have its file.
pub(super) fn label(key: &ObjectKey) -> String {
    let kind = Resource::ALL
        .into_iter()
        .find(|resource| resource.kind() == key.kind);
    let kind = kind.map_or("", Resource::kind_name);
    match key.namespace.as_str() {
        "" => format!("{kind} {}", key.name),
        namespace => format!("{kind} {namespace}/{}", key.name),
    }
}
