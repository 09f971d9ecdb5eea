//! Random clusters, compiled and run through the real programs, against the evaluator of the API's text.
//!
//! The kernel is never emptied between worlds: every world is reached by a plan from the one before, so the plans are
//! judged too. VETHWALL_CASES sets how many worlds are tried.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use vethwall::{
    k8s::convert::convert,
    manifests::{Manifest, Sourced, View},
};
use vethwall_common::{config, protocol};
use vethwall_datapath::Maps;
use vethwall_policy::{
    compile::compile,
    model,
    numbers::Numbers,
    plan::{Operation, execute, plan},
    state::State,
    world,
};
use vethwall_tests::{
    kernel::{
        Packet, Program, Programs,
        packet::{SYN, mac},
    },
    oracle::{self, World, addresses},
    sandbox,
    worlds::{self, NODE, PORTS, STRANGERS},
};

const UPLINK: u32 = 90;

/// Interface of the n-th local pod.
fn ifindex(n: usize) -> u32 {
    11 + u32::try_from(n).unwrap()
}

struct Bench {
    programs: Programs,
    numbers: Numbers,
    observed: State,
    source_port: u16,
    asked: usize,
}

impl Bench {
    fn new() -> Self {
        let mut programs = Programs::load().unwrap_or_else(|e| panic!("{e:#}"));
        // Judged at the pod's own interface: the second stage has live tests.
        programs
            .configure(|config| config.flags &= !config::Config::BRIDGE_ATTACHED)
            .unwrap();
        Self {
            programs,
            numbers: Numbers::default(),
            observed: State::default(),
            source_port: 20_000,
            asked: 0,
        }
    }

    /// Brings the kernel to this world. The local pods, with their interfaces.
    fn reach<'a>(&mut self, world: &'a World) -> BTreeMap<u32, &'a k8s_openapi::api::core::v1::Pod> {
        let sourced = |object| Sourced {
            file: PathBuf::from("world.yaml"),
            line: 1,
            object: std::sync::Arc::new(object),
        };
        let objects = world.namespaces.iter().cloned().map(Manifest::Namespace);
        let objects = objects.chain(world.pods.iter().cloned().map(Manifest::Pod));
        let objects = objects.chain(world.policies.iter().cloned().map(Manifest::NetworkPolicy));
        let view = View {
            objects: objects.map(sourced).collect(),
            ..View::default()
        };
        let mut compiled = world::World::new(NODE);
        compiled.replace(convert(&view).objects);
        compiled.set_pod_network(vec!["10.244.0.0/16".parse().unwrap()]);

        let here = world
            .pods
            .iter()
            .filter(|pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some(NODE));
        let local: BTreeMap<u32, _> = here.enumerate().map(|(n, pod)| (ifindex(n), pod)).collect();
        for (ifindex, pod) in &local {
            compiled.attach(model::Endpoint {
                ifindex: *ifindex,
                mac: mac(*ifindex),
                addresses: addresses(pod).collect(),
                namespace: pod.metadata.namespace.clone().unwrap(),
                pod: pod.metadata.name.clone().unwrap(),
                uid: pod.metadata.uid.clone().unwrap(),
            });
        }
        let desired = compile(&compiled, &mut self.numbers);
        assert_eq!(desired.problems, []);
        let steps = plan(&self.observed, &desired.state);
        let kernel = &mut self.programs.kernel;
        let outcome = execute(&self.observed, steps, |operation| match operation {
            Operation::Put(entry) => kernel.put(entry),
            Operation::Delete(key) => kernel.delete(key),
            Operation::Grace => Ok(()),
        });
        assert!(outcome.complete(), "{:?}", outcome.failures);
        self.observed = outcome.observed;
        self.numbers.release(&self.observed);
        local
    }

    fn passes(&mut self, program: Program, ifindex: u32, came_by: u32, packet: &oracle::Packet) -> bool {
        self.source_port = self.source_port.checked_add(1).unwrap_or(20_000);
        let source = (packet.source, self.source_port);
        let destination = (packet.destination, packet.port);
        let frame = match packet.protocol {
            protocol::TCP => Packet::tcp(source, destination, SYN),
            protocol::UDP => Packet::udp(source, destination),
            protocol::SCTP => Packet::sctp(source, destination),
            _ => Packet::echo(packet.source, packet.destination, self.source_port, false),
        };
        let frame = match program {
            Program::FromPod => frame.from_mac(mac(ifindex)),
            Program::ToPod | Program::FromBridge => frame.to_mac(mac(ifindex)),
        };
        self.asked += 1;
        let (returned, _) = self
            .programs
            .repeat(program, ifindex, came_by, &frame.bytes(), 1)
            .unwrap();
        returned == -1
    }

    fn compare(&mut self, world: &World) {
        let local = self.reach(world);
        let mut peers: Vec<IpAddr> = world.pods.iter().flat_map(addresses).collect();
        peers.extend(STRANGERS.iter().map(|text| text.parse::<IpAddr>().unwrap()));
        let mut questions: Vec<(u8, u16)> = Vec::new();
        for number in [protocol::TCP, protocol::UDP] {
            questions.extend(PORTS.map(|port| (number, port)));
        }
        questions.extend([(protocol::SCTP, 80), (protocol::ICMP, 0)]);
        for (ifindex, pod) in &local {
            let own = addresses(pod).next().unwrap();
            for peer in peers.iter().filter(|peer| **peer != own) {
                let neighbour = local
                    .iter()
                    .find(|(_, pod)| addresses(pod).any(|address| address == *peer));
                for (number, port) in &questions {
                    let towards = oracle::Packet {
                        source: *peer,
                        destination: own,
                        protocol: *number,
                        port: *port,
                    };
                    let mut expected = world.ingress_allowed(pod, &towards);
                    if let Some((_, sender)) = neighbour {
                        expected &= world.egress_allowed(sender, &towards);
                    }
                    let came_by = neighbour.map_or(UPLINK, |(ifindex, _)| *ifindex);
                    let seen = self.passes(Program::ToPod, *ifindex, came_by, &towards);
                    assert_eq!(seen, expected, "ingress: {towards:?}\n{}", describe(world));

                    let away = oracle::Packet {
                        source: own,
                        destination: *peer,
                        protocol: *number,
                        port: *port,
                    };
                    let expected = world.egress_allowed(pod, &away);
                    let seen = self.passes(Program::FromPod, *ifindex, 0, &away);
                    assert_eq!(seen, expected, "egress: {away:?}\n{}", describe(world));
                }
            }
        }
    }
}

fn describe(world: &World) -> String {
    serde_json::to_string_pretty(&serde_json::json!({
        "namespaces": world.namespaces, "pods": world.pods, "policies": world.policies
    }))
    .unwrap()
}

#[test]
fn programs_and_evaluator_agree_on_random_worlds() {
    let cases =
        std::env::var("VETHWALL_CASES").map_or(60, |text| text.parse().expect("VETHWALL_CASES is a number"));
    sandbox::run(|| {
        let mut bench = Bench::new();
        // The same worlds every time, so that a failure can be seen again.
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let strategy = worlds::world(3);
        let (mut isolated, mut denied_before) = (0, 0);
        for _ in 0..cases {
            let world = strategy.new_tree(&mut runner).unwrap().current();
            isolated += usize::from(!world.policies.is_empty());
            bench.compare(&world);
            denied_before = bench.programs.kernel.counters().unwrap().iter().sum();
        }
        assert!(isolated * 2 > cases, "most worlds have policies");
        assert!(denied_before > 0);
        println!("{cases} worlds, {} packets, no difference", bench.asked);
    });
}
