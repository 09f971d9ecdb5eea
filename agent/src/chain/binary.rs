//! The plugin's file in the directory of plugins.

use std::{
    fs,
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
