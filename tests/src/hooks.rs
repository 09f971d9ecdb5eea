//! What judges on the interfaces of a sandbox.

use anyhow::Result;
use vethwall_datapath::{
    Error, Hook, Pins,
    surroundings::{self, Presence},
};

/// How many hooks carry our programs, by a link or by a filter: two of each pod's interface, one of the bridge.
pub fn judging(pins: &Pins) -> Result<usize, Error> {
    let mut hooks = 0;
    for interface in surroundings::interfaces()? {
        if on(pins, interface.ifindex)? {
            hooks += 2;
        }
        let bridge = |hook| surroundings::bridge(pins, interface.ifindex, hook);
        if interface.name == "cni0" && either(bridge)? {
            hooks += 1;
        }
    }
    Ok(hooks)
}

/// Whether both programs of a pod are on this interface.
pub fn on(pins: &Pins, ifindex: u32) -> Result<bool, Error> {
    either(|hook| surroundings::endpoint(pins, ifindex, hook))
}

fn either(presence: impl Fn(Hook) -> Result<Presence, Error>) -> Result<bool, Error> {
    for hook in [Hook::Tcx, Hook::Clsact] {
        match presence(hook) {
            Ok(Presence::Missing) => {}
            // Nothing is pinned, so nothing of ours hangs anywhere.
            Err(Error::NotLoaded { .. }) => return Ok(false),
            found => return found.map(|_| true),
        }
    }
    Ok(false)
}
