//! The runtime's plugin chain: our plugin in the node's CNI directories, and our entry behind flannel's.
//!
//! ```text
//! CNI directory ─► [`files`] ─► Listing ─► [`plan`] (pure) ─► Plan ─► [`files`] ─► CNI directory ─► runtime
//!                                            ▲     └─► what is told ─► status                       │
//!                                            └──── [`readback`]: what it can do, what it has read ◄─┘
//! ```
//!
//! Invariants:
//! - Nothing is written before the node's pods are taken over, and nothing before flannel's own list is there.
//! - What is written is flannel's list, byte for byte, and one entry more; taking the entry out gives the list again.
//! - A file appears whole or not at all: a list that can not be parsed takes the node's network down.
//! - A list that can not be read or parsed changes nothing.

pub mod binary;
pub mod files;
pub mod keeper;
pub mod places;
pub mod plan;
mod readback;
pub mod removal;

use vethwall_cni::{conflist::PLUGIN, proto::RUN_DIR};
use vethwall_common::maps::BPFFS;
use vethwall_datapath::Choice;

/// What the plugin is told by its entry: only what is not as usual.
#[must_use]
pub fn entry(
    run_dir: &std::path::Path,
    bpffs: &std::path::Path,
    hook: Choice,
    fail_open_namespaces: &[String],
) -> String {
    let mut entry = serde_json::Map::new();
    entry.insert("type".to_owned(), PLUGIN.into());
    for (key, value, usual) in [("runDir", run_dir, RUN_DIR), ("bpffs", bpffs, BPFFS)] {
        if value != std::path::Path::new(usual) {
            entry.insert(key.to_owned(), value.display().to_string().into());
        }
    }
    if let Choice::Only(hook) = hook {
        entry.insert("hook".to_owned(), hook.to_string().into());
    }
    if !fail_open_namespaces.is_empty() {
        entry.insert("failOpenNamespaces".to_owned(), fail_open_namespaces.into());
    }
    serde_json::Value::Object(entry).to_string()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use vethwall_datapath::Hook;

    use super::*;

    #[test]
    fn the_entry_says_what_is_not_as_usual() {
        let usual = entry(Path::new(RUN_DIR), Path::new(BPFFS), Choice::Best, &[]);
        assert_eq!(usual, vethwall_cni::conflist::default_entry());
        let other = entry(
            Path::new("/run/x"),
            Path::new("/bpf"),
            Choice::Only(Hook::Clsact),
            &["a".to_owned()],
        );
        let wanted = serde_json::json!({
            "type": PLUGIN, "runDir": "/run/x", "bpffs": "/bpf", "hook": "clsact", "failOpenNamespaces": ["a"]
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&other).unwrap(), wanted);
    }
}
