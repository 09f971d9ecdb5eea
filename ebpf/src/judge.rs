//! The verdict: one question (may this packet pass, in this direction of this endpoint?), one answer, for both
//! families and all hooks.
//!
//! ```text
//! fragment? malformed? ICMP error?
//!  └► connection known? ── reply ───────────────────────► pass (Established); revoked: drop
//!       │               └─ same way, generation equal ──► pass (Established)
//!       │                                  other ──► judged again, once; denied: revoked
//!       ├─ no, and does not begin one ──► isolated the other way: drop (MidStream)
//!       └► peer ─► slot, identity ─► ports ─► pass and track / drop
//! ```
//!
//! Every connection is tracked, also where no policy selects the pod: a pod without ingress policy may have an
//! egress policy, whose replies must be known; and when a policy comes, the replies of what runs already must not be
//! mistaken for new connections. It costs the insert once a connection.
//!
//! Invariants:
//! - A packet that begins something (bare SYN, echo request) never passes on the strength of a connection that the
//!   other side opened.
//! - No packet makes an answer of what may be a question: where nobody knows who began, both ways must be open.
//! - Whoever asks gets exactly one count, and an event for a new connection or a drop, never for a packet that waits
//!   for its second stage.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use vethwall_common::{
    Direction,
    config::Config,
    flow::{FlowEntry, FragmentEntry, state},
    identity::Identity,
    protocol,
    verdict::{Action, Reason},
};

use crate::{
    address::Words,
    case::{Case, origin, stage, zero},
    checksum, count, event,
    flow::{self, Revocable},
    lookup::{self, Answer, Peer},
    parse::{self, Packet, marks},
    skb::Frame,
};

/// The answer of [`judge`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use = "a verdict that nobody acts on lets the packet pass"]
pub(crate) enum Outcome {
    /// Drop it.
    Dropped,
    /// Let it go on.
    Passed,
    /// Let it go on to its second stage.
    Waits,
}

/// Judges a packet.
#[inline(always)]
pub(crate) fn judge(frame: Frame, case: &mut Case) -> Outcome {
    case.related = if case.packet.is(marks::ERROR) {
        related(frame.raw(), case) as u8
    } else {
        0
    };
    match verdict(frame.raw(), case) {
        PASSED => Outcome::Passed,
        WAITS => Outcome::Waits,
        _ => Outcome::Dropped,
    }
}

const PASSED: u64 = 1;
const WAITS: u64 = 2;

/// A subprogram of its own: it has its own stack, and the hook that asks twice carries it once.
#[inline(never)]
fn verdict(raw: *mut __sk_buff, case: &mut Case) -> u64 {
    let (action, reason, news) = decide(raw, case);
    close(case, action, reason, news);
    match action {
        Action::Drop => 0,
        Action::Pass | Action::Audit if matches!(reason, Reason::Deferred) => WAITS,
        Action::Pass | Action::Audit => PASSED,
    }
}

/// Counts a verdict and, where it is news, tells it.
#[inline(always)]
pub(crate) fn close(case: &Case, action: Action, reason: Reason, news: bool) {
    count::packet(action, case.direction(), reason);
    if news {
        event::tell(case, action, reason);
    }
}

type Decision = (Action, Reason, bool);

const fn quiet(reason: Reason) -> Decision {
    (Action::Pass, reason, false)
}

const fn drop(reason: Reason) -> Decision {
    (Action::Drop, reason, true)
}

#[inline(always)]
fn decide(raw: *mut __sk_buff, case: &mut Case) -> Decision {
    let Some(config) = lookup::config() else {
        return drop(Reason::Unknown);
    };
    if case.packet.is(marks::LATER) {
        return fragment(case);
    }
    if case.packet.is(marks::MALFORMED) {
        return if case.is_open() {
            (Action::Pass, Reason::NotIsolated, true)
        } else {
            drop(Reason::Malformed)
        };
    }
    if case.related != 0 {
        return quiet(Reason::Related);
    }
    if case.packet.is(marks::TRACKED) {
        connection(raw, case, config)
    } else {
        stranger(case, config)
    }
}

/// A packet of a connection.
#[inline(always)]
fn connection(raw: *mut __sk_buff, case: &mut Case, config: &Config) -> Decision {
    let key = flow::Key::new(case.ifindex, &case.packet);
    let found = flow::find(&key, case.now, config);
    let (mut known, mut established, mut kept) = (false, false, 0);
    // Null and not an option: Linux 5.10 refuses a stack slot that is read where only some ways wrote it.
    let mut same_way = Revocable::NONE;
    if let Some(found) = found {
        established = found.established;
        let bits = found.state();
        let revoked = bits & state::REVOKED != 0;
        if found.direction() != case.direction {
            if !case.packet.is(marks::OPENS) {
                if revoked {
                    found.revocable().revoke(case.now);
                    return drop(Reason::Revoked);
                }
                if bits & state::UNSURE != 0 {
                    return drop(Reason::MidStream);
                }
                found.reply(&key, &case.packet, case.now);
                return follow_up(case, Reason::Established);
            }
        } else if case.packet.is(marks::SYN) {
            same_way = found.revocable();
            // Sent again, or late: what the connection has reached does not go back.
            if bits & (state::CLOSING | state::REVOKED) == 0 {
                kept = bits & state::REPLIED;
            }
        } else {
            same_way = found.revocable();
            let current = found.generation() == case.slot.generation();
            // What the second stage denied it denies until policy changes: its answers stay away meanwhile.
            let waits = case.stage == stage::MAY_WAIT && bits & state::DIRECT == 0 && (current || !revoked);
            let valid = current || config.flags & Config::KEEP_CONNECTIONS != 0;
            if waits && bits & state::UNSURE == 0 && !case.is_open() {
                found.touch(&case.packet, false, case.now);
                return quiet(Reason::Deferred);
            }
            if valid && bits & state::DEFERRED == 0 && !waits && !revoked {
                found.touch(&case.packet, false, case.now);
                return follow_up(case, Reason::Established);
            }
            known = bits & state::DEFERRED == 0;
            kept = bits & (state::REPLIED | state::CLOSING);
        }
    }
    let middle = found.is_none() && in_the_middle(case);

    let (answer, peer) = answer(case, config);
    if can_not_wait(case, &peer) {
        return drop(Reason::NoBridge);
    }
    let mut entry = FlowEntry {
        generation: case.slot.generation(),
        identity: peer.identity,
        cookie: answer.cookie,
        last_seen: case.now,
        state: kept,
        direction: case.direction,
        reserved: 0,
    };
    if waits(case, &peer) {
        if middle {
            return drop(Reason::MidStream);
        }
        if arrives(raw, &case.packet) == 0 {
            return drop(Reason::Malformed);
        }
        entry.state |= state::DEFERRED;
        if case.packet.is(marks::FIRST) {
            entry.state |= state::UNSURE;
        }
        if !flow::store(&key, &entry, established) {
            return drop(Reason::FlowTable);
        }
        return quiet(Reason::Deferred);
    }
    let action = Action::from_allow(answer.bits);
    if matches!(action, Action::Drop) {
        same_way.revoke(case.now);
        first_fragment(case, false);
        return drop(if known { Reason::Revoked } else { answer.reason });
    }
    if middle {
        first_fragment(case, false);
        return drop(Reason::MidStream);
    }
    if case.stage != stage::SECOND && case.direction == Direction::Egress as u8 {
        entry.state |= state::DIRECT;
    }
    if case.packet.is(marks::FIN) {
        entry.state |= state::FIN_ORIGINAL;
    }
    if case.packet.is(marks::RST) {
        entry.state |= state::RESET;
    }
    if !flow::store(&key, &entry, established) && !case.is_open() {
        return drop(Reason::FlowTable);
    }
    first_fragment(case, true);
    if known {
        quiet(Reason::Established)
    } else {
        (action, answer.reason, true)
    }
}

/// Whether the node will take the packet, so that its second stage comes.
#[inline(never)]
fn arrives(raw: *mut __sk_buff, packet: &Packet) -> u64 {
    checksum::arrives(Frame::from_raw(raw), packet) as u64
}

/// Whether the packet, of no known connection, belongs to one that began before (SEMANTICS 46): then it may be an answer,
/// and what it answers may be forbidden. After address translation the first stage has asked already.
#[inline(always)]
fn in_the_middle(case: &Case) -> bool {
    matches!(case.packet.protocol, protocol::TCP | protocol::SCTP)
        && !case.packet.is(marks::OPENS)
        && (case.stage != stage::SECOND || case.direction == Direction::Ingress as u8)
        && matches!(case.origin, origin::ADDRESS)
        && !lookup::lets_anybody(case.opposite)
}

/// A packet that belongs to no connection: other ICMP, multicast.
#[inline(always)]
fn stranger(case: &mut Case, config: &Config) -> Decision {
    let (answer, peer) = answer(case, config);
    if waits(case, &peer) {
        return quiet(Reason::Deferred);
    }
    if can_not_wait(case, &peer) {
        return drop(Reason::NoBridge);
    }
    let action = Action::from_allow(answer.bits);
    first_fragment(case, !matches!(action, Action::Drop));
    (action, answer.reason, true)
}

/// A fragment without a transport header: follows its first fragment, or waits where the node will put the datagram
/// together before the second stage.
#[inline(always)]
fn fragment(case: &Case) -> Decision {
    if flow::follows(
        case.ifindex,
        case.direction(),
        &case.packet,
        case.slot.generation(),
        case.now,
    ) {
        return quiet(Reason::Established);
    }
    if case.is_open() {
        return quiet(Reason::NotIsolated);
    }
    if case.stage == stage::MAY_WAIT && !lookup::peer(&case.other, false).pod {
        return quiet(Reason::Deferred);
    }
    drop(Reason::Fragment)
}

/// The answer of policy, or of what stands above policy.
#[inline(always)]
fn answer(case: &mut Case, config: &Config) -> (Answer, Peer) {
    let fixed = |identity| Peer {
        identity,
        reported: identity,
        pod: true,
        own_node: false,
    };
    let (answer, peer) = match case.origin {
        origin::OWN_NODE => (Answer::allowed(Reason::OwnNode), fixed(Identity::LOCAL_HOST)),
        origin::ITSELF => (Answer::allowed(Reason::SelfTraffic), fixed(Identity::SELF)),
        _ => {
            let peer = if case.other == Words::NONE {
                fixed(Identity::INVALID)
            } else {
                lookup::peer(&case.other, case.direction == Direction::Ingress as u8)
            };
            let answer = if peer.own_node && config.flags & Config::OWN_NODE_EGRESS != 0 {
                Answer::allowed(Reason::OwnNode)
            } else {
                let packet = &case.packet;
                lookup::ask(
                    case.slot.slot(),
                    peer.identity,
                    packet.protocol,
                    packet.destination_port,
                )
            };
            (answer, peer)
        }
    };
    case.cookie = answer.cookie;
    case.peer = peer.reported;
    (answer, peer)
}

/// Whether the packet is to be judged at its second stage.
#[inline(always)]
fn waits(case: &Case, peer: &Peer) -> bool {
    case.stage == stage::MAY_WAIT && !case.is_open() && !peer.pod
}

/// Whether the packet would have to be judged at its second stage, and there is none: nobody knows where it goes.
#[inline(always)]
fn can_not_wait(case: &Case, peer: &Peer) -> bool {
    case.stage == stage::AT_ONCE && !case.is_open() && !peer.pod
}

/// Notes what later fragments of this datagram may do.
#[inline(always)]
fn first_fragment(case: &Case, allowed: bool) {
    if !case.packet.is(marks::FIRST) {
        return;
    }
    let entry = FragmentEntry {
        generation: case.slot.generation(),
        last_seen: case.now,
    };
    // Without room the later fragments find nothing and are dropped where the pod is isolated.
    let _ = flow::first_fragment(
        case.ifindex,
        case.direction,
        &case.packet,
        allowed.then_some(entry),
    );
}

/// A packet that passes on an entry.
#[inline(always)]
fn follow_up(case: &Case, reason: Reason) -> Decision {
    first_fragment(case, true);
    quiet(reason)
}

/// Whether an ICMP error quotes a connection that was allowed: one that its receiver sends on.
#[inline(never)]
fn related(raw: *mut __sk_buff, case: &Case) -> u64 {
    let Some(config) = lookup::config() else { return 0 };
    let mut inner = MaybeUninit::<Packet>::uninit();
    // SAFETY: every field of a packet may be zero, and is from here on.
    let inner = unsafe {
        zero(&mut inner);
        inner.assume_init_mut()
    };
    if !parse::quoted(&Frame::from_raw(raw), &case.packet, inner) || inner.source != case.packet.destination {
        return 0;
    }
    let key = flow::Key::new(case.ifindex, inner);
    let silent = state::REVOKED | state::UNSURE;
    flow::find(&key, case.now, config).is_some_and(|found| found.state() & silent == 0) as u64
}
