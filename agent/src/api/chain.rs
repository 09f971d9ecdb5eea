//! How the runtime comes to call our plugin: `status.chain`.

use serde::{Deserialize, Serialize};

/// How the runtime is told to call our plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChainMode {
    /// `own`; `patch` where flannel's list sorts before a list of ours.
    #[default]
    Auto,
    /// A list of ours that sorts before flannel's, with the same content and our entry. It survives that flannel's is
    /// written again, and a reboot.
    Own,
    /// A file beside flannel's list, in the directory of the network's name: CNI 1.3, so containerd 2.1 or CRI-O 1.33.
    Dropin,
    /// An entry in flannel's own list, put back whenever somebody writes that list.
    Patch,
    /// Somebody else put our entry there; it is only looked at.
    External,
    /// Nobody looks at the CNI directory.
    Off,
}

impl ChainMode {
    /// All, as the command line lists them.
    pub const ALL: [Self; 6] = [
        Self::Auto,
        Self::Own,
        Self::Dropin,
        Self::Patch,
        Self::External,
        Self::Off,
    ];

    /// As it is written on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Own => "own",
            Self::Dropin => "dropin",
            Self::Patch => "patch",
            Self::External => "external",
            Self::Off => "off",
        }
    }
}

/// Where the chain stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ChainState {
    /// Nobody looks.
    #[default]
    Off,
    /// Not written yet: first the node's pods are taken over.
    Waiting,
    /// The file that names our plugin is in place; the runtime has not read it yet.
    Written,
    /// The runtime has our plugin in the chain that it has in memory; or, where it does not tell, the file is in place.
    Chained,
    /// It is not in place; a problem says why.
    Unchained,
    /// An uninstall took it out.
    Removed,
}

impl ChainState {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Off,
        Self::Waiting,
        Self::Written,
        Self::Chained,
        Self::Unchained,
        Self::Removed,
    ];

    /// One word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Waiting => "waiting",
            Self::Written => "written, not read yet",
            Self::Chained => "chained",
            Self::Unchained => "not chained",
            Self::Removed => "removed",
        }
    }
}

/// How the runtime comes to call our plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chain {
    /// As it was asked for.
    pub mode: ChainMode,
    /// Where it stands.
    pub state: ChainState,
    /// The CNI directory.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub directory: String,
    /// The file in it that names our plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// How often it had to be put back since this agent started.
    pub repairs: u64,
    /// When it was put back last, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired: Option<jiff::Timestamp>,
    /// What the runtime says; absent where there is none to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
}

/// What the container runtime says of the chain that it has in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Runtime {
    /// Its name, as it gives it.
    pub name: String,
    /// Its version, as it gives it.
    pub version: String,
    /// Where it is asked.
    pub socket: String,
    /// Whether it calls our plugin; absent where it does not tell, as CRI-O.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names_us: Option<bool>,
    /// Types of the plugins that it calls for a pod, in their order; empty where it does not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<String>,
    /// Why it did not answer the last time; the rest is from before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
