//! The three places where a packet meets a program, as docs/design.md tells them.

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{
    Expected::{self, Drop, Either, Pass, Wait},
    Judge, Other, Question, Stage,
    bytes::{self, Content, Fragment, Frame, Ip},
    node::{Peer, Pod, Way},
    to_many,
};

/// A place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// From a pod, at its veth.
    FromPod,
    /// To a pod, at its veth.
    ToPod,
    /// From pods, at the bridge.
    FromBridge,
}

/// A packet at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where.
    pub hook: Hook,
    /// On which interface.
    pub interface: u32,
    /// Where it came in; 0: this node made it.
    pub came_by: u32,
    /// What an earlier hook left.
    pub tag: u32,
    /// A VLAN tag that was taken from the frame.
    pub vlan: u32,
    /// Packets that this one stands for.
    pub segments: u32,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Bits of a tag: judged, deferred, the writer's version, the pod's number.
const JUDGED: u32 = 0x4000;
const DEFERRED: u32 = 0x8000;
const VERSION: u32 = 0x3000;
const NUMBER: u32 = 0x0fff;
/// [`VERSION`] as programs of version 1 write it.
const OURS: u32 = 0x1000;

impl Judge {
    /// What should become of a packet, given what did.
    pub fn judge(&mut self, run: &Run, seen: bool) -> Expected {
        let mut run = run.clone();
        if run.tag & (JUDGED | DEFERRED) != 0 {
            // Of another version it is known only that the packet is a pod's, and whether it waits.
            run.tag = match run.tag & VERSION {
                OURS => run.tag & !VERSION,
                _ if run.tag & DEFERRED != 0 => DEFERRED,
                _ => VERSION,
            };
        }
        let run = &run;
        let frame = match bytes::frame(&run.frame, run.segments != 0) {
            _ if run.vlan & 0xfff != 0 => Frame::Vlan,
            frame => frame,
        };
        match run.hook {
            Hook::FromPod => self.from_pod(run, &frame, seen),
            Hook::ToPod => self.to_pod(run, &frame, seen),
            Hook::FromBridge => self.from_bridge(run, &frame, seen),
        }
    }

    /// What the tag of a packet that passed at a pod's veth must say.
    pub fn tag_is_right(&self, run: &Run, expected: Expected, tag: u32) -> bool {
        let Some(pod) = self.node.pod(run.interface).filter(|_| run.hook == Hook::FromPod) else {
            return true;
        };
        let number = u32::from(pod.index) | OURS;
        // To have it judged twice costs a lookup and does no harm.
        tag == number | DEFERRED || (tag == number | JUDGED && expected != Wait)
    }

    fn from_pod(&mut self, run: &Run, frame: &Frame, seen: bool) -> Expected {
        let Some(pod) = self.node.pod(run.interface).cloned() else {
            return Drop;
        };
        if run.frame.get(6..12) != Some(&pod.mac[..]) {
            return Drop; // rule 53
        }
        let ip = match frame {
            // Rule 51: the sender must be itself, or, while it asks whether an address is free, nobody yet.
            Frame::Arp(Some((mac, sender)))
                if *mac == pod.mac && (sender.is_unspecified() || pod.owns((*sender).into())) =>
            {
                return Pass;
            }
            Frame::Arp(_) => return Drop,
            Frame::Vlan | Frame::Other => return if pod.egress.open { Pass } else { Drop },
            Frame::Ip(ip) => ip,
        };
        let Some((source, destination)) = ip.ends else {
            return match pod.egress.open {
                true => Either("a header without a source, from a pod that is not isolated"),
                false if ip.content == Content::Broken(bytes::MAPPED) => Either("perhaps to itself"),
                false => Drop,
            };
        };
        if let Some(answer) = discovery(&pod, ip, source) {
            return answer;
        }
        let nobody = |address| address == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let harmless = pod.egress.open || pod.owns(destination);
        if nobody(source) && harmless && matches!(ip.content, Content::Broken(_)) {
            return Either("from nobody, and broken");
        }
        if !pod.owns(source) {
            return Drop; // rule 53
        }
        if nobody(destination) {
            self.doubt_between(pod.interface, ip.ends, "to nobody");
            return Either("to nobody");
        }
        if pod.owns(destination) {
            return match ip.content {
                Content::Broken(_) => Either("rule 40 passes it, rule 50 denies it"),
                _ => Pass, // rule 40
            };
        }
        let bridge = if ip.six {
            self.node.bridge_v6
        } else {
            self.node.bridge_v4
        };
        // A bridge hands to its node what is sent to its own MAC address, and to groups.
        let to_bridge = run.frame.starts_with(&self.node.bridge_mac);
        let to_group = run.frame.first().is_some_and(|first| first & 1 != 0) && to_many(ip);
        let bridge = bridge && (to_bridge || to_group);
        let question = Question {
            pod: &pod,
            way: Way::Out,
            other: Other::Somebody(self.node.peer(destination, false)),
            stage: Stage::First { bridge },
            ip,
            seen,
        };
        self.ask(&question)
    }

    fn from_bridge(&mut self, run: &Run, frame: &Frame, seen: bool) -> Expected {
        let named = self.node.numbered(run.tag & NUMBER).cloned();
        let Frame::Ip(ip) = frame else {
            return Pass;
        };
        let owner = ip.ends.and_then(|(source, _)| self.node.owner(source)).cloned();
        if run.tag & JUDGED != 0
            && let Some(named) = &named
        {
            return match owner {
                Some(owner) if owner.interface != named.interface => Either("a tag of another pod"),
                _ => Pass,
            };
        }
        if matches!(ip.content, Content::Neighbour(..) | Content::Listener(..)) {
            return Pass; // rule 51; the pod's veth has looked at the sender
        }
        let in_force = |pod: &Pod| self.node.pod(pod.interface).is_some();
        if ip.ends.is_none() {
            return Either("a header without a source, which only open pods can send");
        }
        let author = match (named.filter(|_| run.tag & DEFERRED != 0), owner) {
            (_, Some(owner)) if in_force(&owner) => owner,
            (None, Some(_)) if run.tag & DEFERRED != 0 => return Drop,
            (_, Some(_)) => return Either("nothing comes from a pod whose policy is not in force"),
            (Some(named), None) if in_force(&named) => named,
            (None, None) if run.tag & DEFERRED == 0 => return Pass,
            _ => return Drop,
        };
        self.second(&author, ip, seen)
    }

    /// What a local pod sends, after translation. An open pod is asked nothing.
    fn second(&mut self, author: &Pod, ip: &Ip, seen: bool) -> Expected {
        if author.egress.open {
            return Pass;
        }
        let destination = ip.ends.map(|(_, destination)| destination);
        let other = match destination {
            Some(own) if author.owns(own) && !author.egress.cluster => Other::Itself,
            Some(destination) => Other::Somebody(self.node.peer(destination, false)),
            None => Other::Somebody(Peer::nobody()),
        };
        self.ask(&Question {
            pod: author,
            way: Way::Out,
            other,
            stage: Stage::Second,
            ip,
            seen,
        })
    }

    fn to_pod(&mut self, run: &Run, frame: &Frame, seen: bool) -> Expected {
        let Some(pod) = self.node.pod(run.interface).cloned() else {
            return match frame {
                Frame::Arp(_) => Pass,
                Frame::Ip(Ip {
                    content: Content::Neighbour(..),
                    ..
                }) => Pass,
                Frame::Ip(Ip {
                    content: Content::Unclear(why),
                    ..
                }) => Either(why),
                _ => Drop,
            };
        };
        let ip = match frame {
            Frame::Arp(_) => return Pass,
            Frame::Vlan | Frame::Other => return if pod.ingress.open { Pass } else { Drop },
            Frame::Ip(ip) => ip,
        };
        if matches!(ip.content, Content::Neighbour(..) | Content::Listener(..)) {
            return Pass; // rule 51
        }
        let Some((source, destination)) = ip.ends else {
            return if pod.ingress.open {
                Either("a header without ends")
            } else {
                Drop
            };
        };
        if destination.is_unspecified() && ip.six {
            self.doubt_between(pod.interface, ip.ends, "to nobody");
            return Either("to nobody");
        }
        if !pod.owns(destination) && !to_many(ip) {
            return Drop; // flooded by the bridge
        }
        // Of fragments of IPv6 without a mark nobody knows where they came from.
        let unknown = ip.six && ip.fragment != Fragment::Whole;
        let judged_by = |pod: &Pod| run.tag == u32::from(pod.index) | JUDGED;
        let other;
        if run.came_by == 0 && run.tag == 0 && !unknown {
            other = Other::ThisNode; // rule 39
        } else {
            let named = self.node.numbered(run.tag & NUMBER).cloned();
            let owner = self.node.owner(source).cloned();
            let sender = match run.came_by {
                0 => owner.clone().or_else(|| named.clone()),
                interface => self
                    .node
                    .pods
                    .iter()
                    .find(|pod| pod.interface == interface)
                    .cloned(),
            };
            let sender = sender.filter(|sender| self.node.pod(sender.interface).is_some());
            let author = match &sender {
                Some(sender) if judged_by(sender) => None,
                Some(sender) => Some(sender.clone()),
                None if run.tag & DEFERRED != 0 => match owner.or(named) {
                    Some(author) if self.node.pod(author.interface).is_some() => Some(author),
                    _ => return Drop, // it waits for a verdict that nobody can give
                },
                None => None,
            };
            let author = author.filter(|author| {
                author.interface != pod.interface && self.node.pod(author.interface).is_some()
            });
            let mut ask_first = Pass;
            if let Some(author) = author {
                ask_first = self.second(&author, ip, seen);
                match ask_first {
                    Drop => return Drop,
                    Either(why) if !seen => self.doubt_between(author.interface, ip.ends, why),
                    _ => {}
                }
            }
            other = match sender {
                Some(sender) if sender.interface == pod.interface && !pod.ingress.cluster => Other::Itself,
                Some(sender) => Other::Somebody(match sender.address(ip.six) {
                    Some(address) => self.node.peer(address, true),
                    None => Peer::nobody(),
                }),
                None => Other::Somebody(self.node.peer(source, true)),
            };
            if let Either(why) = ask_first {
                return self.after_either(&pod, other, ip, seen, why);
            }
        }
        self.ask(&Question {
            pod: &pod,
            way: Way::In,
            other,
            stage: Stage::Second,
            ip,
            seen,
        })
    }

    /// The sender's half is open: the receiver's decides only where it denies.
    fn after_either(&mut self, pod: &Pod, other: Other, ip: &Ip, seen: bool, why: &'static str) -> Expected {
        let question = Question {
            pod,
            way: Way::In,
            other,
            stage: Stage::Second,
            ip,
            seen,
        };
        if !seen {
            self.doubt(&question, why);
            return Either(why);
        }
        match self.ask(&question) {
            Drop => Drop,
            _ => Either(why),
        }
    }
}

/// Rule 51, from a pod: neighbour and listener discovery, if the sender speaks for itself.
fn discovery(pod: &Pod, ip: &Ip, source: IpAddr) -> Option<Expected> {
    let IpAddr::V6(from) = source else { return None };
    let local = from.is_unicast_link_local() || from.is_unspecified();
    if let Content::Unclear(why) = ip.content
        && (local || pod.owns(source))
    {
        return Some(Either(why));
    }
    let (kind, target) = match ip.content {
        Content::Neighbour(kind, target) => (kind, target),
        Content::Listener(kind) => (kind, None),
        _ => return None,
    };
    if !local && !pod.owns(source) {
        return Some(Drop);
    }
    Some(match kind {
        130 | 134 | 137 => Drop, // a pod is no router
        136 if !target.is_some_and(|target| pod.owns(target.into()) || target == of_mac(pod.mac)) => Drop,
        _ => Pass,
    })
}

/// The link-local address that an interface makes of its MAC address (RFC 4291, appendix A).
fn of_mac([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}
