//! What an attacker sends: frames by scenario, each with a mark by which it is known where it arrives.

mod layers;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vethwall_common::protocol;
use vethwall_tests::kernel::packet::{ACK, FIN, Packet, RST, SYN};

/// Somebody on the bridge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Party {
    pub(super) mac: [u8; 6],
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
}

impl Party {
    fn address(&self, v6: bool) -> IpAddr {
        if v6 { self.v6.into() } else { self.v4.into() }
    }

    /// What the kernel gives an interface with this MAC address (RFC 4291, appendix A).
    fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac;
        let tail = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
        let mut octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        octets[8..].copy_from_slice(&tail);
        octets.into()
    }
}

/// Who is who.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cast {
    pub(super) evil: Party,
    pub(super) victim: Party,
    /// Whom the victim's policy lets in, on TCP port 80.
    pub(super) friend: Party,
    /// Whom no policy selects.
    pub(super) bystander: Party,
    /// The node's end of the bridge.
    pub(super) bridge: Party,
    /// The port of the friend's connection, by family.
    pub(super) port: [u16; 2],
}

/// A kind of attack.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) frames: Vec<Vec<u8>>,
}

/// A mark that is in every frame of a scenario.
pub(super) fn mark(number: usize) -> Vec<u8> {
    format!("<attack {number:03}>").into_bytes()
}

/// The scenario that a frame belongs to.
pub(super) fn number(frame: &[u8]) -> Option<usize> {
    let at = frame.windows(8).position(|window| window == b"<attack ")?;
    std::str::from_utf8(frame.get(at + 8..at + 11)?)
        .ok()?
        .parse()
        .ok()
}

struct Maker<'a> {
    cast: &'a Cast,
    mark: Vec<u8>,
}

const ALL: [u8; 6] = [0xff; 6];
const WEB: u16 = 80;

impl Maker<'_> {
    /// A frame of a packet from here to the victim, with the mark in its payload and right checksums.
    fn frame(&self, packet: Packet) -> Vec<u8> {
        self.seal(packet.from_mac(self.cast.evil.mac).to_mac(self.cast.victim.mac))
    }

    fn seal(&self, mut packet: Packet) -> Vec<u8> {
        packet.body.extend(&self.mark);
        let length = u16::try_from(packet.body.len()).unwrap_or_default();
        let at = match packet.protocol {
            protocol::TCP => 16,
            protocol::UDP => {
                packet.body[4..6].copy_from_slice(&length.to_be_bytes());
                6
            }
            protocol::ICMP | protocol::ICMPV6 => 2,
            _ => return packet.bytes(),
        };
        let whole = packet
            .fragment
            .is_none_or(|(_, offset, more)| offset == 0 && !more);
        if whole && packet.body.len() >= at + 2 {
            packet.body[at..at + 2].fill(0);
            let sum = checksum(&packet);
            packet.body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        packet.bytes()
    }

    fn syn(&self, v6: bool) -> Packet {
        self.tcp(v6, SYN)
    }

    fn tcp(&self, v6: bool, flags: u8) -> Packet {
        let Cast { evil, victim, .. } = self.cast;
        Packet::tcp((evil.address(v6), 4444), (victim.address(v6), WEB), flags)
    }

    fn udp(&self, v6: bool) -> Packet {
        let Cast { evil, victim, .. } = self.cast;
        Packet::udp((evil.address(v6), 4444), (victim.address(v6), WEB))
    }

    fn trailer(&self, mut frame: Vec<u8>) -> Vec<u8> {
        frame.extend(&self.mark);
        frame
    }
}

/// Both families of something.
fn both(make: impl Fn(bool) -> Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    [make(false), make(true)].concat()
}

/// All scenarios that are only frames.
pub(super) fn scenarios(cast: &Cast) -> Vec<Scenario> {
    use layers::{
        errors, ethertypes, extensions, fragments, lengths, options, priority_tagged, protocols, tagged,
    };
    type Make = fn(&Maker<'_>) -> Vec<Vec<u8>>;
    let all: [(&'static str, Make); 20] = [
        ("in its own name", honest),
        ("with odd flags", flags),
        ("as the friend", |maker| forged(maker, maker.cast.friend)),
        ("as the victim itself", |maker| forged(maker, maker.cast.victim)),
        ("as the node", |maker| forged(maker, maker.cast.bridge)),
        ("as somebody outside", |maker| {
            let outside = Party {
                v4: Ipv4Addr::new(203, 0, 113, 10),
                v6: Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10),
                ..maker.cast.evil
            };
            forged(maker, outside)
        }),
        ("as nobody", |maker| {
            let nobody = Party {
                v4: Ipv4Addr::UNSPECIFIED,
                v6: Ipv6Addr::UNSPECIFIED,
                ..maker.cast.evil
            };
            forged(maker, nobody)
        }),
        ("to many", to_many),
        ("for somebody else, at the victim's door", wrong_destination),
        ("ARP", arps),
        ("neighbour discovery", neighbours),
        ("VLAN tags", tagged),
        ("priority tags", priority_tagged),
        ("other ethertypes", ethertypes),
        ("fragments", fragments),
        ("IPv4 options", options),
        ("IPv6 extension headers", extensions),
        ("other protocols and tunnels", protocols),
        ("ICMP errors about what never was", errors),
        ("lengths that lie", lengths),
    ];
    all.into_iter()
        .enumerate()
        .map(|(index, (name, make))| Scenario {
            name,
            frames: make(&Maker {
                cast,
                mark: mark(index),
            }),
        })
        .collect()
}

/// Frames in the attacker's own name, for ways of sending that are not in the frame: marks, tags, scattered buffers.
pub(super) fn plain(cast: &Cast, number: usize) -> Vec<Vec<u8>> {
    let maker = Maker {
        cast,
        mark: mark(number),
    };
    [honest(&maker), forged(&maker, cast.friend)].concat()
}

/// A datagram to the victim from a port of the attacker's own.
pub(super) fn datagram(cast: &Cast, number: usize, to: Party, source: u16, port: u16) -> Vec<u8> {
    let maker = Maker {
        cast,
        mark: mark(number),
    };
    let packet = Packet::udp((cast.evil.v4, source), (to.v4, port));
    maker.seal(packet.from_mac(cast.evil.mac).to_mac(to.mac))
}

/// What a VXLAN device takes for a SYN of a pod of the other node.
pub(super) fn tunnelled(cast: &Cast, number: usize, from: Ipv4Addr, device: [u8; 6]) -> Vec<u8> {
    let maker = Maker {
        cast,
        mark: mark(number),
    };
    let packet = Packet::tcp((from, 4444), (cast.victim.v4, WEB), SYN).to_mac(device);
    // RFC 7348: the flag that the number is valid, and number 1, which is flannel's.
    [&[8, 0, 0, 0, 0, 0, 1, 0], maker.seal(packet).as_slice()].concat()
}

fn honest(maker: &Maker<'_>) -> Vec<Vec<u8>> {
    both(|v6| {
        let Cast { evil, victim, .. } = maker.cast;
        let echo = Packet::echo(evil.address(v6), victim.address(v6), 7, false);
        vec![
            maker.frame(maker.syn(v6)),
            maker.frame(maker.udp(v6)),
            maker.frame(echo),
        ]
    })
}

fn flags(maker: &Maker<'_>) -> Vec<Vec<u8>> {
    both(|v6| {
        let flags = [0, ACK, RST, SYN | ACK, FIN, SYN | FIN, 0xff];
        flags.map(|flags| maker.frame(maker.tcp(v6, flags))).into()
    })
}

/// With another's address, from its own MAC address and from the other's, also on the friend's connection.
fn forged(maker: &Maker<'_>, who: Party) -> Vec<Vec<u8>> {
    both(|v6| {
        let victim = maker.cast.victim.address(v6);
        let port = maker.cast.port[usize::from(v6)];
        let mut frames = Vec::new();
        for packet in [
            Packet::tcp((who.address(v6), 4444), (victim, WEB), SYN),
            Packet::tcp((who.address(v6), port), (victim, WEB), ACK),
            Packet::tcp((who.address(v6), port), (victim, WEB), RST),
            Packet::udp((who.address(v6), 4444), (victim, WEB)),
            Packet::echo(who.address(v6), victim, 7, false),
        ] {
            for mac in [maker.cast.evil.mac, who.mac] {
                frames.push(maker.seal(packet.clone().from_mac(mac).to_mac(maker.cast.victim.mac)));
            }
        }
        frames
    })
}

fn to_many(maker: &Maker<'_>) -> Vec<Vec<u8>> {
    let evil = maker.cast.evil;
    let groups: [(IpAddr, [u8; 6]); 5] = [
        (Ipv4Addr::BROADCAST.into(), ALL),
        (Ipv4Addr::new(224, 0, 0, 251).into(), [1, 0, 0x5e, 0, 0, 251]),
        (maker.cast.victim.v4.into(), ALL),
        ("ff02::1".parse().expect("an address"), [0x33, 0x33, 0, 0, 0, 1]),
        (maker.cast.victim.v6.into(), ALL),
    ];
    let packet = |to: IpAddr| Packet::udp((evil.address(to.is_ipv6()), 5353), (to, 5353));
    groups
        .map(|(to, mac)| maker.seal(packet(to).from_mac(evil.mac).to_mac(mac)))
        .into()
}

fn wrong_destination(maker: &Maker<'_>) -> Vec<Vec<u8>> {
    let Cast { evil, bystander, .. } = maker.cast;
    both(|v6| {
        let packet = Packet::udp((evil.address(v6), 4444), (bystander.address(v6), WEB));
        vec![maker.frame(packet)]
    })
}

fn arps(maker: &Maker<'_>) -> Vec<Vec<u8>> {
    let Cast {
        evil,
        victim,
        friend,
        bridge,
        ..
    } = maker.cast;
    let arp = |operation: u8, to: [u8; 6], from: [u8; 6], sender: [u8; 6], address: Ipv4Addr| {
        let mut frame = to.to_vec();
        frame.extend(from);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend(sender);
        frame.extend(address.octets());
        frame.extend(victim.mac);
        frame.extend(victim.v4.octets());
        maker.trailer(frame)
    };
    vec![
        arp(2, victim.mac, evil.mac, evil.mac, friend.v4),
        arp(2, victim.mac, evil.mac, evil.mac, bridge.v4),
        arp(1, ALL, evil.mac, evil.mac, friend.v4),
        arp(1, ALL, evil.mac, friend.mac, evil.v4),
        arp(2, victim.mac, friend.mac, friend.mac, friend.v4),
        arp(2, victim.mac, friend.mac, evil.mac, friend.v4),
        arp(1, ALL, evil.mac, evil.mac, victim.v4),
    ]
}

fn neighbours(maker: &Maker<'_>) -> Vec<Vec<u8>> {
    let Cast {
        evil,
        victim,
        friend,
        bridge,
        ..
    } = maker.cast;
    let option = |kind: u8, mac: [u8; 6]| [&[kind, 1], &mac[..]].concat();
    let nd = |source: Ipv6Addr, kind: u8, rest: &[u8]| {
        let packet = Packet::icmp(source, victim.v6, kind, 0, rest);
        maker.frame(Packet { hops: 255, ..packet })
    };
    let about = |target: Ipv6Addr| {
        let head = [&[0x60, 0, 0, 0], &target.octets()[..]].concat();
        [head, option(2, evil.mac)].concat()
    };
    let mut redirect = [&[0; 4], &evil.link_local().octets()[..], &friend.v6.octets()[..]].concat();
    redirect.extend(option(2, evil.mac));
    let mut router = vec![64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    router.extend(option(1, evil.mac));
    let mut frames = Vec::new();
    for source in [
        evil.v6,
        evil.link_local(),
        bridge.link_local(),
        friend.link_local(),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xbad),
    ] {
        frames.push(nd(source, 134, &router));
        frames.push(nd(source, 137, &redirect));
        for target in [friend.v6, bridge.v6, bridge.link_local(), victim.v6] {
            frames.push(nd(source, 136, &about(target)));
        }
    }
    frames
}

/// The checksum of TCP, UDP and ICMPv6 over their pseudo header, of ICMP without (RFC 1071, RFC 8200 8.1).
fn checksum(packet: &Packet) -> u16 {
    let length = u32::try_from(packet.body.len()).unwrap_or_default();
    let mut bytes = Vec::new();
    if packet.protocol != protocol::ICMP {
        for address in [packet.source, packet.destination] {
            match address {
                IpAddr::V4(v4) => bytes.extend(v4.octets()),
                IpAddr::V6(v6) => bytes.extend(v6.octets()),
            }
        }
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0, 0, packet.protocol]);
    }
    bytes.extend(&packet.body);
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default()));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}
