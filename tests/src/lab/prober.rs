//! Real traffic from one place: a helper process in the source's network namespace.
//!
//! `vethwall-lab internal prober` reads one [`Shot`] a line and writes one [`Hit`] for each as soon as it is known.

use std::{
    io::{BufRead as _, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use simple_dns::TYPE;
use socket2::{Domain, Protocol, Socket, Type};

use super::dns;

/// One try.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Shot {
    /// Tells the answers apart.
    pub index: usize,
    /// Where to.
    pub address: IpAddr,
    /// Which port.
    pub port: u16,
    /// TCP, UDP, SCTP or ICMP.
    pub protocol: String,
    /// How many bytes a UDP datagram has at least.
    pub bytes: usize,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hit {
    /// Of the shot.
    pub index: usize,
    /// `allowed`, `denied`, `refused` or `error`.
    pub result: String,
    /// More about it.
    pub detail: Option<String>,
    /// What the other side said first.
    pub answer: Option<String>,
}

const PATIENCE: Duration = Duration::from_millis(1500);
const AT_ONCE: usize = 64;

/// Reads shots from standard input, writes hits to standard output.
pub(super) fn run() -> Result<()> {
    let shots: Vec<Shot> = std::io::stdin()
        .lock()
        .lines()
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect::<Result<_>>()?;
    let queue = Mutex::new(shots.iter());
    thread::scope(|scope| {
        for _ in 0..shots.len().min(AT_ONCE) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(shot) = next else { return };
                    let hit = serde_json::to_string(&fire(shot)).unwrap_or_default();
                    // Nobody is left to be told if this fails.
                    let _closed = writeln!(std::io::stdout(), "{hit}");
                }
            });
        }
    });
    Ok(())
}

fn fire(shot: &Shot) -> Hit {
    let to = SocketAddr::new(shot.address, shot.port);
    let outcome = match shot.protocol.as_str() {
        "UDP" => udp(to, shot.bytes),
        "SCTP" => stream(to, Protocol::SCTP),
        "ICMP" => echo(shot.address),
        _ => stream(to, Protocol::TCP),
    };
    let (result, detail, answer) = match outcome {
        Ok(answer) => ("allowed", None, Some(answer)),
        Err(error) if refused(&error) => ("refused", None, None),
        Err(error) if timed_out(&error) => ("denied", None, None),
        Err(error) if unreachable(&error) => ("denied", Some(error.to_string()), None),
        Err(error) => ("error", Some(error.to_string()), None),
    };
    Hit {
        index: shot.index,
        result: result.to_owned(),
        detail,
        answer,
    }
}

/// A question that DNS servers answer; the lab's other servers answer anything.
fn query() -> Vec<u8> {
    dns::question("probe.cluster.local", TYPE::A).unwrap_or_else(|_| b"probe\n".to_vec())
}

fn stream(to: SocketAddr, protocol: Protocol) -> std::io::Result<String> {
    let mut socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol))?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let query = query();
    let length = u16::try_from(query.len()).unwrap_or(0).to_be_bytes();
    socket.write_all(&[&length, query.as_slice()].concat())?;
    let mut buffer = [0; 512];
    match socket.read(&mut buffer) {
        Ok(length) => Ok(text(buffer.get(..length).unwrap_or_default())),
        // A silent server is no filter, as long as its kernel has acknowledged what was sent.
        Err(error) if timed_out(&error) && unacknowledged(&socket) == Some(0) => Ok(String::new()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(String::new()),
        Err(error) => Err(error),
    }
}

fn refused(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset
    )
}

fn unreachable(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
    )
}

fn timed_out(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

#[expect(unsafe_code, reason = "an ioctl that no safe crate wraps")]
mod ioctl {
    nix::ioctl_read_bad!(outq, nix::libc::TIOCOUTQ, nix::libc::c_int);

    /// Bytes that were sent and not acknowledged.
    pub(super) fn unacknowledged(fd: i32) -> Option<i32> {
        let mut bytes = 0;
        // SAFETY: the kernel writes one int to a place that outlives the call.
        unsafe { outq(fd, &raw mut bytes) }.ok()?;
        Some(bytes)
    }
}

fn unacknowledged(socket: &Socket) -> Option<i32> {
    ioctl::unacknowledged(socket.as_raw_fd())
}

fn udp(to: SocketAddr, bytes: usize) -> std::io::Result<String> {
    let local = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(local)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE / 3))?;
    let mut query = query();
    query.resize(query.len().max(bytes), 0);
    let mut buffer = [0; 512];
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        match socket.send(&query).and_then(|_| socket.recv(&mut buffer)) {
            Ok(length) => return Ok(text(buffer.get(..length).unwrap_or_default())),
            Err(error) if timed_out(&error) => {}
            // A router says how small packets must be, once for every fragment that was too large, while the route learns
            // it from the first.
            Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => {
                thread::sleep(PATIENCE / 100);
            }
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::TimedOut.into())
}

fn echo(to: IpAddr) -> std::io::Result<String> {
    let v6 = to.is_ipv6();
    let (domain, protocol) = if v6 {
        (Domain::IPV6, Protocol::ICMPV6)
    } else {
        (Domain::IPV4, Protocol::ICMPV4)
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.connect(&SocketAddr::new(to, 0).into())?;
    socket.set_read_timeout(Some(PATIENCE / 3))?;
    let id = (std::process::id() as u16) ^ (socket.as_raw_fd() as u16).rotate_left(8);
    let [high, low] = id.to_be_bytes();
    for sequence in 1..=3u8 {
        let mut packet = vec![if v6 { 128 } else { 8 }, 0, 0, 0, high, low, 0, sequence];
        if !v6 {
            let sum: u32 = packet
                .chunks(2)
                .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
                .sum();
            let sum = !(((sum >> 16) + (sum & 0xffff)) as u16);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        socket.write_all(&packet)?;
        let mut buffer = [0; 512];
        loop {
            match socket.read(&mut buffer) {
                Ok(length) => {
                    let message = buffer.get(if v6 { 0 } else { 20 }..length).unwrap_or_default();
                    if message.len() >= 8
                        && message[0] == if v6 { 129 } else { 0 }
                        && message[4..6] == [high, low]
                    {
                        return Ok("echo".to_owned());
                    }
                }
                Err(error) if timed_out(&error) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Err(ErrorKind::TimedOut.into())
}

fn text(bytes: &[u8]) -> String {
    // The servers say their name in the first line.
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let printable: String = String::from_utf8_lossy(line)
        .chars()
        .filter(|c| c.is_ascii_graphic())
        .collect();
    printable.chars().take(80).collect()
}
