//! The thread that keeps the chain: looks at the CNI directory whenever it changes, and every two seconds.

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

use super::{
    binary, files,
    places::Places,
    plan::{self, Standing},
    removal,
};
use crate::{
    api::{
        chain::{Chain, ChainMode, ChainState},
        status::Problem,
    },
    watch::Watch,
};

/// For how long another list than flannel's is taken for a moment between two writes of flannel's.
const REPLACED: Duration = Duration::from_secs(60);
/// Repairs within [`FIGHT`] before they are spaced out.
const PATIENCE: usize = 5;
const FIGHT: Duration = Duration::from_secs(600);
/// The longest time between two repairs.
const LONGEST: Duration = Duration::from_secs(60);

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
    /// Since when the file is in place.
    pub since: Option<Instant>,
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
    let mut keeper = Keeper::new(settings, shared);
    let mut watch = Watch::new(&keeper.settings.places.conf);
    thread::Builder::new().name("chain".to_owned()).spawn(move || {
        loop {
            keeper.step(Instant::now());
            watch.changed();
        }
    })?;
    Ok(())
}

struct Keeper {
    settings: Settings,
    shared: Arc<Shared>,
    chain: Chain,
    since: Option<Instant>,
    /// It was in place once: to write it again is a repair.
    was_chained: bool,
    /// When the chain was put back.
    repairs: Vec<Instant>,
    /// Since when the primary is not flannel's.
    foreign: Option<Instant>,
    /// Why the plugin could not be installed.
    install_error: Option<String>,
    said: Vec<String>,
}

impl Keeper {
    fn new(settings: Settings, shared: Arc<Shared>) -> Self {
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
            chain,
            since: None,
            was_chained: false,
            repairs: Vec::new(),
            foreign: None,
            install_error: None,
            said: Vec::new(),
        }
    }

    fn install(&mut self) {
        let Some(plugin) = &self.settings.plugin else {
            return;
        };
        let bin = &self.settings.places.bin;
        self.install_error = match binary::install(plugin, bin) {
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
            self.remove(&mut problems);
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
        self.said = problems.iter().map(|problem| problem.message.clone()).collect();
        *self.shared.told.write().unwrap_or_else(PoisonError::into_inner) = Told {
            chain: self.chain.clone(),
            problems,
            since: self.since,
        };
    }

    fn remove(&mut self, problems: &mut Vec<Problem>) {
        match removal::unchain(&self.settings.places.conf) {
            Ok(unread) => {
                let certain = unread.is_empty();
                for why in unread {
                    problems.push(Problem::new(
                        "CNI005",
                        format!("a network list may still name us: {why}"),
                        None,
                    ));
                }
                if !self.shared.leaving.swap(true, Ordering::AcqRel) {
                    info!(certain, "uninstalled: no network list names the plugin any more");
                }
                self.chain.state = ChainState::Removed;
                (self.chain.file, self.since) = (None, None);
            }
            Err(error) => problems.push(Problem::new("CNI005", error.to_string(), None)),
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
        let plan = plan::chain(self.settings.mode, &listing, &self.settings.entry, replaced);
        self.foreign = matches!(plan.standing, Standing::Foreign(_)).then(|| self.foreign.unwrap_or(now));
        let chained = matches!(plan.standing, Standing::Chained(_));
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
            info!(changes = plan.changes.len(), repair, "the chain was written");
        }
        match plan.standing {
            Standing::Chained(file) => {
                self.since.get_or_insert(now);
                self.was_chained = true;
                self.chain.state = ChainState::Chained;
                self.chain.file = Some(file.display().to_string());
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
