//! Images `FROM scratch`, as archives that containerd imports: no registry is asked.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::sandbox::command;

/// The image's name. It sleeps unless it is told otherwise, so that it serves as the pause image too.
pub const IMAGE: &str = "vethwall.test/pod:1";
/// What it holds: `src/bin/vethwall-pod.rs`.
pub const PROGRAM: &str = "/vethwall-pod";

/// An image in a file.
#[derive(Clone, Debug)]
pub struct Archive {
    /// The image's name.
    pub name: String,
    /// The file.
    pub file: PathBuf,
}

/// Writes the image of the tests' pods into a directory.
pub fn pod_image(directory: &Path) -> Result<Archive> {
    let root = directory.join("root");
    fs::create_dir_all(&root)?;
    let program = Path::new(env!("OUT_DIR")).join("vethwall-pod");
    fs::copy(&program, root.join("vethwall-pod")).with_context(|| format!("copy {}", program.display()))?;
    Archive::pack(
        directory,
        IMAGE,
        &json!({"Entrypoint": [PROGRAM], "Cmd": ["pause"]}),
    )
}

impl Archive {
    /// Packs `root` in a directory, as an image of one layer, and leaves it beside.
    pub fn pack(directory: &Path, name: &str, config: &Value) -> Result<Self> {
        tar(&directory.join("root"), &directory.join("layer.tar"), ".")?;
        let layer = Sha256::digest(fs::read(directory.join("layer.tar"))?);
        let digest: String = layer.iter().map(|byte| format!("{byte:02x}")).collect();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        fs::write(directory.join("config.json"), config.to_string())?;
        let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
        fs::write(directory.join("manifest.json"), manifest.to_string())?;
        let file = directory.join("image.tar");
        tar(directory, &file, "manifest.json config.json layer.tar")?;
        Ok(Self {
            name: name.to_owned(),
            file,
        })
    }
}

fn tar(from: &Path, to: &Path, names: &str) -> Result<()> {
    let (from, to) = (from.display().to_string(), to.display().to_string());
    let mut arguments = vec!["-C", &from, "-cf", &to];
    arguments.extend(names.split(' '));
    command("tar", &arguments).map(drop)
}
