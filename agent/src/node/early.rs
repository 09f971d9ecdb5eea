//! Addresses of this node's new pods, told to the other nodes before kubelet does.
//!
//! ```text
//! ADD ─► interface, addresses ─► claims of this node ─┬─► our own world, at once
//!        pods' status: has it the address? ──► then not └─► thread "cluster" ─► written ─► ADD is answered
//! ```
//! An ADD waits for the write, so that whoever the pod talks to first may know it; never for other nodes, not for long, and
//! not at all while writing fails.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{info, warn};
use vethwall_policy::world::{Change, Claim};

use super::thread::Node;
use crate::api::status::Problem;

/// For how long an ADD waits for the API server.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is told, and what of it is written.
#[derive(Debug, Default)]
pub(super) struct Early {
    /// Where it is told; `None`: nowhere.
    out: Option<watch::Sender<BTreeSet<Claim>>>,
    written: BTreeSet<Claim>,
    error: Option<String>,
    /// Why nobody hears what other nodes tell.
    deaf: Option<String>,
}

impl Early {
    pub(super) fn new(out: Option<watch::Sender<BTreeSet<Claim>>>) -> Self {
        Self {
            out,
            ..Self::default()
        }
    }
}

impl Node {
    /// Tells what the API server does not know yet of this node's pods.
    pub(super) fn tell_early(&mut self) {
        if self.early.out.is_none() || !self.control.synced() {
            return;
        }
        let claims = self.claims();
        let node = self.places.node.clone();
        self.control.follow(Change::Early {
            node,
            claims: claims.clone(),
        });
        if let Some(out) = &self.early.out {
            out.send_if_modified(|told| {
                let new = *told != claims;
                *told = claims;
                new
            });
        }
    }

    fn claims(&self) -> BTreeSet<Claim> {
        let world = self.control.world();
        let new = world.endpoints().filter(|endpoint| {
            let pod = world.pod_of(endpoint);
            !endpoint.uid.is_empty() && pod.is_none_or(|pod| world.written_addresses(pod).is_empty())
        });
        let claim = |endpoint: &vethwall_policy::model::Endpoint| {
            let (namespace, pod, uid) = (
                endpoint.namespace.clone(),
                endpoint.pod.clone(),
                endpoint.uid.clone(),
            );
            let each = endpoint.addresses.clone().into_iter();
            each.map(move |address| Claim {
                address,
                namespace: namespace.clone(),
                pod: pod.clone(),
                uid: uid.clone(),
            })
        };
        new.flat_map(claim).collect()
    }

    /// What became of it.
    pub(super) fn published(&mut self, outcome: Result<BTreeSet<Claim>, String>) {
        match outcome {
            Ok(written) => {
                if self.early.error.take().is_some() {
                    info!("addresses of new pods are told to other nodes again");
                }
                self.early.written = written;
            }
            Err(error) => {
                if self.early.error.as_ref() != Some(&error) {
                    warn!("addresses of new pods are not told to other nodes: {error}");
                }
                self.early.error = Some(error);
            }
        }
    }

    /// Whether other nodes are heard.
    pub(super) fn heard(&mut self, outcome: Result<(), String>) {
        let deaf = outcome.err();
        match (&self.early.deaf, &deaf) {
            (None, Some(error)) => warn!("addresses of other nodes' new pods are not heard: {error}"),
            (Some(_), None) => info!("addresses of other nodes' new pods are heard again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.early.deaf = deaf;
    }

    /// Whether an ADD that came at `since` need not wait for other nodes to hear of its pod.
    pub(super) fn is_told(&self, ifindex: u32, since: Instant, now: Instant) -> bool {
        if self.early.out.is_none()
            || self.early.error.is_some()
            || now.saturating_duration_since(since) >= PATIENCE
        {
            return true;
        }
        let own = |claim: &Claim| {
            let known = self.interfaces.get(&ifindex);
            known.is_some_and(|known| known.interface.uid == claim.uid)
        };
        self.claims()
            .iter()
            .filter(|claim| own(claim))
            .all(|claim| self.early.written.contains(claim))
    }

    /// Told while it is so.
    pub(super) fn early_problem(&self) -> Option<Problem> {
        let text = match (&self.early.error, &self.early.deaf) {
            (Some(error), _) => format!(
                "addresses of this node's new pods are not told to other nodes: {error}; until the API server has a pod's status, up to a second, other nodes deny what it sends where they isolate"
            ),
            (None, Some(error)) => format!(
                "addresses of other nodes' new pods are not heard: {error}; until the API server has a pod's status, up to a second, what it sends here is denied where policy isolates"
            ),
            (None, None) => return None,
        };
        Some(Problem::new(
            "API005",
            text,
            Some("the agents need to list, watch, create and update configmaps in their own namespace"),
        ))
    }
}
