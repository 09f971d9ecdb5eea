//! flannel as people install it: its DaemonSet, with an image made of this machine's programs.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{Archive, program};
use crate::sandbox::{command, workspace};

/// Namespace, rights, configuration and DaemonSet.
pub(super) const MANIFESTS: &str = include_str!("../../data/cluster/flannel.yaml");
const IMAGE: &str = "vethwall.test/flannel:1";
/// What flanneld calls, all one program.
const IPTABLES: [&str; 6] = [
    "iptables",
    "iptables-save",
    "iptables-restore",
    "ip6tables",
    "ip6tables-save",
    "ip6tables-restore",
];

/// flanneld, flannel's plugin, and what they and their init containers call.
pub(super) fn image(directory: &Path) -> Result<Archive> {
    let root = directory.join("root");
    for path in ["opt/bin", "usr/sbin", "run", "tmp"] {
        fs::create_dir_all(root.join(path))?;
    }
    fs::copy(program("flanneld")?, root.join("opt/bin/flanneld")).context("copy flanneld")?;
    fs::copy(workspace().join(".tools/cni/flannel"), root.join("flannel"))
        .context("copy flannel's plugin; run `make setup`")?;
    let cp = with_libraries(&root, "cp")?;
    link(&cp, &root.join("usr/bin/cp"))?;
    let iptables = with_libraries(&root, "iptables")?;
    for name in IPTABLES {
        link(&iptables, &root.join("usr/sbin").join(name))?;
    }
    // Loaded by iptables when a rule names them.
    let plugins = command(
        "sh",
        &[
            "-c",
            "echo /usr/lib/*/xtables/libxt_*.so /usr/lib/*/xtables/libipt_*.so",
        ],
    )?;
    for plugin in plugins.split_whitespace() {
        copy(&root, Path::new(plugin)).with_context(|| format!("copy {plugin}"))?;
    }
    Archive::pack(directory, IMAGE, &json!({"Entrypoint": ["/opt/bin/flanneld"]}))
}

/// Copies a program and the libraries that it needs, each to where it is here. Returns where the program is.
fn with_libraries(root: &Path, name: &str) -> Result<PathBuf> {
    let found = command("sh", &["-c", &format!("command -v {name}")])?;
    let real = fs::canonicalize(found.trim()).with_context(|| format!("find {name}"))?;
    copy(root, &real)?;
    // NAME => PATH (ADDRESS), or PATH (ADDRESS) for the loader
    let libraries = command("ldd", &[&real.display().to_string()])?;
    for word in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        copy(root, Path::new(word)).with_context(|| format!("copy {word}"))?;
    }
    Ok(real)
}

fn copy(root: &Path, file: &Path) -> Result<()> {
    let to = root.join(file.strip_prefix("/")?);
    fs::create_dir_all(to.parent().context("no parent")?)?;
    fs::copy(file, to).map(drop).context("copy")
}

fn link(to: &Path, at: &Path) -> Result<()> {
    if at.exists() {
        return Ok(());
    }
    symlink(to, at).with_context(|| format!("make {}", at.display()))
}
