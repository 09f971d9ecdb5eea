//! A cluster's objects, from its API server.
//!
//! ```text
//! API server ─ list, watch ─► follow (a task for each resource) ─► decode ─► Heard ─┐
//!                                │ contact, errors                                   ▼
//!                                ▼                                  Gather: Index ─ step ─► thread "node"
//!                             Health ─► status, metrics, problems
//! ```
//!
//! Invariants:
//! - Nothing is told before every resource was listed once; from then on, whatever becomes of the connection, what was
//!   told stays in force until the API server says something else.
//! - What the watches tell together is one step. After an interruption it is told when all of them have caught up.
//! - An object is pruned while it is decoded: of pods and nodes only what policy needs is kept, of policies what they say.
//! - A delete counts by the object's name alone, whatever else is in the event.

pub mod connect;
mod decode;
pub mod early;
mod follow;
mod gather;
pub mod health;
mod index;
mod resource;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::{Arc, mpsc::Sender},
    thread,
    time::Instant,
};

use tokio::sync::{Notify, mpsc, watch};
use vethwall_policy::{model::ObjectKey, world::Claim};

use self::{connect::Access, decode::Seen, gather::Gather};
pub use self::{connect::Place, early::Home, health::Health, resource::Resource};
use crate::node::Input;

/// What the watch of a resource hears.
#[derive(Debug)]
enum Heard {
    /// All there is, at one moment.
    All(Vec<Seen>),
    /// An object is there, as it is now.
    There(Box<Seen>),
    /// An object is gone.
    Gone(ObjectKey),
    /// The watch is open: what it has to tell of the past comes at once.
    Open,
    /// The watch broke, or its past is forgotten. `brief`: it may soon be back, so it is waited for.
    Behind { brief: bool },
}

/// How many of these may wait before the watches do.
const BACKLOG: usize = 1024;

/// Starts the thread that follows the cluster.
///
/// # Errors
/// Nothing says where the cluster is, and nothing will.
pub fn spawn(
    place: Place,
    health: Arc<Health>,
    early: Option<(Home, watch::Receiver<BTreeSet<Claim>>)>,
    node: Sender<Input>,
) -> anyhow::Result<()> {
    place.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let run = move || runtime.block_on(follow_cluster(place, &health, early, &node));
    thread::Builder::new().name("cluster".to_owned()).spawn(run)?;
    Ok(())
}

/// Ends when the node's thread has.
async fn follow_cluster(
    place: Place,
    health: &Arc<Health>,
    early: Option<(Home, watch::Receiver<BTreeSet<Claim>>)>,
    node: &Sender<Input>,
) {
    let access = Arc::new(Access::new(place));
    if let Some((home, wanted)) = early {
        tokio::spawn(early::follow(Arc::clone(&access), home.clone(), node.clone()));
        tokio::spawn(early::publish(Arc::clone(&access), home, wanted, node.clone()));
    }
    let (sender, mut heard) = mpsc::channel(BACKLOG);
    let back = Arc::new(Notify::new());
    for resource in Resource::ALL {
        let watch = follow::Follow {
            resource,
            access: Arc::clone(&access),
            health: Arc::clone(health),
            back: Arc::clone(&back),
            heard: sender.clone(),
        };
        tokio::spawn(watch.run());
    }
    drop(sender);
    let mut gather = Gather::default();
    loop {
        let due = gather.due(Instant::now());
        let next = match due {
            None => heard.recv().await,
            Some(due) => tokio::time::timeout_at(due.into(), heard.recv())
                .await
                .unwrap_or_default(),
        };
        match next {
            Some((resource, what)) => {
                gather.take(resource, what, Instant::now());
                // What came together is one step.
                while let Ok((resource, what)) = heard.try_recv() {
                    gather.take(resource, what, Instant::now());
                }
            }
            None if due.is_none() => return,
            None => {}
        }
        if gather
            .due(Instant::now())
            .is_some_and(|due| due <= Instant::now())
        {
            let objects = gather.step();
            if node.send(Input::Objects(Box::new(objects))).is_err() {
                return;
            }
        }
    }
}
