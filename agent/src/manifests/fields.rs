//! Names of fields, to guess what a misspelt one was meant to be.

use super::tree::Segment;

const OBJECT: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];
const METADATA: &[&str] = &[
    "name",
    "namespace",
    "labels",
    "annotations",
    "uid",
    "generateName",
    "ownerReferences",
];
const POLICY: &[&str] = &["podSelector", "policyTypes", "ingress", "egress"];
const INGRESS: &[&str] = &["from", "ports"];
const EGRESS: &[&str] = &["to", "ports"];
const PEER: &[&str] = &["podSelector", "namespaceSelector", "ipBlock"];
const BLOCK: &[&str] = &["cidr", "except"];
const PORT: &[&str] = &["protocol", "port", "endPort"];
const CLUSTER_POLICY: &[&str] = &["tier", "priority", "subject", "ingress", "egress"];
const SUBJECT: &[&str] = &["namespaces", "pods"];
const NAMESPACED_POD: &[&str] = &["namespaceSelector", "podSelector"];
const CLUSTER_INGRESS: &[&str] = &["name", "action", "from", "protocols"];
const CLUSTER_EGRESS: &[&str] = &["name", "action", "to", "protocols"];
const SELECTOR: &[&str] = &["matchLabels", "matchExpressions"];
const EXPRESSION: &[&str] = &["key", "operator", "values"];
const POD: &[&str] = &[
    "containers",
    "initContainers",
    "nodeName",
    "hostNetwork",
    "nodeSelector",
    "restartPolicy",
    "volumes",
    "serviceAccountName",
    "tolerations",
    "hostname",
];
const POD_STATUS: &[&str] = &[
    "phase",
    "podIP",
    "podIPs",
    "hostIP",
    "hostIPs",
    "conditions",
    "containerStatuses",
];
const CONTAINER: &[&str] = &[
    "name",
    "image",
    "ports",
    "command",
    "args",
    "env",
    "resources",
    "restartPolicy",
    "volumeMounts",
];
const CONTAINER_PORT: &[&str] = &["name", "containerPort", "protocol", "hostPort", "hostIP"];
const NODE: &[&str] = &["podCIDR", "podCIDRs", "providerID", "taints", "unschedulable"];
const NODE_STATUS: &[&str] = &["addresses", "conditions", "capacity", "allocatable", "nodeInfo"];
const SERVICE: &[&str] = &[
    "selector",
    "clusterIP",
    "clusterIPs",
    "ports",
    "type",
    "externalIPs",
    "ipFamilies",
];
const SERVICE_PORT: &[&str] = &[
    "name",
    "port",
    "targetPort",
    "protocol",
    "nodePort",
    "appProtocol",
];

/// The fields that are known where the path's last segment stands; none where this table does not say.
pub(super) fn siblings(kind: &str, path: &[Segment]) -> &'static [&'static str] {
    let parents = &path[..path.len().saturating_sub(1)];
    let keys: Vec<&str> = parents
        .iter()
        .filter_map(|segment| match segment {
            Segment::Key(key) => Some(key.as_str()),
            Segment::Index(_) => None,
        })
        .collect();
    match (kind, keys.as_slice()) {
        (_, []) => OBJECT,
        (_, ["metadata"]) => METADATA,
        ("NetworkPolicy", ["spec"]) => POLICY,
        ("NetworkPolicy", ["spec", "ingress"]) => INGRESS,
        ("NetworkPolicy", ["spec", "egress"]) => EGRESS,
        ("NetworkPolicy", ["spec", _, "from" | "to"]) => PEER,
        ("NetworkPolicy", ["spec", _, "ports"]) => PORT,
        ("NetworkPolicy", [.., "ipBlock"]) => BLOCK,
        ("ClusterNetworkPolicy", ["spec"]) => CLUSTER_POLICY,
        ("ClusterNetworkPolicy", ["spec", "subject"]) => SUBJECT,
        ("ClusterNetworkPolicy", ["spec", "subject", "namespaces"]) => SELECTOR,
        ("ClusterNetworkPolicy", ["spec", "subject", "pods"]) => NAMESPACED_POD,
        ("ClusterNetworkPolicy", ["spec", "ingress"]) => CLUSTER_INGRESS,
        ("ClusterNetworkPolicy", ["spec", "egress"]) => CLUSTER_EGRESS,
        ("NetworkPolicy" | "ClusterNetworkPolicy", [.., "podSelector" | "namespaceSelector"]) => SELECTOR,
        ("NetworkPolicy" | "ClusterNetworkPolicy", [.., "matchExpressions"]) => EXPRESSION,
        ("Pod", ["spec"]) => POD,
        ("Pod", ["status"]) => POD_STATUS,
        ("Pod", ["spec", "containers" | "initContainers"]) => CONTAINER,
        ("Pod", ["spec", "containers" | "initContainers", "ports"]) => CONTAINER_PORT,
        ("Node", ["spec"]) => NODE,
        ("Node", ["status"]) => NODE_STATUS,
        ("Service", ["spec"]) => SERVICE,
        ("Service", ["spec", "ports"]) => SERVICE_PORT,
        _ => &[],
    }
}

/// The known name that a misspelt one was probably meant to be.
pub(crate) fn close<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .iter()
        .map(|candidate| {
            (
                strsim::osa_distance(&lower, &candidate.to_lowercase()),
                *candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= if candidate.len() > 4 { 2 } else { 1 })
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_names_are_found_and_far_ones_are_not() {
        assert_eq!(close("ingresss", POLICY), Some("ingress"));
        assert_eq!(close("podselector", POLICY), Some("podSelector"));
        assert_eq!(close("matchlabel", SELECTOR), Some("matchLabels"));
        assert_eq!(close("form", INGRESS), Some("from"), "a swap counts once");
        assert_eq!(close("frm", INGRESS), Some("from"));
        assert_eq!(close("colour", POLICY), None);
    }
}
