//! What the maps take of the kernel's memory, as the kernel counts it (`memlock` in fdinfo), and what a write takes of
//! the time.

use std::{fs, os::fd::AsFd as _, os::fd::AsRawFd as _, path::Path, time::Instant};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use vethwall_common::{
    entry::Entry,
    identity::Identity,
    maps,
    verdict::{VerdictEntry, VerdictKey, allow},
};
use vethwall_datapath::{Kernel, Maps as _, Options, Pins};
use vethwall_tests::sandbox::{self, BPFFS};

use crate::Bench;

/// Entries written, one after the other.
const WRITES: u32 = 10_000;

/// Prints both.
pub(crate) fn bench() -> Result<()> {
    println!("\nbytes of kernel memory for maps, by the pods that the node holds at most\n");
    println!(
        "{:<34} {:>12} {:>12} {:>12}",
        "pods at most", "FLOWS, _NEW", "others", "together"
    );
    for pods in [30, 110, 250, 512] {
        let (flows, others) = sandbox::run(|| {
            let kernel = Kernel::load_with(Pins::new(BPFFS), &Options::for_pods(pods))?;
            used(kernel.pins())
        })?;
        row(&format!("{pods}, empty"), flows, others);
    }
    let (flows, others) =
        sandbox::run(|| used(Bench::sized(1000, Options::for_pods(110))?.programs.kernel.pins()))?;
    row("110, with 1,000 policies and peers", flows, others);
    let cost = sandbox::run(writes)?;
    println!("\na write to a map: {cost:.2} us, the mean of {WRITES}");
    Ok(())
}

fn row(name: &str, flows: u64, others: u64) {
    println!("{name:<34} {flows:>12} {others:>12} {:>12}", flows + others);
}

fn used(pins: &Pins) -> Result<(u64, u64)> {
    let (mut flows, mut others) = (0, 0);
    let root = pins.map(maps::FLOWS);
    let directory = root.parent().context("a pin without a directory")?;
    for pin in fs::read_dir(directory)? {
        let pin = pin?;
        let bytes = memlock(&pin.path())?;
        let name = pin.file_name();
        if name == maps::FLOWS || name == maps::FLOWS_NEW {
            flows += bytes;
        } else {
            others += bytes;
        }
    }
    Ok((flows, others))
}

fn memlock(pin: &Path) -> Result<u64> {
    let map = MapData::from_pin(pin).with_context(|| format!("open {}", pin.display()))?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(line.context("no memlock in fdinfo")?.trim().parse()?)
}

/// Microseconds of one write.
fn writes() -> Result<f64> {
    let mut kernel = Kernel::load_or_adopt(BPFFS)?;
    let value = VerdictEntry {
        allow: allow::BOTH,
        ..VerdictEntry::default()
    };
    let start = Instant::now();
    for n in 0..WRITES {
        let key = VerdictKey {
            slot: 1,
            identity: Identity(1000 + n),
        };
        kernel.put(&Entry::Verdict(key, value))?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(WRITES))
}
