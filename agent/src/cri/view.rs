//! What a runtime says about itself, from the JSON texts in its verbose answers.
//!
//! containerd: `info["cniconfig"]` is go-cni's `ConfigResult` (cni.go), the chain in memory; a key `lastCNILoadStatus.NAME`
//! for every runtime handler with a directory of its own (`internal/cri/server/status.go`). CRI-O tells neither.

use std::{collections::HashMap, net::IpAddr, path::PathBuf};

use serde::Deserialize;
use vethwall_cni::conflist::PLUGIN;

/// Which runtime it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// containerd, also k3s' and MicroK8s'.
    Containerd,
    /// CRI-O.
    Crio,
    /// Another, such as cri-dockerd.
    Other,
}

/// What the runtime says of itself and of the chain that it has in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Which it is.
    pub kind: Kind,
    /// Its name, as it gives it.
    pub name: String,
    /// Its version, as it gives it: `1.6.20~ds1`, `v2.2.1-k3s1`.
    pub version: String,
    /// Where it was asked.
    pub socket: String,
    /// What it has read of its CNI directory; `None` where it does not tell.
    pub cni: Option<Cni>,
    /// Runtime handlers that have a CNI directory of their own (`cni_conf_dir`): whoever starts a pod with one of these
    /// comes by no chain of ours.
    pub handlers: Vec<String>,
}

/// The runtime's CNI, as it has it in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cni {
    /// The directory of network lists.
    pub conf_dir: PathBuf,
    /// The directories of plugins.
    pub bin_dirs: Vec<PathBuf>,
    /// How many lists of the directory a pod is given; 0 is all of them.
    pub max_conf_num: i64,
    /// The plugins of every list in memory, but for the loopback's, in their order.
    pub plugins: Vec<String>,
}

impl Cni {
    /// Whether a pod that starts now comes by our plugin.
    #[must_use]
    pub fn names_us(&self) -> bool {
        self.plugins.iter().any(|plugin| plugin == PLUGIN)
    }
}

impl View {
    pub(super) fn new(name: &str, version: &str, socket: &str, info: &HashMap<String, String>) -> Self {
        let kind = match name {
            "containerd" => Kind::Containerd,
            "cri-o" => Kind::Crio,
            _ => Kind::Other,
        };
        let mut handlers: Vec<String> = info
            .keys()
            .filter_map(|key| key.strip_prefix("lastCNILoadStatus."))
            .filter(|handler| *handler != "default")
            .map(str::to_owned)
            .collect();
        handlers.sort();
        Self {
            kind,
            name: name.to_owned(),
            version: version.to_owned(),
            socket: socket.to_owned(),
            cni: info
                .get("cniconfig")
                .and_then(|text| serde_json::from_str::<ConfigResult>(text).ok())
                .map(Cni::from),
            handlers,
        }
    }

    /// Whether it reads drop-in files beside a list: libcni 1.3, in containerd since 2.1 and in CRI-O since 1.33.
    #[must_use]
    pub fn reads_dropins(&self) -> bool {
        match self.kind {
            Kind::Containerd => release(&self.version) >= Some((2, 1)),
            Kind::Crio => release(&self.version) >= Some((1, 33)),
            Kind::Other => false,
        }
    }
}

/// Major and minor number of a version.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version
        .trim_start_matches('v')
        .split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?))
}

/// Go writes a list without elements as null.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigResult {
    plugin_dirs: Option<Vec<PathBuf>>,
    plugin_conf_dir: PathBuf,
    plugin_max_conf_num: i64,
    networks: Option<Vec<Network>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Network {
    #[serde(rename = "Config")]
    config: Option<List>,
    #[serde(rename = "IFName")]
    ifname: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct List {
    plugins: Option<Vec<Plugin>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Plugin {
    network: PluginConfig,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PluginConfig {
    r#type: String,
}

impl From<ConfigResult> for Cni {
    fn from(told: ConfigResult) -> Self {
        let networks = told.networks.into_iter().flatten();
        let networks = networks.filter(|network| network.ifname != "lo");
        Self {
            conf_dir: told.plugin_conf_dir,
            bin_dirs: told.plugin_dirs.unwrap_or_default(),
            max_conf_num: told.plugin_max_conf_num,
            plugins: networks
                .filter_map(|network| network.config?.plugins)
                .flatten()
                .map(|plugin| plugin.network.r#type)
                .collect(),
        }
    }
}

/// A pod's sandbox, as the runtime knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's name for it.
    pub id: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's UID; a static pod's is the hash of its configuration.
    pub uid: String,
    /// Names of the interfaces that CNI made for it on the host, the bridge among them. Empty for pods in the node's network,
    /// and where the runtime does not tell.
    pub host_interfaces: Vec<String>,
    /// MAC address of the pod's own interface.
    pub mac: String,
    /// The pod's own addresses.
    pub addresses: Vec<IpAddr>,
}

/// go-cni's `Result` (result.go), in containerd's `info["info"]` as `cniResult`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct SandboxInfo {
    #[serde(rename = "cniResult")]
    cni_result: Option<CniResult>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CniResult {
    #[serde(rename = "Interfaces")]
    interfaces: HashMap<String, CniInterface>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CniInterface {
    #[serde(rename = "IPConfigs")]
    addresses: Option<Vec<CniAddress>>,
    #[serde(rename = "Mac")]
    mac: String,
    #[serde(rename = "Sandbox")]
    sandbox: String,
}

#[derive(Deserialize)]
struct CniAddress {
    #[serde(rename = "IP")]
    ip: IpAddr,
}

/// A sandbox with what its verbose status says. The pod's own interface is `eth0`, as every runtime names it.
pub(super) fn sandbox(
    id: String,
    namespace: String,
    pod: String,
    uid: String,
    info: &HashMap<String, String>,
) -> Sandbox {
    let told = info
        .get("info")
        .and_then(|text| serde_json::from_str::<SandboxInfo>(text).ok())
        .and_then(|info| info.cni_result);
    let mut interfaces = told.unwrap_or_default().interfaces;
    let own = interfaces.remove("eth0").filter(|own| !own.sandbox.is_empty());
    let mut host_interfaces: Vec<String> = interfaces
        .into_iter()
        .filter(|(_, interface)| interface.sandbox.is_empty())
        .map(|(name, _)| name)
        .collect();
    host_interfaces.sort();
    let own = own.unwrap_or_default();
    Sandbox {
        id,
        namespace,
        pod,
        uid,
        host_interfaces,
        mac: own.mac,
        addresses: own
            .addresses
            .unwrap_or_default()
            .into_iter()
            .map(|a| a.ip)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As containerd 1.6.20 prints it, shortened.
    const CNICONFIG: &str = r#"{"PluginDirs":["/opt/cni/bin"],"PluginConfDir":"/etc/cni/net.d","PluginMaxConfNum":1,
        "Prefix":"eth","Networks":[
        {"Config":{"Name":"cni-loopback","CNIVersion":"0.3.1","Plugins":[{"Network":{"type":"loopback","ipam":{},"dns":{}},
          "Source":"{\"type\":\"loopback\"}"}],"Source":"..."},"IFName":"lo"},
        {"Config":{"Name":"cbr0","CNIVersion":"0.3.1","Plugins":[{"Network":{"type":"flannel"},"Source":"..."},
          {"Network":{"type":"vethwall-cni"},"Source":"..."}],"Source":"..."},"IFName":"eth0"}]}"#;

    fn view(name: &str, version: &str, info: &[(&str, &str)]) -> View {
        let info = info
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        View::new(name, version, "/run/x.sock", &info)
    }

    #[test]
    fn containerd_tells_its_chain() {
        let told = view(
            "containerd",
            "1.6.20~ds1",
            &[("cniconfig", CNICONFIG), ("config", "{}")],
        );
        let cni = told.cni.clone().unwrap();
        assert_eq!(cni.plugins, ["flannel", PLUGIN]);
        assert!(cni.names_us());
        assert_eq!(
            (cni.conf_dir, cni.bin_dirs, cni.max_conf_num),
            ("/etc/cni/net.d".into(), vec!["/opt/cni/bin".into()], 1)
        );
        assert!(told.handlers.is_empty());
        let without = CNICONFIG.replace(PLUGIN, "portmap");
        assert!(
            !view("containerd", "v2", &[("cniconfig", &without)])
                .cni
                .unwrap()
                .names_us()
        );
    }

    #[test]
    fn what_is_not_understood_is_not_told() {
        for text in [
            "",
            "{",
            "7",
            r#"{"Networks":7}"#,
            r#"{"Networks":[{"Config":7}]}"#,
        ] {
            assert_eq!(
                view("containerd", "v2.1.0", &[("cniconfig", text)]).cni,
                None,
                "{text}"
            );
        }
        let nothing =
            r#"{"PluginDirs":null,"PluginMaxConfNum":1,"Networks":[{"Config":null,"IFName":"eth0"}]}"#;
        for text in [nothing, r#"{"Networks":null}"#] {
            let empty = view("containerd", "v2.1.0", &[("cniconfig", text)]).cni.unwrap();
            assert!(!empty.names_us());
        }
        assert_eq!(view("cri-o", "1.33.0", &[]).cni, None);
    }

    #[test]
    fn handlers_with_a_directory_of_their_own_are_told() {
        let keys = [
            ("lastCNILoadStatus", "OK"),
            ("lastCNILoadStatus.default", "OK"),
            ("lastCNILoadStatus.kata", "OK"),
        ];
        assert_eq!(view("containerd", "v2.0.0", &keys).handlers, ["kata"]);
    }

    #[test]
    fn dropins_are_read_by_who_has_libcni_1_3() {
        for (name, version, reads) in [
            ("containerd", "1.6.20~ds1", false),
            ("containerd", "v2.0.7", false),
            ("containerd", "v2.1.0-k3s1", true),
            ("containerd", "2.10.1", true),
            ("cri-o", "1.32.4", false),
            ("cri-o", "1.33.0", true),
            ("docker", "27.1", false),
            ("containerd", "unknown", false),
        ] {
            assert_eq!(
                view(name, version, &[]).reads_dropins(),
                reads,
                "{name} {version}"
            );
        }
    }

    #[test]
    fn a_sandbox_tells_its_interfaces() {
        let info = r#"{"pid":7,"cniResult":{"Interfaces":{"cni0":{"IPConfigs":null,"Mac":"0a:00:00:00:00:01","Sandbox":""},
            "eth0":{"IPConfigs":[{"IP":"10.244.0.2","Gateway":"10.244.0.1"},{"IP":"fd00::2","Gateway":""}],
              "Mac":"0a:00:00:00:00:03","Sandbox":"/var/run/netns/cni-1"},
            "veth1":{"IPConfigs":null,"Mac":"0a:00:00:00:00:02","Sandbox":""}},"DNS":[{}],"Routes":null}}"#;
        let told = HashMap::from([("info".to_owned(), info.to_owned())]);
        let of =
            |told: &HashMap<String, String>| sandbox("c".into(), "n".into(), "p".into(), "u".into(), told);
        let found = of(&told);
        assert_eq!(found.host_interfaces, ["cni0", "veth1"]);
        assert_eq!(found.mac, "0a:00:00:00:00:03");
        assert_eq!(found.addresses.len(), 2);
        let hostile = HashMap::from([("info".to_owned(), info.replace("10.244.0.2", "ten"))]);
        assert!(of(&hostile).host_interfaces.is_empty());
        assert_eq!(of(&HashMap::new()).pod, "p");
    }
}
