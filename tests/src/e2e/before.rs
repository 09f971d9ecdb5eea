//! What nodes are like without vethwall, so that it can be seen whether they are so again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use aya::programs::{TcAttachType, tc::SchedClassifier};
use sha2::{Digest as _, Sha256};
use vethwall_datapath::surroundings;

use crate::{
    cluster::{Cluster, Machine},
    runtime::Node,
    sandbox::{BPFFS, command},
};

/// May stay, as long as results that libcni keeps name the plugin: the mark makes it pass all through.
const RESIDUE: [&str; 2] = [
    "/opt/cni/bin/vethwall-cni",
    "/opt/cni/bin/vethwall-cni.uninstalled",
];

/// All that is of interest on each node, as lines.
#[derive(Debug, PartialEq, Eq)]
pub struct Before(BTreeMap<&'static str, BTreeSet<String>>);

impl Before {
    /// As the nodes are now.
    pub fn now(cluster: &Cluster) -> Result<Self> {
        let lines = |worker: &Machine| Ok((worker.name, worker.on(node)?));
        Ok(Self(cluster.workers.iter().map(lines).collect::<Result<_>>()?))
    }

    /// An error that says what is there now and was not, and what is gone.
    pub fn compare(&self, now: &Self) -> Result<()> {
        let mut differences = String::new();
        for (name, was) in &self.0 {
            let is = now.0.get(name).context("a node is gone")?;
            for line in is.difference(was) {
                differences += &format!("{name}: new: {line}\n");
            }
            for line in was.difference(is) {
                differences += &format!("{name}: gone: {line}\n");
            }
        }
        if !differences.is_empty() {
            bail!("the nodes are not as they were:\n{differences}");
        }
        Ok(())
    }
}

fn node(node: &Node) -> Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    for directory in ["/etc/cni/net.d", "/opt/cni/bin"] {
        files(Path::new(directory), true, &mut lines)?;
    }
    for directory in [BPFFS, "/run/vethwall"] {
        files(Path::new(directory), false, &mut lines)?;
    }
    lines.insert(format!("runtime's chain: {}", node.chain()?.join(", ")));
    for interface in surroundings::interfaces()? {
        lines.insert(format!("interface {}", interface.name));
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            let programs = match SchedClassifier::query_tcx(&interface.name, side) {
                Ok((_, programs)) => format!("{} tcx programs", programs.len()),
                // A kernel without tcx says so each time.
                Err(error) => error.to_string(),
            };
            lines.insert(format!("{} {side:?}: {programs}", interface.name));
        }
    }
    lines.extend(said("tc", "qdisc show")?);
    lines.extend(
        said("iptables-save", "")?
            .into_iter()
            .filter(|line| line.contains("FLANNEL")),
    );
    Ok(lines)
}

fn said(program: &str, arguments: &str) -> Result<Vec<String>> {
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    Ok(command(program, &arguments)?.lines().map(str::to_owned).collect())
}

/// All files below a directory, with digests of what is in them or without.
fn files(directory: &Path, contents: bool, lines: &mut BTreeSet<String>) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if RESIDUE.iter().any(|residue| path == Path::new(residue)) {
            continue;
        }
        if path.is_dir() {
            files(&path, contents, lines)?;
        }
        let mut line = path.display().to_string();
        if contents && path.is_file() {
            let read = fs::read(&path).with_context(|| format!("read {line}"))?;
            line += &format!(" {}", hex(&Sha256::digest(read)));
        }
        lines.insert(line);
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
