//! Where everything is pinned.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use nix::sys::statfs;
use vethwall_common::maps;

use crate::{Error, sys};

/// The pin directory below one bpffs (see [`vethwall_common::maps`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    bpffs: PathBuf,
    root: PathBuf,
}

impl Pins {
    /// The pin directory below this bpffs; nothing is created.
    pub fn new(bpffs: impl Into<PathBuf>) -> Self {
        let bpffs = bpffs.into();
        let root = bpffs.join(maps::PIN_DIRECTORY);
        Self { bpffs, root }
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

    /// Makes the directories, for root only. Says so where there is no bpffs.
    pub(crate) fn create(&self) -> Result<(), Error> {
        let no_bpffs = || Error::NoBpffs {
            path: self.bpffs.clone(),
        };
        let kind = statfs::statfs(&self.bpffs)
            .map_err(|_| no_bpffs())?
            .filesystem_type();
        if kind != statfs::BPF_FS_MAGIC {
            return Err(no_bpffs());
        }
        for directory in [maps::MAPS, maps::PROGRAMS, maps::LINKS] {
            let path = self.root.join(directory);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|e| Error::file("create", path.display(), e))?;
        }
        Ok(())
    }

    /// Removes all pins and their directories. Programs and maps go with the last that uses them.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        let ours = self
            .root
            .parent()
            .filter(|parent| **parent != *self.bpffs)
            .unwrap_or(&self.root);
        match fs::remove_dir_all(ours) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("remove", ours.display(), error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
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

/// Removes a pin, which may be gone already.
pub(crate) fn unpin(path: &Path) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::file("remove", path.display(), error)),
    }
}
