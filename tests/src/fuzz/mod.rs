//! Packets of every kind against the real programs, each verdict held against the judge's.
//!
//! ```text
//! dice ─► node, conversations ─► packet ─► program ─► passed? tag? ─┐
//!                                   └────► judge ◄──────────────────┴─► differs: made small, kept as a file
//! ```
//! A file (`tests/data/packets/*.json`) holds a node, and steps: packets in hex, changes of the node, interfaces whose
//! connections are forgotten. It is replayed step by step, the judge asked anew.

mod maps;
mod packets;
mod scene;

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use vethwall_common::entry::{Entry, Key};

use crate::{
    kernel::{Given, Program, Programs},
    oracle::packet::{Expected, Hook, Judge, Run, bytes, node::Node},
};

use scene::Scene;

/// What can be seen again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Case {
    /// What it shows.
    pub about: String,
    /// The node at the beginning.
    pub node: Node,
    /// What happens.
    pub steps: Vec<Step>,
}

/// One thing that happens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// A packet.
    Packet(Packet),
    /// The node is another.
    Node(Box<Node>),
    /// The programs forget the connections of an interface.
    Forget(u32),
}

/// A packet in a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Packet {
    /// Where.
    pub hook: Hook,
    /// The interface.
    pub interface: u32,
    /// Where it came in.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub came_by: u32,
    /// The tag.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tag: u32,
    /// The VLAN tag beside it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub vlan: u32,
    /// Packets that it stands for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub segments: u32,
    /// What became of it; for the reader, the judge is asked anew.
    #[serde(default)]
    pub note: String,
    /// The frame in hex.
    pub frame: String,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Packet {
    fn new(run: &Run, note: String) -> Self {
        Self {
            hook: run.hook,
            interface: run.interface,
            came_by: run.came_by,
            tag: run.tag,
            vlan: run.vlan,
            segments: run.segments,
            note,
            frame: run.frame.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    fn run(&self) -> Result<Run> {
        let digits = self.frame.as_bytes();
        let bytes = digits.chunks(2).map(|pair| {
            let text = std::str::from_utf8(pair)?;
            u8::from_str_radix(text, 16).with_context(|| format!("{text:?} is not hex"))
        });
        Ok(Run {
            hook: self.hook,
            interface: self.interface,
            came_by: self.came_by,
            tag: self.tag,
            vlan: self.vlan,
            segments: self.segments,
            frame: bytes.collect::<Result<_>>()?,
        })
    }
}

/// Program and judge differ.
#[derive(Clone, Debug)]
pub struct Divergence {
    /// The step.
    pub step: usize,
    /// What the judge says.
    pub expected: Expected,
    /// What the program did.
    pub passed: bool,
    /// The tag that it left.
    pub tag: u32,
    /// The packet.
    pub run: Run,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let did = if self.passed { "passes" } else { "drops" };
        let Run {
            hook,
            interface,
            came_by,
            tag,
            vlan,
            segments,
            frame,
        } = &self.run;
        write!(
            f,
            "step {}: {hook:?} on {interface} (came by {came_by}, tag {tag:x}, vlan {vlan}, segments {segments}) {did} \
             it with tag {:x}, the judge says {:?}: {:?}",
            self.step,
            self.tag,
            self.expected,
            bytes::frame(frame, *segments != 0)
        )
    }
}

/// The programs, and what is in their maps.
pub struct Bench {
    programs: Programs,
    installed: BTreeMap<Key, Entry>,
    /// Packets that were judged.
    pub packets: u64,
    /// Of them those that passed.
    pub passed: u64,
    /// Of them those about which the judge had no opinion, by the reason.
    pub either: BTreeMap<&'static str, u64>,
    /// Packets that the kernel did not take.
    pub refused: u64,
}

impl Bench {
    /// Programs that take tags, those built in or others, and empty maps.
    pub fn new(object: Option<Vec<u8>>) -> Result<Self> {
        Ok(Self {
            programs: Programs::load_harness(object)?,
            installed: BTreeMap::new(),
            packets: 0,
            passed: 0,
            either: BTreeMap::new(),
            refused: 0,
        })
    }

    fn install(&mut self, node: &Node) -> Result<()> {
        let wanted: BTreeMap<Key, Entry> = maps::entries(node)
            .into_iter()
            .map(|entry| (entry.key(), entry))
            .collect();
        for key in self.installed.keys() {
            if !wanted.contains_key(key) {
                self.programs.delete(key)?;
            }
        }
        for (key, entry) in &wanted {
            if self.installed.get(key) != Some(entry) {
                self.programs.put(entry)?;
            }
        }
        self.installed = wanted;
        let config = maps::config(node);
        self.programs.configure(|now| *now = config)
    }

    fn forget_all(&mut self, node: &Node) -> Result<()> {
        for pod in &node.pods {
            self.programs.forget(pod.interface)?;
        }
        self.programs.told();
        Ok(())
    }

    /// One packet through program and judge; what became of it, or how they differ. None if the kernel does not take it.
    fn step(&mut self, judge: &mut Judge, run: &Run) -> Result<Option<(bool, u32, Expected, bool)>> {
        let program = match run.hook {
            Hook::FromPod => Program::FromPod,
            Hook::ToPod => Program::ToPod,
            Hook::FromBridge => Program::FromBridge,
        };
        let given = Given {
            ifindex: run.interface,
            came_by: run.came_by,
            tag: run.tag,
            vlan: run.vlan,
            segments: run.segments,
        };
        let Some((passed, tag)) = self.programs.give(program, &given, &run.frame)? else {
            self.refused += 1;
            return Ok(None);
        };
        self.packets += 1;
        self.passed += u64::from(passed);
        let expected = judge.judge(run, passed);
        let right = match expected {
            Expected::Pass | Expected::Wait => passed && judge.tag_is_right(run, expected, tag),
            Expected::Drop => !passed,
            Expected::Either(why) => {
                *self.either.entry(why).or_default() += 1;
                true
            }
        };
        Ok(Some((passed, tag, expected, right)))
    }

    fn change(&mut self, judge: &mut Judge, change: &Step) -> Result<()> {
        match change {
            Step::Node(node) => {
                self.install(node)?;
                judge.node = (**node).clone();
            }
            Step::Forget(interface) => {
                self.programs.forget(*interface)?;
                judge.forget(*interface);
            }
            Step::Packet(_) => bail!("a packet is no change"),
        }
        Ok(())
    }

    /// Does again what a file says. The first difference, if there is one.
    pub fn replay(&mut self, case: &mut Case) -> Result<Option<Divergence>> {
        let mut judge = Judge::new(case.node.clone());
        self.install(&case.node)?;
        self.forget_all(&case.node)?;
        let mut found = None;
        for (number, step) in case.steps.iter_mut().enumerate() {
            match step {
                Step::Node(_) | Step::Forget(_) => self.change(&mut judge, step)?,
                Step::Packet(packet) => {
                    let run = packet.run()?;
                    let Some((passed, tag, expected, right)) = self.step(&mut judge, &run)? else {
                        continue;
                    };
                    packet.note = note(&run, passed, expected);
                    if !right {
                        found = Some(Divergence {
                            step: number,
                            expected,
                            passed,
                            tag,
                            run,
                        });
                        break;
                    }
                }
            }
        }
        self.forget_all(&case.node)?;
        Ok(found)
    }

    /// One node and a number of packets, from a seed. What differs is returned as a case.
    pub fn episode(&mut self, seed: u64, packets: usize) -> Result<Option<(Case, Divergence)>> {
        let mut scene = Scene::new(seed);
        let mut case = Case {
            about: format!("seed {seed}"),
            node: scene.node.clone(),
            steps: Vec::new(),
        };
        let mut judge = Judge::new(scene.node.clone());
        self.install(&scene.node)?;
        for _ in 0..packets {
            if let Some(change) = scene.change() {
                self.change(&mut judge, &change)?;
                case.steps.push(change);
            }
            let run = scene.packet();
            let Some((passed, tag, expected, right)) = self.step(&mut judge, &run)? else {
                continue;
            };
            case.steps.push(Step::Packet(Packet::new(&run, String::new())));
            if !right {
                let step = case.steps.len() - 1;
                self.forget_all(&case.node)?;
                let divergence = Divergence {
                    step,
                    expected,
                    passed,
                    tag,
                    run,
                };
                return Ok(Some((case, divergence)));
            }
            scene.after(&run, passed, tag);
        }
        self.forget_all(&case.node)?;
        Ok(None)
    }

    /// The same difference with as few steps as one gets by leaving out.
    pub fn smaller(&mut self, mut case: Case, first: &Divergence) -> Result<(Case, Divergence)> {
        case.steps.truncate(first.step + 1);
        let Some(mut found) = self.replay(&mut case)? else {
            bail!("{first} is not seen again");
        };
        let (began, patience) = (Instant::now(), Duration::from_secs(4));
        let mut size = case.steps.len() / 2;
        while size > 0 && began.elapsed() < patience {
            let mut at = 0;
            while at < case.steps.len() && began.elapsed() < patience {
                let mut shorter = case.clone();
                shorter.steps.drain(at..(at + size).min(case.steps.len()));
                match self.replay(&mut shorter)? {
                    Some(same) if same.expected == found.expected && same.run.hook == found.run.hook => {
                        shorter.steps.truncate(same.step + 1);
                        case = shorter;
                        found = same;
                    }
                    _ => at += size,
                }
            }
            size /= 2;
        }
        Ok((case, found))
    }
}

/// Packets of an episode: of one node, with changes in between.
const EPISODE: usize = 150;

/// So many packets, in episodes from this seed on. The first differences, made small, at most so many.
pub fn run(bench: &mut Bench, packets: u64, first: u64, most: usize) -> Result<Vec<(Case, Divergence)>> {
    let mut differences = Vec::new();
    let began = Instant::now();
    let mut seed = first;
    while bench.packets < packets {
        if let Some((case, found)) = bench.episode(seed, EPISODE)? {
            println!("{}: {found}", case.about);
            let smaller = bench.smaller(case.clone(), &found);
            differences.push(smaller.unwrap_or((case, found)));
            if differences.len() >= most {
                return Ok(differences);
            }
        }
        ensure!(bench.refused <= bench.packets, "the kernel takes no packets");
        seed += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    let either: u64 = bench.either.values().sum();
    let Bench {
        packets,
        passed,
        refused,
        ..
    } = bench;
    println!(
        "seeds {first} to {}: {packets} packets in {seconds:.0} s, {passed} passed, {either} either way, {refused} not \
         taken",
        seed - 1
    );
    for (why, count) in &bench.either {
        println!("  {count:>9}  {why}");
    }
    Ok(differences)
}

fn note(run: &Run, passed: bool, expected: Expected) -> String {
    let did = if passed { "passed" } else { "dropped" };
    let text = format!(
        "{did}, {expected:?}: {:?}",
        bytes::frame(&run.frame, run.segments != 0)
    );
    text.chars().take(400).collect()
}
