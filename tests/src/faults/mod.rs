//! Faults of a node, drawn at random, while every pod sends what policy allows and what it forbids.
//!
//! ```text
//! seed ─► rounds ─► begin faults ─ a pod starts, from its first packet on ─ end them ─► settle ─► check
//!
//! one, two (egress: open, TCP 80) ──► open     TCP 80, TCP 81, UDP 53
//!                                 ╳─► closed   TCP 80, UDP 53: nothing may come in
//! free (no policy) ──► open, ╳─► closed        talk (as two) ── one connection that lives ──► open
//! two, talk: nothing may come in either, but answers
//! ```
//!
//! Promises that are checked:
//! - of what policy forbids nothing arrives, at any moment: a packet socket on each receiver's own interface sees every frame, and
//!   receivers tell what came to their sockets, and who sent it;
//! - a connection that policy allows never breaks, but with its pod;
//! - what is allowed arrives again after each round, and what must not be counted would be: `free` is heard on the same ports;
//! - leases, cached results, interfaces, programs and pins are those of the pods that run, no more and no less.

mod apply;
mod arrivals;
mod check;
mod draw;
mod explain;
mod pods;
mod report;

use std::fmt::Write as _;

use anyhow::{Result, bail};

use self::pods::World;
pub use self::{
    draw::{Fault, Round, rounds},
    report::Report,
};
use crate::{
    cni,
    runtime::{Node, Release},
    sandbox,
};

/// What a run is about.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Under which container runtime.
    pub release: Release,
    /// What happens.
    pub rounds: Vec<Round>,
    /// How many pods come and go at once.
    pub crowd: usize,
}

/// Runs a plan on a node of its own. The error is the first promise that was broken, with what had happened before.
pub fn run(plan: &Plan, mut progress: impl FnMut(usize, &Round, &Report) + Send) -> Result<Report> {
    sandbox::run(|| {
        apply::small_disk()?;
        cni::install(cni::FLANNEL)?;
        let node = Node::boot(plan.release)?;
        apply::own_bpffs(&node)?;
        apply::track()?;
        let mut world = World::new(&node, plan.crowd)?;
        for (number, round) in plan.rounds.iter().enumerate() {
            if let Err(error) = world.live_through(round) {
                // What came to pods meanwhile weighs more than what is left of them.
                let arrived = world
                    .listen()
                    .map_or_else(|error| format!("{error:#}\n"), |()| String::new());
                let (report, logs) = (&world.report, node.logs());
                bail!("{error:#}\n{arrived}{}\n{report}\n{logs}", history(plan, number));
            }
            progress(number, round, &world.report);
        }
        world.end()?;
        Ok(world.report)
    })
}

/// The rounds before the one that went wrong, and that one.
fn history(plan: &Plan, last: usize) -> String {
    let mut text = String::from("what had happened:\n");
    for (number, round) in plan.rounds.iter().enumerate().take(last + 1) {
        // Writing to a string never fails.
        let _written = writeln!(text, "  {number} {round}");
    }
    text
}
