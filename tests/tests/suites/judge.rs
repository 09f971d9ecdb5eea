//! A cluster of manifests, and what the compiler makes of it.

use std::{collections::BTreeMap, net::IpAddr};

use serde::de::DeserializeOwned;
use serde_json::Value;
use vethwall::{
    k8s::convert::convert,
    manifests::{Store, load_texts},
};
use vethwall_common::{Direction, verdict::allow};
use vethwall_policy::{
    compile::compile,
    explain::{Target, explain},
    model::{Endpoint, Object, Pod},
    numbers::Numbers,
    reader,
    state::State,
    world::World,
};
use vethwall_tests::oracle;

use super::case::Question;

/// The node on which all pods have their interfaces.
const NODE: &str = "node-a";

/// Every object as it was applied last, by `KIND NAMESPACE/NAME`: its manifest, and the same as a value.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    objects: BTreeMap<String, (String, Value)>,
}

impl Cluster {
    /// Objects that are deleted, then such as are made or changed.
    pub(super) fn apply(&mut self, at: &str, gone: &[String], manifests: &str) {
        for name in gone {
            assert!(self.objects.remove(name).is_some(), "{at}: there is no {name}");
        }
        for text in manifests.split("\n---\n").filter(|text| !text.trim().is_empty()) {
            // Namespace y is no boolean.
            let options = serde_saphyr::options! { strict_booleans: true };
            let value = serde_saphyr::from_str_with_options(text, options);
            let value = value.unwrap_or_else(|e| panic!("{at}: {e}\n{text}"));
            self.insert(at, format!("{text}\n"), value);
        }
    }

    /// An object that is made or changed.
    pub(super) fn put(&mut self, at: &str, value: Value) {
        self.insert(at, value.to_string(), value);
    }

    fn insert(&mut self, at: &str, text: String, value: Value) {
        let said = |value: &Value| value.as_str().map(str::to_owned);
        let metadata = &value["metadata"];
        let (Some(kind), Some(name)) = (said(&value["kind"]), said(&metadata["name"])) else {
            panic!("{at}: an object without a kind or name:\n{text}");
        };
        let path =
            said(&metadata["namespace"]).map_or(name.clone(), |namespace| format!("{namespace}/{name}"));
        self.objects.insert(format!("{kind} {path}"), (text, value));
    }

    /// What policy makes of the objects, and nothing is wrong with them but what has one of these codes.
    pub(super) fn model(&self, at: &str, problems: &[String]) -> Vec<Object> {
        let files = self
            .objects
            .iter()
            .map(|(name, (text, _))| (name.into(), text.clone().into_bytes()));
        let view = Store::default().update(&load_texts(&files.collect()));
        assert_eq!(
            (&view.problems[..], &view.isolations[..]),
            (&[][..], &[][..]),
            "{at}"
        );
        let converted = convert(&view);
        let codes: Vec<&str> = converted.problems.iter().map(|problem| problem.code).collect();
        assert_eq!(codes, problems, "{at}: {:?}", converted.problems);
        converted.objects
    }

    /// The objects as the oracle wants them.
    pub(super) fn oracle(&self, at: &str) -> oracle::World {
        fn typed<T: DeserializeOwned>(at: &str, value: &Value) -> T {
            serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{at}: {e}: {value}"))
        }
        let mut world = oracle::World::default();
        for (name, (_, value)) in &self.objects {
            match name.split_once(' ').expect("a kind").0 {
                "Namespace" => world.namespaces.push(typed(at, value)),
                "Node" => world.nodes.push(typed(at, value)),
                "Pod" => world.pods.push(typed(at, value)),
                "NetworkPolicy" => world.policies.push(typed(at, value)),
                "ClusterNetworkPolicy" => world.cluster_policies.push(value.clone()),
                other => panic!("{at}: nobody knows {other}"),
            }
        }
        world
    }
}

/// The pods that have an interface: those on the pod network that have not ended.
fn attached(objects: &[Object]) -> impl Iterator<Item = &Pod> {
    let pods = objects.iter().filter_map(|object| match object {
        Object::Pod(pod) => Some(pod),
        Object::Namespace(_)
        | Object::Node(_)
        | Object::NetworkPolicy(_)
        | Object::ClusterNetworkPolicy(_) => None,
    });
    pods.filter(|pod| !pod.host_network && !pod.finished)
}

/// Their names, sorted.
pub(super) fn pods(objects: &[Object]) -> Vec<String> {
    let mut names: Vec<String> = attached(objects)
        .map(|pod| format!("{}/{}", pod.namespace, pod.name))
        .collect();
    names.sort();
    names
}

/// A compiled world, and the oracle's.
#[derive(Debug)]
pub(super) struct Stage {
    oracle: oracle::World,
    world: World,
    state: State,
    /// Interfaces and addresses of the pods that have one.
    interfaces: BTreeMap<String, (u32, Vec<IpAddr>)>,
}

impl Stage {
    /// Every pod on the pod network gets an interface.
    pub(super) fn new(objects: Vec<Object>, oracle: oracle::World) -> Self {
        let mut world = World::new(NODE).complete();
        let mut interfaces = BTreeMap::new();
        let pods: Vec<Pod> = attached(&objects).cloned().collect();
        world.replace(objects);
        for (ifindex, pod) in (10u32..).zip(pods) {
            interfaces.insert(
                format!("{}/{}", pod.namespace, pod.name),
                (ifindex, pod.addresses.clone()),
            );
            world.attach(Endpoint {
                ifindex,
                mac: [2, 0, 0, 0, 0, u8::try_from(ifindex).unwrap()],
                addresses: pod.addresses,
                namespace: pod.namespace,
                pod: pod.name,
                uid: pod.uid,
            });
        }
        let compiled = compile(&world, &mut Numbers::default());
        assert_eq!(compiled.problems, []);
        Self {
            oracle: oracle.enforced(),
            state: compiled.state,
            world,
            interfaces,
        }
    }

    /// The pods that have an interface.
    pub(super) fn pods(&self) -> Vec<String> {
        self.interfaces.keys().cloned().collect()
    }

    /// What differs from the expected answer.
    pub(super) fn judge(&self, question: &Question) -> Option<String> {
        let Question {
            from,
            to,
            protocol,
            port,
            allowed,
        } = question;
        let explained = explain(&self.world, &target(from), &target(to), *protocol, Some(*port)).allowed;
        let answers = [
            ("the oracle", self.foretold(question)),
            ("explain", explained),
            ("the maps", self.looked_up(question)),
        ];
        let said = |allowed: bool| if allowed { "allowed" } else { "denied" };
        let wrong: Vec<&str> = answers
            .iter()
            .filter(|(_, answer)| answer != allowed)
            .map(|(who, _)| *who)
            .collect();
        (!wrong.is_empty()).then(|| {
            format!(
                "{from} -> {to} protocol {protocol} port {port}: {}, but not to {}",
                said(*allowed),
                wrong.join(" and ")
            )
        })
    }

    /// What the oracle says.
    pub(super) fn foretold(&self, question: &Question) -> bool {
        let (source, destination) = self.addresses(&question.from, &question.to);
        let (protocol, port) = (question.protocol, question.port);
        self.oracle.allowed(&oracle::Packet {
            source,
            destination,
            protocol,
            port,
        })
    }

    /// What the programs would answer at both ends.
    pub(super) fn looked_up(&self, question: &Question) -> bool {
        let (source, destination) = self.addresses(&question.from, &question.to);
        if source == destination {
            return true; // They ask no policy there.
        }
        let passes = |own: IpAddr, direction, peer| {
            let mut interfaces = self.interfaces.values();
            let interface = interfaces.find(|(_, addresses)| addresses.contains(&own));
            interface.is_none_or(|(ifindex, _)| {
                let Question { protocol, port, .. } = question;
                let answer = reader::lookup(&self.state, *ifindex, direction, peer, *protocol, *port);
                answer.allow & allow::ENFORCED != 0
            })
        };
        // They know what the node itself generates by the interface that it did not come in by.
        let generated_here = self.world.own_addresses().contains(&source);
        passes(source, Direction::Egress, destination)
            && (generated_here || passes(destination, Direction::Ingress, source))
    }

    /// The addresses that the two ends use: of the first family that both have.
    fn addresses(&self, from: &str, to: &str) -> (IpAddr, IpAddr) {
        let of = |end: &str| match target(end) {
            Target::Address(address) => vec![address],
            Target::Pod { namespace, name } => {
                let pod = self
                    .world
                    .pod(&namespace, &name)
                    .unwrap_or_else(|| panic!("no pod {end}"));
                pod.addresses.clone()
            }
        };
        let (from, to) = (of(from), of(to));
        let pairs = from.iter().flat_map(|a| to.iter().map(move |b| (*a, *b)));
        let mut common = pairs.filter(|(a, b)| a.is_ipv4() == b.is_ipv4());
        common.next().expect("a family that both ends have")
    }
}

fn target(text: &str) -> Target {
    match text.parse() {
        Ok(address) => Target::Address(address),
        Err(_) => {
            let (namespace, name) = text.split_once('/').expect("NAMESPACE/POD or an address");
            Target::Pod {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }
        }
    }
}
