//! What the cluster said, as changes of the world. Pure.
//!
//! ```text
//! object seen      a good version known?   what it means
//! good             -                       the object
//! broken           yes                     the last good version
//! broken           no, a policy            isolates what it selects, both ways
//! broken           no, another kind        nothing: its pod is not known, so nobody lets it through
//! gone             -                       nothing, whatever was known
//! ```
//! Of pods and nodes nothing is kept here, the world has them. Policies are kept as they were written, since their mode
//! may be their namespace's, and the order of ClusterNetworkPolicies depends on all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use vethwall_policy::{
    model::{Kind, Object, ObjectKey},
    world::Change,
};

use super::{
    Resource,
    decode::{Decoded, Seen, label},
};
use crate::{
    api::status::ManifestProblem,
    k8s::convert::{Problem, convert},
    manifests::{Isolation, Manifest, Sourced, View},
    source::Told,
};

/// The code of an object that is not understood.
const BROKEN: &str = "OBJ002";

/// Namespaces and policies as they were written, and what is wrong with objects.
#[derive(Debug, Default)]
pub(super) struct Index {
    written: BTreeMap<ObjectKey, Written>,
    /// Pods and nodes that are not understood.
    broken: BTreeMap<ObjectKey, Vec<String>>,
    /// Policies whose meaning may have changed.
    dirty: BTreeSet<ObjectKey>,
    changes: BTreeMap<Resource, Vec<Change>>,
    /// What is wrong with objects changed.
    news: bool,
}

/// A namespace or a policy.
#[derive(Debug, Default)]
struct Written {
    /// Its last good version.
    good: Option<Arc<Manifest>>,
    isolates: Option<Isolation>,
    /// What is wrong with its last version, if that is not a good one.
    broken: Vec<String>,
    /// What is wrong with the good one.
    problems: Vec<Problem>,
}

impl Index {
    /// These are all there are of a resource.
    pub(super) fn all(&mut self, resource: Resource, seen: Vec<Seen>) {
        let kind = resource.kind();
        let listed: BTreeSet<ObjectKey> = seen.iter().map(|seen| seen.key.clone()).collect();
        self.broken
            .retain(|key, _| key.kind != kind || listed.contains(key));
        let known = self.written.keys();
        let gone: Vec<ObjectKey> = known
            .filter(|key| key.kind == kind && !listed.contains(key))
            .cloned()
            .collect();
        gone.into_iter().for_each(|key| self.gone(resource, key));
        // A pod of which no version is understood stays as it was known, if it was.
        let mut broken = Vec::new();
        let mut objects = Vec::new();
        for seen in seen {
            match seen.what {
                Decoded::Object(object) => {
                    self.broken.remove(&seen.key);
                    objects.push(object);
                }
                Decoded::Broken { .. } if matches!(kind, Kind::Pod | Kind::Node) => broken.push(seen),
                Decoded::Manifest(_) | Decoded::Broken { .. } => self.there(resource, seen),
            }
        }
        match kind {
            Kind::Pod | Kind::Node => {
                let unread = broken.iter().map(|seen| seen.key.clone()).collect();
                let all = Change::All {
                    kind,
                    objects,
                    unread,
                };
                self.change(resource, all);
                broken.into_iter().for_each(|seen| self.there(resource, seen));
            }
            Kind::Namespace | Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => {}
        }
    }

    /// An object is there.
    pub(super) fn there(&mut self, resource: Resource, seen: Seen) {
        let Seen { key, what } = seen;
        match what {
            Decoded::Object(object) => {
                self.broken.remove(&key);
                self.change(resource, Change::Apply(object));
            }
            Decoded::Manifest(object) => self.good(resource, key, object),
            Decoded::Broken { problems, .. } if matches!(key.kind, Kind::Pod | Kind::Node) => {
                self.news = true;
                self.broken.insert(key, problems);
            }
            Decoded::Broken { isolates, problems } => {
                self.touch(&key);
                let written = self.written.entry(key).or_default();
                written.isolates = isolates.filter(|_| written.good.is_none());
                written.broken = problems;
            }
        }
    }

    /// An object is gone.
    pub(super) fn gone(&mut self, resource: Resource, key: ObjectKey) {
        self.broken.remove(&key);
        self.written.remove(&key);
        self.touch(&key);
        if !matches!(key.kind, Kind::NetworkPolicy | Kind::ClusterNetworkPolicy) {
            self.change(resource, Change::Delete(key));
        }
    }

    fn good(&mut self, resource: Resource, key: ObjectKey, object: Arc<Manifest>) {
        self.touch(&key);
        let mut written = Written::default();
        if key.kind == Kind::Namespace {
            let converted = convert(&view([(&key, &object)]));
            let changes = converted.objects.into_iter().map(Change::Apply);
            changes.for_each(|change| self.change(resource, change));
            written.problems = converted.problems;
        }
        written.good = Some(object);
        self.written.insert(key, written);
    }

    /// What policies mean may have changed.
    fn touch(&mut self, key: &ObjectKey) {
        let of = |kind, namespace: &str| {
            let first = ObjectKey {
                kind,
                namespace: namespace.to_owned(),
                name: String::new(),
            };
            let namespace = namespace.to_owned();
            let all = self.written.range(first..).map(|(key, _)| key);
            all.take_while(move |key| key.kind == kind && key.namespace == namespace)
                .cloned()
        };
        let also: Vec<ObjectKey> = match key.kind {
            Kind::Pod | Kind::Node => return,
            // Its mode is theirs.
            Kind::Namespace => of(Kind::NetworkPolicy, &key.name).collect(),
            Kind::NetworkPolicy => vec![key.clone()],
            // Equal priorities are told of both.
            Kind::ClusterNetworkPolicy => {
                let all = of(Kind::ClusterNetworkPolicy, "");
                all.chain([key.clone()]).collect()
            }
        };
        self.dirty.extend(also);
    }

    fn change(&mut self, resource: Resource, change: Change) {
        self.changes.entry(resource).or_default().push(change);
    }

    /// Whether there is something to tell.
    pub(super) fn changed(&self) -> bool {
        self.news || !self.changes.is_empty() || !self.dirty.is_empty()
    }

    /// What changed since it was asked last, in an order in which no step opens what the last one closes: namespaces
    /// first, policies last.
    pub(super) fn take(&mut self) -> Vec<Change> {
        self.news = false;
        let dirty = std::mem::take(&mut self.dirty);
        let (cluster, own): (Vec<_>, Vec<_>) = dirty
            .into_iter()
            .partition(|key| key.kind == Kind::ClusterNetworkPolicy);
        for key in own {
            self.convert(Resource::NetworkPolicies, vec![key]);
        }
        // Each by itself would not see another's priority.
        self.convert(Resource::ClusterNetworkPolicies, cluster);
        std::mem::take(&mut self.changes)
            .into_values()
            .flatten()
            .collect()
    }

    fn convert(&mut self, resource: Resource, keys: Vec<ObjectKey>) {
        let namespaces = keys.iter().map(|key| ObjectKey {
            kind: Kind::Namespace,
            namespace: String::new(),
            name: key.namespace.clone(),
        });
        let namespaces: BTreeSet<ObjectKey> = namespaces.collect();
        let good = namespaces
            .iter()
            .chain(&keys)
            .filter_map(|key| Some((key, self.written.get(key)?.good.as_ref()?)));
        let mut view = view(good);
        let isolations = keys
            .iter()
            .filter_map(|key| self.written.get(key)?.isolates.clone());
        view.isolations = isolations.collect();
        let converted = convert(&view);
        let policies = converted.objects.into_iter();
        let applied = policies.filter(|object| object.key().kind != Kind::Namespace);
        let applied: Vec<Object> = applied.collect();
        for key in keys {
            if !applied.iter().any(|object| object.key() == key) {
                self.change(resource, Change::Delete(key.clone()));
            }
            if let Some(written) = self.written.get_mut(&key) {
                let own = |problem: &&Problem| {
                    problem
                        .policy
                        .as_ref()
                        .is_some_and(|policy| policy.namespace == key.namespace && policy.name == key.name)
                };
                written.problems = converted.problems.iter().filter(own).cloned().collect();
            }
        }
        applied
            .into_iter()
            .for_each(|object| self.change(resource, Change::Apply(object)));
    }

    /// What is wrong with objects, by object.
    pub(super) fn problems(&self) -> Told {
        let written = self.written.iter().map(|(key, written)| (key, &written.broken));
        let objects = self.broken.iter().chain(written).flat_map(|(key, problems)| {
            problems.iter().map(|message| ManifestProblem {
                file: label(key),
                message: message.clone(),
                code: Some(BROKEN.to_owned()),
                ..ManifestProblem::default()
            })
        });
        let mut told = Told {
            problems: objects.collect(),
            ..Told::default()
        };
        let converted = self.written.values().flat_map(|written| &written.problems);
        converted.for_each(|problem| told.tell(problem.clone()));
        told
    }
}

/// These objects, as if each stood in a file of its own.
fn view<'a>(objects: impl IntoIterator<Item = (&'a ObjectKey, &'a Arc<Manifest>)>) -> View {
    let sourced = objects.into_iter().map(|(key, object)| Sourced {
        file: PathBuf::from(label(key)),
        line: 0,
        object: Arc::clone(object),
    });
    View {
        objects: sourced.collect(),
        ..View::default()
    }
}
