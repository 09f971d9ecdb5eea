//! `vethwall agent`: what the agent is told on its command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum, builder::PossibleValue};
use vethwall_common::ABI_VERSION;
use vethwall_datapath::Choice;

use super::{Exit, Failure, Global, node::NodeArgs, text::escape};
use crate::{
    api::chain::ChainMode,
    api::status::{ExistingConnections, OwnNodeEgress, Settings},
    chain::{self, keeper},
    run::AgentConfig,
};

#[derive(Debug, Args)]
#[command(after_help = "\
The directory holds ordinary Kubernetes manifests (YAML or JSON): Namespaces, Pods with their
status, Nodes and NetworkPolicies. It is watched; a file that can not be read leaves the last good
version of its objects in force. When the agent stops, enforcement goes on: the programs and maps
stay in the kernel. The best hook is tcx where the kernel has it (6.6); tell the plugin the same by
the key \"hook\" of its configuration.

Connections that run while policy changes, or that are older than vethwall, are judged again at
their next packet; with --existing-connections keep they go on until they end by themselves. What
a pod sends to its own node is judged like the rest; with --own-node-egress allow it always passes.

With --chain own the agent writes a list of its own into the runtime's directory, that sorts before
flannel's and says the same with the plugin behind it; dropin writes a file beside flannel's list
(containerd 2.1, CRI-O 1.33), patch edits flannel's list and puts the entry back whenever it is
lost, external only looks. auto is own on containerd; where flannel's list sorts first, where pods
are given several lists, and on CRI-O it is dropin if the runtime reads such files, else patch.
The runtime (containerd, k3s', MicroK8s' or CRI-O) is asked over its socket which directories it
reads and whether it has read the chain; it is told nothing. Without it, the usual directories.

A pod does not start while its policies can not be in force. For namespaces that the node can not
do without, --fail-open-namespaces a,b says otherwise: while no agent answers, their pods start
without enforcement, and an agent that is back takes them over. The chain entry tells the plugin.

The tables of connections have room for 512 a pod of --max-pods. Those that the kernel has already
keep their size, so that no connection is forgotten, until the node is booted again.

Examples:
  vethwall agent --manifests /etc/vethwall/manifests
  vethwall agent --manifests ./cluster --node node-a --run-dir /run/vethwall --log debug")]
pub(crate) struct AgentArgs {
    /// Directory of manifests to enforce.
    #[arg(long, value_name = "DIR")]
    manifests: PathBuf,
    /// Name of this node [default: the host's name].
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Where bpffs is mounted.
    #[arg(long, value_name = "DIR", default_value = vethwall_common::maps::BPFFS)]
    bpffs: PathBuf,
    /// CNI results, to find pods by.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni/results")]
    cni_cache: PathBuf,
    /// The bridge that flannel attaches pods to.
    #[arg(long, value_name = "NAME", default_value = "cni0")]
    bridge: String,
    /// Policy changes: `rejudge` or `keep` them.
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        hide_possible_values = true,
        default_value_t
    )]
    existing_connections: ExistingConnections,
    /// Pods to their node: by `policy`, or `allow`.
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        hide_possible_values = true,
        default_value_t
    )]
    own_node_egress: OwnNodeEgress,
    /// How programs are attached: tcx, clsact or best.
    #[arg(long, value_name = "HOOK", default_value = "best")]
    hook: Choice,
    /// Pods that the node may hold.
    #[arg(long, value_name = "N", default_value_t = 110, value_parser = clap::value_parser!(u32).range(1..))]
    max_pods: u32,
    /// own, dropin, patch, external, off: see below.
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        hide_possible_values = true,
        default_value_t
    )]
    chain: ChainMode,
    /// Namespaces whose pods start unprotected while no agent answers.
    #[arg(long, value_name = "NS", value_delimiter = ',', value_parser = namespace)]
    fail_open_namespaces: Vec<String>,
    /// The plugin's program, to install and to put back when it is lost.
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    #[command(flatten)]
    node_args: NodeArgs,
    /// Serves /metrics, /livez, /readyz; several are possible.
    #[arg(long, value_name = "ADDR:PORT")]
    http: Vec<SocketAddr>,
    /// Log on stderr: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: String,
}

impl ValueEnum for ExistingConnections {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Rejudge, Self::Keep]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl ValueEnum for OwnNodeEgress {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Policy, Self::Allow]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl AgentArgs {
    pub(super) fn config(self, global: &Global, log_color: bool) -> Result<AgentConfig, Failure> {
        let node = match self.node {
            Some(node) => node,
            None => host_name()?,
        };
        let mut fail_open = self.fail_open_namespaces;
        fail_open.sort();
        fail_open.dedup();
        let entry = chain::entry(&global.run_dir, &self.bpffs, self.hook, &fail_open);
        Ok(AgentConfig {
            manifests: self.manifests,
            node,
            run_dir: global.run_dir.clone(),
            bpffs: self.bpffs,
            abi: ABI_VERSION,
            cni_cache: self.cni_cache,
            bridge: self.bridge,
            settings: Settings {
                existing_connections: self.existing_connections,
                own_node_egress: self.own_node_egress,
            },
            fail_open_namespaces: fail_open,
            hook: self.hook,
            max_pods: self.max_pods,
            chain: keeper::Settings {
                mode: self.chain,
                places: self.node_args.places(self.chain != ChainMode::Off),
                entry,
                plugin: self.plugin,
                runtime: self.node_args.runtime(),
            },
            http: self.http,
            log_level: self.log,
            log_color,
        })
    }
}

/// A name that a namespace may have (RFC 1123 label): a typing mistake must not open nothing in silence.
fn namespace(text: &str) -> Result<String, String> {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = (1..=63).contains(&text.len())
        && text.chars().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if good {
        Ok(text.to_owned())
    } else {
        Err("no namespace has such a name; patterns are not understood".to_owned())
    }
}

/// The kubelet names a node so, unless it is told otherwise.
fn host_name() -> Result<String, Failure> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").map_err(|e| {
        Failure::Agent(format!(
            "can not read the host's name: {e}\nName the node with: vethwall agent --node NAME"
        ))
    })?;
    Ok(name.trim().to_lowercase())
}

pub(crate) fn run(args: AgentArgs, global: &Global, log_color: bool) -> Result<Exit, Failure> {
    let config = args.config(global, log_color)?;
    crate::run::run(config).map_err(|e| Failure::Agent(escape(&format!("{e:#}")).into_owned()))?;
    Ok(Exit::Yes)
}
