//! libcni's cache: the result of every ADD, by `<network>-<container>-<interface>` (libcni/api.go, `cacheAdd`).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The cached results in the order of their names, each as it reads. A directory that does not exist holds none, and a
/// result that goes meanwhile is none.
pub fn results(directory: &Path) -> io::Result<Vec<(PathBuf, io::Result<Vec<u8>>)>> {
    let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let entries = match fs::read_dir(directory) {
        Err(error) if absent(&error) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read(&path);
        (!text.as_ref().is_err_and(absent)).then_some((path, text))
    };
    Ok(paths.into_iter().filter_map(read).collect())
}
