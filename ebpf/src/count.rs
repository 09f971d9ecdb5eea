//! Packet counters, one word a CPU.

use vethwall_common::{
    Direction,
    maps::counter_index,
    verdict::{Action, Reason},
};

use crate::maps::COUNTERS;

/// Counts a packet that ended so.
#[inline(always)]
pub(crate) fn packet(action: Action, direction: Direction, reason: Reason) {
    add(counter_index(action, direction, reason));
}

/// Adds one to a counter.
#[inline(always)]
pub(crate) fn add(index: u32) {
    if let Some(count) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the element is this CPU's own and lives as long as the map; programs are not preempted by
        // themselves.
        unsafe { *count += 1 }
    }
}
