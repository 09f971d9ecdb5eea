//! Frames, built field by field, honest or not.

use std::net::IpAddr;

use vethwall_common::protocol;

/// FIN.
pub const FIN: u8 = 1;
/// SYN.
pub const SYN: u8 = 2;
/// RST.
pub const RST: u8 = 4;
/// ACK.
pub const ACK: u8 = 16;

/// The bridge's MAC address, to which packets go that are not told otherwise.
pub const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A packet under construction; [`Packet::bytes`] makes the frame.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Source MAC address.
    pub source_mac: [u8; 6],
    /// Destination MAC address.
    pub destination_mac: [u8; 6],
    /// Source address.
    pub source: IpAddr,
    /// Destination address; of the same family.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Transport header and payload.
    pub body: Vec<u8>,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers: the number of each, and its bytes without the first (the number of the next one).
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Datagram, offset in bytes, more to come.
    pub fragment: Option<(u32, u16, bool)>,
    /// TTL or hop limit.
    pub hops: u8,
    /// What the IP length field says beyond (or, negative, short of) the truth.
    pub length_error: i16,
}

/// The MAC address that pods of the tests have, by their interface.
pub fn mac(ifindex: u32) -> [u8; 6] {
    let [a, b, c, d] = ifindex.to_be_bytes();
    [2, 0x76, a, b, c, d]
}

impl Packet {
    /// Any protocol.
    pub fn new(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, protocol: u8, body: &[u8]) -> Self {
        Self {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: BRIDGE_MAC,
            source: source.into(),
            destination: destination.into(),
            protocol,
            body: body.to_vec(),
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            hops: 64,
            length_error: 0,
        }
    }

    /// TCP with these flags.
    pub fn tcp(source: (impl Into<IpAddr>, u16), destination: (impl Into<IpAddr>, u16), flags: u8) -> Self {
        let mut body = ports(source.1, destination.1);
        body.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        Self::new(source.0, destination.0, protocol::TCP, &body)
    }

    /// UDP with four bytes.
    pub fn udp(source: (impl Into<IpAddr>, u16), destination: (impl Into<IpAddr>, u16)) -> Self {
        let mut body = ports(source.1, destination.1);
        body.extend([0, 12, 0, 0, b'v', b'e', b't', b'h']);
        Self::new(source.0, destination.0, protocol::UDP, &body)
    }

    /// SCTP with one empty chunk.
    pub fn sctp(source: (impl Into<IpAddr>, u16), destination: (impl Into<IpAddr>, u16)) -> Self {
        let mut body = ports(source.1, destination.1);
        body.extend([0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 4]);
        Self::new(source.0, destination.0, protocol::SCTP, &body)
    }

    /// ICMP or ICMPv6, by the family, with what follows the checksum.
    pub fn icmp(
        source: impl Into<IpAddr>,
        destination: impl Into<IpAddr>,
        kind: u8,
        code: u8,
        rest: &[u8],
    ) -> Self {
        let source = source.into();
        let number = if source.is_ipv4() {
            protocol::ICMP
        } else {
            protocol::ICMPV6
        };
        let mut body = vec![kind, code, 0, 0];
        body.extend(rest);
        Self::new(source, destination, number, &body)
    }

    /// An echo request, or a reply.
    pub fn echo(
        source: impl Into<IpAddr>,
        destination: impl Into<IpAddr>,
        identifier: u16,
        reply: bool,
    ) -> Self {
        let source = source.into();
        let kind = match (source.is_ipv4(), reply) {
            (true, false) => 8,
            (true, true) => 0,
            (false, false) => 128,
            (false, true) => 129,
        };
        let mut rest = identifier.to_be_bytes().to_vec();
        rest.extend([0, 1]);
        Self::icmp(source, destination, kind, 0, &rest)
    }

    /// An ICMP error about `quoted`: "port unreachable".
    pub fn unreachable(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, quoted: &Self) -> Self {
        let source = source.into();
        let (kind, code) = if source.is_ipv4() { (3, 3) } else { (1, 4) };
        let mut rest = vec![0; 4];
        let inner = &quoted.bytes()[14..];
        rest.extend(&inner[..inner.len().min(if source.is_ipv4() { 28 } else { 48 })]);
        Self::icmp(source, destination, kind, code, &rest)
    }

    /// From this MAC address.
    #[must_use]
    pub fn from_mac(mut self, mac: [u8; 6]) -> Self {
        self.source_mac = mac;
        self
    }

    /// To this MAC address.
    #[must_use]
    pub fn to_mac(mut self, mac: [u8; 6]) -> Self {
        self.destination_mac = mac;
        self
    }

    /// With IPv4 options.
    #[must_use]
    pub fn with_options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// With one more IPv6 extension header of eight bytes.
    #[must_use]
    pub fn with_extension(mut self, number: u8) -> Self {
        // Padding; as a routing header, one that is used up.
        let left = if number == 43 { 0 } else { 4 };
        self.extensions.push((number, vec![0, 1, left, 0, 0, 0, 0]));
        self
    }

    /// With a routing header that leads on to further addresses.
    #[must_use]
    pub fn routed_on(mut self) -> Self {
        self.extensions.push((43, vec![0, 0, 1, 0, 0, 0, 0]));
        self
    }

    /// As the packet of an SCTP association whose first chunk is of this type.
    #[must_use]
    pub fn with_chunk(mut self, kind: u8) -> Self {
        if let Some(first) = self.body.get_mut(12) {
            *first = kind;
        }
        self
    }

    /// As a fragment: of this datagram, at this offset in bytes, with more to come or not.
    #[must_use]
    pub fn as_fragment(mut self, datagram: u32, offset: u16, more: bool) -> Self {
        self.fragment = Some((datagram, offset, more));
        self
    }

    /// The way back: ends, ports and MAC addresses exchanged.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        std::mem::swap(&mut self.source, &mut self.destination);
        std::mem::swap(&mut self.source_mac, &mut self.destination_mac);
        if protocol::has_ports(self.protocol) && self.body.len() >= 4 {
            self.body[..4].rotate_left(2);
        }
        self
    }

    /// With these TCP flags.
    #[must_use]
    pub fn with_flags(mut self, flags: u8) -> Self {
        if let Some(byte) = self.body.get_mut(13) {
            *byte = flags;
        }
        self
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00]);
                frame.extend(self.ipv4(source.octets(), destination.octets()));
            }
            (source, destination) => {
                frame.extend([0x86, 0xdd]);
                frame.extend(self.ipv6(octets(source), octets(destination)));
            }
        }
        frame
    }

    fn ipv4(&self, source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let words = 5 + self.options.len() / 4;
        let length = words * 4 + self.body.len();
        let (datagram, offset, more) = self.fragment.unwrap_or((1, 0, false));
        let mut packet = vec![0x40 | u8::try_from(words).unwrap_or(15), 0];
        packet.extend(self.length(length));
        packet.extend(u16::try_from(datagram & 0xffff).unwrap_or_default().to_be_bytes());
        packet.extend(((offset / 8) | if more { 0x2000 } else { 0 }).to_be_bytes());
        packet.extend([self.hops, self.protocol, 0, 0]);
        packet.extend(source);
        packet.extend(destination);
        packet.extend(&self.options);
        let sum = checksum(&packet).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        packet.extend(&self.body);
        packet
    }

    fn ipv6(&self, source: [u8; 16], destination: [u8; 16]) -> Vec<u8> {
        let mut headers = self.extensions.clone();
        if let Some((datagram, offset, more)) = self.fragment {
            let mut fragment = vec![0];
            fragment.extend(((offset & 0xfff8) | u16::from(more)).to_be_bytes());
            fragment.extend(datagram.to_be_bytes());
            headers.push((44, fragment));
        }
        let first = headers.first().map_or(self.protocol, |(number, _)| *number);
        let mut behind = Vec::new();
        for (index, (_, bytes)) in headers.iter().enumerate() {
            behind.push(
                headers
                    .get(index + 1)
                    .map_or(self.protocol, |(number, _)| *number),
            );
            behind.extend(bytes);
        }
        behind.extend(&self.body);
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(self.length(behind.len()));
        packet.extend([first, self.hops]);
        packet.extend(source);
        packet.extend(destination);
        packet.extend(behind);
        packet
    }

    fn length(&self, truth: usize) -> [u8; 2] {
        u16::try_from(truth)
            .unwrap_or(u16::MAX)
            .wrapping_add_signed(self.length_error)
            .to_be_bytes()
    }
}

/// An ARP request from these addresses.
pub fn arp(frame_mac: [u8; 6], sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(frame_mac);
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(sender_mac);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

/// A frame of any type.
pub fn frame(source_mac: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = BRIDGE_MAC.to_vec();
    frame.extend(source_mac);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = source.to_be_bytes().to_vec();
    bytes.extend(destination.to_be_bytes());
    bytes
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += (u32::from(pair[0]) << 8) | u32::from(pair.get(1).copied().unwrap_or_default());
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}
