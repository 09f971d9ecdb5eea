//! The parser on the host, on frames that the kernel's test run does not take, and on noise.

use std::vec::Vec;

use vethwall_common::protocol;

use crate::{
    address::Words,
    parse::{Bytes, Packet, ipv4, ipv6, marks, quoted},
};

/// A frame in memory, all of it readable.
struct Slice<'a>(&'a [u8]);

impl Bytes for Slice<'_> {
    fn fixed<const OFFSET: u32, const N: usize>(&self) -> Option<[u32; N]> {
        self.at(OFFSET)
    }

    fn at<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let bytes = self.0.get(offset as usize..)?.get(..N * 4)?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().ok()?);
        }
        Some(words)
    }

    fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    fn bundled(&self) -> bool {
        false
    }
}

fn four(frame: &[u8]) -> Packet {
    let mut packet = Packet::unknown();
    ipv4(&Slice(frame), &mut packet);
    packet
}

fn six(frame: &[u8]) -> Packet {
    let mut packet = Packet::unknown();
    ipv6(&Slice(frame), &mut packet);
    packet
}

/// Ethernet and IPv4 without options; `fragment` is the word behind the identification.
fn frame4(number: u8, fragment: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((20 + body.len() as u16).to_be_bytes());
    frame.extend([0xab, 0xcd]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, number, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(body);
    frame
}

/// Ethernet and IPv6.
fn frame6(next: u8, hops: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((body.len() as u16).to_be_bytes());
    frame.extend([next, hops]);
    frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    frame.extend(body);
    frame
}

fn tcp(flags: u8) -> Vec<u8> {
    let mut body = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags];
    body.extend([0; 6]);
    body
}

#[test]
fn addresses_ports_and_flags() {
    let packet = four(&frame4(protocol::TCP, 0, &tcp(2)));
    assert_eq!(packet.source, Words::v4(u32::from_ne_bytes([10, 0, 0, 1])));
    assert_eq!(packet.destination, Words::v4(u32::from_ne_bytes([10, 0, 0, 2])));
    assert_eq!((packet.source_port, packet.destination_port), (40_000, 80));
    assert_eq!(packet.marks, marks::TRACKED | marks::SYN | marks::OPENS);
    let bare = marks::SYN | marks::OPENS;
    for (flags, expected) in [
        (0x12, 0),
        (0x10, 0),
        (0x11, marks::FIN),
        (0x14, marks::RST),
        (0x02, bare),
        (0xc2, bare),
        (0x03, bare | marks::FIN),
    ] {
        assert_eq!(
            four(&frame4(protocol::TCP, 0, &tcp(flags))).marks,
            marks::TRACKED | expected,
            "{flags:#x}"
        );
        assert_eq!(
            six(&frame6(protocol::TCP, 64, &tcp(flags))).marks,
            marks::TRACKED | expected,
            "{flags:#x}"
        );
    }
}

// Covers: SEMANTICS 50
#[test]
fn truncated_anywhere_is_malformed() {
    for whole in [
        frame4(protocol::TCP, 0, &tcp(2)),
        frame4(protocol::UDP, 0, &[0; 8]),
        frame4(protocol::SCTP, 0, &[0; 16]),
    ] {
        assert!(!four(&whole).is(marks::MALFORMED));
        for length in 0..whole.len() {
            assert!(
                four(&whole[..length]).is(marks::MALFORMED),
                "{length} of {}",
                whole.len()
            );
        }
    }
    let whole = frame6(protocol::TCP, 64, &tcp(2));
    assert!(!six(&whole).is(marks::MALFORMED));
    for length in 0..whole.len() {
        assert!(six(&whole[..length]).is(marks::MALFORMED), "{length}");
    }
    // A transport header that the frame holds but the IP header does not.
    let mut short = frame4(protocol::TCP, 0, &tcp(2));
    short[16..18].copy_from_slice(&39_u16.to_be_bytes());
    assert!(four(&short).is(marks::MALFORMED));
    short[16..18].copy_from_slice(&40_u16.to_be_bytes());
    assert!(!four(&short).is(marks::MALFORMED));
}

// Covers: SEMANTICS 48
#[test]
fn a_fragments_payload_is_no_header() {
    let later = four(&frame4(protocol::TCP, 1, &tcp(2)));
    assert_eq!(
        (later.marks, later.source_port, later.datagram),
        (marks::LATER, 0, 0xabcd)
    );
    let first = four(&frame4(protocol::TCP, 0x2000, &tcp(2)));
    assert!(first.is(marks::FIRST) && first.is(marks::SYN));
    // IPv6: fragment header with offset 8 and identification 0x01020304, behind destination options.
    let mut body = vec![44, 0, 1, 4, 0, 0, 0, 0, protocol::TCP, 0, 0, 8, 1, 2, 3, 4];
    body.extend(tcp(2));
    let later = six(&frame6(60, 64, &body));
    assert_eq!(
        (later.marks, later.datagram, later.protocol),
        (marks::LATER, 0x0102_0304, protocol::TCP)
    );
    // Offset 0 and nothing to come: whole, though it has a fragment header.
    body[11] = 0;
    assert_eq!(
        six(&frame6(60, 64, &body)).marks,
        marks::TRACKED | marks::SYN | marks::OPENS
    );
}

// Covers: SEMANTICS 51
#[test]
fn neighbour_discovery_is_of_the_link_only() {
    for (kind, hops, expected) in [
        (133, 255, marks::NEIGHBOUR),
        (137, 255, marks::NEIGHBOUR),
        (135, 254, marks::SHORT),
        (136, 255, marks::NEIGHBOUR | marks::SHORT),
        (138, 255, 0),
        (132, 255, 0),
        (143, 1, marks::LISTENER),
        (143, 255, 0),
    ] {
        assert_eq!(
            six(&frame6(protocol::ICMPV6, hops, &[kind, 0, 0, 0, 0, 0, 0, 0])).marks,
            expected,
            "{kind}"
        );
    }
    // With its target it is whole.
    let mut whole = [0; 24];
    whole[0] = 136;
    assert_eq!(
        six(&frame6(protocol::ICMPV6, 255, &whole)).marks,
        marks::NEIGHBOUR
    );
    // In IPv4 these numbers mean nothing.
    assert_eq!(
        four(&frame4(protocol::ICMPV6, 0, &[135, 0, 0, 0, 0, 0, 0, 0])).marks,
        marks::TRACKED
    );
}

#[test]
fn the_end_that_asks_has_the_identifier() {
    let request = four(&frame4(protocol::ICMP, 0, &[8, 0, 0, 0, 0x12, 0x34, 0, 1]));
    let reply = four(&frame4(protocol::ICMP, 0, &[0, 0, 0, 0, 0x12, 0x34, 0, 1]));
    assert_eq!((request.source_port, request.destination_port), (0x1234, 0));
    assert_eq!((reply.source_port, reply.destination_port), (0, 0x1234));
    assert!(request.is(marks::OPENS) && !reply.is(marks::OPENS));
}

// Covers: SEMANTICS 44
#[test]
fn a_quotation_is_read_as_far_as_it_goes() {
    let quotation = &frame4(protocol::UDP, 0, &[0, 7, 0, 9, 0, 8, 0, 0])[14..];
    let mut body = vec![3, 3, 0, 0, 0, 0, 0, 0];
    body.extend(quotation);
    let frame = frame4(protocol::ICMP, 0, &body);
    let outer = four(&frame);
    assert_eq!(outer.marks, marks::ERROR);
    let mut inner = Packet::unknown();
    assert!(quoted(&Slice(&frame), &outer, &mut inner));
    assert_eq!(
        (inner.source_port, inner.destination_port, inner.protocol),
        (7, 9, protocol::UDP)
    );
    for length in 0..frame.len() {
        assert!(
            !quoted(&Slice(&frame[..length]), &outer, &mut Packet::unknown()),
            "{length}"
        );
    }
}

/// Any bytes at all: no panic, and nothing without its mark.
#[test]
fn noise() {
    let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..50_000 {
        let length = (random() % 120) as usize;
        let mut frame: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        if length > 24 && random() % 4 != 0 {
            frame[14] = if random() % 2 == 0 { 0x45 } else { 0x60 };
            frame[16] = 0;
            frame[18] = 0;
            frame[20] = [0, 44, 60, 43, 6, 58][(random() % 6) as usize];
        }
        for packet in [four(&frame), six(&frame)] {
            let readable = packet.is(marks::TRACKED | marks::ERROR)
                || packet.protocol == protocol::ICMP
                || packet.protocol == protocol::ICMPV6;
            assert!(
                readable || packet.is(marks::MALFORMED | marks::LATER),
                "{packet:?}"
            );
            assert!(!packet.is(marks::LATER) || (packet.source_port, packet.destination_port) == (0, 0));
            if packet.is(marks::ERROR) {
                quoted(&Slice(&frame), &packet, &mut Packet::unknown());
            }
        }
    }
}

/// The kernel sorts the ends of a flow as user space sorts addresses.
#[test]
fn ends_are_sorted_as_user_space_sorts_them() {
    use vethwall_common::address::Addr;
    let addresses = [[10, 0, 0, 1], [10, 0, 0, 2], [9, 255, 255, 255], [10, 0, 1, 0]];
    for a in addresses {
        for b in addresses {
            for (port, other) in [(1, 2), (2, 1), (256, 1)] {
                let words = |a| Words::v4(u32::from_ne_bytes(a));
                let expected = (Addr::from_v4(a), port) <= (Addr::from_v4(b), other);
                assert_eq!(words(a).before(port, &words(b), other), expected);
            }
        }
    }
}
