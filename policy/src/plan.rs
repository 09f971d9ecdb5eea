//! From what the kernel holds to what it should hold, one operation at a time.

use std::collections::BTreeMap;

use vethwall_common::{
    endpoint::SlotRef,
    entry::{Entry, Key},
};

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
    let held: BTreeMap<Key, Entry> = observed.entries().map(|entry| (entry.key(), entry)).collect();
    let wanted: BTreeMap<Key, Entry> = desired.entries().map(|entry| (entry.key(), entry)).collect();
    let mut steps = Vec::new();
    for entry in desired.entries() {
        if held.get(&entry.key()) == Some(&entry) {
            continue;
        }
        let Entry::Endpoint(ifindex, mut record) = entry else {
            steps.push(Step {
                operation: Operation::Put(entry),
                why: "contents before what refers to them",
            });
            continue;
        };
        let (ingress, egress) = match observed.endpoints.get(&ifindex) {
            Some(old) => (old.ingress, old.egress),
            None => (
                SlotRef::new(0, observed.generation),
                SlotRef::new(0, observed.generation),
            ),
        };
        let next = |old: SlotRef, new: SlotRef| {
            let raised = if old.slot() == new.slot() { 0 } else { 1 };
            SlotRef::new(new.slot(), old.generation().wrapping_add(raised))
        };
        record.ingress = next(ingress, record.ingress);
        record.egress = next(egress, record.egress);
        if observed.endpoints.get(&ifindex) != Some(&record) {
            let operation = Operation::Put(Entry::Endpoint(ifindex, record));
            steps.push(Step {
                operation,
                why: "the endpoint takes its slots",
            });
        }
    }
    let gone: Vec<_> = held.keys().filter(|key| !wanted.contains_key(key)).collect();
    if !gone.is_empty() {
        steps.push(Step {
            operation: Operation::Grace,
            why: "no program still reads what goes",
        });
        steps.extend(gone.into_iter().rev().map(|key| Step {
            operation: Operation::Delete(*key),
            why: "unused",
        }));
    }
    steps
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
