//! A stub resolver: names to addresses over UDP, the way a pod asks its DNS server.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

/// The environment variable that replaces `/etc/resolv.conf`.
pub const SERVER_VARIABLE: &str = "VETHWALL_LAB_DNS";

const TIMEOUT: Duration = Duration::from_secs(1);
const TRIES: u32 = 2;

/// Why a name has no addresses.
#[derive(Debug)]
pub enum LookupError {
    /// Nothing came back: the server is not there, or not reachable.
    Timeout,
    /// The server says that there is no such name, or no address of it.
    NoSuchName,
    /// The server was not reached, or its answer is not one.
    Failed(String),
}

impl std::fmt::Display for LookupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Timeout => f.write_str("no answer from the DNS server"),
            Self::NoSuchName => f.write_str("no such name"),
            Self::Failed(why) => write!(f, "the DNS server cannot be asked: {why}"),
        }
    }
}

impl std::error::Error for LookupError {}

/// Prints the addresses of `name`, one a line. Exit code 0, or 1 with the reason on standard error.
///
/// The server is `server`, else [`SERVER_VARIABLE`], else the first one of `/etc/resolv.conf`.
#[must_use]
pub fn run(name: &str, server: Option<IpAddr>) -> ExitCode {
    let Some(server) = server.or_else(default_server) else {
        eprintln!("{name}: no DNS server is configured");
        return ExitCode::FAILURE;
    };
    match lookup(name, SocketAddr::new(server, 53)) {
        Ok(addresses) => {
            for address in addresses {
                println!("{address}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn default_server() -> Option<IpAddr> {
    if let Ok(text) = std::env::var(SERVER_VARIABLE) {
        return text.parse().ok();
    }
    first_server(&std::fs::read_to_string("/etc/resolv.conf").ok()?)
}

fn first_server(resolv_conf: &str) -> Option<IpAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
        .next()
}

/// All IPv4 and IPv6 addresses of `name`, asked of `server`.
///
/// # Errors
/// When there are none; each kind of failure is told apart.
pub fn lookup(name: &str, server: SocketAddr) -> Result<Vec<IpAddr>, LookupError> {
    let any: SocketAddr = if server.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).map_err(failed)?;
    socket.connect(server).map_err(failed)?;
    let mut addresses = Vec::new();
    for (id, kind) in [(1, TYPE::A), (2, TYPE::AAAA)] {
        addresses.extend(ask(&socket, name, id, kind)?);
    }
    if addresses.is_empty() {
        Err(LookupError::NoSuchName)
    } else {
        Ok(addresses)
    }
}

fn ask(socket: &UdpSocket, name: &str, id: u16, kind: TYPE) -> Result<Vec<IpAddr>, LookupError> {
    let mut query = Packet::new_query(id);
    query.set_flags(PacketFlag::RECURSION_DESIRED);
    let qname = Name::new(name.trim_end_matches('.')).map_err(|error| failed(format!("{error:?}")))?;
    query.questions.push(Question::new(
        qname,
        QTYPE::TYPE(kind),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    let bytes = query
        .build_bytes_vec()
        .map_err(|error| failed(format!("{error:?}")))?;
    let mut buffer = [0; 4096];
    for _ in 0..TRIES {
        socket.send(&bytes).map_err(failed)?;
        let deadline = Instant::now() + TIMEOUT;
        while let Some(left) = deadline
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            socket.set_read_timeout(Some(left)).map_err(failed)?;
            let length = match socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => break,
                Err(error) => return Err(failed(error)),
            };
            // A late answer to an earlier question is not the answer to this one.
            if let Ok(reply) = Packet::parse(buffer.get(..length).unwrap_or_default())
                && reply.id() == id
            {
                return addresses(&reply);
            }
        }
    }
    Err(LookupError::Timeout)
}

fn addresses(reply: &Packet<'_>) -> Result<Vec<IpAddr>, LookupError> {
    let code = reply.rcode();
    if code == RCODE::NameError {
        return Err(LookupError::NoSuchName);
    }
    if code != RCODE::NoError {
        return Err(failed(format!("it answers {code:?}")));
    }
    let mut addresses = Vec::new();
    for record in &reply.answers {
        if let RData::A(a) = &record.rdata {
            addresses.push(IpAddr::V4(a.address.into()));
        } else if let RData::AAAA(aaaa) = &record.rdata {
            addresses.push(IpAddr::V6(aaaa.address.into()));
        }
    }
    Ok(addresses)
}

fn failed(why: impl ToString) -> LookupError {
    LookupError::Failed(why.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::traffic::dns;

    #[test]
    fn the_server_of_the_lab_is_asked_and_its_zone_can_change() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("zone.json");
        std::fs::write(&file, r#"{"Web.shop.": ["10.9.0.1", "fd00::9"]}"#).unwrap();
        let port = UdpSocket::bind("[::]:0").unwrap().local_addr().unwrap().port();
        dns::start(&file, port).unwrap();
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        let both: Vec<IpAddr> = vec!["10.9.0.1".parse().unwrap(), "fd00::9".parse().unwrap()];
        assert_eq!(lookup("web.SHOP", server).unwrap(), both);
        assert!(matches!(lookup("new.shop", server), Err(LookupError::NoSuchName)));
        std::fs::write(&file, r#"{"new.shop": ["10.9.0.2"]}"#).unwrap();
        assert_eq!(
            lookup("new.shop.", server).unwrap(),
            vec![IpAddr::from([10, 9, 0, 2])]
        );
        std::fs::write(&file, "{").unwrap();
        assert!(lookup("new.shop", server).is_ok(), "the last good zone stays");
        TcpStream::connect(server).unwrap();
    }

    #[test]
    fn a_silent_server_is_a_timeout_and_none_is_a_failure() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        assert!(matches!(lookup("a.b", address), Err(LookupError::Timeout)));
        drop(silent);
        assert!(matches!(lookup("a.b", address), Err(LookupError::Failed(_))));
    }

    #[test]
    fn resolv_conf_is_read_as_it_is_written() {
        let text = "# nameserver 1.1.1.1\nsearch x.y\n nameserver\t10.96.0.10\nnameserver 10.96.0.11\n";
        assert_eq!(first_server(text), Some(IpAddr::from([10, 96, 0, 10])));
        assert_eq!(first_server("options ndots:5"), None);
    }
}
