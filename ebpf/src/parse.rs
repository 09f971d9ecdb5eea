//! From bytes to a [`Packet`]: pure, the same code for both families, tested on the host.
//!
//! ```text
//! ethernet ─► IPv4 (options) ──────────┐
//!          └► IPv6 (extension headers) ┴► TCP / UDP / SCTP / ICMP ─► Packet { ends, ports, marks }
//! ```
//!
//! Invariants:
//! - A header is read only where both the frame and the IP length say it exists; otherwise the packet is
//!   [`marks::MALFORMED`], never guessed at.
//! - The payload of a later fragment is never read as a header.
//! - Addresses are set as soon as the IP header itself is readable, also for a malformed packet.

use vethwall_common::protocol;

use crate::address::Words;

/// Access to a frame. Numbers come as they lie in memory (network order), in 32-bit words.
pub(crate) trait Bytes {
    /// Reads at an offset that the compiler knows; the fast way.
    fn fixed<const OFFSET: u32, const N: usize>(&self) -> Option<[u32; N]>;
    /// Reads at any offset.
    fn at<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
    /// Length of the frame from its ethernet header on.
    fn len(&self) -> u32;
    /// Whether the frame is a bundle of segments, whose IP length may be 0.
    fn bundled(&self) -> bool;
}

/// Length of the ethernet header.
pub(crate) const ETHERNET: u32 = 14;
const IPV4: u32 = 20;
const IPV6: u32 = 40;
/// Offset of the transport header behind an IPv4 header without options.
const PLAIN4: u32 = ETHERNET + IPV4;
/// Offset of the transport header behind an IPv6 header without extensions.
const PLAIN6: u32 = ETHERNET + IPV6;
/// Extension headers that are walked; more than any honest sender uses.
const EXTENSIONS: u32 = 6;

/// What else is known of a [`Packet`], as bits of its `marks`.
pub(crate) mod marks {
    /// FIN is set.
    pub(crate) const FIN: u16 = 1;
    /// RST is set.
    pub(crate) const RST: u16 = 1 << 1;
    /// SYN without ACK, or SCTP's INIT: asks for a new connection.
    pub(crate) const SYN: u16 = 1 << 2;
    /// Begins a conversation and can not be an answer: [`SYN`], or an echo request.
    pub(crate) const OPENS: u16 = 1 << 3;
    /// Belongs to a connection that can be tracked.
    pub(crate) const TRACKED: u16 = 1 << 4;
    /// An ICMP error that quotes another packet.
    pub(crate) const ERROR: u16 = 1 << 5;
    /// The first fragment of several.
    pub(crate) const FIRST: u16 = 1 << 6;
    /// A fragment without a transport header.
    pub(crate) const LATER: u16 = 1 << 7;
    /// A header that can not be read or contradicts itself.
    pub(crate) const MALFORMED: u16 = 1 << 8;
    /// Neighbour discovery (ICMPv6 133 to 137) that came over no router.
    pub(crate) const NEIGHBOUR: u16 = 1 << 9;
    /// Multicast listener discovery, likewise of this link only.
    pub(crate) const LISTENER: u16 = 1 << 10;
    /// A neighbour solicitation or advertisement that ends before its target does: what lies behind is no part of it.
    pub(crate) const SHORT: u16 = 1 << 11;
}

/// What the judge needs of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Packet {
    /// Source address; zero if the IP header could not be read.
    pub(crate) source: Words,
    /// Destination address, likewise.
    pub(crate) destination: Words,
    /// Identification of the datagram that a fragment belongs to.
    pub(crate) datagram: u32,
    /// Source port. An ICMP echo has its identifier as the port of the end that asks, 0 at the end that answers.
    pub(crate) source_port: u16,
    /// Destination port, likewise.
    pub(crate) destination_port: u16,
    /// [`marks`].
    pub(crate) marks: u16,
    /// Where the transport header begins.
    pub(crate) transport: u16,
    /// IP protocol number.
    pub(crate) protocol: u8,
    /// ICMP type.
    pub(crate) kind: u8,
    /// ICMP code.
    pub(crate) code: u8,
    /// Zero.
    pub(crate) reserved: u8,
}

impl Packet {
    /// A packet of which nothing is known.
    #[cfg(test)]
    pub(crate) const fn unknown() -> Self {
        Self {
            source: Words::NONE,
            destination: Words::NONE,
            datagram: 0,
            source_port: 0,
            destination_port: 0,
            marks: 0,
            transport: 0,
            protocol: 0,
            kind: 0,
            code: 0,
            reserved: 0,
        }
    }

    /// Whether any of these marks is set.
    #[inline(always)]
    pub(crate) fn is(&self, marks: u16) -> bool {
        self.marks & marks != 0
    }
}

/// The two halves of a word that lies in network order, in the machine's order.
#[inline(always)]
fn halves(word: u32) -> (u16, u16) {
    let word = u32::from_be(word);
    ((word >> 16) as u16, word as u16)
}

/// The four bytes of a word, the first in memory first.
#[inline(always)]
fn bytes(word: u32) -> [u8; 4] {
    u32::from_be(word).to_be_bytes()
}

/// Reads an IPv4 packet behind the ethernet header.
#[inline(always)]
pub(crate) fn ipv4(frame: &impl Bytes, packet: &mut Packet) {
    let Some(header) = frame.fixed::<ETHERNET, 5>() else {
        packet.marks = marks::MALFORMED;
        return;
    };
    let words = bytes(header[0])[0] as u32 & 0xf;
    let (_, total) = halves(header[0]);
    let (datagram, fragment) = halves(header[1]);
    packet.source = Words::v4(header[3]);
    packet.destination = Words::v4(header[4]);
    packet.protocol = bytes(header[2])[1];
    let held = frame.len() - ETHERNET;
    let total = if total == 0 && frame.bundled() {
        held
    } else {
        total as u32
    };
    if bytes(header[0])[0] >> 4 != 4 || words < 5 || total < words * 4 || total > held {
        packet.marks = marks::MALFORMED;
        return;
    }
    packet.datagram = datagram as u32;
    if fragment & 0x1fff != 0 {
        packet.marks = marks::LATER;
        return;
    }
    if fragment & 0x2000 != 0 {
        packet.marks = marks::FIRST;
    }
    let available = total - words * 4;
    if words == 5 {
        transport(&Plain::<_, PLAIN4>(frame), packet, available, false);
    } else {
        packet.transport = (ETHERNET + words * 4) as u16;
        transport(&Shifted(frame, ETHERNET + words * 4), packet, available, false);
    }
}

/// Reads an IPv6 packet behind the ethernet header.
#[inline(always)]
pub(crate) fn ipv6(frame: &impl Bytes, packet: &mut Packet) {
    let Some(header) = frame.fixed::<ETHERNET, 10>() else {
        packet.marks = marks::MALFORMED;
        return;
    };
    let (length, _) = halves(header[1]);
    packet.source = Words::v6([header[2], header[3], header[4], header[5]]);
    packet.destination = Words::v6([header[6], header[7], header[8], header[9]]);
    packet.protocol = bytes(header[1])[2];
    let hops = bytes(header[1])[3];
    let held = frame.len() - PLAIN6;
    let length = if length == 0 && frame.bundled() {
        held
    } else {
        length as u32
    };
    if bytes(header[0])[0] >> 4 != 6 || length > held || packet.source.is_v4() || packet.destination.is_v4() {
        // An IPv4-mapped address on the wire could pass for the IPv4 address (RFC 4291 never sends one).
        packet.marks = marks::MALFORMED;
        return;
    }
    if is_extension(packet.protocol) {
        let available = extensions(frame, packet, length);
        if !packet.is(marks::MALFORMED | marks::LATER) {
            let offset = packet.transport as u32;
            transport(&Shifted(frame, offset), packet, available, true);
        }
    } else {
        transport(&Plain::<_, PLAIN6>(frame), packet, length, true);
    }
    link_local(packet, hops);
}

/// Turns ICMPv6 messages of the link into [`marks::NEIGHBOUR`] and [`marks::LISTENER`].
#[inline(always)]
fn link_local(packet: &mut Packet, hops: u8) {
    if packet.protocol != protocol::ICMPV6
        || packet.is(marks::MALFORMED | marks::LATER | marks::FIRST)
        || packet.code != 0
    {
        return;
    }
    // RFC 4861: a hop limit of 255 proves that no router forwarded it. RFC 3810: 1 keeps routers from doing so.
    if hops == 255 && matches!(packet.kind, 133..=137) {
        packet.marks |= marks::NEIGHBOUR;
    } else if hops == 1 && matches!(packet.kind, 130..=132 | 143) {
        packet.marks |= marks::LISTENER;
    }
}

/// Hop-by-hop options, routing, fragment, destination options. Everything else is a protocol of its own.
#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(next, 0 | 43 | 44 | 60)
}

/// Walks the extension headers; sets protocol, transport and marks and returns the bytes behind them.
#[inline(always)]
fn extensions(frame: &impl Bytes, packet: &mut Packet, length: u32) -> u32 {
    let mut offset = PLAIN6;
    let mut available = length;
    for _ in 0..EXTENSIONS {
        if available < 8 {
            break;
        }
        let Some([first, second]) = frame.at::<2>(offset) else {
            break;
        };
        let [next, size, _, left] = bytes(first);
        let skip = if packet.protocol == 44 {
            let (_, fragment) = halves(first);
            packet.datagram = u32::from_be(second);
            if fragment & 0xfff8 != 0 {
                packet.protocol = next;
                packet.marks = marks::LATER;
                return 0;
            }
            if fragment & 1 != 0 {
                packet.marks |= marks::FIRST;
            }
            8
        } else {
            (size as u32 + 1) * 8
        };
        // A routing header that is not used up: the destination is another than the header says.
        if packet.protocol == 43 && left != 0 {
            break;
        }
        if skip > available {
            break;
        }
        packet.protocol = next;
        available -= skip;
        offset += skip;
        if !is_extension(next) {
            packet.transport = offset as u16;
            return available;
        }
    }
    packet.marks |= marks::MALFORMED;
    0
}

/// A transport header at a place that is known, or not known, when the program is compiled.
trait Transport {
    fn word<const INDEX: usize>(&self) -> Option<u32>;
    fn offset(&self) -> u32;
}

struct Plain<'a, B, const OFFSET: u32>(&'a B);
struct Shifted<'a, B>(&'a B, u32);

impl<B: Bytes> Transport for Plain<'_, B, PLAIN4> {
    #[inline(always)]
    fn word<const INDEX: usize>(&self) -> Option<u32> {
        match INDEX {
            0 => self.0.fixed::<PLAIN4, 1>(),
            1 => self.0.fixed::<{ PLAIN4 + 4 }, 1>(),
            _ => self.0.fixed::<{ PLAIN4 + 12 }, 1>(),
        }
        .map(|[word]| word)
    }

    #[inline(always)]
    fn offset(&self) -> u32 {
        PLAIN4
    }
}

impl<B: Bytes> Transport for Plain<'_, B, PLAIN6> {
    #[inline(always)]
    fn word<const INDEX: usize>(&self) -> Option<u32> {
        match INDEX {
            0 => self.0.fixed::<PLAIN6, 1>(),
            1 => self.0.fixed::<{ PLAIN6 + 4 }, 1>(),
            _ => self.0.fixed::<{ PLAIN6 + 12 }, 1>(),
        }
        .map(|[word]| word)
    }

    #[inline(always)]
    fn offset(&self) -> u32 {
        PLAIN6
    }
}

impl<B: Bytes> Transport for Shifted<'_, B> {
    #[inline(always)]
    fn word<const INDEX: usize>(&self) -> Option<u32> {
        self.0
            .at::<1>(self.1 + if INDEX < 2 { INDEX as u32 * 4 } else { 12 })
            .map(|[word]| word)
    }

    #[inline(always)]
    fn offset(&self) -> u32 {
        self.1
    }
}

/// Reads ports, flags and types. `available` is what the IP header says there is.
#[inline(always)]
fn transport(header: &impl Transport, packet: &mut Packet, available: u32, six: bool) {
    packet.transport = header.offset() as u16;
    let least = match packet.protocol {
        protocol::TCP => 20,
        protocol::UDP => 8,
        // With the header of one chunk, of which there is always one (RFC 9260, 3).
        protocol::SCTP => 16,
        protocol::ICMP if !six => 8,
        protocol::ICMPV6 if six => 8,
        _ => {
            packet.marks |= marks::TRACKED;
            return;
        }
    };
    let (true, Some(first)) = (available >= least, header.word::<0>()) else {
        packet.marks |= marks::MALFORMED;
        return;
    };
    if matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6) {
        let Some(second) = header.word::<1>() else {
            packet.marks |= marks::MALFORMED;
            return;
        };
        icmp(packet, first, second, six);
        if six && matches!(packet.kind, 135 | 136) && available < 24 {
            packet.marks |= marks::SHORT;
        }
        return;
    }
    (packet.source_port, packet.destination_port) = halves(first);
    packet.marks |= marks::TRACKED;
    if packet.protocol == protocol::SCTP {
        let Some(chunk) = header.word::<3>() else {
            packet.marks |= marks::MALFORMED;
            return;
        };
        packet.marks |= sctp_marks(bytes(chunk)[0]);
    }
    if packet.protocol == protocol::TCP {
        let Some(word) = header.word::<3>() else {
            packet.marks |= marks::MALFORMED;
            return;
        };
        let [offset, flags, ..] = bytes(word);
        let words = offset as u32 >> 4;
        if words < 5 || words * 4 > available {
            packet.marks |= marks::MALFORMED;
        }
        packet.marks |= tcp_marks(flags);
    }
}

/// The marks of TCP's flags.
#[inline(always)]
fn tcp_marks(flags: u8) -> u16 {
    let mut found = 0;
    if flags & 1 != 0 {
        found |= marks::FIN;
    }
    if flags & 4 != 0 {
        found |= marks::RST;
    }
    if flags & 0x12 == 2 {
        found |= marks::SYN | marks::OPENS;
    }
    found
}

/// The marks of the type of an SCTP packet's first chunk (RFC 9260, 3.2): INIT begins an association, ABORT and SHUTDOWN
/// COMPLETE end it.
#[inline(always)]
fn sctp_marks(chunk: u8) -> u16 {
    match chunk {
        1 => marks::SYN | marks::OPENS,
        6 | 14 => marks::RST,
        _ => 0,
    }
}

/// ICMP and ICMPv6: an echo is tracked, an error may relate to something tracked, the rest stands for itself.
#[inline(always)]
fn icmp(packet: &mut Packet, first: u32, second: u32, six: bool) {
    let [kind, code, ..] = bytes(first);
    packet.kind = kind;
    packet.code = code;
    let (identifier, _) = halves(second);
    let (request, reply) = if six { (128, 129) } else { (8, 0) };
    if kind == request {
        packet.source_port = identifier;
        packet.marks |= marks::TRACKED | marks::OPENS;
    } else if kind == reply {
        packet.destination_port = identifier;
        packet.marks |= marks::TRACKED;
    } else if (six && matches!(kind, 1..=4)) || (!six && matches!(kind, 3 | 11 | 12)) {
        packet.marks |= marks::ERROR;
    }
}

/// Reads the packet that an ICMP error quotes: addresses, protocol and ports. False if there is too little of it.
#[inline(always)]
pub(crate) fn quoted(frame: &impl Bytes, outer: &Packet, inner: &mut Packet) -> bool {
    let start = outer.transport as u32 + 8;
    let behind = if outer.protocol == protocol::ICMP {
        let Some(header) = frame.at::<5>(start) else {
            return false;
        };
        let [version, ..] = bytes(header[0]);
        let (_, fragment) = halves(header[1]);
        if version >> 4 != 4 || version & 0xf < 5 || fragment & 0x1fff != 0 {
            return false;
        }
        inner.protocol = bytes(header[2])[1];
        inner.source = Words::v4(header[3]);
        inner.destination = Words::v4(header[4]);
        start + (version as u32 & 0xf) * 4
    } else {
        let Some(header) = frame.at::<10>(start) else {
            return false;
        };
        if bytes(header[0])[0] >> 4 != 6 {
            return false;
        }
        inner.protocol = bytes(header[1])[2];
        inner.source = Words::v6([header[2], header[3], header[4], header[5]]);
        inner.destination = Words::v6([header[6], header[7], header[8], header[9]]);
        start + IPV6
    };
    let Some([first, second]) = frame.at::<2>(behind) else {
        return false;
    };
    match inner.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            (inner.source_port, inner.destination_port) = halves(first);
            true
        }
        protocol::ICMP | protocol::ICMPV6 => {
            icmp(inner, first, second, inner.protocol == protocol::ICMPV6);
            inner.is(marks::TRACKED)
        }
        _ => true,
    }
}
