//! What the runtime hands over: environment variables and the configuration on standard input.

use std::{borrow::Cow, ffi::OsString, path::PathBuf};

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use vethwall_common::maps::BPFFS;
use vethwall_datapath::Choice;

use crate::{code, error::CniError, proto::RUN_DIR};

/// Versions of the specification that we know; runtimes compare these strings exactly.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The newest of [`VERSIONS`].
pub const NEWEST: &str = "1.1.0";
/// Bytes of standard input. Longer configurations are refused and not read on.
pub const MAX_STDIN: usize = 1 << 20;

/// The verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Wire a pod.
    Add,
    /// A pod goes.
    Del,
    /// Is the pod still wired?
    Check,
    /// Would ADD work?
    Status,
    /// Drop what belongs to no pod.
    Gc,
    /// Which versions?
    Version,
}

/// The environment variables of the specification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_NETNS; DEL may come without.
    pub netns: Option<PathBuf>,
    /// CNI_IFNAME.
    pub ifname: String,
    /// CNI_ARGS.
    pub args: String,
    /// A variable whose value is no UTF-8: what it says is not known.
    pub garbled: Option<&'static str>,
    /// Not a variable: the plugin was uninstalled ([`crate::retired`]).
    pub retired: bool,
}

impl Environment {
    /// Reads the variables; the command decides which must be there.
    pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let mut garbled = None;
        let mut text = |name: &'static str| {
            let value = get(name).unwrap_or_default();
            value.into_string().unwrap_or_else(|value| {
                garbled = Some(name);
                value.to_string_lossy().into_owned()
            })
        };
        Self {
            container_id: text("CNI_CONTAINERID"),
            netns: get("CNI_NETNS")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            ifname: text("CNI_IFNAME"),
            args: text("CNI_ARGS"),
            garbled,
            retired: false,
        }
    }

    /// Refuses what can not be read; only cleaning up goes on without.
    pub fn check(&self) -> Result<(), CniError> {
        self.garbled.map_or(Ok(()), |name| {
            let msg = format!("vethwall: {name} is no UTF-8 text");
            Err(CniError::new(code::ENVIRONMENT, msg))
        })
    }

    /// The value of a key in CNI_ARGS (`K=V;K=V`); empty where it is absent.
    pub fn argument(&self, key: &str) -> &str {
        let pairs = self.args.split(';').filter_map(|pair| pair.split_once('='));
        pairs
            .filter(|(name, _)| *name == key)
            .map(|(_, value)| value)
            .next_back()
            .unwrap_or_default()
    }
}

/// Which command is asked for.
pub fn command(name: Option<&str>) -> Result<Command, CniError> {
    match name {
        Some("ADD") => Ok(Command::Add),
        Some("DEL") => Ok(Command::Del),
        Some("CHECK") => Ok(Command::Check),
        Some("STATUS") => Ok(Command::Status),
        Some("GC") => Ok(Command::Gc),
        Some("VERSION") => Ok(Command::Version),
        Some(other) => Err(CniError::new(
            code::ENVIRONMENT,
            format!("vethwall: unknown CNI_COMMAND {other:?}"),
        )),
        None => Err(CniError::new(
            code::ENVIRONMENT,
            "vethwall: CNI_COMMAND is not set; this program is called by a container runtime",
        )),
    }
}

/// The configuration, as far as it is ours. Everything else is left alone.
#[derive(Debug, Deserialize)]
pub struct Config<'a> {
    /// Version of the configuration and of the result.
    #[serde(rename = "cniVersion", default = "oldest")]
    pub cni_version: String,
    /// Where the agent listens.
    #[serde(rename = "runDir", default = "run_dir")]
    pub run_dir: PathBuf,
    /// Where the programs are pinned.
    #[serde(default = "bpffs")]
    pub bpffs: PathBuf,
    /// How programs are attached: `best`, `tcx` or `clsact`. The agent is told the same by `--hook`.
    #[serde(default, deserialize_with = "hook")]
    pub hook: Choice,
    /// Namespaces whose pods start without enforcement while the agent does not answer (see [`Config::fails_open`]).
    #[serde(rename = "failOpenNamespaces", default)]
    pub fail_open_namespaces: Vec<String>,
    /// The previous plugin's result, byte for byte.
    #[serde(rename = "prevResult", borrow, default)]
    pub prev_result: Option<&'a RawValue>,
}

/// What an absent version means (CNI specification, section "Network configuration format").
fn oldest() -> String {
    "0.1.0".to_owned()
}

fn hook<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Choice, D::Error> {
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    text.parse()
        .map_err(|error: vethwall_datapath::Error| serde::de::Error::custom(error))
}

fn run_dir() -> PathBuf {
    PathBuf::from(RUN_DIR)
}

fn bpffs() -> PathBuf {
    PathBuf::from(BPFFS)
}

impl Default for Config<'_> {
    fn default() -> Self {
        Self {
            cni_version: oldest(),
            run_dir: run_dir(),
            bpffs: bpffs(),
            hook: Choice::Best,
            fail_open_namespaces: Vec::new(),
            prev_result: None,
        }
    }
}

impl<'a> Config<'a> {
    /// Reads standard input.
    pub fn parse(stdin: &'a [u8]) -> Result<Self, CniError> {
        let failed = |why: String| {
            CniError::new(
                code::DECODE,
                "vethwall: the network configuration is not understood; mend the runtime's network list",
            )
            .because(why)
        };
        if stdin.len() > MAX_STDIN {
            return Err(failed(format!("it has more than {MAX_STDIN} bytes")));
        }
        serde_json::from_slice(stdin).map_err(|error| failed(error.to_string()))
    }

    /// The previous plugin's result, without which there is no interface to protect.
    pub fn result(&self) -> Result<&'a RawValue, CniError> {
        self.prev_result.ok_or_else(|| {
            CniError::new(
                code::CONFIG,
                "vethwall: must be called as a chained plugin, after the one that makes the interface",
            )
        })
    }

    /// Whether a pod of this namespace starts, unprotected, where nobody answers. The namespace is the runtime's word
    /// (CNI_ARGS), not the pod's. Exact names only: a pattern would open namespaces that nobody thought of.
    pub fn fails_open(&self, namespace: &str) -> bool {
        !namespace.is_empty() && self.fail_open_namespaces.iter().any(|name| name == namespace)
    }

    /// Refuses versions without chaining, and those of which nothing is known yet.
    pub fn check_version(&self) -> Result<(), CniError> {
        let version = self.cni_version.as_str();
        // We hand the result through as it is, so a later 1.x changes nothing for us.
        if VERSIONS.contains(&version) || version.starts_with("1.") {
            return Ok(());
        }
        let msg = format!("vethwall: CNI version {version} is not supported");
        Err(CniError::new(code::VERSION, msg).because(format!("supported: {}", VERSIONS.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_of_the_chain_is_kept_to_the_byte() {
        let result =
            "{ \"cniVersion\" : \"0.3.1\",\n\t\"ips\":[ {\"version\":\"4\",\"x\":1.50} ],\"é\\u00e9\":{} }";
        let text = format!("{{\"cniVersion\":\"0.3.1\",\"prevResult\" : {result} ,\"name\":\"cbr0\"}}");
        let config = Config::parse(text.as_bytes()).unwrap();
        assert_eq!(config.prev_result.unwrap().get(), result);
        assert_eq!(config.run_dir, PathBuf::from("/run/vethwall"));
    }

    #[test]
    fn versions() {
        for good in VERSIONS.iter().chain(&["1.2.0"]) {
            let text = format!("{{\"cniVersion\":\"{good}\"}}");
            Config::parse(text.as_bytes()).unwrap().check_version().unwrap();
        }
        for bad in [
            "{}",
            "{\"cniVersion\":\"0.2.0\"}",
            "{\"cniVersion\":\"2.0.0\"}",
            "{\"cniVersion\":\"\"}",
        ] {
            let error = Config::parse(bad.as_bytes())
                .unwrap()
                .check_version()
                .unwrap_err();
            assert_eq!(error.code, code::VERSION, "{bad}");
        }
        for broken in ["", "{\"cniVersion\":1}", "{\"bpffs\":7,\"cniVersion\":\"1.0.0\"}"] {
            assert_eq!(
                Config::parse(broken.as_bytes()).unwrap_err().code,
                code::DECODE,
                "{broken}"
            );
        }
    }

    #[test]
    fn hooks() {
        let hook = |text: &str| Config::parse(text.as_bytes()).map(|config| config.hook);
        assert_eq!(hook("{}").unwrap(), Choice::Best);
        assert_eq!(
            hook("{\"hook\":\"clsact\"}").unwrap(),
            Choice::Only(vethwall_datapath::Hook::Clsact)
        );
        assert_eq!(hook("{\"hook\":\"xdp\"}").unwrap_err().code, code::DECODE);
    }

    #[test]
    fn only_namespaces_that_are_listed_fail_open() {
        let text = r#"{"failOpenNamespaces":["kube-system",""]}"#;
        let config = Config::parse(text.as_bytes()).unwrap();
        assert!(config.fails_open("kube-system"));
        for other in ["", "kube", "kube-system2", "KUBE-SYSTEM", "*"] {
            assert!(!config.fails_open(other), "{other}");
        }
        assert!(!Config::parse(b"{}").unwrap().fails_open("kube-system"));
        // What is not understood opens nothing: the pod waits.
        let broken = Config::parse(br#"{"failOpenNamespaces":"kube-system"}"#);
        assert_eq!(broken.unwrap_err().code, code::DECODE);
    }

    #[test]
    fn arguments() {
        let environment = Environment {
            args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b=c;;X".to_owned(),
            ..Environment::default()
        };
        assert_eq!(environment.argument("K8S_POD_NAMESPACE"), "a");
        assert_eq!(environment.argument("K8S_POD_NAME"), "b=c");
        assert_eq!(environment.argument("K8S_POD_UID"), "");
    }
}
