//! The judge of packets: rules 39 to 54 of docs/semantics.md, for one packet after the other.
//!
//! ```text
//! bytes ─► what the frame says ─┐
//! node: pods, peers, policies ──┼─► hook ─► one direction of one pod, or two ─► pass, drop, either
//! history: plain maps ──────────┘
//! ```
//! Written from that page and docs/design.md ("Hooks"), apart from the programs: it reads bytes its own way, keeps
//! connections in plain maps and has neither identities nor slots. Where the texts leave room it says
//! [`Expected::Either`], and why.
//!
//! Invariant: history follows what really happened only where both answers are right; else what should have.
#![allow(
    clippy::wildcard_enum_match_arm,
    clippy::wrong_self_convention,
    reason = "whatever a rule does not name falls to its last line; hooks have the names of the programs"
)]

pub mod bytes;
mod hooks;
pub mod node;

pub use hooks::{Hook, Run};

use std::{collections::HashMap, net::IpAddr};

use self::{
    bytes::{Content, Fragment, Ip},
    node::{Node, Peer, Pod, Way},
};
use vethwall_common::protocol;

/// What should become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It goes on.
    Pass,
    /// It goes on, and must be judged again at the bridge or at the destination.
    Wait,
    /// It is dropped.
    Drop,
    /// Both are right, for this reason.
    Either(&'static str),
}

use Expected::{Drop, Either, Pass, Wait};

/// What happened before, and the node as it is.
#[derive(Debug, Default)]
pub struct Judge {
    /// The node.
    pub node: Node,
    connections: HashMap<Key, Connection>,
    fragments: HashMap<Datagram, First>,
    doubts: HashMap<(u32, IpAddr, IpAddr), &'static str>,
}

/// A connection as one pod sees it (rule 54), whichever way a packet of it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    interface: u32,
    protocol: u8,
    ends: [(IpAddr, u16); 2],
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    /// The way of its first packet.
    opened: Way,
    /// Of the policy that admitted it.
    version: u32,
    /// Policy no longer allows it.
    cut: bool,
    /// It was passed on to be judged later.
    waits: bool,
    /// As first fragments, of which nobody knows whether they arrive: answers stay away.
    unsure: bool,
    /// It was judged at the pod's veth.
    direct: bool,
    /// Ended by the one that opened it, and by the other.
    ends: [bool; 2],
    reset: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Datagram {
    interface: u32,
    way: Way,
    ends: (IpAddr, IpAddr),
    number: u32,
    protocol: u8,
}

#[derive(Clone, Copy, Debug)]
enum First {
    /// By the policy of this version.
    Allowed(u32),
    Doubtful(&'static str),
}

/// Who is at the other end.
#[derive(Clone, Debug)]
enum Other {
    /// This node made it.
    ThisNode,
    /// The pod itself.
    Itself,
    /// Somebody that policy is about.
    Somebody(Peer),
}

/// Where the question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// At the pod's veth, with somebody behind who asks about translated destinations, or without.
    First { bridge: bool },
    /// After translation, or towards the pod.
    Second,
}

/// May this packet pass, in this direction of this pod?
struct Question<'a> {
    pod: &'a Pod,
    way: Way,
    other: Other,
    stage: Stage,
    ip: &'a Ip,
    /// What really happened.
    seen: bool,
}

impl Question<'_> {
    fn ends(&self) -> Option<(IpAddr, IpAddr)> {
        self.ip.ends
    }

    fn is_open(&self) -> bool {
        self.pod.policy(self.way).open
    }

    fn is_a_question_of_policy(&self) -> bool {
        matches!(self.other, Other::Somebody(_))
    }

    /// What is sent beyond the pods may be translated later.
    fn leads_beyond(&self) -> bool {
        let beyond = matches!(&self.other, Other::Somebody(peer) if !peer.pod);
        beyond && matches!(self.stage, Stage::First { .. }) && !self.is_open()
    }

    fn datagram(&self, number: u32, protocol: u8) -> Option<Datagram> {
        Some(Datagram {
            interface: self.pod.interface,
            way: self.way,
            ends: self.ends()?,
            number,
            protocol,
        })
    }
}

fn key(interface: u32, protocol: u8, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Key {
    let mut ends = [source, destination];
    ends.sort_unstable();
    Key {
        interface,
        protocol,
        ends,
    }
}

/// The connection that a packet belongs to, if its protocol has any.
fn key_of(interface: u32, ip: &Ip) -> Option<Key> {
    let (source, destination) = ip.ends?;
    let ports = match ip.content {
        Content::Ports {
            source, destination, ..
        } => (source, destination),
        // The identifier is the asker's.
        Content::Echo { id, request: true } => (id, 0),
        Content::Echo { id, request: false } => (0, id),
        Content::Other => (0, 0),
        _ => return None,
    };
    Some(key(
        interface,
        ip.protocol,
        (source, ports.0),
        (destination, ports.1),
    ))
}

impl Judge {
    /// Nothing happened yet.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            ..Self::default()
        }
    }

    /// The programs lost what they knew of an interface's connections.
    pub fn forget(&mut self, interface: u32) {
        self.connections.retain(|key, _| key.interface != interface);
        self.fragments.retain(|key, _| key.interface != interface);
        self.doubts.retain(|(of, ..), _| *of != interface);
    }

    fn doubt(&mut self, question: &Question<'_>, why: &'static str) {
        self.doubt_between(question.pod.interface, question.ends(), why);
    }

    /// What the programs now know about these two is not known here.
    fn doubt_between(&mut self, interface: u32, ends: Option<(IpAddr, IpAddr)>, why: &'static str) {
        if let Some((a, b)) = ends {
            self.doubts.insert((interface, a.min(b), a.max(b)), why);
        }
    }

    fn doubtful(&self, interface: u32, ends: Option<(IpAddr, IpAddr)>) -> Option<&'static str> {
        let (a, b) = ends?;
        self.doubts.get(&(interface, a.min(b), a.max(b))).copied()
    }

    /// The known connection; one that has ended may be forgotten (rule 47).
    fn known(&self, key: &Key) -> Option<Connection> {
        let found = self.connections.get(key).copied()?;
        let ended = match key.protocol {
            protocol::TCP => found.reset || found.ends == [true; 2],
            protocol::SCTP => found.reset,
            _ => false,
        };
        (!ended || !self.node.forget_ended).then_some(found)
    }

    fn ask(&mut self, question: &Question<'_>) -> Expected {
        if let Some(why) = self.doubtful(question.pod.interface, question.ends()) {
            return Either(why);
        }
        if let Content::Unclear(why) = question.ip.content {
            // Nothing begins with a packet that was dropped; what there is may have been cut.
            let between = |key: &Key| {
                let [(a, _), (b, _)] = key.ends;
                question.ends() == Some((a, b)) || question.ends() == Some((b, a))
            };
            if question.seen || self.connections.keys().any(between) {
                self.doubt(question, why);
            }
            return Either(why);
        }
        if let Fragment::Later(number, protocol) = question.ip.fragment {
            return self.later(question, number, protocol);
        }
        match &question.ip.content {
            Content::Broken(_) if question.is_open() => Pass,
            Content::Broken(_) if !question.is_a_question_of_policy() => {
                Either("rule 39 or 40 passes it, rule 50 denies it")
            }
            Content::Broken(_) => Drop, // rules 49, 50
            Content::Error { odd, quote } => match self.quotes(question, quote) {
                Some(Pass) if !odd => {
                    self.first(question, None, "an error that is a fragment");
                    Pass // rule 44
                }
                Some(_) => {
                    self.first(question, None, "an error that is a fragment");
                    Either("an error about a connection that may be known")
                }
                None => self.stranger(question),
            },
            // An answer to many would come from elsewhere: there is nothing to know.
            Content::Ports { .. } | Content::Echo { .. } | Content::Other
                if question.way == Way::Out || !to_many(question.ip) =>
            {
                self.connection(question)
            }
            _ => self.stranger(question),
        }
    }

    /// Rule 48.
    fn later(&self, question: &Question<'_>, number: u32, protocol: u8) -> Expected {
        let datagram = question.datagram(number, protocol);
        let first = datagram.and_then(|datagram| self.fragments.get(&datagram));
        match first {
            Some(First::Allowed(version)) if *version == question.pod.policy(question.way).version => Pass,
            Some(First::Doubtful(why)) => Either(why),
            _ if question.is_open() => Pass,
            _ if !question.is_a_question_of_policy() => Either("rule 39 or 40 passes it, rule 48 denies it"),
            _ if question.leads_beyond() && question.stage == (Stage::First { bridge: true }) => Wait,
            _ => Drop,
        }
    }

    /// Notes what later fragments may do.
    fn first(&mut self, question: &Question<'_>, allowed: Option<bool>, why: &'static str) {
        let Fragment::First(number, protocol) = question.ip.fragment else {
            return;
        };
        let Some(datagram) = question.datagram(number, protocol) else {
            return;
        };
        let behind = protocol != question.ip.protocol;
        match allowed {
            Some(true) if behind => self.fragments.insert(
                datagram,
                First::Doubtful("headers that only the first fragment has"),
            ),
            Some(true) => self.fragments.insert(
                datagram,
                First::Allowed(question.pod.policy(question.way).version),
            ),
            Some(false) => self.fragments.remove(&datagram),
            None => self.fragments.insert(datagram, First::Doubtful(why)),
        };
    }

    /// Rule 44: whether an error quotes something that its receiver sent on a connection that is known here.
    fn quotes(&self, question: &Question<'_>, quote: &[u8]) -> Option<Expected> {
        let inner = bytes::quoted(quote, question.ip.six);
        let receiver = question.ends()?.1;
        if inner.ends?.0 != receiver || matches!(inner.fragment, Fragment::Later(..)) {
            return None;
        }
        if let Content::Unclear(why) = inner.content {
            return Some(Either(why));
        }
        if let Some(why) = self.doubtful(question.pod.interface, inner.ends) {
            return Some(Either(why));
        }
        let known = self.known(&key_of(question.pod.interface, &inner)?)?;
        match known {
            Connection { cut: true, .. } | Connection { unsure: true, .. } => None,
            _ => Some(Pass),
        }
    }

    fn policy_allows(&self, question: &Question<'_>) -> bool {
        let port = match question.ip.content {
            Content::Ports { destination, .. } => Some(destination),
            _ => None,
        };
        match &question.other {
            Other::ThisNode | Other::Itself => true, // rules 39, 40
            Other::Somebody(peer) if peer.own_node && self.node.own_node_egress => true,
            Other::Somebody(peer) => {
                question
                    .pod
                    .policy(question.way)
                    .allows(&peer.class, question.ip.protocol, port)
            }
        }
    }

    /// What belongs to no connection.
    fn stranger(&mut self, question: &Question<'_>) -> Expected {
        if question.leads_beyond() {
            return match question.stage {
                Stage::First { bridge: true } => Wait,
                _ => Drop,
            };
        }
        let allowed = self.policy_allows(question);
        self.first(question, Some(allowed), "");
        if allowed { Pass } else { Drop }
    }

    /// Rules 43 to 47.
    fn connection(&mut self, question: &Question<'_>) -> Expected {
        let Some(key) = key_of(question.pod.interface, question.ip) else {
            return Either("no connection");
        };
        let (opens, ends, resets) = match question.ip.content {
            Content::Ports {
                opens, ends, resets, ..
            } => (opens, ends, resets),
            Content::Echo { request, .. } => (request, false, false),
            _ => (false, false, false),
        };
        let version = question.pod.policy(question.way).version;
        let bridge = question.stage == Stage::First { bridge: true };
        let known = self.known(&key);
        let touch = |judge: &mut Self| {
            if let Some(connection) = judge.connections.get_mut(&key) {
                connection.ends[usize::from(connection.opened != question.way)] |= ends;
                connection.reset |= resets;
            }
        };
        // An echo request, as a SYN, is a question whoever asks (rule 46); only SYNs ask again on the same way.
        let asks_again =
            opens && question.ip.protocol != protocol::ICMP && question.ip.protocol != protocol::ICMPV6;
        match known {
            Some(known) if known.opened != question.way && !opens => {
                let answer = match known {
                    Connection { cut: true, .. } | Connection { unsure: true, .. } => return Drop,
                    _ => Pass,
                };
                if answer == Pass || question.seen {
                    touch(self);
                    self.first(question, Some(true), "");
                }
                return answer;
            }
            Some(known) if known.opened == question.way && !asks_again => {
                let current = known.version == version;
                // What was cut behind the bridge stays cut until policy changes; the next packet is judged there again.
                let waits = bridge && !question.is_open() && !known.direct && !known.unsure;
                if waits && (current || !known.cut) {
                    touch(self);
                    return Wait;
                }
                // What was only ever asked behind the bridge is asked there again.
                let here = known.direct || !bridge;
                if here && !known.cut && !known.waits && (current || self.node.keep_connections) {
                    touch(self);
                    self.first(question, Some(true), "");
                    return Pass;
                }
            }
            _ => {}
        }
        let same_way = known.filter(|known| known.opened == question.way);
        let middle = known.is_none()
            && matches!(question.ip.protocol, protocol::TCP | protocol::SCTP)
            && !opens
            && question.is_a_question_of_policy()
            && !question.pod.policy(question.way.other()).lets_anybody();
        let kept = same_way.filter(|_| !opens);
        let fresh = Connection {
            opened: question.way,
            version,
            cut: false,
            waits: false,
            unsure: false,
            direct: false,
            ends: kept.map_or([false; 2], |known| known.ends),
            reset: kept.is_some_and(|known| known.reset),
        };
        if question.leads_beyond() {
            if !bridge {
                if same_way.is_some() {
                    self.doubt(question, "a connection that can not be judged any more");
                }
                return Drop;
            }
            if middle {
                return Drop;
            }
            if question.ip.damaged {
                return Drop;
            }
            let unsure = matches!(question.ip.fragment, Fragment::First(..));
            let waits = true;
            self.connections.insert(
                key,
                Connection {
                    waits,
                    unsure,
                    ..fresh
                },
            );
            return Wait;
        }
        if !self.policy_allows(question) {
            if let Some(known) = same_way.and_then(|_| self.connections.get_mut(&key)) {
                known.cut = true;
            }
            self.first(question, Some(false), "");
            return Drop;
        }
        let answer = match question.stage {
            Stage::Second if middle && question.way == Way::Out => Either("the first stage has asked"),
            _ if middle => Drop,
            _ => Pass,
        };
        if answer == Pass || (answer != Drop && question.seen) {
            let direct = question.stage != Stage::Second && question.way == Way::Out;
            self.connections.insert(key, Connection { direct, ..fresh });
            touch(self);
            self.first(question, Some(true), "");
        } else {
            self.first(question, Some(false), "");
        }
        answer
    }
}

/// Multicast and broadcast: whoever answers has another address.
fn to_many(ip: &Ip) -> bool {
    match ip.ends {
        Some((_, IpAddr::V4(v4))) => v4.is_multicast() || v4.is_broadcast(),
        Some((_, IpAddr::V6(v6))) => v6.is_multicast(),
        None => false,
    }
}
