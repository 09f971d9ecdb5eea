//! Errors as the CNI specification wants them: JSON on standard output.

use serde::Serialize;

/// Error codes of the specification.
pub mod code {
    /// Incompatible CNI version.
    pub const VERSION: u32 = 1;
    /// Invalid environment variables.
    pub const ENVIRONMENT: u32 = 4;
    /// I/O failure.
    pub const IO: u32 = 5;
    /// Failed to decode content.
    pub const DECODE: u32 = 6;
    /// Invalid network configuration.
    pub const CONFIG: u32 = 7;
    /// Try again later.
    pub const TRY_LATER: u32 = 11;
    /// The plugin is not available: it can not serve ADD.
    pub const UNAVAILABLE: u32 = 50;
    /// Ours: the pod's interface is not enforced (CHECK).
    pub const NOT_ENFORCED: u32 = 100;
    /// Ours: a bug.
    pub const INTERNAL: u32 = 101;
}

/// A failed command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg} (code {code}) {details}")]
pub struct CniError {
    /// One of [`code`], or what the agent said.
    pub code: u32,
    /// One sentence; the runtime shows it in the pod's events.
    pub msg: String,
    /// The cause.
    pub details: String,
}

impl CniError {
    /// An error without a further cause.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// With a cause.
    pub fn because(mut self, details: impl ToString) -> Self {
        self.details = details.to_string();
        self
    }

    /// The line for standard output.
    pub fn to_json(&self, version: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Json<'a> {
            cni_version: &'a str,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        let json = Json {
            cni_version: version,
            code: self.code,
            msg: &self.msg,
            details: &self.details,
        };
        // Strings and a number: nothing here can fail to serialize.
        serde_json::to_string(&json).unwrap_or_default()
    }
}
