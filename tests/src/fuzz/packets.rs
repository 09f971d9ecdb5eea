//! Random packets: of a conversation, honest at first, then disturbed.

use std::net::IpAddr;

use super::scene::Talk;
use crate::{
    dice::Dice,
    kernel::{
        Packet,
        packet::{ACK, FIN, RST, SYN, arp, frame},
    },
    oracle::packet::node::Pod,
};

/// A packet to be.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    packet: Packet,
    /// A frame that is no packet.
    raw: Option<Vec<u8>>,
    /// Bytes cut off, and bytes added behind.
    cut: usize,
    padding: usize,
    /// Bytes that become others.
    noise: usize,
    /// The checksum of an IPv4 header is wrong.
    damaged: bool,
    /// A VLAN tag within the frame.
    tagged: bool,
}

impl Draft {
    /// A packet of this conversation, from the pod or to it.
    pub(super) fn new(dice: &mut Dice, talk: &Talk, out: bool, all: &[Talk], pod: &Pod) -> Self {
        let mut packet = match dice.below(100) {
            0..=5 => error(dice, talk, out, all),
            6..=8 => tunnel(dice, talk, out, all),
            9..=12 if talk.own.is_ipv6() => discovery(dice, talk, out, pod),
            13..=14 => oddity(dice, talk, out),
            _ => said(dice, talk, out),
        };
        if out {
            packet = packet.from_mac(pod.mac);
        } else {
            packet = packet.to_mac(pod.mac);
        }
        let raw = dice.percent(3).then(|| not_ip(dice, pod, out));
        Self {
            packet,
            raw,
            cut: 0,
            padding: 0,
            noise: 0,
            damaged: false,
            tagged: false,
        }
    }

    /// Where it goes.
    pub(super) fn destination(&self) -> Option<IpAddr> {
        self.raw.is_none().then_some(self.packet.destination)
    }

    /// Whether it is no packet.
    pub(super) fn is_raw(&self) -> bool {
        self.raw.is_some()
    }

    /// The same packet with another destination, if nothing else was done to it.
    pub(super) fn translated(&self, destination: IpAddr, port: u16) -> Option<Vec<u8>> {
        let same_family = self.packet.destination.is_ipv4() == destination.is_ipv4();
        if !same_family || self.cut + self.noise != 0 || self.tagged {
            return None;
        }
        let mut packet = self.packet.clone();
        packet.destination = destination;
        if matches!(packet.protocol, 6 | 17 | 132) && packet.body.len() >= 4 {
            packet.body[2..4].copy_from_slice(&port.to_be_bytes());
        }
        Some(packet.bytes())
    }

    /// Does something to it, mostly nothing.
    pub(super) fn disturb(&mut self, dice: &mut Dice) {
        if dice.percent(55) {
            return;
        }
        let packet = &mut self.packet;
        let six = packet.source.is_ipv6();
        match dice.below(18) {
            0 if !six => {
                let words = 1 + dice.below(10);
                packet.options = (0..words * 4)
                    .map(|_| dice.of(&[0, 1, 1, 7, 68, 131, 148, 4]))
                    .collect();
            }
            0..=2 if six => {
                let most = if dice.percent(20) { 8 } else { 3 };
                for _ in 0..1 + dice.below(most) {
                    *packet = packet
                        .clone()
                        .with_extension(dice.of(&[0, 0, 0, 60, 60, 60, 60, 43, 43, 43, 43, 51, 135]));
                }
                for (_, rest) in &mut packet.extensions {
                    if dice.percent(30) {
                        let eights = dice.of(&[1, 2, 5]);
                        rest[0] = eights;
                        rest.extend(vec![0; usize::from(eights) * 8]);
                    }
                }
                if dice.percent(10) {
                    *packet = packet.clone().routed_on();
                }
            }
            1..=4 => {
                let offset = dice.of(&[0, 0, 8, 1480, 65528]);
                let datagram = 1 + u32::try_from(dice.below(3)).unwrap_or_default();
                *packet = packet.clone().as_fragment(datagram, offset, dice.percent(70));
            }
            5 => packet.hops = dice.of(&[0, 1, 64, 254, 255]),
            6 if dice.percent(40) => packet.length_error = i16::from(dice.byte()) - 128,
            7 => {
                let keep = dice.below(packet.body.len() + 1);
                packet.body.truncate(keep);
            }
            8 => {
                if let Some(byte) = packet.body.get_mut(12).filter(|_| packet.protocol == 6) {
                    *byte = dice.byte();
                }
            }
            9 => packet.protocol = dice.of(&[1, 2, 4, 6, 17, 41, 47, 50, 51, 58, 59, 89, 132, 136, 139, 253]),
            10 if dice.percent(40) => self.cut = 1 + dice.below(60),
            11 => self.padding = 1 + dice.below(40),
            12 => self.noise = 1 + dice.below(3),
            13 => packet.source_mac = dice.of(&[[2, 0x76, 0, 0, 0, 12], [0; 6], [0xff; 6]]),
            14 => {
                let others = ["10.244.0.12", "10.244.0.1", "127.0.0.1", "198.51.100.1"];
                let sixes = [
                    "fd00:10::c",
                    "fe80::1",
                    "::",
                    "::1",
                    "::ffff:10.244.0.11",
                    "::ffff:10.244.0.12",
                ];
                let text = if six { dice.of(&sixes) } else { dice.of(&others) };
                packet.source = text.parse().unwrap_or(packet.source);
            }
            15 => packet.destination_mac = dice.of(&[[2, 0x76, 0, 0, 0, 12], [2, 0, 0, 0, 0, 3], [0xff; 6]]),
            16 => self.damaged = !six,
            _ => self.tagged = dice.percent(30),
        }
    }

    /// The frame.
    pub(super) fn frame(&mut self, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.raw.clone().unwrap_or_else(|| self.packet.bytes());
        if let Some(byte) = bytes.get_mut(24).filter(|_| self.damaged && self.raw.is_none()) {
            *byte ^= 1 << dice.below(8);
        }
        let keep = bytes.len().saturating_sub(self.cut).max(15);
        bytes.truncate(keep);
        bytes.extend((0..self.padding).map(|n| n.to_le_bytes()[0]));
        if self.tagged {
            let head: Vec<u8> = bytes.drain(..12).collect();
            let tag = [0x81, 0, 0, dice.of(&[0, 5])];
            bytes = [&head[..], &tag, &bytes].concat();
        }
        for _ in 0..self.noise {
            let at = dice.below(bytes.len());
            bytes[at] = if dice.percent(50) {
                dice.byte()
            } else {
                bytes[at] ^ (1 << dice.below(8))
            };
        }
        bytes
    }
}

/// An ordinary packet of the conversation.
fn said(dice: &mut Dice, talk: &Talk, out: bool) -> Packet {
    let (own, peer) = ((talk.own, talk.own_port), (talk.peer, talk.peer_port));
    let (source, destination) = if out { (own, peer) } else { (peer, own) };
    match talk.protocol {
        6 => {
            let flags = match dice.below(20) {
                0..=5 => SYN,
                6..=8 => SYN | ACK,
                9..=14 => ACK,
                15 | 16 => FIN | ACK,
                17 => RST,
                18 => dice.of(&[SYN | FIN, SYN | RST, 0, 0xff, FIN, RST | ACK]),
                _ => dice.byte(),
            };
            Packet::tcp(source, destination, flags)
        }
        17 => Packet::udp(source, destination),
        132 => Packet::sctp(source, destination).with_chunk(dice.of(&[1, 1, 2, 0, 3, 6, 10, 14, 7])),
        _ => Packet::echo(source.0, destination.0, talk.own_port, dice.percent(45)),
    }
}

/// An ICMP error about a packet of this conversation or another, the way it would come back or not.
fn error(dice: &mut Dice, talk: &Talk, out: bool, all: &[Talk]) -> Packet {
    let about = if dice.percent(70) { *talk } else { dice.of(all) };
    let backwards = dice.percent(85);
    let mut quoted = said(dice, &about, out != backwards);
    let six = talk.own.is_ipv6();
    if dice.percent(10) {
        quoted = quoted.as_fragment(7, dice.of(&[0, 8]), true);
    }
    if dice.percent(10) {
        if six {
            quoted = quoted.with_extension(60);
        } else {
            quoted = quoted.with_options(&[1, 1, 1, 0]);
        }
    }
    let kind = match (six, dice.percent(80)) {
        (false, true) => dice.of(&[3, 3, 11, 12, 4, 5]),
        (true, true) => dice.of(&[1, 2, 3, 4]),
        _ => dice.byte(),
    };
    let mut inner = quoted.bytes().split_off(14);
    if dice.percent(50) {
        let keep = match dice.percent(70) {
            true => {
                if six {
                    48
                } else {
                    28
                }
            }
            false => dice.below(inner.len()),
        };
        inner.truncate(keep);
    }
    let mut rest = vec![0; 4];
    rest.extend(inner);
    // Routers on the way tell errors too.
    let teller = match (dice.percent(60), six) {
        (true, _) => talk.peer,
        (false, false) => IpAddr::from([198, 51, 100, 1]),
        (false, true) => IpAddr::from([0x2a00, 0, 0, 0, 0, 0, 0, 1]),
    };
    if out {
        Packet::icmp(talk.own, talk.peer, kind, 0, &rest)
    } else {
        Packet::icmp(teller, talk.own, kind, 0, &rest)
    }
}

/// A packet within a packet: IPIP, GRE, VXLAN.
fn tunnel(dice: &mut Dice, talk: &Talk, out: bool, all: &[Talk]) -> Packet {
    let inner = said(dice, &dice.clone().of(all), out).bytes();
    let (source, destination) = if out {
        (talk.own, talk.peer)
    } else {
        (talk.peer, talk.own)
    };
    match dice.below(3) {
        0 => Packet::new(source, destination, dice.of(&[4, 41]), &inner[14..]),
        1 => Packet::new(source, destination, 47, &[&[0, 0, 8, 0], &inner[14..]].concat()),
        _ => {
            let mut packet = Packet::udp((source, talk.own_port), (destination, dice.of(&[8472, 4789])));
            packet.body.truncate(8);
            packet.body.extend([8, 0, 0, 0, 0, 0, 1, 0]);
            packet.body.extend(inner);
            packet
        }
    }
}

/// Neighbour and listener discovery.
fn discovery(dice: &mut Dice, talk: &Talk, out: bool, pod: &Pod) -> Packet {
    let kind = dice.of(&[133, 134, 135, 135, 136, 136, 137, 130, 131, 132, 143]);
    let [a, b, c, d, e, f] = pod.mac;
    let own = IpAddr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    let target = dice.of(&[
        talk.own,
        own,
        talk.peer,
        IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]),
    ]);
    let mut rest = vec![0; 4];
    if let IpAddr::V6(target) = target {
        rest.extend(target.octets());
    }
    let source = dice.of(&[
        talk.own,
        own,
        talk.peer,
        IpAddr::from([0_u16; 8]),
        IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 9]),
    ]);
    let (source, destination) = if out {
        (source, talk.peer)
    } else {
        (talk.peer, talk.own)
    };
    let mut packet = Packet::icmp(source, destination, kind, 0, &rest);
    packet.hops = dice.of(if matches!(kind, 133..=137) {
        &[255, 255, 255, 64]
    } else {
        &[1, 1, 1, 255]
    });
    if dice.percent(25) {
        packet = packet.with_extension(0);
    }
    packet
}

/// Protocols without ports, and without sense.
fn oddity(dice: &mut Dice, talk: &Talk, out: bool) -> Packet {
    let (source, destination) = if out {
        (talk.own, talk.peer)
    } else {
        (talk.peer, talk.own)
    };
    let length = dice.below(64);
    let body: Vec<u8> = (0..length).map(|_| dice.byte()).collect();
    Packet::new(source, destination, dice.byte(), &body)
}

/// ARP, other types, noise.
fn not_ip(dice: &mut Dice, pod: &Pod, out: bool) -> Vec<u8> {
    let own = match pod.address(false) {
        Some(IpAddr::V4(v4)) => v4.octets(),
        _ => [10, 244, 0, 99],
    };
    let other = [2, 0, 0, 0, 0, 7];
    match dice.below(5) {
        0..=2 => {
            let sender = dice.of(&[own, own, [0; 4], [10, 244, 0, 1]]);
            let mac = if out { pod.mac } else { other };
            let sender_mac = if dice.percent(80) { mac } else { other };
            let mut bytes = arp(mac, sender_mac, sender, [10, 244, 0, 1]);
            if dice.percent(15) {
                let at = 14 + dice.below(8);
                bytes[at] = dice.byte();
            }
            bytes
        }
        3 => {
            let kind = dice.of(&[0x8100, 0x88a8, 0x88cc, 0x8847, 0x0806, 0x0800, 0x86dd, 0x9100]);
            let length = 1 + dice.below(60);
            let bytes: Vec<u8> = (0..length).map(|_| dice.byte()).collect();
            frame(pod.mac, kind, &bytes)
        }
        _ => {
            let length = 15 + dice.below(80);
            let mut bytes: Vec<u8> = (0..length).map(|_| dice.byte()).collect();
            if dice.percent(70) {
                bytes[6..12].copy_from_slice(&pod.mac);
                let [high, low] = dice.of(&[0x0800_u16, 0x86dd, 0x0806]).to_be_bytes();
                bytes[12..14].copy_from_slice(&[high, low]);
            }
            bytes
        }
    }
}
