//! From manifests to what the lab is to run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use k8s_openapi::{api::core::v1, apimachinery::pkg::util::intstr::IntOrString};
use sha2::{Digest as _, Sha256};
use vethwall::manifests::{self, Loaded, Manifest, Problem, Store, Texts};

use super::state::{Families, Pod, Port, Service, ServicePort, State};

/// A directory of manifests.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// Its files.
    pub texts: Texts,
    /// What they hold.
    pub loaded: Loaded,
    /// The objects in force: the last good ones where a file is broken.
    pub objects: Vec<Manifest>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Reads a directory; `good` holds the last good version of its files.
pub(super) fn read(directory: &Path, good: &Path) -> Result<Input> {
    let error = || format!("read {}", directory.display());
    anyhow::ensure!(
        directory.is_dir(),
        "{} is no directory; name one that holds manifests",
        directory.display()
    );
    let texts = manifests::read(directory).with_context(error)?;
    let mut store = Store::default();
    if good.is_dir() {
        store.update(&manifests::load(good)?);
    }
    let loaded = manifests::load_texts(&texts);
    let view = store.update(&loaded);
    let objects = view
        .objects
        .into_iter()
        .map(|sourced| Arc::unwrap_or_clone(sourced.object))
        .collect();
    Ok(Input {
        texts,
        loaded,
        objects,
        problems: view.problems,
    })
}

/// Remembers the files that are good.
pub(super) fn remember(input: &Input, good: &Path) -> Result<()> {
    let broken: BTreeSet<_> = input
        .loaded
        .files
        .iter()
        .filter(|file| !file.errors.is_empty())
        .map(|file| &file.path)
        .collect();
    for path in manifests::read(good).unwrap_or_default().keys() {
        if !input.texts.contains_key(path) {
            fs::remove_file(good.join(path))?;
        }
    }
    for (path, text) in input.texts.iter().filter(|(path, _)| !broken.contains(path)) {
        super::state::write(&good.join(path), text)?;
    }
    Ok(())
}

/// The nodes that the manifests name, in order of appearance: of Nodes first, then of pods.
pub(super) fn node_names(objects: &[Manifest]) -> Vec<String> {
    let mut names = Vec::new();
    let nodes = objects
        .iter()
        .filter(|object| matches!(object, Manifest::Node(_)))
        .map(|object| object.object_name().name);
    let pods = objects.iter().filter_map(|object| {
        let Manifest::Pod(pod) = object else { return None };
        let name = pod.spec.as_ref()?.node_name.clone();
        name.filter(|name| !name.is_empty())
    });
    for name in nodes.chain(pods) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The pods that are to be, placed. A pod that was there keeps its node, UID and wiring unless its spec changed.
pub(super) fn pods(objects: &[Manifest], state: &mut State) -> Result<BTreeMap<String, Pod>> {
    for name in node_names(objects) {
        if state.node(&name).is_none() {
            let taken = state.aliases.len() % state.nodes.len().max(1);
            let real = state
                .nodes
                .get(taken)
                .context("a lab without nodes")?
                .name
                .clone();
            state.aliases.insert(name, real);
        }
    }
    for object in objects {
        if let Manifest::Node(node) = object {
            let name = node.metadata.name.clone().unwrap_or_default();
            let real = state.aliases.get(&name).unwrap_or(&name).clone();
            if let Some(known) = state.nodes.iter_mut().find(|known| known.name == real) {
                known.labels = node.metadata.labels.clone().unwrap_or_default();
            }
        }
    }
    let mut wanted = BTreeMap::new();
    for object in objects {
        let Manifest::Pod(object) = object else { continue };
        let mut pod = pod(object)?;
        if let Some(name) = object.spec.as_ref().and_then(|spec| spec.node_name.as_ref())
            && let Some(node) = state.node(name)
        {
            pod.node = node.name.clone();
        }
        wanted.insert(pod.key(), pod);
    }
    let mut load: BTreeMap<String, usize> = state.nodes.iter().map(|node| (node.name.clone(), 0)).collect();
    for (key, pod) in &mut wanted {
        let before = state.pods.get(key);
        if pod.node.is_empty()
            && let Some(before) = before
        {
            pod.node.clone_from(&before.node);
        }
        if let Some(count) = load.get_mut(&pod.node) {
            *count += 1;
        }
    }
    for (key, pod) in &mut wanted {
        if pod.node.is_empty() {
            let least = state
                .nodes
                .iter()
                .min_by_key(|node| (load.get(&node.name), node.number));
            pod.node = least.context("a lab without nodes")?.name.clone();
            *load.entry(pod.node.clone()).or_default() += 1;
        }
        match state.pods.get(key) {
            Some(before)
                if before.digest == pod.digest
                    && before.node == pod.node
                    && before.finished == pod.finished
                    && before.dns == pod.dns
                    && (pod.uid.is_empty() || pod.uid == before.uid) =>
            {
                pod.uid.clone_from(&before.uid);
                pod.addresses.clone_from(&before.addresses);
                pod.netns.clone_from(&before.netns);
                pod.waiting.clone_from(&before.waiting);
            }
            Some(_) | None => {
                if pod.uid.is_empty() {
                    pod.uid = uuid()?;
                }
                pod.waiting = (!pod.finished).then(|| "it was not started yet".to_owned());
            }
        }
    }
    Ok(wanted)
}

/// A random UUID.
pub(crate) fn uuid() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?
        .trim()
        .to_owned())
}

fn pod(object: &v1::Pod) -> Result<Pod> {
    let meta = &object.metadata;
    let spec = object.spec.clone().unwrap_or_default();
    let labels = meta.labels.clone().unwrap_or_default();
    let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
    let mut ports = Vec::new();
    let containers = spec.containers.iter().chain(
        // Sidecars run beside the others; other init containers have ended.
        spec.init_containers
            .iter()
            .flatten()
            .filter(|init| init.restart_policy.as_deref() == Some("Always")),
    );
    for port in containers.flat_map(|container| container.ports.iter().flatten()) {
        ports.push(Port {
            name: port.name.clone(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: u16::try_from(port.container_port).context("containerPort")?,
            host_port: port
                .host_port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0),
        });
    }
    let digest = Sha256::digest(serde_json::to_vec(&spec)?);
    Ok(Pod {
        namespace: meta
            .namespace
            .clone()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".to_owned()),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        host_network: spec.host_network.unwrap_or(false),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        dns: labels.get("k8s-app").is_some_and(|app| app == "kube-dns"),
        ports,
        labels,
        digest: digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect(),
        object: serde_json::to_value(object)?,
        ..Pod::default()
    })
}

/// The Services that are to be, with addresses; one that was there keeps them.
pub(super) fn services(objects: &[Manifest], state: &State) -> BTreeMap<String, Service> {
    let mut services = BTreeMap::new();
    let mut taken = BTreeSet::new();
    let mut node_ports = BTreeSet::new();
    for object in objects {
        let Manifest::Service(object) = object else {
            continue;
        };
        let service = service(object, state.families);
        taken.extend(service.addresses.iter().copied());
        node_ports.extend(service.ports.iter().filter_map(|port| port.node_port));
        services.insert(
            format!("{}/{}", service.namespace, service.name),
            (service, object),
        );
    }
    let mut result = BTreeMap::new();
    for (key, (mut service, object)) in services {
        let spec = object.spec.clone().unwrap_or_default();
        let headless =
            spec.cluster_ip.as_deref() == Some("None") || spec.type_.as_deref() == Some("ExternalName");
        let before = state.services.get(&key);
        for v6 in [false, true] {
            let there = if v6 {
                state.families.v6()
            } else {
                state.families.v4()
            };
            if headless || !there || service.addresses.iter().any(|address| address.is_ipv6() == v6) {
                continue;
            }
            let single = spec.ip_family_policy.as_deref() == Some("SingleStack");
            if single && !service.addresses.is_empty() {
                continue;
            }
            let kept = before.and_then(|before| {
                before
                    .addresses
                    .iter()
                    .copied()
                    .find(|address| address.is_ipv6() == v6)
            });
            let free = kept.filter(|address| !taken.contains(address)).or_else(|| {
                let used = |address: &IpAddr| {
                    !taken.contains(address)
                        && !state
                            .services
                            .values()
                            .any(|other| other.addresses.contains(address))
                };
                (0x101..0xffff_u16)
                    .map(|number| cluster_ip(number, v6))
                    .find(used)
            });
            if let Some(address) = free {
                taken.insert(address);
                service.addresses.push(address);
            }
        }
        if matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")) {
            for (index, port) in service
                .ports
                .iter_mut()
                .enumerate()
                .filter(|(_, port)| port.node_port.is_none())
            {
                let kept = before.and_then(|before| before.ports.get(index)?.node_port);
                port.node_port = kept
                    .filter(|port| !node_ports.contains(port))
                    .or_else(|| (30000..32768).find(|port| !node_ports.contains(port)));
                node_ports.extend(port.node_port);
            }
        }
        result.insert(key, service);
    }
    result
}

fn cluster_ip(number: u16, v6: bool) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    if v6 {
        IpAddr::from([0xfd00, 0x10, 0x96, 0, 0, 0, 0, number])
    } else {
        IpAddr::from([10, 96, high, low])
    }
}

fn service(object: &v1::Service, families: Families) -> Service {
    let meta = &object.metadata;
    let spec = object.spec.clone().unwrap_or_default();
    let asked = spec
        .cluster_ips
        .clone()
        .unwrap_or_default()
        .into_iter()
        .chain(spec.cluster_ip.clone());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in asked.filter_map(|text| text.parse::<IpAddr>().ok()) {
        let there = if address.is_ipv6() {
            families.v6()
        } else {
            families.v4()
        };
        if there && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(ServicePort {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
            port: u16::try_from(port.port).ok()?,
            target: match &port.target_port {
                Some(IntOrString::Int(number)) => number.to_string(),
                Some(IntOrString::String(name)) => name.clone(),
                None => port.port.to_string(),
            },
            node_port: port
                .node_port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0),
        })
    });
    Service {
        namespace: meta
            .namespace
            .clone()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".to_owned()),
        name: meta.name.clone().unwrap_or_default(),
        addresses,
        ports: ports.collect(),
        selector: spec.selector.clone(),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        sticky: (spec.session_affinity.as_deref() == Some("ClientIP")).then_some(10800),
        external_ips: spec
            .external_ips
            .iter()
            .flatten()
            .filter_map(|text| text.parse().ok())
            .collect(),
    }
}
