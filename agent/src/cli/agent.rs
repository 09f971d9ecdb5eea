//! `vethwall agent`: what the agent is told on its command line.

use std::path::PathBuf;

use clap::Args;
use vethwall_common::ABI_VERSION;

use super::{
    Exit, Failure, Global,
    node::{places, wanted},
    text::escape,
};
use crate::{
    api::{chain::ChainMode, settings::Settings},
    chain::{self, keeper},
    cluster::{self, Place},
    config::{Config, Given, live::Followed},
    run::{AgentConfig, Source},
};

#[derive(Debug, Args)]
#[command(after_help = "\
What is not given on the command line is taken from the environment (--max-pods is
VETHWALL_MAX_PODS), else from the file (YAML: maxPods), else it is as said above. mode and log are
taken over from the file when it changes; anything else needs a restart, which interrupts nothing.

Objects come from the API server of the cluster that the agent is a pod of, by its service account;
with --kubeconfig from another. It needs the rights to list and watch pods, namespaces, nodes,
networkpolicies and clusternetworkpolicies. While the API server is away, what was known stays in
force. With --manifests they come from a directory instead.

The directory holds ordinary Kubernetes manifests (YAML or JSON): Namespaces, Pods with their
status, Nodes and NetworkPolicies. It is watched; a file that can not be read leaves the last good
version of its objects in force.

When the agent stops, enforcement goes on: the programs and maps
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
  vethwall agent --node node-a --kubeconfig /etc/vethwall/kubeconfig
  vethwall agent --manifests /etc/vethwall/manifests
  vethwall agent --config /etc/vethwall/config.yaml
  vethwall agent --manifests ./cluster --node node-a --run-dir /run/vethwall --log debug")]
pub(crate) struct AgentArgs {
    /// Configuration, whose keys are the flags below.
    #[arg(long, value_name = "FILE", env = "VETHWALL_CONFIG", hide_env = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    given: Given,
}

impl AgentArgs {
    pub(super) fn config(self, global: &Global, log_color: bool) -> Result<AgentConfig, Failure> {
        let config = wanted(self.given.over(self.config.as_deref()))?;
        let followed = self.config.map(|file| Followed {
            file,
            given: self.given,
            running: config.clone(),
        });
        let source = source(&config)?;
        // After what may be wrong, since it may wait for the runtime.
        let places = places(&config, config.chain != ChainMode::Off);
        let Config {
            mode,
            log,
            existing_connections,
            own_node_egress,
            fail_open_namespaces,
            max_pods,
            hook,
            chain,
            bridge,
            cri_socket,
            cni_conf_dir: _,
            cni_bin_dir: _,
            cni_cache,
            startup_taint,
            bpffs,
            node,
            plugin,
            http,
            kubeconfig: _,
            early_addresses,
            namespace,
            pod,
            manifests: _,
        } = config;
        let node = match node {
            Some(node) => node,
            None => host_name()?,
        };
        let home = namespace
            .filter(|_| early_addresses)
            .map(|namespace| cluster::Home {
                namespace,
                pod,
                node: node.clone(),
            });
        let mut fail_open: Vec<String> = fail_open_namespaces.into_iter().map(String::from).collect();
        fail_open.sort();
        fail_open.dedup();
        let hook = hook.into();
        let entry = chain::entry(&global.run_dir, &bpffs, hook, &fail_open);
        Ok(AgentConfig {
            source,
            home,
            node,
            run_dir: global.run_dir.clone(),
            bpffs,
            abi: ABI_VERSION,
            cni_cache,
            bridge,
            settings: Settings {
                mode,
                existing_connections,
                own_node_egress,
            },
            fail_open_namespaces: fail_open,
            hook,
            max_pods: max_pods.get(),
            chain: keeper::Settings {
                mode: chain,
                places,
                entry,
                plugin,
                runtime: cri_socket,
            },
            http,
            startup_taint,
            followed,
            log,
            log_color,
        })
    }
}

/// Where objects come from.
fn source(config: &Config) -> Result<Source, Failure> {
    let wrong = |text: &str| Err(Failure::Usage(text.to_owned()));
    match (&config.manifests, &config.kubeconfig) {
        (Some(_), Some(_)) => wrong(
            "--kubeconfig and --manifests: objects come from a cluster or from a directory, not from both",
        ),
        (Some(_), None) if config.startup_taint => {
            wrong("--startup-taint: a directory of manifests has no nodes that could be changed")
        }
        (Some(directory), None) => Ok(Source::Manifests(directory.clone())),
        (None, Some(file)) => Ok(Source::Cluster(Place::Kubeconfig(file.clone()))),
        (None, None) => Ok(Source::Cluster(Place::InCluster)),
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
