//! From what the watches hear to steps. Pure: time is an argument.
//!
//! ```text
//!              All                    Behind                 All, Open
//! Starting ──────────► Current ─────────────────► Behind ──────────────► Current
//! ```
//! Nothing is told while a resource is Starting. While one is Behind, what the others hear is held, so that a step after
//! an interruption does not mix what is known now with what was known then; but not for longer than [`HOLD`]: what is
//! known must not wait for what may never come.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Heard, Resource, index::Index};
use crate::node::{Content, Objects};

/// How long changes wait for the watches that are behind.
pub(super) const HOLD: Duration = Duration::from_secs(5);

/// After an interruption: how long nothing must have come before all are taken to have caught up. A watch tells all it
/// has of the past at once.
pub(super) const QUIET: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// It was never listed.
    #[default]
    Starting,
    Current,
    Behind {
        /// The others wait for it.
        waited: bool,
    },
}

/// Collects what the watches hear.
#[derive(Debug, Default)]
pub(super) struct Gather {
    index: Index,
    states: BTreeMap<Resource, State>,
    /// When the oldest change that is not told came.
    held: Option<Instant>,
    /// When something came last.
    last: Option<Instant>,
    /// Some watch is, or was, behind since the last step.
    interrupted: bool,
    steps: u64,
}

impl Gather {
    /// A watch heard something.
    pub(super) fn take(&mut self, resource: Resource, heard: Heard, now: Instant) {
        let state = self.states.entry(resource).or_default();
        match heard {
            Heard::All(seen) => {
                *state = State::Current;
                self.index.all(resource, seen);
            }
            Heard::There(seen) => self.index.there(resource, *seen),
            Heard::Gone(key) => self.index.gone(resource, key),
            Heard::Open => {
                if matches!(state, State::Behind { .. }) {
                    *state = State::Current;
                }
            }
            Heard::Behind { brief } => {
                if *state != State::Starting {
                    *state = State::Behind { waited: brief };
                    self.interrupted = true;
                }
            }
        }
        self.last = Some(now);
        if self.index.changed() {
            self.held.get_or_insert(now);
        }
    }

    /// When the next step is due, if nothing comes before. `None`: there is nothing to tell.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let state = |resource| self.states.get(&resource).copied().unwrap_or_default();
        if Resource::ALL
            .into_iter()
            .any(|resource| state(resource) == State::Starting)
        {
            return None;
        }
        let held = self.held?;
        let waits = Resource::ALL
            .into_iter()
            .any(|resource| state(resource) == State::Behind { waited: true });
        let quiet = self.last.unwrap_or(held) + QUIET;
        Some(match (waits, self.interrupted) {
            (true, _) => held + HOLD,
            (false, true) => quiet.min(held + HOLD),
            (false, false) => now,
        })
    }

    /// Everything that was heard since the last step.
    pub(super) fn step(&mut self) -> Objects {
        self.held = None;
        for state in self.states.values_mut() {
            if let State::Behind { waited } = state {
                *waited = false;
            }
        }
        self.interrupted = false;
        self.steps += 1;
        let changes = self.index.take();
        let told = self.index.problems();
        Objects {
            content: Content::Changes(changes),
            digest: self.steps.to_string(),
            policy_problems: told.policy_problems,
            problems: told.problems,
            ..Objects::default()
        }
    }
}
