//! What is remembered of a lab between two commands.
//!
//! ```text
//! /run/vethwall-lab/NAME/   state.json  control.sock  cluster/ (what the agents read)  good/ (last good input)  log/
//! ```

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Where labs keep their state.
pub(super) const ROOT: &str = "/run/vethwall-lab";

/// How packets get from node to node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// In VXLAN: flannel's default.
    #[default]
    Vxlan,
    /// By routes to the other nodes.
    HostGw,
}

/// The address families of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Families {
    /// IPv4 only.
    #[default]
    #[value(name = "4")]
    #[serde(rename = "4")]
    V4,
    /// IPv6 only.
    #[value(name = "6")]
    #[serde(rename = "6")]
    V6,
    /// Both.
    #[serde(rename = "dual")]
    Dual,
}

impl Families {
    /// IPv4 is there.
    pub fn v4(self) -> bool {
        self != Self::V6
    }

    /// IPv6 is there.
    pub fn v6(self) -> bool {
        self != Self::V4
    }
}

/// Who enforces policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// vethwall, in the chain and as an agent on every node.
    #[default]
    Vethwall,
    /// Nobody: plain flannel.
    None,
}

/// A lab.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Its name.
    pub name: String,
    /// The supervisor's pid, as seen from outside.
    pub supervisor: u32,
    /// When the supervisor started, in the kernel's ticks: tells it from a later process with its pid.
    pub started: u64,
    /// `up` went through.
    pub complete: bool,
    /// How packets get from node to node.
    pub backend: Backend,
    /// The address families.
    pub families: Families,
    /// Who enforces policies.
    pub engine: Engine,
    /// How vethwall attaches its programs: `best`, `tcx` or `clsact`.
    pub hook: String,
    /// The nodes, by number.
    pub nodes: Vec<Node>,
    /// pid of the outside host's holder, inside the lab.
    pub outside: u32,
    /// Nodes of the manifests that this lab has not, and what stands in for them.
    pub aliases: BTreeMap<String, String>,
    /// Pods by `namespace/name`.
    pub pods: BTreeMap<String, Pod>,
    /// Services by `namespace/name`.
    pub services: BTreeMap<String, Service>,
}

/// A node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its number, from 1.
    pub number: u8,
    /// pid of its holder, inside the lab.
    pub pid: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A pod.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The node it runs on.
    pub node: String,
    /// It is in the node's network namespace.
    pub host_network: bool,
    /// `Succeeded` or `Failed`, if the manifest says so.
    pub finished: bool,
    /// It answers DNS.
    pub dns: bool,
    /// What it serves.
    pub ports: Vec<Port>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses; empty until it is wired.
    pub addresses: Vec<IpAddr>,
    /// Its network namespace below the node's /run/netns.
    pub netns: String,
    /// Of its spec: another one means another pod.
    pub digest: String,
    /// Why it does not run yet.
    pub waiting: Option<String>,
    /// The Pod object as the manifest has it.
    pub object: serde_json::Value,
}

/// A port of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub name: Option<String>,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Its number.
    pub port: u16,
    /// The node's port that leads to it.
    pub host_port: Option<u16>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses, one a family; none for a headless one.
    pub addresses: Vec<IpAddr>,
    /// Labels of the pods behind it; none without a selector.
    pub selector: Option<BTreeMap<String, String>>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `publishNotReadyAddresses` and the like change nothing here; `sessionAffinity: ClientIP` does.
    pub sticky: Option<u32>,
    /// Other addresses that lead to it.
    pub external_ips: Vec<IpAddr>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name.
    pub name: String,
    /// tcp, udp or sctp.
    pub protocol: String,
    /// Its number.
    pub port: u16,
    /// The pods' port: a number or a name.
    pub target: String,
    /// Every node's port that leads to it.
    pub node_port: Option<u16>,
}

impl State {
    /// Where a lab keeps its state.
    pub fn directory(name: &str) -> PathBuf {
        Path::new(ROOT).join(name)
    }

    /// Reads a lab's state.
    pub fn load(name: &str) -> Result<Option<Self>> {
        let path = Self::directory(name).join("state.json");
        match fs::read(&path) {
            Ok(text) => Ok(Some(
                serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))?,
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Writes it, all or nothing.
    pub fn save(&self) -> Result<()> {
        let directory = Self::directory(&self.name);
        write(&directory.join("state.json"), &serde_json::to_vec_pretty(self)?)
    }

    /// The supervisor runs.
    pub fn alive(&self) -> bool {
        self.supervisor != 0 && start_time(self.supervisor) == Some(self.started)
    }

    /// A node by its name, or by the name that the manifests have for it.
    pub fn node(&self, name: &str) -> Option<&Node> {
        let name = self.aliases.get(name).map_or(name, String::as_str);
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The names of all labs.
    pub fn names() -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(ROOT)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

impl Node {
    /// Its address on the underlay.
    pub fn address4(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 99, self.number)
    }

    /// Its address on the underlay.
    pub fn address6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, u16::from(self.number))
    }

    /// Its addresses.
    pub fn addresses(&self, families: Families) -> Vec<IpAddr> {
        let v4 = families.v4().then(|| IpAddr::V4(self.address4()));
        let v6 = families.v6().then(|| IpAddr::V6(self.address6()));
        v4.into_iter().chain(v6).collect()
    }

    /// Its pods' addresses, as flannel counts: from 0.
    pub fn subnet4(&self) -> String {
        format!("10.244.{}.0/24", self.number - 1)
    }

    /// Its pods' addresses.
    pub fn subnet6(&self) -> String {
        format!("fd00:10:244:{:x}::/64", self.number - 1)
    }
}

impl Pod {
    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Its address of a family.
    pub fn address(&self, v6: bool) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv6() == v6)
    }

    /// It answers.
    pub fn running(&self) -> bool {
        !self.finished && self.waiting.is_none() && !self.addresses.is_empty()
    }
}

/// When a process started, in the kernel's ticks; `None` if it is gone or a zombie.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Writes a file, all or nothing, readable for everybody.
pub(crate) fn write(path: &Path, text: &[u8]) -> Result<()> {
    let error = || format!("write {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(error)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.tmp"));
    fs::write(&temporary, text).with_context(error)?;
    fs::rename(&temporary, path).with_context(error)
}
