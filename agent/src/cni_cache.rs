//! libcni's cache: the result of every ADD, by `<network>-<container>-<interface>` (libcni/api.go, `cacheAdd`).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::bounded;

/// No result is longer; libcni caches the configuration with it, which has the bound of a network list.
const MAX_RESULT: u64 = 2 << 20;
/// A node has some hundreds of pods; what a crash leaves behind may be more.
const MAX_RESULTS: usize = 10_000;

/// The cached results in the order of their names, each read when it is its turn. A directory that does not exist holds none,
/// and a result that goes meanwhile is none. Where there are too many, the last item is the directory's error.
pub fn results(directory: &Path) -> io::Result<impl Iterator<Item = (PathBuf, io::Result<Vec<u8>>)>> {
    results_up_to(directory, MAX_RESULTS)
}

fn results_up_to(
    directory: &Path,
    most: usize,
) -> io::Result<impl Iterator<Item = (PathBuf, io::Result<Vec<u8>>)>> {
    let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let entries = match fs::read_dir(directory) {
        Err(error) if absent(&error) => None,
        entries => Some(entries?),
    };
    let mut paths = entries
        .into_iter()
        .flatten()
        .take(most + 1)
        .map(|entry| entry.map(|e| e.path()))
        .collect::<io::Result<Vec<_>>>()?;
    let too_many = (paths.len() > most).then(|| {
        let why = format!("it has more than {most} entries; remove those of pods that are gone");
        (directory.to_owned(), Err(io::Error::other(why)))
    });
    paths.truncate(most);
    paths.sort();
    let read = move |path: PathBuf| {
        let text = bounded::read(&path, MAX_RESULT);
        // A link that leads nowhere is there all the same.
        let gone = text.as_ref().is_err_and(absent) && fs::symlink_metadata(&path).is_err_and(|e| absent(&e));
        (!gone).then_some((path, text))
    };
    Ok(paths.into_iter().filter_map(read).chain(too_many))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::symlink, time::Instant};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn only_regular_files_of_a_size_are_read_and_nothing_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("a-good"), "{}").unwrap();
        fs::create_dir(path("b-directory")).unwrap();
        mkfifo(&path("c-pipe"), Mode::S_IRWXU).unwrap();
        symlink("/dev/zero", path("d-device")).unwrap();
        symlink(path("nowhere"), path("e-dangling")).unwrap();
        symlink(path("a-good"), path("f-link")).unwrap();
        // No byte of it is on the disk.
        File::create(path("g-huge")).unwrap().set_len(1 << 40).unwrap();
        let start = Instant::now();
        let found: Vec<_> = results(directory.path()).unwrap().collect();
        assert!(start.elapsed().as_secs() < 2, "{:?}", start.elapsed());
        let told: Vec<_> = found
            .iter()
            .map(|(path, text)| {
                let name = path.file_name().unwrap().to_str().unwrap();
                (name, text.as_ref().map_err(ToString::to_string))
            })
            .collect();
        let good = b"{}".to_vec();
        let irregular = || Err("it is no regular file".to_owned());
        let absent = io::Error::from_raw_os_error(nix::libc::ENOENT).to_string();
        assert_eq!(
            told,
            [
                ("a-good", Ok(&good)),
                ("b-directory", irregular()),
                ("c-pipe", irregular()),
                ("d-device", irregular()),
                ("e-dangling", Err(absent)),
                ("f-link", Ok(&good)),
                ("g-huge", Err(format!("it has more than {MAX_RESULT} bytes"))),
            ]
        );
    }

    #[test]
    fn too_many_results_are_told_after_those_that_are_read() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        let found = |most| results_up_to(directory.path(), most).unwrap().collect::<Vec<_>>();
        assert!(found(3).len() == 3 && found(3).iter().all(|(_, text)| text.is_ok()));
        let [(_, Ok(_)), (_, Ok(_)), (path, Err(error))] = &found(2)[..] else {
            panic!("{:?}", found(2))
        };
        assert_eq!(path, directory.path());
        assert!(error.to_string().contains("more than 2 entries"), "{error}");
        assert_eq!(results(&directory.path().join("none")).unwrap().count(), 0);
    }
}
