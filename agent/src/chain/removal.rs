//! Taking vethwall off a node. Every step may be interrupted, and done again.
//!
//! ```text
//! mark the plugin retired ─► lists no longer name it ─► programs off, pins gone ─► plugin gone, once no cached result names it
//!   (pods start unprotected,      (the runtime reads       (flannel as it was)
//!    none is refused)              its directory anew)
//! ```

use std::{
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;
use vethwall_cni::{conflist::PLUGIN, retired};
use vethwall_datapath::{Pins, attach};

use super::{binary, files, places::Places, plan};
use crate::{cni_cache, cri::Runtime};

/// For how long a runtime may take to read its directory.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two questions; each is followed by a poke.
const PAUSE: Duration = Duration::from_secs(1);

/// Says beside the plugin that it is to do nothing any more. Where no plugin is, there is nothing to mark.
pub fn retire(bin: &Path) -> anyhow::Result<()> {
    if !binary::path(bin).exists() {
        return Ok(());
    }
    files::replace(&bin.join(retired::MARK), b"", 0o644).context("can not mark the plugin as uninstalled")
}

/// Whether vethwall was uninstalled on this node and not installed again.
#[must_use]
pub fn is_retired(places: &Places) -> bool {
    retired::is_retired(&binary::path(&places.bin))
}

/// All that is left to do once the plugin is marked, where no agent does it. Returns what could not be read, which may name
/// us still.
pub fn finish(places: &Places, pins: &Pins) -> anyhow::Result<Vec<String>> {
    let unread = unchain(&places.conf)?;
    attach::remove_all(pins).map_err(|error| anyhow::anyhow!(error.chain()))?;
    Ok(unread)
}

/// Takes us out of every list. Returns what could not be read, which may name us still.
pub fn unchain(conf: &Path) -> Result<Vec<String>, files::Error> {
    let listing = match files::read(conf) {
        // There is no runtime whose lists could name us.
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing?,
    };
    let (changes, unread) = plan::unchain(&listing);
    files::apply(conf, &changes)?;
    Ok(unread)
}

/// Waits until the runtime has read that no list names us, and makes it read. False where it goes on to call the plugin.
pub fn is_read(conf: &Path, runtime: &mut dyn Runtime) -> Result<bool, files::Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // A runtime that does not tell or does not answer can not be waited for.
        let names_us = match runtime.view() {
            Some(Ok(view)) => view.cni.is_some_and(|cni| cni.names_us()),
            None | Some(Err(_)) => false,
        };
        if !names_us || Instant::now() >= deadline {
            return Ok(!names_us);
        }
        files::poke(conf)?;
        thread::sleep(PAUSE);
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    #[serde(default)]
    container_id: String,
    #[serde(default)]
    config: String,
}

/// The sandboxes whose cached result names the plugin: their DEL may still call it. What can not be read counts.
pub fn naming_us(cache: &Path) -> io::Result<Vec<String>> {
    let mut naming = Vec::new();
    for (path, text) in cni_cache::results(cache)? {
        let text = text.unwrap_or_default();
        let cached = serde_json::from_slice::<Cached>(&text).ok();
        let config = cached
            .as_ref()
            .and_then(|cached| BASE64_STANDARD.decode(&cached.config).ok());
        if config.is_none_or(|config| config.windows(PLUGIN.len()).any(|text| text == PLUGIN.as_bytes())) {
            let name = cached
                .map(|cached| cached.container_id)
                .filter(|id| !id.is_empty());
            naming.push(name.unwrap_or_else(|| path.display().to_string()));
        }
    }
    naming.sort();
    Ok(naming)
}

/// Removes the plugin and its mark.
pub fn remove_plugin(bin: &Path) -> Result<(), files::Error> {
    files::remove(&binary::path(bin))?;
    files::remove(&bin.join(retired::MARK))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_plugin_is_retired_and_removed_as_often_as_one_likes() {
        let bin = tempfile::tempdir().unwrap();
        retire(bin.path()).unwrap();
        assert_eq!(fs::read_dir(bin.path()).unwrap().count(), 0, "nothing to retire");
        fs::write(binary::path(bin.path()), "plugin").unwrap();
        for _ in 0..2 {
            retire(bin.path()).unwrap();
            assert!(retired::is_retired(&binary::path(bin.path())));
        }
        for _ in 0..2 {
            remove_plugin(bin.path()).unwrap();
            assert_eq!(fs::read_dir(bin.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn cached_results_that_name_us_are_found() {
        let cache = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(cache.path().join(name), text).unwrap();
        let result = |id: &str, config: &str| {
            serde_json::json!({"containerId": id, "config": BASE64_STANDARD.encode(config)}).to_string()
        };
        write(
            "cbr0-a-eth0",
            &result("a", r#"{"plugins":[{"type":"flannel"},{"type":"vethwall-cni"}]}"#),
        );
        write("cbr0-b-eth0", &result("b", r#"{"plugins":[{"type":"flannel"}]}"#));
        assert_eq!(naming_us(cache.path()).unwrap(), ["a"]);
        write("cbr0-c-eth0", "{");
        assert_eq!(naming_us(cache.path()).unwrap().len(), 2);
        assert_eq!(naming_us(&cache.path().join("absent")).unwrap(), [""; 0]);
    }
}
