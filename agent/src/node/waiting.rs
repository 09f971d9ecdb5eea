//! What the plugin asks. An ADD waits for its pod's policy: each is answered once, with what it waited for if that did not come.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::warn;
use vethwall_cni::{code, proto};

use super::{Interface, thread::Node};
use crate::api::status::FoundBy;

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
    pub(super) fn add(
        &mut self,
        request: proto::AddRequest,
        reply: oneshot::Sender<proto::Response>,
    ) -> bool {
        let interface = Interface::from(request);
        self.leaving.remove(&interface.attachment());
        self.waiting.push(Waiting::new(&interface, reply));
        self.added = Some(Instant::now());
        // The bridge plugin may just have made the bridge anew: a pod must not send before its second stage is there, or
        // known to be missing.
        self.look_at_bridge();
        // The plugin attached the programs; attaching again finds out how, and is nothing where they are.
        self.learn(interface, FoundBy::Plugin);
        true
    }

    pub(super) fn del(
        &mut self,
        request: proto::DelRequest,
        reply: oneshot::Sender<proto::Response>,
    ) -> bool {
        let gone: Vec<u32> = self
            .interfaces
            .values()
            .map(|known| &known.interface)
            .filter(|i| i.container_id == request.container_id && i.ifname == request.ifname)
            .map(|i| i.ifindex)
            .collect();
        self.leaving.insert((request.container_id, request.ifname));
        gone.iter().for_each(|ifindex| self.forget(*ifindex));
        answer(reply, proto::Response::done(self.control.revision()));
        !gone.is_empty()
    }

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
