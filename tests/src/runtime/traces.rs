//! What pods have on their node, and leave there if somebody is careless.

use std::{fs, path::Path};

use anyhow::{Result, anyhow};
use vethwall_datapath::Pins;

use crate::{
    hooks,
    sandbox::{BPFFS, command},
};

/// How many there are of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Addresses that flannel's IPAM has given away.
    pub leases: usize,
    /// Results that libcni keeps.
    pub results: usize,
    /// Ends of veths.
    pub interfaces: usize,
    /// Hooks that carry our programs: two of each pod's interface, one of the bridge.
    pub programs: usize,
}

impl Traces {
    /// Those of this sandbox's node, with the programs of this version.
    pub fn now() -> Result<Self> {
        Self::of(&Pins::new(BPFFS))
    }

    /// With the programs that are pinned there.
    pub fn of(pins: &Pins) -> Result<Self> {
        let veths = command("ip", &["-brief", "link", "show", "type", "veth"])?;
        Ok(Self {
            leases: names("/var/lib/cni/networks/cbr0", "10.")?,
            results: names("/var/lib/cni/results", "cbr0-")?,
            interfaces: veths.lines().count(),
            programs: hooks::judging(pins).map_err(|error| anyhow!(error.chain()))?,
        })
    }
}

/// How many names in a directory begin like that; none where there is no directory.
fn names(directory: &str, prefix: &str) -> Result<usize> {
    if !Path::new(directory).exists() {
        return Ok(0);
    }
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        count += usize::from(entry?.file_name().to_string_lossy().starts_with(prefix));
    }
    Ok(count)
}
