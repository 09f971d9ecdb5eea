//! Random nodes, their conversations, and what comes next.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Step, maps::CLASSES, packets::Draft};
use crate::{
    dice::Dice,
    kernel::packet::{BRIDGE_MAC, mac},
    oracle::packet::{
        Hook, Run,
        node::{Kind, Network, Node, Other, Pod, Policy, Ports, Rule, UNKNOWN_POD, WORLD},
    },
};

/// The interface that leads out of the node, and the bridge.
const UPLINK: u32 = 90;
const BRIDGE: u32 = 91;
/// Bits of a tag.
const JUDGED: u32 = 0x4000;
const DEFERRED: u32 = 0x8000;

/// Two ends that talk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Talk {
    /// The pod, by its place.
    pub(super) pod: usize,
    /// Its address.
    pub(super) own: IpAddr,
    /// The other end.
    pub(super) peer: IpAddr,
    /// The protocol.
    pub(super) protocol: u8,
    /// The pod's port, or the identifier.
    pub(super) own_port: u16,
    /// The other's.
    pub(super) peer_port: u16,
}

/// A node, and what goes on there.
pub(super) struct Scene {
    /// The node.
    pub(super) node: Node,
    dice: Dice,
    talks: Vec<Talk>,
    /// What the last packet was made from.
    draft: Option<Draft>,
    /// Its next hook.
    next: Option<Run>,
}

impl Scene {
    /// A scene from a seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed.wrapping_mul(0x0123_4567_89ab_cdef));
        let node = node(&mut dice);
        let count = 4 + dice.below(10);
        let talks = (0..count).map(|_| talk(&mut dice, &node)).collect();
        Self {
            node,
            dice,
            talks,
            draft: None,
            next: None,
        }
    }

    /// Now and then something changes.
    pub(super) fn change(&mut self) -> Option<Step> {
        if !self.dice.percent(3) {
            return None;
        }
        let dice = &mut self.dice;
        let place = dice.below(self.node.pods.len());
        let pod = &mut self.node.pods[place];
        let policy = match dice.percent(50) {
            true => &mut pod.ingress,
            false => &mut pod.egress,
        };
        match dice.below(10) {
            // A new generation, of the same policy or another.
            0 => policy.version += 1,
            1..=4 => {
                let version = policy.version + 1;
                *policy = Policy {
                    version,
                    ..random_policy(dice)
                };
            }
            // In place, as while policies are refined.
            5 => drop(policy.rules.pop_first()),
            6 => {
                let (class, rule) = (class(dice), rule(dice));
                policy.rules.insert(class, rule);
            }
            7 => pod.in_force ^= true,
            8 => match dice.below(4) {
                0 => self.node.bridge_v4 ^= true,
                1 => self.node.bridge_v6 ^= true,
                2 => self.node.own_node_egress ^= true,
                _ => self.node.keep_connections ^= true,
            },
            _ => return Some(Step::Forget(pod.interface)),
        }
        Some(Step::Node(Box::new(self.node.clone())))
    }

    /// The next packet.
    pub(super) fn packet(&mut self) -> Run {
        if let Some(run) = self.next.take() {
            return run;
        }
        let dice = &mut self.dice;
        if dice.percent(15) {
            let place = dice.below(self.talks.len());
            let fresh = talk(dice, &self.node);
            // Between the same two ends as another one, so that they share the numbers of datagrams.
            self.talks[place] = if dice.percent(25) {
                Talk {
                    own_port: fresh.own_port,
                    peer_port: fresh.peer_port,
                    ..dice.of(&self.talks)
                }
            } else {
                fresh
            };
        }
        let about = dice.of(&self.talks);
        let pod = self.node.pods[about.pod].clone();
        let mut run = Run {
            hook: Hook::FromPod,
            interface: pod.interface,
            came_by: pod.interface,
            tag: if dice.percent(5) { tag(dice) } else { 0 },
            vlan: match dice.below(100) {
                0 | 1 => dice.of(&[5, 4095, 0x2000 | 7]),
                // Priority alone is no VLAN.
                2 => 0x2000,
                _ => 0,
            },
            segments: if dice.percent(3) { dice.of(&[1, 2, 40]) } else { 0 },
            frame: Vec::new(),
        };
        let out = dice.percent(55);
        let mut draft = Draft::new(dice, &about, out, &self.talks, &pod);
        if out {
            if dice.percent(8) {
                run.hook = Hook::FromBridge;
                run.interface = BRIDGE;
                run.tag = if dice.percent(50) { tag(dice) } else { 0 };
            }
        } else {
            run.hook = Hook::ToPod;
            let sender = self.node.owner(about.peer).map(|pod| pod.interface);
            run.came_by = match dice.below(10) {
                0..=6 => sender.unwrap_or(UPLINK),
                7 => 0,
                8 => UPLINK,
                _ => dice.of(&self.node.pods.iter().map(|pod| pod.interface).collect::<Vec<_>>()),
            };
            if dice.percent(10) {
                run.tag = tag(dice);
            }
        }
        draft.disturb(dice);
        run.frame = draft.frame(dice);
        self.draft = Some(draft);
        run
    }

    /// What happens to a packet that passed at its pod's veth.
    pub(super) fn after(&mut self, run: &Run, passed: bool, tag_left: u32) {
        let Some(draft) = self.draft.take() else { return };
        let dice = &mut self.dice;
        if !passed || run.hook != Hook::FromPod || dice.percent(12) {
            return;
        }
        let mut frame = run.frame.clone();
        let mut destination = draft.destination();
        // A Service's address becomes a backend's.
        if dice.percent(20) && !draft.is_raw() {
            let other = dice.of(&self.talks);
            if let Some(translated) = draft.translated(other.peer, other.peer_port) {
                destination = Some(other.peer);
                frame = translated;
            }
        }
        let left = match dice.below(20) {
            0..=15 => tag_left,
            16..=18 => 0,
            _ => tag(dice),
        };
        let owner = destination.and_then(|address| self.node.owner(address));
        let mut next = Run {
            hook: Hook::FromBridge,
            interface: BRIDGE,
            came_by: run.interface,
            tag: left,
            ..run.clone()
        };
        next.frame = frame;
        if let Some(owner) = owner {
            next.hook = Hook::ToPod;
            next.interface = owner.interface;
            if let Some(place) = next.frame.get_mut(..6) {
                place.copy_from_slice(&owner.mac);
            }
            // By way of the node, after masquerading for instance.
            if dice.percent(5) {
                next.came_by = dice.of(&[0, UPLINK]);
            }
        }
        self.next = Some(next);
    }
}

fn tag(dice: &mut Dice) -> u32 {
    let index = u32::try_from(dice.below(5)).unwrap_or_default();
    match dice.below(8) {
        0..=2 => JUDGED | version(dice) | index,
        3..=5 => DEFERRED | version(dice) | index,
        6 => index,
        _ => u32::from(dice.byte()) << 8 | u32::from(dice.byte()),
    }
}

/// Mostly that of the programs; now and then another, as while one version replaces another.
fn version(dice: &mut Dice) -> u32 {
    if dice.percent(15) {
        dice.of(&[0, 0x2000, 0x3000])
    } else {
        0x1000
    }
}

fn class(dice: &mut Dice) -> String {
    let named = dice.below(CLASSES.len() + 2);
    match CLASSES.get(named) {
        Some(class) => (*class).to_owned(),
        None if named == CLASSES.len() => WORLD.to_owned(),
        None => UNKNOWN_POD.to_owned(),
    }
}

/// Ports that packets have, and that rules speak about.
const PORTS: [u16; 8] = [53, 80, 443, 511, 512, 8080, 33000, 65535];

fn rule(dice: &mut Dice) -> Rule {
    let mut ports: Vec<Ports> = Vec::new();
    for protocol in [6, 17, 132] {
        let mut next = 0_u32;
        while dice.percent(40) {
            let first = dice.of(&PORTS);
            if u32::from(first) < next {
                break;
            }
            let last = first.saturating_add(dice.of(&[0, 0, 1, 700]));
            ports.push(Ports {
                protocol,
                first,
                last,
                allowed: dice.percent(70),
            });
            next = u32::from(last) + 1;
        }
    }
    Rule {
        rest: dice.percent(35),
        set: dice.percent(20),
        ports,
    }
}

fn random_policy(dice: &mut Dice) -> Policy {
    if dice.percent(30) {
        return Policy {
            version: 1,
            open: true,
            ..Policy::default()
        };
    }
    let mut rules = BTreeMap::new();
    for _ in 0..dice.below(7) {
        let (class, rule) = (class(dice), rule(dice));
        rules.insert(class, rule);
    }
    Policy {
        version: 1,
        open: false,
        cluster: dice.percent(25),
        anybody: dice.percent(20),
        rules,
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn node(dice: &mut Dice) -> Node {
    let mut pods = Vec::new();
    for number in 1..=2 + u16::from(dice.percent(60)) {
        let interface = 10 + u32::from(number);
        let four = address(&format!("10.244.0.{interface}"));
        let six = address(&format!("fd00:10::{interface:x}"));
        pods.push(Pod {
            interface,
            index: number,
            mac: mac(interface),
            addresses: match dice.below(10) {
                0 => vec![four],
                1 => vec![six],
                2 => vec![six, four],
                _ => vec![four, six],
            },
            in_force: dice.percent(95),
            class: dice.of(&["neighbour", "web", "self", "friend"]).to_owned(),
            ingress: random_policy(dice),
            egress: random_policy(dice),
        });
    }
    let mut others = Vec::new();
    for (text, kind) in [
        ("10.244.1.5", Kind::Pod),
        ("fd00:10:1::5", Kind::Pod),
        ("10.244.0.1", Kind::ThisNode),
        ("fd00:10::1", Kind::ThisNode),
        ("192.168.9.2", Kind::Named),
        ("2001:db8:9::2", Kind::Named),
    ] {
        if dice.percent(85) {
            others.push(Other {
                address: address(text),
                kind,
                class: class(dice),
            });
        }
    }
    let mut networks = Vec::new();
    for (text, pods, likely) in [
        ("10.244.0.0/16", true, 100),
        ("fd00:10::/32", true, 100),
        ("10.244.0.0/24", true, 20),
        ("10.244.0.1/32", true, 20),
        ("203.0.113.0/24", false, 70),
        ("203.0.113.8/31", false, 30),
        ("0.0.0.0/0", false, 20),
        ("2001:db8::/32", false, 50),
        ("2000::/3", false, 20),
    ] {
        if dice.percent(likely) {
            networks.push(Network {
                network: text.parse().unwrap_or_else(|e| panic!("{text}: {e}")),
                pods,
                class: if likely == 100 {
                    UNKNOWN_POD.to_owned()
                } else {
                    class(dice)
                },
            });
        }
    }
    Node {
        bridge_v4: dice.percent(85),
        bridge_v6: dice.percent(85),
        bridge_mac: BRIDGE_MAC,
        own_node_egress: dice.percent(20),
        keep_connections: dice.percent(15),
        forget_ended: dice.percent(50),
        pods,
        others,
        networks,
    }
}

/// Whom pods talk to, besides each other.
const PEERS: [&str; 20] = [
    "10.244.1.5",
    "10.244.1.6",
    "10.244.0.1",
    "192.168.9.2",
    "203.0.113.9",
    "203.0.113.77",
    "198.51.100.7",
    "224.0.0.251",
    "255.255.255.255",
    "0.0.0.0",
    "fd00:10:1::5",
    "fd00:10:1::6",
    "fd00:10::1",
    "2001:db8:9::2",
    "2001:db8:8::9",
    "2a00::7",
    "ff02::fb",
    "fe80::7",
    "::",
    "::ffff:10.244.1.5",
];

fn talk(dice: &mut Dice, node: &Node) -> Talk {
    let place = dice.below(node.pods.len());
    let pod = &node.pods[place];
    let own = dice.of(&pod.addresses);
    let pods: Vec<IpAddr> = node.pods.iter().flat_map(|pod| pod.addresses.clone()).collect();
    let mut peer = own;
    for _ in 0..40 {
        peer = if dice.percent(40) {
            dice.of(&pods)
        } else {
            address(dice.of(&PEERS))
        };
        if peer.is_ipv4() == own.is_ipv4() && (peer != own || dice.percent(20)) {
            break;
        }
        peer = own;
    }
    let icmp = if own.is_ipv4() { 1 } else { 58 };
    let few = [1000, 1001, 80];
    Talk {
        pod: place,
        own,
        peer,
        protocol: dice.of(&[6, 6, 6, 17, 17, 132, icmp]),
        own_port: if dice.percent(50) {
            dice.of(&few)
        } else {
            dice.of(&PORTS)
        },
        peer_port: if dice.percent(50) {
            dice.of(&few)
        } else {
            dice.of(&PORTS)
        },
    }
}
