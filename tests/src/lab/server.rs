//! What a pod runs: it answers on every port with its name; a DNS server answers questions on the DNS ports instead.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    dns::{self, Names},
    state::Port,
};

/// What a server is told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Settings {
    /// What it answers.
    pub name: String,
    /// Where it listens.
    pub ports: Vec<Port>,
    /// It answers DNS, from this file.
    pub names: Option<PathBuf>,
    /// Its addresses; none: all. A host with several addresses must answer from the one that was asked.
    pub addresses: Vec<IpAddr>,
}

/// `vethwall-lab internal serve`: says `ready` on standard output, or what is wrong, then serves for ever.
pub(super) fn serve(settings: &Settings) -> Result<()> {
    let outcome = listen(settings);
    let mut stdout = std::io::stdout();
    match &outcome {
        Ok(()) => writeln!(stdout, "ready")?,
        Err(error) => writeln!(stdout, "{}: {error:#}", settings.name)?,
    }
    stdout.flush()?;
    outcome?;
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

fn listen(settings: &Settings) -> Result<()> {
    let any = [
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    ];
    // Containers of one pod may name the same port; it is one socket.
    let mut taken = BTreeSet::new();
    for port in &settings.ports {
        if !taken.insert((port.protocol.as_str(), port.port)) {
            continue;
        }
        let speaks = settings.names.clone().filter(|_| is_dns(port)).map(Names::new);
        let answer = format!("{}\n", settings.name).into_bytes();
        let addresses = if settings.addresses.is_empty() || port.protocol != "UDP" {
            &any[..]
        } else {
            &settings.addresses[..]
        };
        let mut bound = false;
        let mut failure = None;
        for address in addresses {
            match one(port, SocketAddr::new(*address, port.port), &speaks, &answer) {
                Ok(()) => bound = true,
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if port.protocol == "SCTP" => eprintln!("no SCTP on this kernel: {error:#}"),
            Some(error) if !bound => bail!("listen on {}/{}: {error:#}", port.port, port.protocol),
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// Whether a DNS server speaks DNS on a port.
pub(super) fn is_dns(port: &Port) -> bool {
    port.protocol != "SCTP"
        && (port.port == 53 || port.name.as_deref().is_some_and(|name| name.starts_with("dns")))
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn one(port: &Port, address: SocketAddr, names: &Option<Names>, answer: &[u8]) -> Result<()> {
    let (names, answer) = (names.clone(), answer.to_vec());
    if port.protocol == "UDP" {
        let socket: UdpSocket = socket(address, Type::DGRAM, Protocol::UDP)?.into();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let datagram = buffer.get(..length).unwrap_or_default();
                let reply = match &names {
                    Some(names) => dns::answer(datagram, names),
                    None => (!is_answer(datagram)).then(|| answer_to(datagram, &answer)),
                };
                if let Some(reply) = reply {
                    // The client asks again.
                    let _lost = socket.send_to(&reply, from);
                }
            }
        });
        return Ok(());
    }
    let protocol = if port.protocol == "SCTP" {
        Protocol::SCTP
    } else {
        Protocol::TCP
    };
    let socket = socket(address, Type::STREAM, protocol)?;
    socket.listen(128).context("listen")?;
    thread::spawn(move || {
        loop {
            let Ok((connection, _)) = socket.accept() else {
                continue;
            };
            let (names, answer) = (names.clone(), answer.clone());
            thread::spawn(move || {
                let _client_left = match &names {
                    Some(names) => ask_and_answer(connection, names),
                    None => greet(connection, &answer),
                };
            });
        }
    });
    Ok(())
}

/// As long as the question: where one needs fragments, so does the other.
fn answer_to(question: &[u8], name: &[u8]) -> Vec<u8> {
    let mut reply = name.to_vec();
    reply.resize((name.len() + 1).max(question.len()), 0);
    reply
}

/// Whether another server says this: if servers answered each other, one forged datagram would never end. No question
/// begins with a line and a zero: DNS's have zeros before, and people send none.
fn is_answer(datagram: &[u8]) -> bool {
    let mut parts = datagram.splitn(2, |byte| *byte == b'\n');
    let (name, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    name.iter().all(u8::is_ascii_graphic) && rest.first() == Some(&0)
}

/// Says the name, then sends back what comes.
fn greet(mut connection: Socket, answer: &[u8]) -> Result<()> {
    connection.write_all(answer)?;
    let mut buffer = [0; 4096];
    loop {
        let length = connection.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        connection.write_all(buffer.get(..length).unwrap_or_default())?;
    }
}

fn ask_and_answer(mut connection: Socket, names: &Names) -> Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    loop {
        let mut length = [0; 2];
        connection.read_exact(&mut length)?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        connection.read_exact(&mut question)?;
        let Some(answer) = dns::answer(&question, names) else {
            return Ok(());
        };
        let mut framed = u16::try_from(answer.len())?.to_be_bytes().to_vec();
        framed.extend(answer);
        connection.write_all(&framed)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_answered_and_answers_are_not() {
        for question in [
            &b""[..],
            b"hello",
            b"hello\n",
            b"\n",
            b"\x12\x34\x01\0\0\x01\n\0",
            &[b'x'; 4000],
        ] {
            assert!(!is_answer(question), "{question:?}");
            assert!(is_answer(&answer_to(question, b"x/victim\n")), "{question:?}");
        }
    }
}
