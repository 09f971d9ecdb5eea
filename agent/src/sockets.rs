//! The agent's two Unix sockets, for root only: `cni.sock` for the plugin and `agent.sock` for the command line.
//!
//! Both take one line of JSON and answer in lines. What they are asked goes to the node's thread.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        net::UnixStream as StdStream,
    },
    path::Path,
    sync::{Arc, mpsc::Sender},
    time::Duration,
};

use anyhow::{Context, bail};
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf},
    sync::oneshot,
    time::timeout,
};
use tracing::{debug, warn};
use vethwall_cni::{code, proto};

use crate::{
    api::{self, API_VERSION, ErrorBody, Request, RequestLine, Response, Version},
    flows::Flows,
    node::Input,
};

/// How long a client may take to send its line.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);

/// Makes the directory (0700) and listens on a socket (0600) in it. A socket that a dead agent left is replaced; one
/// that answers belongs to an agent that lives.
pub fn listen(run_dir: &Path, name: &str) -> anyhow::Result<UnixListener> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run_dir)
        .with_context(|| format!("can not create {}", run_dir.display()))?;
    let path = run_dir.join(name);
    if StdStream::connect(&path).is_ok() {
        bail!("another agent answers on {}; stop it first", path.display());
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("can not replace {}", path.display()));
        }
        Ok(()) | Err(_) => {}
    }
    let listener =
        UnixListener::bind(&path).with_context(|| format!("can not listen on {}", path.display()))?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))
        .with_context(|| format!("can not restrict {}", path.display()))?;
    Ok(listener)
}

/// Takes away the sockets that a dead agent left, where no other comes.
pub fn forget(run_dir: &Path) -> anyhow::Result<()> {
    for name in [api::SOCKET, proto::SOCKET] {
        let path = run_dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("can not remove {}", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Serves the plugin.
pub async fn serve_plugin(listener: UnixListener, node: Sender<Input>) {
    accept(listener, move |stream| {
        let node = node.clone();
        async move {
            let (mut lines, mut out) = halves(stream, proto::MAX_LINE);
            let line = read_line(&mut lines).await?;
            let ask = |input: fn(oneshot::Sender<proto::Response>) -> Input| input;
            let (reply, response) = oneshot::channel();
            let input = match serde_json::from_str(&line) {
                Ok(proto::Request::Add(request)) => Input::Add(request, reply),
                Ok(proto::Request::Del(request)) => Input::Del(request, reply),
                Ok(proto::Request::Status) => ask(Input::CniStatus)(reply),
                Err(error) => {
                    let refusal = proto::Response::failed(code::DECODE, format!("not a request: {error}"));
                    return write(&mut out, &refusal).await;
                }
            };
            let stopping =
                || proto::Response::failed(code::TRY_LATER, "vethwall: the node agent is stopping");
            let response = match node.send(input) {
                Ok(()) => response.await.unwrap_or_else(|_| stopping()),
                Err(_) => stopping(),
            };
            write(&mut out, &response).await
        }
    })
    .await;
}

/// Serves the command line.
pub async fn serve_people(listener: UnixListener, node: Sender<Input>, flows: Arc<Flows>, name: String) {
    accept(listener, move |stream| {
        let (node, flows, name) = (node.clone(), Arc::clone(&flows), name.clone());
        async move {
            let (mut lines, mut out) = halves(stream, api::MAX_REQUEST);
            let line = read_line(&mut lines).await?;
            let request = match RequestLine::parse(&line) {
                Ok(request) => request,
                Err(error) => return write(&mut out, &Response::Error(error)).await,
            };
            let response = match request {
                Request::Flows(request) => {
                    let mut subscription = flows.subscribe(&request);
                    loop {
                        let response = subscription.next().await;
                        write(&mut out, &response).await?;
                        if response == Response::End {
                            return Ok(());
                        }
                    }
                }
                Request::Version => Response::Version(Version {
                    api_version: API_VERSION.to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    abi: vethwall_common::ABI_VERSION,
                    node: name,
                }),
                Request::Status => match question(&node, Input::Status).await {
                    Ok(status) => Response::Status(Box::new(status)),
                    Err(error) => Response::Error(error),
                },
                Request::Explain(request) => {
                    match question(&node, |reply| Input::Explain(request, reply))
                        .await
                        .flatten()
                    {
                        Ok(explanation) => Response::Explanation(Box::new(explanation)),
                        Err(error) => Response::Error(error),
                    }
                }
            };
            let complete = !matches!(response, Response::Error(_));
            write(&mut out, &response).await?;
            if complete {
                write(&mut out, &Response::End).await?;
            }
            Ok(())
        }
    })
    .await;
}

async fn question<T>(
    node: &Sender<Input>,
    input: impl FnOnce(oneshot::Sender<T>) -> Input,
) -> Result<T, ErrorBody> {
    let stopping = || ErrorBody::new(api::ErrorCode::NotReady, "the agent is stopping");
    let (reply, answer) = oneshot::channel();
    node.send(input(reply)).map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())
}

async fn accept<F>(listener: UnixListener, serve: impl Fn(UnixStream) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = serve(stream);
                tokio::spawn(async move {
                    // Clients hang up whenever they like.
                    if let Err(error) = served.await {
                        debug!("a client went away: {error}");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, for instance; a pause lets others finish.
                warn!("can not accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

type Lines = BufReader<tokio::io::Take<OwnedReadHalf>>;

fn halves(stream: UnixStream, limit: usize) -> (Lines, tokio::net::unix::OwnedWriteHalf) {
    let (input, output) = stream.into_split();
    (BufReader::new(input.take(limit as u64)), output)
}

async fn read_line(lines: &mut Lines) -> io::Result<String> {
    let mut line = String::new();
    timeout(REQUEST_PATIENCE, lines.read_line(&mut line)).await??;
    Ok(line)
}

async fn write(out: &mut (impl AsyncWriteExt + Unpin), value: &impl Serialize) -> io::Result<()> {
    out.write_all(api::to_line(value)?.as_bytes()).await
}
