//! Interfaces as they come, change and go: the kernel's own word (RTNLGRP_LINK), within a millisecond.
//!
//! ```text
//! kernel ── RTM_NEWLINK, RTM_DELLINK ──► LinkWatch ──► LinkChange
//!        └─ no room left (ENOBUFS) ────────────────► Lost: look at everything
//! ```
//!
//! Invariants:
//! - What happens after [`LinkWatch::open`] is told, or [`LinkChange::Lost`] is.
//! - What is told is what was: by the time it is read the number may be another interface's. Who acts on it compares
//!   number and name with the kernel of now, as [`crate::attach`] does.

use std::{io, os::fd::AsRawFd};

use netlink_packet_core::NetlinkBuffer;
use nix::{
    errno::Errno,
    libc,
    sys::socket::{self, MsgFlags, sockopt},
};

use crate::{
    Error,
    netlink::{Socket, parse_link},
    surroundings::Interface,
};

/// Room for some thousand changes: a node that loses all its pods at once.
const ROOM: usize = 4 << 20;
/// Changes that are handed over together.
const MOST: usize = 1024;
/// Larger than any notification, which carries no table of virtual functions.
const MESSAGE: usize = 32 * 1024;

/// What became of an interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// It is there, new or in some way changed: this is how it is now.
    Is(Interface),
    /// It was deleted or moved to another network namespace.
    Gone {
        /// The number that it had here.
        ifindex: u32,
        /// Its last name.
        name: String,
    },
    /// Changes were too many: whatever is not looked up now may be unknown.
    Lost,
}

/// A subscription to the interfaces of the network namespace in which it was opened.
#[derive(Debug)]
pub struct LinkWatch {
    socket: Socket,
    buffer: Vec<u8>,
}

impl LinkWatch {
    /// Subscribes. Whoever looks at all interfaces after this misses none.
    ///
    /// # Errors
    /// The kernel refused the socket.
    pub fn open() -> Result<Self, Error> {
        Self::with_room(ROOM)
    }

    /// Like [`LinkWatch::open`], with room for so many bytes of changes that were not read yet.
    ///
    /// # Errors
    /// As [`LinkWatch::open`].
    pub fn with_room(bytes: usize) -> Result<Self, Error> {
        let open = || -> io::Result<Socket> {
            let socket = Socket::link_changes()?;
            // Beyond the limit of the system, where we may.
            socket::setsockopt(socket.fd(), sockopt::RcvBufForce, &bytes)
                .or_else(|_| socket::setsockopt(socket.fd(), sockopt::RcvBuf, &bytes))?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(|e| Error::net("subscribe to", "changes of interfaces", e))?,
            buffer: vec![0; MESSAGE],
        })
    }

    /// Waits for changes, two seconds at most, and returns those that are there, in their order.
    ///
    /// # Errors
    /// The socket is of no use any more; open another one, and look at everything.
    pub fn wait(&mut self) -> Result<Vec<LinkChange>, Error> {
        let mut changes = Vec::new();
        let mut flags = MsgFlags::MSG_TRUNC;
        while changes.len() < MOST {
            match self.receive(flags, &mut changes) {
                Ok(()) => {}
                Err(Errno::EINTR) => continue,
                // The kernel could not deliver; it goes on delivering what comes from now on.
                Err(Errno::ENOBUFS) => changes.push(LinkChange::Lost),
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(Error::net("read", "changes of interfaces", error.into())),
            }
            // Something was said; what else is there comes along.
            if !changes.is_empty() {
                flags |= MsgFlags::MSG_DONTWAIT;
            }
        }
        Ok(changes)
    }

    fn receive(&mut self, flags: MsgFlags, changes: &mut Vec<LinkChange>) -> nix::Result<()> {
        // With MSG_TRUNC the length is the message's, whatever fits.
        let length = socket::recv(self.socket.fd().as_raw_fd(), &mut self.buffer, flags)?;
        let Some(mut rest) = self.buffer.get(..length) else {
            changes.push(LinkChange::Lost);
            return Ok(());
        };
        while !rest.is_empty() {
            let Ok(message) = NetlinkBuffer::new_checked(rest) else {
                changes.push(LinkChange::Lost);
                return Ok(());
            };
            changes.extend(change(message.message_type(), message.payload()));
            let step = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(step..).unwrap_or_default();
        }
        Ok(())
    }
}

/// What a notification says. Those of the bridge about its ports (`AF_BRIDGE`) repeat what the interfaces' own say, but for
/// a deletion, which there means that the port left the bridge (net/bridge/br_netlink.c, `br_ifinfo_notify`).
fn change(kind: u16, payload: &[u8]) -> Option<LinkChange> {
    if payload.first() != Some(&(libc::AF_UNSPEC as u8)) {
        return None;
    }
    let link = parse_link(payload)?;
    match kind {
        libc::RTM_NEWLINK => Some(LinkChange::Is(link.into())),
        libc::RTM_DELLINK => Some(LinkChange::Gone {
            ifindex: link.ifindex,
            name: link.name,
        }),
        _ => None,
    }
}
