//! `vethwall agent`: puts the parts together.
//!
//! ```text
//! thread "manifests"  directory ─► objects ─┐   or thread "cluster"  API server ─► changes
//! thread "links"      interfaces ───────────┤
//! thread "runtime"    its pods, when asked ─┤
//! main (tokio)        sockets, HTTP ────────┴─► thread "node" ─► kernel
//! thread "events"     ring buffer ─► names ───► flows
//! thread "chain"      CNI directory ◄─► our entry in the runtime's chain
//! ```

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use jiff::Timestamp;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    time::{ClockId, clock_gettime},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::{layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};
use vethwall_cni::proto;
use vethwall_datapath::{Choice, Events, Pins};

use crate::{
    api::{self, settings::Settings},
    chain::{keeper, removal},
    cluster::{self, Health, Place},
    config::{
        LogFilter,
        live::{self, Followed, LogHandle},
    },
    flows::{EventClock, Flows, Names},
    metrics,
    node::{
        Input, asked,
        connections::Questions,
        links,
        thread::{Node, Places, Watched},
    },
    sockets, source, taint,
};

/// What the agent needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// Where objects come from.
    pub source: Source,
    /// Where this agent is in the cluster, if addresses of new pods are to be told to other nodes.
    pub home: Option<cluster::Home>,
    /// This node's name.
    pub node: String,
    /// Where the sockets are made.
    pub run_dir: PathBuf,
    /// Where bpffs is mounted.
    pub bpffs: PathBuf,
    /// Version of the layouts: [`vethwall_common::ABI_VERSION`], or another in tests of upgrades.
    pub abi: u32,
    /// libcni's cache of results, where pods that already run are found.
    pub cni_cache: PathBuf,
    /// The pods' bridge.
    pub bridge: String,
    /// What to do where upstream leaves it open.
    pub settings: Settings,
    /// Namespaces whose pods start unprotected while no agent answers; in order.
    pub fail_open_namespaces: Vec<String>,
    /// How programs are attached.
    pub hook: Choice,
    /// For how many pods there is room for connections.
    pub max_pods: u32,
    /// How the runtime comes to call our plugin.
    pub chain: keeper::Settings,
    /// Where metrics and probes are served.
    pub http: Vec<SocketAddr>,
    /// Whether the node's start-up taint is taken away.
    pub startup_taint: bool,
    /// The file that may change what is told, if there is one.
    pub followed: Option<Followed>,
    /// What is logged.
    pub log: LogFilter,
    /// Whether the log on stderr has colours.
    pub log_color: bool,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// A cluster's API server.
    Cluster(Place),
}

/// Runs the agent until SIGTERM or SIGINT. What it wrote to the kernel stays in force.
pub fn run(config: AgentConfig) -> anyhow::Result<()> {
    let (filter, log) = reload::Layer::new(config.log.filter());
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(config.log_color)
        .with_writer(std::io::stderr);
    tracing_subscriber::registry().with(filter).with(lines).init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if removal::is_retired(&config.chain.places) && !stay_away(&config).await? {
            return Ok(());
        }
        serve(config, log).await
    })
}

/// After an uninstall: finishes it, should it have been interrupted, and waits to be ended (false) or until vethwall is
/// installed again (true).
async fn stay_away(config: &AgentConfig) -> anyhow::Result<bool> {
    warn!(
        "vethwall was uninstalled on this node, nothing is enforced; to install it again: vethwall install"
    );
    let pins = Pins::of(&config.bpffs, config.abi);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut again = tokio::time::interval(std::time::Duration::from_secs(1));
    let mut done = false;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(false),
            _ = interrupt.recv() => return Ok(false),
            _ = again.tick() => {}
        }
        if !removal::is_retired(&config.chain.places) {
            return Ok(true);
        }
        if done {
            continue;
        }
        match removal::finish(&config.chain.places, &pins) {
            Ok(unread) => {
                unread
                    .iter()
                    .for_each(|why| warn!("a network list may still name the plugin: {why}"));
                done = true;
            }
            Err(error) => warn!("the uninstall can not be finished yet: {error:#}"),
        }
    }
}

async fn serve(config: AgentConfig, log: LogHandle) -> anyhow::Result<()> {
    // The sockets first: two agents must not write the same maps.
    let plugin = sockets::listen(&config.run_dir, proto::SOCKET)?;
    let people = sockets::listen(&config.run_dir, api::SOCKET)?;

    let names = Arc::new(RwLock::new(Names::default()));
    let flows = Arc::new(Flows::default());
    let read = Arc::new(AtomicU64::new(0));
    let places = Places {
        node: config.node.clone(),
        pins: Pins::of(config.bpffs, config.abi),
        cni_cache: config.cni_cache,
        bridge: config.bridge,
        fail_open_namespaces: config.fail_open_namespaces,
        hook: config.hook,
        max_pods: config.max_pods,
    };
    let (inputs, receiver) = mpsc::channel();
    let unasked = Arc::new(AtomicU64::new(0));
    let chain = Arc::new(keeper::Shared::default());
    let health = Arc::new(Health::default());
    let (early, wanted) = tokio::sync::watch::channel(BTreeSet::new());
    let home = config
        .home
        .filter(|_| matches!(config.source, Source::Cluster(_)));
    let watched = Watched {
        early: home.is_some().then_some(early),
        names: Arc::clone(&names),
        flows: Arc::clone(&flows),
        events_read: Arc::clone(&read),
        unasked: Arc::clone(&unasked),
        chain: Arc::clone(&chain),
        runtime: Some(asked::spawn(config.chain.runtime.clone(), inputs.clone())?),
        cluster: match &config.source {
            Source::Cluster(_) => Some(Arc::clone(&health)),
            Source::Manifests(_) => None,
        },
    };
    let node = Node::new(places, config.settings, watched).map_err(|error| anyhow::anyhow!(error.chain()))?;
    let events = node.events().map_err(|error| anyhow::anyhow!(error.chain()))?;

    let questions = Questions::new(inputs.clone(), unasked);
    let owner = thread::Builder::new()
        .name("node".to_owned())
        .spawn(move || node.run(&receiver))?;
    let history = Arc::clone(&flows);
    thread::Builder::new()
        .name("events".to_owned())
        .spawn(move || name_events(events, &names, &history, &read, questions))?;
    // Before the first objects, and so before the node looks for the first time.
    links::spawn(inputs.clone())?;
    match config.source {
        Source::Manifests(directory) => source::spawn(directory, inputs.clone())?,
        Source::Cluster(place) => {
            if config.startup_taint {
                taint::spawn(config.node.clone(), place.clone(), inputs.clone())?;
            }
            cluster::spawn(place, health, home.map(|home| (home, wanted)), inputs.clone())?;
        }
    }
    let installed = config.chain.places.clone();
    if let Some(followed) = config.followed {
        live::spawn(followed, log, inputs.clone())?;
    }
    keeper::start(config.chain, Arc::clone(&chain))?;
    for address in config.http {
        metrics::serve(address, inputs.clone()).await?;
    }
    tokio::spawn(sockets::serve_plugin(plugin, inputs.clone()));
    tokio::spawn(sockets::serve_people(people, inputs.clone(), flows, config.node));

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut watch = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = watch.tick() => {
                // Without its owner the world stands still; a restart adopts what is in the kernel.
                anyhow::ensure!(!owner.is_finished(), "the node's thread ended; see the log above");
                // It has let go of everything; who starts agents starts one that takes the node over from the beginning.
                let again = chain.is_leaving() && !removal::is_retired(&installed);
                anyhow::ensure!(!again, "vethwall was installed again; this agent ends, start it anew");
            }
        }
    }
    info!("stopping; everything stays in force");
    // The thread may have ended by itself; then there is nobody to tell.
    drop(inputs.send(Input::Stop));
    owner
        .join()
        .map_err(|_| anyhow::anyhow!("the node's thread panicked"))
}

/// Ring buffer to named flows. Ends with the process.
fn name_events(
    mut events: Events,
    names: &RwLock<Names>,
    flows: &Flows,
    read: &AtomicU64,
    mut questions: Questions,
) {
    loop {
        let mut descriptors = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
        match poll(&mut descriptors, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                warn!("events can not be read any more: {error}");
                return;
            }
        }
        let clock = event_clock();
        for event in events.by_ref() {
            read.fetch_add(1, Ordering::Relaxed);
            let named = names
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .flow(&event, clock.at(event.time));
            named.into_iter().for_each(|flow| flows.push(flow));
            questions.consider(&event);
        }
        questions.ask();
    }
}

/// Both clocks now. The monotonic one can not fail; zero shows a wrong time rather than no event.
fn event_clock() -> EventClock {
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map(std::time::Duration::from);
    let nanoseconds = monotonic
        .map(|t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX))
        .unwrap_or_default();
    EventClock::new(Timestamp::now(), nanoseconds)
}
