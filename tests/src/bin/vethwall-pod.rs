//! What the containers of tests run: one static program, which build.rs compiles for an image that holds nothing else.
//!
//! ```text
//! vethwall-pod pause                           sleeps
//! vethwall-pod send MS tcp/ADDRESS:PORT ...    tries each target every MS milliseconds, from its first instruction
//! vethwall-pod try tcp/ADDRESS:PORT ...        tries each target once, all at once
//! vethwall-pod talk MS ADDRESS:PORT            one TCP connection: a line every MS milliseconds, until it breaks
//! vethwall-pod receive tcp/PORT ...            counts what arrives
//! ```
//!
//! A target `datagrams/ADDRESS:PORT` is sent to without waiting for answers, each datagram from a port of its own, and every
//! [`TOLD`]th is told.
//!
//! A sender says who it is (its HOSTNAME) in all that it sends. Lines on standard output, one for each try or arrival:
//!
//! ```text
//! sent NUMBER tcp/10.244.1.3:80 answered      TCP: answered, refused, silent, or what the kernel said
//! sent NUMBER udp/10.244.1.3:53 answered
//! tried udp/10.244.1.3:53 answered
//! talked NUMBER                               every [`TOLD`]th line that was answered
//! broken NUMBER what the kernel said
//! got tcp/80 SENDER NUMBER
//! ```
//!
//! Invariants: only the standard library, which is linked statically; a try never takes longer than [`PATIENCE`], a line of
//! a connection that lives never longer than [`BROKEN`].

use std::{
    env,
    error::Error,
    io::{self, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(250);
/// After how long without an answer a connection is broken: TCP has sent again several times by then.
const BROKEN: Duration = Duration::from_secs(20);
/// One line in so many is told, where there are many.
const TOLD: u64 = 25;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["pause"] => forever(),
        ["send", period, targets @ ..] if !targets.is_empty() => send(period, targets),
        ["try", targets @ ..] if !targets.is_empty() => once(targets),
        ["talk", period, target] => talk(period, target),
        ["receive", ports @ ..] if !ports.is_empty() => receive(ports),
        _ => Err(
            "usage: vethwall-pod pause | send MS PROTOCOL/ADDRESS:PORT... | try PROTOCOL/ADDRESS:PORT... | \
                  talk MS ADDRESS:PORT | receive PROTOCOL/PORT..."
                .into(),
        ),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vethwall-pod: {error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<(), Box<dyn Error>>;

fn forever() -> Outcome {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

/// One write, so that lines of several threads stay whole.
fn say(line: &str) {
    // Nobody who reads: nothing to be done about it here.
    let _closed = io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// How a target is tried, and its address.
fn target(text: &str) -> Result<(Attempt, SocketAddr), Box<dyn Error>> {
    let (protocol, address) = text.split_once('/').ok_or("a target is PROTOCOL/ADDRESS:PORT")?;
    let attempt: Attempt = match protocol {
        "tcp" => over_tcp,
        "udp" => over_udp,
        "datagrams" => datagram,
        _ => return Err("a protocol is tcp, udp or datagrams".into()),
    };
    Ok((attempt, address.parse()?))
}

type Attempt = fn(SocketAddr, &str) -> io::Result<()>;

/// What came of a try, in a word or what the kernel said.
fn outcome(tried: io::Result<()>) -> String {
    match tried {
        Ok(()) => "answered".to_owned(),
        Err(error) => in_a_word(&error),
    }
}

fn send(period: &str, targets: &[&str]) -> Outcome {
    let period = Duration::from_millis(period.parse()?);
    let who = env::var("HOSTNAME").unwrap_or_else(|_| "nobody".to_owned());
    for text in targets {
        let (attempt, address) = target(text)?;
        let told = if text.starts_with("datagrams/") { TOLD } else { 1 };
        let (text, who) = (text.to_string(), who.clone());
        thread::spawn(move || {
            for number in 0_u64.. {
                let start = Instant::now();
                let outcome = outcome(attempt(address, &format!("{who} {number}\n")));
                if number.is_multiple_of(told) {
                    say(&format!("sent {number} {text} {outcome}"));
                }
                thread::sleep(period.saturating_sub(start.elapsed()));
            }
        });
    }
    forever()
}

fn once(targets: &[&str]) -> Outcome {
    let who = env::var("HOSTNAME").unwrap_or_else(|_| "nobody".to_owned());
    let mut tries = Vec::new();
    for text in targets {
        let (attempt, address) = target(text)?;
        let (text, who) = (text.to_string(), who.clone());
        tries.push(thread::spawn(move || {
            say(&format!(
                "tried {text} {}",
                outcome(attempt(address, &format!("{who} 0\n")))
            ));
        }));
    }
    for attempt in tries {
        attempt.join().map_err(|_panic| "a try panicked")?;
    }
    Ok(())
}

fn in_a_word(error: &io::Error) -> String {
    let kind = error.kind();
    if matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) {
        "silent".to_owned()
    } else if kind == io::ErrorKind::ConnectionRefused {
        "refused".to_owned()
    } else {
        error.to_string()
    }
}

fn over_tcp(target: SocketAddr, message: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(message.as_bytes())?;
    stream.read_exact(&mut [0])
}

fn over_udp(target: SocketAddr, message: &str) -> io::Result<()> {
    let socket = sent(target, message)?;
    socket.recv(&mut [0]).map(drop)
}

fn datagram(target: SocketAddr, message: &str) -> io::Result<()> {
    sent(target, message).map(drop)
}

fn sent(target: SocketAddr, message: &str) -> io::Result<UdpSocket> {
    let any = SocketAddr::from((
        if target.is_ipv4() {
            [0, 0, 0, 0].into()
        } else {
            std::net::IpAddr::from(Ipv6Addr::UNSPECIFIED)
        },
        0,
    ));
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(message.as_bytes())?;
    Ok(socket)
}

fn talk(period: &str, target: &str) -> Outcome {
    let period = Duration::from_millis(period.parse()?);
    let who = env::var("HOSTNAME").unwrap_or_else(|_| "nobody".to_owned());
    let mut stream = TcpStream::connect_timeout(&target.parse()?, BROKEN)?;
    stream.set_read_timeout(Some(BROKEN))?;
    for number in 0_u64.. {
        let line = format!("{who} {number}\n");
        let outcome = stream
            .write_all(line.as_bytes())
            .and_then(|()| stream.read_exact(&mut [0]));
        if let Err(error) = outcome {
            say(&format!("broken {number} {}", in_a_word(&error)));
            return Err(error.into());
        }
        if number.is_multiple_of(TOLD) {
            say(&format!("talked {number}"));
        }
        thread::sleep(period);
    }
    Ok(())
}

fn receive(ports: &[&str]) -> Outcome {
    for port in ports {
        let (protocol, number) = port.split_once('/').ok_or("a port is PROTOCOL/NUMBER")?;
        let any = (Ipv6Addr::UNSPECIFIED, number.parse()?);
        let port = port.to_string();
        match protocol {
            "tcp" => {
                let listener = TcpListener::bind(any)?;
                thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        let port = port.clone();
                        thread::spawn(move || answer(stream, &port));
                    }
                });
            }
            "udp" => {
                let socket = UdpSocket::bind(any)?;
                thread::spawn(move || {
                    let mut message = [0; 512];
                    while let Ok((length, from)) = socket.recv_from(&mut message) {
                        arrived(&port, &message[..length]);
                        // Who is not there any more needs no answer.
                        let _gone = socket.send_to(b".", from);
                    }
                });
            }
            _ => return Err("a protocol is tcp or udp".into()),
        }
    }
    say("ready");
    forever()
}

fn answer(mut stream: TcpStream, port: &str) -> io::Result<()> {
    let mut message = [0; 512];
    loop {
        let length = stream.read(&mut message)?;
        if length == 0 {
            return Ok(());
        }
        arrived(port, &message[..length]);
        stream.write_all(b".")?;
    }
}

fn arrived(port: &str, message: &[u8]) {
    say(&format!(
        "got {port} {}",
        String::from_utf8_lossy(message).trim_end()
    ));
}
