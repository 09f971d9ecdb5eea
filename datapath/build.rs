//! Compiles the kernel programs (`../ebpf`) into the object that `src/object.rs` embeds.

use aya_build::{Package, Toolchain};

fn main() -> aya_build::Result<()> {
    // aya-build watches the programs only; a changed map layout must not leave a stale object in a green build.
    for path in ["build.rs", "../common", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let features: &[&str] = if std::env::var_os("CARGO_FEATURE_DEBUG_LOG").is_some() {
        &["debug-log"]
    } else {
        &[]
    };
    let programs = Package {
        name: "vethwall-ebpf",
        root_dir: "../ebpf",
        features,
        ..Package::default()
    };
    aya_build::build_ebpf([programs], Toolchain::Custom("bpf"))
}
