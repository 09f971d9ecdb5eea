//! The kernel's own connection tracking, over ctnetlink (linux/netfilter/nfnetlink_conntrack.h): what the programs can not
//! know because it happened before they came.
//!
//! ```text
//! conntrack:  pod ─► VIP          original tuple      what the pod that opened it sees
//!             backend ─► pod      reply tuple         reversed: what the pod that answers sees, and the second stage
//! ```
//!
//! A dump and single questions, which take CAP_NET_ADMIN. Only the attributes that are asked for are decoded. Connections of
//! a conntrack zone are those of another network and are left out.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Emitable};
use nix::libc;
use vethwall_common::{
    Direction,
    flow::{FlowEntry, FlowKey, state},
    protocol::{ICMP, ICMPV6, SCTP, TCP, UDP},
};

use crate::{
    Error,
    netlink::{Socket, attribute},
};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW` and `_GET`.
const CT_NEW: u16 = 0x100;
const CT_GET: u16 = 0x101;

/// Length of `struct nfgenmsg`: family, version, resource id (big endian).
const NFGENMSG: usize = 4;

// enum ctattr_type
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_ZONE: u16 = 18;
// enum ctattr_tuple
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
// enum ctattr_ip
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
// enum ctattr_l4proto
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
// enum ctattr_protoinfo, enum ctattr_protoinfo_tcp, enum ctattr_protoinfo_sctp
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_SCTP: u16 = 3;
const CTA_PROTOINFO_STATE: u16 = 1;
// enum ip_conntrack_status
const IPS_SEEN_REPLY: u32 = 1 << 1;
// enum tcp_conntrack
const TCP_LAST_ACK: u8 = 6;
const TCP_TIME_WAIT: u8 = 7;
const TCP_CLOSE: u8 = 8;
// enum sctp_conntrack
const SCTP_CLOSED: u8 = 1;
const SCTP_SHUTDOWN_ACK_SENT: u8 = 7;

/// The ends of a connection, the one that sends first. An ICMP echo has its identifier as the port of the end that asks and
/// 0 at the other, as in [`FlowKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// The sender's address.
    pub source: IpAddr,
    /// The sender's port.
    pub source_port: u16,
    /// The receiver's address.
    pub destination: IpAddr,
    /// The receiver's port.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl Tuple {
    /// The other way.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            source: self.destination,
            source_port: self.destination_port,
            destination: self.source,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }

    /// The connection as the endpoint of this interface sees it.
    pub fn key(&self, ifindex: u32) -> FlowKey {
        FlowKey::between(
            ifindex,
            self.protocol,
            (self.source.into(), self.source_port),
            (self.destination.into(), self.destination_port),
        )
    }
}

/// A connection that the kernel tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Packets of who opened it, as they are sent: a Service's address is not translated.
    pub original: Tuple,
    /// Packets of who answers, as they are sent: from where the first ones really went, to where they came from at last.
    pub reply: Tuple,
    /// Bits of [`state`]: REPLIED, and those of a connection that both sides have closed.
    pub state: u8,
}

impl Connection {
    /// The connection in the payload of a message; `None` where the programs do not track such.
    fn parse(payload: &[u8]) -> Option<Self> {
        let attributes = payload.get(NFGENMSG..)?;
        if attribute(attributes, CTA_ZONE).is_some() {
            return None;
        }
        let original = parse_tuple(attribute(attributes, CTA_TUPLE_ORIG)?)?;
        let reply = parse_tuple(attribute(attributes, CTA_TUPLE_REPLY)?)?;
        let status = u32::from_be_bytes(attribute(attributes, CTA_STATUS)?.try_into().ok()?);
        let mut bits = 0;
        if status & IPS_SEEN_REPLY != 0 {
            bits |= state::REPLIED;
        }
        let info = |kind| {
            let info = attribute(attributes, CTA_PROTOINFO)?;
            attribute(attribute(info, kind)?, CTA_PROTOINFO_STATE)?
                .first()
                .copied()
        };
        // Half closed is not closed: the other side may send for hours.
        match original.protocol {
            TCP => match info(CTA_PROTOINFO_TCP) {
                Some(TCP_LAST_ACK | TCP_TIME_WAIT) => bits |= state::FIN_ORIGINAL | state::FIN_REPLY,
                Some(TCP_CLOSE) => bits |= state::RESET,
                _ => {}
            },
            SCTP if matches!(
                info(CTA_PROTOINFO_SCTP),
                Some(SCTP_CLOSED | SCTP_SHUTDOWN_ACK_SENT)
            ) =>
            {
                bits |= state::RESET;
            }
            _ => {}
        }
        Some(Self {
            original,
            reply,
            state: bits,
        })
    }

    /// What the programs would know of it, had they seen it begin: an entry for each local pod that has a part in it.
    ///
    /// `local` gives the interface of the local pod that owns an address, `pod` tells addresses of the pods' networks,
    /// which no Service translates. No policy has admitted the entries (generation 0), so the next packet of whoever opened
    /// the connection is judged.
    pub fn flows(
        &self,
        now: u32,
        local: impl Fn(IpAddr) -> Option<u32>,
        pod: impl Fn(IpAddr) -> bool,
    ) -> Vec<(FlowKey, FlowEntry)> {
        let entry = |direction: Direction, bits: u8| FlowEntry {
            last_seen: now,
            state: self.state | bits,
            direction: direction as u8,
            ..FlowEntry::default()
        };
        let mut flows = Vec::new();
        let opener = (self.original.source != self.original.destination)
            .then(|| local(self.original.source))
            .flatten();
        if let Some(ifindex) = opener {
            let key = self.original.key(ifindex);
            let direct = pod(self.original.destination);
            let stage = if direct { state::DIRECT } else { state::DEFERRED };
            flows.push((key, entry(Direction::Egress, stage)));
            // The second stage sees it after translation of the destination, before that of the source.
            let translated = Tuple {
                destination: self.reply.source,
                destination_port: self.reply.source_port,
                ..self.original
            };
            let second = translated.key(ifindex);
            if !direct && second != key {
                flows.push((second, entry(Direction::Egress, 0)));
            }
        }
        if let Some(ifindex) = local(self.reply.source) {
            let key = self.reply.key(ifindex);
            if flows.iter().all(|(known, _)| *known != key) && self.reply.source != self.reply.destination {
                flows.push((key, entry(Direction::Ingress, 0)));
            }
        }
        flows
    }
}

/// A socket that asks this network namespace's connection tracking.
#[derive(Debug)]
pub struct Conntrack(Socket);

impl Conntrack {
    /// Opens one.
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::netfilter().map_err(|e| Error::net("open", "a netfilter socket", e))?;
        Ok(Self(socket))
    }

    /// Every connection of both families.
    pub fn each(&self, mut each: impl FnMut(Connection)) -> Result<(), Error> {
        // AF_UNSPEC stands for all families.
        self.0
            .ask(CT_GET, libc::NLM_F_DUMP, &[0; NFGENMSG], &[], |kind, payload| {
                if kind == CT_NEW {
                    Connection::parse(payload).into_iter().for_each(&mut each);
                }
            })
            .map_err(|e| Error::net("list", "the kernel's connections", e))
    }

    /// The connection one of whose tuples this is.
    pub fn find(&self, tuple: &Tuple) -> Result<Option<Connection>, Error> {
        let family = match tuple.source {
            IpAddr::V4(_) => libc::AF_INET,
            IpAddr::V6(_) => libc::AF_INET6,
        };
        let mut body = [0; NFGENMSG];
        body[0] = u8::try_from(family).unwrap_or_default();
        let Some(wanted) = emit_tuple(tuple) else {
            return Ok(None);
        };
        let mut found = None;
        let outcome = self.0.ask(CT_GET, 0, &body, &[wanted], |kind, payload| {
            if kind == CT_NEW {
                found = Connection::parse(payload);
            }
        });
        match outcome {
            Ok(()) => Ok(found),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(Error::net("find", "a connection of the kernel's", error)),
        }
    }
}

fn parse_tuple(tuple: &[u8]) -> Option<Tuple> {
    if attribute(tuple, CTA_TUPLE_ZONE).is_some() {
        return None;
    }
    let (ip, proto) = (
        attribute(tuple, CTA_TUPLE_IP)?,
        attribute(tuple, CTA_TUPLE_PROTO)?,
    );
    let v4 = |kind| <[u8; 4]>::try_from(attribute(ip, kind)?).ok().map(IpAddr::from);
    let v6 = |kind| <[u8; 16]>::try_from(attribute(ip, kind)?).ok().map(IpAddr::from);
    let byte = |kind| attribute(proto, kind)?.first().copied();
    // Ports and identifiers are big endian.
    let word = |kind| Some(u16::from_be_bytes(attribute(proto, kind)?.try_into().ok()?));
    let number = byte(CTA_PROTO_NUM)?;
    let (source_port, destination_port) = match number {
        TCP | UDP | SCTP => (word(CTA_PROTO_SRC_PORT)?, word(CTA_PROTO_DST_PORT)?),
        ICMP => match byte(CTA_PROTO_ICMP_TYPE)? {
            8 => (word(CTA_PROTO_ICMP_ID)?, 0),
            0 => (0, word(CTA_PROTO_ICMP_ID)?),
            _ => return None,
        },
        ICMPV6 => match byte(CTA_PROTO_ICMPV6_TYPE)? {
            128 => (word(CTA_PROTO_ICMPV6_ID)?, 0),
            129 => (0, word(CTA_PROTO_ICMPV6_ID)?),
            _ => return None,
        },
        _ => return None,
    };
    Some(Tuple {
        source: v4(CTA_IP_V4_SRC).or_else(|| v6(CTA_IP_V6_SRC))?,
        source_port,
        destination: v4(CTA_IP_V4_DST).or_else(|| v6(CTA_IP_V6_DST))?,
        destination_port,
        protocol: number,
    })
}

/// A question by tuple, for protocols with ports: an event does not tell the identifier of an echo.
fn emit_tuple(tuple: &Tuple) -> Option<DefaultNla> {
    if !matches!(tuple.protocol, TCP | UDP | SCTP) {
        return None;
    }
    let address = |v4, v6, address| match address {
        IpAddr::V4(address) => DefaultNla::new(v4, address.octets().to_vec()),
        IpAddr::V6(address) => DefaultNla::new(v6, address.octets().to_vec()),
    };
    let ip = [
        address(CTA_IP_V4_SRC, CTA_IP_V6_SRC, tuple.source),
        address(CTA_IP_V4_DST, CTA_IP_V6_DST, tuple.destination),
    ];
    let proto = [
        DefaultNla::new(CTA_PROTO_NUM, vec![tuple.protocol]),
        DefaultNla::new(CTA_PROTO_SRC_PORT, tuple.source_port.to_be_bytes().to_vec()),
        DefaultNla::new(CTA_PROTO_DST_PORT, tuple.destination_port.to_be_bytes().to_vec()),
    ];
    let inner = [nested(CTA_TUPLE_IP, &ip), nested(CTA_TUPLE_PROTO, &proto)];
    Some(nested(CTA_TUPLE_ORIG, &inner))
}

/// An attribute of attributes.
fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

/// Since Linux 5.2 attributes of attributes must say that they are.
const NLA_F_NESTED: u16 = 1 << 15;

#[cfg(test)]
mod tests;
