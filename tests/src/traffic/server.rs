//! The server of a pod: on every port, its answer is the pod's name.

use std::convert::Infallible;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use socket2::Protocol;

use super::dns;
use super::socket::{Datagrams, SCTP, listen, spawn};

/// The port of a DNS server.
const DNS_PORT: u16 = 53;

/// What one server does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerConfig {
    /// What it answers.
    pub name: String,
    /// IP protocol number (6 TCP, 17 UDP, 132 SCTP) and port.
    pub ports: Vec<(u8, u16)>,
    /// The zone file of [`dns::serve`], if this pod is the DNS server. Port 53 is then DNS only.
    #[serde(default)]
    pub dns: Option<PathBuf>,
}

/// Binds every port, prints `ready` on standard output, and serves until the process is killed.
///
/// # Errors
/// When a TCP or UDP port cannot be bound. SCTP without support in the kernel is only told.
pub fn run(config: &ServerConfig) -> anyhow::Result<Infallible> {
    start(config)?;
    let mut out = io::stdout().lock();
    writeln!(out, "ready")
        .and_then(|()| out.flush())
        .context("tell that the server is ready")?;
    drop(out);
    loop {
        thread::park();
    }
}

/// Binds every port and serves in background threads.
///
/// # Errors
/// As [`run`].
pub fn start(config: &ServerConfig) -> anyhow::Result<()> {
    if let Some(zone) = &config.dns {
        dns::start(zone, DNS_PORT)?;
    }
    let name: Arc<str> = config.name.as_str().into();
    let mut ports = config.ports.clone();
    ports.sort_unstable();
    ports.dedup();
    for (protocol, port) in ports {
        if config.dns.is_some() && port == DNS_PORT && protocol != SCTP {
            continue;
        }
        let name = Arc::clone(&name);
        match protocol {
            6 => {
                let listener =
                    listen(Protocol::TCP, port).with_context(|| format!("listen on TCP port {port}"))?;
                spawn(move || streams(&listener, &name))?;
            }
            17 => {
                let socket = Datagrams::bind(port).with_context(|| format!("listen on UDP port {port}"))?;
                spawn(move || socket.answer(|_| Some(name.as_bytes().to_vec())))?;
            }
            SCTP => match listen(Protocol::from(i32::from(SCTP)), port) {
                Ok(listener) => spawn(move || streams(&listener, &name))?,
                Err(error) => eprintln!("SCTP port {port} is not served: {error}"),
            },
            other => anyhow::bail!("cannot serve IP protocol {other}"),
        }
    }
    Ok(())
}

fn streams(listener: &TcpListener, name: &Arc<str>) {
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // For example too many open files: wait until some are closed.
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        let name = Arc::clone(name);
        if let Err(error) = spawn(move || drop(greet(stream, &name))) {
            eprintln!("a connection is not answered: {error}");
        }
    }
}

/// Sends the name and closes. What the peer sends is read first, for a close with unread data would
/// be a reset that can overtake the answer.
fn greet(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.write_all(format!("{name}\n").as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut rest = [0; 512];
    for _ in 0..64 {
        if stream.read(&mut rest)? == 0 {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// A port that was free a moment ago.
    fn free_port() -> u16 {
        TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn tcp_answers_the_name_and_closes() {
        let port = free_port();
        start(&ServerConfig {
            name: "pod-a".into(),
            ports: vec![(6, port), (6, port)],
            dns: None,
        })
        .unwrap();
        for address in ["127.0.0.1", "::1"] {
            let mut answer = String::new();
            TcpStream::connect((address, port))
                .unwrap()
                .read_to_string(&mut answer)
                .unwrap();
            assert_eq!(answer, "pod-a\n", "{address}");
        }
    }

    #[test]
    fn udp_answers_from_the_address_that_was_asked() {
        let port = free_port();
        start(&ServerConfig {
            name: "pod-b".into(),
            ports: vec![(17, port)],
            dns: None,
        })
        .unwrap();
        for (from, to) in [
            ("127.0.0.1", "127.0.0.77"),
            ("127.0.0.9", "127.0.0.1"),
            ("::1", "::1"),
        ] {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            // Connected: an answer from any other address would not arrive.
            socket.connect((to, port)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.send(b"who?").unwrap();
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"pod-b", "{to}");
        }
    }

    #[test]
    fn a_port_in_use_is_an_error_that_names_it() {
        let taken = TcpListener::bind("[::]:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let config = ServerConfig {
            name: "pod-c".into(),
            ports: vec![(6, port)],
            dns: None,
        };
        assert!(
            start(&config)
                .unwrap_err()
                .to_string()
                .contains(&port.to_string())
        );
        // SCTP may be missing, TCP's errors are not shared by it.
        start(&ServerConfig {
            ports: vec![(132, port)],
            ..config
        })
        .unwrap();
    }
}
