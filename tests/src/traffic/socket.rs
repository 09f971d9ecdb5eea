//! Listening sockets for all addresses of both families, and datagrams answered from where they came to.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::Duration;

use nix::cmsg_space;
use nix::libc;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

/// SCTP's number among the IP protocols.
pub(super) const SCTP: u8 = 132;
/// Threads here do very little.
const STACK: usize = 128 * 1024;

/// Starts a thread with a small stack.
pub(super) fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().stack_size(STACK).spawn(work).map(drop)
}

/// A thread builder for scoped threads with the same small stack.
pub(super) fn small_thread() -> thread::Builder {
    thread::Builder::new().stack_size(STACK)
}

/// Listens on a stream protocol (TCP or SCTP) at all addresses.
pub(super) fn listen(protocol: Protocol, port: u16) -> io::Result<TcpListener> {
    let socket = bind(Type::STREAM, protocol, port)?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// A datagram socket at all addresses that tells which address was asked.
pub(super) struct Datagrams {
    socket: Socket,
}

impl Datagrams {
    /// Binds a UDP port.
    pub(super) fn bind(port: u16) -> io::Result<Self> {
        let socket = bind(Type::DGRAM, Protocol::UDP, port)?;
        if socket.domain()? == Domain::IPV6 {
            setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&socket, Ipv4PacketInfo, &true)?;
        }
        Ok(Self { socket })
    }

    /// Answers datagrams for ever; `None` leaves one unanswered.
    pub(super) fn answer(&self, mut reply: impl FnMut(&[u8]) -> Option<Vec<u8>>) {
        loop {
            // One bad datagram, or an answer that nobody can be sent, must not end the server.
            if self.answer_one(&mut reply).is_err() {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn answer_one(&self, reply: &mut impl FnMut(&[u8]) -> Option<Vec<u8>>) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let mut control = cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
        let (length, peer, asked) = {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let descriptor = self.socket.as_raw_fd();
            let message =
                recvmsg::<SockaddrStorage>(descriptor, &mut slices, Some(&mut control), MsgFlags::empty())?;
            (
                message.bytes,
                message.address,
                message.cmsgs()?.find_map(Asked::from_control),
            )
        };
        let Some(answer) = reply(buffer.get(..length).unwrap_or_default()) else {
            return Ok(());
        };
        let source = asked.as_ref().map(Asked::to_control);
        let slices = [IoSlice::new(&answer)];
        sendmsg(
            self.socket.as_raw_fd(),
            &slices,
            source.as_slice(),
            MsgFlags::empty(),
            peer.as_ref(),
        )?;
        Ok(())
    }
}

/// The address that a datagram was sent to, in the form that makes it the answer's source.
enum Asked {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

impl Asked {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other control messages are of no interest"
    )]
    fn from_control(message: ControlMessageOwned) -> Option<Self> {
        // The route, not the arriving interface, decides where the answer leaves: hence index 0.
        match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(Self::V4(libc::in_pktinfo {
                ipi_ifindex: 0,
                ..info
            })),
            ControlMessageOwned::Ipv6PacketInfo(info) if !link_local(&info) => {
                Some(Self::V6(libc::in6_pktinfo {
                    ipi6_ifindex: 0,
                    ..info
                }))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(Self::V6(info)),
            _ => None,
        }
    }

    fn to_control(&self) -> ControlMessage<'_> {
        match self {
            Self::V4(info) => ControlMessage::Ipv4PacketInfo(info),
            Self::V6(info) => ControlMessage::Ipv6PacketInfo(info),
        }
    }
}

fn link_local(info: &libc::in6_pktinfo) -> bool {
    Ipv6Addr::from(info.ipi6_addr.s6_addr).is_unicast_link_local()
}

/// Binds [::] for both families, or 0.0.0.0 where the kernel has IPv6 switched off.
fn bind(kind: Type, protocol: Protocol, port: u16) -> io::Result<Socket> {
    let dual = || {
        let socket = Socket::new(Domain::IPV6, kind, Some(protocol))?;
        socket.set_only_v6(false)?;
        bind_to(socket, kind, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
    };
    match dual() {
        Ok(socket) => Ok(socket),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(_) => {
            let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
            bind_to(socket, kind, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        }
    }
}

fn bind_to(socket: Socket, kind: Type, address: SocketAddr) -> io::Result<Socket> {
    if kind == Type::STREAM {
        // A restarted server must get its port back at once. (For UDP this would let two share it.)
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}
