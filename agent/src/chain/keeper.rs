//! The thread that keeps the chain: looks at the CNI directory whenever it changes, and every two seconds; and asks the
//! runtime whether it has read what stands there.

use std::{
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tracing::{info, warn};
use vethwall_cni::conflist::PLUGIN;

use super::{
    binary, files,
    places::Places,
    plan::{self, Abilities, Listing, Standing},
    readback::{PATIENCE as RUNTIME_PATIENCE, Readback, Word},
    removal,
};
use crate::{
    api::{
        chain::{self, Chain, ChainMode, ChainState},
        status::Problem,
    },
    cri::{self, Runtime, view::Cni},
    watch::Watch,
};

/// For how long another list than flannel's is taken for a moment between two writes of flannel's.
const REPLACED: Duration = Duration::from_secs(60);
/// Repairs within [`FIGHT`] before they are spaced out.
const PATIENCE: usize = 5;
const FIGHT: Duration = Duration::from_secs(600);
/// The longest time between two repairs.
const LONGEST: Duration = Duration::from_secs(60);
/// Pods of some runtime handlers come by another chain.
const HANDLERS: &str = "CNI009";
/// Plugins of flannel and of containernetworking that add no queueing discipline to the host's end of a pod's interface.
const WITHOUT_QDISCS: [&str; 7] = ["bridge", "firewall", "flannel", "portmap", "ptp", "sbr", "tuning"];
/// Between two looks while the runtime has not read what was written.
const SOON: Duration = Duration::from_millis(100);

/// What the keeper needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How the runtime is told.
    pub mode: ChainMode,
    /// The CNI directories.
    pub places: Places,
    /// Our entry.
    pub entry: String,
    /// The plugin to install; `None` where somebody else installs it.
    pub plugin: Option<PathBuf>,
    /// The runtime that is asked for the chain that it has in memory.
    pub runtime: cri::Socket,
}

/// What the node's thread and the keeper tell each other.
#[derive(Debug, Default)]
pub struct Shared {
    ready: AtomicBool,
    leaving: AtomicBool,
    told: RwLock<Told>,
}

/// How the chain stands.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// For `status`.
    pub chain: Chain,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Since when the runtime calls our plugin; where it does not tell, since when the file is in place.
    pub since: Option<Instant>,
}

impl Told {
    /// The runtime itself said that it calls our plugin, for every pod.
    pub fn is_certain(&self) -> bool {
        let says = |runtime: &chain::Runtime| runtime.error.is_none() && runtime.names_us == Some(true);
        self.chain.state == ChainState::Chained
            && self.chain.runtime.as_ref().is_some_and(says)
            && !self.problems.iter().any(|problem| problem.code == HANDLERS)
    }

    /// Whether it is certain too that no plugin of the chain puts a queueing discipline of its own where clsact belongs, as the
    /// bandwidth plugin does: all of them are known not to.
    pub fn leaves_room_for_clsact(&self) -> bool {
        let known = |plugin: &String| plugin == PLUGIN || WITHOUT_QDISCS.contains(&plugin.as_str());
        let runtime = self.chain.runtime.as_ref();
        self.is_certain() && runtime.is_some_and(|runtime| runtime.plugins.iter().all(known))
    }
}

impl Shared {
    /// The node's pods are taken over: the runtime may call us.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Whether vethwall was uninstalled and the chain no longer names it: programs are to be taken off.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// How the chain stands.
    pub fn told(&self) -> Told {
        self.told.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Starts the thread.
pub fn start(settings: Settings, shared: Arc<Shared>) -> anyhow::Result<()> {
    let runtime = Box::new(cri::Client::new(settings.runtime.clone())?);
    let mut keeper = Keeper::new(settings, shared, runtime);
    let mut watch = Watch::new(&keeper.settings.places.conf);
    thread::Builder::new().name("chain".to_owned()).spawn(move || {
        loop {
            keeper.step(Instant::now());
            if keeper.chain.state == ChainState::Written {
                thread::sleep(SOON);
            } else {
                watch.changed();
            }
        }
    })?;
    Ok(())
}

struct Keeper {
    settings: Settings,
    shared: Arc<Shared>,
    readback: Readback,
    /// The runtime can read drop-in files and did not read ours.
    no_dropins: bool,
    /// What the directory held at the last look.
    listing: Listing,
    chain: Chain,
    since: Option<Instant>,
    /// It was in place once: to write it again is a repair.
    was_chained: bool,
    /// When the chain was put back.
    repairs: Vec<Instant>,
    /// Since when the primary is not flannel's.
    foreign: Option<Instant>,
    /// Since when, in an uninstall, no list names us.
    unchained_since: Option<Instant>,
    installer: binary::Installer,
    /// Why the plugin could not be installed.
    install_error: Option<String>,
    said: Vec<String>,
}

impl Keeper {
    fn new(settings: Settings, shared: Arc<Shared>, runtime: Box<dyn Runtime>) -> Self {
        let off = settings.mode == ChainMode::Off;
        let chain = Chain {
            mode: settings.mode,
            state: if off { ChainState::Off } else { ChainState::Waiting },
            directory: settings.places.conf.display().to_string(),
            ..Chain::default()
        };
        Self {
            settings,
            shared,
            readback: Readback::new(runtime),
            no_dropins: false,
            listing: Listing::default(),
            chain,
            since: None,
            was_chained: false,
            repairs: Vec::new(),
            foreign: None,
            unchained_since: None,
            installer: binary::Installer::default(),
            install_error: None,
            said: Vec::new(),
        }
    }

    fn install(&mut self) {
        let Some(plugin) = &self.settings.plugin else {
            return;
        };
        let bin = &self.settings.places.bin;
        self.install_error = match self.installer.install(plugin, bin) {
            Ok(true) => {
                info!(directory = %bin.display(), "the plugin is installed");
                None
            }
            Ok(false) => None,
            Err(error) => Some(format!("{error:#}")),
        };
    }

    /// One look, and what it asks for.
    fn step(&mut self, now: Instant) {
        let mut problems = Vec::new();
        if removal::is_retired(&self.settings.places) {
            self.remove(now, &mut problems);
        } else if self.settings.mode != ChainMode::Off && !self.shared.is_leaving() {
            // Packages of the distribution put their own plugins in this directory, and some empty it first.
            self.install();
            self.chain(now, &mut problems);
        }
        if let Some(error) = &self.install_error {
            problems.push(Problem::new(
                "CNI006",
                format!("the plugin can not be installed, so no pod can start: {error}"),
                None,
            ));
        }
        for problem in problems
            .iter()
            .filter(|problem| !self.said.contains(&problem.message))
        {
            warn!(code = %problem.code, "{}", problem.message);
        }
        self.chain.runtime = self.readback.told();
        self.said = problems.iter().map(|problem| problem.message.clone()).collect();
        *self.shared.told.write().unwrap_or_else(PoisonError::into_inner) = Told {
            chain: self.chain.clone(),
            problems,
            since: self.since,
        };
    }

    fn remove(&mut self, now: Instant, problems: &mut Vec<Problem>) {
        let unread = match removal::unchain(&self.settings.places.conf) {
            Ok(unread) => unread,
            Err(error) => {
                problems.push(Problem::new("CNI005", error.to_string(), None));
                return;
            }
        };
        let certain = unread.is_empty();
        for why in unread {
            let text = format!("a network list may still name us: {why}");
            problems.push(Problem::new("CNI005", text, None));
        }
        (self.chain.file, self.since) = (None, None);
        if self.shared.is_leaving() {
            return;
        }
        // The plugin does nothing any more, so that whom the runtime calls meanwhile only costs it time: it is waited for,
        // but not for ever.
        let word = self.readback.ask(now, false, true);
        let since = *self.unchained_since.get_or_insert(now);
        if word == Word::Yes && now.duration_since(since) < RUNTIME_PATIENCE {
            self.chain.state = ChainState::Unchained;
            self.poke(now, problems);
            return;
        }
        self.shared.leaving.store(true, Ordering::Release);
        self.chain.state = ChainState::Removed;
        info!(certain, runtime = ?word, "uninstalled: no network list names the plugin any more");
    }

    fn poke(&mut self, now: Instant, problems: &mut Vec<Problem>) {
        if self.readback.poke(now)
            && let Err(error) = files::poke(&self.settings.places.conf)
        {
            problems.push(Problem::new(
                "CNI005",
                format!("the runtime can not be told to read its directory: {error}"),
                None,
            ));
        }
    }

    fn chain(&mut self, now: Instant, problems: &mut Vec<Problem>) {
        let conf = self.settings.places.conf.clone();
        let listing = match files::read(&conf) {
            Ok(listing) => listing,
            Err(error) => {
                problems.push(Problem::new(
                    "CNI005",
                    error.to_string(),
                    Some("name the runtime's directory with --cni-conf-dir"),
                ));
                self.unchained();
                return;
            }
        };
        let replaced = self
            .foreign
            .is_some_and(|since| now.duration_since(since) >= REPLACED);
        let changed = std::mem::replace(&mut self.listing, listing) != self.listing;
        let plan = plan::chain(
            self.settings.mode,
            self.abilities(now),
            &self.listing,
            &self.settings.entry,
            replaced,
        );
        self.foreign = matches!(plan.standing, Standing::Foreign(_)).then(|| self.foreign.unwrap_or(now));
        let chained = matches!(plan.standing, Standing::Chained(_));
        let changed = changed || !plan.changes.is_empty();
        if !plan.changes.is_empty() {
            // What withdraws need not wait; what names us waits for pods that run already.
            if chained && !self.shared.ready.load(Ordering::Acquire) {
                self.chain.state = ChainState::Waiting;
                return;
            }
            // What stands there does not name us until it is written.
            self.unchained();
            let repair = self.was_chained && chained;
            if repair && self.must_wait(now, problems) {
                return;
            }
            if let Err(error) = files::apply(&conf, &plan.changes) {
                problems.push(Problem::new(
                    "CNI005",
                    format!("the chain can not be written: {error}"),
                    None,
                ));
                return;
            }
            if repair {
                self.repairs.push(now);
                self.chain.repairs += 1;
                self.chain.repaired = Some(Timestamp::now());
            }
            self.readback.written();
            info!(changes = plan.changes.len(), repair, "the chain was written");
        }
        match plan.standing {
            Standing::Chained(file) => {
                self.was_chained = true;
                self.chain.file = Some(file.display().to_string());
                self.confirm(now, changed, problems);
            }
            Standing::Waiting(why) | Standing::Foreign(why) | Standing::Impossible(why) => {
                problems.push(Problem::new(
                    "CNI003",
                    format!(
                        "new pods are not protected before they start: {why} (in {})",
                        conf.display()
                    ),
                    Some("see docs/problems.md; pods are still found and protected within a second"),
                ));
                self.unchained();
            }
        }
    }

    /// What the runtime can do. It is asked before the first plan, and from then on when its answer matters.
    fn abilities(&mut self, now: Instant) -> Abilities {
        if self.chain.file.is_none() {
            self.readback.ask(now, true, false);
        }
        let able = self.readback.abilities();
        Abilities {
            dropins: if self.no_dropins {
                Some(false)
            } else {
                able.dropins
            },
            ..able
        }
    }

    /// The file is in place: whether the runtime has read it.
    fn confirm(&mut self, now: Instant, changed: bool, problems: &mut Vec<Problem>) {
        match self.readback.ask(now, true, changed) {
            Word::Nothing | Word::Yes => {
                self.since.get_or_insert(now);
                self.chain.state = ChainState::Chained;
            }
            // What it has in memory does not change while it is silent, and it reads its directory when it starts.
            Word::Silence(since, why) => {
                if self.since.is_none() {
                    self.chain.state = ChainState::Written;
                }
                if now.duration_since(since) >= RUNTIME_PATIENCE {
                    problems.push(Problem::new(
                        "CNI008",
                        format!("whether the runtime calls the plugin is not known: {why}"),
                        Some("name its socket with --cri-socket, or --cri-socket none to rely on the file"),
                    ));
                }
            }
            Word::No(since, cni) => {
                (self.chain.state, self.since) = (ChainState::Written, None);
                if self.settings.mode != ChainMode::External {
                    self.poke(now, problems);
                }
                if now.duration_since(since) >= RUNTIME_PATIENCE {
                    self.no_dropins |= self.settings.mode == ChainMode::Auto
                        && self.chain.file.as_deref().is_some_and(|file| file.contains('/'));
                    problems.push(self.unread(&cni));
                }
            }
        }
        let handlers = self.readback.handlers();
        if !handlers.is_empty() {
            problems.push(Problem::new(
                HANDLERS,
                format!(
                    "pods of the runtime handlers {} come by CNI directories of their own, which do not name the plugin: they are \
                     found and protected after they started",
                    handlers.join(", ")
                ),
                Some("take cni_conf_dir out of these handlers in the runtime's configuration"),
            ));
        }
    }

    fn unread(&self, cni: &Cni) -> Problem {
        let real = |path: &std::path::Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let conf = &self.settings.places.conf;
        if real(&cni.conf_dir) != real(conf) {
            return Problem::new(
                "CNI007",
                format!(
                    "new pods are not protected before they start: the runtime reads {}, and the plugin is in the chain of {}",
                    cni.conf_dir.display(),
                    conf.display()
                ),
                Some("name the runtime's directory with --cni-conf-dir"),
            );
        }
        let held = match cni.plugins.join(", ") {
            none if none.is_empty() => "no list".to_owned(),
            plugins => plugins,
        };
        Problem::new(
            "CNI007",
            format!(
                "new pods are not protected before they start: the runtime has not read {}, it has {held}",
                conf.display()
            ),
            Some(
                "see docs/problems.md; a restart of the runtime makes it read its directory, and restarts no pod",
            ),
        )
    }

    fn unchained(&mut self) {
        self.chain.state = ChainState::Unchained;
        (self.chain.file, self.since) = (None, None);
    }

    /// Whether somebody takes the chain away again and again: then each repair waits longer than the one before, since
    /// each makes the runtime read its directory anew.
    fn must_wait(&mut self, now: Instant, problems: &mut Vec<Problem>) -> bool {
        self.repairs.retain(|at| now.duration_since(*at) < FIGHT);
        let Some(more) = self.repairs.len().checked_sub(PATIENCE) else {
            return false;
        };
        problems.push(Problem::new(
            "CNI004",
            format!(
                "somebody takes the plugin out of the chain again and again ({} times in ten minutes)",
                self.repairs.len()
            ),
            Some("find out who writes the CNI directory; --chain own needs no repair"),
        ));
        let pause = Duration::from_secs(1 << more.min(6)).min(LONGEST);
        self.repairs
            .last()
            .is_some_and(|last| now.duration_since(*last) < pause)
    }
}

#[cfg(test)]
mod tests;
