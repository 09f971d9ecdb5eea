//! Programs of another version of the layouts: they judge until ours can, and go when ours do.
//!
//! ```text
//! maps of ours filled ─► connections known ─► the bridge's program replaced ─► each pod's ─► what is left of the others' removed
//! ```
//!
//! Invariants:
//! - Nothing of theirs is touched before our maps follow the world: what they judge goes on as it was.
//! - No pod is taken over before the second stage is ours: what its programs defer must find it. No second stage is taken over
//!   before connections are known: answers of pods go by there too.

use tracing::{info, warn};
use vethwall_datapath::versions;

use super::thread::Node;
use crate::api::status::Problem;

/// Other versions on this node.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// Their numbers.
    versions: Vec<u32>,
    /// Why they are still there.
    error: Option<String>,
}

impl Node {
    /// Whether another version judges still.
    pub(super) fn look_for_others(&mut self) -> bool {
        match self.pins.others() {
            Ok(others) => self.others.versions = others.iter().map(vethwall_datapath::Pins::abi).collect(),
            Err(error) => self.others.error = Some(error.chain()),
        }
        !self.others.versions.is_empty()
    }

    /// Takes the bridge over from another version. False where that failed: then its pods stay as they are, too.
    pub(super) fn takes_bridge_over(&mut self) -> bool {
        self.look_at_bridge();
        self.bridge_error.is_none()
    }

    /// Once all pods carry our programs: nothing of another version is left behind.
    pub(super) fn end_others(&mut self) {
        if self.others.versions.is_empty() || self.interfaces.values().any(|known| known.hook.is_none()) {
            return;
        }
        let error = versions::supersede(&self.pins).err().map(|error| error.chain());
        match &error {
            None => info!(versions = ?self.others.versions, "programs of another version are replaced"),
            Some(why) if error != self.others.error => {
                warn!("programs of another version can not be replaced yet: {why}");
            }
            Some(_) => {}
        }
        self.others.error = error;
        self.look_for_others();
    }

    /// That another version is there is told as long as it is.
    pub(super) fn other_versions(&self) -> Option<Problem> {
        let Others { versions, error } = &self.others;
        if versions.is_empty() && error.is_none() {
            return None;
        }
        let bridge = self.bridge_error.as_ref();
        let bridge = bridge.map(|why| format!("the bridge can not be taken over: {why}"));
        let why = error.clone().or(bridge);
        let why = why.as_deref().unwrap_or("pods are being taken over");
        let versions: Vec<String> = versions.iter().map(|version| format!("v{version}")).collect();
        Some(Problem::new(
            "ATT005",
            format!(
                "another version of vethwall ({}) judges on this node beside this one: {why}",
                versions.join(", ")
            ),
            None,
        ))
    }
}
