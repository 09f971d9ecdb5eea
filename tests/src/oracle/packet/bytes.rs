//! What a frame says, byte by byte (RFC 791, 8200, 9293, 768, 9260, 792, 4443, 4861).
//!
//! Invariants:
//! - Nothing behind the end that the IP header gives is read, nor anything behind the frame.
//! - Where a reader may be strict or lenient without harm, it says [`Content::Unclear`] with the reason.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an ethernet frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A VLAN tag within the frame.
    Vlan,
    /// ARP: the sender's MAC and IPv4 address, if it is ARP for IPv4 over ethernet.
    Arp(Option<([u8; 6], Ipv4Addr)>),
    /// IPv4 or IPv6.
    Ip(Ip),
    /// Anything else.
    Other,
}

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// By the type of the frame.
    pub six: bool,
    /// Source and destination, where the header is long enough to hold them.
    pub ends: Option<(IpAddr, IpAddr)>,
    /// Whether it is a fragment.
    pub fragment: Fragment,
    /// The last protocol number that was reached.
    pub protocol: u8,
    /// What follows.
    pub content: Content,
    /// IPv4: the header's checksum is wrong, and every node discards it.
    pub damaged: bool,
}

/// Place in a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Not a fragment.
    Whole,
    /// The first one: of this datagram, and the protocol that a later one knows.
    First(u32, u8),
    /// A later one.
    Later(u32, u8),
}

/// Behind the IP headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Cut short, or contradicting itself, or unknown.
    Broken(&'static str),
    /// To be denied or read on, as one likes.
    Unclear(&'static str),
    /// A later fragment's data.
    Data,
    /// TCP, UDP, SCTP.
    Ports {
        /// Ports.
        source: u16,
        /// Ports.
        destination: u16,
        /// SYN without ACK; INIT.
        opens: bool,
        /// FIN.
        ends: bool,
        /// RST; ABORT, SHUTDOWN COMPLETE.
        resets: bool,
    },
    /// An ICMP echo.
    Echo {
        /// The identifier.
        id: u16,
        /// A request, not a reply.
        request: bool,
    },
    /// An ICMP error, with the packet that it quotes.
    Error {
        /// Its type is one that RFC 1122 counts among the errors and nobody needs (source quench, redirect).
        odd: bool,
        /// The beginning of the packet.
        quote: Vec<u8>,
    },
    /// Neighbour discovery, 133 to 137: the type, the target where there is one.
    Neighbour(u8, Option<Ipv6Addr>),
    /// Listener discovery: the type.
    Listener(u8),
    /// ICMP that neither asks for an echo nor tells of an error.
    Message,
    /// A protocol without ports.
    Other,
}

/// Reads a frame. `bundled`: the kernel put several packets together, and the lengths are not those of this one.
pub fn frame(bytes: &[u8], bundled: bool) -> Frame {
    let Some((head, rest)) = bytes.split_at_checked(14) else {
        return Frame::Other;
    };
    match (head[12], head[13]) {
        (0x81, 0x00) | (0x88, 0xa8) => Frame::Vlan,
        (0x08, 0x06) => Frame::Arp(arp(rest)),
        (0x08, 0x00) => Frame::Ip(ipv4(rest, bundled, false)),
        (0x86, 0xdd) => Frame::Ip(ipv6(rest, bundled, false)),
        _ => Frame::Other,
    }
}

fn arp(bytes: &[u8]) -> Option<([u8; 6], Ipv4Addr)> {
    // What is behind the sender's address is for the receiver.
    if bytes.len() < 20 || bytes[..6] != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    Some((array(bytes, 8)?, Ipv4Addr::from(array::<4>(bytes, 14)?)))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// A packet that an ICMP error quotes: cut off anywhere, its length that of the original.
pub fn quoted(bytes: &[u8], six: bool) -> Ip {
    if six {
        ipv6(bytes, true, true)
    } else {
        ipv4(bytes, true, true)
    }
}

fn unread(six: bool, why: &'static str) -> Ip {
    Ip {
        six,
        ends: None,
        fragment: Fragment::Whole,
        protocol: 0,
        content: Content::Broken(why),
        damaged: false,
    }
}

fn ipv4(bytes: &[u8], loose: bool, quote: bool) -> Ip {
    let Some(header) = array::<20>(bytes, 0) else {
        return unread(false, "a short IPv4 header");
    };
    let source = Ipv4Addr::from(array::<4>(&header, 12).unwrap_or_default());
    let destination = Ipv4Addr::from(array::<4>(&header, 16).unwrap_or_default());
    let protocol = header[9];
    let mut ip = Ip {
        six: false,
        ends: Some((source.into(), destination.into())),
        fragment: Fragment::Whole,
        protocol,
        content: Content::Broken("another version, or a header length that can not be"),
        damaged: false,
    };
    let length = usize::from(header[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || length < 20 || (!loose && total < length) || bytes.len() < length {
        return ip;
    }
    // RFC 791: the one's complement sum of the header, its checksum included, is all ones.
    let mut sum: u32 = bytes[..length]
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    ip.damaged = sum != 0xffff;
    let place = u16::from_be_bytes([header[6], header[7]]);
    let datagram = u32::from(u16::from_be_bytes([header[4], header[5]]));
    ip.fragment = match (place & 0x1fff, place & 0x2000 != 0) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First(datagram, protocol),
        _ => Fragment::Later(datagram, protocol),
    };
    if let Fragment::Later(..) = ip.fragment {
        ip.content = if quote || total <= bytes.len() {
            Content::Data
        } else {
            Content::Unclear("data that is cut short")
        };
        return ip;
    }
    let before = Before {
        protocol,
        six: false,
        hops: header[8],
        whole: ip.fragment == Fragment::Whole,
        quote,
    };
    ip.content = payload(before, &bytes[length..], total.checked_sub(length), loose);
    ip
}

/// Why a packet is not read that could be mistaken for one of IPv4.
pub const MAPPED: &str = "an IPv4 address in an IPv6 header";

/// The most extension headers that are walked.
const MANY: usize = 6;

fn ipv6(bytes: &[u8], loose: bool, quote: bool) -> Ip {
    let Some(header) = array::<40>(bytes, 0) else {
        return unread(true, "a short IPv6 header");
    };
    let source = Ipv6Addr::from(array::<16>(&header, 8).unwrap_or_default());
    let destination = Ipv6Addr::from(array::<16>(&header, 24).unwrap_or_default());
    if source.to_ipv4_mapped().is_some() || destination.to_ipv4_mapped().is_some() {
        return unread(true, MAPPED);
    }
    let mut ip = Ip {
        six: true,
        ends: Some((source.into(), destination.into())),
        fragment: Fragment::Whole,
        protocol: header[6],
        content: Content::Broken("another version"),
        damaged: false,
    };
    if header[0] >> 4 != 6 {
        return ip;
    }
    let said = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let rest = &bytes[40..];
    let within = if loose {
        rest
    } else {
        &rest[..said.min(rest.len())]
    };
    let (mut at, mut walked, mut unclear) = (0, 0, None);
    while let 0 | 43 | 44 | 51 | 60 = ip.protocol {
        if ip.protocol == 51 {
            ip.content = Content::Unclear("an authentication header: walked, or a protocol without ports");
            return ip;
        }
        if quote {
            // How far into a quotation one looks is nobody's business.
            unclear = Some("extension headers within a quotation");
        }
        let Some([next, size, third, left]) = array::<4>(within, at) else {
            ip.content = Content::Broken("a short extension header");
            return ip;
        };
        let length = match ip.protocol {
            44 => 8,
            _ => (usize::from(size) + 1) * 8,
        };
        walked += 1;
        if walked > MANY || within.len() < at + length {
            ip.content = Content::Broken("an extension header that is cut short, or one too many");
            return ip;
        }
        match ip.protocol {
            43 if left != 0 => {
                ip.content = Content::Broken("a way that leads on");
                return ip;
            }
            44 => {
                let datagram = array(within, at + 4).map_or(0, u32::from_be_bytes);
                let place = u16::from_be_bytes([third, left]);
                if ip.fragment != Fragment::Whole {
                    unclear = Some("a fragment of a fragment");
                }
                ip.fragment = match (place >> 3, place & 1 != 0) {
                    (0, false) => Fragment::Whole,
                    (0, true) => Fragment::First(datagram, next),
                    _ => Fragment::Later(datagram, next),
                };
                if let Fragment::Later(..) = ip.fragment {
                    ip.protocol = next;
                    ip.content = if loose || said <= rest.len() {
                        Content::Data
                    } else {
                        Content::Unclear("data that is cut short")
                    };
                    return ip;
                }
            }
            _ => {}
        }
        ip.protocol = next;
        at += length;
    }
    ip.content = match unclear {
        Some(why) => Content::Unclear(why),
        None if matches!(ip.protocol, 135 | 139 | 140 | 253 | 254) => {
            Content::Unclear("an extension header that is no protocol, or a protocol that looks like one")
        }
        None => {
            let before = Before {
                protocol: ip.protocol,
                six: true,
                hops: header[7],
                whole: ip.fragment == Fragment::Whole,
                quote,
            };
            payload(before, &rest[at..], said.checked_sub(at), loose)
        }
    };
    ip
}

/// What the IP headers say about what follows.
#[derive(Clone, Copy)]
struct Before {
    protocol: u8,
    six: bool,
    hops: u8,
    whole: bool,
    quote: bool,
}

/// `bytes`: all that follows the headers; `said`: how much of it belongs to the packet.
fn payload(before: Before, bytes: &[u8], said: Option<usize>, loose: bool) -> Content {
    let read = |within: &[u8]| transport(before, within);
    match said {
        _ if before.quote => read(bytes),
        Some(length) if length <= bytes.len() => {
            let content = read(&bytes[..length]);
            if matches!(content, Content::Error { .. }) && content != read(bytes) {
                return Content::Unclear("a quotation that goes on behind the packet's end");
            }
            if loose && content != read(bytes) {
                return Content::Unclear("lengths of packets that were put together");
            }
            content
        }
        // The header may be whole all the same.
        Some(_) if !loose => match read(bytes) {
            Content::Broken(why) => Content::Broken(why),
            _ => Content::Unclear("headers that are whole, and data that is cut short"),
        },
        _ if loose => match read(bytes) {
            Content::Broken(why) => Content::Broken(why),
            _ => Content::Unclear("lengths of packets that were put together"),
        },
        _ => Content::Broken("a length that does not hold the headers"),
    }
}

fn transport(before: Before, bytes: &[u8]) -> Content {
    let Before {
        protocol, six, quote, ..
    } = before;
    let ports = |least: usize| -> Option<(u16, u16)> {
        let least = if quote { 8 } else { least };
        (bytes.len() >= least).then_some(())?;
        Some((number(bytes, 0)?, number(bytes, 2)?))
    };
    let content = match protocol {
        6 => ports(20).and_then(|(source, destination)| {
            let [offset, flags] = array(bytes, 12).unwrap_or_default();
            let length = usize::from(offset >> 4) * 4;
            (quote || (length >= 20 && length <= bytes.len())).then_some(Content::Ports {
                source,
                destination,
                opens: flags & 0x12 == 0x02,
                ends: flags & 1 != 0,
                resets: flags & 4 != 0,
            })
        }),
        17 => ports(8).map(|(source, destination)| Content::Ports {
            source,
            destination,
            opens: false,
            ends: false,
            resets: false,
        }),
        // There is always a chunk, and it has a header of four bytes.
        132 => ports(16).map(|(source, destination)| {
            let chunk = bytes.get(12).copied().unwrap_or_default();
            Content::Ports {
                source,
                destination,
                opens: chunk == 1,
                ends: false,
                resets: matches!(chunk, 6 | 14),
            }
        }),
        1 if !six => icmp(bytes),
        58 if six => icmpv6(bytes, before),
        _ => (!quote || bytes.len() >= 8).then_some(Content::Other),
    };
    content.unwrap_or(Content::Broken(
        "a transport header that is cut short or contradicts itself",
    ))
}

fn icmp(bytes: &[u8]) -> Option<Content> {
    let head = array::<8>(bytes, 0)?;
    Some(match head[0] {
        0 | 8 => Content::Echo {
            id: u16::from_be_bytes([head[4], head[5]]),
            request: head[0] == 8,
        },
        3..=5 | 11 | 12 => Content::Error {
            odd: matches!(head[0], 4 | 5),
            quote: bytes[8..].to_vec(),
        },
        _ => Content::Message,
    })
}

fn icmpv6(bytes: &[u8], before: Before) -> Option<Content> {
    let head = array::<8>(bytes, 0)?;
    let plain = head[1] == 0 && before.whole;
    Some(match head[0] {
        1..=4 => Content::Error {
            odd: false,
            quote: bytes[8..].to_vec(),
        },
        128 | 129 => Content::Echo {
            id: u16::from_be_bytes([head[4], head[5]]),
            request: head[0] == 128,
        },
        // Anything else comes from further away, and nobody takes it (RFC 4861, 6980, 3810).
        133..=137 if plain && before.hops == 255 => {
            Content::Neighbour(head[0], array::<16>(bytes, 8).map(Ipv6Addr::from))
        }
        130 | 131 | 132 | 143 if plain && before.hops == 1 => Content::Listener(head[0]),
        _ => Content::Message,
    })
}
