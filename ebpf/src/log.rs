//! One line a packet, for whoever debugs the programs: the `debug-log` feature, off in what ships.

use aya_ebpf::programs::TcContext;

/// Hands the verdict of a hook on, and says so.
#[inline(always)]
pub(crate) fn verdict(context: &TcContext, hook: &'static str, returned: i32) -> i32 {
    #[cfg(feature = "debug-log")]
    say(context, hook, returned);
    #[cfg(not(feature = "debug-log"))]
    let _ = (context, hook);
    returned
}

#[cfg(feature = "debug-log")]
fn say(context: &TcContext, hook: &'static str, returned: i32) {
    let Some(case) = crate::hooks::scratch() else {
        return;
    };
    let (packet, ifindex) = (&case.packet, crate::skb::Frame::new(context).ifindex());
    aya_log_ebpf::info!(
        context,
        "{} on {}: {:i} port {} to {:i} port {}, protocol {}, marks {:x}: {}",
        hook,
        ifindex,
        packet.source.octets(),
        packet.source_port,
        packet.destination.octets(),
        packet.destination_port,
        packet.protocol,
        packet.marks,
        if returned == crate::skb::SHOT {
            "dropped"
        } else {
            "passed"
        }
    );
}
