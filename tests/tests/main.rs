//! Every test that crosses a crate or needs the kernel. Needs root.

mod datapath;
mod differential;
mod kernel_verdicts;
mod plugin;
