//! Running commands in a lab's namespaces.
//!
//! ```text
//! this process ─ thread of its own ─ setns(pid, mnt, net, uts) ─ spawn ─► the command, inside the lab
//! ```
//!
//! Invariants: the thread that changes its namespaces does nothing else and ends; a command started from outside enters
//! the lab's pid namespace, so it ends with the lab at the latest.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

/// Where a command runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// `/proc/PID` of a process whose namespaces are meant, as seen from here.
    pub holder: PathBuf,
    /// Enter its pid namespace too: from outside the lab.
    pub pid: bool,
    /// A network namespace below /run/netns there, instead of the holder's.
    pub netns: Option<String>,
    /// A file that the command sees as /etc/resolv.conf; the path is as seen there.
    pub resolver: Option<PathBuf>,
}

impl Place {
    /// Starts a command there.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        let what = command.get_program().to_owned();
        let outcome = thread::scope(|scope| {
            scope
                .spawn(|| -> Result<Child> {
                    self.enter()?;
                    Ok(command.spawn()?)
                })
                .join()
        });
        match outcome {
            Ok(child) => child.with_context(|| format!("run {}", Path::new(&what).display())),
            Err(_panic) => bail!("run {}: the thread panicked", Path::new(&what).display()),
        }
    }

    /// Runs a command there and returns what it said.
    pub fn output(&self, mut command: Command) -> Result<Output> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(self.spawn(command)?.wait_with_output()?)
    }

    /// Runs a command there with this on its standard input; an error says all that it said.
    pub fn feed(&self, mut command: Command, input: &str) -> Result<String> {
        use io::Write as _;
        let what = Path::new(command.get_program()).display().to_string();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.spawn(command)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that ends early says why on its standard error.
            let _closed = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "{what}: {}{}\nit was told:\n{input}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `ip -batch`.
    pub fn ip(&self, lines: &str) -> Result<()> {
        if lines.trim().is_empty() {
            return Ok(());
        }
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]);
        self.feed(command, lines).map(drop)
    }

    /// Moves this thread there for good.
    pub fn enter(&self) -> Result<()> {
        let open = |path: PathBuf| File::open(&path).with_context(|| format!("open {}", path.display()));
        let ns = self.holder.join("ns");
        let pid = self.pid.then(|| open(ns.join("pid"))).transpose()?;
        let mnt = open(ns.join("mnt"))?;
        let uts = open(ns.join("uts"))?;
        let net = match &self.netns {
            None => open(ns.join("net"))?,
            Some(name) => open(self.holder.join("root/run/netns").join(name))?,
        };
        // A thread that shares its root directory with others may not change its mount namespace.
        unshare(CloneFlags::CLONE_FS).context("unshare")?;
        if let Some(pid) = pid {
            setns(&pid, CloneFlags::CLONE_NEWPID).context("enter the pid namespace")?;
        }
        setns(&mnt, CloneFlags::CLONE_NEWNS).context("enter the mount namespace")?;
        setns(&uts, CloneFlags::CLONE_NEWUTS).context("enter the uts namespace")?;
        setns(&net, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
        if let Some(resolver) = &self.resolver {
            unshare(CloneFlags::CLONE_NEWNS).context("unshare mounts")?;
            private()?;
            let target = fs::canonicalize("/etc/resolv.conf");
            if let Ok(target) = target {
                bind(resolver, &target)?;
            }
            let none = None::<&str>;
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("mount /sys")?;
        }
        Ok(())
    }
}

/// Keeps this mount namespace's mounts to itself.
pub(crate) fn private() -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make / private")
}

/// Mounts one path over another.
pub(crate) fn bind(from: &Path, to: &Path) -> Result<()> {
    let none = None::<&str>;
    mount(Some(from), to, none, MsFlags::MS_BIND, none)
        .with_context(|| format!("bind {} to {}", from.display(), to.display()))
}
