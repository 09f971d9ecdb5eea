//! Waiting for a directory to change: inotify, and a look every few seconds for what inotify does not see.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use std::os::fd::AsFd;
use tracing::warn;

/// Network file systems and some overlays tell inotify nothing.
const LOOK_MILLISECONDS: u16 = 2000;

/// Writers often write several files; they are read together.
const SETTLE: Duration = Duration::from_millis(20);

/// Watches a directory and everything below it.
#[derive(Debug)]
pub struct Watch {
    directory: PathBuf,
    inotify: Option<Inotify>,
}

impl Watch {
    /// Begins to watch. Where inotify can not be had, only the regular look remains, and that is said.
    pub fn new(directory: &Path) -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC);
        if let Err(error) = &inotify {
            warn!("no inotify ({error}): changes of manifests are seen within two seconds");
        }
        let mut watch = Self {
            directory: directory.to_owned(),
            inotify: inotify.ok(),
        };
        watch.add(directory);
        watch
    }

    /// Returns when the directory may have changed.
    pub fn changed(&mut self) {
        let Some(inotify) = &self.inotify else {
            thread::sleep(Duration::from_millis(LOOK_MILLISECONDS.into()));
            return;
        };
        let mut descriptors = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        if matches!(
            poll(&mut descriptors, PollTimeout::from(LOOK_MILLISECONDS)),
            Ok(0)
        ) {
            return;
        }
        thread::sleep(SETTLE);
        // What happened does not matter, only that something did: everything is read again. Errors mean the queue is
        // empty or overflowed, which comes to the same.
        while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        // Directories may be new; watching one twice is one watch.
        self.add(&self.directory.clone());
    }

    fn add(&mut self, directory: &Path) {
        let Some(inotify) = &self.inotify else { return };
        let events = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        // A directory that vanished meanwhile needs no watch; one that has none is seen by the regular look.
        if inotify.add_watch(directory, events).is_err() {
            return;
        }
        let Ok(entries) = fs::read_dir(directory) else {
            return;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.add(&entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_file_in_a_new_directory_is_noticed_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(directory.path());
        let below = directory.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        let started = Instant::now();
        watch.changed();
        fs::write(below.join("x.yaml"), "").unwrap();
        watch.changed();
        assert!(
            started.elapsed() < Duration::from_millis(LOOK_MILLISECONDS.into()),
            "{:?}",
            started.elapsed()
        );
    }
}
