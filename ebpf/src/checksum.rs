//! The IPv4 header's checksum (RFC 791, RFC 1071): a packet with a wrong one is discarded by the node that it gets to.

use aya_ebpf::helpers::generated::bpf_skb_load_bytes;

use crate::{
    parse::{ETHERNET, Packet},
    skb::Frame,
};

/// The longest header, and what the arithmetic on its length could add to that.
const WORDS: usize = 20;

/// Whether the node's IP layer would take the packet (RFC 1122, 3.2.1.2: one with a wrong header checksum is discarded).
/// Asked where a packet leaves something behind that a later judgement has to confirm. IPv6 has no such checksum.
#[inline(always)]
pub(crate) fn arrives(frame: Frame, packet: &Packet) -> bool {
    if !packet.source.is_v4() {
        return true;
    }
    let mut header = [0_u32; WORDS];
    // The parser has seen that there are 5 to 15 words. Said in arithmetic, and not in comparisons, so that the verifier
    // knows the bounds and has one way to walk.
    let options = (packet.transport as u32).wrapping_sub(ETHERNET + 20) & 0x3c;
    // SAFETY: the helper writes at most the 80 bytes of the array, or fails.
    let failed = unsafe {
        bpf_skb_load_bytes(
            frame.raw().cast(),
            ETHERNET,
            header.as_mut_ptr().cast(),
            20 + options,
        )
    };
    const { assert!(20 + 0x3c <= WORDS * size_of::<u32>()) };
    let mut sum = 0_u64;
    for word in header {
        sum += word as u64;
    }
    // The sum of words folds to that of half words, in either byte order (RFC 1071).
    for _ in 0..3 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    failed == 0 && sum == 0xffff
}
