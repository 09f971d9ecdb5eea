//! Netlink, synchronously: one question, and each part of its answer; and the handful of rtnetlink questions that finding a
//! veth takes.
//!
//! Only the attributes that are asked for are decoded, so that a kernel with newer or longer ones changes nothing.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use netlink_packet_core::{DefaultNla, Emitable, NetlinkBuffer, NlaBuffer, NlasIterator};
use nix::{
    libc,
    sys::{
        socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt},
        time::TimeVal,
    },
};

const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
/// `RTEXT_FILTER_SKIP_STATS`: answers without a page of counters.
const SKIP_STATS: u32 = 1 << 3;
/// `IFLA_VXLAN_PORT` (include/uapi/linux/if_link.h), in network byte order.
const IFLA_VXLAN_PORT: u16 = 15;
/// The group of notifications about interfaces (linux/rtnetlink.h), as a bit.
const RTMGRP_LINK: u32 = 1;
/// `NETNSA_NSID`, `NETNSA_FD` of linux/net_namespace.h.
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// `TC_H_CLSACT` of linux/pkt_sched.h; the same number as `TC_H_INGRESS`.
pub(crate) const TC_H_CLSACT: u32 = 0xffff_fff1;
/// `TC_H_CLSACT` with `TC_H_MIN_INGRESS`: where filters hang that see what comes in.
pub(crate) const PARENT_INGRESS: u32 = 0xffff_fff2;
/// With `TC_H_MIN_EGRESS`.
pub(crate) const PARENT_EGRESS: u32 = 0xffff_fff3;

/// An interface, as far as we ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) ifindex: u32,
    pub(crate) name: String,
    /// `veth`, `bridge`, ...
    pub(crate) kind: Option<String>,
    /// IFLA_LINK: a veth's other end.
    pub(crate) peer: Option<u32>,
    /// IFLA_LINK_NETNSID: the number, in this namespace, of the namespace where the other end is.
    pub(crate) peer_netns: Option<i32>,
    pub(crate) mac: Option<[u8; 6]>,
    /// IFLA_MASTER: the bridge that it is a port of.
    pub(crate) master: Option<u32>,
    /// IFLA_VXLAN_PORT, in the machine's byte order.
    pub(crate) vxlan_port: Option<u16>,
}

/// A socket bound to the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// For questions about interfaces and addresses.
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// For questions to netfilter.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    /// Is told of changes of interfaces.
    pub(crate) fn link_changes() -> io::Result<Self> {
        let socket = Self::route()?;
        socket::bind(socket.0.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_LINK))?;
        Ok(socket)
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket::socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        // The kernel answers at once; a lost answer must not hang a pod's start.
        socket::setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(2, 0))?;
        Ok(Self(fd))
    }

    /// The interface of this name, or None.
    pub(crate) fn link_by_name(&self, name: &str) -> io::Result<Option<Link>> {
        let mut value = name.as_bytes().to_vec();
        value.push(0);
        self.link(0, vec![DefaultNla::new(libc::IFLA_IFNAME, value)])
    }

    /// The interface of this number, or None.
    pub(crate) fn link_by_index(&self, ifindex: u32) -> io::Result<Option<Link>> {
        self.link(ifindex, Vec::new())
    }

    fn link(&self, ifindex: u32, mut attributes: Vec<DefaultNla>) -> io::Result<Option<Link>> {
        // struct ifinfomsg: family, padding, type, index, flags, change
        let mut body = [0_u8; 16];
        body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        attributes.push(DefaultNla::new(
            libc::IFLA_EXT_MASK,
            SKIP_STATS.to_ne_bytes().to_vec(),
        ));
        let mut found = None;
        let outcome = self.ask(libc::RTM_GETLINK, 0, &body, &attributes, |kind, payload| {
            if kind == libc::RTM_NEWLINK {
                found = parse_link(payload);
            }
        });
        match outcome {
            Ok(()) => Ok(found),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The global addresses of an interface.
    pub(crate) fn addresses(&self, ifindex: u32) -> io::Result<Vec<IpAddr>> {
        // struct ifaddrmsg: family, prefix length, flags, scope, index
        let body = [0_u8; 8];
        let mut addresses = Vec::new();
        self.ask(
            libc::RTM_GETADDR,
            libc::NLM_F_DUMP,
            &body,
            &[],
            |kind, payload| {
                if kind == libc::RTM_NEWADDR {
                    addresses.extend(parse_address(payload, ifindex));
                }
            },
        )?;
        Ok(addresses)
    }

    /// The number that this namespace has given another one, or None.
    pub(crate) fn netns_id(&self, netns: BorrowedFd<'_>) -> io::Result<Option<i32>> {
        // struct rtgenmsg, padded
        let body = [0_u8; 4];
        let fd = DefaultNla::new(NETNSA_FD, netns.as_raw_fd().to_ne_bytes().to_vec());
        let mut id = None;
        self.ask(libc::RTM_GETNSID, 0, &body, &[fd], |kind, payload| {
            if kind == libc::RTM_NEWNSID {
                id = payload
                    .get(4..)
                    .and_then(|attributes| attribute(attributes, NETNSA_NSID))
                    .and_then(|value| Some(i32::from_ne_bytes(value.try_into().ok()?)));
            }
        })?;
        // -1 is NETNSA_NSID_NOT_ASSIGNED.
        Ok(id.filter(|id| *id >= 0))
    }

    /// The kind of the queueing discipline where filters for what comes in hang: `clsact`, `ingress`, or None.
    pub(crate) fn ingress_qdisc(&self, ifindex: u32) -> io::Result<Option<String>> {
        // struct tcmsg: family, padding, ifindex, handle, parent, info
        let mut body = [0_u8; 20];
        body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        body[12..16].copy_from_slice(&TC_H_CLSACT.to_ne_bytes());
        let mut found = None;
        // Without NLM_F_ECHO older kernels answer to who listens for changes, but not to who asked; and where one was and is
        // no more there is no answer but the one that NLM_F_ACK asks for.
        let outcome = self.ask(
            libc::RTM_GETQDISC,
            libc::NLM_F_ECHO | libc::NLM_F_ACK,
            &body,
            &[],
            |kind, payload| {
                if kind == libc::RTM_NEWQDISC {
                    found = payload
                        .get(20..)
                        .and_then(|attributes| attribute(attributes, libc::TCA_KIND))
                        .map(text);
                }
            },
        );
        match outcome {
            Ok(()) => Ok(found),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One request, and each part of its answer.
    pub(crate) fn ask(
        &self,
        kind: u16,
        flags: libc::c_int,
        body: &[u8],
        attributes: &[DefaultNla],
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let dump = flags & libc::NLM_F_DUMP == libc::NLM_F_DUMP;
        let acknowledged = flags & libc::NLM_F_ACK != 0;
        let mut request = vec![0_u8; 16];
        request.extend_from_slice(body);
        for attribute in attributes {
            let at = request.len();
            request.resize(at + attribute.buffer_len(), 0);
            attribute.emit(&mut request[at..]);
        }
        let length = u32::try_from(request.len()).map_err(io::Error::other)?;
        let mut header = NetlinkBuffer::new(&mut request);
        header.set_length(length);
        header.set_message_type(kind);
        header.set_flags((libc::NLM_F_REQUEST | flags) as u16);
        header.set_sequence_number(1);
        socket::send(self.0.as_raw_fd(), &request, MsgFlags::empty())?;

        let mut answer = vec![0_u8; 32 * 1024];
        loop {
            let length = socket::recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            let mut rest = &answer[..length];
            while !rest.is_empty() {
                let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed netlink answer");
                let message = NetlinkBuffer::new_checked(rest).map_err(|_| malformed())?;
                let payload = message.payload();
                match message.message_type() {
                    // A dump may end before it is complete, and says so at its end.
                    NLMSG_DONE | NLMSG_ERROR => {
                        let code = payload.get(..4).and_then(|bytes| bytes.try_into().ok());
                        let code = i32::from_ne_bytes(code.ok_or_else(malformed)?);
                        return match code {
                            0 => Ok(()),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    other => each(other, payload),
                }
                if !dump && !acknowledged {
                    return Ok(());
                }
                let step = (message.length() as usize).next_multiple_of(4);
                rest = rest.get(step..).unwrap_or_default();
            }
        }
    }
}

/// The value of the first attribute of a kind.
pub(crate) fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|nla| nla.kind() == kind)
        .map(value)
}

fn value(nla: NlaBuffer<&[u8]>) -> &[u8] {
    let length = nla.value_length();
    &nla.into_inner()[4..4 + length]
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

pub(crate) fn parse_link(payload: &[u8]) -> Option<Link> {
    let mut link = Link {
        ifindex: u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?),
        ..Link::default()
    };
    for nla in NlasIterator::new(payload.get(16..)?).map_while(Result::ok) {
        let (kind, value) = (nla.kind(), value(nla));
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
            libc::IFLA_LINK => link.peer = value.try_into().ok().map(u32::from_ne_bytes),
            libc::IFLA_LINK_NETNSID => link.peer_netns = value.try_into().ok().map(i32::from_ne_bytes),
            libc::IFLA_MASTER => link.master = value.try_into().ok().map(u32::from_ne_bytes),
            libc::IFLA_LINKINFO => {
                link.kind = attribute(value, libc::IFLA_INFO_KIND).map(text);
                let data = attribute(value, libc::IFLA_INFO_DATA).unwrap_or_default();
                let port = attribute(data, IFLA_VXLAN_PORT).and_then(|port| port.try_into().ok());
                link.vxlan_port = port
                    .map(u16::from_be_bytes)
                    .filter(|_| link.kind.as_deref() == Some("vxlan"));
            }
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(payload: &[u8], ifindex: u32) -> Option<IpAddr> {
    let (scope, index) = (
        *payload.get(3)?,
        u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?),
    );
    if scope != libc::RT_SCOPE_UNIVERSE || index != ifindex {
        return None;
    }
    let attributes = payload.get(8..)?;
    // IFA_LOCAL is the own address, IFA_ADDRESS the peer's on point-to-point links; IPv6 has only the latter.
    let value =
        attribute(attributes, libc::IFA_LOCAL).or_else(|| attribute(attributes, libc::IFA_ADDRESS))?;
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}
