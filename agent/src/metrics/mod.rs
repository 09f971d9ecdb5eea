//! HTTP: metrics for Prometheus, and probes for kubelet.
//!
//! ```text
//! GET /metrics ─┐
//! GET /livez   ─┼─► question to thread "node" ─► Status ─► [`text`] (pure) or 200 / 503
//! GET /readyz  ─┘
//! ```
//!
//! Everything is derived from one [`Status`] at the time of the question, so what Prometheus sees and what `vethwall status`
//! says can not differ. No label is a pod's name or address: those come and go, and each would be a series for ever.

mod text;

use std::{net::SocketAddr, sync::mpsc::Sender, time::Duration};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::oneshot, time::timeout};

use crate::{
    api::status::{Phase, Status},
    node::Input,
};

/// The node's thread answers between two pieces of work; one that does not for so long hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Listens where it is told to, and serves until the process ends.
pub async fn serve(address: SocketAddr, node: Sender<Input>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("can not listen on {address}; name another address with --http"))?;
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(alive))
        .route("/readyz", get(steady))
        .with_state(node);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(())
}

/// A node's state as Prometheus is given it.
///
/// # Errors
/// None that depends on the state.
pub fn text(status: &Status) -> Result<String, std::fmt::Error> {
    text::encode(status)
}

async fn status(node: &Sender<Input>) -> Result<Status, Response> {
    let hangs = || {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the node's thread does not answer\n",
        )
            .into_response()
    };
    let (reply, answer) = oneshot::channel();
    node.send(Input::Status(reply)).map_err(|_| hangs())?;
    match timeout(PATIENCE, answer).await {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(_)) | Err(_) => Err(hangs()),
    }
}

async fn metrics(State(node): State<Sender<Input>>) -> Response {
    match status(&node).await.map(|status| text::encode(&status)) {
        Ok(Ok(text)) => ([(CONTENT_TYPE, text::CONTENT_TYPE)], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        Err(response) => response,
    }
}

/// Whether a restart would help: not where something is missing around the agent.
async fn alive(State(node): State<Sender<Input>>) -> Response {
    match status(&node).await {
        Ok(_) => "alive\n".into_response(),
        Err(response) => response,
    }
}

/// Whether new pods are protected from their first packet.
async fn steady(State(node): State<Sender<Input>>) -> Response {
    match status(&node).await {
        Ok(status) if status.phase == Phase::Steady => "steady\n".into_response(),
        Ok(status) => {
            let text = format!("{}\n", status.phase.name());
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
        Err(response) => response,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        sync::mpsc,
    };

    use super::*;

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn probes_follow_the_phase_and_metrics_are_served() {
        let (sender, inputs) = mpsc::channel();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                serve(address, sender).await.unwrap();
                std::future::pending::<()>().await;
            });
        });
        let node = std::thread::spawn(move || {
            for phase in [Phase::Ready, Phase::Steady, Phase::Ready, Phase::Steady] {
                let Ok(Input::Status(reply)) = inputs.recv() else {
                    panic!()
                };
                let status = Status {
                    phase,
                    ..Status::new()
                };
                reply.send(status).unwrap();
            }
        });
        while std::net::TcpStream::connect(address).is_err() {
            std::thread::yield_now();
        }
        let answer = get(address, "/readyz");
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.ends_with("ready\n"),
            "{answer}"
        );
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 200"));
        assert!(get(address, "/livez").starts_with("HTTP/1.1 200"));
        let answer = get(address, "/metrics");
        assert!(answer.contains("vethwall_phase{phase=\"steady\"} 1"), "{answer}");
        node.join().unwrap();
        // The thread is gone: a restart would help.
        assert!(get(address, "/livez").starts_with("HTTP/1.1 503"));
        assert!(get(address, "/nothing").starts_with("HTTP/1.1 404"));
    }
}
