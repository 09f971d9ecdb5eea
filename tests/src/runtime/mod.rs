//! A node with a real container runtime: containerd, asked over its interface (CRI) as a kubelet asks it.
//!
//! ```text
//! sandbox (network, mounts) ─ init, pid 1 of the node ┬ containerd ─ flannel ─ ... ─ vethwall-cni
//!            │                                        ├ shims ─ pods: one static program, FROM scratch
//!            └ test ─ crictl ─► containerd            └ vethwall agent
//! ```
//!
//! Invariants:
//! - Everything of a node is inside its pid namespace and ends with it, also when the test panics or is killed; the
//!   pods' cgroup goes too, and all files are in the sandbox's own /run and /var/lib.
//! - Every wait is bounded.

mod agent;
mod containerd;
mod image;
pub(crate) mod init;
mod pod;
mod traces;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub use self::{
    agent::{AGENT, MANIFESTS},
    containerd::{CONTAINERD, Release, SOCKET, Settings},
    image::{Archive, IMAGE, PROGRAM, pod_image},
    pod::{Pod, Spec},
    traces::Traces,
};
use crate::lab::Place;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

const LOG: &str = "/run/log";

/// A node. When it goes out of scope, so does all that runs on it.
#[derive(Debug)]
pub struct Node {
    /// Its containerd.
    pub release: Release,
    settings: Settings,
    init: Child,
    place: Place,
    /// Above the cgroups of its pods, in every hierarchy.
    cgroup: String,
    /// Of pods to start, so that no two are the same one to the runtime.
    attempts: AtomicU32,
    /// Daemons that were started here.
    running: Mutex<BTreeMap<String, Child>>,
}

impl Node {
    /// A node in this thread's sandbox, with containerd and [`IMAGE`]. `crate::cni::install` has been before.
    pub fn boot(release: Release) -> Result<Self> {
        let node = Self::bare(release, Settings::default())?;
        node.start_containerd()?;
        node.import_own()?;
        Ok(node)
    }

    /// A node in this thread's sandbox on which nothing runs yet.
    pub fn bare(release: Release, settings: Settings) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("vethwall-test-{}-{number}", std::process::id());
        fs::create_dir_all(LOG)?;
        let init = init::start(&cgroup)?;
        let place = Place {
            holder: format!("/proc/{}", init.id()).into(),
            pid: true,
            netns: None,
            resolver: None,
        };
        Ok(Self {
            release,
            settings,
            init,
            place,
            cgroup,
            attempts: AtomicU32::new(0),
            running: Mutex::default(),
        })
    }

    /// The number of its first process, seen from here.
    pub fn id(&self) -> u32 {
        self.init.id()
    }

    /// The cgroup above all of its pods, without a slash.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// A command that finds the programs of the runtime first. It runs on the node once it is given to [`Self::start`] or
    /// [`Self::said`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        containerd::with_path(Path::new(program.as_ref()), &self.release.path())
    }

    /// Starts a program that stays.
    pub fn start(&self, name: &str, mut command: Command) -> Result<()> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(format!("{LOG}/{name}"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut running = self.running();
        ensure!(!running.contains_key(name), "{name} runs already");
        running.insert(name.to_owned(), self.place.spawn(command)?);
        Ok(())
    }

    /// Sends a signal to what [`Self::start`] started, and waits until it has ended.
    pub fn end(&self, name: &str, signal: Signal) -> Result<ExitStatus> {
        let mut child = self
            .running()
            .remove(name)
            .with_context(|| format!("{name} does not run"))?;
        // One that has ended already was not waited for, so the number is still its own.
        kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        Ok(child.wait()?)
    }

    /// Ends all that runs on the node at once, as a power cut does. Its files, mounts and interfaces stay.
    pub fn cut_power(&self) -> Result<()> {
        let mut running = self.running();
        // All of the pid namespace but its first process and whoever sends the signal.
        self.place.output({
            let mut command = Command::new("sh");
            command.args(["-c", "kill -KILL -1"]);
            command
        })?;
        for child in running.values_mut() {
            child.wait()?;
        }
        running.clear();
        Ok(())
    }

    /// The node's root directory, with what is mounted there.
    pub fn root(&self) -> PathBuf {
        self.place.holder.join("root")
    }

    /// Whether a program that stays is still there.
    pub fn runs(&self, name: &str) -> bool {
        let mut running = self.running();
        running
            .get_mut(name)
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Runs a command on the node: its standard output, or an error with all that it said.
    pub fn said(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Result<String> {
        let what = Path::new(program.as_ref()).display().to_string();
        let mut command = self.command(program)?;
        command.args(arguments);
        let output = self.output(command)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            output.status.success(),
            "{what} {}: {}{}{}",
            arguments.join(" "),
            output
                .status
                .signal()
                .map(|signal| format!("ended by signal {signal}: "))
                .unwrap_or_default(),
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }

    /// Runs a command on the node and returns how it ended and what it said.
    pub fn output(&self, command: Command) -> Result<Output> {
        self.place.output(command)
    }

    /// Runs a command on the node with this on its standard input; an error says all that it said.
    pub fn feed(&self, command: Command, input: &str) -> Result<String> {
        self.place.feed(command, input)
    }

    /// The ends of what the daemons wrote.
    pub fn logs(&self) -> String {
        let files = fs::read_dir(LOG).into_iter().flatten().flatten();
        let end = |file: fs::DirEntry| {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(25).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            format!("── {}\n{}\n", file.file_name().display(), lines.join("\n"))
        };
        files.map(end).collect()
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The namespace waits for these until their parent, this process, has.
        for child in self.running().values_mut() {
            let _ended = child.kill().and_then(|()| child.wait());
        }
        drop(self.init.stdin.take());
        let _ended = self.init.wait();
    }
}
