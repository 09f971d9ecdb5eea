//! The thread that owns the world: takes inputs, keeps the maps and attachments in step, answers questions.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::AtomicU64,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::oneshot;
use tracing::{info, warn};
use vethwall_cni::{code, proto};
use vethwall_common::maps::EVENTS_LOST;
use vethwall_datapath::{Choice, Clock, Error, Hook, Kernel, Maps, Options, Pins, attach, grace, veth};
use vethwall_policy::model::Endpoint;

use super::{
    Input, Interface,
    connections::Connections,
    control::Control,
    existing, flannel, settings,
    surroundings::Surroundings,
    versions::Others,
    waiting::{Waiting, answer},
};
use crate::{
    api::{explain, status},
    chain::keeper,
    flows::{Flows, Names},
};

/// How often the kernel is compared with what is known, when nothing else happens.
const TICK: Duration = Duration::from_secs(1);

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
    pub(super) since: Option<Timestamp>,
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
}

/// The node's state, owned by one thread.
pub struct Node {
    pub(super) places: Places,
    pub(super) control: Control<Kernel>,
    pub(super) pins: Pins,
    pub(super) watched: Watched,
    pub(super) settings: status::Settings,
    pub(super) clock: Clock,
    pub(super) connections: Connections,
    events_lost: u64,
    pub(super) interfaces: BTreeMap<u32, Known>,
    /// Sandboxes whose DEL came while the cache still speaks of them.
    leaving: BTreeSet<String>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) bridge: Option<(u32, Hook)>,
    pub(super) bridge_error: Option<String>,
    pub(super) surroundings: Surroundings,
    pub(super) others: Others,
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
    pub fn new(places: Places, settings: status::Settings, watched: Watched) -> Result<Self, Error> {
        let mut kernel = Kernel::load_with(places.pins.clone(), &Options::for_pods(places.max_pods))?;
        let pins = kernel.pins().clone();
        let clock = Clock::measure()?;
        let before = kernel.config()?;
        let config = settings::config(&before, settings, clock, &settings::sysctl);
        kernel.set_config(&config)?;
        info!(adopted = kernel.adopted(), pins = %pins.root().display(), "programs are loaded");
        let mut control = Control::new(&places.node, kernel, grace)?;
        if settings::denies_more(&before, &config) {
            control.judge_again();
        }
        Ok(Self {
            places,
            control,
            pins,
            watched,
            settings,
            clock,
            connections: Connections::default(),
            events_lost: 0,
            interfaces: BTreeMap::new(),
            leaving: BTreeSet::new(),
            waiting: Vec::new(),
            bridge: None,
            bridge_error: None,
            surroundings: Surroundings::default(),
            others: Others::default(),
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
            match inputs.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
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
                Err(RecvTimeoutError::Timeout) => {
                    self.tick();
                    next_tick = Instant::now() + TICK;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.settle();
        }
    }

    /// Whether the input changed the world; `None` to stop.
    fn take(&mut self, input: Input) -> Option<bool> {
        match input {
            Input::Objects(objects) => {
                for problem in &objects.problems {
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
            Input::Add(request, reply) => Some(self.add(request, reply)),
            Input::Del(request, reply) => {
                let gone: Vec<u32> = self
                    .interfaces
                    .values()
                    .map(|known| &known.interface)
                    .filter(|i| i.container_id == request.container_id && i.ifname == request.ifname)
                    .map(|i| i.ifindex)
                    .collect();
                self.leaving.insert(request.container_id);
                gone.iter().for_each(|ifindex| self.forget(*ifindex));
                answer(reply, proto::Response::done(self.control.revision()));
                Some(!gone.is_empty())
            }
            Input::CniStatus(reply) => {
                let response = if self.ready {
                    proto::Response::done(self.control.revision())
                } else {
                    proto::Response::failed(code::UNAVAILABLE, self.not_ready())
                };
                answer(reply, response);
                Some(false)
            }
            Input::Dropped(events) => {
                self.connections.wonder(events);
                Some(false)
            }
            Input::Status(reply) => {
                answer(reply, self.status());
                Some(false)
            }
            Input::Explain(request, reply) => {
                answer(reply, explain::answer(self.control.world(), &request));
                Some(false)
            }
            Input::Stop => None,
        }
    }

    fn add(&mut self, request: proto::AddRequest, reply: oneshot::Sender<proto::Response>) -> bool {
        let interface = Interface::from(request);
        self.leaving.remove(&interface.container_id);
        self.waiting.push(Waiting::new(&interface, reply));
        // The bridge plugin may just have made the bridge anew: a pod must not send before its second stage is there, or
        // known to be missing.
        self.look_at_bridge();
        // The plugin attached the programs; attaching again finds out how, and is nothing where they are.
        self.learn(interface, Some(Timestamp::now()));
        true
    }

    fn learn(&mut self, interface: Interface, since: Option<Timestamp>) {
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
            },
        );
    }

    fn forget(&mut self, ifindex: u32) {
        self.interfaces.remove(&ifindex);
        self.control.detach(ifindex);
    }

    /// Makes maps and attachments follow the world.
    fn sync(&mut self) {
        if self.watched.chain.is_leaving() {
            return;
        }
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
        if self.may_attach() {
            self.attach_all();
            self.end_others();
        }
        if complete && !self.ready && self.interfaces.values().all(|known| known.hook.is_some()) {
            self.ready = true;
            self.watched.chain.set_ready();
            info!(
                pods = self.interfaces.len(),
                revision = self.control.revision(),
                "policy is in force"
            );
        }
    }

    /// After the records are written, so that a pod that runs loses no packet that it may send; and after its connections
    /// are known, so that none of their answers is taken for something new. What begins in between is made known after.
    fn attach_all(&mut self) {
        let new: BTreeSet<u32> = self
            .interfaces
            .values()
            .filter(|known| known.hook.is_none() && known.since.is_none() && known.error.is_none())
            .map(|known| known.interface.ifindex)
            .collect();
        self.connections.know(self.control.parts(), &new);
        self.attach_each();
        self.connections.know(self.control.parts(), &new);
    }

    fn attach_each(&mut self) {
        for (ifindex, known) in &mut self.interfaces {
            if known.hook.is_some() {
                continue;
            }
            let name = &known.interface.host_ifname;
            match attach::attach_endpoint(&self.pins, *ifindex, name, self.places.hook) {
                Ok(hook) => {
                    known.hook = Some(hook);
                    known.error = None;
                    let Interface { namespace, pod, .. } = &known.interface;
                    info!(pod = %format_args!("{namespace}/{pod}"), interface = %name, %hook, "attached");
                }
                Err(error) => {
                    let error = error.chain();
                    if known.error.as_ref() != Some(&error) {
                        warn!(interface = %name, "{error}");
                    }
                    known.error = Some(error);
                }
            }
        }
    }

    /// Compares the kernel with what is known.
    fn tick(&mut self) {
        if self.watched.chain.is_leaving() {
            self.leave();
            return;
        }
        self.look();
        settings::follow_sysctls(self.control.maps_mut(), self.settings, self.clock);
        self.sync();
        self.connections.follow_drops(self.control.parts());
        self.tell_losses();
        if self.control.synced()
            && let Err(error) = attach::collect_garbage(&self.pins)
        {
            warn!(
                "can not remove the pins of interfaces that are gone: {}",
                error.chain()
            );
        }
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

    fn look(&mut self) {
        let began = Instant::now();
        let networks = flannel::read_pod_networks(flannel::SUBNET_FILE.as_ref());
        let addresses = flannel::own_addresses().map_err(|e| e.to_string());
        self.note("node addresses", addresses, |node, addresses| {
            node.control.set_network(addresses, networks);
        });
        let veth = |name: &str| veth::host_veth(name).map_err(|e| e.chain());
        let found = existing::scan(&self.places.cni_cache, veth).map_err(|e| e.to_string());
        self.note("CNI result cache", found, Self::compare);
        // With the pods known: a port of the bridge that is a pod's is about to carry our programs.
        self.look_around();
        self.look_at_bridge();
        self.looked = Some(began);
    }

    /// Remembers what could not be read, and says it once.
    fn note<T>(&mut self, what: &'static str, result: Result<T, String>, then: impl FnOnce(&mut Self, T)) {
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

    /// Pods that came without our plugin, and pods that went without a DEL.
    fn compare(&mut self, found: existing::Found) {
        let cached: BTreeSet<&String> = found.interfaces.iter().map(|i| &i.container_id).collect();
        self.leaving.retain(|container| cached.contains(container));
        for interface in found.interfaces {
            let known = self.interfaces.contains_key(&interface.ifindex);
            if !known && !self.leaving.contains(&interface.container_id) {
                self.learn(interface, None);
            }
        }
        let unusable = found
            .unusable
            .iter()
            .map(|(path, why)| format!("{}: {why}", path.display()));
        match unusable.collect::<Vec<_>>() {
            none if none.is_empty() => _ = self.unreadable.remove("cached CNI results"),
            all => _ = self.unreadable.insert("cached CNI results", all.join("; ")),
        }
        let gone: Vec<u32> = self
            .interfaces
            .iter()
            .filter(|(ifindex, known)| {
                // A failed question is no proof that it is gone.
                veth::host_veth(&known.interface.host_ifname).is_ok_and(|now| now != Some(**ifindex))
            })
            .map(|(ifindex, _)| *ifindex)
            .collect();
        for ifindex in gone {
            info!(ifindex, "the pod's interface is gone");
            self.forget(ifindex);
        }
    }
}
