//! Numbers for slots, identities, port sets, cookies and endpoint indices.

use crate::state::State;

/// Gives numbers to meanings and remembers them, so that what did not change keeps its number from one compilation to
/// the next.
#[derive(Debug, Default)]
pub struct Numbers {}

impl Numbers {
    /// Numbers for a kernel that holds `observed`, written by somebody else: nothing there is given a new meaning.
    /// Interfaces keep their endpoint index.
    pub fn above(observed: &State) -> Self {
        let _ = observed;
        Self::default()
    }

    /// Frees the numbers that neither the last compilation nor the kernel uses. Call it after a plan was executed, with
    /// what the kernel then holds; without it numbers run out, and pods that get none stay closed.
    pub fn release(&mut self, observed: &State) {
        let _ = observed;
    }
}
