//! What the tests, the lab and the demo are made of.

pub mod apiserver;
pub mod chart;
pub mod cluster;
pub mod cni;
pub mod demo;
mod dice;
pub mod e2e;
pub mod faults;
pub mod fuzz;
pub mod hooks;
pub mod kernel;
pub mod lab;
pub mod oracle;
pub mod runtime;
pub mod sandbox;
pub mod told;
pub mod vm;
pub mod worlds;
