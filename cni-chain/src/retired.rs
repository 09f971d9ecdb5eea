//! After an uninstall: the plugin stays where it is and does nothing, until nobody names it any more.
//!
//! A runtime may have the old chain in memory, a cached result names the plugin for its DEL, and somebody else's list may
//! go on naming it. A plugin that is missing fails each of these calls; pods then hang in Terminating.

use std::path::Path;

/// File beside the plugin that says so.
pub const MARK: &str = "vethwall-cni.uninstalled";

/// Whether the plugin in this place was uninstalled. Doubt is no: then pods are protected, or wait.
#[must_use]
pub fn is_retired(plugin: &Path) -> bool {
    plugin.with_file_name(MARK).is_file()
}
