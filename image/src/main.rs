//! `make image`: the agent, its other name and the plugin as an image.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;
use vethwall_image::{File, Image};

/// Packs static programs as an image, and prints its digest.
#[derive(Debug, Parser)]
struct Args {
    /// The static `vethwall`.
    #[arg(long, value_name = "FILE")]
    agent: PathBuf,
    /// The static `vethwall-cni`.
    #[arg(long, value_name = "FILE")]
    plugin: PathBuf,
    /// The image's name; its tag is the version unless one is given.
    #[arg(long, value_name = "NAME", default_value = concat!("ghcr.io/vethwall/vethwall:", env!("CARGO_PKG_VERSION")))]
    name: String,
    /// Where `vethwall-<architecture>.tar` goes.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

fn main() -> Result<()> {
    let Args {
        agent,
        plugin,
        name,
        out,
    } = Args::parse();
    let program = |path: &PathBuf| {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        anyhow::Ok(File::Program(bytes))
    };
    let label = |key: &str, value: &str| (format!("org.opencontainers.image.{key}"), value.to_owned());
    let image = Image {
        name,
        files: BTreeMap::from([
            ("bin/vethwall".to_owned(), program(&agent)?),
            // So that kubectl finds it where the image is unpacked.
            (
                "bin/kubectl-vethwall".to_owned(),
                File::SameAs("bin/vethwall".to_owned()),
            ),
            ("bin/vethwall-cni".to_owned(), program(&plugin)?),
        ]),
        entrypoint: vec!["/bin/vethwall".to_owned()],
        command: Vec::new(),
        labels: BTreeMap::from([
            label("title", "vethwall"),
            label("description", "NetworkPolicy enforcement for clusters on flannel"),
            label("version", env!("CARGO_PKG_VERSION")),
            label("licenses", env!("CARGO_PKG_LICENSE")),
            label("source", env!("CARGO_PKG_REPOSITORY")),
        ]),
    };
    let archive = image.archive()?;
    fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let path = out.join(format!("vethwall-{}.tar", archive.architecture));
    fs::write(&path, &archive.bytes).with_context(|| format!("write {}", path.display()))?;
    let mut answer = std::io::stdout();
    std::io::Write::write_fmt(
        &mut answer,
        format_args!(
            "{}\n{}\n{} ({} bytes)\n",
            image.name,
            archive.digest,
            path.display(),
            archive.bytes.len()
        ),
    )?;
    Ok(())
}
