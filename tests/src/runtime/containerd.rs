//! containerd: two releases of it, its configuration, its client.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Archive, Node, image};
use crate::{
    cni::{BIN, CONF},
    sandbox::{command, workspace},
};

/// Name of the daemon on a node.
pub const CONTAINERD: &str = "containerd";
/// Where it answers.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
const CONFIG: &str = "/run/containerd.toml";
const CRICTL: &str = "/run/crictl.yaml";

/// Which containerd, as `make setup` puts them below .tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The distribution's package: 1.6 or 1.7 on the Debians and Ubuntus of today.
    Distribution,
    /// The newest 2.x, built from its module.
    Newest,
}

/// What containerd is told.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Where the plugins are.
    pub bin: &'static str,
    /// Where the lists of plugins are.
    pub conf: &'static str,
    /// How images become the roots of containers.
    pub snapshotter: &'static str,
}

impl Default for Settings {
    /// The directories of [`crate::cni`], and copies, which any file system can make.
    fn default() -> Self {
        Self {
            bin: BIN,
            conf: CONF,
            snapshotter: "native",
        }
    }
}

impl Release {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Distribution, Self::Newest];

    fn directory(self) -> PathBuf {
        workspace().join(".tools").join(match self {
            Self::Distribution => "containerd-distribution",
            Self::Newest => "containerd-2",
        })
    }

    /// Major and minor version, as the program tells it.
    pub fn version(self) -> Result<(u32, u32)> {
        // containerd github.com/containerd/containerd/v2 2.4.2+unknown
        let said = command(self.directory().join(CONTAINERD), &["--version"])
            .context("containerd is not there: run `make setup`")?;
        let mut numbers = said
            .split(' ')
            .nth(2)
            .into_iter()
            .flat_map(|version| version.split('.'));
        let mut number = || numbers.next().and_then(|number| number.parse().ok());
        number()
            .zip(number())
            .with_context(|| format!("no version in {said:?}"))
    }

    /// Whether it reads drop-ins of a list (`CONF/NETWORK/*.conf`): libcni 1.3, in containerd since 2.1.
    pub fn reads_drop_ins(self) -> Result<bool> {
        Ok(self.version()? >= (2, 1))
    }

    /// Where its programs are; runc is always the distribution's.
    pub(super) fn path(self) -> [PathBuf; 2] {
        [self.directory(), Self::Distribution.directory()]
    }

    fn config(self, settings: Settings) -> Result<String> {
        let Settings {
            bin,
            conf,
            snapshotter,
        } = settings;
        // `opt` makes /opt/containerd. Scores below one's own need a right that root of a container may lack.
        let head = format!(
            "root = \"/var/lib/containerd\"\nstate = \"/run/containerd\"\n\
             disabled_plugins = [\"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = \"{SOCKET}\"\n\
             [debug]\nlevel = \"warn\"\n"
        );
        let image = image::IMAGE;
        Ok(if self.version()? >= (2, 0) {
            format!(
                r#"version = 3
{head}
[plugins."io.containerd.cri.v1.images"]
snapshotter = "{snapshotter}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{image}"
[plugins."io.containerd.cri.v1.runtime"]
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{bin}"]
conf_dir = "{conf}"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
            )
        } else {
            format!(
                r#"version = 2
{head}
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
disable_tcp_service = true
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{bin}"
conf_dir = "{conf}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
            )
        })
    }
}

impl Node {
    /// Starts containerd, and returns when it answers.
    pub fn start_containerd(&self) -> Result<()> {
        fs::write(CONFIG, self.release.config(self.settings)?)?;
        let client =
            format!("runtime-endpoint: unix://{SOCKET}\nimage-endpoint: unix://{SOCKET}\ntimeout: 60\n");
        fs::write(CRICTL, client)?;
        let mut command = self.command(CONTAINERD)?;
        command.args(["--config", CONFIG]);
        self.start(CONTAINERD, command)?;
        self.until("containerd answers", || Ok(self.info().is_ok()))
    }

    /// Ends containerd with SIGKILL, as a crash does, and starts it again. Pods go on: their shims are processes of their own.
    pub fn restart_containerd(&self) -> Result<()> {
        self.end(CONTAINERD, Signal::SIGKILL)?;
        self.start_containerd()
    }

    /// Makes the image that is both the pods' and the pause image known to containerd.
    pub fn import_own(&self) -> Result<()> {
        let directory = Path::new("/run/image");
        let archive = image::pod_image(directory)?;
        self.import(&archive)?;
        Ok(fs::remove_dir_all(directory)?)
    }

    /// Makes an image known to containerd. The file is one that the node sees.
    pub fn import(&self, archive: &Archive) -> Result<()> {
        let file = archive.file.display().to_string();
        self.said(
            "ctr",
            &[
                "--address",
                SOCKET,
                "--namespace",
                "k8s.io",
                "images",
                "import",
                "--no-unpack",
                &file,
            ],
        )?;
        self.until("the image is known", || {
            Ok(self
                .crictl(&["images", "--output", "json"])?
                .contains(&archive.name))
        })
    }

    /// Gives an image another name.
    pub fn tag(&self, name: &str, other: &str) -> Result<()> {
        self.said(
            "ctr",
            &[
                "--address",
                SOCKET,
                "--namespace",
                "k8s.io",
                "images",
                "tag",
                "--force",
                name,
                other,
            ],
        )
        .map(drop)
    }

    /// `crictl`: what it says on standard output, or an error with all that it said.
    pub fn crictl(&self, arguments: &[&str]) -> Result<String> {
        let program = workspace().join(".tools/crictl/crictl");
        self.said(program, &[&["--config", CRICTL], arguments].concat())
    }

    /// What containerd tells about itself.
    pub fn info(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.crictl(&["info"])?)?)
    }

    /// Types of the plugins that containerd has in memory for new pods, in order; empty without a network.
    pub fn chain(&self) -> Result<Vec<String>> {
        let info = self.info()?;
        let networks = info["cniconfig"]["Networks"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let pods = networks
            .iter()
            .find(|network| network["Config"]["Name"] != "cni-loopback");
        let plugins = pods.and_then(|network| network["Config"]["Plugins"].as_array());
        let kind = |plugin: &Value| plugin["Network"]["type"].as_str().map(str::to_owned);
        Ok(plugins.into_iter().flatten().filter_map(kind).collect())
    }

    /// Waits until something holds; what is wrong then names what the node's daemons said.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        while !holds()? {
            ensure!(
                start.elapsed() < super::PATIENCE,
                "{what}: not in time\n{}",
                self.logs()
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// A command with these directories first in its PATH.
pub(super) fn with_path(program: &Path, first: &[PathBuf]) -> Result<Command> {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let path: Vec<PathBuf> = first
        .iter()
        .cloned()
        .chain(std::env::split_paths(&rest))
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .collect();
    // std looks in this process's PATH, not in the one that the command gets.
    let found = path
        .iter()
        .map(|directory| directory.join(program))
        .find(|file| file.is_file());
    let mut command = Command::new(found.unwrap_or_else(|| program.to_owned()));
    command.env("PATH", std::env::join_paths(path)?);
    Ok(command)
}
