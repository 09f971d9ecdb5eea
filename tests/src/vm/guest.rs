//! pid 1 of the machine: mounts, modules, the planned tests one after the other, off.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::{
        fs::symlink,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::Path,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        resource::{RLIM_INFINITY, Resource, setrlimit},
        signal::{Signal, killpg},
    },
    unistd::Pid,
};

use super::{
    Outcome, Record,
    image::PLAN,
    plan::{Plan, Test},
};
use crate::{
    sandbox::WITHOUT_BTF,
    told::{MEASURED, SKIPPED},
};

/// Where records go; the first port is the kernel's console.
const RECORDS: &str = "/dev/ttyS1";
const OUTPUT: &str = "/tmp/output";
/// Of what a failed test said.
const TAIL: usize = 6000;

/// What no kernel loads on its own because only a file in /proc/sys or a table shows that it is missing.
const MODULES: [&str; 3] = ["br_netfilter", "nf_conntrack", "nf_conntrack_netlink"];

pub(super) fn init() -> ExitCode {
    if let Err(error) = work() {
        eprintln!("init: {error:#}");
    }
    nix::unistd::sync();
    // The host runs the machine without reboot: this is off.
    let _refused = reboot(RebootMode::RB_AUTOBOOT);
    ExitCode::FAILURE
}

fn work() -> Result<()> {
    mounts()?;
    let plan: Plan = serde_json::from_slice(&fs::read(PLAN)?)?;
    for module in MODULES {
        let loaded = Command::new("/sbin/modprobe").arg(module).status()?;
        if !loaded.success() {
            eprintln!("init: modprobe {module}: {loaded}");
        }
    }
    let mut records = OpenOptions::new().write(true).open(RECORDS)?;
    for test in &plan.tests {
        eprintln!("init: {}", test.label());
        let record = run(&plan.program, test).unwrap_or_else(|error| Record {
            test: test.label(),
            outcome: Outcome::Failed,
            seconds: 0.0,
            reason: format!("{error:#}"),
            measured: Vec::new(),
            output: String::new(),
        });
        writeln!(records, "{}", serde_json::to_string(&record)?)?;
        records.flush()?;
    }
    Ok(())
}

fn mounts() -> Result<()> {
    let none = None::<&str>;
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("bpf", "/sys/fs/bpf"),
        ("cgroup2", "/sys/fs/cgroup"),
    ] {
        mount(Some(kind), at, Some(kind), MsFlags::empty(), none).with_context(|| format!("mount {at}"))?;
    }
    // CNI's name for the place of network namespaces.
    symlink("/run", "/var/run")?;
    // A network namespace can only be bound to a place that mounts spread from.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).context("share /")?;
    Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    Ok(())
}

fn run(program: &Path, test: &Test) -> Result<Record> {
    let mut environment: BTreeMap<&str, &str> = test
        .environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    if test.without_btf {
        environment.insert(WITHOUT_BTF, "1");
    }
    let output = File::create(OUTPUT)?;
    let limit = test.locked_memory.unwrap_or(RLIM_INFINITY);
    // Inherited by the test; pid 1 may raise its own again.
    setrlimit(Resource::RLIMIT_MEMLOCK, limit, limit)?;
    let started = Instant::now();
    let child = Command::new(program)
        .args(["--exact", &test.name, "--nocapture", "--test-threads=1"])
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()?;
    let ended = wait(child, Duration::from_secs(test.seconds))?;
    let seconds = started.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&fs::read(OUTPUT)?).into_owned();
    Ok(judge(test, ended, seconds, &text))
}

/// The test's end; None when it took too long and was killed.
fn wait(mut child: Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let started = Instant::now();
    let group = Pid::from_raw(i32::try_from(child.id())?);
    loop {
        if let Some(status) = child.try_wait()? {
            // What it left behind must not disturb the next one.
            let _none_left = killpg(group, Signal::SIGKILL);
            return Ok(Some(status));
        }
        if started.elapsed() > limit {
            killpg(group, Signal::SIGKILL).map_err(io::Error::from)?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn judge(test: &Test, ended: Option<ExitStatus>, seconds: f64, text: &str) -> Record {
    // The first line that a test prints comes after the harness's own words.
    let told = |what: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| Some(line.split_once(what)?.1.trim().to_owned()))
            .collect()
    };
    // The harness is content, too, when no test has that name.
    let passed = ended.is_some_and(|status| status.success()) && text.contains("1 passed");
    let skipped = told(SKIPPED).into_iter().next();
    let (outcome, reason) = match (passed, skipped, ended) {
        (true, Some(reason), _) => (Outcome::Skipped, reason),
        (true, None, _) => (Outcome::Passed, String::new()),
        (false, _, None) => (Outcome::Failed, format!("not done after {} s", test.seconds)),
        (false, _, Some(status)) => match (status.signal(), status.code()) {
            (Some(signal), _) => (Outcome::Failed, format!("signal {signal}")),
            (None, code) => (Outcome::Failed, format!("exit {}", code.unwrap_or(-1))),
        },
    };
    let from = text.len().saturating_sub(TAIL);
    let from = (from..text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    Record {
        test: test.label(),
        outcome,
        seconds,
        reason,
        measured: told(MEASURED)
            .iter()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        output: if outcome == Outcome::Failed {
            text[from..].to_owned()
        } else {
            String::new()
        },
    }
}
