//! Looking around, once a tick: whether the kernel translates Services where we can see it, who else is on the bridge,
//! and whether anybody has taken a program off.
//!
//! Egress beyond the pods is judged in two stages only where the second one is certain ([`Node::look_at_bridge`]):
//!
//! ```text
//! the bridge carries from_bridge                       else KRN003
//! bridge-nf-call-iptables, -ip6tables, each family     else KRN001, KRN005, KRN002
//! every port of the bridge carries to_pod              else KRN006: what is translated to such a port passes no hook
//! kube-proxy is not in IPVS mode                       else KRN008: it translates behind every hook of ours
//! pods are ports of the bridge                         else KRN009
//! ```
//!
//! Where it is not, nothing is deferred and such egress of an isolated pod is dropped (reason `no_bridge`).

use std::time::{Duration, Instant};

use tracing::{info, warn};
use vethwall_common::config::Config;
use vethwall_datapath::{
    Error, Maps, attach,
    surroundings::{self as interfaces, Interface, Presence},
    veth,
};

use super::{surroundings, thread::Node};

/// How long it is told that a program was taken off.
const REMEMBERED: Duration = Duration::from_secs(600);

impl Node {
    /// Puts the pins back where their file system was unmounted: without them nothing can be attached, nor a new pod.
    pub(super) fn keep_pins(&mut self) {
        let error = match self.bpffs.put_back() {
            Ok(false) => None,
            Ok(true) => {
                warn!(at = %self.pins.bpffs().display(), "the file system with our pins was unmounted; it is mounted again");
                None
            }
            Err(error) => Some(error.chain()),
        };
        let around = &mut self.surroundings;
        if let Some(error) = &error
            && around.unmounted.as_ref() != Some(error)
        {
            warn!("no pod can start: {error}");
        }
        around.unmounted = error;
    }

    /// Looks at what is not ours: once a tick, and before the bridge is looked at.
    pub(super) fn look_around(&mut self, all: &[Interface]) {
        self.surroundings
            .taken
            .retain(|_, (_, last)| last.elapsed() < REMEMBERED);
        self.look_at_strangers(all);
        let around = &mut self.surroundings;
        around.enforcers.look(Instant::now());
        let port = surroundings::tunnel_port(all);
        let told = self.control.maps().config().and_then(|mut config| {
            if config.tunnel_port == port {
                return Ok(());
            }
            config.tunnel_port = port;
            self.control.maps_mut().set_config(&config)
        });
        around.error = told.err().map(|error| error.chain());
        let judged = |port: &Interface| interfaces::is_judged(&self.pins, port.ifindex).unwrap_or(false);
        let pods = || self.interfaces.values().map(|known| &known.interface);
        around.see(all, &self.places.bridge, pods, judged);
        for (ifindex, known) in &mut self.interfaces {
            let Some(hook) = known.hook else { continue };
            let name = known.interface.host_ifname.as_str();
            match interfaces::endpoint(&self.pins, *ifindex, hook) {
                // With its pod, most likely; then there is nothing to attach to.
                Ok(Presence::Missing) if all.iter().any(|i| i.ifindex == *ifindex) => {
                    warn!(interface = %name, "our program was taken off; it is attached again");
                    around.take(name);
                    known.hook = None;
                }
                Ok(presence) => around.note(name, presence),
                Err(error) => around.error = Some(error.chain()),
            }
        }
    }

    /// Egress to a Service is judged behind the bridge, where and as long as that is certain; else nothing is deferred
    /// to it.
    pub(super) fn look_at_bridge(&mut self) {
        self.surroundings.bridge_nf = surroundings::bridge_nf();
        if !self.control.synced() && self.look_for_others() {
            // Theirs has what it needs to judge; ours has not yet.
            return;
        }
        let name = self.places.bridge.clone();
        let mut known = self.bridge;
        if let Some((ifindex, hook)) = known {
            match interfaces::bridge(&self.pins, ifindex, hook) {
                Ok(Presence::Missing) => {
                    // First nobody relies on it any more.
                    self.second_stage(0, [0; 6]);
                    if veth::ifindex(&name).is_ok_and(|found| found == Some(ifindex)) {
                        warn!(bridge = %name, "our program was taken off the bridge; it is attached again");
                        self.surroundings.take(&name);
                    }
                    known = None;
                }
                Ok(presence) => self.surroundings.note(&name, presence),
                Err(error) => self.surroundings.error = Some(error.chain()),
            }
        }
        let result = match veth::ifindex(&name) {
            Ok(Some(ifindex)) if known.is_some_and(|(known, _)| known == ifindex) => Ok(known),
            Ok(Some(ifindex)) => attach::attach_bridge(&self.pins, ifindex, &name, self.places.hook)
                .map(|hook| Some((ifindex, hook))),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        self.bridge_error = result.as_ref().err().map(Error::chain);
        let bridge = result.unwrap_or_default();
        let mac = match bridge.map(|_| veth::mac(&name)) {
            Some(Ok(mac)) => mac,
            Some(Err(error)) => {
                self.bridge_error = Some(error.chain());
                None
            }
            None => None,
        };
        let flags = if mac.is_some() {
            self.surroundings.flags()
        } else {
            0
        };
        if self.second_stage(flags, mac.unwrap_or_default()) {
            if bridge != self.bridge {
                info!(bridge = %name, attached = bridge.is_some(), "second stage of egress");
            }
            self.bridge = bridge;
        }
    }

    /// Tells the programs for which families egress may wait for its second stage. False if they could not be told.
    fn second_stage(&mut self, flags: u32, mac: [u8; 6]) -> bool {
        let written = self.control.maps().config().and_then(|mut config| {
            if config.flags & Config::BRIDGE == flags && config.bridge_mac == mac {
                return Ok(());
            }
            info!(
                ipv4 = flags & Config::BRIDGE_V4 != 0,
                ipv6 = flags & Config::BRIDGE_V6 != 0,
                "egress beyond the pods is judged behind the bridge"
            );
            config.flags = config.flags & !Config::BRIDGE | flags;
            config.bridge_mac = mac;
            self.control.maps_mut().set_config(&config)
        });
        match written {
            Ok(()) => true,
            Err(error) => {
                self.bridge_error = Some(error.chain());
                false
            }
        }
    }
}
