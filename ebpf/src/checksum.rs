//! The IPv4 header's checksum (RFC 791, RFC 1071): a packet with a wrong one is discarded by the node that it gets to.

use crate::parse::{Bytes, ETHERNET, PLAIN4, Packet, bytes};

/// Whether the node's IP layer would take the packet (RFC 1122, 3.2.1.2: one with a wrong header checksum is discarded).
/// Asked where a packet leaves something behind that a later judgement has to confirm. IPv6 has no such checksum.
#[inline(always)]
pub(crate) fn arrives(frame: &impl Bytes, packet: &Packet) -> bool {
    if !packet.source.is_v4() {
        return true;
    }
    let Some(header) = frame.fixed::<ETHERNET, 5>() else {
        return false;
    };
    let mut sum = 0_u64;
    for word in header {
        sum += word as u64;
    }
    let options = (bytes(header[0])[0] as u32 & 0xf).saturating_sub(5);
    for number in 0..10 {
        if number < options {
            let Some([word]) = frame.at::<1>(PLAIN4 + number * 4) else {
                return false;
            };
            sum += word as u64;
        }
    }
    // The sum of words folds to that of half words, in either byte order (RFC 1071).
    for _ in 0..3 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}
