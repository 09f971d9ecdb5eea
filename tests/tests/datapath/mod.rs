//! The datapath on the real kernel.

mod attach;
mod capabilities;
mod conntrack;
mod held;
mod links;
mod maps;
mod packets;
mod rulesets;
mod signals;
mod versions;
mod veth;

use std::collections::BTreeMap;

use vethwall_common::maps as names;
use vethwall_datapath::{Kernel, Options, Pins};
use vethwall_tests::sandbox::{BPFFS, ip};

/// Why a test of pinned links is none here.
pub(crate) const NO_TCX: &str = "tcx came with Linux 6.6";

pub(crate) fn pins() -> Pins {
    Pins::new(BPFFS)
}

/// Small maps: quick to make, and to fill.
fn small() -> Options {
    let sizes = [
        (names::VERDICTS, 64),
        (names::PORTS, 64),
        (names::ADDRESSES, 16_384),
        (names::PREFIXES, 64),
        (names::FLOWS, 1024),
        (names::FLOWS_NEW, 1024),
    ];
    Options {
        max_entries: BTreeMap::from(sizes),
        ..Options::default()
    }
}

pub(crate) fn load() -> Kernel {
    Kernel::load_with(pins(), &small()).unwrap_or_else(|error| panic!("{}", error.chain()))
}

/// A pod with an interface, a host's end, and a network namespace at `/run/netns/NAME`. Returns the host's ifindex.
pub(crate) fn pod(name: &str, address: &str) -> u32 {
    let host = format!("v{name}");
    ip(&format!("netns add {name}")).unwrap();
    ip(&format!("link add {host} type veth peer name eth0 netns {name}")).unwrap();
    ip(&format!("link set {host} up")).unwrap();
    ip(&format!("-n {name} link set eth0 up")).unwrap();
    ip(&format!("-n {name} addr add {address} dev eth0")).unwrap();
    nix::net::if_::if_nametoindex(host.as_str()).unwrap()
}
