//! ADDs that wait for their pod's policy: each is answered once, with what it waited for if that did not come.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::warn;
use vethwall_cni::{code, proto};

use super::{Interface, thread::Node};

/// How long an ADD may wait for its pod's object and policy: a second less than the plugin waits.
const ADD_PATIENCE: Duration = Duration::from_secs(6);

/// An ADD that is not answered yet.
pub(super) struct Waiting {
    ifindex: u32,
    pod: String,
    deadline: Instant,
    reply: oneshot::Sender<proto::Response>,
}

impl Waiting {
    pub(super) fn new(interface: &Interface, reply: oneshot::Sender<proto::Response>) -> Self {
        Self {
            ifindex: interface.ifindex,
            pod: format!("{}/{}", interface.namespace, interface.pod),
            deadline: Instant::now() + ADD_PATIENCE,
            reply,
        }
    }

    /// Nobody will do what it waits for.
    pub(super) fn refuse(self, why: &str) {
        answer(self.reply, proto::Response::failed(code::TRY_LATER, why));
    }
}

impl Node {
    /// Answers the ADDs whose policy is in force, and those that waited long enough.
    pub(super) fn settle(&mut self) {
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.waiting) {
            let attached = self
                .interfaces
                .get(&waiting.ifindex)
                .is_some_and(|known| known.hook.is_some());
            let since = waiting.deadline - ADD_PATIENCE;
            let told = self.is_told(waiting.ifindex, since, now);
            if self.ready && attached && told && self.control.enforcing(waiting.ifindex) {
                answer(waiting.reply, proto::Response::done(self.control.revision()));
            } else if now >= waiting.deadline {
                let why = self.why_waiting(&waiting);
                warn!(pod = %waiting.pod, "ADD is refused: {why}");
                answer(waiting.reply, proto::Response::failed(code::TRY_LATER, why));
            } else {
                self.waiting.push(waiting);
            }
        }
    }

    fn why_waiting(&self, waiting: &Waiting) -> String {
        let pod = &waiting.pod;
        let Some(known) = self.interfaces.get(&waiting.ifindex) else {
            return format!("vethwall: the interface of pod {pod} is gone");
        };
        if !self.ready {
            return format!("vethwall: pod {pod} waits: {}", self.not_ready());
        }
        if let Some(error) = &known.error {
            return format!("vethwall: can not attach to the interface of pod {pod}: {error}");
        }
        let endpoint = self
            .control
            .world()
            .endpoints()
            .find(|e| e.ifindex == waiting.ifindex);
        if endpoint.is_some_and(|endpoint| self.control.world().pod_of(endpoint).is_none()) {
            return format!(
                "vethwall: pod {pod} is not known to the node agent yet; its start is delayed until its policies are known"
            );
        }
        format!(
            "vethwall: the policy of pod {pod} could not be written to the kernel yet: {}",
            self.control.failures().join("; ")
        )
    }

    pub(super) fn not_ready(&self) -> String {
        if let Some(why) = self.incomplete() {
            return format!("the node agent is not ready: {why}");
        }
        "the node agent is not ready: it has not taken over this node yet".to_owned()
    }
}

/// Answers, unless nobody waits any more.
pub(super) fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    drop(reply.send(value));
}
