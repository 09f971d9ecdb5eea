//! The thread that owns the world: takes inputs, keeps the maps and attachments in step, answers questions.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::AtomicU64,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tracing::{info, warn};
use vethwall_cni::{code, proto};
use vethwall_common::maps::EVENTS_LOST;
use vethwall_datapath::{
    Choice, Clock, Error, HeldBpffs, Hook, Kernel, Maps, Options, Pins, attach, grace, surroundings,
};
use vethwall_policy::{model::Endpoint, world::Claim};

use super::{
    Configured, Input, Interface,
    connections::Connections,
    control::Control,
    early::Early,
    flannel, settings,
    strangers::Strangers,
    surroundings::Surroundings,
    versions::Others,
    waiting::{Waiting, answer},
};
use crate::{
    api::{
        explain,
        settings::Settings,
        status::{self, FoundBy},
    },
    chain::keeper,
    cluster::Health,
    flows::{Flows, Names},
};

/// How often the kernel is compared with what is known, when nothing else happens.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// Where things are on this node.
#[derive(Clone, Debug)]
pub struct Places {
    /// The node's name.
    pub node: String,
    /// Where everything is pinned.
    pub pins: Pins,
    /// libcni's result cache.
    pub cni_cache: PathBuf,
    /// Name of the pods' bridge.
    pub bridge: String,
    /// Namespaces whose pods start unprotected while no agent answers. The plugin decides; it is told here.
    pub fail_open_namespaces: Vec<String>,
    /// How programs are attached.
    pub hook: Choice,
    /// For how many pods there is room for connections.
    pub max_pods: u32,
}

/// An interface and what was done with it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) interface: Interface,
    /// `None` while its programs are not attached.
    pub(super) hook: Option<Hook>,
    pub(super) error: Option<String>,
    /// When it came; `None` if that was before this agent looked.
    pub(super) since: Option<Timestamp>,
    pub(super) found_by: FoundBy,
}

/// What other threads read or write beside the node's.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Names of what events speak of.
    pub names: Arc<RwLock<Names>>,
    /// The history of flows.
    pub flows: Arc<Flows>,
    /// How many events were read.
    pub events_read: Arc<AtomicU64>,
    /// How many drops were too many to ask the kernel about.
    pub unasked: Arc<AtomicU64>,
    /// How the runtime comes to call our plugin.
    pub chain: Arc<keeper::Shared>,
    /// Where addresses of new pods are told to other nodes.
    pub early: Option<tokio::sync::watch::Sender<BTreeSet<Claim>>>,
    /// Makes the container runtime tell of its pods.
    pub runtime: Option<Sender<()>>,
    /// How the cluster is followed, if one is.
    pub cluster: Option<Arc<Health>>,
}

/// The node's state, owned by one thread.
pub struct Node {
    pub(super) places: Places,
    pub(super) control: Control<Kernel>,
    pub(super) pins: Pins,
    /// Keeps the pins, should somebody unmount them.
    pub(super) bpffs: HeldBpffs,
    pub(super) watched: Watched,
    pub(super) settings: Settings,
    /// What is wrong with the configuration.
    pub(super) config_problems: Vec<status::Problem>,
    pub(super) clock: Clock,
    pub(super) connections: Connections,
    events_lost: u64,
    pub(super) interfaces: BTreeMap<u32, Known>,
    /// Interfaces whose DEL came while the cache still speaks of them: the sandbox, and the name in it.
    pub(super) leaving: BTreeSet<(String, String)>,
    pub(super) strangers: Strangers,
    /// When their owners were looked for last.
    pub(super) looked_for_owners: Instant,
    /// When the runtime was asked whose they are, and whether it still is.
    pub(super) asked: Option<Instant>,
    pub(super) asking: bool,
    /// How often the kernel could not tell all changes of interfaces.
    pub(super) changes_lost: u64,
    /// Connections of pods that went while no agent looked are forgotten.
    pub(super) swept: bool,
    pub(super) waiting: Vec<Waiting>,
    /// When the plugin came last with a pod.
    pub(super) added: Option<Instant>,
    /// The kernel refused tcx.
    pub(super) no_tcx: bool,
    pub(super) bridge: Option<(u32, Hook)>,
    pub(super) bridge_error: Option<String>,
    pub(super) surroundings: Surroundings,
    pub(super) others: Others,
    pub(super) early: Early,
    /// What could not be read, by what it is.
    pub(super) unreadable: BTreeMap<&'static str, String>,
    pub(super) ready: bool,
    /// When all pods were looked for last.
    pub(super) looked: Option<Instant>,
    /// Nothing of ours is in the kernel any more.
    pub(super) removed: bool,
}

impl Node {
    /// Loads or adopts everything that is in the kernel and tells the programs of this node.
    pub fn new(places: Places, settings: Settings, watched: Watched) -> Result<Self, Error> {
        let mut kernel = Kernel::load_with(places.pins.clone(), &Options::for_pods(places.max_pods))?;
        let pins = kernel.pins().clone();
        let bpffs = HeldBpffs::hold(pins.bpffs())?;
        let clock = Clock::measure()?;
        let before = kernel.config()?;
        let config = settings::config(&before, settings, clock, &settings::sysctl);
        kernel.set_config(&config)?;
        info!(adopted = kernel.adopted(), pins = %pins.root().display(), "programs are loaded");
        let mut control = Control::new(&places.node, kernel, grace)?;
        control.set_mode(settings.mode);
        if settings::denies_more(&before, &config) {
            control.judge_again();
        }
        let early = Early::new(watched.early.clone());
        Ok(Self {
            places,
            control,
            pins,
            bpffs,
            watched,
            settings,
            config_problems: Vec::new(),
            clock,
            connections: Connections::default(),
            events_lost: 0,
            interfaces: BTreeMap::new(),
            leaving: BTreeSet::new(),
            strangers: Strangers::default(),
            looked_for_owners: Instant::now(),
            asked: None,
            asking: false,
            changes_lost: 0,
            swept: false,
            waiting: Vec::new(),
            added: None,
            no_tcx: false,
            bridge: None,
            bridge_error: None,
            surroundings: Surroundings::default(),
            others: Others::default(),
            early,
            unreadable: BTreeMap::new(),
            ready: false,
            looked: None,
            removed: false,
        })
    }

    /// A reader of the programs' events.
    pub fn events(&self) -> Result<vethwall_datapath::Events, Error> {
        self.control.maps().events()
    }

    /// Takes inputs until [`Input::Stop`]. Everything stays in place afterwards.
    pub fn run(mut self, inputs: &Receiver<Input>) {
        let mut next_tick = Instant::now();
        loop {
            let next_look = self.strangers.next_look(self.looked_for_owners);
            let next = next_look.map_or(next_tick, |look| look.min(next_tick));
            match inputs.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(input) => {
                    let Some(mut changed) = self.take(input) else {
                        return;
                    };
                    // What came together is compiled together.
                    while let Ok(input) = inputs.try_recv() {
                        match self.take(input) {
                            Some(also) => changed |= also,
                            None => return,
                        }
                    }
                    if changed {
                        self.sync();
                    }
                    self.connections.follow_drops(self.control.parts());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // Also where inputs never end.
            if Instant::now() >= next_tick {
                self.tick();
                next_tick = Instant::now() + TICK;
            } else if next_look.is_some_and(|look| Instant::now() >= look) {
                self.look_for_owners();
                self.sync();
            }
            self.settle();
        }
    }

    /// Whether the input changed the world; `None` to stop.
    fn take(&mut self, input: Input) -> Option<bool> {
        match input {
            Input::Objects(objects) => {
                let told: BTreeSet<_> = self.control.objects().problems.iter().collect();
                for problem in objects.problems.iter().filter(|problem| !told.contains(problem)) {
                    let status::ManifestProblem {
                        file,
                        line,
                        column,
                        message,
                        ..
                    } = problem;
                    warn!("{file}:{line}:{column}: {message}");
                }
                self.control.set_objects(*objects);
                if !self.ready {
                    self.look();
                }
                Some(true)
            }
            Input::Early(change) => Some(self.control.follow(change)),
            Input::Published(outcome) => {
                self.published(outcome);
                Some(false)
            }
            Input::Heard(outcome) => {
                self.heard(outcome);
                Some(false)
            }
            Input::Add(request, reply) => Some(self.add(request, reply)),
            Input::Del(request, reply) => Some(self.del(request, reply)),
            Input::CniStatus(reply) => {
                let response = if self.ready {
                    proto::Response::done(self.control.revision())
                } else {
                    proto::Response::failed(code::UNAVAILABLE, self.not_ready())
                };
                answer(reply, response);
                Some(false)
            }
            Input::Links(changes) => Some(self.follow(changes)),
            Input::Sandboxes(answer) => Some(self.take_sandboxes(answer)),
            Input::Dropped(events) => {
                self.connections.wonder(events);
                Some(false)
            }
            Input::Taint(looked) => {
                self.note("node's taints", looked, |_, ()| {});
                Some(false)
            }
            Input::Config(Configured { mode, problems }) => {
                self.config_problems = problems;
                self.settings.mode = mode;
                Some(self.control.set_mode(mode))
            }
            Input::Status(reply) => {
                answer(reply, self.status());
                Some(false)
            }
            Input::Explain(request, reply) => {
                answer(reply, explain::answer(self.control.world(), &request));
                Some(false)
            }
            Input::Stop => {
                // What we hold ends with us.
                self.keep_pins();
                None
            }
        }
    }

    /// This interface is a pod's. Its programs are attached when its record is written.
    pub(super) fn learn(&mut self, interface: Interface, found_by: FoundBy) {
        let stranger = self.strangers.remove(interface.ifindex);
        let closed = stranger.is_some_and(|stranger| stranger.closed);
        if closed && found_by != FoundBy::Plugin {
            self.strangers.identified += 1;
        }
        // One that was closed from its first packet on has no connections that are older.
        let since = (closed || found_by == FoundBy::Plugin).then(Timestamp::now);
        let known = self.interfaces.get(&interface.ifindex);
        if known.is_some_and(|known| known.interface.host_ifname != interface.host_ifname) {
            // The number was another pod's, and that this one went has not been told yet.
            self.forget(interface.ifindex);
        }
        self.control.attach(Endpoint {
            ifindex: interface.ifindex,
            mac: interface.mac,
            addresses: interface.addresses.clone(),
            namespace: interface.namespace.clone(),
            pod: interface.pod.clone(),
            uid: interface.uid.clone(),
        });
        self.interfaces.insert(
            interface.ifindex,
            Known {
                interface,
                hook: None,
                error: None,
                since,
                found_by,
            },
        );
    }

    pub(super) fn forget(&mut self, ifindex: u32) {
        self.interfaces.remove(&ifindex);
        self.control.detach(ifindex);
    }

    /// Makes maps and attachments follow the world.
    fn sync(&mut self) {
        // What nobody has looked for may be there: its record must not go.
        if self.watched.chain.is_leaving() || self.looked.is_none() {
            return;
        }
        self.tell_early();
        let settled = self.control.settled();
        let complete = self.control.sync();
        for failure in self.control.failures() {
            warn!("the kernel's maps do not follow yet: {failure}");
        }
        if !self.control.synced() {
            return;
        }
        if !settled {
            let mut names = self.watched.names.write().unwrap_or_else(PoisonError::into_inner);
            names.update(self.control.world(), &self.control.compiled().cookies);
        }
        self.attach_all();
        self.end_others();
        if complete
            && !self.ready
            && !self.asking
            && self.interfaces.values().all(|known| known.hook.is_some())
        {
            self.ready = true;
            self.watched.chain.set_ready();
            info!(
                pods = self.interfaces.len(),
                revision = self.control.revision(),
                "policy is in force"
            );
        }
    }

    /// Compares the kernel with what is known.
    fn tick(&mut self) {
        if self.watched.chain.is_leaving() {
            self.leave();
            return;
        }
        self.keep_pins();
        self.look();
        settings::follow_sysctls(self.control.maps_mut(), self.settings, self.clock);
        self.sync();
        self.connections.follow_drops(self.control.parts());
        self.tell_losses();
        self.settle_hooks();
        self.collect_pins();
    }

    /// After an uninstall: takes everything off, and is only there to be asked.
    fn leave(&mut self) {
        if self.removed {
            return;
        }
        self.ready = false;
        for waiting in std::mem::take(&mut self.waiting) {
            // Its plugin asks again and finds itself retired.
            waiting.refuse("vethwall is being uninstalled");
        }
        match attach::remove_all(&self.pins) {
            Ok(()) => {
                info!("every program is off; pods are as flannel leaves them");
                self.interfaces.clear();
                self.bridge = None;
                self.removed = true;
            }
            Err(error) => warn!("programs can not be taken off yet: {}", error.chain()),
        }
    }

    /// Readers of flows are told how many the ring buffer had no room for.
    fn tell_losses(&mut self) {
        let counters = self.control.maps().counters().unwrap_or_default();
        let lost = counters
            .get(EVENTS_LOST as usize)
            .copied()
            .unwrap_or(self.events_lost);
        if lost > self.events_lost {
            self.watched.flows.lost(lost - self.events_lost);
            self.events_lost = lost;
        }
    }

    pub(super) fn look(&mut self) {
        let began = Instant::now();
        let networks = flannel::read_pod_networks(flannel::SUBNET_FILE.as_ref());
        let addresses = flannel::own_addresses().map_err(|e| e.to_string());
        self.note("node addresses", addresses, |node, addresses| {
            node.control.set_network(addresses, networks);
        });
        let all = surroundings::interfaces().map_err(|error| error.chain());
        self.note("node's interfaces", all, |node, all| {
            node.look_for_pods(&all);
            // With the pods known: a port of the bridge that is a pod's is about to carry our programs.
            node.look_around(&all);
            node.ask_runtime();
            node.sweep(&all);
            node.looked = Some(began);
        });
        self.look_at_bridge();
    }

    /// Remembers what could not be read, and says it once.
    pub(super) fn note<T>(
        &mut self,
        what: &'static str,
        result: Result<T, String>,
        then: impl FnOnce(&mut Self, T),
    ) {
        match result {
            Ok(value) => {
                self.unreadable.remove(what);
                then(self, value);
            }
            Err(error) => {
                if self.unreadable.insert(what, error.clone()).as_ref() != Some(&error) {
                    warn!("can not read the {what}: {error}");
                }
            }
        }
    }
}
