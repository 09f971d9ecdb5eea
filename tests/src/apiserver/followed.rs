//! A cluster that is followed as the agent does, without its node: steps make a world.

use std::{
    path::Path,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use vethwall::{
    api::cluster::{Watch, WatchState},
    cluster::{self, Health, Place, Resource},
    node::{Content, Input, Objects},
};
use vethwall_policy::world::World;

/// What the agent would know.
#[derive(Debug)]
pub struct Followed {
    inputs: Receiver<Input>,
    health: Arc<Health>,
    /// The world as the steps made it.
    pub world: World,
    /// How many changes each step had.
    pub steps: Vec<usize>,
    /// The last step, without its changes.
    pub last: Objects,
}

impl Followed {
    /// Starts to follow, seen from node `n`.
    pub fn start(kubeconfig: &Path) -> Result<Self> {
        let (sender, inputs) = mpsc::channel();
        let health = Arc::new(Health::default());
        let place = Place::Kubeconfig(kubeconfig.to_owned());
        cluster::spawn(place, Arc::clone(&health), None, sender)?;
        Ok(Self {
            inputs,
            health,
            world: World::new("n"),
            steps: Vec::new(),
            last: Objects::default(),
        })
    }

    /// Follows steps until this holds.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Result<Duration> {
        let started = Instant::now();
        while !holds(self) {
            if started.elapsed() > Duration::from_secs(40) {
                bail!(
                    "{what}: not in time\n{:#?}\n{:?}\n{:?}",
                    self.health.status(Instant::now()),
                    self.codes(),
                    self.last
                );
            }
            self.take(Duration::from_millis(10))?;
        }
        Ok(started.elapsed())
    }

    /// Follows what comes within a time.
    pub fn for_some(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.take(Duration::from_millis(10))?;
        }
        Ok(())
    }

    fn take(&mut self, patience: Duration) -> Result<()> {
        match self.inputs.recv_timeout(patience) {
            Ok(Input::Objects(mut objects)) => {
                let Content::Changes(changes) = std::mem::take(&mut objects.content) else {
                    bail!("a cluster tells changes")
                };
                self.steps.push(changes.len());
                for change in changes {
                    self.world.follow(change);
                }
                self.last = *objects;
                Ok(())
            }
            Ok(other) => bail!("unexpected: {other:?}"),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => bail!("nobody follows any more"),
        }
    }

    /// How a resource is followed.
    pub fn watch(&self, resource: Resource) -> Watch {
        let status = self.health.status(Instant::now());
        let mut watches = status.watches.into_iter();
        watches
            .find(|watch| watch.resource == resource.to_string())
            .unwrap_or_default()
    }

    /// Whether all resources are in this state, ClusterNetworkPolicies aside.
    pub fn all(&self, state: WatchState) -> bool {
        let core = &Resource::ALL[..4];
        core.iter().all(|resource| self.watch(*resource).state == state)
    }

    /// What the agent would tell of the API server: codes and sentences.
    pub fn codes(&self) -> Vec<(String, String)> {
        let problems = self.health.problems(Instant::now()).into_iter();
        problems.map(|problem| (problem.code, problem.message)).collect()
    }

    /// Why nothing is complete yet.
    pub fn incomplete(&self) -> Option<String> {
        self.health.incomplete()
    }
}
