//! The chart, as far as it is made from types: its values.
//!
//! ```text
//! doc comments of [`Values`] and of the agent's own configuration
//!    ├─► helm/vethwall/values.schema.json, by which helm refuses what makes no sense
//!    └─► the table of values in docs/operations.md
//! ```

mod values;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use schemars::{Schema, generate::SchemaSettings};
use serde_json::{Map, Value};

pub use values::Values;

/// The chart's directory.
#[must_use]
pub fn directory() -> PathBuf {
    root().join("helm/vethwall")
}

/// The repository.
#[must_use]
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What `values.schema.json` is.
///
/// # Errors
/// It can not be written as JSON.
pub fn schema_text() -> Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(&schema())?))
}

fn schema() -> Schema {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Values>();
    // Helm gives it to every chart that another one includes.
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("global".to_owned(), serde_json::json!({"type": "object"}));
    }
    schema
}

/// One value that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// As `--set` names it.
    pub path: String,
    /// What it is for.
    pub description: String,
    /// What it is, unless it is set.
    pub usual: String,
}

/// All values, in the order of the type.
///
/// # Errors
/// `values.yaml` can not be read.
pub fn leaves() -> Result<Vec<Leaf>> {
    let path = directory().join("values.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let usual: Value = serde_saphyr::from_str(&text).context("values.yaml")?;
    let schema = schema();
    let mut leaves = Vec::new();
    collect(schema.as_value(), &usual, "", &mut leaves);
    Ok(leaves)
}

fn collect(schema: &Value, usual: &Value, path: &str, leaves: &mut Vec<Leaf>) {
    let properties = schema.get("properties").and_then(Value::as_object);
    let Some(properties) = properties else {
        let text = schema
            .get("description")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let default = schema.get("default").filter(|_| usual.is_null());
        leaves.push(Leaf {
            path: path.to_owned(),
            description: text.split_whitespace().collect::<Vec<_>>().join(" "),
            usual: match default.unwrap_or(usual) {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                    other.to_string()
                }
            },
        });
        return;
    };
    for (key, below) in properties.iter().filter(|(key, _)| *key != "global") {
        let own = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        collect(below, usual.get(key).unwrap_or(&Value::Null), &own, leaves);
    }
}

/// The table of values in docs/operations.md.
///
/// # Errors
/// `values.yaml` can not be read.
pub fn table() -> Result<String> {
    let mut text = String::from("| value | unless it is set | |\n|---|---|---|\n");
    for Leaf {
        path,
        description,
        usual,
    } in leaves()?
    {
        let usual = match usual.as_str() {
            "" | "{}" | "[]" => String::new(),
            usual => format!("`{usual}`"),
        };
        text += &format!("| `{path}` | {usual} | {} |\n", description.replace('|', "\\|"));
    }
    Ok(text)
}

/// The agent's configuration, without what the chart itself decides for its pods.
pub(crate) fn agent_schema() -> Map<String, Value> {
    let mut schema = vethwall::config::schema().to_value();
    let Some(schema) = schema.as_object_mut() else {
        return Map::new();
    };
    for key in ["$schema", "title", "description"] {
        schema.remove(key);
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.retain(|key, _| !BY_THE_CHART.contains(&key.as_str()));
    }
    std::mem::take(schema)
}

/// Keys of the agent's that only the chart sets.
pub const BY_THE_CHART: &[&str] = &[
    "bpffs",
    "node",
    "plugin",
    "http",
    "manifests",
    "kubeconfig",
    "namespace",
    "pod",
];
