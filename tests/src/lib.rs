//! What the tests, the lab and the demo are made of.

pub mod rules;
pub mod sandbox;
pub mod traffic;
