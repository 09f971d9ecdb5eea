//! Compiles the kernel programs once more, with what test runs need to set tags (`../ebpf/src/harness.rs`).

use aya_build::{Package, Toolchain};

fn main() -> aya_build::Result<()> {
    // As in datapath/build.rs.
    for path in ["build.rs", "../common", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let programs = Package {
        name: "vethwall-ebpf",
        root_dir: "../ebpf",
        features: &["harness"],
        ..Package::default()
    };
    aya_build::build_ebpf([programs], Toolchain::Custom("bpf"))
}
