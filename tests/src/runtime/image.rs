//! An image `FROM scratch` with one static program, as an archive that containerd imports: no registry is asked.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::sandbox::command;

/// The image's name. It sleeps unless it is told otherwise, so that it serves as the pause image too.
pub const IMAGE: &str = "vethwall.test/pod:1";
/// What it holds: `src/bin/vethwall-pod.rs`.
pub const PROGRAM: &str = "/vethwall-pod";

/// Writes the archive into a directory; its path.
pub(super) fn write(directory: &Path) -> Result<String> {
    let root = directory.join("root");
    fs::create_dir_all(&root)?;
    let program = Path::new(env!("OUT_DIR")).join("vethwall-pod");
    fs::copy(&program, root.join("vethwall-pod")).with_context(|| format!("copy {}", program.display()))?;
    tar(&root, &directory.join("layer.tar"), "vethwall-pod")?;
    let layer = Sha256::digest(fs::read(directory.join("layer.tar"))?);
    let digest: String = layer.iter().map(|byte| format!("{byte:02x}")).collect();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Entrypoint": [PROGRAM], "Cmd": ["pause"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    fs::write(directory.join("config.json"), config.to_string())?;
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    fs::write(directory.join("manifest.json"), manifest.to_string())?;
    let archive = directory.join("image.tar");
    tar(directory, &archive, "manifest.json config.json layer.tar")?;
    Ok(archive.display().to_string())
}

fn tar(from: &Path, to: &Path, names: &str) -> Result<()> {
    let (from, to) = (from.display().to_string(), to.display().to_string());
    let mut arguments = vec!["-C", &from, "-cf", &to];
    arguments.extend(names.split(' '));
    command("tar", &arguments).map(drop)
}
