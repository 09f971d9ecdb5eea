//! The files of a directory, and one number for all of them.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Contents by path below the directory.
pub type Texts = BTreeMap<PathBuf, Vec<u8>>;

/// Reads every file below a directory whose name ends in `.yaml`, `.yml` or `.json`.
///
/// Symbolic links to files are followed, those to directories are not; names that start with `..` are left out. So a
/// mounted ConfigMap is read once.
pub fn read(directory: &Path) -> io::Result<Texts> {
    let mut texts = Texts::new();
    walk(directory, Path::new(""), &mut texts)?;
    Ok(texts)
}

fn walk(root: &Path, below: &Path, texts: &mut Texts) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_bytes().starts_with(b"..") {
            continue;
        }
        let path = below.join(&name);
        if entry.file_type()?.is_dir() {
            match walk(root, &path, texts) {
                // Removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
            continue;
        }
        let known = Path::new(&name).extension().and_then(OsStr::to_str);
        if !matches!(known, Some("yaml" | "yml" | "json")) {
            continue;
        }
        let full = root.join(&path);
        match fs::metadata(&full) {
            Ok(meta) if meta.is_file() => {}
            // A link that leads nowhere, a file that has gone, a pipe.
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        match fs::read(&full) {
            Ok(text) => _ = texts.insert(path, text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("{}: {error}", full.display()),
                ));
            }
        }
    }
    Ok(())
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
    fn moving_bytes_between_name_and_content_changes_the_digest() {
        let one = Texts::from([(PathBuf::from("ab"), b"c".to_vec())]);
        let two = Texts::from([(PathBuf::from("a"), b"bc".to_vec())]);
        assert_ne!(digest_of(&one), digest_of(&two));
    }
}
