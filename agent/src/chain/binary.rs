//! The plugin's file in the directory of plugins.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use vethwall_cni::{conflist::PLUGIN, retired};

use super::files;

/// No plugin is longer.
const MAX_PLUGIN: u64 = 64 << 20;

/// Where the plugin is installed.
#[must_use]
pub fn path(directory: &Path) -> PathBuf {
    directory.join(PLUGIN)
}

/// What is different when a file was written, replaced or given other rights: device, inode, size, and when content and
/// inode changed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([i64; 7]);

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self([
            file.dev().cast_signed(),
            file.ino().cast_signed(),
            file.size().cast_signed(),
            file.mtime(),
            file.mtime_nsec(),
            file.ctime(),
            file.ctime_nsec(),
        ])
    }
}

/// A plugin that is looked at again and again: while neither file has changed since they were found to be equal, neither is
/// read.
#[derive(Debug, Default)]
pub struct Installer {
    equal: Option<[Stamp; 2]>,
}

impl Installer {
    /// [`install`], but cheap where nothing has changed.
    pub fn install(&mut self, source: &Path, directory: &Path) -> anyhow::Result<bool> {
        let target = path(directory);
        // Before they are compared: what changes meanwhile is compared again.
        let stamps = || -> Option<[Stamp; 2]> {
            let source = fs::metadata(source).ok()?;
            Some([
                Stamp::of(&source),
                Stamp::of(&fs::symlink_metadata(&target).ok()?),
            ])
        };
        let now = stamps();
        if now.is_some() && now == self.equal {
            return Ok(false);
        }
        self.equal = None;
        let wrote = install(source, directory)?;
        // What was just written is compared once more.
        self.equal = now.filter(|_| !wrote);
        Ok(wrote)
    }
}

/// Installs the plugin unless this very one is there. Returns whether it wrote.
pub fn install(source: &Path, directory: &Path) -> anyhow::Result<bool> {
    let length = fs::metadata(source)
        .with_context(|| format!("can not read the plugin {}", source.display()))?
        .len();
    anyhow::ensure!(
        length <= MAX_PLUGIN,
        "{} is no plugin: it has {length} bytes",
        source.display()
    );
    let plugin = fs::read(source).with_context(|| format!("can not read the plugin {}", source.display()))?;
    let target = path(directory);
    let regular = fs::symlink_metadata(&target).is_ok_and(|held| held.is_file() && held.len() == length);
    let current = regular && fs::read(&target).is_ok_and(|held| held == plugin);
    if !current {
        files::replace(&target, &plugin, 0o755)?;
    }
    Ok(!current)
}

/// Ends an uninstall: the plugin works again.
pub fn revive(directory: &Path) -> anyhow::Result<()> {
    Ok(files::remove(&directory.join(retired::MARK))?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Bytes that this thread has read.
    fn bytes_read() -> u64 {
        let io = fs::read_to_string("/proc/thread-self/io").unwrap();
        let count = io.lines().find_map(|line| line.strip_prefix("rchar: "));
        count.unwrap().parse().unwrap()
    }

    #[test]
    fn files_that_did_not_change_are_not_read_again() {
        const LENGTH: usize = 1 << 20;
        let directory = tempfile::tempdir().unwrap();
        let (source, bin) = (directory.path().join("source"), directory.path().join("bin"));
        let target = path(&bin);
        fs::create_dir(&bin).unwrap();
        fs::write(&source, vec![1; LENGTH]).unwrap();
        let mut installer = Installer::default();
        // Whether it wrote, and whether it read.
        let mut install = || {
            let before = bytes_read();
            let wrote = installer.install(&source, &bin).unwrap();
            (wrote, bytes_read() - before >= LENGTH as u64)
        };
        // Times of files are as coarse as the kernel's tick.
        let tick = || std::thread::sleep(std::time::Duration::from_millis(20));
        let (written, compared, left) = ((true, true), (false, true), (false, false));
        assert_eq!(
            [install(), install(), install(), install()],
            [written, compared, left, left]
        );
        // As long as before, in the same file.
        tick();
        fs::write(&target, vec![2; LENGTH]).unwrap();
        assert_eq!([install(), install(), install()], [written, compared, left]);
        tick();
        fs::write(&source, vec![3; LENGTH]).unwrap();
        assert_eq!([install(), install(), install()], [written, compared, left]);
        assert_eq!(fs::read(&target).unwrap()[0], 3);
        fs::remove_file(&target).unwrap();
        assert_eq!([install(), install(), install()], [written, compared, left]);
        tick();
        fs::File::open(&target)
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
        assert_eq!([install(), install()], [compared, left]);
    }

    #[test]
    fn the_plugin_is_replaced_as_a_whole_and_only_when_it_differs() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        let bin = directory.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(&source, "one").unwrap();
        fs::write(bin.join(retired::MARK), "").unwrap();
        assert!(install(&source, &bin).unwrap());
        assert!(retired::is_retired(&path(&bin)));
        revive(&bin).unwrap();
        revive(&bin).unwrap();
        assert!(!retired::is_retired(&path(&bin)));
        assert_eq!(
            fs::metadata(path(&bin)).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert!(!install(&source, &bin).unwrap());
        fs::write(&source, "two").unwrap();
        assert!(install(&source, &bin).unwrap());
        assert_eq!(fs::read_to_string(path(&bin)).unwrap(), "two");
        // A link to somewhere is not our file; what it leads to is left alone.
        fs::remove_file(path(&bin)).unwrap();
        std::os::unix::fs::symlink(&source, path(&bin)).unwrap();
        assert!(install(&source, &bin).unwrap());
        assert!(fs::symlink_metadata(path(&bin)).unwrap().is_file());
        assert!(
            install(&directory.path().join("absent"), &bin)
                .unwrap_err()
                .to_string()
                .contains("absent")
        );
    }
}
