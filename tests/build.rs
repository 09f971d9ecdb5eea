//! Compiles the kernel programs once more, with what test runs need to set tags (`../ebpf/src/harness.rs`), and what the
//! containers of tests run, as a static program (`src/bin/vethwall-pod.rs`).

use std::{env, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use aya_build::{Package, Toolchain};

const POD: &str = "src/bin/vethwall-pod.rs";

fn main() -> Result<()> {
    // As in datapath/build.rs.
    for path in ["build.rs", POD, "../common", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let programs = Package {
        name: "vethwall-ebpf",
        root_dir: "../ebpf",
        features: &["harness"],
        ..Package::default()
    };
    aya_build::build_ebpf([programs], Toolchain::Custom("bpf"))?;
    // Static for itself: a flag for all of the workspace would reach procedural macros, which can not be static.
    let built = Command::new(env::var_os("RUSTC").context("RUSTC is not set")?)
        .args(["--edition", "2024", "--target", &env::var("TARGET")?])
        .args([
            "-C",
            "target-feature=+crt-static",
            "-C",
            "opt-level=s",
            "-C",
            "strip=symbols",
            "-C",
            "panic=abort",
        ])
        .arg(POD)
        .arg("-o")
        .arg(Path::new(&env::var("OUT_DIR")?).join("vethwall-pod"))
        .status()
        .context("run rustc")?;
    ensure!(built.success(), "{POD} could not be compiled as a static program");
    Ok(())
}
