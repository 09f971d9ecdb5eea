//! Programs on the pods' interfaces.
//!
//! ```text
//! a pod is known ─► closed, by clsact where that is possible ─► settled on tcx, when no pod starts
//! ```
//!
//! A tcx attachment waits for RCU under rtnl, some 24 ms for a pod's two, one pod after the other; a filter takes one. So pods
//! start, and are taken over, with filters, and the links that nobody takes off by chance follow.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};
use vethwall_datapath::{Choice, Hook, attach};

use super::{Interface, connections::Older, thread::Node};

/// For how long no pod may have come before others are settled.
const CALM: Duration = Duration::from_secs(1);
/// How much of a tick that may take: others change interfaces too.
const SETTLING: Duration = Duration::from_millis(100);

impl Node {
    /// After the records are written, so that a pod that runs loses no packet that it may send; and after its connections
    /// are known, so that none of their answers is taken for something new. What begins in between is made known after.
    pub(super) fn attach_all(&mut self) {
        let new: BTreeSet<u32> = self
            .interfaces
            .values()
            .filter(|known| known.hook.is_none() && known.since.is_none() && known.error.is_none())
            .map(|known| known.interface.ifindex)
            .collect();
        let mut older = Older::from(new);
        self.connections.know(self.control.parts(), &mut older);
        if self.look_for_others() {
            // What began while all that was read, and is judged by us at the bridge in a moment.
            self.connections.know(self.control.parts(), &mut older);
            if !self.takes_bridge_over() {
                return;
            }
        }
        self.attach_each();
        self.connections.know(self.control.parts(), &mut older);
    }

    fn attach_each(&mut self) {
        for (ifindex, known) in &mut self.interfaces {
            if known.hook.is_some() {
                continue;
            }
            let name = &known.interface.host_ifname;
            match attach::close_endpoint(&self.pins, *ifindex, name, self.places.hook) {
                Ok(hook) => {
                    known.hook = Some(hook);
                    known.error = None;
                    let Interface { namespace, pod, .. } = &known.interface;
                    let found_by = known.found_by.name();
                    info!(pod = %format_args!("{namespace}/{pod}"), interface = %name, %hook, found_by, "attached");
                }
                Err(error) => {
                    let error = error.chain();
                    if known.error.as_ref() != Some(&error) {
                        warn!(interface = %name, "{error}");
                    }
                    known.error = Some(error);
                }
            }
        }
    }

    /// Moves pods that were closed by clsact on to tcx, while no pod starts: each takes some 24 ms in which no interface of the
    /// node can be changed.
    pub(super) fn settle_hooks(&mut self) {
        let busy = !self.waiting.is_empty() || self.added.is_some_and(|last| last.elapsed() < CALM);
        if self.places.hook != Choice::Best || self.no_tcx || busy {
            return;
        }
        let deadline = Instant::now() + SETTLING;
        for (ifindex, known) in &mut self.interfaces {
            if known.hook != Some(Hook::Clsact) || Instant::now() >= deadline {
                continue;
            }
            let name = &known.interface.host_ifname;
            match attach::settle_endpoint(&self.pins, *ifindex, name) {
                Ok(Hook::Tcx) => known.hook = Some(Hook::Tcx),
                Ok(Hook::Clsact) => {
                    self.no_tcx = true;
                    return;
                }
                // It is judged as before, and this is tried again.
                Err(error) => debug!(interface = %name, "stays with clsact for now: {}", error.chain()),
            }
        }
    }
}
