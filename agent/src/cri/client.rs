//! Questions to the runtime's socket, from a thread that may wait for the answer.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use http::uri::PathAndQuery;
use tokio::time::timeout;
use tonic::{
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{
    Runtime, Socket,
    messages::{
        ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxFilter, PodSandboxStateValue,
        PodSandboxStatusRequest, PodSandboxStatusResponse, StatusRequest, StatusResponse, VersionRequest,
        VersionResponse,
    },
    view::{Sandbox, View, sandbox},
};

/// For one question. A runtime that is busy with pods answers these in milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// For all sandboxes of a node together.
const ALL_PATIENCE: Duration = Duration::from_secs(10);
/// No answer is longer; a verbose status has some ten kilobytes.
const MAX_ANSWER: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("the container runtime at {socket} does not answer {question}: {why}")]
pub struct Error {
    /// Whom was asked.
    pub socket: String,
    /// What was asked.
    pub question: &'static str,
    /// What came instead.
    pub why: String,
}

/// A client of one runtime. Connects anew for every question: they are rare, and a runtime restarts.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    /// Where the machine's files begin.
    root: PathBuf,
    executor: tokio::runtime::Runtime,
}

impl Client {
    /// For the runtime at this socket.
    ///
    /// # Errors
    /// The process may make no event queue.
    pub fn new(socket: Socket) -> std::io::Result<Self> {
        let executor = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            socket,
            root: "/".into(),
            executor,
        })
    }

    /// The pods that the runtime says are running, each with what it knows of its interfaces; `None` where there is no runtime to
    /// ask. Pods in their node's network are among them.
    pub fn sandboxes(&mut self) -> Option<Result<Vec<Sandbox>, Error>> {
        let socket = self.socket.find(&self.root)?;
        Some(self.executor.block_on(async {
            let asked = timeout(ALL_PATIENCE, sandboxes(&socket)).await;
            asked.unwrap_or_else(|_| Err(error(&socket, "for its pods", "not in time")))
        }))
    }
}

impl Runtime for Client {
    fn view(&mut self) -> Option<Result<View, Error>> {
        let socket = self.socket.find(&self.root)?;
        Some(self.executor.block_on(async {
            let asked = timeout(PATIENCE, view(&socket)).await;
            asked.unwrap_or_else(|_| Err(error(&socket, "Status", "not in time")))
        }))
    }
}

fn error(socket: &std::path::Path, question: &'static str, why: impl ToString) -> Error {
    Error {
        socket: socket.display().to_string(),
        question,
        why: why.to_string(),
    }
}

async fn view(socket: &PathBuf) -> Result<View, Error> {
    let mut asked = Asked::connect(socket).await?;
    let version: VersionResponse = asked
        .ask("Version", VersionRequest { version: "v1".into() })
        .await?;
    let status: StatusResponse = asked.ask("Status", StatusRequest { verbose: true }).await?;
    Ok(View::new(
        &version.runtime_name,
        &version.runtime_version,
        &socket.display().to_string(),
        &status.info,
    ))
}

async fn sandboxes(socket: &PathBuf) -> Result<Vec<Sandbox>, Error> {
    let mut asked = Asked::connect(socket).await?;
    let ready = PodSandboxFilter {
        state: Some(PodSandboxStateValue { state: 0 }),
    };
    let listed: ListPodSandboxResponse = asked
        .ask("ListPodSandbox", ListPodSandboxRequest { filter: Some(ready) })
        .await?;
    let mut found = Vec::new();
    for item in listed.items {
        let question = PodSandboxStatusRequest {
            pod_sandbox_id: item.id.clone(),
            verbose: true,
        };
        // It may be gone since it was listed.
        let answer: Result<PodSandboxStatusResponse, Error> = asked.ask("PodSandboxStatus", question).await;
        let info: HashMap<String, String> = answer.map(|answer| answer.info).unwrap_or_default();
        let metadata = item.metadata.unwrap_or_default();
        found.push(sandbox(
            item.id,
            metadata.namespace,
            metadata.name,
            metadata.uid,
            &info,
        ));
    }
    Ok(found)
}

struct Asked<'s> {
    socket: &'s PathBuf,
    grpc: Grpc<Channel>,
}

impl<'s> Asked<'s> {
    async fn connect(socket: &'s PathBuf) -> Result<Self, Error> {
        let connect = async {
            let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
            endpoint.connect_timeout(PATIENCE).connect().await
        };
        let channel = connect
            .await
            .map_err(|e| error(socket, "a connection", chain(&e)))?;
        Ok(Self {
            socket,
            grpc: Grpc::new(channel).max_decoding_message_size(MAX_ANSWER),
        })
    }

    async fn ask<Q, A>(&mut self, question: &'static str, message: Q) -> Result<A, Error>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let failed = |why: String| error(self.socket, question, why);
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{question}"))
            .map_err(|e| failed(e.to_string()))?;
        self.grpc.ready().await.map_err(|e| failed(chain(&e)))?;
        let request = tonic::Request::new(message);
        let answer = self.grpc.unary(request, path, ProstCodec::<Q, A>::default());
        match answer.await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(failed(format!("{:?}: {}", status.code(), status.message()))),
        }
    }
}

/// An error with its causes: tonic's own is only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, time::Instant};

    use super::*;

    fn ask(socket: &std::path::Path) -> String {
        let mut client = Client::new(Socket::At(socket.into())).unwrap();
        client.view().unwrap().unwrap_err().to_string()
    }

    #[test]
    fn whoever_does_not_speak_cri_is_named_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("x.sock");
        assert!(
            ask(&socket).contains(&socket.display().to_string()),
            "nobody is there"
        );
        let listener = UnixListener::bind(&socket).unwrap();
        let began = Instant::now();
        assert!(ask(&socket).contains("not in time"), "somebody who says nothing");
        assert!(began.elapsed() < PATIENCE * 2);
        let babbler = std::thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                let _hung_up = std::io::Write::write_all(&mut stream.unwrap(), &[b'x'; 1 << 16]);
            }
        });
        assert!(!ask(&socket).is_empty(), "somebody who babbles");
        drop(babbler);
        let mut nobody = Client::new(Socket::Nobody).unwrap();
        assert!(nobody.view().is_none() && nobody.sandboxes().is_none());
    }
}
