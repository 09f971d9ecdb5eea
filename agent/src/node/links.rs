//! The watch of interfaces: who gets there past the plugin is closed within milliseconds, who goes is forgotten at once.
//!
//! ```text
//! kernel ─► thread "links" ─► Input::Links ─► a pod's goes: record, flows and pins with it
//!                                        └──► a stranger on the bridge: closed ─► looked for ─► enforced
//! ```
//!
//! It is a safety net that rests on the kernel alone. Our plugin attaches to the same interfaces and asks by itself; whoever
//! comes first, attaching is the same. What is told may be over by now, and the number another's: nothing is believed
//! about a number whose name is another.

use std::{
    sync::mpsc::Sender,
    thread,
    time::{Duration, Instant},
};

use tracing::{info, warn};
use vethwall_datapath::{
    LinkChange, LinkWatch, attach,
    surroundings::{self, Interface},
    veth,
};

use super::{Input, existing, strangers::WIRING, thread::Node};
use crate::api::status::FoundBy;

/// Between two tries to subscribe.
const AGAIN: Duration = Duration::from_secs(1);

/// Subscribes, and tells the node's thread. It must take what is told before it looks for the first time or after.
///
/// # Errors
/// The kernel refused.
pub fn spawn(inputs: Sender<Input>) -> anyhow::Result<()> {
    let mut watch = LinkWatch::open().map_err(|error| anyhow::anyhow!(error.chain()))?;
    thread::Builder::new().name("links".to_owned()).spawn(move || {
        loop {
            let changes = watch.wait().map_err(|error| error.chain());
            let broken = changes.is_err();
            let nothing = matches!(&changes, Ok(changes) if changes.is_empty());
            if !nothing && inputs.send(Input::Links(changes)).is_err() {
                return;
            }
            if broken {
                thread::sleep(AGAIN);
                let Ok(again) = LinkWatch::open() else { continue };
                watch = again;
                // Whatever happened in between.
                drop(inputs.send(Input::Links(Ok(vec![LinkChange::Lost]))));
            }
        }
    })?;
    Ok(())
}

impl Node {
    /// Follows what became of interfaces. True if the world changed.
    pub(super) fn follow(&mut self, changes: Result<Vec<LinkChange>, String>) -> bool {
        if self.watched.chain.is_leaving() {
            return false;
        }
        let mut changed = false;
        self.note("changes of interfaces", changes, |node, changes| {
            for change in changes {
                changed |= match change {
                    LinkChange::Is(link) => node.appeared(&link),
                    LinkChange::Gone { ifindex, name } => node.gone(ifindex, &name),
                    LinkChange::Lost => {
                        warn!("changes of interfaces were too many to be told; everything is looked at");
                        node.changes_lost += 1;
                        node.look();
                        true
                    }
                };
            }
        });
        changed
    }

    /// An interface came or changed.
    fn appeared(&mut self, link: &Interface) -> bool {
        if link.name == self.places.bridge {
            self.strangers.set_bridge(Some(link.ifindex));
            if self.bridge.is_none_or(|(known, _)| known != link.ifindex) {
                self.look_at_bridge();
            }
        }
        let known = self.interfaces.get(&link.ifindex);
        if known.is_some_and(|known| known.interface.host_ifname == link.name) {
            return false;
        }
        // A number that another interface has now: the pod's went, and that has not been told yet.
        let replaced = known.is_some();
        if replaced {
            self.forget(link.ifindex);
        }
        // A record that an interface of this number left must not open it, whoever attaches the programs.
        let opens = self.ready && self.control.close(link.ifindex).is_err();
        let patience = self.patience();
        if self.strangers.see(link, self.ready, patience, Instant::now()) || opens {
            self.shut(link);
        }
        replaced
    }

    /// For how long a stranger may be a pod that the plugin is about to announce.
    fn patience(&self) -> Duration {
        if self.watched.chain.told().is_certain() {
            WIRING
        } else {
            Duration::ZERO
        }
    }

    /// Looks at everybody who may be a stranger, and closes those that must be.
    pub(super) fn look_at_strangers(&mut self, all: &[Interface]) {
        let judged = |port: &Interface| surroundings::is_judged(&self.pins, port.ifindex).unwrap_or(false);
        let is_pod = |ifindex| self.interfaces.contains_key(&ifindex);
        let (bridge, patience) = (&self.places.bridge, self.patience());
        let open = self
            .strangers
            .see_all(all, bridge, is_pod, judged, self.ready, patience);
        for link in open {
            self.shut(link);
        }
    }

    /// Closes a stranger, whatever a record says that an earlier interface of this number left.
    pub(super) fn shut(&mut self, link: &Interface) {
        // Otherwise not by clsact where there is tcx, though that is quicker: the chain may not be through, and the bandwidth
        // plugin could not add its `ingress` queueing discipline beside one.
        let attach = if self.watched.chain.told().leaves_room_for_clsact() {
            attach::close_endpoint
        } else {
            attach::attach_endpoint
        };
        let closed = self
            .control
            .close(link.ifindex)
            .and_then(|()| attach(&self.pins, link.ifindex, &link.name, self.places.hook));
        match closed {
            Ok(_) => {
                info!(interface = %link.name, "an interface that nobody announced is on the bridge; it is closed until its pod is known");
                self.strangers.closed(link.ifindex, Ok(()));
            }
            Err(_) if veth::ifindex(&link.name).is_ok_and(|now| now != Some(link.ifindex)) => {
                self.strangers.remove(link.ifindex);
            }
            Err(error) => {
                let error = error.chain();
                warn!(interface = %link.name, "an interface that nobody announced can not be closed: {error}");
                self.strangers.closed(link.ifindex, Err(error));
            }
        }
    }

    /// An interface went.
    fn gone(&mut self, ifindex: u32, name: &str) -> bool {
        self.strangers.remove(ifindex);
        // The plugin may already have told of the next one with this number.
        let known = self.interfaces.get(&ifindex);
        if known.is_none_or(|known| known.interface.host_ifname != name) {
            return false;
        }
        info!(interface = %name, "the pod's interface is gone");
        self.forget(ifindex);
        self.collect_pins();
        true
    }

    /// Removes the pins of interfaces that are gone.
    pub(super) fn collect_pins(&self) {
        if self.control.in_sync().is_some()
            && let Err(error) = attach::collect_garbage(&self.pins)
        {
            warn!(
                "can not remove the pins of interfaces that are gone: {}",
                error.chain()
            );
        }
    }

    /// Forgets the connections of pods that went while no agent looked.
    pub(super) fn sweep(&mut self, all: &[Interface]) {
        let Some(in_sync) = self.control.in_sync().filter(|_| !self.swept) else {
            return;
        };
        let living = all.iter().map(|link| link.ifindex).collect();
        match self.control.sweep_all_but(&living, in_sync) {
            Ok(0) => self.swept = true,
            Ok(connections) => {
                self.swept = true;
                info!(connections, "connections of pods that are gone are forgotten");
            }
            Err(error) => warn!(
                "can not forget the connections of pods that are gone: {}",
                error.chain()
            ),
        }
    }

    /// Looks for the owners of strangers, between two ticks.
    pub(super) fn look_for_owners(&mut self) {
        self.looked_for_owners = Instant::now();
        let all = surroundings::interfaces().map_err(|error| error.chain());
        self.note("node's interfaces", all, |node, all| {
            node.look_for_pods(&all);
            node.look_at_strangers(&all);
            node.ask_runtime();
        });
    }

    /// Pods that came without our plugin, and pods that went without a DEL.
    pub(super) fn look_for_pods(&mut self, all: &[Interface]) {
        self.looked_for_owners = Instant::now();
        let there = |ifindex: u32, name: &str| {
            all.iter()
                .any(|link| link.ifindex == ifindex && link.name == name)
        };
        let gone = self
            .interfaces
            .iter()
            .filter(|(ifindex, known)| !there(**ifindex, &known.interface.host_ifname));
        for ifindex in gone.map(|(ifindex, _)| *ifindex).collect::<Vec<_>>() {
            info!(ifindex, "the pod's interface is gone");
            self.forget(ifindex);
        }
        let veth = |name: &str| {
            let mut veths = all.iter().filter(|link| link.is_veth());
            veths.find(|link| link.name == name).map(|link| link.ifindex)
        };
        let found = existing::scan(&self.places.cni_cache, veth).map_err(|e| e.to_string());
        self.note("CNI result cache", found, Self::take_cached);
        if !self.control.synced() {
            // From then on every record is one of ours.
            let judged = |link: &&Interface| {
                link.is_veth() && surroundings::is_judged(&self.pins, link.ifindex).unwrap_or(false)
            };
            let veths = all
                .iter()
                .filter(judged)
                .map(|link| (link.ifindex, link.name.clone()))
                .collect();
            let records = &self.control.observed().endpoints;
            let found = existing::recorded(records, &veths, self.control.world());
            self.take_found(FoundBy::Record, found);
        }
    }

    fn take_cached(&mut self, found: existing::Found) {
        self.leaving
            .retain(|gone| found.interfaces.iter().any(|i| i.attachment() == *gone));
        let mut interfaces = found.interfaces;
        interfaces.retain(|interface| !self.leaving.contains(&interface.attachment()));
        self.take_found(FoundBy::Cache, interfaces);
        let unusable = found
            .unusable
            .iter()
            .map(|(path, why)| format!("{}: {why}", path.display()));
        match unusable.collect::<Vec<_>>() {
            none if none.is_empty() => _ = self.unreadable.remove(existing::RESULTS),
            all => _ = self.unreadable.insert(existing::RESULTS, all.join("; ")),
        }
    }

    /// Pods that one source knows. What is known already stays as it is; only what a record alone told is known better by
    /// any other source.
    pub(super) fn take_found(&mut self, by: FoundBy, interfaces: Vec<super::Interface>) {
        for interface in interfaces {
            let known = self.interfaces.get(&interface.ifindex);
            if known.is_none_or(|known| known.found_by == FoundBy::Record && by != FoundBy::Record) {
                self.learn(interface, by);
            }
        }
    }
}
