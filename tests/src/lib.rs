//! What the tests, the lab and the demo are made of.

pub mod kernel;
pub mod lab;
pub mod sandbox;
pub mod oracle;
pub mod worlds;
pub mod demo;
