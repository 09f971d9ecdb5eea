//! The real programs in the real kernel, one packet at a time, without a network (`BPF_PROG_TEST_RUN`).
//!
//! ```text
//! put(Entry)… ─► maps      frame ─► run(Program, interface, came by) ─► Verdict { passed, counted }
//! ```
//!
//! To be used in a [`crate::sandbox`]: the interfaces that packets are said to be on must exist, and are made there.
//! The kernel lets nobody set `tc_index` here, so every packet comes without a tag. Old kernels do not let the interface
//! be set either by which a packet came; there it comes by one ([`inject`]).

mod inject;
pub mod packet;
mod raw;
pub mod verifier;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    mem,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use aya::{
    programs::{ProgramError, TestRun, TestRunOptions},
    util::KernelVersion,
};
use vethwall_common::{
    Direction,
    config::Config,
    entry::{Entry, Key},
    event::Event,
    flow::FlowKey,
    maps,
    verdict::{Action, Reason},
};
use vethwall_datapath::{Events, Kernel, Maps, Options, Pins};

pub use packet::Packet;

use zerocopy::IntoBytes as _;

use crate::sandbox::{BPFFS, ip};

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// From a pod, at its veth.
    FromPod,
    /// To a pod, at its veth.
    ToPod,
    /// From pods, at the bridge.
    FromBridge,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::FromPod, Self::ToPod, Self::FromBridge];

    /// Its name in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => maps::FROM_POD,
            Self::ToPod => maps::TO_POD,
            Self::FromBridge => maps::FROM_BRIDGE,
        }
    }
}

/// Whether this kernel is of this version or a newer one.
pub fn at_least(major: u8, minor: u8) -> Result<bool> {
    Ok(KernelVersion::current().context("which kernel is this")? >= KernelVersion::new(major, minor, 0))
}

/// tcx, of which some tests are about.
pub fn has_tcx() -> Result<bool> {
    at_least(6, 6)
}

/// What comes with a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The interface whose hook runs.
    pub ifindex: u32,
    /// The interface where it came in; 0: made by this node.
    pub came_by: u32,
    /// `tc_index`.
    pub tag: u32,
    /// A VLAN tag that is no longer in the frame; 0 for none.
    pub vlan: u32,
    /// Packets that this one stands for, where the kernel put several together.
    pub segments: u32,
}

/// Bytes of `struct __sk_buff` up to `gso_segs`.
const CONTEXT: usize = 168;
/// Offset of its `cb`.
const CB: usize = 48;

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It goes on.
    pub passed: bool,
    /// The counters that it moved: the last one is the verdict, one before it the egress of a local sender.
    pub counted: Vec<(Action, Direction, Reason)>,
}

impl Verdict {
    /// The reason, where there was exactly one.
    pub fn reason(&self) -> Reason {
        match self.counted[..] {
            [(_, _, reason)] => reason,
            _ => Reason::Unknown,
        }
    }

    /// Whether the packet passed for this one reason.
    pub fn passed_as(&self, reason: Reason) -> bool {
        self.passed && self.reason() == reason
    }

    /// Whether the packet was dropped for this one reason.
    pub fn dropped_as(&self, reason: Reason) -> bool {
        !self.passed && self.reason() == reason
    }
}

/// A configuration for tests: everything on, lives long enough for any test.
pub const CONFIG: Config = Config {
    abi: vethwall_common::ABI_VERSION,
    flags: Config::BRIDGE_V4 | Config::BRIDGE_V6 | Config::EVENTS,
    tcp_established: 1 << 16,
    tcp_unreplied: 60,
    tcp_closing: 30,
    udp_established: 180,
    udp_unreplied: 60,
    sctp_established: 210,
    other: 600,
    tunnel_port: 8472,
    bridge_mac: packet::BRIDGE_MAC,
    reserved: [0; 2],
};

fn small() -> BTreeMap<&'static str, u32> {
    BTreeMap::from([
        (maps::VERDICTS, 65_536),
        (maps::PORTS, 4096),
        (maps::ADDRESSES, 65_536),
        (maps::PREFIXES, 4096),
        (maps::FLOWS, 4096),
        (maps::FLOWS_NEW, 4096),
        (maps::FRAGMENTS, 1024),
        (maps::SUPPRESSION, 1024),
    ])
}

/// The programs, built with `ebpf/src/harness.rs`.
const HARNESS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vethwall-ebpf"));

/// The programs and their maps.
pub struct Programs {
    /// The maps, for what the shorter ways below do not offer.
    pub kernel: Kernel,
    /// Their events.
    pub events: Events,
    devices: BTreeSet<u32>,
    counters: Vec<u64>,
    /// The kernel takes no interface by which a packet came (refused, before 5.13 or so).
    injects: bool,
    injection: Option<inject::Injection>,
}

impl Programs {
    /// Loads the programs with maps that are small, quick to make and to fill.
    pub fn load() -> Result<Self> {
        Self::load_with(small())
    }

    /// Loads the programs that take tags from a test run ([`Programs::give`]), those built in or others, with small maps.
    pub fn load_harness(object: Option<Vec<u8>>) -> Result<Self> {
        let mut max_entries = small();
        // They are read and emptied all the time.
        max_entries.extend([(maps::FLOWS, 1024), (maps::FLOWS_NEW, 1024)]);
        Self::load_options(Options {
            max_entries,
            object: Some(object.map_or(HARNESS, |bytes| bytes.leak())),
        })
    }

    /// Loads the programs with these sizes.
    pub fn load_with(max_entries: BTreeMap<&'static str, u32>) -> Result<Self> {
        Self::load_options(Options {
            max_entries,
            object: None,
        })
    }

    fn load_options(options: Options) -> Result<Self> {
        let mut kernel = Kernel::load_with(Pins::new(BPFFS), &options)?;
        kernel.set_config(&CONFIG)?;
        let events = kernel.events()?;
        let counters = kernel.counters()?;
        Ok(Self {
            kernel,
            events,
            devices: BTreeSet::new(),
            counters,
            injects: false,
            injection: None,
        })
    }

    /// Writes an entry.
    pub fn put(&mut self, entry: &Entry) -> Result<()> {
        Ok(self.kernel.put(entry)?)
    }

    /// Removes an entry.
    pub fn delete(&mut self, key: &Key) -> Result<()> {
        Ok(self.kernel.delete(key)?)
    }

    /// Changes the configuration.
    pub fn configure(&mut self, change: impl FnOnce(&mut Config)) -> Result<()> {
        let mut config = self.kernel.config()?;
        change(&mut config);
        Ok(self.kernel.set_config(&config)?)
    }

    /// Forgets the connections and fragments of an interface.
    pub fn forget(&mut self, ifindex: u32) -> Result<()> {
        self.kernel.sweep(&|swept| swept == ifindex)?;
        Ok(())
    }

    /// Instructions that the verifier looked at, where the kernel tells (5.16).
    pub fn instructions(&mut self, program: Program) -> Result<Option<u32>> {
        Ok(self
            .kernel
            .program(program.name())?
            .info()?
            .verified_instruction_count())
    }

    /// Runs a packet through a program: on interface `ifindex`, having come in by `came_by` (0: made by this node).
    pub fn run(&mut self, program: Program, ifindex: u32, came_by: u32, frame: &[u8]) -> Result<Verdict> {
        let passed = match self.judge(program, ifindex, came_by, frame) {
            Err(error) if came_by != 0 && !self.injects && invalid(&error) => {
                self.injects = true;
                inject::quiet()?;
                for device in mem::take(&mut self.devices) {
                    ip(&format!("link del t{device}"))?;
                }
                self.judge(program, ifindex, came_by, frame)?
            }
            other => other?,
        };
        Ok(Verdict {
            passed,
            counted: self.counted()?,
        })
    }

    fn judge(&mut self, program: Program, ifindex: u32, came_by: u32, frame: &[u8]) -> Result<bool> {
        if self.injects && came_by != 0 {
            return self.inject(program, ifindex, came_by, frame);
        }
        let (returned, _) = self.repeat(program, ifindex, came_by, frame, 1)?;
        match returned {
            -1 => Ok(true),
            2 => Ok(false),
            other => anyhow::bail!("{} returned {other}, neither UNSPEC nor SHOT", program.name()),
        }
    }

    fn inject(&mut self, program: Program, ifindex: u32, came_by: u32, frame: &[u8]) -> Result<bool> {
        self.device(ifindex)?;
        self.device(came_by)?;
        let place = inject::Place {
            program: self.kernel.pins().program(program.name()),
            egress: program == Program::ToPod,
            ifindex,
            came_by,
        };
        let injection = match self.injection.take() {
            Some(injection) if injection.is_at(&place) => injection,
            other => {
                other.map_or(Ok(()), inject::Injection::end)?;
                inject::Injection::new(place)?
            }
        };
        let injection = self.injection.insert(injection);
        injection
            .passes(frame, || Ok(self.kernel.counters()? != self.counters))
            .with_context(|| format!("inject a frame of {} bytes for {}", frame.len(), program.name()))
    }

    /// Runs a packet many times; the last return value, and the nanoseconds of one run.
    pub fn repeat(
        &mut self,
        program: Program,
        ifindex: u32,
        came_by: u32,
        frame: &[u8],
        repeat: u32,
    ) -> Result<(i32, u64)> {
        self.measure(program.name(), ifindex, came_by, frame, repeat)
    }

    /// Runs a packet through a program of [`Programs::load_harness`]: whether it passed, and the tag that it left.
    /// None if the kernel takes no such packet.
    pub fn give(&mut self, program: Program, given: &Given, frame: &[u8]) -> Result<Option<(bool, u32)>> {
        self.device(given.ifindex)?;
        let mut context = [0; CONTEXT];
        let words = [
            (36, given.came_by),
            (40, given.ifindex),
            (CB, given.tag),
            (CB + 4, given.vlan),
            (164, given.segments),
        ];
        for (offset, word) in words {
            context[offset..offset + 4].copy_from_slice(&word.to_ne_bytes());
        }
        // The kernel fills all of the structure, which grows.
        let mut left = [0; 512];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&context);
        options.ctx_out = Some(&mut left);
        options.repeat = 1;
        let result = match self.kernel.program(program.name())?.test_run(options) {
            Ok(result) => result,
            Err(ProgramError::SyscallError(e)) if e.io_error.kind() == ErrorKind::InvalidInput => {
                return Ok(None);
            }
            Err(other) => return Err(other.into()),
        };
        let tag = [left[CB], left[CB + 1], left[CB + 2], left[CB + 3]];
        match result.return_value.cast_signed() {
            -1 => Ok(Some((true, u32::from_ne_bytes(tag)))),
            2 => Ok(Some((false, u32::from_ne_bytes(tag)))),
            other => anyhow::bail!("{} returned {other}, neither UNSPEC nor SHOT", program.name()),
        }
    }

    /// The same for the program that does nothing: what running costs by itself, in nanoseconds.
    pub fn baseline(&mut self, ifindex: u32, frame: &[u8], repeat: u32) -> Result<u64> {
        Ok(self.yardstick(maps::BASELINE, ifindex, frame, repeat)?.1)
    }

    /// The same for the program that looks one connection up, which must be known.
    pub fn one_lookup(&mut self, key: &FlowKey, repeat: u32) -> Result<u64> {
        let (returned, cost) = self.yardstick(maps::ONE_LOOKUP, key.ifindex, key.as_bytes(), repeat)?;
        ensure!(returned == -1, "the connection is not known");
        Ok(cost)
    }

    fn yardstick(&mut self, name: &str, ifindex: u32, frame: &[u8], repeat: u32) -> Result<(i32, u64)> {
        let program = self.kernel.program(name)?;
        if program.fd().is_err() {
            program.load()?;
        }
        self.measure(name, ifindex, ifindex, frame, repeat)
    }

    fn measure(
        &mut self,
        program: &str,
        ifindex: u32,
        came_by: u32,
        frame: &[u8],
        repeat: u32,
    ) -> Result<(i32, u64)> {
        self.device(ifindex)?;
        // struct __sk_buff up to ifindex: of its words only these two may be set.
        let mut context = [0; 44];
        context[36..40].copy_from_slice(&came_by.to_ne_bytes());
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&context);
        options.repeat = repeat;
        let result = self
            .kernel
            .program(program)?
            .test_run(options)
            .with_context(|| format!("run {program} on a frame of {} bytes", frame.len()))?;
        Ok((
            result.return_value.cast_signed(),
            u64::try_from(result.duration.as_nanos())?,
        ))
    }

    /// The events since the last call.
    pub fn told(&mut self) -> Vec<Event> {
        self.events.by_ref().collect()
    }

    /// The counters that moved since the last call.
    pub fn counted(&mut self) -> Result<Vec<(Action, Direction, Reason)>> {
        let now = self.kernel.counters()?;
        let mut moved = Vec::new();
        for direction in [Direction::Egress, Direction::Ingress] {
            for action in [Action::Drop, Action::Pass, Action::Audit] {
                for &reason in Reason::ALL {
                    let index = maps::counter_index(action, direction, reason) as usize;
                    for _ in self.counters[index]..now[index] {
                        moved.push((action, direction, reason));
                    }
                }
            }
        }
        self.counters = now;
        Ok(moved)
    }

    /// Makes sure that an interface of this number exists.
    fn device(&mut self, ifindex: u32) -> Result<()> {
        ensure!(ifindex > 1, "interface {ifindex} is not for packets");
        let there = || Path::new(&format!("/sys/class/net/t{ifindex}")).exists();
        if self.devices.insert(ifindex) && !there() {
            let peer = ifindex + 1_000_000;
            ip(&format!(
                "link add name t{ifindex} index {ifindex} type veth peer name u{ifindex} index {peer}"
            ))?;
        }
        Ok(())
    }
}

fn invalid(error: &anyhow::Error) -> bool {
    let causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes
        .into_iter()
        .any(|cause| cause.kind() == std::io::ErrorKind::InvalidInput)
}
