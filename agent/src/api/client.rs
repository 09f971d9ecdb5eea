//! The command line's end of `agent.sock`. Synchronous: the command line does one thing at a time.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{ErrorBody, Request, RequestLine, Response, SOCKET, to_line};

/// How long the agent may take for a line of an answer that is not followed: its one task can be busy with a large
/// change, but an agent that hangs must not hang its user.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no agent answers on {}: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What connecting said.
        source: io::Error,
    },
    /// The socket is root's.
    #[error("not allowed to ask the agent on {}", path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
    },
    /// It did not answer in time, or stopped in the middle.
    #[error("the agent on {} {what}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What it did.
        what: String,
    },
    /// It answered that it can not.
    #[error(transparent)]
    Refused(#[from] ErrorBody),
}

/// An answer: its lines, one after the other.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    lines: BufReader<UnixStream>,
    done: bool,
}

impl Client {
    /// Asks the agent of this run directory.
    pub fn ask(run_dir: &Path, request: Request) -> Result<Self, ClientError> {
        let path = run_dir.join(SOCKET);
        let connect = |source: io::Error| {
            let path = path.clone();
            if source.kind() == io::ErrorKind::PermissionDenied {
                ClientError::Forbidden { path }
            } else {
                ClientError::Unreachable { path, source }
            }
        };
        let endless = matches!(&request, Request::Flows(flows) if flows.follow);
        let line = to_line(&RequestLine::new(request)).map_err(connect)?;
        let mut stream = UnixStream::connect(&path).map_err(connect)?;
        let sent = stream
            .set_read_timeout((!endless).then_some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
            .and_then(|()| stream.write_all(line.as_bytes()));
        // Only the writing half is closed: the agent sees that no more is coming and keeps answering.
        let sent = sent.and_then(|()| stream.shutdown(Shutdown::Write));
        sent.map_err(|e| broken(&path, format!("did not take the request: {e}")))?;
        Ok(Self {
            path,
            lines: BufReader::new(stream),
            done: false,
        })
    }

    /// Asks for something that has one line of an answer.
    pub fn ask_one(run_dir: &Path, request: Request) -> Result<Response, ClientError> {
        let mut client = Self::ask(run_dir, request)?;
        client
            .next()
            .unwrap_or_else(|| Err(client.broken("gave an empty answer")))
    }

    fn broken(&self, what: impl Into<String>) -> ClientError {
        broken(&self.path, what)
    }

    fn read(&mut self) -> Result<Option<Response>, ClientError> {
        loop {
            let mut line = String::new();
            match self.lines.read_line(&mut line) {
                Ok(0) => return Err(self.broken("stopped in the middle of its answer")),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(self.broken(format!("did not answer within {} s", PATIENCE.as_secs())));
                }
                Err(e) => return Err(self.broken(format!("can not be read from: {e}"))),
            }
            match serde_json::from_str(&line) {
                Ok(Response::End) => return Ok(None),
                Ok(Response::Error(error)) => return Err(error.into()),
                Ok(response) => return Ok(Some(response)),
                // A later agent may send lines that this client does not know; what it knows it must understand.
                Err(_) if is_unknown_kind(&line) => {}
                Err(e) => return Err(self.broken(format!("sent what can not be read: {e}"))),
            }
        }
    }
}

impl Iterator for Client {
    type Item = Result<Response, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.read().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

fn broken(path: &Path, what: impl Into<String>) -> ClientError {
    ClientError::Broken {
        path: path.to_owned(),
        what: what.into(),
    }
}

fn is_unknown_kind(line: &str) -> bool {
    const KINDS: [&str; 7] = ["status", "flow", "lost", "explanation", "version", "end", "error"];
    let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
    let kind = value.as_ref().and_then(|value| value.get("kind")?.as_str());
    kind.is_some_and(|kind| !KINDS.contains(&kind))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;
    use crate::api::{ErrorCode, Lost};

    /// An agent that answers one request with these bytes.
    fn agent(answer: &'static str) -> (tempfile::TempDir, thread::JoinHandle<String>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        let handle = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            line
        });
        (dir, handle)
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let (dir, agent) = agent(
            "{\"kind\":\"lost\",\"count\":3}\n{\"kind\":\"weather\",\"sun\":true}\n{\"kind\":\"lost\",\"count\":4}\n{\"kind\":\"end\"}\n",
        );
        let client = Client::ask(dir.path(), Request::Flows(Default::default())).unwrap();
        let lines: Vec<_> = client.map(Result::unwrap).collect();
        assert_eq!(
            lines,
            [
                Response::Lost(Lost { count: 3 }),
                Response::Lost(Lost { count: 4 })
            ]
        );
        assert_eq!(
            agent.join().unwrap(),
            "{\"apiVersion\":\"vethwall.io/v1\",\"request\":\"flows\",\"follow\":false}\n"
        );
    }

    #[test]
    fn an_answer_that_stops_is_not_an_answer() {
        let (dir, _agent) = agent("{\"kind\":\"lost\",\"count\":3}\n");
        let mut client = Client::ask(dir.path(), Request::Flows(Default::default())).unwrap();
        assert!(client.next().unwrap().is_ok());
        let error = client.next().unwrap().unwrap_err();
        assert!(
            error.to_string().contains("stopped in the middle of its answer"),
            "{error}"
        );
        assert!(client.next().is_none());
    }

    #[test]
    fn what_can_not_be_read_is_an_error() {
        let (dir, _agent) = agent("{\"kind\":\"lost\",\"count\":\"many\"}\n{\"kind\":\"end\"}\n");
        let error = Client::ask_one(dir.path(), Request::Status).unwrap_err();
        assert!(error.to_string().contains("sent what can not be read"), "{error}");
    }

    #[test]
    fn a_refusal_is_told() {
        let (dir, _agent) =
            agent("{\"kind\":\"error\",\"code\":\"unknownPod\",\"message\":\"no pod a/b is known\"}\n");
        match Client::ask_one(dir.path(), Request::Status) {
            Err(ClientError::Refused(body)) => assert_eq!(body.code, ErrorCode::UnknownPod),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nobody_there() {
        let dir = tempfile::tempdir().unwrap();
        let error = Client::ask_one(dir.path(), Request::Status).unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
        assert!(error.to_string().starts_with("no agent answers on /"), "{error}");
    }
}
