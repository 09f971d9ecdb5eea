//! Making a lab's nodes and what connects them, and starting what serves.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    cluster,
    enter::Place,
    flannel, input,
    life::{Applied, Lab, Options, cni_directory, program},
    proxy, server,
    state::{Engine, Node, Port},
    supervisor::{Request, Start},
};

impl Lab {
    pub(super) fn build(
        &mut self,
        options: &Options,
        read: &input::Input,
        say: &mut dyn FnMut(&str),
    ) -> Result<Applied> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.directory.join("control.sock").exists() {
            ensure!(
                Instant::now() < deadline && self.state.alive(),
                "the supervisor did not start"
            );
            thread::sleep(Duration::from_millis(5));
        }
        say(&format!("{} nodes, flannel {:?}", options.nodes, options.backend).to_lowercase());
        let named: Vec<_> = input::node_names(&read.objects)
            .into_iter()
            .filter(|name| valid_host(name))
            .collect();
        let mut spare = (1..)
            .map(|number| format!("node{number}"))
            .filter(|name| !named.contains(name));
        for number in 1..=options.nodes {
            let name = named
                .get(usize::from(number) - 1)
                .cloned()
                .or_else(|| spare.next())
                .context("names")?;
            let pid = self.hold(&name)?;
            self.state.nodes.push(Node {
                name,
                number,
                pid,
                labels: BTreeMap::new(),
            });
        }
        self.state.outside = self.hold("outside")?;
        self.topology()?;
        if options.engine == Engine::Vethwall {
            cluster::write(&self.directory.join("cluster"), &cluster::lab_files(&self.state))?;
            self.start_agents(None)?;
        }
        self.applied(read, say)
    }

    fn hold(&self, name: &str) -> Result<u32> {
        let argv = [
            program("vethwall-lab")?.display().to_string(),
            "internal".into(),
            "hold".into(),
            name.into(),
            self.directory.display().to_string(),
        ];
        let start = Start {
            key: format!("holder/{name}"),
            argv: argv.into(),
            log: self.directory.join("log/supervisor.log"),
            wait: true,
            ..Start::default()
        };
        self.ask(&Request::Start(start))
            .map(|answer| answer.pid)
            .with_context(|| format!("make node {name}"))
    }

    fn topology(&self) -> Result<()> {
        let state = &self.state;
        self.place(1)
            .ip(&flannel::underlay(state))
            .context("the nodes' network")?;
        thread::scope(|scope| {
            let mut workers = Vec::new();
            for node in &state.nodes {
                workers.push(scope.spawn(move || {
                    self.node_topology(node)
                        .with_context(|| format!("node {}", node.name))
                }));
            }
            workers.push(scope.spawn(|| self.outside().context("the outside host")));
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a thread panicked")))
        })
    }

    fn node_topology(&self, node: &Node) -> Result<()> {
        let state = &self.state;
        let place = self.place(node.pid);
        ensure!(
            place.holder.join("root/proc/sys/net/bridge").exists()
                || Path::new("/proc/sys/net/bridge").exists(),
            "the kernel has no br_netfilter; load it with `modprobe br_netfilter`"
        );
        place.ip(&flannel::node(state, node)).context("links")?;
        let entries = flannel::forwarding(state, node);
        if !entries.is_empty() {
            let mut command = Command::new("bridge");
            command.args(["-batch", "-"]);
            place.feed(command, &entries)?;
        }
        for v6 in self.families() {
            restore(&place, v6, &flannel::rules(node, v6))?;
            restore(&place, v6, proxy::hooks())?;
        }
        let run = place.holder.join("root/run/flannel/subnet.env");
        fs::write(&run, flannel::subnet_env(state.backend, state.families, node))
            .context("write subnet.env")?;
        self.write_conflist(node, state.engine == Engine::Vethwall)
    }

    fn outside(&self) -> Result<()> {
        let place = self.place(self.state.outside);
        place.ip(&flannel::outside(&self.state))?;
        for v6 in self.families() {
            restore(&place, v6, &flannel::outside_rules(v6))?;
        }
        let ports = ["TCP", "UDP"].map(|protocol| Port {
            protocol: protocol.to_owned(),
            port: flannel::OUTSIDE_PORT,
            ..Port::default()
        });
        self.serve(
            "outside",
            self.state.outside,
            None,
            server::Settings {
                name: "outside".into(),
                ports: ports.into(),
                ..server::Settings::default()
            },
        )
    }

    pub(super) fn families(&self) -> impl Iterator<Item = bool> + use<> {
        let families = self.state.families;
        [(families.v4(), false), (families.v6(), true)]
            .into_iter()
            .filter(|(there, _)| *there)
            .map(|(_, v6)| v6)
    }

    /// Starts a server, unless it has nothing to serve.
    pub(super) fn serve(
        &self,
        key: &str,
        holder: u32,
        netns: Option<String>,
        settings: server::Settings,
    ) -> Result<()> {
        if settings.ports.is_empty() {
            return Ok(());
        }
        let argv = [
            program("vethwall-lab")?.display().to_string(),
            "internal".into(),
            "serve".into(),
            serde_json::to_string(&settings)?,
        ];
        let start = Start {
            key: format!("server/{key}"),
            holder,
            netns,
            argv: argv.into(),
            log: self.directory.join("log/servers.log"),
            wait: true,
            ..Start::default()
        };
        self.ask(&Request::Start(start)).map(drop)
    }
}

pub(super) fn check(options: &Options) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "vethwall-lab makes network namespaces and needs root: run it with sudo"
    );
    ensure!(
        valid_host(&options.name),
        "a lab's name has lower-case letters, digits and dashes, not {:?}",
        options.name
    );
    ensure!((1..=32).contains(&options.nodes), "a lab has 1 to 32 nodes");
    for (program, package) in [
        ("ip", "iproute2"),
        ("bridge", "iproute2"),
        ("iptables-restore", "iptables"),
    ] {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|directory| directory.join(program).exists());
        ensure!(found, "{program} is missing; install {package}");
    }
    if !Path::new("/proc/sys/net/bridge").exists() {
        // Built in, or a module that nobody has loaded yet; if it can not be had, the node says so.
        let _absent = Command::new("modprobe")
            .args(["-a", "br_netfilter", "vxlan", "veth"])
            .output();
    }
    if options.engine == Engine::Vethwall {
        program("vethwall")?;
        program("vethwall-cni")?;
    }
    cni_directory().map(drop)
}

fn valid_host(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 63
        && !name.starts_with(['-', '.'])
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
}

pub(super) fn restore(place: &Place, v6: bool, rules: &str) -> Result<()> {
    let mut command = Command::new(if v6 {
        "ip6tables-restore"
    } else {
        "iptables-restore"
    });
    command.args(["--noflush", "-w", "5"]);
    place.feed(command, rules).map(drop)
}
