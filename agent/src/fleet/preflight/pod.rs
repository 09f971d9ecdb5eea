//! The pod that looks at a node, and how far it has come. Pure.
//!
//! Invariants:
//! - It can read what it is to look at, and nothing else of the node: no right, no token, no process, nothing to write to.
//! - It ends by itself, also when whoever started it is gone.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, HostPathVolumeSource, Node, Pod, PodSecurityContext, PodSpec,
        ResourceRequirements, SeccompProfile, SecurityContext, Toleration, Volume, VolumeMount,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use vethwall_common::maps::BPFFS;

use super::{info, name};
use crate::chain::places;

/// By which one probe's pods are found.
pub const RUN: &str = "vethwall.io/preflight";
/// By which those of all probes are.
pub const ALL: &str = "app.kubernetes.io/name=vethwall,app.kubernetes.io/component=preflight";
/// What their names begin with.
const NAME: &str = "vethwall-preflight-";
/// The kubelet ends it by then.
const DEADLINE: i64 = 120;

/// Whether a node can have one: the image is for Linux only.
pub(super) fn fits(node: &Node) -> bool {
    matches!(info(node, |info| &info.operating_system), "linux" | "")
}

/// The pod for a node.
pub fn pod(node: &Node, image: &str, run: &str) -> Pod {
    let lists = places::lists_of(info(node, |info| &info.kubelet_version));
    // The node's paths are the pod's, too, so that it looks where an agent would.
    let paths = [
        ("bpffs", BPFFS.to_owned()),
        ("lists", lists.display().to_string()),
    ];
    let labels = [
        ("app.kubernetes.io/name", "vethwall"),
        ("app.kubernetes.io/component", "preflight"),
        (RUN, run),
    ];
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    let sizes = |sizes: &[(&str, &str)]| -> Option<BTreeMap<String, Quantity>> {
        let each = sizes.iter();
        Some(
            each.map(|(what, size)| ((*what).to_owned(), Quantity((*size).to_owned())))
                .collect(),
        )
    };
    let container = Container {
        name: "preflight".to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: words(&["preflight", "--here", "--output", "json"]),
        resources: Some(ResourceRequirements {
            requests: sizes(&[("cpu", "10m"), ("memory", "16Mi")]),
            limits: sizes(&[("memory", "64Mi")]),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            // The lists are root's; without a capability it reads what root owns, as an agent does.
            run_as_user: Some(0),
            run_as_group: Some(0),
            capabilities: Some(Capabilities {
                drop: words(&["ALL"]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(
            paths
                .iter()
                .map(|(name, path)| VolumeMount {
                    name: (*name).to_owned(),
                    mount_path: path.clone(),
                    read_only: Some(true),
                    ..VolumeMount::default()
                })
                .collect(),
        ),
        ..Container::default()
    };
    let volumes = paths.iter().map(|(name, path)| Volume {
        name: (*name).to_owned(),
        host_path: Some(HostPathVolumeSource {
            path: path.clone(),
            // Without a type the runtime would make it.
            type_: Some("Directory".to_owned()),
        }),
        ..Volume::default()
    });
    let spec = PodSpec {
        // No scheduler: it would pass over nodes that are not ready, of which we want to hear.
        node_name: Some(self::name(node)),
        tolerations: Some(vec![Toleration {
            operator: Some("Exists".to_owned()),
            ..Toleration::default()
        }]),
        restart_policy: Some("Never".to_owned()),
        active_deadline_seconds: Some(DEADLINE),
        termination_grace_period_seconds: Some(1),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        // The bridge and the sysctls of br_netfilter are there.
        host_network: Some(true),
        dns_policy: Some("Default".to_owned()),
        security_context: Some(PodSecurityContext {
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container],
        volumes: Some(volumes.collect()),
        ..PodSpec::default()
    };
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(NAME.to_owned()),
            labels: Some(
                labels
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// How far a pod has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not yet; for this.
    Waiting(String),
    /// It will not answer; because of this.
    Stuck(String),
    /// It ended with this status, and its log is whole.
    Ended(i32),
}

/// What the kubelet does not try again within our patience, or not with another outcome.
const HOPELESS: [&str; 6] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
];

/// How far a pod has come.
pub fn stage(pod: &Pod) -> Stage {
    let status = pod.status.as_ref();
    let container = status.and_then(|status| status.container_statuses.as_ref()?.first());
    let state = container.and_then(|container| container.state.as_ref());
    if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
        return match ended.reason.as_deref() {
            None | Some("Completed" | "Error") => Stage::Ended(ended.exit_code),
            reason => Stage::Stuck(said(reason, ended.message.as_deref())),
        };
    }
    // Refused by its kubelet, evicted, or not done by its deadline.
    if let Some(status) = status.filter(|status| status.phase.as_deref() == Some("Failed")) {
        return Stage::Stuck(said(status.reason.as_deref(), status.message.as_deref()));
    }
    if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
        let reason = waiting.reason.as_deref();
        let text = said(reason, waiting.message.as_deref());
        return if reason.is_some_and(|reason| HOPELESS.contains(&reason)) {
            Stage::Stuck(text)
        } else {
            Stage::Waiting(text)
        };
    }
    if state.is_some_and(|state| state.running.is_some()) {
        return Stage::Waiting("it runs".to_owned());
    }
    Stage::Waiting("the node's kubelet has not taken it up".to_owned())
}

fn said(reason: Option<&str>, message: Option<&str>) -> String {
    let said = [reason, message].into_iter().flatten();
    let said: Vec<&str> = said.filter(|text| !text.is_empty()).collect();
    if said.is_empty() {
        return "no reason is told".to_owned();
    }
    said.join(": ")
}

/// A reason without the end of a pod's name, which the API server draws: what is refused for one reason is told once.
pub(super) fn nameless(why: &str) -> String {
    let mut pieces = why.split(NAME);
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        text.push_str(NAME.trim_end_matches('-'));
        text.push_str(piece.trim_start_matches(|c: char| c.is_ascii_alphanumeric()));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(kubelet: &str) -> Node {
        let info = json!({"kubeletVersion": kubelet, "kernelVersion": "6.8.0", "containerRuntimeVersion": "containerd://2.1.4",
            "architecture": "amd64", "bootID": "", "kubeProxyVersion": "", "machineID": "", "operatingSystem": "linux",
            "osImage": "", "systemUUID": ""});
        serde_json::from_value(json!({"metadata": {"name": "a"}, "status": {"nodeInfo": info}})).unwrap()
    }

    fn made(kubelet: &str) -> Value {
        serde_json::to_value(pod(&node(kubelet), "registry/vethwall:1", "run")).unwrap()
    }

    #[test]
    fn the_pod_is_on_its_node_and_reads_only() {
        let pod = made("v1.34.1");
        let spec = &pod["spec"];
        assert_eq!(spec["nodeName"], "a");
        assert_eq!(spec["tolerations"], json!([{"operator": "Exists"}]));
        assert_eq!(spec["automountServiceAccountToken"], false);
        assert_eq!(
            (&spec["restartPolicy"], &spec["activeDeadlineSeconds"]),
            (&json!("Never"), &json!(120))
        );
        for absent in ["hostPID", "hostIPC", "serviceAccountName", "priorityClassName"] {
            assert_eq!(spec[absent], Value::Null, "{absent}");
        }
        assert_eq!(
            spec["securityContext"],
            json!({"seccompProfile": {"type": "RuntimeDefault"}})
        );
        let container = &spec["containers"][0];
        assert_eq!(container["image"], "registry/vethwall:1");
        let wanted = json!({"allowPrivilegeEscalation": false, "privileged": false, "readOnlyRootFilesystem": true,
            "runAsUser": 0, "runAsGroup": 0, "capabilities": {"drop": ["ALL"]}});
        assert_eq!(container["securityContext"], wanted);
        let mounts = container["volumeMounts"].as_array().unwrap();
        assert!(mounts.iter().all(|mount| mount["readOnly"] == true), "{mounts:?}");
        assert_eq!(
            pod["metadata"]["labels"]["app.kubernetes.io/component"],
            "preflight"
        );
    }

    #[test]
    fn the_lists_are_where_the_nodes_kubelet_has_them() {
        for (kubelet, path) in [
            ("v1.34.1", "/etc/cni/net.d"),
            ("v1.33.4+k3s1", "/var/lib/rancher/k3s/agent/etc/cni/net.d"),
        ] {
            let pod = made(kubelet);
            let paths: Vec<&Value> = pod["spec"]["volumes"]
                .as_array()
                .unwrap()
                .iter()
                .map(|volume| &volume["hostPath"])
                .collect();
            let directory = |path: &str| json!({"path": path, "type": "Directory"});
            assert_eq!(paths, [&directory(BPFFS), &directory(path)]);
        }
    }

    #[test]
    fn a_reason_is_the_same_for_all_pods() {
        let refused = |end: &str| format!("pods \"vethwall-preflight-{end}\" is forbidden: violates");
        assert_eq!(nameless(&refused("bf5wv")), nameless(&refused("fm68f")));
        assert_eq!(
            nameless(&refused("bf5wv")),
            "pods \"vethwall-preflight\" is forbidden: violates"
        );
        assert_eq!(nameless("not found"), "not found");
    }

    fn at(status: Value) -> Stage {
        stage(&serde_json::from_value(json!({"metadata": {"name": "x"}, "status": status})).unwrap())
    }

    #[test]
    fn a_pod_says_how_far_it_is() {
        let container = |state: Value| {
            at(
                json!({"phase": "Pending", "containerStatuses": [{"name": "preflight", "image": "", "imageID": "",
                "ready": false, "restartCount": 0, "state": state}]}),
            )
        };
        assert_eq!(
            container(json!({"terminated": {"exitCode": 1, "reason": "Error"}})),
            Stage::Ended(1)
        );
        let creating = container(json!({"waiting": {"reason": "ContainerCreating"}}));
        assert_eq!(creating, Stage::Waiting("ContainerCreating".to_owned()));
        // The first failure has the reason; the kubelet tries once more when it backs off.
        let failed = container(json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}}));
        assert_eq!(failed, Stage::Waiting("ErrImagePull: not found".to_owned()));
        let given_up = container(json!({"waiting": {"reason": "ImagePullBackOff"}}));
        assert_eq!(given_up, Stage::Stuck("ImagePullBackOff".to_owned()));
        let broken = container(
            json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "no vethwall"}}),
        );
        assert_eq!(broken, Stage::Stuck("StartError: no vethwall".to_owned()));
        let full = at(json!({"phase": "Failed", "reason": "OutOfpods", "message": "no room"}));
        assert_eq!(full, Stage::Stuck("OutOfpods: no room".to_owned()));
        let silent = at(json!({"phase": "Pending"}));
        assert!(matches!(silent, Stage::Waiting(why) if why.contains("kubelet")));
    }
}
