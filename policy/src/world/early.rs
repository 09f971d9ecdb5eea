//! Addresses that a pod's node tells before the pod's status does.
//!
//! ```text
//! node n, told to all: 10.42.1.7 is pod P's ──┬─ P is bound to n, and has no address yet ──► P has it
//!                                             └─ Q of n has it in its status ──────────────► Q has it no more
//! ```
//! A pod may send as soon as it runs; kubelet posts its address up to a second later. Until then other nodes would take
//! it for an unknown pod, or, where the address is used again, for the pod that had it last.
//!
//! Invariants:
//! - A claim counts only for a pod that the API server bound to the node that makes it, by UID, and only for an address in
//!   that node's `podCIDRs`: a node can speak for nobody but its own pods.
//! - What a pod's status says of the pod itself stands above a claim for it.
//! - What holds is a function of objects and claims as they are now, in whatever order they came.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::World;
use crate::model::{Kind, ObjectKey, Pod};

/// Whose an address is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's UID, as the runtime knows it. Without one a claim counts for nobody.
    pub uid: String,
}

/// All claims, and what they changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Early {
    /// By node.
    claims: BTreeMap<String, BTreeSet<Claim>>,
    /// What the status of a pod says whose addresses are other ones because of a claim.
    written: BTreeMap<ObjectKey, Vec<IpAddr>>,
}

fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey {
        kind: Kind::Pod,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

impl World {
    /// These are all the claims that a node makes. False where that says nothing new.
    pub fn claim_early(&mut self, node: &str, claims: BTreeSet<Claim>) -> bool {
        let before = match claims.is_empty() {
            true => self.early.claims.remove(node),
            false => self.early.claims.insert(node.to_owned(), claims.clone()),
        };
        let before = before.unwrap_or_default();
        if before == claims {
            return false;
        }
        let concerned: BTreeSet<Claim> = before.union(&claims).cloned().collect();
        self.settle_claims(node, &concerned);
        true
    }

    /// The addresses in a pod's status, whatever was claimed.
    pub fn written_addresses<'w>(&'w self, pod: &'w Pod) -> &'w [IpAddr] {
        let written = self.early.written.get(&key(&pod.namespace, &pod.name));
        written.unwrap_or(&pod.addresses)
    }

    /// A pod's object changed, or went: nothing is remembered of its status.
    pub(super) fn forget_written(&mut self, namespace: &str, name: &str) {
        if !self.early.written.is_empty() {
            self.early.written.remove(&key(namespace, name));
        }
    }

    /// After a pod of this node, or the node, changed.
    pub(super) fn settle_claims_of(&mut self, node: Option<&str>) {
        if let Some(node) = node
            && let Some(claims) = self.early.claims.get(node).cloned()
        {
            self.settle_claims(node, &claims);
        }
    }

    /// Gives the pods of a node that these claims may concern the addresses that are theirs.
    fn settle_claims(&mut self, node: &str, concerned: &BTreeSet<Claim>) {
        let valid: BTreeMap<IpAddr, ObjectKey> = self
            .early
            .claims
            .get(node)
            .into_iter()
            .flatten()
            .filter(|claim| self.counts(node, claim))
            .map(|claim| (claim.address.to_canonical(), key(&claim.namespace, &claim.pod)))
            .collect();
        let mut pods: BTreeSet<ObjectKey> = self.early.written.keys().cloned().collect();
        for claim in concerned {
            pods.insert(key(&claim.namespace, &claim.pod));
            let now = self.pods_with(claim.address);
            pods.extend(now.iter().map(|pod| key(&pod.namespace, &pod.name)));
        }
        for key in pods {
            let Some(pod) = self
                .spaces
                .get(&key.namespace)
                .and_then(|space| space.pods.get(&key.name))
            else {
                continue;
            };
            if pod.node.as_deref() != Some(node) {
                continue;
            }
            let written = self.early.written.get(&key).unwrap_or(&pod.addresses).clone();
            let own = |address: &IpAddr| {
                valid
                    .get(&address.to_canonical())
                    .is_none_or(|owner| *owner == key)
            };
            let mut addresses: Vec<IpAddr> = written.iter().copied().filter(own).collect();
            if written.is_empty() {
                addresses.extend(
                    valid
                        .iter()
                        .filter(|(_, owner)| **owner == key)
                        .map(|(address, _)| *address),
                );
            }
            if addresses != pod.addresses {
                let mut changed = Pod::clone(pod);
                changed.addresses.clone_from(&addresses);
                self.put_pod(Arc::new(changed));
            }
            if addresses == written {
                self.early.written.remove(&key);
            } else {
                self.early.written.insert(key, written);
            }
        }
    }

    /// Whether a node may say so.
    fn counts(&self, node: &str, claim: &Claim) -> bool {
        let pod = self.pod(&claim.namespace, &claim.pod);
        let bound = pod.is_some_and(|pod| {
            let uids = [Some(&pod.uid), pod.config_hash.as_ref()];
            let same = uids.into_iter().flatten().any(|uid| *uid == claim.uid);
            same && !claim.uid.is_empty() && pod.is_peer() && pod.node.as_deref() == Some(node)
        });
        let networks = self.nodes.get(node).map_or(&[][..], |node| &node.pod_cidrs);
        bound
            && networks
                .iter()
                .any(|network| network.contains(&claim.address.to_canonical()))
    }
}
