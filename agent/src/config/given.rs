//! Where values come from, and which of them count.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use super::{Config, schema};
use crate::{bounded, manifests::close};

/// No configuration is longer.
const MAX_FILE: u64 = 1 << 20;

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    File {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// From 1.
        column: u64,
    },
    /// In a variable of the environment.
    Environment(String),
    /// On the command line, behind this flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can not be read.
    #[error("can not read {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is no mapping of keys.
    #[error("{}: {why}", path.display())]
    NotYaml {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Nobody knows the key.
    #[error("{origin}: unknown key {key}{}", hint(key))]
    Unknown {
        /// Where it stands.
        origin: Origin,
        /// What stands there.
        key: String,
    },
    /// The value makes no sense.
    #[error("{origin}: {key}: {why}")]
    Wrong {
        /// Where it stands.
        origin: Origin,
        /// Whose value.
        key: String,
        /// Why not.
        why: String,
    },
}

fn hint(key: &str) -> String {
    let known: Vec<&str> = KEYS.iter().map(|key| key.name.as_str()).collect();
    match close(key, &known) {
        Some(meant) => format!(" (did you mean {meant}?)"),
        None => format!(" (expected one of {})", known.join(", ")),
    }
}

/// A field of [`Config`], from its schema.
struct Key {
    name: String,
    kind: Kind,
    help: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Switch,
    List,
}

static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let schema = schema();
    let properties = schema.get("properties").and_then(Value::as_object);
    properties.into_iter().flatten().map(key).collect()
});

fn key((name, schema): (&String, &Value)) -> Key {
    let kind = match schema.get("type").and_then(Value::as_str) {
        Some("array") => Kind::List,
        Some("integer") => Kind::Number,
        Some("boolean") => Kind::Switch,
        _ => Kind::Text,
    };
    let text = schema
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let mut help = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let default = match schema.get("default") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(on)) => on.to_string(),
        _ => String::new(),
    };
    if !default.is_empty() {
        help += &format!(" [default: {default}]");
    }
    Key {
        name: name.clone(),
        kind,
        help,
    }
}

impl Key {
    /// `maxPods` with its words apart: `max-pods`.
    fn words(&self, between: char) -> String {
        let mut words = String::new();
        for letter in self.name.chars() {
            if letter.is_ascii_uppercase() {
                words.push(between);
            }
            words.push(letter.to_ascii_lowercase());
        }
        words
    }

    fn flag(&self) -> String {
        format!("--{}", self.words('-'))
    }

    fn variable(&self) -> String {
        format!("VETHWALL_{}", self.words('_').to_uppercase())
    }

    fn arg(&self) -> Arg {
        let last = self
            .words(' ')
            .split(' ')
            .next_back()
            .unwrap_or_default()
            .to_uppercase();
        let arg = Arg::new(self.name.clone())
            .long(self.words('-'))
            .env(self.variable())
            .hide_env(true)
            .value_name(last)
            .help(self.help.clone());
        match self.kind {
            Kind::List => arg.action(ArgAction::Append).value_delimiter(','),
            Kind::Switch => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
            Kind::Text | Kind::Number => arg,
        }
    }

    fn value(&self, texts: Vec<String>) -> Value {
        match (self.kind, texts.as_slice()) {
            (Kind::List, _) => Value::from(texts),
            // What is no number is refused by its type.
            (Kind::Number, [text]) => text
                .parse::<u64>()
                .map_or_else(|_| text.as_str().into(), Value::from),
            (Kind::Switch, [text]) => text
                .parse::<bool>()
                .map_or_else(|_| text.as_str().into(), Value::from),
            (Kind::Text | Kind::Number | Kind::Switch, _) => texts.concat().into(),
        }
    }
}

/// What was given on the command line and in the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given(Vec<(String, Origin, Value)>);

impl Given {
    /// With what the file says beneath, where there is one.
    ///
    /// # Errors
    /// The first thing that is not known or makes no sense.
    pub fn over(&self, file: Option<&Path>) -> Result<Config, Error> {
        let mut all = file.map(read).transpose()?.unwrap_or_default();
        all.extend(self.0.iter().cloned());
        let mut merged = Map::new();
        for (key, origin, value) in all {
            check(&key, &origin, &value)?;
            merged.insert(key, value);
        }
        // Each part of it was checked.
        serde_json::from_value(Value::Object(merged)).map_err(|error| Error::Wrong {
            origin: Origin::Flag("--config".to_owned()),
            key: "all".to_owned(),
            why: error.to_string(),
        })
    }
}

fn check(key: &str, origin: &Origin, value: &Value) -> Result<(), Error> {
    let (key, origin) = (key.to_owned(), origin.clone());
    if !KEYS.iter().any(|known| known.name == key) {
        return Err(Error::Unknown { origin, key });
    }
    let alone = Map::from_iter([(key.clone(), value.clone())]);
    serde_json::from_value::<Config>(Value::Object(alone))
        .map(drop)
        .map_err(|error| Error::Wrong {
            origin,
            key,
            why: error.to_string(),
        })
}

type Entries = std::collections::BTreeMap<String, Spanned<Value>>;

fn read(path: &Path) -> Result<Vec<(String, Origin, Value)>, Error> {
    let unreadable = |source| Error::Unreadable {
        path: path.to_owned(),
        source,
    };
    let not_yaml = |why: String| Error::NotYaml {
        path: path.to_owned(),
        why,
    };
    let text = bounded::read(path, MAX_FILE).map_err(unreadable)?;
    let text = String::from_utf8(text).map_err(|error| not_yaml(error.to_string()))?;
    // `yes` is a word, as it is for YAML 1.2; only true and false are booleans.
    let options = serde_saphyr::options! { strict_booleans: true };
    let entries: Option<Entries> =
        serde_saphyr::from_str_with_options(&text, options).map_err(|error| not_yaml(error.to_string()))?;
    let placed = |(key, value): (String, Spanned<Value>)| {
        let origin = Origin::File {
            path: path.to_owned(),
            line: value.referenced.line(),
            column: value.referenced.column(),
        };
        (key, origin, value.value)
    };
    Ok(entries.into_iter().flatten().map(placed).collect())
}

fn augment(command: Command, keys: impl Fn(&Key) -> bool) -> Command {
    let keys = KEYS.iter().filter(|key| keys(key));
    command.args(keys.map(Key::arg))
}

fn collect(matches: &ArgMatches, keys: impl Fn(&Key) -> bool) -> Given {
    let mut given = Given::default();
    for key in KEYS.iter().filter(|key| keys(key)) {
        let origin = match matches.value_source(&key.name) {
            Some(ValueSource::CommandLine) => Origin::Flag(key.flag()),
            Some(ValueSource::EnvVariable) => Origin::Environment(key.variable()),
            _ => continue,
        };
        let values = matches.get_many::<String>(&key.name).into_iter().flatten();
        let value = key.value(values.cloned().collect());
        given.0.push((key.name.clone(), origin, value));
    }
    given
}

impl clap::Args for Given {
    fn augment_args(command: Command) -> Command {
        augment(command, |_| true)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(collect(matches, |_| true))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Those keys that say where things are on a node, for commands that do something to it once.
const OF_NODES: [&str; 5] = ["criSocket", "cniConfDir", "cniBinDir", "cniCache", "bpffs"];

/// [`Given`], of a node's places only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenOfNode(pub Given);

fn of_nodes(key: &Key) -> bool {
    OF_NODES.contains(&key.name.as_str())
}

impl clap::Args for GivenOfNode {
    fn augment_args(command: Command) -> Command {
        augment(command, of_nodes)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for GivenOfNode {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(collect(matches, of_nodes)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
