//! Tests of more than one module: rules, explanations, properties over random worlds; and what they share.

mod changes;
mod cluster;
pub(crate) mod compile;
mod early;
mod explain;
mod fix;
pub(crate) mod judge;
mod limits;
mod lives;
mod memory;
mod nearly;
pub(crate) mod random;
mod semantics;
mod shape;
pub(crate) mod small;
mod strangers;
pub(crate) mod world;
