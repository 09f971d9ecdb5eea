//! bpffs, held so that it outlives its mount point.
//!
//! ```text
//! /sys/fs/bpf ─ mount ─┐                          unmounted: pins, links and so every verdict go with
//!                      ├─► file system ─► pins    the last mount, which is ours
//! this process ─ clone ┘                          put back: the clone is mounted there
//! ```
//!
//! A tcx link lives as long as its pin, and pins live as long as their file system (kernel/bpf/inode.c, `bpf_free_inode`): whoever
//! unmounts it would take the programs off every pod. A detached clone of the mount (open_tree(2), Linux 5.2) keeps it, and
//! can be mounted where it was.
//!
//! Invariants:
//! - Nothing is unmounted here, and nothing is mounted over what somebody else pinned.
//! - It holds for as long as this value lives: a process that is killed holds nothing.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::sys::{stat::fstat, statfs};
use rustix::{
    fs::{CWD, Mode, OFlags, open},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use crate::Error;

/// A bpffs that goes on when it is unmounted.
#[derive(Debug)]
pub struct HeldBpffs {
    at: PathBuf,
    device: u64,
    mount: OwnedFd,
    /// A mount of our own, and no reference to the one that is there.
    clone: bool,
}

impl HeldBpffs {
    /// Holds the file system at a path. Without CAP_SYS_ADMIN, as in a container, it is the mount itself that is held: it is busy
    /// then, so that nobody unmounts it by mistake, but it can not be put back.
    ///
    /// # Errors
    /// There is nothing at that path, or the kernel refuses.
    pub fn hold(at: impl Into<PathBuf>) -> Result<Self, Error> {
        let at = at.into();
        let failed = |error: io::Error| Error::file("hold", at.display(), error);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let (mount, clone) = match open_tree(CWD, &at, flags) {
            Ok(clone) => (clone, true),
            // ENOSYS is how some filters of system calls refuse.
            Err(Errno::PERM | Errno::NOSYS) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let mount = open(&at, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
                (mount, false)
            }
            Err(errno) => return Err(failed(errno.into())),
        };
        let device = fstat(&mount).map_err(|errno| failed(errno.into()))?.st_dev;
        Ok(Self {
            at,
            device,
            mount,
            clone,
        })
    }

    /// Puts the file system back where it is no longer mounted; whether that was so.
    ///
    /// # Errors
    /// It can not be put back: others have pinned something in a bpffs that is there now, or we lack the right to mount.
    pub fn put_back(&mut self) -> Result<bool, Error> {
        let failed = |error: io::Error| Error::file("look at", self.at.display(), error);
        if fs::metadata(&self.at).map_err(failed)?.dev() == self.device {
            return Ok(false);
        }
        if is_bpffs(&self.at).map_err(failed)? && is_used(&self.at).map_err(failed)? {
            return Err(Error::invalid(
                self.at.display(),
                "another BPF file system, with pins of somebody else, is mounted over the one with ours",
            ));
        }
        if !self.clone {
            return Err(Error::invalid(
                self.at.display(),
                "the BPF file system with our pins was unmounted, and it takes CAP_SYS_ADMIN to mount it again",
            ));
        }
        let mount = |errno: Errno| Error::file("mount", self.at.display(), errno.into());
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&self.mount, c"", CWD, self.at.as_path(), flags).map_err(mount)?;
        *self = Self::hold(&self.at)?;
        Ok(true)
    }
}

fn is_bpffs(at: &Path) -> io::Result<bool> {
    Ok(statfs::statfs(at)?.filesystem_type() == statfs::BPF_FS_MAGIC)
}

/// Whether anything is pinned beside what the kernel itself puts into each bpffs (kernel/bpf/preload).
fn is_used(at: &Path) -> io::Result<bool> {
    const PRELOADED: [&str; 2] = ["maps.debug", "progs.debug"];
    for entry in fs::read_dir(at)? {
        let name = entry?.file_name();
        if PRELOADED.iter().all(|preloaded| name != *preloaded) {
            return Ok(true);
        }
    }
    Ok(false)
}
