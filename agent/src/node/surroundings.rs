//! What was found around our programs, and what follows from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use tracing::warn;
use vethwall_common::config::Config;
use vethwall_datapath::surroundings::{Interface, Presence};

use super::enforcers::Enforcers;

/// kube-proxy in IPVS mode has the Services' addresses on it.
pub(super) const IPVS: &str = "kube-ipvs0";

/// The sysctls of br_netfilter, of this network namespace.
const BRIDGE_NF: [&str; 2] = [
    "/proc/sys/net/bridge/bridge-nf-call-iptables",
    "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
];

/// How long a port may be without a program: the bridge plugin makes it, and ours attaches to it when portmap is done. A
/// pod does not run before that.
const BEING_WIRED: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    /// The sysctls of br_netfilter, IPv4 and IPv6; `None` where it is not loaded.
    pub(super) bridge_nf: [Option<bool>; 2],
    pub(super) ipvs: bool,
    /// Ports of the bridge without a program, and since when.
    bare: BTreeMap<u32, (String, Instant)>,
    /// The same, for long enough to be nobody's that is being wired.
    pub(super) foreign: Vec<String>,
    /// Pods whose interface is no port of the bridge.
    pub(super) elsewhere: Vec<String>,
    /// Interfaces where somebody else's programs stand before ours.
    pub(super) behind: BTreeMap<String, Vec<u32>>,
    /// Interfaces from which our program was taken, how often, and when last.
    pub(super) taken: BTreeMap<String, (u32, Instant)>,
    /// Who else enforces policies.
    pub(super) enforcers: Enforcers,
    /// Looked once: from then on a port that comes is one that is being wired.
    looked: bool,
    /// Why the pins are not where they belong.
    pub(super) unmounted: Option<String>,
    pub(super) error: Option<String>,
}

/// The UDP port of the nodes' tunnel, 0 if there is none. Others may have tunnels of their own: flannel's device is called
/// flannel.VNI.
pub(super) fn tunnel_port(interfaces: &[Interface]) -> u32 {
    let of_others = |interface: &Interface| !interface.name.starts_with("flannel");
    let tunnels = interfaces
        .iter()
        .filter_map(|interface| Some((of_others(interface), interface.vxlan_port?)));
    tunnels.min().map_or(0, |(_, port)| port.into())
}

/// The sysctls of br_netfilter, IPv4 and IPv6; `None` where it is not loaded.
pub(crate) fn bridge_nf() -> [Option<bool>; 2] {
    BRIDGE_NF.map(|path| Some(fs::read_to_string(path).ok()?.trim() == "1"))
}

/// Whether kube-proxy is in IPVS mode.
pub(crate) fn is_ipvs(interfaces: &[Interface]) -> bool {
    interfaces.iter().any(|interface| interface.name == IPVS)
}

impl Surroundings {
    /// Takes in the interfaces of the node. `judged` tells whether one carries our program.
    pub(super) fn see<'p, P>(
        &mut self,
        interfaces: &[Interface],
        bridge: &str,
        pods: impl Fn() -> P,
        judged: impl Fn(&Interface) -> bool,
    ) where
        P: Iterator<Item = &'p super::Interface>,
    {
        self.ipvs = is_ipvs(interfaces);
        let number = interfaces.iter().find(|interface| interface.name == bridge);
        let is_port = |interface: &&Interface| {
            interface.master.is_some() && interface.master == number.map(|bridge| bridge.ifindex)
        };
        let ports: Vec<&Interface> = interfaces.iter().filter(is_port).collect();
        let bridged: BTreeSet<u32> = ports.iter().map(|port| port.ifindex).collect();
        self.elsewhere = pods()
            .filter(|pod| !bridged.contains(&pod.ifindex))
            .filter(|pod| {
                interfaces
                    .iter()
                    .any(|interface| interface.ifindex == pod.ifindex)
            })
            .map(|pod| format!("{}/{}", pod.namespace, pod.pod))
            .collect();

        let now = Instant::now();
        let bare: BTreeMap<u32, (String, Instant)> = ports
            .iter()
            .filter(|port| !judged(port))
            .map(|port| {
                let since = self.bare.get(&port.ifindex).map(|(_, since)| *since);
                (port.ifindex, (port.name.clone(), since.unwrap_or(now)))
            })
            .collect();
        let ours: BTreeSet<u32> = pods().map(|pod| pod.ifindex).collect();
        let foreign: BTreeSet<&String> = bare
            .iter()
            .filter(|(ifindex, (name, since))| {
                // What was there before us is not being wired, unless it is a pod that we are about to take over. Once
                // found to be foreign it stays so while it is bare.
                since.elapsed() >= BEING_WIRED
                    || (!self.looked && !ours.contains(ifindex))
                    || self.foreign.contains(name)
            })
            .map(|(_, (name, _))| name)
            .collect();
        let foreign: Vec<String> = foreign.into_iter().cloned().collect();
        if foreign != self.foreign {
            warn!(ports = ?foreign, bridge, "ports of the bridge without a program");
        }
        (self.bare, self.foreign, self.looked) = (bare, foreign, true);
    }

    /// The flags for a bridge that carries its program.
    pub(super) fn flags(&self) -> u32 {
        let flag = |family: usize, flag| {
            if self.bridge_nf[family] == Some(true) {
                flag
            } else {
                0
            }
        };
        if self.ipvs || !self.foreign.is_empty() {
            return 0;
        }
        flag(0, Config::BRIDGE_V4) | flag(1, Config::BRIDGE_V6)
    }

    pub(super) fn take(&mut self, interface: &str) {
        let taken = self.taken.entry(interface.to_owned());
        let (times, last) = taken.or_insert((0, Instant::now()));
        *times += 1;
        *last = Instant::now();
    }

    pub(super) fn note(&mut self, interface: &str, presence: Presence) {
        match presence {
            Presence::Behind(programs) => {
                let before = self.behind.insert(interface.to_owned(), programs.clone());
                if before.as_ref() != Some(&programs) {
                    warn!(%interface, ?programs, "programs of somebody else stand before ours");
                }
            }
            Presence::First | Presence::Missing => _ = self.behind.remove(interface),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(ifindex: u32, name: &str, master: Option<u32>) -> Interface {
        Interface {
            ifindex,
            name: name.to_owned(),
            kind: None,
            master,
            vxlan_port: None,
        }
    }

    fn pod(ifindex: u32) -> super::super::Interface {
        super::super::Interface {
            ifindex,
            namespace: "shop".to_owned(),
            pod: "web".to_owned(),
            ..super::super::Interface::default()
        }
    }

    #[test]
    fn a_port_without_a_program_is_foreign_unless_it_is_being_wired() {
        let mut around = Surroundings::default();
        let mut all = vec![
            interface(5, "cni0", None),
            interface(7, "veth7", Some(5)),
            interface(8, "veth8", Some(5)),
            interface(9, "eth0", None),
        ];
        let pods = [pod(7)];
        around.see(&all, "cni0", || pods.iter(), |port| port.ifindex == 7);
        assert_eq!(around.foreign, ["veth8"], "there before us");
        assert!(around.elsewhere.is_empty());
        all.push(interface(10, "veth10", Some(5)));
        around.see(&all, "cni0", || pods.iter(), |port| port.ifindex == 7);
        assert_eq!(
            around.foreign,
            ["veth8"],
            "the new one may be a pod's that is being wired"
        );
        around.see(&all, "cni0", || pods.iter(), |_| true);
        assert!(around.foreign.is_empty());
    }

    #[test]
    fn the_tunnel_is_flannels() {
        let tunnel = |name, port| Interface {
            vxlan_port: Some(port),
            ..interface(3, name, None)
        };
        let all = [
            interface(2, "eth0", None),
            tunnel("vxlan.calico", 4789),
            tunnel("flannel.1", 8472),
        ];
        assert_eq!(tunnel_port(&all), 8472);
        assert_eq!(tunnel_port(&all[..2]), 4789);
        assert_eq!(tunnel_port(&all[..1]), 0);
    }

    #[test]
    fn pods_elsewhere_and_ipvs_are_seen() {
        let mut around = Surroundings {
            bridge_nf: [Some(true); 2],
            ..Surroundings::default()
        };
        let all = [
            interface(5, "cni0", None),
            interface(7, "veth7", None),
            interface(8, IPVS, None),
        ];
        let pods = [pod(7), pod(70)];
        around.see(&all, "cni0", || pods.iter(), |_| true);
        assert_eq!(around.elsewhere, ["shop/web"], "one that is gone is nowhere");
        assert_eq!((around.ipvs, around.flags()), (true, 0));
        around.see(&all[..2], "cni0", || pods.iter(), |_| true);
        assert_eq!(around.flags(), Config::BRIDGE);
    }
}
