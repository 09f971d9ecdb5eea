//! The cluster directory: what the API server would tell the agents.
//!
//! ```text
//! cluster/<the user's files, pods and nodes blanked>   .lab/pods/NS_NAME.yaml (with status)   .lab/nodes.yaml
//! ```
//!
//! Invariants: lines keep their numbers; a file that is broken is there as it is, so that the agents report it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use serde_json::{Value, json};
use vethwall::manifests::{self, File, Manifest};

use super::{
    input::Input,
    state::{self, Families, Pod, State},
};

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The user's part.
pub(super) fn user_files(input: &Input) -> Files {
    let mut files: Files = input.texts.clone();
    for file in &input.loaded.files {
        if let Some(text) = files.get_mut(&file.path)
            && let Some(blanked) = blank(file, text)
        {
            *text = blanked;
        }
    }
    let declared: BTreeSet<_> = input
        .objects
        .iter()
        .filter(|object| matches!(object, Manifest::Namespace(_)))
        .map(|object| object.object_name().name)
        .collect();
    let mut used = BTreeSet::from(["default".to_owned(), "kube-system".to_owned()]);
    used.extend(
        input
            .objects
            .iter()
            .map(|object| object.object_name().namespace)
            .filter(|name| !name.is_empty()),
    );
    let missing = used.difference(&declared).map(|name| {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}})
    });
    files.insert(".lab/namespaces.yaml".into(), documents(missing));
    files
}

fn ours(object: &Manifest) -> bool {
    matches!(object, Manifest::Pod(_) | Manifest::Node(_))
}

/// The text without its pods and nodes; `None` if it has none.
fn blank(file: &File, text: &[u8]) -> Option<Vec<u8>> {
    if !file.documents.iter().any(|document| ours(&document.object)) {
        return None;
    }
    if file.errors.is_empty()
        && file
            .documents
            .iter()
            .any(|document| document.in_list && ours(&document.object))
    {
        // Items of a list may share lines; nothing here is reported by line.
        let rest = file.documents.iter().filter(|document| !ours(&document.object));
        let list = json!({"apiVersion": "v1", "kind": "List", "items": rest.filter_map(|document| value(&document.object)).collect::<Vec<_>>()});
        return Some(list.to_string().into_bytes());
    }
    let text = String::from_utf8_lossy(text);
    let mut lines: Vec<&str> = text.split('\n').collect();
    for document in file
        .documents
        .iter()
        .filter(|document| !document.in_list && ours(&document.object))
    {
        for number in document.lines.clone() {
            if let Some(line) = lines.get_mut(number.saturating_sub(1))
                && !line.starts_with("---")
            {
                *line = "";
            }
        }
    }
    Some(lines.join("\n").into_bytes())
}

fn value(object: &Manifest) -> Option<Value> {
    match object {
        Manifest::Namespace(object) => serde_json::to_value(object),
        Manifest::Pod(object) => serde_json::to_value(object),
        Manifest::Node(object) => serde_json::to_value(object),
        Manifest::Service(object) => serde_json::to_value(object),
        Manifest::NetworkPolicy(object) => serde_json::to_value(object),
        Manifest::ClusterNetworkPolicy(object) => serde_json::to_value(object),
        Manifest::Other { .. } => return None,
    }
    .ok()
}

fn documents(objects: impl Iterator<Item = Value>) -> Vec<u8> {
    objects
        .map(|object| format!("---\n{object:#}\n"))
        .collect::<String>()
        .into_bytes()
}

/// The lab's part.
pub(super) fn lab_files(state: &State) -> Files {
    let mut files = Files::new();
    let nodes = state.nodes.iter().map(|node| {
        let mut cidrs = Vec::new();
        if state.families.v4() {
            cidrs.push(node.subnet4());
        }
        if state.families.v6() {
            cidrs.push(node.subnet6());
        }
        let mut addresses: Vec<_> = node
            .addresses(state.families)
            .iter()
            .map(|address| json!({"type": "InternalIP", "address": address}))
            .collect();
        addresses.push(json!({"type": "Hostname", "address": node.name}));
        let mut labels = node.labels.clone();
        labels.insert("kubernetes.io/hostname".to_owned(), node.name.clone());
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": labels},
            "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs}, "status": {"addresses": addresses}})
    });
    files.insert(".lab/nodes.yaml".into(), documents(nodes));
    for pod in state.pods.values() {
        let path = format!(".lab/pods/{}_{}.yaml", pod.namespace, pod.name);
        files.insert(
            path.into(),
            format!("{:#}\n", pod_object(state, pod)).into_bytes(),
        );
    }
    files
}

fn pod_object(state: &State, pod: &Pod) -> Value {
    let mut object = pod.object.clone();
    object["apiVersion"] = json!("v1");
    object["kind"] = json!("Pod");
    object["metadata"]["namespace"] = json!(pod.namespace);
    object["metadata"]["uid"] = json!(pod.uid);
    object["spec"]["nodeName"] = json!(pod.node);
    let hosts = state
        .node(&pod.node)
        .map(|node| node.addresses(state.families))
        .unwrap_or_default();
    let running = pod.running();
    let written = object["status"]["phase"].as_str().unwrap_or("Running").to_owned();
    let phase = if pod.finished {
        written.as_str()
    } else if running {
        "Running"
    } else {
        "Pending"
    };
    let mut status = json!({"phase": phase, "hostIP": hosts.first()});
    if running {
        status["podIP"] = json!(pod.addresses.first());
        status["podIPs"] = pod
            .addresses
            .iter()
            .map(|address| json!({"ip": address}))
            .collect();
        status["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    } else if pod.finished {
        // A finished pod may still show the address it had.
        for key in ["podIP", "podIPs"] {
            if !object["status"][key].is_null() {
                status[key] = object["status"][key].clone();
            }
        }
    }
    object["status"] = status;
    object
}

/// Makes the directory hold exactly these files. What did not change is not touched.
pub(super) fn write(directory: &Path, files: &Files) -> Result<()> {
    fs::create_dir_all(directory)?;
    let before = manifests::read(directory).unwrap_or_default();
    for (path, text) in files {
        if before.get(path) != Some(text) {
            state::write(&directory.join(path), text)?;
        }
    }
    for path in before.keys().filter(|path| !files.contains_key(*path)) {
        fs::remove_file(directory.join(path))?;
    }
    Ok(())
}

/// What pods see as /etc/resolv.conf.
pub(super) fn resolver(state: &State, families: Families, namespace: &str) -> String {
    let Some(service) = state.services.get("kube-system/kube-dns") else {
        return "# The cluster has no Service kube-system/kube-dns.\n".to_owned();
    };
    let first = service
        .addresses
        .iter()
        .find(|address| address.is_ipv4() == families.v4());
    let Some(server) = first else { return String::new() };
    format!(
        "nameserver {server}\nsearch {namespace}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
    )
}
