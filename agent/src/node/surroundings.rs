//! What was found around our programs, and what follows from it.

use std::{collections::BTreeMap, time::Instant};

use tracing::warn;
use vethwall_common::config::Config;
use vethwall_datapath::surroundings::Presence;

/// kube-proxy in IPVS mode has the Services' addresses on it.
pub(super) const IPVS: &str = "kube-ipvs0";

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    /// The sysctls of br_netfilter, IPv4 and IPv6; `None` where it is not loaded.
    pub(super) bridge_nf: [Option<bool>; 2],
    pub(super) ipvs: bool,
    /// Ports of the bridge without a program, and since when.
    pub(super) bare: BTreeMap<u32, (String, Instant)>,
    /// The same, for long enough to be nobody's that is being wired.
    pub(super) foreign: Vec<String>,
    /// Pods whose interface is no port of the bridge.
    pub(super) elsewhere: Vec<String>,
    /// Interfaces where somebody else's programs stand before ours.
    pub(super) behind: BTreeMap<String, Vec<u32>>,
    /// Interfaces from which our program was taken, how often, and when last.
    pub(super) taken: BTreeMap<String, (u32, Instant)>,
    /// Looked once: from then on a port that comes is one that is being wired.
    pub(super) looked: bool,
    pub(super) error: Option<String>,
}

impl Surroundings {
    /// The flags for a bridge that carries its program.
    pub(super) fn flags(&self) -> u32 {
        let flag = |family: usize, flag| {
            if self.bridge_nf[family] == Some(true) {
                flag
            } else {
                0
            }
        };
        if self.ipvs || !self.foreign.is_empty() {
            return 0;
        }
        flag(0, Config::BRIDGE_V4) | flag(1, Config::BRIDGE_V6)
    }

    pub(super) fn take(&mut self, interface: &str) {
        let taken = self.taken.entry(interface.to_owned());
        let (times, last) = taken.or_insert((0, Instant::now()));
        *times += 1;
        *last = Instant::now();
    }

    pub(super) fn note(&mut self, interface: &str, presence: Presence) {
        match presence {
            Presence::Behind(programs) => {
                let before = self.behind.insert(interface.to_owned(), programs.clone());
                if before.as_ref() != Some(&programs) {
                    warn!(%interface, ?programs, "programs of somebody else stand before ours");
                }
            }
            Presence::First | Presence::Missing => _ = self.behind.remove(interface),
        }
    }
}
