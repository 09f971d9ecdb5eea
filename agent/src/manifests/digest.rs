//! The files of a directory, and one number for all of them.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

/// Contents by path below the directory.
pub type Texts = BTreeMap<PathBuf, Vec<u8>>;

/// A file that was written less than this ago may be half written: whoever empties a file to write it anew must not be
/// taken to have deleted what it held.
const YOUNG: Duration = Duration::from_millis(30);

/// How often a directory in which something young was found is read again.
const ATTEMPTS: usize = 10;

/// Reads every file below a directory whose name ends in `.yaml`, `.yml` or `.json`, once nobody writes there.
///
/// Symbolic links to files are followed, those to directories are not; names that start with `..` are left out. So a
/// mounted ConfigMap is read once.
pub fn read(directory: &Path) -> io::Result<Texts> {
    let mut attempt = 1;
    loop {
        let mut walk = Walk {
            root: directory,
            texts: Texts::new(),
            young: false,
        };
        walk.directory(Path::new(""))?;
        if !walk.young || attempt == ATTEMPTS {
            return Ok(walk.texts);
        }
        attempt += 1;
        thread::sleep(YOUNG);
    }
}

struct Walk<'a> {
    root: &'a Path,
    texts: Texts,
    young: bool,
}

impl Walk<'_> {
    fn directory(&mut self, below: &Path) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join(below))? {
            let entry = entry?;
            let name = entry.file_name();
            if name.as_bytes().starts_with(b"..") {
                continue;
            }
            let path = below.join(&name);
            let result = if entry.file_type()?.is_dir() {
                self.directory(&path)
            } else {
                self.file(path)
            };
            match result {
                // Removed meanwhile, or a link that leads nowhere.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf) -> io::Result<()> {
        if !matches!(
            path.extension().and_then(OsStr::to_str),
            Some("yaml" | "yml" | "json")
        ) {
            return Ok(());
        }
        let full = self.root.join(&path);
        let name = |error: io::Error| {
            if error.kind() == io::ErrorKind::NotFound {
                return error;
            }
            io::Error::new(error.kind(), format!("{}: {error}", full.display()))
        };
        let meta = fs::metadata(&full).map_err(name)?;
        if !meta.is_file() {
            return Ok(());
        }
        let text = fs::read(&full).map_err(name)?;
        // A clock that was set back makes no file young for ever: an age that is negative counts as old.
        let changed = fs::metadata(&full)
            .and_then(|meta| meta.modified())
            .map_err(name)?;
        self.young |= SystemTime::now()
            .duration_since(changed)
            .is_ok_and(|age| age < YOUNG);
        self.texts.insert(path, text);
        Ok(())
    }
}

/// The digest of a directory: FNV-1a, 64 bits, in hexadecimal, over path, 0, content, 0 of every file that [`read`]
/// finds, sorted by path. Two directories with equal digests hold the same manifests.
pub fn digest(directory: &Path) -> io::Result<String> {
    read(directory).map(|texts| digest_of(&texts))
}

/// The same for texts that were read before.
pub fn digest_of(texts: &Texts) -> String {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = OFFSET;
    for (path, text) in texts {
        let bytes = path
            .as_os_str()
            .as_bytes()
            .iter()
            .chain([&0])
            .chain(text)
            .chain([&0]);
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_digest_is_fnv_1a() {
        // Reference values of FNV-1a 64 for "" and for the bytes "a" 0 "b" 0, computed apart from this code.
        assert_eq!(digest_of(&Texts::new()), "cbf29ce484222325");
        let texts = Texts::from([(PathBuf::from("a"), b"b".to_vec())]);
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in [b'a', 0, b'b', 0] {
            hash ^= u64::from(byte);
            hash = hash.wrapping_mul(1_099_511_628_211);
        }
        assert_eq!(digest_of(&texts), format!("{hash:016x}"));
    }

    #[test]
    fn only_manifests_are_read_and_every_one_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at(".lab/pods")).unwrap();
        fs::create_dir_all(at("..data")).unwrap();
        for name in [
            "a.yaml",
            ".lab/pods/p.yml",
            "c.json",
            "readme.md",
            "..data/x.yaml",
        ] {
            fs::write(at(name), name).unwrap();
        }
        std::os::unix::fs::symlink("..data/x.yaml", at("x.yaml")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("broken.yaml")).unwrap();
        let found: Vec<_> = read(dir.path()).unwrap().into_keys().collect();
        assert_eq!(
            found,
            [".lab/pods/p.yml", "a.yaml", "c.json", "x.yaml"].map(PathBuf::from)
        );
    }

    #[test]
    fn a_file_is_not_read_between_being_emptied_and_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        // Whoever writes later than the file stays young, as on a busy machine, shows nothing.
        for _ in 0..100 {
            let path = path.clone();
            let emptied = Instant::now();
            fs::write(&path, "").unwrap();
            let writer = thread::spawn(move || {
                thread::sleep(Duration::from_millis(10));
                fs::write(path, "late").unwrap();
                emptied.elapsed()
            });
            let texts = read(dir.path()).unwrap();
            if writer.join().unwrap() < YOUNG {
                assert_eq!(texts.values().next().map(Vec::as_slice), Some(b"late".as_slice()));
                return;
            }
        }
        panic!("the machine is too busy to write a file in time");
    }

    #[test]
    fn moving_bytes_between_name_and_content_changes_the_digest() {
        let one = Texts::from([(PathBuf::from("ab"), b"c".to_vec())]);
        let two = Texts::from([(PathBuf::from("a"), b"bc".to_vec())]);
        assert_ne!(digest_of(&one), digest_of(&two));
    }
}
