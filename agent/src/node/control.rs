//! The world, and the kernel's maps made to follow it.
//!
//! ```text
//! objects, interfaces ─► World ─ compile ─► desired ─┐
//!                                  observed (maps) ──┴─ plan ─ execute ─► observed
//! ```
//!
//! Invariants:
//! - Nothing is written or swept before the objects were complete once ([`InSync`]). One thing may go before: the record of
//!   an interface that is gone, which lets nobody through but a successor with its number.
//! - What failed stays in the difference between desired and observed, so the next [`Control::sync`] does it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use vethwall_common::entry::Key;
use vethwall_datapath::{Error, Maps};
use vethwall_policy::{
    compile::{Compiled, Compiler},
    model::Endpoint,
    plan::{Operation, execute, plan},
    state::State,
    world::{Change, World},
};

use super::{Content, Objects};
use crate::api::{Mode, PolicyName};

/// Proof that the objects were complete once: what the maps hold and the world does not know may go. Only [`Control`] makes
/// one.
#[derive(Clone, Copy, Debug)]
pub struct InSync(());

/// Owns the world and the maps.
#[derive(Debug)]
pub struct Control<M> {
    maps: M,
    grace: fn(),
    world: World,
    compiler: Compiler,
    observed: State,
    compiled: Compiled,
    objects: Objects,
    /// Interfaces that are gone and whose connections still have to be forgotten.
    unswept: BTreeSet<u32>,
    in_sync: Option<InSync>,
    synced: bool,
    /// The world changed since it was compiled.
    dirty: bool,
    /// The node's addresses and the cluster's pod networks.
    network: (Vec<IpAddr>, Vec<IpNet>),
    revision: u64,
    applied_digest: String,
    failures: Vec<String>,
}

impl<M: Maps> Control<M> {
    /// Takes over what the maps hold. `grace` waits until every running program has ended.
    pub fn new(node: &str, maps: M, grace: fn()) -> Result<Self, Error> {
        let observed: State = maps.entries()?.into_iter().collect();
        Ok(Self {
            grace,
            world: World::new(node),
            compiler: Compiler::above(&observed),
            observed,
            compiled: Compiled::default(),
            objects: Objects::default(),
            unswept: BTreeSet::new(),
            in_sync: None,
            synced: false,
            dirty: true,
            network: Default::default(),
            revision: 0,
            applied_digest: String::new(),
            failures: Vec::new(),
            maps,
        })
    }

    /// The objects are these now.
    pub fn set_objects(&mut self, mut objects: Objects) {
        let changed = match std::mem::take(&mut objects.content) {
            Content::All(all) => {
                self.world.replace(all);
                true
            }
            Content::Changes(changes) => {
                let followed = changes.into_iter().map(|change| self.world.follow(change));
                followed.fold(false, |any, new| any | new)
            }
        };
        if !changed && self.settled() {
            // The maps say it already.
            self.applied_digest.clone_from(&objects.digest);
        }
        self.dirty |= changed;
        self.objects = objects;
    }

    /// Policies that have no mode of their own have this one now. Returns whether that is new.
    pub fn set_mode(&mut self, mode: Mode) -> bool {
        let mode = mode.into();
        let new = self.world.mode_of(None) != mode;
        self.world.set_mode(mode);
        self.dirty |= new;
        new
    }

    /// One thing of the world changed. False where that says nothing new.
    pub fn follow(&mut self, change: Change) -> bool {
        let new = self.world.follow(change);
        self.dirty |= new;
        new
    }

    /// A pod's interface came.
    pub fn attach(&mut self, endpoint: Endpoint) {
        self.world.attach(endpoint);
        self.dirty = true;
    }

    /// A pod's interface went. Its record goes at once, so that it opens no other interface that gets the number.
    pub fn detach(&mut self, ifindex: u32) {
        self.world.detach(ifindex);
        self.dirty = true;
        self.unswept.insert(ifindex);
        // Where that fails, the next sync does it again.
        let _again = self.close(ifindex);
    }

    /// Takes away the record that the maps have of an interface: with our programs it is closed until it has one again.
    ///
    /// # Errors
    /// The record is still there.
    pub fn close(&mut self, ifindex: u32) -> Result<(), Error> {
        let key = Key::Endpoint(ifindex);
        if self.observed.endpoints.contains_key(&ifindex) {
            self.maps.delete(&key)?;
            self.observed.delete(&key);
            self.dirty = true;
        }
        Ok(())
    }

    /// The addresses of this node and the cluster's pod networks are these now.
    pub fn set_network(&mut self, addresses: Vec<IpAddr>, pods: Vec<IpNet>) {
        let network = (addresses, pods);
        if self.network != network {
            self.world.set_node_addresses(network.0.clone());
            self.world.set_pod_network(network.1.clone());
            self.network = network;
            self.dirty = true;
        }
    }

    /// Every connection is to be judged again at its next packet.
    pub fn judge_again(&mut self) {
        self.observed.rejudge.extend(self.observed.endpoints.keys());
        self.dirty = true;
    }

    /// Makes the maps follow the world. True when they do.
    pub fn sync(&mut self) -> bool {
        if self.settled() {
            return true;
        }
        let complete = !self.objects.digest.is_empty() && self.objects.incomplete.is_none();
        if !complete && !self.synced {
            return false;
        }
        let in_sync = *self.in_sync.get_or_insert(InSync(()));
        self.apply(in_sync)
    }

    fn apply(&mut self, _: InSync) -> bool {
        self.dirty = false;
        self.failures.clear();
        // Before a number may belong to somebody else.
        self.forget_connections();
        self.compiled = self.compiler.compile(&self.world);
        let steps = plan(&self.observed, &self.compiled.state);
        let changed = !steps.is_empty();
        let (maps, grace) = (&mut self.maps, self.grace);
        let outcome = execute(&self.observed, steps, |operation| match operation {
            Operation::Put(entry) => maps.put(entry),
            Operation::Delete(key) => maps.delete(key),
            Operation::Grace => {
                grace();
                Ok(())
            }
        });
        let complete = outcome.complete();
        // The same cause fails many steps: one line each tells enough.
        let failed = outcome.failures.iter();
        self.failures
            .extend(failed.map(|(step, error)| format!("{}: {}", step.why, error.chain())));
        self.failures.dedup();
        self.observed = outcome.observed;
        self.compiler.release(&self.observed);
        self.forget_connections();
        if complete {
            if changed || !self.synced || self.applied_digest != self.objects.digest {
                self.revision += 1;
            }
            self.synced = true;
            self.applied_digest.clone_from(&self.objects.digest);
        }
        complete
    }

    /// After the records are gone, so that no packet of the interfaces makes a new one.
    fn forget_connections(&mut self) {
        let records = &self.observed.endpoints;
        let gone: BTreeSet<u32> = self
            .unswept
            .iter()
            .copied()
            .filter(|ifindex| !records.contains_key(ifindex))
            .collect();
        if gone.is_empty() {
            return;
        }
        match self.maps.sweep(&|ifindex| gone.contains(&ifindex)) {
            Ok(_) => self.unswept.retain(|ifindex| !gone.contains(ifindex)),
            Err(error) => self.failures.push(error.chain()),
        }
    }

    /// Forgets the connections of all interfaces but these: of pods that went while no agent looked. Returns how many.
    ///
    /// # Errors
    /// The kernel refused; some may be forgotten.
    pub fn sweep_all_but(&mut self, living: &BTreeSet<u32>, _: InSync) -> Result<usize, Error> {
        self.maps.sweep(&|ifindex| !living.contains(&ifindex))
    }

    /// Whether something may be swept: there was a complete set of objects.
    pub fn in_sync(&self) -> Option<InSync> {
        self.in_sync
    }

    /// Whether the interface's record, with the policy of now, is in the maps.
    pub fn enforcing(&self, ifindex: u32) -> bool {
        let Some(record) = self.observed.endpoints.get(&ifindex) else {
            return false;
        };
        let Some(wanted) = self.compiled.state.endpoints.get(&ifindex) else {
            return false;
        };
        record.ingress.slot() == wanted.ingress.slot()
            && record.egress.slot() == wanted.egress.slot()
            && record.ingress.slot() != 0
            && record.egress.slot() != 0
            && record.addresses == wanted.addresses
    }

    /// The maps follow the world as it is: there is nothing to do.
    pub fn settled(&self) -> bool {
        self.synced && !self.dirty && self.failures.is_empty()
    }

    /// The maps followed the world once.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// What the last [`Control::sync`] could not do.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// The world.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// What was compiled last.
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// What the maps hold.
    pub fn observed(&self) -> &State {
        &self.observed
    }

    /// The objects' origin; the objects themselves are in the world.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// What is wrong with policies, by name.
    pub fn policy_problems(&self) -> &BTreeMap<PolicyName, Vec<String>> {
        &self.objects.policy_problems
    }

    /// Digest of the objects that the maps follow.
    pub fn applied_digest(&self) -> &str {
        &self.applied_digest
    }

    /// Counts the changes that the maps followed.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The maps, for what is not policy, and what they hold of policy.
    pub fn parts(&mut self) -> (&mut M, &State) {
        (&mut self.maps, &self.observed)
    }

    /// The maps, for what is not policy.
    pub fn maps(&self) -> &M {
        &self.maps
    }

    /// The maps, for what is not policy.
    pub fn maps_mut(&mut self) -> &mut M {
        &mut self.maps
    }
}

#[cfg(test)]
mod tests;
