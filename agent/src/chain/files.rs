//! The CNI directory on disk: bounded reads, whole writes, and telling the runtime.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::plan::{Change, DROPIN, Listing};
use crate::bounded;

/// No network list is longer; what is longer is an error and not read on.
const MAX_FILE: u64 = 1 << 20;
/// No CNI directory has more entries.
const MAX_ENTRIES: usize = 1000;
/// Only root reads what we write: flannel's list may hold what others must not know.
const OWN_MODE: u32 = 0o600;

/// What can not be done to a file.
#[derive(Debug, thiserror::Error)]
#[error("can not {action} {}: {source}", path.display())]
pub struct Error {
    /// What was tried.
    pub action: &'static str,
    /// With which file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Reads a CNI directory. A file that can not be read is an error in the listing, the directory an error of its own.
pub fn read(directory: &Path) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    for name in names(directory)? {
        let path = directory.join(&name);
        let dropin = path.join(DROPIN);
        if path.is_dir() {
            // Without a file of ours the directory is not ours to look at.
            if fs::symlink_metadata(&dropin).is_ok() {
                listing.dropins.insert(name, text(&dropin));
            }
        } else if [".conf", ".conflist", ".json"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            listing.lists.insert(name, text(&path));
        }
    }
    Ok(listing)
}

fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("list", directory))? {
        let entry = entry.map_err(failed("list", directory))?;
        if names.len() == MAX_ENTRIES {
            let error = io::Error::other(format!("it has more than {MAX_ENTRIES} entries"));
            return Err(failed("list", directory)(error));
        }
        // A name that is no text is no list that a runtime reads by its ending.
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// The text of a regular file, or of one that a link leads to.
fn text(path: &Path) -> Result<String, String> {
    let content = bounded::read(path, MAX_FILE).map_err(|error| error.to_string())?;
    String::from_utf8(content).map_err(|error| error.to_string())
}

/// Makes the changes, one after the other, and tells the runtime.
pub fn apply(directory: &Path, changes: &[Change]) -> Result<(), Error> {
    for change in changes {
        match change {
            Change::Write(name, text) => {
                let path = directory.join(name);
                if let Some(parent) = path.parent().filter(|parent| *parent != directory) {
                    fs::create_dir_all(parent).map_err(failed("create", parent))?;
                }
                let mode = fs::metadata(&path).map_or(OWN_MODE, |held| held.permissions().mode() & 0o7777);
                replace(&path, text.as_bytes(), mode)?;
            }
            Change::Remove(name) => {
                let path = directory.join(name);
                remove(&path)?;
                if let Some(parent) = path.parent().filter(|parent| *parent != directory) {
                    // Others may have files there.
                    let _kept = fs::remove_dir(parent);
                }
            }
        }
        sync(directory)?;
    }
    if !changes.is_empty() {
        poke(directory)?;
    }
    Ok(())
}

/// Removes a file, which may be gone already.
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes a file whole or not at all: beside it, to the disk, and renamed. In another directory the temporary file would
/// be a Create for the runtime, which containerd does not look at (go-cni, `cni_conf_syncer`).
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.vethwall-tmp"));
    // What a killed writer left; with this name it is ours.
    remove(&temporary)?;
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(content)?;
        // The mode of a new file depends on the process's mask.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        // A full disk: half of a file must not stay on it.
        let _best_effort = fs::remove_file(&temporary);
        failed("write", path)(error)
    })?;
    path.parent().map_or(Ok(()), sync)
}

fn sync(directory: &Path) -> Result<(), Error> {
    let sync = || File::open(directory)?.sync_all();
    sync().map_err(failed("sync", directory))
}

/// containerd reads the directory again when a file is renamed or removed in it, and does not watch below it.
pub fn poke(directory: &Path) -> Result<(), Error> {
    let path = directory.join(".vethwall-poke");
    File::create(&path).map_err(failed("create", &path))?;
    remove(&path)
}

#[cfg(test)]
mod tests {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    use super::*;

    fn names_in(directory: &Path) -> Vec<String> {
        let mut names = names(directory).unwrap();
        names.sort();
        names
    }

    #[test]
    fn files_appear_whole_with_their_mode_and_go_without_a_trace() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("10-flannel.conflist"), "old").unwrap();
        fs::set_permissions(at("10-flannel.conflist"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(at(".10-flannel.conflist.vethwall-tmp"), "half").unwrap();
        let write = |name: &str| Change::Write(name.into(), "new".to_owned());
        apply(
            directory.path(),
            &[
                write("10-flannel.conflist"),
                write("05-x.conflist"),
                write("cbr0/50-x.conf"),
            ],
        )
        .unwrap();
        let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode("10-flannel.conflist"), mode("05-x.conflist")),
            (0o640, 0o600)
        );
        assert_eq!(
            names_in(directory.path()),
            ["05-x.conflist", "10-flannel.conflist", "cbr0"]
        );
        assert_eq!(fs::read_to_string(at("cbr0/50-x.conf")).unwrap(), "new");
        let remove = |name: &str| Change::Remove(name.into());
        apply(
            directory.path(),
            &[
                remove("05-x.conflist"),
                remove("cbr0/50-x.conf"),
                remove("absent"),
            ],
        )
        .unwrap();
        assert_eq!(names_in(directory.path()), ["10-flannel.conflist"]);
    }

    #[test]
    fn a_change_is_followed_by_an_event_that_containerd_looks_at() {
        let directory = tempfile::tempdir().unwrap();
        let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        watch
            .add_watch(directory.path(), AddWatchFlags::IN_DELETE)
            .unwrap();
        apply(directory.path(), &[]).unwrap();
        assert!(watch.read_events().is_err(), "nothing changed");
        apply(
            directory.path(),
            &[Change::Write("cbr0/50-x.conf".into(), String::new())],
        )
        .unwrap();
        assert_eq!(watch.read_events().unwrap().len(), 1);
    }

    #[test]
    fn reads_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("a.conflist"), vec![b' '; (MAX_FILE + 1) as usize]).unwrap();
        fs::write(at("b.conf"), [0xff, 0xfe]).unwrap();
        fs::write(at("c.json"), "{}").unwrap();
        fs::write(at("d.txt"), "{}").unwrap();
        fs::create_dir_all(at("cbr0").join(DROPIN)).unwrap();
        nix::unistd::mkfifo(&at("e.conflist"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::os::unix::fs::symlink("nowhere", at("f.conflist")).unwrap();
        let listing = read(directory.path()).unwrap();
        let readable: Vec<_> = listing
            .lists
            .iter()
            .map(|(name, text)| (name.as_str(), text.is_ok()))
            .collect();
        let wanted = [
            ("a.conflist", false),
            ("b.conf", false),
            ("c.json", true),
            ("e.conflist", false),
            ("f.conflist", false),
        ];
        assert_eq!(readable, wanted);
        assert!(listing.dropins["cbr0"].is_err());
        assert!(read(&at("absent")).is_err());
    }
}
