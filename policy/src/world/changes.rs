//! A world that follows a cluster: what came, went, or was listed anew.
//!
//! Most of what an API server tells of a pod says nothing to policy: its conditions, its annotations. So each change is
//! compared with what is there, and one that says nothing new leaves every stamp as it was.

use std::collections::BTreeSet;

use super::{Claim, Space, World};
use crate::model::{Kind, Object, ObjectKey, Pod};

/// One change of the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object is there, as it is now.
    Apply(Object),
    /// It is gone.
    Delete(ObjectKey),
    /// These are all the addresses that a node tells before its pods' status does.
    Early {
        /// The node.
        node: String,
        /// Its claims.
        claims: BTreeSet<Claim>,
    },
    /// These are all there are of a kind.
    All {
        /// The kind.
        kind: Kind,
        /// The objects, as they are now.
        objects: Vec<Object>,
        /// Others that are there, and could not be read: they stay as they were known.
        unread: BTreeSet<ObjectKey>,
    },
}

impl World {
    /// Follows a change. False where it says nothing new.
    pub fn follow(&mut self, change: Change) -> bool {
        match change {
            Change::Apply(object) => {
                let new = !self.has(&object);
                if new {
                    self.apply(object);
                }
                new
            }
            Change::Delete(key) => {
                let there = self.contains(&key);
                if there {
                    self.delete(&key);
                }
                there
            }
            Change::Early { node, claims } => self.claim_early(&node, claims),
            Change::All {
                kind,
                objects,
                unread,
            } => {
                debug_assert!(objects.iter().all(|object| object.key().kind == kind));
                let listed: BTreeSet<ObjectKey> = objects.iter().map(Object::key).collect();
                let mut gone = self.keys(kind);
                gone.retain(|key| !listed.contains(key) && !unread.contains(key));
                let mut new = !gone.is_empty();
                gone.iter().for_each(|key| self.delete(key));
                for object in objects {
                    new |= self.follow(Change::Apply(object));
                }
                new
            }
        }
    }

    /// Whether this very object is there.
    fn has(&self, object: &Object) -> bool {
        match object {
            Object::Namespace(new) => {
                let mut named = Space::default();
                named.set_object(&new.name, Some(new.clone()));
                let known = self.spaces.get(&new.name);
                known.is_some_and(|space| space.object == named.object)
            }
            Object::Pod(new) => self.pod(&new.namespace, &new.name).is_some_and(|known| {
                let written = self.written_addresses(known);
                if written == known.addresses {
                    return known == new;
                }
                let addresses = written.to_vec();
                Pod {
                    addresses,
                    ..known.clone()
                } == *new
            }),
            Object::Node(new) => self.nodes.get(&new.name) == Some(new),
            Object::NetworkPolicy(new) => {
                let policies = self.spaces.get(&new.namespace).map(|space| &space.policies);
                let known = policies.and_then(|policies| policies.get(&new.name));
                known.is_some_and(|known| **known == *new)
            }
            Object::ClusterNetworkPolicy(new) => self.cluster_policies.get(&new.name) == Some(new),
        }
    }

    /// Whether there is an object of this name.
    fn contains(&self, key: &ObjectKey) -> bool {
        let space = |name| self.spaces.get(name);
        match key.kind {
            Kind::Namespace => space(&key.name).is_some_and(|space| space.object.is_some()),
            Kind::Pod => self.pod(&key.namespace, &key.name).is_some(),
            Kind::Node => self.nodes.contains_key(&key.name),
            Kind::NetworkPolicy => {
                space(&key.namespace).is_some_and(|space| space.policies.contains_key(&key.name))
            }
            Kind::ClusterNetworkPolicy => self.cluster_policies.contains_key(&key.name),
        }
    }

    /// All there are of a kind. Policies that a dying namespace lost are gone.
    fn keys(&self, kind: Kind) -> Vec<ObjectKey> {
        let key = |namespace: &String, name: &String| ObjectKey {
            kind,
            namespace: namespace.clone(),
            name: name.clone(),
        };
        let wide = |name: &String| key(&String::new(), name);
        let spaces = self.spaces.iter();
        match kind {
            Kind::Namespace => spaces
                .filter(|(_, space)| space.object.is_some())
                .map(|(name, _)| wide(name))
                .collect(),
            Kind::Pod => spaces
                .flat_map(|(space, held)| held.pods.keys().map(move |name| key(space, name)))
                .collect(),
            Kind::NetworkPolicy => spaces
                .flat_map(|(space, held)| held.policies.keys().map(move |name| key(space, name)))
                .collect(),
            Kind::Node => self.nodes.keys().map(wide).collect(),
            Kind::ClusterNetworkPolicy => self.cluster_policies.keys().map(wide).collect(),
        }
    }
}
