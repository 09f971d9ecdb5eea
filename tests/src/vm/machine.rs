//! One run of one machine.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Record, plan::Plan};

const QEMU: &str = "qemu-system-x86_64";
/// For the kernel to boot, and for what init does besides tests.
const BOOT: Duration = Duration::from_secs(180);
/// A line this often tells that it goes on.
const PROGRESS: Duration = Duration::from_secs(10);

/// The machine ends with this, however the host's program does.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Boots a machine and collects what it tells until it is off, or until a test takes longer than it may.
pub(super) fn run(kernel: &Path, image: &Path, log: &Path, plan: &Plan, accel: &str) -> Result<Vec<Record>> {
    let release = kernel
        .parent()
        .and_then(Path::file_name)
        .unwrap_or_default()
        .to_string_lossy();
    // A machine ends with who started it, also when that one is killed.
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", QEMU])
        .args(["-accel", accel, "-cpu", "max", "-smp", "2", "-m", "2048"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-serial")
        .arg(format!("file:{}", log.display()))
        .args(["-serial", "stdio", "-kernel"])
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {QEMU}; 'scripts/setup.sh vm' installs it"))?;
    let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let _machine = Machine(child);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });

    let started = Instant::now();
    let (mut heard, mut said) = (started, started);
    let mut records: Vec<Record> = Vec::new();
    while records.len() < plan.tests.len() {
        let patience = BOOT + Duration::from_secs(plan.tests[records.len()].seconds);
        match receiver.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => {
                heard = Instant::now();
                match serde_json::from_str(line.trim()) {
                    Ok(record) => records.push(record),
                    Err(error) => eprintln!("vm: {release}: not a record ({error}): {line}"),
                }
            }
            Err(RecvTimeoutError::Timeout) if heard.elapsed() > patience => {
                eprintln!("vm: {release}: nothing heard for {} s; ended", patience.as_secs());
                break;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if said.elapsed() > PROGRESS {
            said = Instant::now();
            println!(
                "vm: {release}: {} of {} tests, {} s",
                records.len(),
                plan.tests.len(),
                started.elapsed().as_secs()
            );
        }
    }
    println!(
        "vm: {release}: done, {} of {} tests, {} s",
        records.len(),
        plan.tests.len(),
        started.elapsed().as_secs()
    );
    Ok(records)
}
