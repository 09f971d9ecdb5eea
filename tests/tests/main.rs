//! Every test that crosses a crate or needs the kernel. Needs root.

mod datapath;
mod demo;
mod differential;
mod enforced;
mod kernel;
mod lab;
mod plugin;
