//! What the agent and the command line say to each other on `agent.sock`, and what `-o json` prints.
//!
//! ```text
//! client ── one line: {"apiVersion":"vethwall.io/v1","request":"flows",...} ──► agent
//! client ◄── lines: {"kind":"flow",...} ... ── last line: {"kind":"end"} or {"kind":"error",...} ── agent
//! ```
//!
//! - One connection, one request. A line is one JSON object.
//! - Without a last line the answer is incomplete, whatever came before: the agent went away.
//! - Names are camelCase. Fields and kinds may be added under the same [`API_VERSION`], so a reader skips what it does
//!   not know; nothing changes its meaning or goes away.

use std::{
    fmt,
    io::{self, Write},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vethwall_policy::model;

pub mod chain;
pub mod client;
pub mod cluster;
pub mod explain;
pub mod flow;
pub mod settings;
pub mod status;

pub use client::{Client, ClientError};
pub use explain::{ExplainRequest, Explanation, Peer};
pub use flow::{Direction, End, EndKind, Flow, FlowFilter, FlowRequest, Icmp, Verdict};
pub use status::Status;

/// Version of the protocol and of everything `-o json` prints.
pub const API_VERSION: &str = "vethwall.io/v1";

/// The socket's name in the run directory.
pub const SOCKET: &str = "agent.sock";

/// Longest request line that the agent reads; the other end is root, but may be anything by mistake.
pub const MAX_REQUEST: usize = 64 * 1024;

/// The line that opens a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestLine {
    /// [`API_VERSION`] of the client.
    pub api_version: String,
    /// What is asked.
    #[serde(flatten)]
    pub request: Request,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase")]
pub enum Request {
    /// One [`Response::Status`].
    Status,
    /// [`Response::Flow`] lines, oldest first; with `follow` without end.
    Flows(FlowRequest),
    /// One [`Response::Explanation`].
    Explain(ExplainRequest),
    /// One [`Response::Version`].
    Version,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Response {
    /// The node's state.
    Status(Box<Status>),
    /// One verdict.
    Flow(Box<Flow>),
    /// Flows that this reader was too slow for, or that found the ring buffer full.
    Lost(Lost),
    /// Why a connection is allowed or denied.
    Explanation(Box<Explanation>),
    /// Who answers.
    Version(Version),
    /// The answer is complete.
    End,
    /// There is no answer; the last line.
    Error(ErrorBody),
}

/// Names a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyName {
    /// Its namespace; empty for a ClusterNetworkPolicy.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl From<&model::PolicyRef> for PolicyName {
    fn from(policy: &model::PolicyRef) -> Self {
        Self {
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// Whether a policy drops packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It only tells what it would drop.
    Audit,
}

impl Mode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Enforce, Self::Audit];

    /// `enforce` or `audit`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
        }
    }
}

impl From<Mode> for model::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Enforce => Self::Enforce,
            Mode::Audit => Self::Audit,
        }
    }
}

impl From<model::Mode> for Mode {
    fn from(mode: model::Mode) -> Self {
        match mode {
            model::Mode::Enforce => Self::Enforce,
            model::Mode::Audit => Self::Audit,
        }
    }
}

/// Flows that are missing from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    /// How many, since the last such line.
    pub count: u64,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// [`API_VERSION`] of the agent.
    pub api_version: String,
    /// Version of the agent.
    pub version: String,
    /// Version of the kernel maps' layout.
    pub abi: u32,
    /// The node it runs on.
    pub node: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{message}")]
pub struct ErrorBody {
    /// What went wrong, for programs.
    pub code: ErrorCode,
    /// What went wrong, for people: a sentence without a full stop.
    pub message: String,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ErrorCode {
    /// The request line is not a request of this version.
    BadRequest,
    /// No pod of this name is known.
    UnknownPod,
    /// The agent is not ready to answer this yet.
    NotReady,
    /// Anything else.
    #[serde(other)]
    Internal,
}

impl ErrorBody {
    /// An error.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl RequestLine {
    /// A request of this version.
    pub fn new(request: Request) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            request,
        }
    }

    /// Reads a request line. The error is the line to answer with.
    pub fn parse(line: &str) -> Result<Request, ErrorBody> {
        // The version first: of another one nothing else is known, least of all what it may ask.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Envelope {
            api_version: String,
        }
        let bad = |message: String| ErrorBody::new(ErrorCode::BadRequest, message);
        let envelope: Envelope =
            serde_json::from_str(line).map_err(|e| bad(format!("the request is not a JSON object: {e}")))?;
        if envelope.api_version != API_VERSION {
            return Err(bad(format!(
                "this agent speaks {API_VERSION}, not {}",
                envelope.api_version
            )));
        }
        let parsed: Self = serde_json::from_str(line).map_err(|e| bad(format!("no such request: {e}")))?;
        Ok(parsed.request)
    }
}

/// Writes one value as a line. JSON escapes line breaks, so a value can not end its line early.
pub fn write_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    out.write_all(to_line(value)?.as_bytes())
}

/// One value as a line, with its line break.
pub fn to_line(value: &impl Serialize) -> io::Result<String> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_lines_are_these() {
        let line = |request| serde_json::to_string(&RequestLine::new(request)).unwrap();
        assert_eq!(
            line(Request::Status),
            r#"{"apiVersion":"vethwall.io/v1","request":"status"}"#
        );
        assert_eq!(
            line(Request::Flows(FlowRequest {
                follow: true,
                last: Some(20),
                filter: FlowFilter {
                    verdicts: vec![Verdict::Denied, Verdict::Audited],
                    namespace: Some("shop".into()),
                    direction: Some(Direction::Ingress),
                    ..FlowFilter::default()
                },
            })),
            r#"{"apiVersion":"vethwall.io/v1","request":"flows","follow":true,"last":20,"verdicts":["denied","audited"],"namespace":"shop","direction":"ingress"}"#
        );
        assert_eq!(
            line(Request::Explain(ExplainRequest {
                source: Peer::Pod {
                    namespace: "shop".into(),
                    name: "web".into()
                },
                destination: Peer::Address {
                    address: "10.42.0.9".parse().unwrap()
                },
                protocol: 6,
                port: Some(5432),
                family: None,
            })),
            r#"{"apiVersion":"vethwall.io/v1","request":"explain","source":{"namespace":"shop","name":"web"},"destination":{"address":"10.42.0.9"},"protocol":6,"port":5432}"#
        );
    }

    #[test]
    fn what_is_written_is_read_again() {
        for request in [
            Request::Status,
            Request::Version,
            Request::Flows(FlowRequest::default()),
            Request::Explain(ExplainRequest {
                source: Peer::Address {
                    address: "2001:db8::1".parse().unwrap(),
                },
                destination: Peer::Pod {
                    namespace: "a".into(),
                    name: "b".into(),
                },
                protocol: 1,
                port: None,
                family: Some(6),
            }),
        ] {
            let line = to_line(&RequestLine::new(request.clone())).unwrap();
            assert_eq!(RequestLine::parse(&line), Ok(request));
        }
    }

    #[test]
    fn a_bad_request_is_told_apart() {
        for (line, part) in [
            ("", "not a JSON object"),
            ("status", "not a JSON object"),
            (r#"{"request":"status"}"#, "apiVersion"),
            (
                r#"{"apiVersion":"vethwall.io/v9","request":"status"}"#,
                "speaks vethwall.io/v1, not vethwall.io/v9",
            ),
            (
                r#"{"apiVersion":"vethwall.io/v1","request":"reboot"}"#,
                "no such request",
            ),
            (
                r#"{"apiVersion":"vethwall.io/v1","request":"explain"}"#,
                "no such request",
            ),
        ] {
            let error = RequestLine::parse(line).unwrap_err();
            assert_eq!(error.code, ErrorCode::BadRequest, "{line}");
            assert!(error.message.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn an_error_of_a_later_version_is_still_an_error() {
        let line = r#"{"kind":"error","code":"outOfCheese","message":"no cheese","more":1}"#;
        let response: Response = serde_json::from_str(line).unwrap();
        assert_eq!(
            response,
            Response::Error(ErrorBody::new(ErrorCode::Internal, "no cheese"))
        );
    }
}
