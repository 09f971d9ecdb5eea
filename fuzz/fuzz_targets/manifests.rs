//! Bytes as manifests.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vethwall::{k8s, manifests};

#[path = "../manifests.rs"]
mod body;

fuzz_target!(|bytes: &[u8]| body::run(bytes));
