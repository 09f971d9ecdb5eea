//! A machine of the cluster: a sandbox with the directories of a node, and its place on the underlay.

use std::{fs, net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result};

use super::{Node, Release, Sandbox};
use crate::{
    lab,
    runtime::Settings,
    sandbox::{ip, workspace},
};

/// Where containerd, flannel and the chart expect plugins and their lists.
const SETTINGS: Settings = Settings {
    bin: "/opt/cni/bin",
    conf: "/etc/cni/net.d",
    // One copy of a layer, as on real nodes.
    snapshotter: "overlayfs",
};

/// A machine.
#[derive(Debug)]
pub struct Machine {
    /// Its name, which is its Node object's.
    pub name: &'static str,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    node: Node,
    sandbox: Sandbox,
}

impl Machine {
    /// A machine on which nothing runs.
    pub(super) fn boot(name: &'static str, number: u8, release: Release) -> Result<Self> {
        let sandbox = Sandbox::new().context("make a machine: root is needed")?;
        let node = sandbox.run(|| {
            for path in ["/etc/cni", "/opt/cni", "/var/log"] {
                lab::own(Path::new(path))?;
            }
            for path in [SETTINGS.bin, SETTINGS.conf, "/run/flannel", "/run/kubernetes"] {
                fs::create_dir_all(path)?;
            }
            lab::set_sysctls()?;
            Node::bare(release, SETTINGS)
        })?;
        Ok(Self {
            name,
            address: Ipv4Addr::new(192, 168, 99, number),
            node,
            sandbox,
        })
    }

    /// Does something as this machine: its network, its files.
    pub fn on<T: Send>(&self, work: impl FnOnce(&Node) -> Result<T> + Send) -> Result<T> {
        self.sandbox
            .run(|| work(&self.node))
            .with_context(|| format!("on {}", self.name))
    }

    /// Writes a file.
    pub(super) fn write(&self, file: &str, text: &str) -> Result<()> {
        self.on(|_| fs::write(file, text).with_context(|| format!("write {file}")))
    }

    /// Makes this machine the switch and the gateway of the others.
    pub(super) fn link_bridge(&self) -> Result<()> {
        self.on(|_| {
            ip("link add underlay type bridge forward_delay 0")?;
            ip(&format!("addr add {}/24 dev underlay", self.address))?;
            ip("link set underlay up")
        })
    }

    /// Plugs this machine into that switch.
    pub(super) fn link_to(&self, switch: &Self) -> Result<()> {
        let (name, id) = (self.name, self.node.id());
        switch.on(|_| {
            ip(&format!("link add {name} type veth peer name eth0 netns {id}"))?;
            ip(&format!("link set {name} master underlay up"))
        })?;
        self.on(|_| {
            ip(&format!("addr add {}/24 dev eth0", self.address))?;
            ip("link set eth0 up")?;
            ip(&format!("route add default via {}", switch.address))
        })
    }

    /// Puts flannel's plugins, but flannel's own, where the runtime looks: a distribution's package does that.
    pub(super) fn install_plugins(&self) -> Result<()> {
        self.on(|_| {
            let tools = workspace().join(".tools/cni");
            for plugin in ["bridge", "host-local", "loopback", "portmap"] {
                let to = Path::new(SETTINGS.bin).join(plugin);
                fs::copy(tools.join(plugin), &to)
                    .with_context(|| format!("copy {plugin}; run `make setup`"))?;
            }
            Ok(())
        })
    }

    /// The beginning of a command that runs here.
    pub(super) fn way_in(&self) -> String {
        format!("nsenter -t {} -m -n -p -u --", self.node.id())
    }

    /// The ends of what its daemons said.
    pub fn logs(&self) -> String {
        let said = self.on(|node| Ok(node.logs()));
        format!(
            "━━ {}\n{}",
            self.name,
            said.unwrap_or_else(|error| format!("{error:#}\n"))
        )
    }
}
