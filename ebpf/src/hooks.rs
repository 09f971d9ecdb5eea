//! What each hook does around the verdict.
//!
//! ```text
//!  pod ─► from_pod ─► bridge ─┬─► to_pod of another pod            tag JUDGED:   nothing left
//!        (checks the sender)  └─► from_bridge ─► node's routing    tag DEFERRED: egress judged there, after DNAT
//!                                                                  no tag:       as DEFERRED
//! ```
//!
//! Invariants:
//! - `from_pod` writes the tag on every way out, so that nothing that the pod preset survives.
//! - A lost tag costs a lookup and never lets a packet through: a packet without one from an isolated pod is judged.
//! - A tag is believed only about the endpoint that it names, and a packet with a tag is never this node's own.
//! - What waits for a verdict is dropped where nobody in force can be asked for it.
//! - Another version's tag is never taken for ours: it says that the packet is a pod's and whether it waits, not whose.
//! - From an interface whose endpoint is not in force nothing comes; to it go ARP and neighbour discovery only.

use aya_ebpf::bindings::__sk_buff;
use vethwall_common::{
    Direction,
    config::Config,
    endpoint::tag,
    protocol,
    verdict::{Action, Reason},
};

use crate::{
    address::Words,
    case::{Case, origin, stage},
    count,
    judge::{self, Outcome, judge},
    lookup::{self, Endpoint},
    maps::{ENDPOINT_INDEX, SCRATCH},
    parse::{self, Bytes, Packet, marks},
    skb::{Frame, Kind, Link, SHOT, UNSPEC},
};

/// Packets from a pod, at the ingress of its veth.
#[inline(always)]
pub(crate) fn from_pod(frame: Frame) -> i32 {
    let (Some(link), Some(case), Some(config)) = (frame.link(), scratch(), lookup::config()) else {
        return SHOT;
    };
    open(case, frame, &link, Direction::Egress);
    let Some(endpoint) = lookup::endpoint(frame.ifindex(), config) else {
        return refuse(case, Reason::Pending);
    };
    let judged = tag::JUDGED | tag::version(config.abi) | endpoint.index();
    case.slot = endpoint.egress();
    case.opposite = endpoint.ingress().slot();
    case.open = lookup::is_open(case.slot.slot()) as u8;
    if !endpoint.has_mac(link.source) {
        return refuse(case, Reason::Spoofed);
    }
    match link.kind {
        Kind::Arp if is_honest_arp(frame, endpoint) => {
            frame.set_tag(judged);
            return neighbour(case);
        }
        Kind::Arp => return refuse(case, Reason::Spoofed),
        Kind::Vlan | Kind::Other => {
            frame.set_tag(judged);
            return not_ip(case, link.kind);
        }
        Kind::Ipv4 | Kind::Ipv6 => {}
    }
    if !endpoint.owns(&case.packet.source) {
        let local = case.packet.source.is_link_local() || case.packet.source == Words::NONE;
        let unreadable = case.packet.is(marks::MALFORMED) && case.packet.source == Words::NONE;
        let on_link = local && case.packet.is(marks::NEIGHBOUR | marks::LISTENER);
        if !on_link && !unreadable {
            return refuse(case, Reason::Spoofed);
        }
    }
    if case.packet.is(marks::NEIGHBOUR | marks::LISTENER) {
        if is_a_routers(&case.packet) || !is_honest_advertisement(frame, &case.packet, endpoint) {
            return refuse(case, Reason::Spoofed);
        }
        frame.set_tag(judged);
        return neighbour(case);
    }
    let packet = &case.packet;
    if packet.protocol == protocol::UDP
        && packet.is(marks::TRACKED)
        && packet.destination_port as u32 == config.tunnel_port
        && config.tunnel_port != 0
        && !lookup::peer(&case.packet.destination, false).pod
    {
        return refuse(case, Reason::Tunnel);
    }
    if endpoint.owns(&case.packet.destination) {
        count::packet(Action::Pass, Direction::Egress, Reason::SelfTraffic);
        frame.set_tag(judged);
        return UNSPEC;
    }
    let bridge = if link.kind == Kind::Ipv4 {
        Config::BRIDGE_V4
    } else {
        Config::BRIDGE_V6
    };
    // What does not get to the bridge is never judged there, and would leave its answers allowed.
    let arrives = lookup::is_bridge(link.destination, config)
        || (link.is_to_group() && case.packet.destination.is_group());
    case.stage = if config.flags & bridge != 0 && arrives {
        stage::MAY_WAIT
    } else {
        stage::AT_ONCE
    };
    case.other = case.packet.destination;
    match judge(frame, case) {
        Outcome::Dropped => SHOT,
        Outcome::Passed => {
            frame.set_tag(judged);
            UNSPEC
        }
        Outcome::Waits => {
            frame.set_tag(judged ^ (tag::JUDGED | tag::DEFERRED));
            UNSPEC
        }
    }
}

/// Packets from pods on their way up to the node, at the ingress of the bridge: after translation of the destination,
/// before that of the source.
#[inline(always)]
pub(crate) fn from_bridge(frame: Frame) -> i32 {
    let Some(config) = lookup::config() else {
        return SHOT;
    };
    let mark = tag::read(frame.tag(), config.abi);
    let named = tagged(mark);
    if mark & tag::JUDGED != 0 && named != 0 {
        return UNSPEC;
    }
    let (Some(link), Some(case)) = (frame.link(), scratch()) else {
        return SHOT;
    };
    if !matches!(link.kind, Kind::Ipv4 | Kind::Ipv6) {
        return UNSPEC;
    }
    open(case, frame, &link, Direction::Egress);
    if case.packet.is(marks::NEIGHBOUR | marks::LISTENER) {
        return UNSPEC;
    }
    let its_own = lookup::endpoint(named, config).is_some_and(|named| named.owns(&case.packet.source));
    let mut author = if its_own {
        named
    } else {
        owner(&case.packet.source)
    };
    if mark & tag::DEFERRED != 0 {
        if author == 0 {
            author = named;
        }
        if lookup::endpoint(author, config).is_none() {
            // It waits for a verdict that nobody can give any more, or not yet.
            return refuse(case, Reason::Pending);
        }
    }
    if author != 0 {
        if second_stage(frame.raw(), case, author) == DROPPED {
            return SHOT;
        }
        frame.set_tag(tag::JUDGED | tag::version(config.abi));
    }
    UNSPEC
}

/// Packets to a pod, at the egress of its veth.
#[inline(always)]
pub(crate) fn to_pod(frame: Frame) -> i32 {
    let (Some(link), Some(case), Some(config)) = (frame.link(), scratch(), lookup::config()) else {
        return SHOT;
    };
    open(case, frame, &link, Direction::Ingress);
    let ifindex = frame.ifindex();
    let Some(endpoint) = lookup::endpoint(ifindex, config) else {
        return if link.kind == Kind::Arp || case.packet.is(marks::NEIGHBOUR) {
            neighbour(case)
        } else {
            refuse(case, Reason::Pending)
        };
    };
    let slot = endpoint.ingress();
    let opposite = endpoint.egress().slot();
    let open = lookup::is_open(slot.slot()) as u8;
    case.slot = slot;
    case.opposite = opposite;
    case.open = open;
    match link.kind {
        Kind::Arp => return neighbour(case),
        Kind::Vlan | Kind::Other => return not_ip(case, link.kind),
        Kind::Ipv4 | Kind::Ipv6 => {}
    }
    if case.packet.is(marks::NEIGHBOUR | marks::LISTENER) {
        return neighbour(case);
    }
    let group = case.packet.destination.is_group();
    if !endpoint.owns(&case.packet.destination) && !group && case.packet.destination != Words::NONE {
        // The bridge floods frames for others to everyone; they are dropped without a word.
        return if endpoint.has_mac(link.destination) {
            refuse(case, Reason::WrongDestination)
        } else {
            count::packet(Action::Drop, Direction::Ingress, Reason::WrongDestination);
            SHOT
        };
    }
    if group {
        // An answer to many comes from elsewhere: there is nothing to track.
        case.packet.marks &= !marks::TRACKED;
    }

    let came_by = frame.came_by();
    let source = case.packet.source;
    let mark = tag::read(frame.tag(), config.abi);
    // The kernel copies the tag, but not the interface, to the fragments of an IPv6 datagram that it put together on the
    // way: of those without a tag nobody knows whether this node made them, so they are judged by their source address.
    let refragmented = case.packet.is(marks::FIRST | marks::LATER) && link.kind == Kind::Ipv6;
    if came_by == 0 && mark == 0 && !refragmented {
        case.origin = origin::OWN_NODE;
    } else {
        let sender = match came_by {
            0 => match owner(&source) {
                0 => tagged(mark),
                found => found,
            },
            found => found,
        };
        // Who sent it is known from where it came in, whatever its source address says now.
        let (local, judged) = match lookup::endpoint(sender, config) {
            Some(sender) => {
                case.sender = sender.address_of(source.is_v4());
                (true, mark == tag::JUDGED | sender.index())
            }
            None => {
                case.sender = source;
                (false, false)
            }
        };
        let author = if local {
            sender
        } else if mark & tag::DEFERRED == 0 {
            0
        } else {
            let waiting = match owner(&source) {
                0 => tagged(mark),
                found => found,
            };
            if lookup::endpoint(waiting, config).is_none() {
                return refuse(case, Reason::Pending);
            }
            waiting
        };
        if author != 0 && author != ifindex && !judged {
            if second_stage(frame.raw(), case, author) == DROPPED {
                return SHOT;
            }
            case.ifindex = ifindex;
            case.direction = Direction::Ingress as u8;
            case.slot = slot;
            case.opposite = opposite;
            case.open = open;
        }
        case.other = case.sender;
        case.origin = if sender == ifindex && !lookup::judges_itself(slot.slot()) {
            origin::ITSELF
        } else {
            origin::ADDRESS
        };
    }
    case.stage = stage::SECOND;
    match judge(frame, case) {
        Outcome::Dropped => SHOT,
        Outcome::Passed | Outcome::Waits => UNSPEC,
    }
}

/// [`second_stage`] has nothing to say.
const OPEN: u64 = 0;
/// [`second_stage`] lets it go on.
const PASSED: u64 = 1;
/// [`second_stage`] drops it.
const DROPPED: u64 = 2;

/// Judges what a local endpoint sends on the destination that it really has. An interface that is no endpoint in force
/// is not a pod's: nothing comes through a pending one.
#[inline(never)]
fn second_stage(raw: *mut __sk_buff, case: &mut Case, author: u32) -> u64 {
    let author = lookup::config().and_then(|config| lookup::endpoint(author, config));
    let Some(author) = author else { return OPEN };
    case.direction = Direction::Egress as u8;
    case.slot = author.egress();
    case.opposite = author.ingress().slot();
    case.open = lookup::is_open(case.slot.slot()) as u8;
    if case.open != 0 {
        return OPEN;
    }
    case.ifindex = author.ifindex();
    case.other = case.packet.destination;
    case.origin = if author.owns(&case.packet.destination) && !lookup::judges_itself(case.slot.slot()) {
        origin::ITSELF
    } else {
        origin::ADDRESS
    };
    case.stage = stage::SECOND;
    match judge(Frame::from_raw(raw), case) {
        Outcome::Passed | Outcome::Waits => PASSED,
        Outcome::Dropped => DROPPED,
    }
}

/// This CPU's case. In a map, because the verifier then takes what was parsed for unknown and looks at everything
/// behind it once, not once for each way through the parser; and because the stack is small.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Case> {
    // SAFETY: the hooks run with softirqs off and never one within another, so nobody else uses this CPU's element.
    SCRATCH.get_ptr_mut(0).map(|case| unsafe { &mut *case })
}

/// Begins a case about the packet, with everything unknown closed.
#[inline(always)]
fn open(case: &mut Case, frame: Frame, link: &Link, direction: Direction) {
    case.clear();
    case.ifindex = frame.ifindex();
    case.now = lookup::now();
    case.direction = direction as u8;
    case.stage = stage::AT_ONCE;
    match link.kind {
        Kind::Ipv4 => read(frame.raw(), &mut case.packet, true),
        Kind::Ipv6 => read(frame.raw(), &mut case.packet, false),
        Kind::Arp | Kind::Vlan | Kind::Other => {}
    }
}

/// The parser, as a subprogram with a stack of its own.
#[inline(never)]
fn read(raw: *mut __sk_buff, packet: &mut Packet, v4: bool) {
    let frame = Frame::from_raw(raw);
    if v4 {
        parse::ipv4(&frame, packet)
    } else {
        parse::ipv6(&frame, packet)
    }
}

/// The interface of the local pod that owns an address, or 0.
#[inline(always)]
fn owner(address: &Words) -> u32 {
    lookup::address_entry(address).map_or(0, |entry| entry.ifindex)
}

/// The interface of the endpoint that a tag names, or 0.
#[inline(always)]
fn tagged(mark: u32) -> u32 {
    ENDPOINT_INDEX
        .get(mark & tag::INDEX)
        .map_or(0, |ifindex| *ifindex)
}

/// ARP, neighbour discovery, listener discovery: without them nothing else works.
#[inline(always)]
fn neighbour(case: &Case) -> i32 {
    count::packet(Action::Pass, case.direction(), Reason::Neighbour);
    UNSPEC
}

/// Frames that no policy can speak about pass only where no policy speaks.
#[inline(always)]
fn not_ip(case: &Case, kind: Kind) -> i32 {
    if case.open != 0 {
        count::packet(Action::Pass, case.direction(), Reason::NotIsolated);
        return UNSPEC;
    }
    refuse(
        case,
        if kind == Kind::Vlan {
            Reason::Vlan
        } else {
            Reason::NotIp
        },
    )
}

#[inline(always)]
fn refuse(case: &Case, reason: Reason) -> i32 {
    refused(case, reason as u8);
    SHOT
}

/// A subprogram, because every hook refuses in many places.
#[inline(never)]
fn refused(case: &Case, reason: u8) {
    judge::close(
        case,
        Action::Drop,
        Reason::from_u8(reason).unwrap_or_default(),
        true,
    );
}

/// Whether an ARP packet speaks of the pod's own addresses (or of none, as a probe does).
#[inline(always)]
fn is_honest_arp(frame: Frame, endpoint: Endpoint) -> bool {
    // htype, ptype | hlen, plen, operation | sender MAC (6), sender address (4) | ...
    let Some(words) = frame.fixed::<{ parse::ETHERNET }, 5>() else {
        return false;
    };
    let mac = [words[2] as u16, (words[2] >> 16) as u16, words[3] as u16];
    let sender = (words[3] >> 16) | words[4] << 16;
    u32::from_be(words[0]) == 0x0001_0800
        && u32::from_be(words[1]) >> 16 == 0x0604
        && endpoint.has_mac(mac)
        && (sender == 0 || endpoint.owns(&Words::v4(sender)))
}

/// Router advertisements, redirects and listener queries: a pod is no router (CVE-2020-10749).
#[inline(always)]
fn is_a_routers(packet: &Packet) -> bool {
    matches!(packet.kind, 130 | 134 | 137)
}

/// Whether a neighbour advertisement is about the pod's own addresses.
#[inline(always)]
fn is_honest_advertisement(frame: Frame, packet: &Packet, endpoint: Endpoint) -> bool {
    if packet.kind != 136 {
        return true;
    }
    if packet.is(marks::SHORT) {
        return false;
    }
    let Some(target) = frame.at::<4>(packet.transport as u32 + 8) else {
        return false;
    };
    let target = Words::v6(target);
    endpoint.owns(&target) || endpoint.is_own_link_local(&target)
}
