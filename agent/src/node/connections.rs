//! What the kernel's connection tracking knows and the programs do not.
//!
//! ```text
//! pods that run when the programs come ──────────────► dump ─┐
//! drop in the middle of a connection (MidStream) ─► question ┴─► entries that are judged at the next packet
//! drop behind a Service's translation ───────────► question ───► the client's entry of before it: revoked
//! ```
//!
//! Invariants:
//! - No entry of the programs is overwritten, and none that is made here has been admitted by a policy: it says who began,
//!   and the next packet of who did is judged.
//! - Questions are bounded, by second and in the queue, and dumps to one a second; what is too much is counted and waits
//!   for the next packet.
//! - Without connection tracking nothing is seeded, and the programs are as closed as they are without an agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::Sender,
    },
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};
use vethwall_common::{
    Direction,
    address::{Addr, Prefix},
    endpoint::EndpointRecord,
    event::Event,
    flow::{FlowEntry, FlowKey, state},
    identity::{AddressEntry, PrefixEntry},
    protocol,
    verdict::{Action, Reason},
};
use vethwall_datapath::{
    Error, Maps,
    conntrack::{Connection, Conntrack, Tuple},
};
use vethwall_policy::state::State;

use super::Input;
use crate::api::status;

/// Drops that the kernel is asked about in a second.
const QUESTIONS: u32 = 256;

/// From here one dump is cheaper than single questions.
const MANY: usize = 32;

/// Between two dumps for the sake of drops.
const DUMP_PAUSE: Duration = Duration::from_secs(1);

const SECOND: Duration = Duration::from_secs(1);

/// Who knows of connections.
pub(super) trait Tracker {
    /// All there are.
    fn each(&self, each: &mut dyn FnMut(Connection)) -> Result<(), Error>;
    /// The one that has this tuple.
    fn find(&self, tuple: &Tuple) -> Result<Option<Connection>, Error>;
}

impl Tracker for Conntrack {
    fn each(&self, each: &mut dyn FnMut(Connection)) -> Result<(), Error> {
        Self::each(self, each)
    }

    fn find(&self, tuple: &Tuple) -> Result<Option<Connection>, Error> {
        Self::find(self, tuple)
    }
}

/// Chooses the events that are questions. Belongs to the thread that reads events.
#[derive(Debug)]
pub struct Questions {
    inputs: Sender<Input>,
    batch: Vec<Event>,
    second: Instant,
    left: u32,
    unasked: Arc<AtomicU64>,
}

impl Questions {
    /// Counts in `unasked` what is too much.
    pub fn new(inputs: Sender<Input>, unasked: Arc<AtomicU64>) -> Self {
        Self {
            inputs,
            batch: Vec::new(),
            second: Instant::now(),
            left: QUESTIONS,
            unasked,
        }
    }

    /// Keeps an event that is a question, while there are not too many.
    pub fn consider(&mut self, event: &Event) {
        if !is_in_the_middle(event) && !is_behind_a_service(event) {
            return;
        }
        if self.second.elapsed() >= SECOND {
            (self.second, self.left) = (Instant::now(), QUESTIONS);
        }
        if self.left == 0 {
            self.unasked.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.left -= 1;
        self.batch.push(*event);
    }

    /// Asks what was kept.
    pub fn ask(&mut self) {
        if !self.batch.is_empty() {
            // Without the node's thread the agent is about to end.
            drop(self.inputs.send(Input::Dropped(std::mem::take(&mut self.batch))));
        }
    }
}

/// The program knows nothing of the connection and will not guess who began it.
fn is_in_the_middle(event: &Event) -> bool {
    event.action == Action::Drop as u8 && event.reason == Reason::MidStream as u8
}

/// What a pod sends was denied by policy, perhaps after its destination was translated.
fn is_behind_a_service(event: &Event) -> bool {
    let by_policy = [Reason::NoRule, Reason::Rule, Reason::Revoked].map(|reason| reason as u8);
    event.action == Action::Drop as u8
        && event.direction == Direction::Egress as u8
        && protocol::has_ports(event.protocol)
        && by_policy.contains(&event.reason)
}

/// The packet of an event, as a tuple.
fn tuple(event: &Event) -> Tuple {
    Tuple {
        source: event.source.into(),
        source_port: event.source_port,
        destination: event.destination.into(),
        destination_port: event.destination_port,
        protocol: event.protocol,
    }
}

/// Connections that may be older than the programs on these interfaces. The kernel is asked for them more than once while
/// interfaces are taken over, and of tens of thousands hardly one is new the second time.
#[derive(Debug, Default)]
pub(super) struct Older {
    interfaces: BTreeSet<u32>,
    /// What an earlier look found.
    known: BTreeSet<FlowKey>,
}

impl From<BTreeSet<u32>> for Older {
    fn from(interfaces: BTreeSet<u32>) -> Self {
        Self {
            interfaces,
            known: BTreeSet::new(),
        }
    }
}

/// What waits to be asked, and what came of what was.
#[derive(Debug, Default)]
pub(super) struct Connections {
    queue: Vec<Event>,
    /// Interfaces whose connections wait for a dump.
    wanted: BTreeSet<u32>,
    /// Drops behind a translation that single questions did not find.
    hidden: Vec<Event>,
    dumped: Option<Instant>,
    counts: status::Connections,
    error: Option<String>,
}

impl Connections {
    /// What is to be asked at the next turn.
    pub(super) fn wonder(&mut self, events: Vec<Event>) {
        self.queue.extend(events);
    }

    /// The counts; `unasked` is counted elsewhere.
    pub(super) fn counts(&self, unasked: u64) -> status::Connections {
        status::Connections {
            unasked,
            ..self.counts
        }
    }

    /// Why the kernel could not be asked, the last time.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Makes the connections of these interfaces known that are not yet.
    pub(super) fn know(&mut self, (maps, observed): (&mut impl Maps, &State), older: &mut Older) {
        if older.interfaces.is_empty() {
            return;
        }
        let known = self.counts.seeded;
        self.note(|this| this.seed(&Conntrack::open()?, maps, observed, older));
        let seeded = self.counts.seeded - known;
        if seeded > 0 {
            info!(seeded, "connections that are older than the programs are known");
        }
    }

    /// Asks the kernel about what was dropped.
    pub(super) fn follow_drops(&mut self, (maps, observed): (&mut impl Maps, &State)) {
        if !self.queue.is_empty() {
            self.note(|this| this.follow(&Conntrack::open()?, maps, observed, Instant::now()));
        }
    }

    fn note(&mut self, ask: impl FnOnce(&mut Self) -> Result<(), Error>) {
        let error = ask(self).err().map(|error| error.chain());
        if let Some(error) = &error
            && self.error.as_ref() != Some(error)
        {
            warn!("connections that the kernel tracks are not known: {error}");
        }
        self.error = error;
    }

    fn seed(
        &mut self,
        tracker: &impl Tracker,
        maps: &mut impl Maps,
        observed: &State,
        older: &mut Older,
    ) -> Result<(), Error> {
        let now = maps.now()?;
        let owners = Owners::new(observed);
        let Older { interfaces, known } = older;
        let mut flows = Vec::new();
        tracker.each(&mut |connection| {
            let of = owners.flows(&connection, now, |ifindex| interfaces.contains(&ifindex));
            flows.extend(of.into_iter().filter(|(key, _)| !known.contains(key)));
        })?;
        self.counts.seeded += maps.seed(&flows)? as u64;
        known.extend(flows.into_iter().map(|(key, _)| key));
        Ok(())
    }

    /// Answers what was wondered about.
    fn follow(
        &mut self,
        tracker: &impl Tracker,
        maps: &mut impl Maps,
        observed: &State,
        now: Instant,
    ) -> Result<(), Error> {
        let queue = std::mem::take(&mut self.queue);
        self.counts.asked += queue.len() as u64;
        let (middle, behind): (Vec<_>, Vec<_>) = queue.into_iter().partition(is_in_the_middle);
        if middle.len() > MANY {
            self.wanted.extend(middle.iter().map(|event| event.ifindex));
        } else {
            self.find(tracker, maps, observed, &middle)?;
        }
        for event in behind {
            if !self.revoke(tracker, maps, observed, &event)? {
                self.hidden.push(event);
            }
        }
        let rested = self
            .dumped
            .is_none_or(|last| now.saturating_duration_since(last) >= DUMP_PAUSE);
        if rested && (!self.wanted.is_empty() || !self.hidden.is_empty()) {
            self.dumped = Some(now);
            self.dump(tracker, maps, observed)?;
        }
        // What waits for the next dump comes again with its next packet.
        self.hidden.truncate(MANY);
        Ok(())
    }

    /// Makes single connections known.
    fn find(
        &mut self,
        tracker: &impl Tracker,
        maps: &mut impl Maps,
        observed: &State,
        events: &[Event],
    ) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        let now = maps.now()?;
        let owners = Owners::new(observed);
        let mut flows = Vec::new();
        for event in events {
            // Equal events are told once a tick, so others wait behind one.
            if event.suppressed > 0 {
                self.wanted.insert(event.ifindex);
            }
            // What the pod sends is sent as it is in either tuple; what it gets, the other way round.
            let tuple = match Direction::from_u8(event.direction) {
                Some(Direction::Egress) => tuple(event),
                Some(Direction::Ingress) | None => tuple(event).reversed(),
            };
            if let Some(connection) = tracker.find(&tuple)? {
                let ifindex = event.ifindex;
                flows.extend(owners.flows(&connection, now, |of| of == ifindex));
            }
        }
        debug!(
            asked = events.len(),
            found = flows.len(),
            "connections in the middle"
        );
        self.counts.seeded += maps.seed(&flows)? as u64;
        Ok(())
    }

    /// Stops the answers of a Service whose pod is denied. False if the kernel must be asked for all it has to tell.
    fn revoke(
        &mut self,
        tracker: &impl Tracker,
        maps: &mut impl Maps,
        observed: &State,
        event: &Event,
    ) -> Result<bool, Error> {
        let packet = tuple(event);
        // One entry for both stages: nothing was translated.
        let one = maps.flow(&packet.key(event.ifindex))?;
        if one.is_some_and(|entry| entry.state & (state::DEFERRED | state::DIRECT) != 0) {
            return Ok(true);
        }
        match tracker.find(&packet.reversed())? {
            Some(connection) => self.stop(maps, &connection, event).map(|()| true),
            // Only what leaves the pods' network has its source replaced too, and then another reply tuple.
            None => Ok(Owners::new(observed).is_pods(event.destination)),
        }
    }

    fn stop(&mut self, maps: &mut impl Maps, connection: &Connection, event: &Event) -> Result<(), Error> {
        let packet = tuple(event);
        let original = &connection.original;
        if (original.source, original.source_port) != (packet.source, packet.source_port)
            || (original.destination, original.destination_port)
                == (packet.destination, packet.destination_port)
        {
            return Ok(());
        }
        let key = original.key(event.ifindex);
        let first = maps.flow(&key)?;
        let waits = |entry: &FlowEntry| entry.state & (state::DEFERRED | state::REVOKED) == state::DEFERRED;
        if first.as_ref().is_some_and(waits) && maps.revoke(&key, event.generation)? {
            self.counts.revoked += 1;
            let (pod, service) = (original.source, original.destination);
            debug!(%pod, %service, "a connection to a Service is revoked");
        }
        Ok(())
    }

    /// One look at everything for all that waits.
    fn dump(&mut self, tracker: &impl Tracker, maps: &mut impl Maps, observed: &State) -> Result<(), Error> {
        let now = maps.now()?;
        let owners = Owners::new(observed);
        let wanted = std::mem::take(&mut self.wanted);
        let hidden: BTreeMap<Tuple, Event> = std::mem::take(&mut self.hidden)
            .into_iter()
            .map(|event| (tuple(&event), event))
            .collect();
        let (mut flows, mut found) = (Vec::new(), Vec::new());
        tracker.each(&mut |connection| {
            let Connection { original, reply, .. } = connection;
            let packet = Tuple {
                destination: reply.source,
                destination_port: reply.source_port,
                ..original
            };
            if let Some(event) = hidden.get(&packet) {
                found.push((connection, *event));
            }
            flows.extend(owners.flows(&connection, now, |ifindex| wanted.contains(&ifindex)));
        })?;
        self.counts.seeded += maps.seed(&flows)? as u64;
        for (connection, event) in found {
            self.stop(maps, &connection, &event)?;
        }
        Ok(())
    }
}

/// Whose addresses are whose, as the programs see it.
struct Owners<'a> {
    pods: BTreeMap<IpAddr, u32>,
    addresses: &'a BTreeMap<Addr, AddressEntry>,
    /// The shortest prefixes of them; longer ones repeat the flag.
    networks: Vec<Prefix>,
}

impl<'a> Owners<'a> {
    fn new(observed: &'a State) -> Self {
        let addresses = |record: &EndpointRecord| {
            let ifindex = record.ifindex;
            let known = record
                .addresses
                .into_iter()
                .filter(|address| *address != Addr::NONE);
            known.map(move |address| (address.into(), ifindex))
        };
        let mut networks: Vec<Prefix> = Vec::new();
        let mut flagged: Vec<Prefix> = observed
            .prefixes
            .iter()
            .filter(|(_, entry)| entry.flags & PrefixEntry::POD_NETWORK != 0)
            .map(|(prefix, _)| *prefix)
            .collect();
        flagged.sort_by_key(|prefix| prefix.length);
        for prefix in flagged {
            if !networks.iter().any(|network| network.contains(prefix.addr)) {
                networks.push(prefix);
            }
        }
        Self {
            pods: observed.endpoints.values().flat_map(addresses).collect(),
            addresses: &observed.addresses,
            networks,
        }
    }

    /// Whether an address is one of the pods', which nothing translates.
    fn is_pods(&self, address: Addr) -> bool {
        match self.addresses.get(&address) {
            Some(entry) => entry.flags & AddressEntry::POD != 0,
            None => self.networks.iter().any(|prefix| prefix.contains(address)),
        }
    }

    /// The entries of a connection for some interfaces.
    fn flows(
        &self,
        connection: &Connection,
        now: u32,
        wanted: impl Fn(u32) -> bool,
    ) -> Vec<(FlowKey, FlowEntry)> {
        let owner = |address: IpAddr| {
            let found = self.pods.get(&address).copied();
            found.filter(|ifindex| wanted(*ifindex))
        };
        connection.flows(now, owner, |address| self.is_pods(address.into()))
    }
}

#[cfg(test)]
mod tests;
