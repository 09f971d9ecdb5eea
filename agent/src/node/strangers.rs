//! Veths of which nobody has said whose they are.
//!
//! ```text
//!                 ┌ on the bridge, since the node is ready ──► closed at once ─┐
//! veth appears ───┼ on the bridge from before that ──────────► left alone      ├─► looked for soon and often, then at each
//!                 └ elsewhere ───────────────────────────────► left alone     ─┘   tick; told after [`TOLD_AFTER`]
//! ```
//!
//! A pod that comes by the chain is a stranger too, until the plugin has announced it; and to close it takes a tcx attachment, for
//! which every other pod that starts has to wait (no clsact: the bandwidth plugin may still have to come). So where the runtime
//! itself says that it calls the plugin, the plugin is given a moment ([`WIRING`]), and afterwards clsact closes, where no plugin of
//! the chain can need its place; everywhere else there is neither.
//!
//! On a node that is ready, whatever appears on flannel's bridge is a pod until somebody says otherwise: one that came past
//! our plugin must not send a packet, and one that is no pod's is told by its name. What stood there before may be
//! anything; to cut it would break what ran before vethwall came.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use vethwall_datapath::surroundings::Interface;

/// For how long an interface may be nobody's without being told: longer than a pod takes to be wired.
pub(super) const TOLD_AFTER: Duration = Duration::from_secs(10);
/// For how long a pod may be on the bridge without its plugin having come, where the runtime says that it calls it. Thirty pods
/// that start together on two processors take that long.
pub(super) const WIRING: Duration = Duration::from_millis(500);
/// The shortest time between two looks.
const SOON: Duration = Duration::from_millis(50);
/// From here on the tick looks often enough.
const TICK: Duration = super::thread::TICK;

/// A veth without an owner.
#[derive(Debug)]
pub(super) struct Stranger {
    pub(super) name: String,
    /// When it was first seen, or first seen on the bridge.
    since: Instant,
    bridged: bool,
    /// It was on the bridge before the node was ready.
    pub(super) early: bool,
    /// It carries our programs, and has no record: nothing passes.
    pub(super) closed: bool,
    /// Why it could not be closed.
    pub(super) error: Option<String>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    bridge: Option<u32>,
    veths: BTreeMap<u32, Stranger>,
    /// Pods that were closed as strangers and then identified, not by our plugin.
    pub(super) identified: u64,
}

impl Strangers {
    /// The bridge has this number now.
    pub(super) fn set_bridge(&mut self, bridge: Option<u32>) {
        self.bridge = bridge;
    }

    /// Takes in an interface that is no known pod's. True if it is to be closed: it was announced by nobody for `patience`.
    pub(super) fn see(&mut self, link: &Interface, ready: bool, patience: Duration, now: Instant) -> bool {
        if !link.is_veth() {
            return false;
        }
        let bridged = self.bridge.is_some() && link.master == self.bridge;
        let known = self
            .veths
            .get(&link.ifindex)
            .filter(|known| known.name == link.name);
        if known.is_none_or(|known| bridged && !known.bridged) {
            let stranger = Stranger {
                name: link.name.clone(),
                since: now,
                bridged,
                early: bridged && !ready,
                closed: false,
                error: None,
            };
            self.veths.insert(link.ifindex, stranger);
        }
        let known = self.veths.get(&link.ifindex);
        known.is_some_and(|known| {
            let late = now.saturating_duration_since(known.since) >= patience;
            known.bridged && !known.early && !known.closed && late
        })
    }

    /// All interfaces there are, and which carry our programs. Returns those that are to be closed.
    pub(super) fn see_all<'i>(
        &mut self,
        all: &'i [Interface],
        bridge: &str,
        is_pod: impl Fn(u32) -> bool,
        judged: impl Fn(&Interface) -> bool,
        ready: bool,
        patience: Duration,
    ) -> Vec<&'i Interface> {
        self.bridge = all
            .iter()
            .find(|link| link.name == bridge)
            .map(|link| link.ifindex);
        self.veths.retain(|ifindex, known| {
            let there = |link: &Interface| link.ifindex == *ifindex && link.name == known.name;
            !is_pod(*ifindex) && all.iter().any(there)
        });
        let now = Instant::now();
        let strange = all.iter().filter(|link| !is_pod(link.ifindex));
        let mut open = Vec::new();
        for link in strange {
            self.see(link, ready, patience, now);
            let Some(known) = self.veths.get_mut(&link.ifindex).filter(|known| known.bridged) else {
                continue;
            };
            // Somebody may have taken them off; and an earlier agent or the plugin may have attached them.
            known.closed = judged(link);
            if self.see(link, ready, patience, now) {
                open.push(link);
            }
        }
        open
    }

    /// Remembers how closing it went.
    pub(super) fn closed(&mut self, ifindex: u32, outcome: Result<(), String>) {
        if let Some(stranger) = self.veths.get_mut(&ifindex) {
            stranger.closed = outcome.is_ok();
            stranger.error = outcome.err();
        }
    }

    /// It has an owner, or is gone.
    pub(super) fn remove(&mut self, ifindex: u32) -> Option<Stranger> {
        self.veths.remove(&ifindex)
    }

    /// When to look for owners next, having looked at `last`: soon after one came, then less and less often.
    pub(super) fn next_look(&self, last: Instant) -> Option<Instant> {
        let youngest = self.veths.values().map(|stranger| stranger.since).max()?;
        let pause = last.saturating_duration_since(youngest).max(SOON);
        (pause < TICK).then(|| last.max(youngest) + pause)
    }

    /// Those on the bridge, by name.
    pub(super) fn on_the_bridge(&self) -> impl Iterator<Item = &Stranger> {
        self.veths.values().filter(|stranger| stranger.bridged)
    }

    /// For how long the youngest of those on the bridge is there.
    pub(super) fn youngest_on_the_bridge(&self) -> Option<Duration> {
        self.on_the_bridge()
            .map(|stranger| stranger.since.elapsed())
            .min()
    }

    /// Those on the bridge that have had the time to be identified.
    pub(super) fn told(&self) -> impl Iterator<Item = &Stranger> {
        self.on_the_bridge()
            .filter(|stranger| stranger.since.elapsed() >= TOLD_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: u32 = 5;
    /// Nobody is given a moment.
    const NOW: Duration = Duration::ZERO;

    fn veth(ifindex: u32, name: &str, master: Option<u32>) -> Interface {
        Interface {
            ifindex,
            name: name.to_owned(),
            kind: Some("veth".to_owned()),
            master,
            vxlan_port: None,
        }
    }

    fn strangers() -> Strangers {
        Strangers {
            bridge: Some(BRIDGE),
            ..Strangers::default()
        }
    }

    #[test]
    fn what_appears_on_the_bridge_of_a_ready_node_is_closed_once() {
        let (mut all, now) = (strangers(), Instant::now());
        assert!(
            !all.see(&veth(7, "veth7", None), true, NOW, now),
            "on no bridge yet"
        );
        let port = veth(7, "veth7", Some(BRIDGE));
        assert!(all.see(&port, true, NOW, now));
        assert!(all.see(&port, true, NOW, now), "until it is closed");
        all.closed(7, Err("no".to_owned()));
        assert!(all.see(&port, true, NOW, now), "also after a failure");
        all.closed(7, Ok(()));
        assert!(!all.see(&port, true, NOW, now));
        // The number is another's: what was done to the old one says nothing.
        assert!(all.see(&veth(7, "veth8", Some(BRIDGE)), true, NOW, now));
        // What is no veth, or another bridge's, is no pod of flannel's.
        let tap = Interface {
            kind: Some("tun".to_owned()),
            ..veth(8, "tap8", Some(BRIDGE))
        };
        assert!(!all.see(&tap, true, NOW, now));
        assert!(!all.see(&veth(9, "veth9", Some(3)), true, NOW, now));
    }

    #[test]
    fn a_plugin_that_is_certain_to_come_is_given_a_moment() {
        let (mut all, start) = (strangers(), Instant::now());
        let port = veth(7, "veth7", Some(BRIDGE));
        assert!(!all.see(&port, true, WIRING, start));
        assert!(!all.see(&port, true, WIRING, start + WIRING / 2));
        assert!(
            all.see(&port, true, NOW, start + WIRING / 2),
            "it is not certain any more"
        );
        assert!(all.see(&port, true, WIRING, start + WIRING));
        // It is looked for more than once in this time.
        let first = all.next_look(start).unwrap();
        assert!(first < start + WIRING / 4);
        assert!(all.next_look(start + WIRING / 2).unwrap() <= start + WIRING);
    }

    #[test]
    fn what_was_there_before_is_left_alone() {
        let (mut all, now) = (strangers(), Instant::now());
        let port = veth(7, "veth7", Some(BRIDGE));
        assert!(!all.see(&port, false, NOW, now));
        assert!(!all.see(&port, true, NOW, now), "also when the node is ready");
        assert_eq!(all.on_the_bridge().filter(|s| s.early && !s.closed).count(), 1);
        assert!(all.see(&veth(8, "veth8", Some(BRIDGE)), true, NOW, now));
    }

    #[test]
    fn a_full_look_finds_what_was_missed() {
        let mut all = Strangers::default();
        let links = [
            Interface {
                kind: Some("bridge".to_owned()),
                ..veth(BRIDGE, "cni0", None)
            },
            veth(7, "veth7", Some(BRIDGE)),
            veth(8, "veth8", Some(BRIDGE)),
        ];
        let open = |all: &mut Strangers, judged: bool, ready| {
            let open = all.see_all(&links, "cni0", |pod| pod == 8, |_| judged, ready, NOW);
            open.iter().map(|link| link.ifindex).collect::<Vec<_>>()
        };
        assert_eq!(open(&mut all, false, true), [7]);
        assert_eq!(open(&mut all, true, true), [0; 0]);
        assert_eq!(open(&mut all, false, true), [7], "its programs were taken off");
        all.see_all(&links[..1], "cni0", |_| false, |_| false, true, NOW);
        assert_eq!(all.on_the_bridge().count(), 0, "it is gone");
        assert_eq!(open(&mut all, false, false), [0; 0], "before the node is ready");
    }

    #[test]
    fn owners_are_looked_for_soon_and_then_less_often() {
        let (mut all, start) = (strangers(), Instant::now());
        assert_eq!(all.next_look(start), None);
        all.see(&veth(7, "veth7", None), true, NOW, start);
        let (mut looks, mut last) = (0, start);
        while let Some(next) = all.next_look(last) {
            assert!(next >= last + SOON && next < start + 2 * TICK);
            (looks, last) = (looks + 1, next);
        }
        assert!((4..8).contains(&looks), "{looks}");
        all.remove(7);
        assert_eq!(all.next_look(start), None);
    }
}
