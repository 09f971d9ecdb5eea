//! Policy semantics and compiler. Pure: values in, values out; no clock, no I/O, no kernel.
//!
//! ```text
//! objects ─► World ─► resolve ─► compile ─► State (desired) ─┐
//!                        │                                   ├─► plan ─► steps ─► execute ─► State (observed)
//!                        └──► explain      State (observed) ─┘
//! ```
//!
//! Invariants:
//! - [`compile::compile`] is a function of the [`world::World`], up to the numbers it gives: no order of events, repetition
//!   or detour shows in its result, and nothing that a [`compile::Compiler`] remembers.
//! - A verdict in a slot is a function of the peer's signature: what the peer answers to the selectors, prefixes and named
//!   ports that policies of local pods use, and how sure each answer is.
//! - After every single step of a plan each packet meets the old verdict or the new one, never a third.
//! - What is missing denies: no record, no slot, no entry, no known pod.
//!
//! # Adding a kind of peer
//!
//! The matches are exhaustive, so the compiler of Rust leads through all but the first and the last:
//! 1. [`model::Peer`]: what it says, without how it is written.
//! 2. `terms`: the question it asks of an address, and who answers it; `owners` asks them.
//! 3. `resolve`: from the peer to the question's number. `answer::is_peer`: from the answer to yes, maybe or no.
//! 4. `limits`: whether it takes room in a map. `explain::sentences`: what it asks for, and what fails first.
//! 5. The oracle and the generator of worlds in `tests/`, then the border in `agent/`.
#![forbid(unsafe_code)]

mod answer;
pub mod compile;
mod compiled;
mod encode;
pub mod explain;
pub mod limits;
mod matched;
mod meaning;
pub mod model;
pub mod numbers;
mod owners;
mod placed;
pub mod plan;
pub mod reader;
mod resolve;
pub mod selector;
mod signature;
mod slots;
pub mod state;
mod term;
mod terms;
#[cfg(test)]
mod tests;
pub mod world;
