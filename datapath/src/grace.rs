//! Waiting for programs to leave.

#![expect(unsafe_code, reason = "membarrier(2) has no wrapper in nix")]

use std::{thread, time::Duration};

use nix::libc;

const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// Waits until every program that runs now has ended: what they could still read may be removed then.
///
/// `membarrier(MEMBARRIER_CMD_GLOBAL)` is `synchronize_rcu()` in the kernel (kernel/sched/membarrier.c, Linux 4.3), and
/// tc programs run under the RCU read lock. Takes some milliseconds. Where the call is refused, a pause that no
/// program outlasts takes its place.
pub fn grace() {
    let no_flags: libc::c_int = 0;
    // SAFETY: membarrier takes three integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, no_flags, no_flags) };
    if result != 0 {
        thread::sleep(Duration::from_millis(100));
    }
}
