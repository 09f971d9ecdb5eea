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
use vethwall_datapath::Choice;

use super::{
    build, cluster, dns,
    enter::Place,
    holder, input, proxy, server,
    state::{self, Backend, Engine, Families, State},
    supervisor::{self, Request},
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
    /// How vethwall attaches its programs.
    pub hook: Choice,
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
            hook: Choice::Best,
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
    /// The program that is started as the agent.
    pub agent: &'static str,
    pub(super) directory: PathBuf,
}

/// The agent, unless a test wants another.
const AGENT: &str = "vethwall";

/// A program of this workspace: beside the running one.
pub(super) fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let directory = own.parent().context("no parent directory")?;
    // Test programs are one directory deeper.
    for candidate in [Some(directory), directory.parent()].into_iter().flatten() {
        let path = candidate.join(name);
        if path.is_file() {
            if let Some(source) = newer_source(&path) {
                let (program, source) = (path.display(), source.display());
                bail!("{program} is older than {source}; build it with `cargo build --workspace`");
            }
            return Ok(path);
        }
    }
    bail!(
        "{name} is not beside {}; build it with `cargo build`",
        own.display()
    )
}

/// A source that changed after the program was linked, by what cargo wrote beside it. `cargo test -p vethwall-tests` does not
/// build the other packages' programs, and a test of yesterday's agent says nothing.
fn newer_source(program: &Path) -> Option<PathBuf> {
    let written = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let (linked, sources) = (
        written(program)?,
        fs::read_to_string(program.with_extension("d")).ok()?,
    );
    let (_, sources) = sources.split_once(": ")?;
    let mut sources = sources
        .split_whitespace()
        .map(PathBuf::from)
        .filter(|path| path.is_file());
    sources.find(|source| written(source).is_some_and(|written| written > linked))
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
        build::check(options)?;
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
            agent: AGENT,
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
                hook: options.hook.to_string(),
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
        ensure!(
            state.complete,
            "lab {name} is not up yet: its `vethwall-lab up` still runs"
        );
        Ok(Self {
            directory: State::directory(name),
            agent: AGENT,
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
        Self {
            state,
            agent: AGENT,
            directory,
        }
        .remove()?;
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

    /// The directory becomes the whole desired state. Returns when every node enforces it.
    pub fn apply(&mut self, directory: &Path, say: &mut dyn FnMut(&str)) -> Result<Applied> {
        let _lock = self.lock()?;
        let read = input::read(directory, &self.directory.join("good"))?;
        self.applied(&read, say)
    }

    pub(super) fn applied(&mut self, read: &input::Input, say: &mut dyn FnMut(&str)) -> Result<Applied> {
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
                build::restore(&self.place(node.pid), v6, &text)
                    .with_context(|| format!("Services on {}", node.name))?;
                state::write(&known, &serde_json::to_vec(&chains)?)?;
            }
        }
        Ok(())
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
        ["init", cgroup] => crate::runtime::init::run(cgroup),
        _ => bail!("not for people"),
    }
}

/// All of standard input.
pub(super) fn standard_input() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}
