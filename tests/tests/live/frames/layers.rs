//! Frames that are odd below or beside TCP and UDP: tags, types, fragments, options, headers, tunnels, lengths.

use std::net::Ipv4Addr;

use vethwall_tests::kernel::packet::{ACK, Packet, SYN};

use super::{Cast, Maker, WEB, both};

fn with_tags(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    for (kind, tag) in tags {
        tagged.extend(kind.to_be_bytes());
        tagged.extend(tag.to_be_bytes());
    }
    tagged.extend(&frame[12..]);
    tagged
}

pub(super) fn tagged(maker: &Maker<'_>) -> Vec<Vec<u8>> {
    let tags: [&[(u16, u16)]; 5] = [
        &[(0x8100, 5)],
        &[(0x88a8, 5)],
        &[(0x88a8, 5), (0x8100, 6)],
        &[(0x8100, 0), (0x8100, 7)],
        &[(0x8100, 7), (0x8100, 0)],
    ];
    both(|v6| {
        let frame = maker.frame(maker.syn(v6));
        tags.map(|tags| with_tags(&frame, tags)).into()
    })
}

pub(super) fn priority_tagged(maker: &Maker<'_>) -> Vec<Vec<u8>> {
    let tags: [&[(u16, u16)]; 3] = [
        &[(0x8100, 0xe000)],
        &[(0x8100, 0), (0x8100, 0)],
        &[(0x88a8, 0), (0x8100, 0)],
    ];
    both(|v6| {
        let frame = maker.frame(maker.syn(v6));
        tags.map(|tags| with_tags(&frame, tags)).into()
    })
}

pub(super) fn ethertypes(maker: &Maker<'_>) -> Vec<Vec<u8>> {
    let Cast { evil, victim, .. } = maker.cast;
    let types: [u16; 9] = [
        0x88cc, 0x88f7, 0x8847, 0x8863, 0x8864, 0x0806, 0x22f0, 0x0026, 0x9100,
    ];
    let frame = |kind: u16, rest: &[u8]| {
        let head = [&victim.mac[..], &evil.mac[..], &kind.to_be_bytes()[..]].concat();
        maker.trailer([&head[..], rest].concat())
    };
    let v4 = maker.frame(maker.syn(false));
    let v6 = maker.frame(maker.syn(true));
    let mut frames: Vec<_> = types.map(|kind| frame(kind, &[0x42; 50])).into();
    // One family in the other's clothes.
    frames.push(frame(0x86dd, &v4[14..]));
    frames.push(frame(0x0800, &v6[14..]));
    frames
}

pub(super) fn fragments(maker: &Maker<'_>) -> Vec<Vec<u8>> {
    let victim = maker.cast.victim;
    both(|v6| {
        let mut frames = Vec::new();
        for (number, who) in [maker.cast.evil, maker.cast.friend].into_iter().enumerate() {
            let id = 0x100 + u32::try_from(number).unwrap_or_default();
            let whole = Packet::tcp((who.address(v6), 4444), (victim.address(v6), WEB), SYN);
            let cut = |of: &Packet, id: u32, offset: u16, more: bool, body: &[u8]| {
                let mut packet = Packet {
                    body: body.to_vec(),
                    ..of.clone()
                };
                packet.body.extend(&maker.mark);
                let room = packet.body.len().next_multiple_of(8);
                packet.body.resize(room, 0);
                packet
                    .as_fragment(id, offset, more)
                    .from_mac(maker.cast.evil.mac)
                    .to_mac(victim.mac)
                    .bytes()
            };
            let piece = |id: u32, offset: u16, more: bool, body: &[u8]| cut(&whole, id, offset, more, body);
            let syn = &whole.body;
            // A datagram without a checksum, which IPv4 allows: both orders.
            let datagram = Packet::udp((who.address(v6), 4444), (victim.address(v6), WEB));
            let mut head = datagram.body[..8].to_vec();
            head[4..6].copy_from_slice(&[0, 40]);
            let parts = |id: u32| {
                [
                    cut(&datagram, id, 0, true, &head),
                    cut(&datagram, id, 24, false, &[1; 4]),
                ]
            };
            frames.extend(parts(id + 20));
            frames.extend(parts(id + 22).into_iter().rev());
            // In order, the other way round, overlapping, doubled, the flags in the second, and one without a first.
            frames.extend([piece(id, 0, true, syn), piece(id, 40, false, &[1; 8])]);
            frames.extend([piece(id + 2, 40, false, &[1; 8]), piece(id + 2, 0, true, syn)]);
            frames.extend([piece(id + 4, 0, true, syn), piece(id + 4, 8, false, syn)]);
            frames.extend([piece(id + 6, 0, true, syn), piece(id + 6, 0, true, syn)]);
            frames.extend([
                piece(id + 8, 0, true, &syn[..8]),
                piece(id + 8, 8, false, &syn[8..]),
            ]);
            frames.push(piece(id + 10, 64, true, syn));
            // A whole datagram that calls itself a fragment (RFC 6946).
            frames.push(piece(id + 12, 0, false, syn));
        }
        frames
    })
}

pub(super) fn options(maker: &Maker<'_>) -> Vec<Vec<u8>> {
    let Cast { victim, bridge, .. } = maker.cast;
    let route = |kind: u8, via: Ipv4Addr| [&[kind, 7, 4], &via.octets()[..], &[0]].concat();
    let mut frames: Vec<_> = [
        vec![1, 1, 1, 1],
        vec![7, 7, 4, 0, 0, 0, 0, 0],
        vec![0x44, 8, 5, 0, 0, 0, 0, 0],
        vec![0x94, 4, 0, 0],
        vec![1; 40],
        vec![0x42, 200, 0, 0],
        route(0x83, victim.v4),
        route(0x89, victim.v4),
    ]
    .iter()
    .map(|options| maker.frame(maker.syn(false).with_options(options)))
    .collect();
    // Loose and strict source routes over the node.
    for kind in [0x83, 0x89] {
        let packet = Packet {
            destination: bridge.v4.into(),
            ..maker.syn(false)
        };
        let packet = packet.with_options(&route(kind, victim.v4));
        frames.push(maker.seal(packet.from_mac(maker.cast.evil.mac).to_mac(bridge.mac)));
    }
    frames
}

pub(super) fn extensions(maker: &Maker<'_>) -> Vec<Vec<u8>> {
    let Cast { victim, bridge, .. } = maker.cast;
    let mut frames = Vec::new();
    for number in [0, 43, 60, 135, 139, 140, 51, 253] {
        frames.push(maker.frame(maker.syn(true).with_extension(number)));
    }
    let mut deep = maker.syn(true);
    for number in [0, 60, 43, 60, 60, 60, 60, 60] {
        deep = deep.with_extension(number);
        frames.push(maker.frame(deep.clone()));
    }
    frames.push(maker.frame(maker.syn(true).routed_on()));
    // Routing headers (types 0, 2, 3 and 4) that lead over the node to the victim.
    for kind in [0, 2, 3, 4] {
        let mut packet = Packet {
            destination: bridge.v6.into(),
            ..maker.syn(true)
        };
        let header = [&[2, kind, 1, 0, 0, 0, 0], &victim.v6.octets()[..]].concat();
        packet.extensions.push((43, header));
        frames.push(maker.seal(packet.from_mac(maker.cast.evil.mac).to_mac(bridge.mac)));
    }
    frames
}

pub(super) fn protocols(maker: &Maker<'_>) -> Vec<Vec<u8>> {
    let Cast {
        evil, victim, friend, ..
    } = maker.cast;
    both(|v6| {
        let inner = Packet::tcp((friend.address(v6), 4444), (victim.address(v6), WEB), SYN).bytes();
        let mut frames = Vec::new();
        for number in [2, 4, 33, 41, 47, 50, 51, 59, 89, 103, 132, 136, 253] {
            let packet = Packet::new(evil.address(v6), victim.address(v6), number, &inner[14..]);
            frames.push(maker.frame(packet));
        }
        frames.push(maker.frame(Packet::sctp((evil.address(v6), 4444), (victim.address(v6), WEB))));
        frames
    })
}

/// Errors that quote connections of the victim that do not exist, or of others.
pub(super) fn errors(maker: &Maker<'_>) -> Vec<Vec<u8>> {
    let Cast {
        evil,
        victim,
        friend,
        bystander,
        ..
    } = maker.cast;
    both(|v6| {
        let port = maker.cast.port[usize::from(v6)];
        let quotes = [
            Packet::tcp((victim.address(v6), WEB), (evil.address(v6), 4444), ACK),
            Packet::tcp((victim.address(v6), 81), (friend.address(v6), port), ACK),
            Packet::udp((victim.address(v6), WEB), (friend.address(v6), port)),
            Packet::tcp((friend.address(v6), port), (victim.address(v6), WEB), ACK),
            Packet::tcp((bystander.address(v6), WEB), (evil.address(v6), 4444), ACK),
            Packet::echo(victim.address(v6), evil.address(v6), 9, false),
            Packet::new(victim.address(v6), evil.address(v6), 253, &[0; 8]),
        ];
        let error = |quote: &Packet| Packet::unreachable(evil.address(v6), victim.address(v6), quote);
        quotes.iter().map(|quote| maker.frame(error(quote))).collect()
    })
}

pub(super) fn lengths(maker: &Maker<'_>) -> Vec<Vec<u8>> {
    both(|v6| {
        let mut frames = Vec::new();
        for length_error in [-30, -20, -1, 1, 200] {
            frames.push(maker.frame(Packet {
                length_error,
                ..maker.syn(v6)
            }));
        }
        frames.push(maker.frame(Packet {
            hops: 0,
            ..maker.syn(v6)
        }));
        // Cut in the middle of a header: told apart by their length, which no honest frame has.
        let whole = maker.frame(maker.syn(v6));
        frames.extend([15, 20, 30, 34, 40, 41].map(|length| whole[..length].to_vec()));
        frames
    })
}
