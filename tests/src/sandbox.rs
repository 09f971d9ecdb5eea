//! A place of its own for a test: network and mount namespace, with its own bpffs, /run and /var/lib.
//!
//! Invariants: nothing a test does in here is seen outside, and everything vanishes with the thread or the [`Sandbox`],
//! also when the test panics: the namespaces are referred to by nothing else.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, ensure};
use caps::{CapSet, CapsHashSet};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

/// bpffs in every sandbox: where it is on a node.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Names the variable with the only capabilities that a test may have, such as `CAP_BPF,CAP_NET_ADMIN`; root's by default.
pub const CAPABILITIES: &str = "VETHWALL_TEST_CAPABILITIES";

/// Names the variable that, when it is set, hides the kernel's type information from a test.
pub const WITHOUT_BTF: &str = "VETHWALL_TEST_WITHOUT_BTF";

/// Runs a test in a sandbox, on a thread of its own that nothing else ever uses. Threads and processes that it starts
/// are in the sandbox too.
pub fn run<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    apart(|| {
        enter().expect("root is needed, with the right to make namespaces and to mount");
        test()
    })
}

/// A sandbox that one goes into more than once.
#[derive(Debug)]
pub struct Sandbox {
    network: File,
    mounts: File,
}

impl Sandbox {
    /// A new one.
    pub fn new() -> Result<Self> {
        apart(|| {
            enter()?;
            Ok(Self {
                network: File::open("/proc/thread-self/ns/net")?,
                mounts: File::open("/proc/thread-self/ns/mnt")?,
            })
        })
    }

    /// Does something in it. Processes that are started stay in it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        apart(|| {
            // A thread that shares its root directory with others may not change its mount namespace.
            unshare(CloneFlags::CLONE_FS)?;
            setns(&self.mounts, CloneFlags::CLONE_NEWNS).context("enter the mount namespace")?;
            setns(&self.network, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
            work()
        })
    }
}

/// On a thread of its own; its panic is this thread's.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make / private")?;
    // sysfs and /proc/sys/net follow the network namespace of who mounts them.
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("mount /sys")?;
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none).context("mount bpffs")?;
    for directory in ["/run", "/var/lib"] {
        mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), none)
            .with_context(|| format!("mount {directory}"))?;
    }
    fs::create_dir_all("/run/netns")?;
    ip("link set lo up")?;
    if std::env::var_os(WITHOUT_BTF).is_some() {
        mount(
            Some("tmpfs"),
            "/sys/kernel/btf",
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )
        .context("hide BTF")?;
    }
    match std::env::var(CAPABILITIES) {
        Ok(names) => confine(&names),
        Err(_) => Ok(()),
    }
}

/// Leaves this thread, and what it starts, with these capabilities only, as a container's are.
pub fn confine(names: &str) -> Result<()> {
    let wanted = names
        .split(',')
        .map(str::parse)
        .collect::<Result<CapsHashSet, _>>()
        .with_context(|| format!("capabilities {names}"))?;
    // Root gets all of this set with every program it starts.
    let reachable = caps::read(None, CapSet::Bounding)?;
    for capability in reachable.difference(&wanted) {
        caps::drop(None, CapSet::Bounding, *capability)?;
    }
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &wanted)?;
    caps::set(None, CapSet::Permitted, &wanted)?;
    let left = caps::read(None, CapSet::Permitted)?;
    ensure!(left == wanted, "{left:?} are left, not {names}");
    Ok(())
}

/// Runs a command; its standard output, or an error with all it said.
pub fn command(program: impl AsRef<Path>, arguments: &[&str]) -> Result<String> {
    let program = program.as_ref();
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{} {}: {}{}",
        program.display(),
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `ip` with these words.
pub fn ip(words: &str) -> Result<()> {
    command("ip", &words.split_whitespace().collect::<Vec<_>>()).map(drop)
}

/// A program of this workspace; `make test` has built it.
pub fn program(name: &str) -> Result<PathBuf> {
    // .../target/debug/deps/main-0123 or .../target/debug/vethwall-lab
    let own = std::env::current_exe()?;
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(name))
        .find(|p| p.is_file());
    found.with_context(|| format!("{name} is not built; run `cargo build` first"))
}

/// The folder of this workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default()
}
