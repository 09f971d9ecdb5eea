//! The life of a lab: up, apply, probe, down.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use vethwall::manifests::Problem;

use super::{
    cluster, dns,
    enter::Place,
    flannel, holder, input,
    probe::{self, Outcome, Probe, Source},
    prober::Hit,
    proxy, server,
    state::{self, Backend, Engine, Families, Node, Port, State},
    supervisor::{self, Request, Start},
};

/// What a lab is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name.
    pub name: String,
    /// The directory of manifests.
    pub manifests: PathBuf,
    /// How many nodes.
    pub nodes: u8,
    /// How packets get from node to node.
    pub backend: Backend,
    /// The address families.
    pub families: Families,
    /// Who enforces policies.
    pub engine: Engine,
}

impl Options {
    /// Two nodes, VXLAN, IPv4, vethwall.
    pub fn new(name: &str, manifests: &Path) -> Self {
        Self {
            name: name.to_owned(),
            manifests: manifests.to_owned(),
            nodes: 2,
            backend: Backend::Vxlan,
            families: Families::V4,
            engine: Engine::Vethwall,
        }
    }
}

/// What came of an apply.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// What is wrong in the manifests.
    pub problems: Vec<Problem>,
    /// Pods that could not be started, and why.
    pub waiting: Vec<(String, String)>,
    /// What else is to be known.
    pub warnings: Vec<String>,
}

impl Applied {
    /// Everything is as the manifests ask.
    pub fn complete(&self) -> bool {
        self.problems.is_empty() && self.waiting.is_empty() && self.warnings.is_empty()
    }
}

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    /// What is known of it.
    pub state: State,
    pub(super) directory: PathBuf,
}

/// A program of this workspace: beside the running one.
pub(super) fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let directory = own.parent().context("no parent directory")?;
    // Test programs are one directory deeper.
    for candidate in [Some(directory), directory.parent()].into_iter().flatten() {
        let path = candidate.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!(
        "{name} is not beside {}; build it with `cargo build`",
        own.display()
    )
}

/// Where cnitool and the plugins are.
pub(super) fn cni_directory() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let given = std::env::var_os("VETHWALL_CNI_BIN").map(PathBuf::from);
    let above = own.ancestors().map(|directory| directory.join(".tools/cni"));
    let usual = [PathBuf::from("/opt/cni/bin")];
    given
        .into_iter()
        .chain(above)
        .chain(usual)
        .find(|directory| directory.join("cnitool").is_file() && directory.join("flannel").is_file())
        .context(
            "cnitool and the CNI plugins are missing; run `make setup`, or `tests/tools/build.sh .tools/cni`",
        )
}

impl Lab {
    /// Makes a lab. If anything fails, nothing is left.
    pub fn up(options: &Options, say: &mut dyn FnMut(&str)) -> Result<(Self, Applied)> {
        check(options)?;
        let directory = State::directory(&options.name);
        if directory.exists() {
            let old = State::load(&options.name).unwrap_or_default();
            if old.as_ref().is_some_and(State::alive) {
                bail!(
                    "lab {0} is up already; end it with `vethwall-lab down --name {0}`",
                    options.name
                );
            }
            fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
        }
        let read = input::read(&options.manifests, &directory.join("good"))?;
        fs::create_dir_all(state::ROOT)?;
        fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        fs::create_dir_all(directory.join("log"))?;
        let mut launcher = Command::new(program("vethwall-lab")?)
            .args(["internal", "launch"])
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        // While this is open and nothing is written, the supervisor waits; if it closes, the lab is gone.
        let mut leash = launcher.stdin.take().context("no pipe")?;
        let mut line = String::new();
        BufReader::new(launcher.stdout.take().context("no pipe")?).read_line(&mut line)?;
        let launched = launcher.wait()?;
        let mut lab = Self {
            state: State::default(),
            directory,
        };
        let outcome = (|| {
            ensure!(launched.success(), "the lab's namespaces could not be made");
            let supervisor = line.trim().parse().context("the supervisor's pid")?;
            lab.state = State {
                name: options.name.clone(),
                supervisor,
                started: state::start_time(supervisor).context("the supervisor ended")?,
                backend: options.backend,
                families: options.families,
                engine: options.engine,
                ..State::default()
            };
            lab.state.save()?;
            lab.build(options, &read, say)
        })();
        match outcome {
            Ok(applied) => {
                lab.state.complete = true;
                lab.state.save()?;
                leash.write_all(b"C").context("commit")?;
                Ok((lab, applied))
            }
            Err(error) => {
                drop(leash);
                let log = fs::read_to_string(lab.directory.join("log/supervisor.log")).unwrap_or_default();
                lab.remove().context("clean up")?;
                Err(if log.trim().is_empty() {
                    error
                } else {
                    error.context(log.trim().to_owned())
                })
            }
        }
    }

    /// A lab that is up.
    pub fn attach(name: &str) -> Result<Self> {
        let state = State::load(name)?.with_context(|| {
            let names = State::names();
            let known = if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            };
            format!("there is no lab {name} (up: {known}); make one with `vethwall-lab up --manifests DIR`")
        })?;
        ensure!(
            state.alive(),
            "lab {name} has died; clean up with `vethwall-lab down --name {name}`"
        );
        Ok(Self {
            directory: State::directory(name),
            state,
        })
    }

    /// Takes a lab down. No lab of that name is fine.
    pub fn down(name: &str) -> Result<bool> {
        let directory = State::directory(name);
        if !directory.exists() {
            return Ok(false);
        }
        let state = State::load(name).unwrap_or_default().unwrap_or_default();
        Self { state, directory }.remove()?;
        Ok(true)
    }

    fn remove(&self) -> Result<()> {
        if self.state.alive() {
            let pid = Pid::from_raw(self.state.supervisor.cast_signed());
            let _gone = kill(pid, Signal::SIGKILL);
            // The kernel ends everything in the namespace before pid 1 is gone.
            let deadline = Instant::now() + Duration::from_secs(20);
            while self.state.alive() {
                ensure!(
                    Instant::now() < deadline,
                    "the supervisor (pid {pid}) does not end"
                );
                thread::sleep(Duration::from_millis(5));
            }
        }
        for _ in 0..50 {
            match fs::remove_dir_all(&self.directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    thread::sleep(Duration::from_millis(20))
                }
                _ => break,
            }
        }
        ensure!(
            !self.directory.exists(),
            "{} can not be removed",
            self.directory.display()
        );
        // Only the last lab's end empties it.
        let _others = fs::remove_dir(state::ROOT);
        Ok(())
    }

    /// One at a time changes a lab.
    fn lock(&mut self) -> Result<Flock<File>> {
        let file = File::create(self.directory.join("lock"))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .context("lock")?;
        if self.state.complete {
            self.state = State::load(&self.state.name)?.context("the lab is gone")?;
        }
        Ok(lock)
    }

    /// A holder's namespaces.
    pub fn place(&self, holder: u32) -> Place {
        let root = format!("/proc/{}/root/proc/{holder}", self.state.supervisor);
        Place {
            holder: PathBuf::from(root),
            pid: true,
            netns: None,
            resolver: None,
        }
    }

    pub(super) fn ask(&self, request: &Request) -> Result<supervisor::Answer> {
        supervisor::ask(&self.directory, request)
    }

    fn build(
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

    /// The directory becomes the whole desired state. Returns when every node enforces it.
    pub fn apply(&mut self, directory: &Path, say: &mut dyn FnMut(&str)) -> Result<Applied> {
        let _lock = self.lock()?;
        let read = input::read(directory, &self.directory.join("good"))?;
        self.applied(&read, say)
    }

    fn applied(&mut self, read: &input::Input, say: &mut dyn FnMut(&str)) -> Result<Applied> {
        input::remember(read, &self.directory.join("good"))?;
        let before = self.state.pods.clone();
        let pods = input::pods(&read.objects, &mut self.state)?;
        self.state.pods = pods;
        self.state.services = input::services(&read.objects, &self.state);
        let gone = before.values().filter(|old| {
            let new = self.state.pods.get(&old.key());
            new.is_none_or(|new| new.uid != old.uid || new.netns != old.netns || new.node != old.node)
        });
        let gone: Vec<_> = gone.cloned().collect();
        self.user(read)?;
        self.publish()?;
        for (old, why) in self.unwire(&gone) {
            say(&format!("pod {old}: {why}"));
        }
        let mut applied = Applied {
            problems: read.problems.clone(),
            ..Applied::default()
        };
        self.settle(&mut applied, say)?;
        Ok(applied)
    }

    /// Starts what waits, and waits until every node enforces what the cluster directory says.
    pub(super) fn settle(&mut self, applied: &mut Applied, say: &mut dyn FnMut(&str)) -> Result<()> {
        self.state.save()?;
        self.wire(say)?;
        self.publish()?;
        self.services()?;
        self.state.save()?;
        let wait = self.state.pods.values();
        applied.waiting = wait
            .filter_map(|pod| Some((pod.key(), pod.waiting.clone()?)))
            .collect();
        if self.state.engine == Engine::Vethwall {
            applied.warnings.extend(self.enforced(say)?);
        }
        Ok(())
    }

    fn user(&self, read: &input::Input) -> Result<()> {
        let files = cluster::user_files(read);
        state::write(&self.directory.join("user.json"), &serde_json::to_vec(&files)?)
    }

    /// Writes what the agents and the name server read.
    fn publish(&self) -> Result<()> {
        let user = fs::read(self.directory.join("user.json"))?;
        let mut files: BTreeMap<PathBuf, Vec<u8>> = serde_json::from_slice(&user)?;
        files.extend(cluster::lab_files(&self.state));
        cluster::write(&self.directory.join("cluster"), &files)?;
        state::write(
            &self.directory.join("dns.json"),
            &serde_json::to_vec(&dns::table(&self.state))?,
        )?;
        let namespaces: BTreeSet<_> = self
            .state
            .pods
            .values()
            .map(|pod| pod.namespace.as_str())
            .collect();
        for namespace in namespaces {
            let text = cluster::resolver(&self.state, self.state.families, namespace);
            state::write(&self.directory.join("resolv").join(namespace), text.as_bytes())?;
        }
        Ok(())
    }

    /// Writes kube-proxy's rules.
    fn services(&self) -> Result<()> {
        for node in &self.state.nodes {
            for v6 in self.families() {
                let known = self
                    .directory
                    .join(format!("proxy/{}-{}", node.number, if v6 { 6 } else { 4 }));
                let before = fs::read(&known)
                    .ok()
                    .and_then(|text| serde_json::from_slice(&text).ok())
                    .unwrap_or_default();
                let (text, chains) = proxy::rules(&self.state, &node.name, v6, &before);
                restore(&self.place(node.pid), v6, &text)
                    .with_context(|| format!("Services on {}", node.name))?;
                state::write(&known, &serde_json::to_vec(&chains)?)?;
            }
        }
        Ok(())
    }

    /// Where a command for `NS/POD`, `node/NAME` or `outside` runs.
    pub fn target(&self, name: &str) -> Result<Place> {
        let place = match probe::source(&self.state, name)? {
            Source::Host(holder) => self.place(holder),
            Source::Pod(holder, netns) => Place {
                netns: Some(netns),
                ..self.place(holder)
            },
        };
        let namespace = self.state.pods.get(name).map(|pod| pod.namespace.clone());
        let resolver = namespace.map(|namespace| self.directory.join("resolv").join(namespace));
        Ok(Place { resolver, ..place })
    }

    /// A command that finds this workspace's programs first.
    pub fn command(program_name: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut path = program("vethwall-lab")?
            .parent()
            .map(|parent| parent.as_os_str().to_owned())
            .unwrap_or_default();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
        // std looks in this process's PATH, not in the one that the command gets.
        let found = std::env::split_paths(&path)
            .map(|directory| directory.join(program_name.as_ref()))
            .find(|path| path.is_file());
        let named = Path::new(program_name.as_ref());
        let mut command = Command::new(if named.components().count() == 1 {
            found.unwrap_or_else(|| named.to_owned())
        } else {
            named.to_owned()
        });
        command.env("PATH", path);
        Ok(command)
    }

    /// Runs a command in a pod, on a node or on the outside host; standard input and output are this process's.
    pub fn exec(&self, target: &str, arguments: &[String]) -> Result<i32> {
        use std::os::unix::process::ExitStatusExt as _;
        let (first, rest) = arguments.split_first().context("no command")?;
        let mut command = Self::command(first)?;
        command.args(rest);
        let status = self.target(target)?.spawn(command)?.wait()?;
        Ok(status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
    }

    /// Sends all probes at once and says what came of each, in order.
    pub fn probe(&self, probes: &[Probe]) -> Result<Vec<Outcome>> {
        let plan = probe::plan(&self.state, probes)?;
        let helper = program("vethwall-lab")?;
        let hits = thread::scope(|scope| {
            let mut workers = Vec::new();
            for (source, shots) in &plan {
                let place = match source {
                    Source::Host(holder) => self.place(*holder),
                    Source::Pod(holder, netns) => Place {
                        netns: Some(netns.clone()),
                        ..self.place(*holder)
                    },
                };
                let mut command = Command::new(&helper);
                command.args(["internal", "prober"]);
                workers.push(scope.spawn(move || -> Result<Vec<Hit>> {
                    let lines: Vec<_> = shots
                        .iter()
                        .map(serde_json::to_string)
                        .collect::<Result<_, _>>()?;
                    let said = place.feed(command, &(lines.join("\n") + "\n"))?;
                    said.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
                }));
            }
            let mut hits = Vec::new();
            for worker in workers {
                hits.extend(worker.join().unwrap_or_else(|_| bail!("a thread panicked"))?);
            }
            anyhow::Ok(hits)
        })?;
        let mut by_index: BTreeMap<usize, Hit> = hits.into_iter().map(|hit| (hit.index, hit)).collect();
        probes
            .iter()
            .enumerate()
            .map(|(index, probe)| {
                let hit = by_index
                    .remove(&index)
                    .with_context(|| format!("no answer for probe {}", index + 1))?;
                let mut line = probe.line.clone();
                line.insert("result".into(), hit.result.clone().into());
                if hit.result == "error" {
                    line.insert("detail".into(), hit.detail.clone().into());
                }
                Ok(Outcome {
                    result: hit.result,
                    detail: hit.detail,
                    answer: hit.answer,
                    line,
                })
            })
            .collect()
    }

    /// Starts vethwall beside what runs: agents first, then the chain. `node`: only there.
    pub fn start_engine(&mut self, node: Option<&str>, say: &mut dyn FnMut(&str)) -> Result<Applied> {
        let _lock = self.lock()?;
        let only = node.map(|name| self.real(name)).transpose()?;
        self.state.engine = Engine::Vethwall;
        self.state.save()?;
        self.start_agents(only.as_deref())?;
        for node in self.state.nodes.clone() {
            if only.as_ref().is_none_or(|only| *only == node.name) {
                self.write_conflist(&node, true)?;
            }
        }
        let mut applied = Applied::default();
        self.settle(&mut applied, say)?;
        Ok(applied)
    }

    /// Kills agents (SIGKILL; `gently`: SIGTERM). What they enforce stays in the kernel.
    pub fn stop_engine(&mut self, node: Option<&str>, gently: bool) -> Result<()> {
        let _lock = self.lock()?;
        let only = node.map(|name| self.real(name)).transpose()?;
        for node in self
            .state
            .nodes
            .iter()
            .filter(|node| only.as_ref().is_none_or(|only| *only == node.name))
        {
            self.ask(&Request::Stop {
                key: format!("agent/{}", node.name),
                kill: !gently,
            })?;
        }
        Ok(())
    }

    fn real(&self, name: &str) -> Result<String> {
        let names = || {
            self.state
                .nodes
                .iter()
                .map(|node| node.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        self.state
            .node(name)
            .map(|node| node.name.clone())
            .with_context(|| format!("there is no node {name}; there are {}", names()))
    }
}

fn check(options: &Options) -> Result<()> {
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

fn restore(place: &Place, v6: bool, rules: &str) -> Result<()> {
    let mut command = Command::new(if v6 {
        "ip6tables-restore"
    } else {
        "iptables-restore"
    });
    command.args(["--noflush", "-w", "5"]);
    place.feed(command, rules).map(drop)
}

/// The hidden verbs: what the lab runs inside itself.
pub(super) fn internal(arguments: &[String]) -> Result<()> {
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["launch", directory] => supervisor::launch(Path::new(directory)),
        ["supervise", directory] => supervisor::supervise(Path::new(directory)),
        ["hold", name, directory] => holder::hold(name, Path::new(directory)),
        ["serve", settings] => server::serve(&serde_json::from_str(settings)?),
        ["prober"] => super::prober::run(),
        _ => bail!("not for people"),
    }
}

/// All of standard input.
pub(super) fn standard_input() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}
