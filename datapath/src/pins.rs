//! Where everything is pinned.
//!
//! Each version of the layouts has a directory of its own beside the others', so that neither reads what the other wrote.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use nix::sys::statfs;
use vethwall_common::{ABI_VERSION, maps};

use crate::{Error, sys};

/// The pin directory of one version below one bpffs (see [`vethwall_common::maps`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    bpffs: PathBuf,
    root: PathBuf,
    abi: u32,
}

impl Pins {
    /// The pin directory of [`ABI_VERSION`] below this bpffs; nothing is created.
    pub fn new(bpffs: impl Into<PathBuf>) -> Self {
        Self::of(bpffs, ABI_VERSION)
    }

    /// The pin directory of a version of the layouts.
    pub fn of(bpffs: impl Into<PathBuf>, abi: u32) -> Self {
        let bpffs = bpffs.into();
        let root = bpffs.join(maps::PIN_DIRECTORY).join(format!("v{abi}"));
        Self { bpffs, root, abi }
    }

    /// The version of the layouts.
    pub fn abi(&self) -> u32 {
        self.abi
    }

    /// The directories of other versions that are there, oldest first.
    pub fn others(&self) -> Result<Vec<Self>, Error> {
        let directory = self.ours();
        let failed = |e| Error::file("list", directory.display(), e);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut others = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let version = name
                .to_str()
                .and_then(|name| name.strip_prefix('v')?.parse().ok());
            others.extend(
                version
                    .filter(|abi| *abi != self.abi)
                    .map(|abi| Self::of(&self.bpffs, abi)),
            );
        }
        others.sort_by_key(Self::abi);
        Ok(others)
    }

    /// The directory of all versions.
    fn ours(&self) -> PathBuf {
        self.bpffs.join(maps::PIN_DIRECTORY)
    }

    /// The mark of a clsact that we added to an interface; the same for all versions.
    pub(crate) fn clsact(&self, ifindex: u32) -> PathBuf {
        self.clsacts().join(ifindex.to_string())
    }

    /// The directory of those marks.
    pub(crate) fn clsacts(&self) -> PathBuf {
        self.ours().join(maps::CLSACT)
    }

    /// The file system that they are in.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The versioned directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.root.join(maps::MAPS).join(name)
    }

    /// The pin of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.root.join(maps::PROGRAMS).join(name)
    }

    /// The directory of links.
    pub fn links(&self) -> PathBuf {
        self.root.join(maps::LINKS)
    }

    /// Whether there is a bpffs to pin to.
    ///
    /// # Errors
    /// There is none, and how to mount one.
    pub fn mounted(&self) -> Result<(), Error> {
        let kind = statfs::statfs(&self.bpffs).map(|found| found.filesystem_type());
        if kind == Ok(statfs::BPF_FS_MAGIC) {
            return Ok(());
        }
        Err(Error::NoBpffs {
            path: self.bpffs.clone(),
        })
    }

    /// Makes the directories, for root only. Says so where there is no bpffs.
    pub(crate) fn create(&self) -> Result<(), Error> {
        self.mounted()?;
        if self.is_unused()? {
            remove(&self.root.join(maps::MAPS))?;
        }
        for directory in [maps::MAPS, maps::PROGRAMS, maps::LINKS] {
            directory_for_root(&self.root.join(directory))?;
        }
        Ok(())
    }

    /// Whether nothing can use the maps that are pinned here: their programs are pinned after them and removed before
    /// them, so this is a load or a removal that was interrupted.
    fn is_unused(&self) -> Result<bool, Error> {
        for directory in [maps::PROGRAMS, maps::LINKS] {
            let path = self.root.join(directory);
            match fs::read_dir(&path) {
                Ok(mut entries) => {
                    if entries.next().is_some() {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::file("list", path.display(), error)),
            }
        }
        Ok(true)
    }

    /// Removes the pins of this version and their directories. Programs and maps go with the last that uses them.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        // From here on nobody attaches them; the plugin finds that nothing is loaded.
        remove(&self.root.join(maps::PROGRAMS))?;
        remove(&self.root)
    }

    /// Removes what all versions have pinned.
    pub(crate) fn remove_all(&self) -> Result<(), Error> {
        remove(&self.ours())
    }

    /// Opens a pin; one that is absent means that nothing was loaded.
    pub(crate) fn open(&self, path: &Path) -> Result<OwnedFd, Error> {
        sys::open(path).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                return Error::NotLoaded {
                    path: path.to_owned(),
                };
            }
            Error::bpf("open", path.display(), error)
        })
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove", path.display(), error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes a directory and those above it, for root only.
pub(crate) fn directory_for_root(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| Error::file("create", path.display(), e))
}

/// Removes a pin, which may be gone already.
pub(crate) fn unpin(path: &Path) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::file("remove", path.display(), error)),
    }
}
