//! What the CNI directory should hold, from what it holds. Pure.
//!
//! A runtime takes the first list of the directory in the order of names (containerd: go-cni `loadFromConfDir`), so the
//! first list that is not ours is the *primary*: the one that would be used without us.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Map, Value};
use vethwall_cni::conflist::{self, PLUGIN};

use crate::api::chain::ChainMode as Mode;

/// Our own list. Sorts before the lists that flannel, k3s and MicroK8s install.
pub const OWN: &str = "05-vethwall.conflist";
/// Our file in the directory of a network's name.
pub const DROPIN: &str = "50-vethwall.conf";

/// What a CNI directory holds: the lists by name, and our drop-ins by network. What can not be read is the error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Files that a runtime reads: `*.conf`, `*.conflist`, `*.json`.
    pub lists: BTreeMap<String, Result<String, String>>,
    /// Content of [`DROPIN`] by the name of its directory.
    pub dropins: BTreeMap<String, Result<String, String>>,
}

/// One change of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write a file, whole.
    Write(PathBuf, String),
    /// Remove a file of ours.
    Remove(PathBuf),
}

/// How the chain stands once the changes are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The runtime calls our plugin; by this file.
    Chained(PathBuf),
    /// There is no list to be chained to yet.
    Waiting(String),
    /// The runtime uses a list that is not flannel's.
    Foreign(String),
    /// The list can not be chained to as it is; with what to do.
    Impossible(String),
}

/// What the runtime can do, as far as it told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// It reads files beside a list (CNI 1.3).
    pub dropins: Option<bool>,
    /// How many lists of the directory a pod is given; 0 is all.
    pub max_conf_num: Option<i64>,
    /// It passes over a list one of whose plugins is missing (CRI-O: ocicni `loadNetworks`): without our plugin's file,
    /// pods would come by flannel's own list.
    pub skips_lists: bool,
}

impl Abilities {
    /// What auto does. A list of ours holds on every containerd, also where its version is not told.
    fn choose(self, flannel: &str) -> Mode {
        let own = !self.skips_lists && matches!(self.max_conf_num, None | Some(1)) && flannel > OWN;
        match (own, self.dropins) {
            (true, _) => Mode::Own,
            (false, Some(true)) => Mode::Dropin,
            (false, Some(false) | None) => Mode::Patch,
        }
    }
}

/// Changes in their order, and how the chain stands then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Each is harmless without the next.
    pub changes: Vec<Change>,
    /// After all of them.
    pub standing: Standing,
}

/// The list that would be used without us.
enum Primary<'l> {
    None,
    Unreadable(&'l str, String),
    Other(&'l str, Vec<String>),
    Flannel(Flannel<'l>),
}

struct Flannel<'l> {
    file: &'l str,
    text: &'l str,
    list: Map<String, Value>,
}

fn primary(listing: &Listing) -> Primary<'_> {
    let Some((file, text)) = listing.lists.iter().find(|(name, _)| *name != OWN) else {
        return Primary::None;
    };
    let text = match text {
        Ok(text) => text,
        Err(error) => return Primary::Unreadable(file, error.clone()),
    };
    let list = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(list)) => list,
        Ok(_) => return Primary::Unreadable(file, "it is no JSON object".to_owned()),
        Err(error) => return Primary::Unreadable(file, error.to_string()),
    };
    let types: Vec<String> = match list.get("plugins") {
        Some(Value::Array(plugins)) => plugins.iter().map(kind).map(str::to_owned).collect(),
        Some(_) => return Primary::Unreadable(file, "\"plugins\" is no array".to_owned()),
        // One plugin, not a list.
        None => {
            return Primary::Other(
                file,
                list.get("type")
                    .iter()
                    .filter_map(|t| t.as_str())
                    .map(str::to_owned)
                    .collect(),
            );
        }
    };
    if types.iter().any(|kind| kind == "flannel") {
        Primary::Flannel(Flannel { file, text, list })
    } else {
        Primary::Other(file, types)
    }
}

fn kind(plugin: &Value) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// What to change so that the runtime calls our plugin. `replaced` says that another list than flannel's has been the
/// primary for long enough not to be a moment between two writes of flannel's.
#[must_use]
pub fn chain(mode: Mode, able: Abilities, listing: &Listing, entry: &str, replaced: bool) -> Plan {
    let keep = |standing| Plan {
        changes: Vec::new(),
        standing,
    };
    let flannel = match primary(listing) {
        Primary::None => return keep(Standing::Waiting("there is no network list yet".to_owned())),
        Primary::Unreadable(file, why) => {
            return keep(Standing::Impossible(format!(
                "{file} can not be read as a network list: {why}"
            )));
        }
        Primary::Other(file, plugins) => {
            let text = format!(
                "the runtime's list is {file} with {}, not flannel's",
                plugins.join(", ")
            );
            let changes = if replaced { ours(listing) } else { Vec::new() };
            return Plan {
                changes,
                standing: Standing::Foreign(text),
            };
        }
        Primary::Flannel(flannel) => flannel,
    };
    let mode = if mode == Mode::Auto {
        able.choose(flannel.file)
    } else {
        mode
    };
    let planned = match mode {
        Mode::Own if able.max_conf_num.is_some_and(|lists| lists != 1) => Err(
            "the runtime gives pods more than one list of its directory (max_conf_num), so with a list of ours they would have \
             two interfaces; use --chain dropin or patch"
                .to_owned(),
        ),
        Mode::Own | Mode::Auto => own(listing, &flannel, entry),
        Mode::Dropin if able.dropins == Some(false) => Err(
            "the runtime does not read files beside a list (containerd does from 2.1, CRI-O from 1.33); use --chain auto".to_owned(),
        ),
        Mode::Dropin => dropin(listing, &flannel, entry),
        Mode::Patch => patch(&flannel, entry),
        Mode::External | Mode::Off => {
            return keep(match conflist::is_chained(flannel.text) {
                Ok(true) => Standing::Chained(flannel.file.into()),
                Ok(false) | Err(_) => Standing::Impossible(format!(
                    "{} does not end with {PLUGIN}, and the agent was told that somebody else puts it there",
                    flannel.file
                )),
            });
        }
    };
    let (change, file) = match planned {
        Ok(planned) => planned,
        Err(why) => return keep(Standing::Impossible(why)),
    };
    // What another mode left: after the new file, so that no pod comes through a chain without us.
    let others = ours(listing)
        .into_iter()
        .filter(|change| *change != Change::Remove(file.clone()));
    Plan {
        changes: change.into_iter().chain(others).collect(),
        standing: Standing::Chained(file),
    }
}

type Planned = Result<(Option<Change>, PathBuf), String>;

fn insert(flannel: &Flannel<'_>, entry: &str) -> Result<String, String> {
    conflist::insert(flannel.text, entry).map_err(|error| format!("{}: {error}", flannel.file))
}

fn own(listing: &Listing, flannel: &Flannel<'_>, entry: &str) -> Planned {
    if flannel.file < OWN {
        return Err(format!("{} sorts before {OWN}; use --chain patch", flannel.file));
    }
    let held = listing.lists.get(OWN).and_then(|text| text.as_deref().ok());
    let change = if held.is_some_and(|held| holds(held, &flannel.list, entry)) {
        None
    } else {
        Some(Change::Write(OWN.into(), insert(flannel, entry)?))
    };
    Ok((change, OWN.into()))
}

fn dropin(listing: &Listing, flannel: &Flannel<'_>, entry: &str) -> Planned {
    let file = flannel.file;
    let Some(name) = flannel
        .list
        .get("name")
        .and_then(Value::as_str)
        .filter(|name| is_name(name))
    else {
        return Err(format!("{file} has no name that a directory may have"));
    };
    if flannel.list.get("loadOnlyInlinedPlugins") == Some(&Value::Bool(true)) {
        return Err(format!(
            "{file} says loadOnlyInlinedPlugins, so no file beside it is read; use --chain own"
        ));
    }
    let path = PathBuf::from(name).join(DROPIN);
    let wanted = format!("{entry}\n");
    let held = listing.dropins.get(name).and_then(|text| text.as_deref().ok());
    Ok((
        (held != Some(&wanted)).then(|| Change::Write(path.clone(), wanted)),
        path,
    ))
}

fn patch(flannel: &Flannel<'_>, entry: &str) -> Planned {
    let wanted = insert(flannel, entry)?;
    let path = PathBuf::from(flannel.file);
    let change = (wanted != flannel.text).then(|| Change::Write(path.clone(), wanted));
    Ok((change, path))
}

/// A name as the CNI specification has it (section 1, "name").
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

/// Whether a list of ours still says what flannel's says, with our entry behind it. What others have put into it stays.
fn holds(own: &str, flannel: &Map<String, Value>, entry: &str) -> bool {
    let (Ok(Value::Object(mut own)), Ok(entry)) =
        (serde_json::from_str(own), serde_json::from_str::<Value>(entry))
    else {
        return false;
    };
    let mut flannel = flannel.clone();
    let (Some(Value::Array(own_plugins)), Some(Value::Array(plugins))) =
        (own.remove("plugins"), flannel.remove("plugins"))
    else {
        return false;
    };
    let mut rest = own_plugins.iter();
    let wanted = plugins
        .iter()
        .filter(|plugin| kind(plugin) != PLUGIN)
        .chain([&entry]);
    own == flannel && wanted.into_iter().all(|plugin| rest.any(|held| held == plugin))
}

/// Removes every file of ours, but touches no file of others.
fn ours(listing: &Listing) -> Vec<Change> {
    let own = listing.lists.contains_key(OWN).then(|| PathBuf::from(OWN));
    let dropins = listing
        .dropins
        .keys()
        .map(|network| PathBuf::from(network).join(DROPIN));
    own.into_iter().chain(dropins).map(Change::Remove).collect()
}

/// What to change so that no chain names us any more: files of ours go, and our entries in others' lists. A list that can
/// not be read is told, not touched.
#[must_use]
pub fn unchain(listing: &Listing) -> (Vec<Change>, Vec<String>) {
    let mut changes = ours(listing);
    let mut unread = Vec::new();
    for (file, text) in listing.lists.iter().filter(|(file, _)| *file != OWN) {
        let without = text.as_deref().map_err(Clone::clone).and_then(|text| {
            // What does not name us needs no editing, whatever it is.
            if !text.contains(PLUGIN) {
                return Ok(None);
            }
            let without = conflist::remove(text).map_err(|error| error.to_string())?;
            Ok((without != text).then_some(without))
        });
        match without {
            Ok(Some(without)) => changes.push(Change::Write(file.into(), without)),
            Ok(None) => {}
            Err(why) => unread.push(format!("{file}: {why}")),
        }
    }
    (changes, unread)
}

#[cfg(test)]
mod tests;
