//! A cluster of manifests, and what the compiler makes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use vethwall::{
    k8s::convert::convert,
    manifests::{Loaded, ObjectName, Store, load_texts},
};
use vethwall_common::{Direction, verdict::allow};
use vethwall_policy::{
    compile::compile,
    explain::{Target, explain},
    model::{Endpoint, Object},
    numbers::Numbers,
    reader,
    state::State,
    world::World,
};

use super::case::Question;

/// The node on which all pods have their interfaces.
const NODE: &str = "node-a";

/// Manifests, as they were applied.
#[derive(Debug)]
pub(super) struct Cluster {
    steps: Vec<(Vec<String>, String)>,
}

impl Cluster {
    pub(super) fn new(world: &str) -> Self {
        Self {
            steps: vec![(Vec::new(), world.to_owned())],
        }
    }

    /// Objects that are deleted, then such as are made or changed.
    pub(super) fn apply(&mut self, gone: &[String], manifests: &str) {
        self.steps.push((gone.to_vec(), manifests.to_owned()));
    }

    /// What policy makes of the objects that are there. Whatever is wrong with one is a mistake in the data.
    pub(super) fn objects(&self, at: &str) -> Vec<Object> {
        let steps = self.steps.iter().enumerate();
        let named = |(number, (_, text)): (usize, &(_, String))| {
            (format!("{number:04}.yaml").into(), text.clone().into_bytes())
        };
        let mut loaded = load_texts(&steps.map(named).collect());
        let mut later: BTreeSet<ObjectName> = BTreeSet::new();
        let mut gone: BTreeSet<&str> = BTreeSet::new();
        for (file, (deleted, _)) in loaded.files.iter_mut().zip(&self.steps).rev() {
            assert_eq!(file.errors, [], "{at}");
            file.documents.retain(|document| {
                let name = document.object.object_name();
                let path = match name.namespace.as_str() {
                    "" => format!("{} {}", name.kind, name.name),
                    namespace => format!("{} {namespace}/{}", name.kind, name.name),
                };
                later.insert(name) && !gone.remove(path.as_str())
            });
            gone.extend(deleted.iter().map(String::as_str));
        }
        assert!(gone.is_empty(), "{at}: {gone:?} were not there");
        of_loaded(at, &loaded)
    }
}

fn of_loaded(at: &str, loaded: &Loaded) -> Vec<Object> {
    let view = Store::default().update(loaded);
    assert_eq!(
        (&view.problems[..], &view.isolations[..]),
        (&[][..], &[][..]),
        "{at}"
    );
    let converted = convert(&view);
    assert_eq!(converted.problems, [], "{at}");
    converted.objects
}

/// A compiled world.
#[derive(Debug)]
pub(super) struct Stage {
    world: World,
    state: State,
    /// Interfaces and addresses of the pods that have one.
    interfaces: BTreeMap<String, (u32, Vec<IpAddr>)>,
}

impl Stage {
    /// Every pod on the pod network gets an interface.
    pub(super) fn new(objects: Vec<Object>) -> Self {
        let mut world = World::new(NODE);
        world.replace(objects);
        let mut interfaces = BTreeMap::new();
        let pods: Vec<_> = world.pods().filter(|pod| !pod.host_network).cloned().collect();
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
        let explanation = explain(&self.world, &target(from), &target(to), *protocol, Some(*port));
        let explained = explanation.allowed;
        let looked_up = self.looked_up(question);
        let said = |allowed: bool| if allowed { "allowed" } else { "denied" };
        ((explained, looked_up) != (*allowed, *allowed)).then(|| {
            format!(
                "{from} -> {to} protocol {protocol} port {port}: expected {}, explain says {}, the maps say {}",
                said(*allowed),
                said(explained),
                said(looked_up)
            )
        })
    }

    /// What the programs would answer at both ends.
    pub(super) fn looked_up(&self, question: &Question) -> bool {
        if question.from == question.to {
            return true; // The programs ask no policy there.
        }
        let (source, destination) = self.addresses(&question.from, &question.to);
        let passes = |end: &str, direction, peer| {
            self.interfaces.get(end).is_none_or(|(ifindex, _)| {
                let answer = reader::lookup(
                    &self.state,
                    *ifindex,
                    direction,
                    peer,
                    question.protocol,
                    question.port,
                );
                answer.allow & allow::ENFORCED != 0
            })
        };
        passes(&question.from, Direction::Egress, destination)
            && passes(&question.to, Direction::Ingress, source)
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
