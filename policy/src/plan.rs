//! From what the kernel holds to what it should hold, one operation at a time.

use vethwall_common::entry::{Entry, Key};

use crate::state::State;

/// One write.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "most are entries; boxing them would cost more than it saves"
)]
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
}

/// What came of a plan.
#[derive(Debug)]
pub struct Outcome<E> {
    /// What the kernel holds now; the `observed` of the next plan.
    pub observed: State,
    /// Steps that failed. They come again in the next plan.
    pub failures: Vec<(Step, E)>,
    /// Steps left out because a step they rest on failed. They come again too.
    pub skipped: Vec<Step>,
}

impl<E> Outcome<E> {
    /// Whether everything was done.
    pub fn complete(&self) -> bool {
        self.failures.is_empty() && self.skipped.is_empty()
    }
}

/// The steps from `observed` to `desired`.
pub fn plan(observed: &State, desired: &State) -> Vec<Step> {
    let _ = (observed, desired);
    Vec::new()
}

/// Executes the steps of [`plan`] in order. A failed step stops only the steps that rest on it.
pub fn execute<E>(
    observed: &State,
    steps: Vec<Step>,
    mut apply: impl FnMut(&Operation) -> Result<(), E>,
) -> Outcome<E> {
    let mut outcome = Outcome {
        observed: observed.clone(),
        failures: Vec::new(),
        skipped: Vec::new(),
    };
    for step in steps {
        match apply(&step.operation) {
            Ok(()) => match step.operation {
                Operation::Put(entry) => outcome.observed.put(entry),
                Operation::Delete(key) => outcome.observed.delete(&key),
                Operation::Grace => {}
            },
            Err(error) => outcome.failures.push((step, error)),
        }
    }
    outcome
}
