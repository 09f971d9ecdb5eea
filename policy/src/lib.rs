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
//!   or detour shows in its result.
//! - A verdict in a slot is a function of the peer's signature: the set of selectors, prefixes and named ports, among
//!   those that policies of local pods use, that the peer matches.
//! - After every single step of a plan each packet meets the old verdict or the new one, never a third.
//! - What is missing denies: no record, no slot, no entry, no known pod.
#![forbid(unsafe_code)]

mod answer;
pub mod compile;
mod encode;
pub mod explain;
pub mod limits;
mod matched;
pub mod model;
pub mod numbers;
mod owners;
pub mod plan;
pub mod reader;
mod resolve;
pub mod selector;
mod signature;
mod slots;
pub mod state;
mod terms;
#[cfg(test)]
mod test_cluster;
#[cfg(test)]
mod test_compile;
#[cfg(test)]
mod test_explain;
#[cfg(test)]
mod test_fix;
#[cfg(test)]
mod test_judge;
#[cfg(test)]
mod test_limits;
#[cfg(test)]
mod test_lives;
#[cfg(test)]
mod test_memory;
#[cfg(test)]
mod test_random;
#[cfg(test)]
mod test_semantics;
#[cfg(test)]
mod test_shape;
#[cfg(test)]
mod test_world;
pub mod world;
