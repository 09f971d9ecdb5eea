//! ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`), which the API crate lacks.
//!
//! Peers and protocols stay as they were written: a field of theirs that this version does not know must fail closed
//! (CNP 6), so it has to be seen and must not make the object unreadable. [`super::convert`] reads them, with
//! [`NamespacedPod`] and [`ProtocolMatch`]. Everywhere else an unknown field is a mistake, as in any other kind.
//! `null` means absent throughout, as it does for the API server.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Its kind.
pub const KIND: &str = "ClusterNetworkPolicy";

/// The version that is understood.
pub const API_VERSION: &str = "policy.networking.k8s.io/v1alpha2";

/// API group of the policies that come in tiers.
pub const GROUP: &str = "policy.networking.k8s.io";

/// Highest priority number.
const LAST_PRIORITY: i64 = 1000;

/// The object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetworkPolicy {
    /// Always [`API_VERSION`].
    #[serde(default = "api_version")]
    pub api_version: String,
    /// Always [`KIND`].
    #[serde(default = "kind")]
    pub kind: String,
    /// Name, labels, annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Spec>,
    /// What implementations say of it; not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// What a policy asks for. The API server demands tier, priority and subject; a file may lack them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// `Admin` or `Baseline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// 0 to 1000; the lower is asked first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// The pods it acts on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// Rules for what the pods receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<IngressRule>>,
    /// Rules for what they send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<EgressRule>>,
}

/// The pods that a policy acts on: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// All pods of these namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Some pods of some namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
}

/// Pods by both their namespace and their labels. An absent selector is the empty one: in the upstream type neither is
/// a pointer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedPod {
    /// Selects namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Selects pods in them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
}

/// A rule for what the pods receive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressRule {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `Accept`, `Deny` or `Pass`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Peers, as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<Value>>,
    /// Protocols, as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocols: Option<Vec<Value>>,
}

/// A rule for what the pods send.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EgressRule {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `Accept`, `Deny` or `Pass`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Peers, as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<Value>>,
    /// Protocols, as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocols: Option<Vec<Value>>,
}

/// What a `tcp`, `udp` or `sctp` entry of `protocols` holds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProtocolMatch {
    /// Destination port; absent for all of them.
    #[serde(default)]
    pub destination_port: Option<Port>,
}

/// Destination ports: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// One port.
    #[serde(default)]
    pub number: Option<i64>,
    /// All from start to end.
    #[serde(default)]
    pub range: Option<PortRange>,
}

/// Ports from start to end, inclusive.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortRange {
    /// First port.
    pub start: i64,
    /// Last port.
    pub end: i64,
}

/// What makes a policy impossible to follow even in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The field, from the object's root.
    pub field: &'static [&'static str],
    /// What was expected of it.
    pub message: String,
}

impl ClusterNetworkPolicy {
    /// Whether it says where it stands and on which pods it acts: without that no rule of it can be placed, and its
    /// last good version has to do (SEMANTICS 18).
    ///
    /// A subject is never stretched to more pods: its rules may accept.
    pub fn check(&self) -> Result<(), Unusable> {
        let fail = |field, message: &str| {
            let message = message.to_owned();
            Err(Unusable { field, message })
        };
        let Some(spec) = &self.spec else {
            return fail(&["spec"], "spec is missing");
        };
        match spec.priority {
            Some(0..=LAST_PRIORITY) => {}
            Some(other) => {
                return fail(
                    &["spec", "priority"],
                    &format!("spec.priority: expected 0 to {LAST_PRIORITY}, found {other}"),
                );
            }
            None => {
                return fail(
                    &["spec"],
                    "spec.priority is missing (0 to 1000, the lower is asked first)",
                );
            }
        }
        let Some(subject) = &spec.subject else {
            return fail(&["spec"], "spec.subject is missing (namespaces or pods)");
        };
        let field = &["spec", "subject"];
        match (&subject.namespaces, &subject.pods) {
            (Some(_), None) | (None, Some(_)) => {}
            (None, None) => return fail(field, "spec.subject: expected namespaces or pods"),
            (Some(_), Some(_)) => {
                return fail(field, "spec.subject: expected namespaces or pods, found both");
            }
        }
        for (path, selector) in subject.selectors() {
            if let Err(error) = super::selector::check_selector(selector) {
                return fail(field, &format!("{path}.{error}"));
            }
        }
        Ok(())
    }
}

impl Subject {
    /// Its selectors and where they stand.
    pub fn selectors(&self) -> impl Iterator<Item = (&'static str, &LabelSelector)> {
        let pods = self.pods.as_ref();
        [
            ("spec.subject.namespaces", self.namespaces.as_ref()),
            (
                "spec.subject.pods.namespaceSelector",
                pods.and_then(|pods| pods.namespace_selector.as_ref()),
            ),
            (
                "spec.subject.pods.podSelector",
                pods.and_then(|pods| pods.pod_selector.as_ref()),
            ),
        ]
        .into_iter()
        .filter_map(|(path, selector)| selector.map(|selector| (path, selector)))
    }
}

fn api_version() -> String {
    API_VERSION.to_owned()
}

fn kind() -> String {
    KIND.to_owned()
}
