//! What the tests, the lab and the demo are made of.

pub mod sandbox;
