//! Telling user space about verdicts.
//!
//! ```text
//! new connection ─────────────────────────────┐
//! drop, or no connection ─► told this tick? ──┴─► budget of the endpoint ─► ring buffer
//!                             count                 count                     count
//! ```
//! Invariants:
//! - Equal drops ([`SuppressionKey`]) are written once a tick; those left out are counted in the next one.
//! - What exceeds the endpoint's budget is counted in [`vethwall_common::maps::EVENTS_LIMITED`], what found the ring buffer
//!   full in [`vethwall_common::maps::EVENTS_LOST`].

use core::ptr;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use vethwall_common::{
    Direction,
    address::Addr,
    config::Config,
    event::{Event, SuppressionEntry, SuppressionKey},
    maps::{EVENTS_LIMITED, EVENTS_LOST, EVENTS_PER_TICK},
    protocol,
    verdict::{Action, Reason},
};

use crate::{
    address::Words,
    case::Case,
    count, lookup,
    maps::{BUDGET_SIZE, BUDGETS, EVENTS, SUPPRESSION},
    parse::marks,
};

/// [`SuppressionKey`] with its address in words.
#[repr(C)]
struct Key {
    peer: Words,
    ifindex: u32,
    port: u16,
    protocol: u8,
    kind: u8,
}

const _: () = assert!(size_of::<Key>() == size_of::<SuppressionKey>());
const _: () = assert!(core::mem::offset_of!(Key, kind) == core::mem::offset_of!(SuppressionKey, kind));

/// Takes one from the endpoint's budget of this tick, if there is one left.
#[inline(always)]
fn may_tell(case: &Case) -> bool {
    let Some(budget) = BUDGETS.get_ptr_mut(case.ifindex & (BUDGET_SIZE - 1)) else {
        return false;
    };
    // SAFETY: the element is this CPU's own, and programs do not interrupt themselves.
    unsafe {
        if (*budget).tick != case.now {
            (*budget).tick = case.now;
            (*budget).told = 0;
        }
        if (*budget).told >= EVENTS_PER_TICK {
            return false;
        }
        (*budget).told += 1;
        true
    }
}

/// Whether an equal event was told in this tick already; else how many were not told since the last one.
#[inline(always)]
fn suppressed(case: &Case, reason: Reason) -> Option<u32> {
    let packet = &case.packet;
    let peer = match case.direction() {
        Direction::Ingress => packet.source,
        Direction::Egress => packet.destination,
    };
    let key = Key {
        peer,
        ifindex: case.ifindex,
        port: packet.destination_port,
        protocol: packet.protocol,
        kind: case.direction | (reason as u8) << 1,
    };
    // SAFETY: the sizes are equal (checked above) and so are the fields, in order.
    let key = unsafe { &*ptr::from_ref(&key).cast::<SuppressionKey>() };
    let Some(last) = SUPPRESSION.get_ptr_mut(key) else {
        // Beyond the budget nothing is inserted either: a port scan would turn the whole table over.
        if !may_tell(case) {
            count::add(EVENTS_LIMITED);
            return None;
        }
        let first = SuppressionEntry {
            tick: case.now,
            count: 0,
        };
        // A full table costs repeated events, nothing else.
        if SUPPRESSION.insert(key, first, 0).is_err() {
            count::add(EVENTS_LOST);
        }
        return Some(0);
    };
    // SAFETY: LRU elements are never unmapped; a race with another CPU can miscount, nothing more.
    unsafe {
        if (*last).tick == case.now {
            (*last).count = (*last).count.wrapping_add(1);
            return None;
        }
        if !may_tell(case) {
            count::add(EVENTS_LIMITED);
            return None;
        }
        let before = (*last).count;
        (*last).tick = case.now;
        (*last).count = 0;
        Some(before)
    }
}

/// Writes the event of a case that is closed, unless events are off or this one was told already. A new connection is
/// told once by nature: only what may come again with every packet is looked for among what was told.
#[inline(always)]
pub(crate) fn tell(case: &Case, action: Action, reason: Reason) {
    let Some(config) = lookup::config() else { return };
    if config.flags & Config::EVENTS == 0 {
        return;
    }
    let packet = &case.packet;
    let begins = !matches!(action, Action::Drop) && packet.is(marks::TRACKED);
    let suppressed = if begins {
        if !may_tell(case) {
            count::add(EVENTS_LIMITED);
            return;
        }
        0
    } else {
        match suppressed(case, reason) {
            Some(count) => count,
            None => return,
        }
    };
    let Some(mut slot) = EVENTS.reserve::<Event>(0) else {
        count::add(EVENTS_LOST);
        return;
    };
    let event = slot.as_mut_ptr();
    let icmp = matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6);
    // SAFETY: `event` is the reserved record, 8-aligned and of this size; every field is written before it is
    // submitted. Field by field, because a copy would need 72 bytes of a stack that has 512.
    unsafe {
        (&raw mut (*event).time).write(bpf_ktime_get_ns());
        (&raw mut (*event).source).cast::<Words>().write(packet.source);
        (&raw mut (*event).destination)
            .cast::<Words>()
            .write(packet.destination);
        (&raw mut (*event).ifindex).write(case.ifindex);
        (&raw mut (*event).peer).write(case.peer);
        (&raw mut (*event).cookie).write(case.cookie);
        (&raw mut (*event).generation).write(case.slot.generation());
        (&raw mut (*event).suppressed).write(suppressed);
        (&raw mut (*event).source_port).write(if icmp {
            packet.kind as u16
        } else {
            packet.source_port
        });
        (&raw mut (*event).destination_port).write(if icmp {
            packet.code as u16
        } else {
            packet.destination_port
        });
        (&raw mut (*event).protocol).write(packet.protocol);
        (&raw mut (*event).direction).write(case.direction);
        (&raw mut (*event).action).write(action as u8);
        (&raw mut (*event).reason).write(reason as u8);
        (&raw mut (*event).reserved).write(0);
    }
    const { assert!(core::mem::offset_of!(Event, source) % 8 == 0 && size_of::<Addr>() == 16) };
    slot.submit(0);
}
