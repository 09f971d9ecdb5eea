//! Doing the steps, and living with those that fail.

use std::collections::BTreeSet;

use vethwall_common::entry::Entry;

use super::{Operation, Step, Unit};
use crate::state::State;

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

/// Executes the steps of [`super::plan`] in order. A failed step stops only the steps that rest on it; what they would
/// have changed keeps its old verdict, and a pod that has none yet stays closed.
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
    let mut broken: BTreeSet<Unit> = BTreeSet::new();
    for step in steps {
        let rests_on_broken = step.requires.iter().any(|unit| broken.contains(unit));
        let result = if rests_on_broken {
            None
        } else {
            Some(apply(&step.operation))
        };
        if let Some(Ok(())) = result {
            match step.operation {
                Operation::Put(entry) => outcome.observed.put(entry),
                Operation::Delete(key) => outcome.observed.delete(&key),
                Operation::Grace => {}
            }
            continue;
        }
        broken.extend(&step.provides);
        // Whatever else the record was for, it may have been to raise the generation after addresses moved: the next
        // plan sees no move any more, so remember.
        if let Operation::Put(Entry::Endpoint(ifindex, _)) = step.operation
            && outcome.observed.endpoints.contains_key(&ifindex)
        {
            outcome.observed.rejudge.insert(ifindex);
        }
        match result {
            Some(Err(error)) => outcome.failures.push((step, error)),
            Some(Ok(())) | None => outcome.skipped.push(step),
        }
    }
    outcome
}
