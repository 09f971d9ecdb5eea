//! What is asked of the API server, and where.

use std::fmt;

use vethwall_policy::model::Kind;

use crate::k8s::cluster_network_policy as cluster;

/// A resource that is followed. The agent needs the rights to list and to watch each, in all namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// v1 namespaces.
    Namespaces,
    /// v1 nodes.
    Nodes,
    /// v1 pods.
    Pods,
    /// networking.k8s.io/v1 networkpolicies.
    NetworkPolicies,
    /// policy.networking.k8s.io/v1alpha2 clusternetworkpolicies, where they are served.
    ClusterNetworkPolicies,
}

impl Resource {
    /// All, in the order in which one step takes them: a namespace that is going away keeps its policies.
    pub const ALL: [Self; 5] = [
        Self::Namespaces,
        Self::Nodes,
        Self::Pods,
        Self::NetworkPolicies,
        Self::ClusterNetworkPolicies,
    ];

    /// As in paths and in rights: `networkpolicies`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Nodes => "nodes",
            Self::Pods => "pods",
            Self::NetworkPolicies => "networkpolicies",
            Self::ClusterNetworkPolicies => "clusternetworkpolicies",
        }
    }

    /// `v1`, or group and version.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Namespaces | Self::Nodes | Self::Pods => "v1",
            Self::NetworkPolicies => "networking.k8s.io/v1",
            Self::ClusterNetworkPolicies => cluster::API_VERSION,
        }
    }

    /// What one of them is.
    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Namespaces => Kind::Namespace,
            Self::Nodes => Kind::Node,
            Self::Pods => Kind::Pod,
            Self::NetworkPolicies => Kind::NetworkPolicy,
            Self::ClusterNetworkPolicies => Kind::ClusterNetworkPolicy,
        }
    }

    /// `kind` of one of them.
    pub(super) const fn kind_name(self) -> &'static str {
        match self {
            Self::Namespaces => "Namespace",
            Self::Nodes => "Node",
            Self::Pods => "Pod",
            Self::NetworkPolicies => "NetworkPolicy",
            Self::ClusterNetworkPolicies => cluster::KIND,
        }
    }

    /// API group, empty for the core's.
    pub(super) fn group(self) -> &'static str {
        self.api_version().split_once('/').map_or("", |(group, _)| group)
    }

    /// Where all of them are.
    pub(super) fn path(self) -> String {
        let root = if self.group().is_empty() { "api" } else { "apis" };
        format!("/{root}/{}/{}", self.api_version(), self.name())
    }

    /// Where the API server says in which versions it serves the group.
    pub(super) fn group_path(self) -> String {
        format!("/apis/{}", self.group())
    }
}

/// As rights name it: `pods`, `networkpolicies.networking.k8s.io`.
impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group() {
            "" => f.write_str(self.name()),
            group => write!(f, "{}.{group}", self.name()),
        }
    }
}
