//! `vethwall hook`: what the chart's own pods run, for `helm uninstall` and `helm test`. There is nothing else in their image.

mod wait;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand, ValueEnum};
use socket2::{Domain, Socket, Type};
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, Failure, Streams};

/// For one connection: what a policy drops never answers.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(500);
/// For all of them: a server's pod starts meanwhile.
const ALL_PATIENCE: Duration = Duration::from_secs(90);
/// As many in a row make sure.
const IN_A_ROW: u32 = 3;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vethwall hook serve --port 8080
  vethwall hook dial --address 10.43.0.7 --port 8080 --expect denied")]
pub(crate) struct HookArgs {
    #[command(subcommand)]
    command: HookCommand,
}

#[derive(Debug, Subcommand)]
enum HookCommand {
    /// Do nothing until SIGTERM.
    Hold,
    /// Answer on a TCP port.
    Serve {
        /// The port.
        #[arg(long, value_name = "PORT")]
        port: u16,
    },
    /// Wait until a DaemonSet's pods have done their work on every node.
    Wait(wait::WaitArgs),
    /// Connect, and end well if it goes as expected.
    Dial {
        /// The server's address.
        #[arg(long, value_name = "ADDRESS")]
        address: IpAddr,
        /// And port.
        #[arg(long, value_name = "PORT")]
        port: u16,
        /// How it is to go.
        #[arg(long, value_enum, value_name = "allowed|denied", hide_possible_values = true)]
        expect: Expect,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Expect {
    Allowed,
    Denied,
}

pub(crate) fn run(args: HookArgs, streams: &mut Streams<'_>) -> Result<Exit, Failure> {
    match args.command {
        HookCommand::Hold => hold(),
        HookCommand::Serve { port } => serve(port),
        HookCommand::Wait(args) => wait::run(&args, streams),
        HookCommand::Dial {
            address,
            port,
            expect,
        } => dial((address, port).into(), expect, ALL_PATIENCE, streams),
    }
}

/// A process with number 1 ends by a signal only if it asks for it.
fn hold() -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(Exit::Yes)
    })
}

/// On every address of both families.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    let both = Socket::new(Domain::IPV6, Type::STREAM, None).and_then(|socket| {
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        socket.listen(16)?;
        Ok(socket.into())
    });
    // A node without IPv6.
    both.or_else(|_| TcpListener::bind(("0.0.0.0", port)))
}

fn serve(port: u16) -> Result<Exit, Failure> {
    let listener = listen(port)?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that goes away is none of the server's business.
            let _gone = stream.and_then(|mut stream| stream.write_all(b"vethwall\n"));
        }
    });
    hold()
}

/// What came of one connection: it was answered, or why not.
fn answer(server: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut first = [0];
    stream.read_exact(&mut first)
}

/// Allowed: some connection is answered in time. Denied: several in a row are not, by silence and not by a refusal, which would
/// mean that there is no server.
fn dial(
    server: SocketAddr,
    expect: Expect,
    patience: Duration,
    streams: &mut Streams<'_>,
) -> Result<Exit, Failure> {
    let deadline = Instant::now() + patience;
    let mut silent = 0;
    loop {
        let (word, why) = match answer(server) {
            Ok(()) => (Expect::Allowed, "answered".to_owned()),
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {
                silent += 1;
                (Expect::Denied, "no answer".to_owned())
            }
            Err(error) => {
                silent = 0;
                writeln!(streams.err, "{server}: {error}")?;
                if Instant::now() >= deadline {
                    return Ok(Exit::Undecided);
                }
                thread::sleep(PAUSE);
                continue;
            }
        };
        writeln!(streams.out, "{server}: {why}")?;
        match (expect, word) {
            (Expect::Allowed, Expect::Allowed) => return Ok(Exit::Yes),
            (Expect::Denied, Expect::Allowed) => return Ok(Exit::No),
            (Expect::Denied, Expect::Denied) if silent >= IN_A_ROW => return Ok(Exit::Yes),
            (Expect::Denied, Expect::Denied) => {}
            (Expect::Allowed, Expect::Denied) if Instant::now() >= deadline => return Ok(Exit::No),
            (Expect::Allowed, Expect::Denied) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialled(server: SocketAddr, expect: Expect) -> Exit {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams {
            out: &mut out,
            err: &mut err,
        };
        dial(server, expect, PAUSE, &mut streams).unwrap()
    }

    #[test]
    fn an_answer_is_allowed_silence_is_denied_and_a_refusal_is_neither() {
        let listener = listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        let serving = thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                stream.unwrap().write_all(b"x").unwrap();
            }
            listener
        });
        assert_eq!(dialled(server, Expect::Allowed), Exit::Yes);
        assert_eq!(dialled(server, Expect::Denied), Exit::No, "it was answered");
        // It accepts, as the kernel does for it, and says nothing: so does a policy that drops.
        let silent = serving.join().unwrap();
        assert_eq!(dialled(server, Expect::Denied), Exit::Yes);
        assert_eq!(dialled(server, Expect::Allowed), Exit::No);
        drop(silent);
        assert_eq!(dialled(server, Expect::Denied), Exit::Undecided, "nobody listens");
        assert_eq!(dialled(server, Expect::Allowed), Exit::Undecided);
    }
}
