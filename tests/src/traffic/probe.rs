//! Probes: one line asks, one line tells what the network did. Many at once.
//!
//! A result is `allowed` when the other side was reached, `refused` when it (or a host on the way)
//! said no, `denied` when nothing came back in time, and `error` when the probe itself did not work.

use std::io::{self, BufRead, Read as _, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::libc;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use super::socket::{SCTP, small_thread};

/// Long enough for the second SYN, which the kernel sends after one second.
const CONNECT: Duration = Duration::from_millis(1200);
/// What a server may take for its answer once it is connected.
const ANSWER: Duration = Duration::from_millis(300);
/// How long a datagram's answer may take, and how many are sent.
const DATAGRAM: Duration = Duration::from_millis(400);
const TRIES: u16 = 3;
/// How many probes run at once.
const AT_ONCE: usize = 256;

/// How a probe asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    /// Connects.
    #[default]
    Tcp,
    /// Sends datagrams until one is answered.
    Udp,
    /// Connects, where the kernel has SCTP.
    Sctp,
    /// Echo requests; the port is not used.
    Icmp,
}

/// One probe: a line of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Repeated in the answer, for answers come in any order.
    pub id: u64,
    /// Where to.
    pub address: IpAddr,
    /// Which port.
    #[serde(default)]
    pub port: u16,
    /// TCP when it is missing.
    #[serde(default)]
    pub protocol: Transport,
}

/// What the network did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The other side was reached.
    Allowed,
    /// Nothing came back in time, or a router says that there is no way.
    Denied,
    /// A reset or "port unreachable" came back.
    Refused,
    /// The probe did not work; nothing is known about the network.
    Error,
}

/// The answer to one probe: a line of the output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The request's; missing when the line is so wrong that it has none.
    pub id: Option<u64>,
    /// What the network did.
    pub result: Outcome,
    /// What the server sent: its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// What else there is to know, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Answers every line of `input` with a line of `output`, in the order in which the answers are known.
/// Returns at the end of the input, when the last answer is written.
///
/// # Errors
/// When the input cannot be read or the output cannot be written.
pub fn run(input: impl BufRead, output: impl Write + Send) -> anyhow::Result<()> {
    let output = Mutex::new(output);
    let failure = Mutex::new(None);
    let room = Room::default();
    let tell = |response: &Response| {
        if let Err(error) = write_line(&output, response) {
            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    };
    thread::scope(|scope| -> anyhow::Result<()> {
        for line in input.lines() {
            let line = line.context("read the probes")?;
            if line.trim().is_empty() {
                continue;
            }
            let request = match parse(&line) {
                Ok(request) => request,
                Err(response) => {
                    tell(&response);
                    continue;
                }
            };
            let place = room.enter();
            let work = move || {
                tell(&probe(&request));
                drop(place);
            };
            small_thread()
                .spawn_scoped(scope, work)
                .context("start a thread for a probe")?;
        }
        Ok(())
    })?;
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error).context("write the results"),
        None => Ok(()),
    }
}

fn parse(line: &str) -> Result<Request, Response> {
    serde_json::from_str(line).map_err(|error| {
        let id = serde_json::from_str::<Value>(line)
            .ok()
            .and_then(|value| value.get("id")?.as_u64());
        Response {
            id,
            result: Outcome::Error,
            answer: None,
            detail: Some(error.to_string()),
        }
    })
}

fn write_line(output: &Mutex<impl Write>, response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    output.write_all(&line)?;
    output.flush()
}

/// Bounds the number of running probes.
#[derive(Default)]
struct Room {
    inside: Mutex<usize>,
    left: Condvar,
}

impl Room {
    fn enter(&self) -> Place<'_> {
        let inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |inside: &mut usize| *inside >= AT_ONCE;
        *self
            .left
            .wait_while(inside, full)
            .unwrap_or_else(PoisonError::into_inner) += 1;
        Place(self)
    }
}

struct Place<'a>(&'a Room);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.inside.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.left.notify_one();
    }
}

/// Makes one probe.
#[must_use]
pub fn probe(request: &Request) -> Response {
    let target = SocketAddr::new(request.address, request.port);
    let seen = match request.protocol {
        Transport::Tcp => stream(Protocol::TCP, target),
        Transport::Sctp => stream(Protocol::from(i32::from(SCTP)), target),
        Transport::Udp => datagram(target),
        Transport::Icmp => echo(request.address, request.id),
    };
    let (result, answer, detail) = match seen {
        Ok(Seen::Answer(answer)) => (Outcome::Allowed, answer, None),
        Ok(Seen::Silence) => (Outcome::Denied, None, Some("timed out".to_owned())),
        Err(error) => (classify(&error), None, Some(error.to_string())),
    };
    Response {
        id: Some(request.id),
        result,
        answer,
        detail,
    }
}

enum Seen {
    Answer(Option<String>),
    Silence,
}

fn classify(error: &io::Error) -> Outcome {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Outcome::Refused,
        // EPERM and EACCES: a filter of this host, or a router's "administratively prohibited".
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ETIMEDOUT | libc::EPERM | libc::EACCES) => {
            Outcome::Denied
        }
        _ => Outcome::Error,
    }
}

fn domain(address: IpAddr) -> Domain {
    if address.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    }
}

fn stream(protocol: Protocol, target: SocketAddr) -> io::Result<Seen> {
    let mut socket = Socket::new(domain(target.ip()), Type::STREAM, Some(protocol))?;
    match socket.connect_timeout(&target.into(), CONNECT) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(Seen::Silence),
        Err(error) => return Err(error),
    }
    // Connected is reached: a server that says nothing, or resets, was still asked.
    let deadline = Instant::now() + ANSWER;
    let mut said = Vec::new();
    let mut buffer = [0; 256];
    while let Some(left) = time_left(deadline) {
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => said.extend_from_slice(buffer.get(..length).unwrap_or_default()),
        }
        if said.contains(&b'\n') || said.len() > 1024 {
            break;
        }
    }
    Ok(Seen::Answer(text(&said)))
}

fn datagram(target: SocketAddr) -> io::Result<Seen> {
    let mut socket = Socket::new(domain(target.ip()), Type::DGRAM, Some(Protocol::UDP))?;
    socket.connect(&target.into())?;
    socket.set_read_timeout(Some(DATAGRAM))?;
    let mut buffer = [0; 512];
    for _ in 0..TRIES {
        socket.send(b"?\n")?;
        match socket.read(&mut buffer) {
            Ok(length) => return Ok(Seen::Answer(text(buffer.get(..length).unwrap_or_default()))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Seen::Silence)
}

/// Echo requests on a raw socket: the lab is root, and the datagram kind is off in a new namespace.
fn echo(address: IpAddr, id: u64) -> io::Result<Seen> {
    let (protocol, request, reply) = match address {
        IpAddr::V4(_) => (Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Protocol::ICMPV6, 128, 129),
    };
    let mut socket = Socket::new(domain(address), Type::RAW, Some(protocol))?;
    socket.connect(&SocketAddr::new(address, 0).into())?;
    // Probes of several processes share the namespace: both numbers make the identifier.
    let [_, _, _, _, _, _, high, low] = (id ^ u64::from(std::process::id())).to_be_bytes();
    let mut buffer = [0; 512];
    for sequence in 0..TRIES {
        let [before, after] = sequence.to_be_bytes();
        let mut message = [request, 0, 0, 0, high, low, before, after];
        if address.is_ipv4() {
            // For ICMPv6 the kernel does this.
            let [first, second] = checksum(&message).to_be_bytes();
            message[2] = first;
            message[3] = second;
        }
        socket.send(&message)?;
        let deadline = Instant::now() + DATAGRAM;
        while let Some(left) = time_left(deadline) {
            socket.set_read_timeout(Some(left))?;
            let length = match socket.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            // Only IPv4 gives the IP header too.
            let header = if address.is_ipv4() {
                usize::from(buffer[0] & 15) * 4
            } else {
                0
            };
            let message = buffer.get(header..length).unwrap_or_default();
            if message.first() == Some(&reply) && message.get(4..6) == Some(&[high, low]) {
                return Ok(Seen::Answer(None));
            }
        }
    }
    Ok(Seen::Silence)
}

fn checksum(message: &[u8; 8]) -> u16 {
    let mut sum: u32 = message
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    sum = (sum & 0xffff) + (sum >> 16);
    !((sum + (sum >> 16)) as u16)
}

fn time_left(deadline: Instant) -> Option<Duration> {
    deadline
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
}

fn text(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::traffic::server::{self, ServerConfig};

    fn ask(lines: &str) -> BTreeMap<u64, Response> {
        let mut output = Vec::new();
        run(lines.as_bytes(), &mut output).unwrap();
        let lines = std::str::from_utf8(&output).unwrap().lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .map(|r: Response| (r.id.unwrap(), r))
            .collect()
    }

    #[test]
    fn servers_answer_closed_ports_refuse_and_silence_is_denied() {
        let port = TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port();
        let config = ServerConfig {
            name: "pod-p".into(),
            ports: vec![(6, port), (17, port)],
            dns: None,
        };
        server::start(&config).unwrap();
        // Open, so nothing refuses; nobody reads it, so nothing answers.
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mute = silent.local_addr().unwrap().port();
        let lines = format!(
            r#"{{"id":1,"address":"127.0.0.1","port":{port},"protocol":"TCP"}}
               {{"id":2,"address":"::1","port":{port},"protocol":"UDP"}}
               {{"id":3,"address":"127.0.0.1","port":1}}
               {{"id":4,"address":"127.0.0.1","port":1,"protocol":"UDP"}}
               {{"id":5,"address":"127.0.0.1","port":{mute},"protocol":"UDP"}}
               {{"id":6,"address":"127.0.0.1","protocol":"CARRIER"}}"#
        );
        let answers = ask(&lines);
        let results: Vec<Outcome> = answers.values().map(|response| response.result).collect();
        use Outcome::{Allowed, Denied, Error, Refused};
        assert_eq!(
            results,
            [Allowed, Allowed, Refused, Refused, Denied, Error],
            "{answers:?}"
        );
        for id in [1, 2] {
            assert_eq!(answers[&id].answer.as_deref(), Some("pod-p"));
        }
    }

    #[test]
    fn more_probes_than_threads_are_all_answered_at_once() {
        let mute = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = mute.local_addr().unwrap().port();
        let lines: String = (0..400)
            .map(|id| {
                format!("{{\"id\":{id},\"address\":\"127.0.0.1\",\"port\":{port},\"protocol\":\"UDP\"}}\n")
            })
            .collect();
        let start = Instant::now();
        let answers = ask(&lines);
        assert_eq!(answers.len(), 400);
        assert!(
            answers
                .values()
                .all(|response| response.result == Outcome::Denied)
        );
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }

    #[test]
    fn a_server_that_only_accepts_is_allowed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let request = Request {
            id: 1,
            address: target.ip(),
            port: target.port(),
            protocol: Transport::Tcp,
        };
        assert_eq!(probe(&request).result, Outcome::Allowed);
    }

    #[test]
    fn echo_reaches_loopback() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        for address in ["127.0.0.1", "::1"] {
            let address = address.parse().unwrap();
            let response = probe(&Request {
                id: 9,
                address,
                port: 0,
                protocol: Transport::Icmp,
            });
            assert_eq!(response.result, Outcome::Allowed, "{response:?}");
        }
    }
}
