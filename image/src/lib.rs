//! Container images `FROM scratch`: static programs, and an archive of them that every tool imports.
//!
//! ```text
//! programs ─► layer (tar, gzip) ─┐
//! what to start ─► config ───────┼─► archive: OCI image layout, and docker's manifest.json beside it
//!                                └─► digest
//! ```
//!
//! Invariants:
//! - The same programs give the same bytes, on every machine: no time, no owner, entries in the order of their names.
//! - What would not start without files of its own is refused: a program that asks for a loader, or one of another machine.

use std::{collections::BTreeMap, io::Write as _};

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, GzBuilder};
use object::{Architecture, Object as _, read::elf::ElfFile64};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// An image to be made.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// As a registry has it: `host/path:tag`.
    pub name: String,
    /// What it holds, by path without the first slash.
    pub files: BTreeMap<String, File>,
    /// What a container of it starts.
    pub entrypoint: Vec<String>,
    /// With which arguments, unless others are given.
    pub command: Vec<String>,
    /// `org.opencontainers.image.*` and others.
    pub labels: BTreeMap<String, String>,
}

/// A file in an image.
#[derive(Clone, Debug)]
pub enum File {
    /// A static program.
    Program(Vec<u8>),
    /// The same file as the one at this path.
    SameAs(String),
}

/// An image that was made.
#[derive(Clone, Debug)]
pub struct Archive {
    /// A tar file: for `ctr images import`, `docker load`, `podman load`, and as `oci-archive:` for skopeo and buildah.
    pub bytes: Vec<u8>,
    /// `sha256:...` of the manifest, by which registries know the image.
    pub digest: String,
    /// `amd64` or `arm64`, as its programs are.
    pub architecture: &'static str,
}

/// Something that is named by its content.
struct Blob {
    bytes: Vec<u8>,
    digest: String,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            digest: digest(&bytes),
            bytes,
        }
    }

    fn of(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self, kind: &str) -> Value {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{}", self.digest),
            "size": self.bytes.len(),
        })
    }
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Image {
    /// Makes it.
    ///
    /// # Errors
    /// A program is not static, or programs are of different machines.
    pub fn archive(&self) -> Result<Archive> {
        let architecture = self.architecture()?;
        let layer = self.layer()?;
        let packed = Blob::new(gzip(&layer)?);
        let config = Blob::of(&json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
                "Env": ["PATH=/bin"],
                "WorkingDir": "/",
                "Labels": self.labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]},
        }));
        let manifest = Blob::of(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("config.v1+json"),
            "layers": [packed.descriptor("layer.v1.tar+gzip")],
            "annotations": self.labels,
        }));
        let mut listed = manifest.descriptor("manifest.v1+json");
        if let Some(listed) = listed.as_object_mut() {
            let (_, tag) = self
                .name
                .rsplit_once(':')
                .context("the image's name has no tag")?;
            listed.insert(
                "platform".into(),
                json!({"architecture": architecture, "os": "linux"}),
            );
            // The first is containerd's name for it, the second that of the specification.
            listed.insert(
                "annotations".into(),
                json!({"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag}),
            );
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [listed],
        });
        let docker = json!([{"Config": config.path(), "RepoTags": [self.name], "Layers": [packed.path()]}]);
        let files = BTreeMap::from([
            (config.path(), config.bytes.as_slice()),
            (manifest.path(), &manifest.bytes),
            (packed.path(), &packed.bytes),
        ]);
        let texts = [
            ("index.json", index.to_string()),
            ("manifest.json", docker.to_string()),
            ("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string()),
        ];
        let mut archive = Builder::new(Vec::new());
        for (path, bytes) in &files {
            append(&mut archive, path, EntryType::Regular, 0o644, bytes)?;
        }
        for (path, text) in &texts {
            append(&mut archive, path, EntryType::Regular, 0o644, text.as_bytes())?;
        }
        Ok(Archive {
            bytes: archive.into_inner()?,
            digest: format!("sha256:{}", manifest.digest),
            architecture,
        })
    }

    fn architecture(&self) -> Result<&'static str> {
        let mut all = None;
        for (path, file) in &self.files {
            let File::Program(bytes) = file else { continue };
            let own =
                machine(bytes).with_context(|| format!("{path} can not be in an image from scratch"))?;
            ensure!(
                *all.get_or_insert(own) == own,
                "{path} is of another machine than the rest: {own}"
            );
        }
        all.context("an image without a program")
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut layer = Builder::new(Vec::new());
        let mut made = Vec::new();
        for (path, file) in &self.files {
            for (at, _) in path.match_indices('/') {
                let directory = path.split_at(at + 1).0;
                if !made.contains(&directory) {
                    made.push(directory);
                    append(&mut layer, directory, EntryType::Directory, 0o755, &[])?;
                }
            }
            match file {
                File::Program(bytes) => append(&mut layer, path, EntryType::Regular, 0o755, bytes)?,
                File::SameAs(other) => {
                    let there = self.files.get(other);
                    ensure!(
                        matches!(there, Some(File::Program(_))),
                        "{path} is to be {other}, which is not there"
                    );
                }
            }
        }
        // Behind what they lead to.
        for (path, file) in &self.files {
            if let File::SameAs(other) = file {
                let mut header = header(EntryType::Link, 0o755, 0);
                layer.append_link(&mut header, path, other)?;
            }
        }
        Ok(layer.into_inner()?)
    }
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append(
    archive: &mut Builder<Vec<u8>>,
    path: &str,
    kind: EntryType,
    mode: u32,
    bytes: &[u8],
) -> Result<()> {
    let mut header = header(kind, mode, bytes.len());
    archive
        .append_data(&mut header, path, bytes)
        .with_context(|| format!("pack {path}"))
}

/// Without a name or a time in its header.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut packed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    packed.write_all(bytes)?;
    Ok(packed.finish()?)
}

/// For which machine a program is, as images name it.
fn machine(program: &[u8]) -> Result<&'static str> {
    let elf =
        ElfFile64::<object::Endianness>::parse(program).context("it is no program of a 64-bit machine")?;
    let needs_loader = elf
        .elf_program_headers()
        .iter()
        .any(|segment| segment.p_type.get(elf.endian()) == object::elf::PT_INTERP);
    ensure!(!needs_loader, "it is not static: it asks for a loader");
    let names = [(Architecture::X86_64, "amd64"), (Architecture::Aarch64, "arm64")];
    let machine = elf.architecture();
    let named = names.iter().find(|(architecture, _)| *architecture == machine);
    named
        .map(|(_, name)| *name)
        .with_context(|| format!("no image is made for {machine:?}"))
}

#[cfg(test)]
mod tests;
