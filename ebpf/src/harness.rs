//! For tests only: what a test run can not give to a program, given in a way that it can.
//!
//! ```text
//! cb[0] ─► tc_index     cb[1] ─► VLAN tag, as a device that strips it leaves it     tc_index ─► cb[0]
//! ```
//! `BPF_PROG_TEST_RUN` refuses a context with `tc_index` or a VLAN tag, and takes one with `cb`. Without the feature
//! `harness` this is the hook and nothing else; an object with it is never pinned on a node and never shipped.

use crate::skb::Frame;

/// Runs a hook.
#[cfg(not(feature = "harness"))]
#[inline(always)]
pub(crate) fn around(frame: Frame, hook: impl FnOnce(Frame) -> i32) -> i32 {
    hook(frame)
}

/// Runs a hook on what the test wants it to find, and tells what it left.
#[cfg(feature = "harness")]
#[inline(always)]
pub(crate) fn around(frame: Frame, hook: impl FnOnce(Frame) -> i32) -> i32 {
    let raw = frame.raw();
    // SAFETY: the kernel gave this pointer to the program; classifiers may read and write `cb`.
    let [tag, vlan, ..] = unsafe { (*raw).cb };
    frame.set_tag(tag);
    if vlan != 0 {
        const TYPE_VLAN: u16 = 0x8100_u16.to_be();
        // SAFETY: as above. Pointers into the packet are read anew behind this.
        let failed = unsafe { aya_ebpf::helpers::generated::bpf_skb_vlan_push(raw, TYPE_VLAN, vlan as u16) };
        if failed != 0 {
            return FAILED;
        }
    }
    let verdict = hook(frame);
    // SAFETY: as above.
    unsafe { (*raw).cb[0] = frame.tag() };
    verdict
}

/// The tag could not be pushed; no verdict.
#[cfg(feature = "harness")]
const FAILED: i32 = 100;
