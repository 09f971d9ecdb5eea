//! Telling user space about verdicts.
//!
//! Invariant: equal events ([`SuppressionKey`]) are written once a tick; those left out are counted in the next one,
//! those that found the ring buffer full in [`vethwall_common::maps::EVENTS_LOST`].

use core::ptr;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use vethwall_common::{
    Direction,
    address::Addr,
    config::Config,
    event::{Event, SuppressionEntry, SuppressionKey},
    maps::EVENTS_LOST,
    protocol,
    verdict::{Action, Reason},
};

use crate::{
    address::Words,
    case::Case,
    count, lookup,
    maps::{EVENTS, SUPPRESSION},
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

/// Writes the event of a case that is closed, unless events are off or this one was told already.
#[inline(always)]
pub(crate) fn tell(case: &Case, action: Action, reason: Reason) {
    let Some(config) = lookup::config() else { return };
    if config.flags & Config::EVENTS == 0 {
        return;
    }
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
    let mut suppressed = 0;
    if let Some(last) = SUPPRESSION.get_ptr_mut(key) {
        // SAFETY: LRU elements are never unmapped; a race with another CPU can miscount, nothing more.
        unsafe {
            if (*last).tick == case.now {
                (*last).count = (*last).count.wrapping_add(1);
                return;
            }
            suppressed = (*last).count;
            (*last).tick = case.now;
            (*last).count = 0;
        }
    } else {
        // A full table costs repeated events, nothing else.
        let first = SuppressionEntry {
            tick: case.now,
            count: 0,
        };
        if SUPPRESSION.insert(key, first, 0).is_err() {
            count::add(EVENTS_LOST);
        }
    }
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
