//! Values that are more than their text.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};
use vethwall_datapath::{Choice, Hook};

/// How programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum HookChoice {
    /// tcx, or clsact where the kernel refuses tcx.
    #[default]
    Best,
    /// tcx links, Linux 6.6 and later.
    Tcx,
    /// clsact filters.
    Clsact,
}

impl From<HookChoice> for Choice {
    fn from(choice: HookChoice) -> Self {
        match choice {
            HookChoice::Best => Self::Best,
            HookChoice::Tcx => Self::Only(Hook::Tcx),
            HookChoice::Clsact => Self::Only(Hook::Clsact),
        }
    }
}

/// A level, or a list of module=level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct LogFilter(String);

impl LogFilter {
    /// What tracing goes by.
    #[must_use]
    pub fn filter(&self) -> EnvFilter {
        // It was tried when it was made.
        EnvFilter::new(&self.0)
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl TryFrom<String> for LogFilter {
    type Error = String;

    /// A word alone is a level: tracing would take any other for the name of a module, and log all of it.
    fn try_from(text: String) -> Result<Self, String> {
        let good = |part: &str| match part.split_once('=') {
            Some((module, level)) => !module.is_empty() && level.parse::<LevelFilter>().is_ok(),
            None => part.parse::<LevelFilter>().is_ok() && part.bytes().all(|byte| byte.is_ascii_lowercase()),
        };
        if text.split(',').all(good) && EnvFilter::try_new(&text).is_ok() {
            return Ok(Self(text));
        }
        Err(format!(
            "{text:?} is neither error, warn, info, debug or trace nor a list of module=level"
        ))
    }
}

impl From<LogFilter> for String {
    fn from(filter: LogFilter) -> Self {
        filter.0
    }
}

/// A name that a namespace may have (RFC 1123 label): a typing mistake must not open nothing in silence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
pub struct NamespaceName(String);

impl TryFrom<String> for NamespaceName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let good = (1..=63).contains(&text.len())
            && text.chars().all(inside)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if good {
            Ok(Self(text))
        } else {
            Err(format!(
                "no namespace has a name like {text:?}; patterns are not understood"
            ))
        }
    }
}

impl From<NamespaceName> for String {
    fn from(name: NamespaceName) -> Self {
        name.0
    }
}
