//! Asks the agent, within a deadline.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};

use crate::proto::{MAX_LINE, Request, Response};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens; it may be starting.
    #[error("nobody listens on {path}")]
    Absent {
        /// The socket.
        path: String,
    },
    /// The answer did not come in time.
    #[error("the agent did not answer in time")]
    Timeout,
    /// The conversation broke.
    #[error("the conversation with the agent broke: {0}")]
    Io(#[from] io::Error),
    /// The answer makes no sense.
    #[error("the agent's answer is not understood: {0}")]
    Answer(#[from] serde_json::Error),
}

/// Sends one request and waits for its response until `deadline`.
pub fn ask(path: &Path, request: &Request, deadline: Instant) -> Result<Response, Error> {
    let mut stream = connect(path, deadline)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.set_write_timeout(Some(remaining(deadline)?))?;
    stream.write_all(&line).map_err(timed)?;
    let mut answer = Vec::new();
    let mut buffer = [0_u8; 4096];
    while !answer.contains(&b'\n') && answer.len() <= MAX_LINE {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        match stream.read(&mut buffer).map_err(timed)? {
            0 if answer.is_empty() => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            0 => break,
            length => answer.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(serde_json::from_slice(&answer)?)
}

/// Connects without ever blocking: a full backlog is as good as no agent.
fn connect(path: &Path, deadline: Instant) -> Result<UnixStream, Error> {
    const PAUSE: Duration = Duration::from_millis(20);
    let address = UnixAddr::new(path).map_err(io::Error::from)?;
    loop {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd: OwnedFd =
            socket::socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(io::Error::from)?;
        match socket::connect(fd.as_raw_fd(), &address).map_err(io::Error::from) {
            Ok(()) => {
                let stream = UnixStream::from(fd);
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(remaining(deadline)?.min(PAUSE));
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Err(Error::Absent {
                    path: path.display().to_string(),
                });
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn remaining(deadline: Instant) -> Result<Duration, Error> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(Error::Timeout)
    } else {
        Ok(left)
    }
}

fn timed(error: io::Error) -> Error {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        return Error::Timeout;
    }
    Error::Io(error)
}

#[cfg(test)]
mod tests {
    use std::{io::BufRead, os::unix::net::UnixListener, thread};

    use super::*;
    use crate::proto::DelRequest;

    fn request() -> Request {
        Request::Del(DelRequest {
            container_id: "c".into(),
            ifname: "eth0".into(),
        })
    }

    fn soon(milliseconds: u64) -> Instant {
        Instant::now() + Duration::from_millis(milliseconds)
    }

    #[test]
    fn an_answer_in_pieces_is_put_together() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            io::BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut line)
                .unwrap();
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request());
            stream.write_all(b"{\"ok\":true,").unwrap();
            thread::sleep(Duration::from_millis(30));
            stream.write_all(b"\"revision\":3}\n").unwrap();
            // Kept open: the end of the line must do.
            thread::sleep(Duration::from_millis(300));
        });
        let start = Instant::now();
        assert_eq!(ask(&path, &request(), soon(2000)).unwrap(), Response::done(3));
        assert!(start.elapsed() < Duration::from_millis(250));
        server.join().unwrap();
    }

    #[test]
    fn an_absent_agent_and_a_dead_socket_are_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        assert!(matches!(
            ask(&path, &request(), soon(100)),
            Err(Error::Absent { .. })
        ));
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(
            ask(&path, &request(), soon(100)),
            Err(Error::Absent { .. })
        ));
    }

    #[test]
    fn a_silent_agent_costs_no_more_than_the_deadline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let start = Instant::now();
        assert!(matches!(ask(&path, &request(), soon(150)), Err(Error::Timeout)));
        assert!(start.elapsed() < Duration::from_millis(600));
    }

    #[test]
    fn a_connection_that_is_closed_without_an_answer_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 1024];
            assert!(stream.read(&mut buffer).unwrap() > 0);
        });
        assert!(matches!(ask(&path, &request(), soon(2000)), Err(Error::Io(_))));
        server.join().unwrap();
    }
}
