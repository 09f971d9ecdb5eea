//! Worlds as manifests that people read and the border loads, and back.

use std::{fmt::Write as _, net::IpAddr};

use k8s_openapi::serde::de::DeserializeOwned;
use serde_json::Value;

use crate::oracle::{Packet, World};

/// Every object of a world, as it is written.
pub fn objects(world: &World) -> Vec<Value> {
    fn values<T: serde::Serialize>(objects: &[T]) -> impl Iterator<Item = Value> + '_ {
        objects
            .iter()
            .map(|object| serde_json::to_value(object).expect("objects are JSON"))
    }
    let all = values(&world.namespaces).chain(values(&world.nodes));
    let all = all.chain(values(&world.pods)).chain(values(&world.policies));
    all.chain(world.cluster_policies.iter().cloned()).collect()
}

/// The world as one text.
pub fn text(world: &World) -> String {
    let documents: Vec<String> = objects(world).iter().map(yaml).collect();
    documents.join("---\n")
}

/// One object as YAML.
pub fn yaml(object: &Value) -> String {
    let mut text = String::new();
    block(&mut text, object, 0);
    text
}

/// What a text says, read apart from the border.
pub fn read(text: &str) -> World {
    fn into<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("an object of its kind")
    }
    let mut world = World::default();
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).expect("YAML");
    for object in documents {
        match object["kind"].as_str() {
            Some("Namespace") => world.namespaces.push(into(object)),
            Some("Node") => world.nodes.push(into(object)),
            Some("Pod") => world.pods.push(into(object)),
            Some("NetworkPolicy") => world.policies.push(into(object)),
            Some("ClusterNetworkPolicy") => world.cluster_policies.push(object),
            kind => panic!("worlds have no {kind:?}"),
        }
    }
    world
}

/// A connection and its answer, as a comment in a text: `# probe: SOURCE DESTINATION PROTOCOL PORT allowed|denied`.
pub fn probe(packet: &Packet, allowed: bool) -> String {
    let Packet {
        source,
        destination,
        protocol,
        port,
    } = packet;
    let answer = if allowed { "allowed" } else { "denied" };
    format!("# probe: {source} {destination} {protocol} {port} {answer}\n")
}

/// The probes of a text.
pub fn probes(text: &str) -> Vec<(Packet, bool)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# probe: "));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [source, destination, protocol, port, answer] = words[..] else {
                panic!("{line}")
            };
            let address = |text: &str| text.parse::<IpAddr>().expect(line);
            let packet = Packet {
                source: address(source),
                destination: address(destination),
                protocol: protocol.parse().expect(line),
                port: port.parse().expect(line),
            };
            assert!(["allowed", "denied"].contains(&answer), "{line}");
            (packet, answer == "allowed")
        })
        .collect()
}

/// A value, and a line's end after it.
fn block(text: &mut String, value: &Value, indent: usize) {
    let margin = " ".repeat(indent);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let _infallible = write!(text, "{margin}{}:", scalar(key));
                text.push_str(if is_below(value) { "\n" } else { " " });
                block(text, value, indent + 2);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut below = String::new();
                block(&mut below, item, indent + 2);
                let _infallible = write!(text, "{margin}- {}", below.trim_start());
            }
        }
        Value::Object(_)
        | Value::Array(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_) => {
            text.push_str(&flow(value));
            text.push('\n');
        }
    }
}

/// A value that takes lines of its own below its key.
fn is_below(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

/// Plain where that can be nothing but a string.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 8] = ["true", "false", "null", "yes", "no", "on", "off", "nan"];
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-./".contains(c))
        && text.len() > 1
        && !WORDS.contains(&text.to_lowercase().as_str());
    if plain {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        strategy::{Strategy, ValueTree},
        test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
    };

    use super::{objects, read, text};
    use crate::worlds::{Scope, world_of};

    #[test]
    fn what_is_written_reads_as_it_was() {
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let worlds = world_of(Scope {
            local: 3,
            cluster_policies: 3,
        });
        for _ in 0..40 {
            let world = worlds.new_tree(&mut runner).unwrap().current();
            let again = read(&text(&world));
            assert_eq!(objects(&again), objects(&world), "{}", text(&world));
        }
    }
}
