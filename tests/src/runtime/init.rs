//! pid 1 of a node: everything on the node is below it and ends with it.
//!
//! It outlives whoever started it by a moment, in which it ends all that runs and removes the pods' cgroups; so a test
//! that panics or is killed leaves nothing.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{Pid, sethostname, setsid},
};

use crate::{lab::private, sandbox::program};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Starts it: in a pid namespace of its own, and in the network namespace of this thread, whose mounts it copies. It ends
/// when its standard input does.
pub(super) fn start(cgroup: &str) -> Result<Child> {
    let mut command = Command::new(program("vethwall-lab")?);
    command
        .args(["internal", "init", cgroup])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    // The thread's children are born into the namespace, the thread itself stays where it is.
    let outcome = thread::scope(|scope| {
        let worker = scope.spawn(|| -> Result<Child> {
            unshare(CloneFlags::CLONE_NEWPID).context("make a pid namespace: root is needed")?;
            Ok(command.spawn()?)
        });
        worker.join()
    });
    let mut child = match outcome {
        Ok(child) => child.context("start a node")?,
        Err(_panic) => bail!("start a node: the thread panicked"),
    };
    let mut said = [0; 6];
    let heard = child.stdout.take().context("no pipe")?.read_exact(&mut said);
    ensure!(
        heard.is_ok() && said == *b"ready\n",
        "a node does not start: it says why on standard error"
    );
    Ok(child)
}

/// `vethwall-lab internal init`: never returns but with an error.
pub(crate) fn run(cgroup: &str) -> Result<()> {
    setsid().context("setsid")?;
    std::env::set_current_dir("/")?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS).context("make namespaces")?;
    private()?;
    let none = None::<&str>;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("mount /proc")?;
    for hierarchy in mount_cgroups()? {
        fs::create_dir_all(hierarchy.join(cgroup)).context("make a cgroup")?;
    }
    // Of this namespace alone, but shared with the mount namespaces of its pods, as systemd leaves a machine.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).context("make / shared")?;
    sethostname("node").context("sethostname")?;
    let cgroup = cgroup.to_owned();
    thread::spawn(move || {
        // Nobody ever writes: this is the end of whoever started us.
        let _end = io::stdin().read(&mut [0]);
        end(&cgroup);
        std::process::exit(0);
    });
    let mut stdout = io::stdout();
    stdout.write_all(b"ready\n")?;
    stdout.flush()?;
    loop {
        if waitpid(None, None).is_err() {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Mounts the machine's hierarchies where container runtimes look for them, as a sandbox's /sys is new and has none; returns
/// where each is.
fn mount_cgroups() -> Result<Vec<PathBuf>> {
    let none = None::<&str>;
    let own = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    let first: Vec<&str> = own
        .lines()
        .filter_map(|line| line.split(':').nth(1))
        .filter(|controllers| !controllers.is_empty())
        .collect();
    if first.is_empty() {
        mount(Some("cgroup2"), CGROUPS, Some("cgroup2"), MsFlags::empty(), none).context("mount cgroup2")?;
        return Ok(vec![CGROUPS.into()]);
    }
    // Version 1: a hierarchy for each set of controllers.
    mount(
        Some("tmpfs"),
        CGROUPS,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .context("mount a tmpfs")?;
    let mut hierarchies = Vec::new();
    for controllers in first {
        let at = Path::new(CGROUPS).join(controllers.trim_start_matches("name="));
        fs::create_dir(&at)?;
        mount(
            Some("cgroup"),
            &at,
            Some("cgroup"),
            MsFlags::empty(),
            Some(controllers),
        )
        .with_context(|| format!("mount the hierarchy of {controllers}"))?;
        hierarchies.push(at);
    }
    Ok(hierarchies)
}

/// Ends all that runs on the node, and removes its pods' cgroups.
fn end(cgroup: &str) {
    // Fails when nothing runs. This process itself is not meant.
    let _none = kill(Pid::from_raw(-1), Signal::SIGKILL);
    while waitpid(None, None) != Err(Errno::ECHILD) {}
    let above = Path::new(CGROUPS);
    let below = fs::read_dir(above)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    for hierarchy in below.chain([above.to_owned()]) {
        let top = hierarchy.join(cgroup);
        for _ in 0..100 {
            // The kernel empties a cgroup a moment after its processes are gone.
            if !top.is_dir() || remove(&top).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn remove(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}
