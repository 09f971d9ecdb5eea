//! Which tests a machine runs, and as whom.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    lab::PATIENCE_VARIABLE,
    sandbox::{CAPABILITIES, command, workspace},
};

/// What the agent's container is granted.
pub(super) const GRANTED: &str = "CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON";
/// Below Linux 5.11 the container needs this one too: maps count as locked memory.
const FOR_LOCKED_MEMORY: &str = "CAP_SYS_RESOURCE";
/// The limit with which a container starts (`DEFAULT_LOCKED_MEMORY`, 64 KiB until 5.16).
const LOCKED_MEMORY: u64 = 64 * 1024;

/// cnitool and the CNI plugins, below the workspace.
pub(super) const PLUGINS: &str = ".tools/cni";

/// A group of tests.
struct Group {
    prefix: &'static str,
    /// With nothing but what the chart grants.
    confined: bool,
    seconds: u64,
}

/// The verdicts, the datapath with real packets, and the demo's cluster from one end to the other.
const GROUPS: [Group; 3] = [
    Group {
        prefix: "kernel::",
        confined: true,
        seconds: 600,
    },
    Group {
        prefix: "datapath::",
        confined: false,
        seconds: 600,
    },
    Group {
        prefix: "demo::",
        confined: false,
        seconds: 900,
    },
];

/// One test.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Test {
    pub(super) name: String,
    pub(super) environment: BTreeMap<String, String>,
    /// Limit of locked memory, where it is not root's.
    pub(super) locked_memory: Option<u64>,
    pub(super) seconds: u64,
    /// With no type information of the kernel (/sys/kernel/btf).
    pub(super) without_btf: bool,
}

/// What a machine does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) program: PathBuf,
    pub(super) workspace: PathBuf,
    pub(super) tests: Vec<Test>,
}

impl Test {
    /// The name in reports.
    pub(super) fn label(&self) -> String {
        format!(
            "{}{}",
            self.name,
            if self.without_btf { " without BTF" } else { "" }
        )
    }
}

pub(super) fn plan(program: Option<&Path>, release: &str, filter: &str) -> Result<Plan> {
    let program = match program {
        Some(program) => program.canonicalize()?,
        None => newest_tests()?,
    };
    let listed = command(&program, &["--list", "--format", "terse"])?;
    let names: Vec<_> = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .collect();
    let mut tests = Vec::new();
    for group in GROUPS {
        let before = tests.len();
        for name in names.iter().filter(|name| name.starts_with(group.prefix)) {
            tests.push(group.test(name, release));
            if name.ends_with(LOADS) {
                tests.push(Test {
                    without_btf: true,
                    ..group.test(name, release)
                });
            }
        }
        ensure!(
            tests.len() > before,
            "{} has no tests {}*",
            program.display(),
            group.prefix
        );
    }
    ensure!(
        tests.iter().any(|test| test.without_btf),
        "{} has no test *{LOADS}",
        program.display()
    );
    tests.retain(|test| test.label().contains(filter));
    ensure!(!tests.is_empty(), "no test's name contains {filter}");
    Ok(Plan {
        program,
        workspace: workspace(),
        tests,
    })
}

/// Loads every program.
const LOADS: &str = "the_verifier_accepts_every_program";

impl Group {
    fn test(&self, name: &str, release: &str) -> Test {
        let plugins = workspace().join(PLUGINS).display().to_string();
        let mut environment = BTreeMap::from(
            [
                ("HOME", "/root"),
                ("PATH", "/bin:/sbin"),
                ("RUST_BACKTRACE", "1"),
                ("VETHWALL_CNI_BIN", &plugins),
                (PATIENCE_VARIABLE, "300"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        if self.confined {
            let mut granted = GRANTED.to_owned();
            if older(release, (5, 11)) {
                granted = format!("{granted},{FOR_LOCKED_MEMORY}");
            }
            environment.insert(CAPABILITIES.to_owned(), granted);
        }
        Test {
            name: name.to_owned(),
            environment,
            locked_memory: self.confined.then_some(LOCKED_MEMORY),
            seconds: self.seconds,
            without_btf: false,
        }
    }
}

/// Whether a release such as `5.10.0-46-cloud-amd64` is before a version.
pub(super) fn older(release: &str, than: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < than
}

/// The newest `main-*` of cargo beside this program.
fn newest_tests() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let directory = own.parent().context("no parent directory")?.join("deps");
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with("main-") && !name.contains('.') {
            found.push((fs::metadata(&path)?.modified()?, path));
        }
    }
    let newest = found.into_iter().max().map(|(_, path)| path);
    newest.with_context(|| {
        format!(
            "no test program in {}: run `cargo test --no-run`",
            directory.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::older;

    #[test]
    fn releases_have_an_order() {
        assert!(older("5.10.0-46-cloud-amd64", (5, 11)));
        assert!(!older("5.11.0", (5, 11)));
        assert!(!older("7.2.13+deb14-cloud-amd64", (6, 6)));
        assert!(older("6.1.0-56-cloud-amd64", (6, 6)));
    }
}
