//! From what the kernel holds to what it should hold, one write at a time.
//!
//! A packet meets the maps between any two writes. Its verdict is `slot(endpoint, direction)` asked about
//! `identity(address)`, so writes of two kinds change verdicts: an address *moves* to another identity, an endpoint
//! *flips* to another slot. Everything else is written where nobody looks yet, or removed where nobody looks any more:
//!
//! ```text
//! contents   entries of new slots; in slots that are left, the identities to come with their parents' verdicts
//! moves      address by address, prefix by prefix (longest first)
//! grace      ── programs that saw an old identity have ended
//! flips      endpoint by endpoint: one 64-bit word a direction
//! grace      ── programs that saw an old slot have ended
//! settling   only where an intermediate identity was needed: addresses go on to their final one
//! grace      ── before generations rise, and before anything is removed
//! removal
//! ```
//! Invariants, for each packet, endpoint and direction, after each step, also where steps fail:
//! - the verdict is the old state's or the new state's; only an address whose move failed, or rests on what failed, may
//!   be denied what both allow until the next plan has moved it;
//! - a generation rises after the verdict that it stands for has changed, so that no flow keeps an old admission.
//!
//! What makes that work: a slot's or identity's number never changes its meaning ([`crate::numbers`]).

mod changed;
mod classes;
mod compare;
mod execute;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod order;
mod steps;
#[cfg(test)]
mod tests;
mod transition;

pub use execute::{Outcome, execute};
use vethwall_common::{
    address::{Addr, Prefix},
    entry::{Entry, Key},
    identity::Identity,
};

use crate::state::State;

/// One write.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    /// Store an entry.
    Put(Entry),
    /// Remove an entry; a missing one is no error.
    Delete(Key),
    /// Wait until every program that runs now has ended.
    Grace,
}

/// An operation with its place in the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What to do.
    pub operation: Operation,
    /// Why it stands here.
    pub why: &'static str,
    /// What is broken if it fails or is left out.
    provides: Vec<Unit>,
    /// It is left out if any of this is broken.
    requires: Vec<Unit>,
}

/// Something that steps bring about together, and that other steps rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    /// The pages of a port set.
    PortSet(u32),
    /// The contents of a slot.
    Slot(u32),
    /// What the slots in use say of an identity.
    Identity(Identity),
    /// An address is where it should be.
    Address(Addr),
    /// The addresses of a prefix, but for longer prefixes in it, are where they should be.
    Prefix(Prefix),
    /// Whatever is new inside this prefix stands, so the prefix can change without dragging it along.
    Inside(Prefix),
    /// All that go from one identity to another went.
    Move(Identity, Identity),
    /// Nobody has this identity any more.
    Left(Identity),
    /// No endpoint uses this slot any more.
    Emptied(u32),
    /// An endpoint has its slots.
    Endpoint(u32),
    /// All endpoints have left their old slots.
    Flips,
    /// Nobody has an intermediate identity any more.
    Settled,
    /// Old programs have ended.
    Grace,
}

/// The steps from `observed` to `desired`. `desired` is a compiler's output: complete (every slot speaks of every live
/// identity), generations zero.
pub fn plan(observed: &State, desired: &State) -> Vec<Step> {
    let transition = transition::Transition::new(observed, desired);
    steps::steps(&transition)
}
