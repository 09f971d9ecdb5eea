//! Probes: one JSON object a line, as `vethwall-lab probe` takes them.
//!
//! Invariants:
//! - All lines are good before the first one is answered; what is wrong names line and column.
//! - A field that nobody knows is an error: a mistyped `expect` would make a test that can not fail.

use std::{
    borrow::Cow,
    fmt,
    io::{self, BufRead, Read as _},
};

use serde::{
    Deserialize,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};
use vethwall_common::protocol::{TCP, has_ports};

use crate::{
    api::{
        ExplainRequest, Peer,
        explain::{ProbeVerdict, protocol_number},
    },
    cli::peer::{not_a_protocol, peer},
    manifests,
};

/// Longest line that is read.
const MAX_LINE: usize = 64 * 1024;

/// Fields that mean something.
const FIELDS: [&str; 6] = ["from", "to", "port", "protocol", "family", "expect"];

/// Fields for whoever reads the answers: they are handed through.
const NOTES: [&str; 3] = ["id", "name", "comment"];

/// What `vethwall-lab probe` adds to a line.
const LAB: [&str; 2] = ["result", "detail"];

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Probe {
    /// Its number, from 1.
    pub(super) line: usize,
    /// Who opens the connection, as written.
    pub(super) from: String,
    /// To whom, as written.
    pub(super) to: String,
    /// The protocol, as written.
    pub(super) protocol: Value,
    /// The port, as written.
    pub(super) port: Option<u16>,
    /// What it means.
    pub(super) request: ExplainRequest,
    /// What should become of it.
    pub(super) expect: Option<ProbeVerdict>,
    /// What else the line says, for its reader.
    pub(super) notes: Map<String, Value>,
}

/// A line that is no probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    /// Its number, from 1.
    pub(super) line: usize,
    /// Where it is wrong: a character's number, from 1.
    pub(super) column: usize,
    /// What is wrong.
    pub(super) message: String,
}

/// Reads all probes; either all lines are good, or those that are not are returned.
pub(super) fn read(mut input: impl BufRead) -> io::Result<Result<Vec<Probe>, Vec<BadLine>>> {
    let (mut probes, mut wrong) = (Vec::new(), Vec::new());
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let limit = u64::try_from(MAX_LINE + 1).unwrap_or(u64::MAX);
        if input.by_ref().take(limit).read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        let bad = |(column, message)| BadLine {
            line,
            column,
            message,
        };
        if bytes.len() > MAX_LINE && !bytes.ends_with(b"\n") {
            input.skip_until(b'\n')?;
            wrong.push(bad((1, format!("the line is longer than {MAX_LINE} bytes"))));
            continue;
        }
        match parse(line, &bytes) {
            Ok(probe) => probes.extend(probe),
            Err(error) => wrong.push(bad(error)),
        }
    }
    Ok(if wrong.is_empty() { Ok(probes) } else { Err(wrong) })
}

/// A column and what is wrong there.
type Wrong = (usize, String);

/// Reads a line; an empty one is nothing.
fn parse(line: usize, bytes: &[u8]) -> Result<Option<Probe>, Wrong> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let before = String::from_utf8_lossy(bytes.get(..e.valid_up_to()).unwrap_or_default());
        let column = before.chars().count() + 1;
        (
            column,
            "the text is not UTF-8; write the file in UTF-8".to_owned(),
        )
    })?;
    // Some editors begin a file with a byte order mark.
    let text = if line == 1 {
        text.strip_prefix('\u{feff}').unwrap_or(text)
    } else {
        text
    };
    let text = text.trim_end_matches(['\n', '\r']);
    if text.trim().is_empty() {
        return Ok(None);
    }
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|e| not_json(text, &e))?;
    Line { text, fields }.probe(line).map(Some)
}

fn not_json(text: &str, error: &serde_json::Error) -> Wrong {
    let said = error.to_string();
    let what = said.split(" at line ").next().unwrap_or_default();
    let column = column(text, error.column().saturating_sub(1));
    if text.trim_start().starts_with('[') {
        let message = "a line is one JSON object, not an array; from an array makes them: jq -c '.[]'";
        return (1, message.to_owned());
    }
    if !text.trim_start().starts_with('{') {
        let blank = text.len() - text.trim_start().len();
        return (blank + 1, "not a JSON object: that begins with {".to_owned());
    }
    if error.is_eof() && text.trim() == "{" {
        let message = "the object does not end on this line; one line each is made by: jq -c .";
        return (column, message.to_owned());
    }
    (column, format!("not a JSON object: {what}"))
}

/// The number of the character at a byte, from 1.
fn column(text: &str, byte: usize) -> usize {
    text.char_indices().take_while(|(at, _)| *at < byte).count() + 1
}

/// An object's fields as they stand in the text.
struct Fields<'t>(Vec<(Cow<'t, str>, &'t RawValue)>);

/// A key, borrowed where that is possible.
#[derive(Deserialize)]
struct Key<'t>(#[serde(borrow)] Cow<'t, str>);

impl<'t> Deserialize<'t> for Fields<'t> {
    fn deserialize<D: serde::Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'t> Visitor<'t> for Collect {
            type Value = Fields<'t>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    fields.push((key, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// A line that is an object.
struct Line<'t> {
    text: &'t str,
    fields: Fields<'t>,
}

impl Line<'_> {
    fn probe(&self, line: usize) -> Result<Probe, Wrong> {
        for (i, (name, value)) in self.fields.0.iter().enumerate() {
            if self.fields.0.iter().take(i).any(|(other, _)| other == name) {
                return Err((self.key_column(name, value), format!("{name:?} is given twice")));
            }
            if ![&FIELDS[..], &NOTES, &LAB].concat().contains(&&**name) {
                let message = match manifests::close(name, &FIELDS) {
                    Some(known) => format!("no field is called {name:?}; did you mean {known:?}?"),
                    None => format!(
                        "no field is called {name:?}; there are {} (and {}, which are handed through)",
                        FIELDS.join(", "),
                        NOTES.join(", ")
                    ),
                };
                return Err((self.key_column(name, value), message));
            }
        }
        let (from, source) = self.peer("from")?;
        let (to, destination) = self.peer("to")?;
        let (shown, protocol) = self.protocol()?;
        let port = self.port(protocol)?;
        let family = self.family()?;
        let request = ExplainRequest {
            source,
            destination,
            protocol,
            port: port.filter(|_| has_ports(protocol)),
            family,
        };
        Ok(Probe {
            line,
            from,
            to,
            protocol: shown,
            port,
            request,
            expect: self.expect()?,
            notes: NOTES
                .into_iter()
                .filter_map(|name| Some((name.to_owned(), self.get(name)?.1)))
                .collect(),
        })
    }

    /// A field's value and its column; null is as good as nothing.
    fn get(&self, name: &str) -> Option<(usize, Value)> {
        let (_, raw) = self.fields.0.iter().find(|(key, _)| key == name)?;
        let value = serde_json::from_str(raw.get()).unwrap_or_default();
        let given = value != Value::Null;
        given.then(|| (column(self.text, self.offset(raw)), value))
    }

    /// Where a value stands: it is a part of the text.
    fn offset(&self, raw: &RawValue) -> usize {
        let (start, value) = (self.text.as_ptr() as usize, raw.get().as_ptr() as usize);
        value.saturating_sub(start).min(self.text.len())
    }

    /// Where a key stands that has this value.
    fn key_column(&self, name: &str, raw: &RawValue) -> usize {
        let value = self.offset(raw);
        let before = self.text.get(..value).unwrap_or_default();
        let key = before.rfind(&format!("\"{name}\"")).unwrap_or(value);
        column(self.text, key)
    }

    fn peer(&self, field: &str) -> Result<(String, Peer), Wrong> {
        let (column, value) = self.get(field).ok_or_else(|| {
            (
                1,
                format!("\"{field}\" is missing: NAMESPACE/POD or an IP address"),
            )
        })?;
        let Value::String(text) = value else {
            return Err((column, format!("{field:?} must be a string, not {value}")));
        };
        match peer(&text) {
            Ok(peer) => Ok((text, peer)),
            Err(_) if text == "outside" => Err((
                column,
                format!("{field:?}: outside exists only in vethwall-lab; name an IP address"),
            )),
            Err(message) => Err((column, format!("{field:?}: {text:?}: {message}"))),
        }
    }

    fn protocol(&self) -> Result<(Value, u8), Wrong> {
        let Some((column, value)) = self.get("protocol") else {
            return Ok((Value::from("TCP"), TCP));
        };
        let text = match &value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                return Err((
                    column,
                    format!("\"protocol\" must be a name or a number, not {value}"),
                ));
            }
        };
        match protocol_number(&text) {
            Some(number) => Ok((value, number)),
            None => Err((column, format!("\"protocol\": {}", not_a_protocol(&text)))),
        }
    }

    /// Protocols without ports may have one all the same; it means nothing.
    fn port(&self, protocol: u8) -> Result<Option<u16>, Wrong> {
        let Some((column, value)) = self.get("port") else {
            return Ok(None);
        };
        value
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port > 0 || !has_ports(protocol))
            .map(Some)
            .ok_or_else(|| {
                (
                    column,
                    format!("\"port\" must be a number from 1 to 65535, not {value}"),
                )
            })
    }

    fn family(&self) -> Result<Option<u8>, Wrong> {
        let Some((column, value)) = self.get("family") else {
            return Ok(None);
        };
        let text = match &value {
            Value::String(text) => text.to_ascii_lowercase(),
            Value::Number(number) => number.to_string(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => String::new(),
        };
        match text.as_str() {
            "4" | "ipv4" => Ok(Some(4)),
            "6" | "ipv6" => Ok(Some(6)),
            _ => Err((column, format!("\"family\" must be 4 or 6, not {value}"))),
        }
    }

    fn expect(&self) -> Result<Option<ProbeVerdict>, Wrong> {
        let Some((column, value)) = self.get("expect") else {
            return Ok(None);
        };
        match value.as_str().map(str::to_ascii_lowercase).as_deref() {
            Some("allowed") => Ok(Some(ProbeVerdict::Allowed)),
            Some("denied") => Ok(Some(ProbeVerdict::Denied)),
            Some(_) | None => Err((
                column,
                format!("\"expect\" must be \"allowed\" or \"denied\", not {value}"),
            )),
        }
    }
}
