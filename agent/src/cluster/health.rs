//! How well the cluster is known, for `status`, metrics and problems.
//!
//! Ages are measured by a clock that nobody sets, so that they hold whatever becomes of the time of day.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Resource, connect::SILENCE};
use crate::api::{
    cluster::{Cluster, Watch, WatchState},
    status::Problem,
};

/// Why something could not be asked or followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The API server can not be reached, does not answer, or answers that it can not.
    Unreachable(String),
    /// The right to do so is missing.
    Forbidden {
        /// `list` or `watch`.
        verb: &'static str,
    },
    /// The credentials are not, or not any more, good; or the API server's own are not.
    Credentials(String),
    /// The resource is served, but only in versions that nobody here has read.
    Versions(Vec<String>),
    /// It answered something that is not understood.
    Strange(String),
}

/// What the watches tell of themselves. Shared between threads.
#[derive(Debug, Default)]
pub struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Whom the agent asks.
    server: String,
    watches: BTreeMap<Resource, Known>,
}

#[derive(Debug, Default)]
struct Known {
    state: WatchState,
    heard: Option<Instant>,
    changed: Option<Instant>,
    lists: u64,
    failures: u64,
    failure: Option<Failure>,
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, resource: Resource, change: impl FnOnce(&mut Known)) {
        change(self.state().watches.entry(resource).or_default());
    }

    /// Whom the agent asks.
    pub(super) fn asks(&self, server: String) {
        self.state().server = server;
    }

    /// The API server said something of the resource, if only that it is there.
    pub(super) fn heard(&self, resource: Resource) {
        self.with(resource, |known| known.heard = Some(Instant::now()));
    }

    /// An object came, changed or went.
    pub(super) fn changed(&self, resource: Resource) {
        self.with(resource, |known| known.changed = Some(Instant::now()));
    }

    /// All objects were listed.
    pub(super) fn listed(&self, resource: Resource, served: bool) {
        self.with(resource, |known| {
            known.lists += 1;
            known.state = if served {
                WatchState::Current
            } else {
                WatchState::NotServed
            };
            known.failure = None;
            (known.heard, known.changed) = (Some(Instant::now()), Some(Instant::now()));
        });
    }

    /// The watch is open.
    pub(super) fn open(&self, resource: Resource) {
        self.with(resource, |known| {
            known.state = WatchState::Current;
            known.failure = None;
            known.heard = Some(Instant::now());
        });
    }

    /// It failed. True where that is new.
    pub(super) fn failed(&self, resource: Resource, failure: &Failure) -> bool {
        let mut new = false;
        self.with(resource, |known| {
            known.failures += 1;
            if known.state != WatchState::Starting {
                known.state = WatchState::Behind;
            }
            new = known.failure.as_ref() != Some(failure);
            known.failure = Some(failure.clone());
        });
        new
    }

    /// For `status`.
    pub fn status(&self, now: Instant) -> Cluster {
        let state = self.state();
        let age = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at).as_secs());
        let watch = |resource: Resource| {
            let none = Known::default();
            let known = state.watches.get(&resource).unwrap_or(&none);
            Watch {
                resource: resource.to_string(),
                state: known.state,
                heard_seconds_ago: age(known.heard),
                changed_seconds_ago: age(known.changed),
                lists: known.lists,
                failures: known.failures,
                error: known.failure.as_ref().map(|failure| failure.text(resource)),
            }
        };
        Cluster {
            server: state.server.clone(),
            watches: Resource::ALL.map(watch).to_vec(),
        }
    }

    /// What is wrong; docs/problems.md has a paragraph for each code.
    pub fn problems(&self, now: Instant) -> Vec<Problem> {
        let state = self.state();
        let mut problems = Vec::new();
        let server = &state.server;
        let mut silent = Told::default();
        let mut refused = Told::default();
        let mut age: Option<Duration> = None;
        for (resource, known) in &state.watches {
            let heard = known.heard.map(|heard| now.saturating_duration_since(heard));
            let why = match &known.failure {
                Some(Failure::Unreachable(why) | Failure::Strange(why)) => why.clone(),
                Some(Failure::Credentials(why)) => {
                    refused.tell(*resource, why);
                    continue;
                }
                Some(failure @ Failure::Forbidden { .. }) => {
                    problems.push(Problem::new(
                        "API002",
                        format!("{}; {}", failure.text(*resource), consequence(known.state)),
                        Some("give the agent's service account a ClusterRole with list and watch of it, as the chart does"),
                    ));
                    continue;
                }
                Some(failure @ Failure::Versions(_)) => {
                    problems.push(Problem::new(
                        "API004",
                        failure.text(*resource),
                        Some("serve v1alpha2 beside it in the CustomResourceDefinition, or install a vethwall that knows the version"),
                    ));
                    continue;
                }
                None if heard.is_some_and(|age| age > SILENCE) && known.state == WatchState::Current => {
                    "it is silent".to_owned()
                }
                None => continue,
            };
            age = age.max(heard);
            silent.tell(*resource, &why);
        }
        if let Some((resources, why)) = silent.text() {
            let known = match age {
                Some(age) => format!("policies stay as they were known {} s ago", age.as_secs()),
                None => "nothing is enforced anew until it does".to_owned(),
            };
            let message = format!("the API server {server} does not tell of {resources}: {why}; {known}");
            problems.push(Problem::new("API001", message, None));
        }
        if let Some((resources, why)) = refused.text() {
            problems.push(Problem::new(
                "API003",
                format!("the API server {server} and the agent do not trust each other ({resources}): {why}"),
                Some("look at the service account's token or the kubeconfig, at the certificates, and at the node's clock"),
            ));
        }
        problems
    }

    /// Why the objects can not be complete yet; `None` once all were listed.
    pub fn incomplete(&self) -> Option<String> {
        let state = self.state();
        let missing = Resource::ALL.into_iter().find_map(|resource| {
            let known = state.watches.get(&resource);
            let starting = known.is_none_or(|known| known.state == WatchState::Starting);
            let failure = known.and_then(|known| known.failure.as_ref());
            starting.then(|| match failure {
                Some(failure) => failure.text(resource),
                None => format!("{resource} are not listed yet"),
            })
        });
        missing.map(|why| format!("not all objects of the cluster are known: {why}"))
    }
}

impl Failure {
    /// A sentence.
    pub(super) fn text(&self, resource: Resource) -> String {
        match self {
            Self::Unreachable(why) | Self::Credentials(why) | Self::Strange(why) => why.clone(),
            Self::Forbidden { verb } => format!("the agent may not {verb} {resource} (in all namespaces)"),
            Self::Versions(versions) if versions.is_empty() => {
                format!("{resource} ({}) are not served", resource.api_version())
            }
            Self::Versions(versions) => format!(
                "{resource} are served as {} only, and {} is what is understood; what was known of them stays in force, and no other is",
                versions.join(", "),
                resource.api_version()
            ),
        }
    }
}

fn consequence(state: WatchState) -> &'static str {
    match state {
        WatchState::Starting => "the agent does not become ready without",
        WatchState::Current | WatchState::Behind | WatchState::NotServed => {
            "what was known of them stays in force"
        }
    }
}

/// What one cause has many of.
#[derive(Default)]
struct Told {
    resources: Vec<&'static str>,
    why: BTreeSet<String>,
}

impl Told {
    fn tell(&mut self, resource: Resource, why: &str) {
        self.resources.push(resource.name());
        self.why.insert(why.to_owned());
    }

    /// The resources, and the reasons.
    fn text(self) -> Option<(String, String)> {
        let why = self.why.into_iter().collect::<Vec<_>>().join("; ");
        (!self.resources.is_empty()).then(|| (self.resources.join(", "), why))
    }
}
