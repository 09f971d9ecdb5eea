//! Traffic between two pods: a server, and a client that measures.
//!
//! ```text
//! client ── 's' bytes ... ──► server      how many arrive
//!        ── 'e' byte ──► ── byte ──►      how long an answer takes
//!        ── connect 'c' ► ── byte ──►     how many connections a second
//!        ── datagrams ──► counted, asked for by 'u'
//! ```

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Where the server listens, TCP and UDP.
pub(crate) const PORT: u16 = 8000;
/// How long each thing is measured.
const SPAN: Duration = Duration::from_millis(700);
/// How long anything may take that should take no time.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a client found.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Measured {
    /// Gigabits a second on one TCP connection.
    pub(crate) gigabits: f64,
    /// Thousands of datagrams of 64 bytes a second that arrived.
    pub(crate) datagrams: f64,
    /// Microseconds of a request and its answer on an open connection, the median.
    pub(crate) answer_p50: f64,
    /// The same, of which one in a hundred is slower.
    pub(crate) answer_p99: f64,
    /// Connections a second: opened, asked, answered, closed.
    pub(crate) connections: f64,
}

/// Serves until it is killed.
pub(crate) fn serve(address: IpAddr) -> Result<()> {
    let arrived = Arc::new(AtomicU64::new(0));
    let datagrams = UdpSocket::bind((address, PORT))?;
    let count = Arc::clone(&arrived);
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while datagrams.recv(&mut buffer).is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let listener = TcpListener::bind((address, PORT))?;
    println!("ready");
    for stream in listener.incoming() {
        let (stream, arrived) = (stream?, Arc::clone(&arrived));
        thread::spawn(move || answer(stream, &arrived));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, arrived: &AtomicU64) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = stream.read(&mut buffer)?;
        match buffer.first() {
            _ if read == 0 => return Ok(()),
            Some(b'e' | b'c') => stream.write_all(b"!")?,
            Some(b'u') => stream.write_all(&arrived.load(Ordering::Relaxed).to_le_bytes())?,
            Some(_) | None => {}
        }
    }
}

/// Measures, and prints what the benchmark reads.
pub(crate) fn tell(server: IpAddr) -> Result<()> {
    println!("{}", serde_json::to_string(&measure(server)?)?);
    Ok(())
}

/// Measures everything against a server.
fn measure(server: IpAddr) -> Result<Measured> {
    let server = SocketAddr::new(server, PORT);
    let gigabits = throughput(server)?;
    let datagrams = datagrams(server)?;
    let (answer_p50, answer_p99) = answers(server)?;
    let connections = connections(server)?;
    Ok(Measured {
        gigabits,
        datagrams,
        answer_p50,
        answer_p99,
        connections,
    })
}

fn connect(server: SocketAddr) -> Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&server, PATIENCE).with_context(|| format!("connect to {server}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn throughput(server: SocketAddr) -> Result<f64> {
    let mut stream = connect(server)?;
    let chunk = vec![b's'; 1 << 17];
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < SPAN {
        sent += stream.write(&chunk)?;
    }
    Ok(sent as f64 * 8.0 / 1e9 / start.elapsed().as_secs_f64())
}

fn datagrams(server: SocketAddr) -> Result<f64> {
    let mut control = connect(server)?;
    let mut arrived = || -> Result<u64> {
        control.write_all(b"u")?;
        let mut count = [0; 8];
        control.read_exact(&mut count)?;
        Ok(u64::from_le_bytes(count))
    };
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    let before = arrived()?;
    let start = Instant::now();
    while start.elapsed() < SPAN {
        for _ in 0..64 {
            // A full buffer drops it, which shows in what arrives.
            drop(socket.send(&[0; 64]));
        }
    }
    let span = start.elapsed();
    let count = arrived()? - before;
    ensure!(count > 0, "no datagram arrived");
    Ok(count as f64 / 1e3 / span.as_secs_f64())
}

fn answers(server: SocketAddr) -> Result<(f64, f64)> {
    let mut stream = connect(server)?;
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < SPAN {
        let asked = Instant::now();
        stream.write_all(b"e")?;
        stream.read_exact(&mut [0])?;
        times.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_unstable_by(f64::total_cmp);
    let at = |share: usize| times.get(times.len() * share / 100).copied();
    match (at(50), at(99)) {
        (Some(p50), Some(p99)) => Ok((p50, p99)),
        (_, _) => bail!("no answer came"),
    }
}

fn connections(server: SocketAddr) -> Result<f64> {
    let (start, mut made) = (Instant::now(), 0_u32);
    while start.elapsed() < SPAN {
        let mut stream = connect(server)?;
        stream.write_all(b"c")?;
        stream.read_exact(&mut [0])?;
        // Closed by a reset, so that the ports do not run out.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        made += 1;
    }
    Ok(f64::from(made) / start.elapsed().as_secs_f64())
}
