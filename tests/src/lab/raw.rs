//! Frames as they are, from inside a pod: what an attacker with raw sockets sends, and what arrives at a victim's
//! interface, behind our programs.
//!
//! The sockets are opened by a thread that enters the pod's network namespace and ends; they stay there.

#![expect(
    unsafe_code,
    reason = "no safe crate knows the addresses and the ring of packet sockets"
)]

use std::{
    fs::File,
    io::{self, Read as _},
    mem::{size_of, size_of_val},
    os::fd::AsRawFd as _,
    path::Path,
    ptr, slice, thread,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    libc,
    sched::{CloneFlags, setns},
};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::{
    life::Lab,
    probe::{self, Source},
};

/// A page: the ring's only block, and its only frame.
const PAGE: usize = 4096;
/// `TPACKET_HDRLEN` without the address: where a frame's bytes begin in the ring.
const RING_HEADER: usize = 32;

/// A packet socket on an interface of a pod or a node.
#[derive(Debug)]
pub struct Tap(Socket);

impl Lab {
    /// Opens a packet socket on an interface of `NS/POD`, `node/NAME` or `outside`. It sees what comes in, not what goes out.
    pub fn tap(&self, target: &str, interface: &str) -> Result<Tap> {
        self.within(target, || Tap::open(interface))?
            .with_context(|| format!("a packet socket on {interface} of {target}"))
    }

    /// Does something in a target's network namespace, on a thread that ends: sockets that it opens stay there.
    pub fn within<T: Send>(&self, target: &str, what: impl FnOnce() -> T + Send) -> Result<T> {
        let path = match probe::source(&self.state, target)? {
            Source::Host(holder) => self.place(holder).holder.join("ns/net"),
            Source::Pod(holder, netns) => self.place(holder).holder.join("root/run/netns").join(netns),
        };
        inside(&path, what)
    }
}

fn inside<T: Send>(netns: &Path, what: impl FnOnce() -> T + Send) -> Result<T> {
    let netns = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
    thread::scope(|scope| {
        let worker = scope.spawn(|| -> Result<T> {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            Ok(what())
        });
        worker.join().unwrap_or_else(|_| bail!("the thread panicked"))
    })
}

impl Tap {
    /// Opens a packet socket on an interface of the network namespace that a file names, which lives as long as the socket. It
    /// sees what comes in, not what goes out.
    pub fn inside(netns: &Path, interface: &str) -> Result<Self> {
        inside(netns, || Self::open(interface))?
            .with_context(|| format!("a packet socket on {interface} of {}", netns.display()))
    }

    fn open(interface: &str) -> io::Result<Self> {
        let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all))?;
        let ifindex = nix::net::if_::if_nametoindex(interface)?;
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: a link-layer address is smaller than any address's storage, and all bytes are valid for it.
        let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = ifindex.cast_signed();
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the storage holds a link-layer address of this length.
        socket.bind(&unsafe { SockAddr::new(storage, length) })?;
        let tap = Self(socket);
        tap.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1_i32)?;
        tap.0.set_nonblocking(true)?;
        // More than the sysctl allows: a flood must not push out what is looked for.
        tap.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(64_i32 << 20))?;
        Ok(tap)
    }

    fn set<T>(&self, level: i32, option: i32, value: &T) -> io::Result<()> {
        let length = size_of::<T>() as libc::socklen_t;
        // SAFETY: the kernel reads `length` bytes of `value`, which outlives the call.
        let outcome = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                ptr::from_ref(value).cast(),
                length,
            )
        };
        if outcome == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// How many frames there was no room for since the last time.
    fn lost(&self) -> io::Result<u32> {
        // struct tpacket_stats: how many came, how many were dropped; reading sets them to 0.
        let mut counts = [0_u32; 2];
        let mut length = size_of_val(&counts) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `counts`, which outlives the call.
        let outcome = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                ptr::from_mut(&mut counts).cast(),
                ptr::from_mut(&mut length),
            )
        };
        if outcome == 0 {
            Ok(counts[1])
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Sets the mark and the priority that frames are sent with.
    pub fn preset(&self, mark: u32, priority: u32) -> io::Result<()> {
        self.0.set_mark(mark)?;
        self.set(libc::SOL_SOCKET, libc::SO_PRIORITY, &priority)
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            match self.0.send(frame) {
                Ok(_) => return Ok(()),
                // The queue is full: the kernel is slower than we are.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => {
                    thread::yield_now();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The frames that came in since the last time. Frames for which there was no room are an error: what is not seen must
    /// not pass for what did not come.
    pub fn received(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match (&self.0).read(&mut buffer) {
                Ok(length) => frames.push(buffer.get(..length).unwrap_or_default().to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The interface was down for a moment.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                Err(error) => return Err(error),
            }
        }
        match self.lost()? {
            0 => Ok(frames),
            lost => Err(io::Error::other(format!(
                "UNSEEN: {lost} frames came and were not looked at"
            ))),
        }
    }

    /// Sends frames of which only the ethernet header is in the linear part of the kernel's buffer: all others lie in
    /// pages of a transmit ring (`tpacket_fill_skb`, net/packet/af_packet.c). The socket can send in no other way
    /// afterwards.
    pub fn send_scattered(self, frames: &[Vec<u8>]) -> io::Result<()> {
        let request = [PAGE as u32, 1, PAGE as u32, 1];
        self.set(libc::SOL_PACKET, libc::PACKET_TX_RING, &request)?;
        // SAFETY: a new shared mapping of the ring, as long as the one block that it has.
        let ring = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                self.0.as_raw_fd(),
                0,
            )
        };
        if ring == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        self.0.set_nonblocking(false)?;
        let outcome = frames.iter().try_for_each(|frame| {
            // SAFETY: the mapping is a page long and nobody else in this process has it; the kernel looks at it only
            // within `send`, which waits until it is done.
            let page = unsafe { slice::from_raw_parts_mut(ring.cast::<u8>(), PAGE) };
            // struct tpacket_hdr: status (unsigned long), length, captured length, ...
            page.fill(0);
            let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
            page[RING_HEADER..RING_HEADER + frame.len()].copy_from_slice(frame);
            page[8..12].copy_from_slice(&length.to_ne_bytes());
            page[12..16].copy_from_slice(&length.to_ne_bytes());
            page[..8].copy_from_slice(&u64::from(libc::TP_STATUS_SEND_REQUEST).to_ne_bytes());
            self.0.send(&[]).map(drop)
        });
        // SAFETY: mapped above, with this length, and not used any more.
        unsafe { libc::munmap(ring, PAGE) };
        outcome
    }
}
