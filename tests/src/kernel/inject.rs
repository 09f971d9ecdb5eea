//! A packet that comes by an interface, on kernels whose test runs can not say by which it came.
//!
//! ```text
//! frame ─► test run of a program that hands it to the ingress of the interface it comes by
//!            └─ from a pod, from the bridge: our filter ─► one that counts and drops
//!            └─ to a pod: sent on to the egress of the pod's interface: our filter ─► one that counts and drops
//! ```
//!
//! The second filter sees what ours lets pass, and nothing else; no packet gets any further. Raw sockets would need a
//! capability that the tests do not have.

use std::{
    collections::BTreeSet,
    fs, mem,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya_obj::generated::bpf_insn;

use super::raw;
use crate::sandbox::{command, ip};

/// How long a packet may take from one interface to the next.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where packets are put, and what judges them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) program: PathBuf,
    /// The program judges what leaves the interface.
    pub(super) egress: bool,
    pub(super) ifindex: u32,
    pub(super) came_by: u32,
}

/// The filters of one place; kept from packet to packet, since making them takes most of the time.
#[derive(Debug)]
pub(super) struct Injection {
    place: Place,
    here: String,
    side: &'static str,
    devices: BTreeSet<String>,
    sender: OwnedFd,
    seen: u64,
}

/// Keeps the kernel from sending packets of its own over interfaces that are made after this.
pub(super) fn quiet() -> Result<()> {
    fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").context("switch IPv6 off")
}

impl Injection {
    pub(super) fn new(place: Place) -> Result<Self> {
        let here = format!("t{}", place.ifindex);
        let entry = if place.egress {
            place.came_by
        } else {
            place.ifindex
        };
        let there = format!("t{entry}");
        let side = if place.egress { "egress" } else { "ingress" };
        let devices = BTreeSet::from([here.clone(), there.clone()]);
        for device in &devices {
            // Without a carrier nothing is redirected to it.
            ip(&format!("link set {device} up"))?;
            ip(&format!("link set {} up", device.replacen('t', "u", 1)))?;
            tc(&format!("qdisc add dev {device} clsact"))?;
        }
        let pin = place.program.display();
        tc(&format!(
            "filter add dev {here} {side} prio 1 protocol all bpf direct-action object-pinned {pin}"
        ))?;
        tc(&format!(
            "filter add dev {here} {side} prio 2 protocol all matchall action drop"
        ))?;
        if place.egress {
            tc(&format!(
                "filter add dev {there} ingress prio 3 protocol all matchall action mirred egress redirect dev {here}"
            ))?;
        }
        let (sender, _) = raw::load(&hand_over(entry)?, c"GPL").context("load the program that sends")?;
        Ok(Self {
            place,
            here,
            side,
            devices,
            sender,
            seen: 0,
        })
    }

    pub(super) fn is_at(&self, place: &Place) -> bool {
        self.place == *place
    }

    /// Whether the program lets the packet pass. `judged` tells when it has seen it.
    pub(super) fn passes(&mut self, frame: &[u8], mut judged: impl FnMut() -> Result<bool>) -> Result<bool> {
        let refused = raw::run(self.sender.as_fd(), frame).context("run the program that sends")?;
        ensure!(refused == 0, "the frame is not taken: {}", refused.cast_signed());
        let started = Instant::now();
        // What the bridge's program has nothing to say about is not counted by it.
        while !judged()? && dropped(&self.here, self.side)? == self.seen {
            ensure!(
                started.elapsed() < PATIENCE,
                "nothing judged the frame on {}",
                self.here
            );
            thread::sleep(Duration::from_millis(1));
        }
        let before = mem::replace(&mut self.seen, dropped(&self.here, self.side)?);
        match self.seen - before {
            0 => Ok(false),
            1 => Ok(true),
            more => anyhow::bail!("{more} packets of one passed"),
        }
    }

    /// Takes the filters off.
    pub(super) fn end(self) -> Result<()> {
        for device in &self.devices {
            tc(&format!("qdisc del dev {device} clsact"))?;
        }
        Ok(())
    }
}

fn tc(words: &str) -> Result<String> {
    command("tc", &words.split_whitespace().collect::<Vec<_>>())
}

/// How many packets the filter that drops has seen.
fn dropped(device: &str, side: &str) -> Result<u64> {
    let shown = tc(&format!("-s -j filter show dev {device} {side}"))?;
    let filters: Vec<serde_json::Value> = serde_json::from_str(&shown).context("tc's JSON")?;
    filters
        .iter()
        .find_map(|filter| filter.pointer("/options/actions/0/stats/packets")?.as_u64())
        .with_context(|| format!("no count in {shown}"))
}

/// `return bpf_clone_redirect(context, interface, BPF_F_INGRESS);`
fn hand_over(interface: u32) -> Result<[bpf_insn; 4]> {
    const MOV_IMMEDIATE: u8 = 0xb7;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const CLONE_REDIRECT: i32 = 13;
    const INGRESS: i32 = 1;
    let instruction = |code, register, immediate| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(register, 0),
        off: 0,
        imm: immediate,
    };
    Ok([
        instruction(MOV_IMMEDIATE, 2, i32::try_from(interface)?),
        instruction(MOV_IMMEDIATE, 3, INGRESS),
        instruction(CALL, 0, CLONE_REDIRECT),
        instruction(EXIT, 0, 0),
    ])
}
