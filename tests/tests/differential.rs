//! Random clusters, compiled and run through the real programs, against the evaluator of the API's text.
//!
//! The kernel is never emptied between worlds: every world is reached by a plan from the one before, so the plans are
//! judged too. VETHWALL_CASES sets how many worlds are tried.

use std::collections::BTreeMap;

use ipnet::IpNet;
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use vethwall_common::protocol;
use vethwall_datapath::Maps;
use vethwall_policy::{
    compile::compile,
    numbers::Numbers,
    plan::{Operation, execute, plan},
    state::State,
};
use vethwall_tests::{
    kernel::{
        Packet, Program, Programs,
        packet::{SYN, mac},
    },
    oracle::{self, World, addresses},
    sandbox,
    worlds::{POD_NETWORKS, Scope, ends, manifests, subjects, world_of},
};

use crate::semantics::border;

const UPLINK: u32 = 90;
const BRIDGE: u32 = 91;
/// The type of SCTP's chunk that asks for an association.
const INIT: u8 = 1;

struct Bench {
    programs: Programs,
    numbers: Numbers,
    observed: State,
    source_port: u16,
    asked: usize,
    at_the_bridge: usize,
}

impl Bench {
    fn new() -> Self {
        Self {
            programs: Programs::load().unwrap_or_else(|e| panic!("{e:#}")),
            numbers: Numbers::default(),
            observed: State::default(),
            source_port: 20_000,
            asked: 0,
            at_the_bridge: 0,
        }
    }

    /// Brings the kernel to this world. The local pods, with their interfaces.
    fn reach<'a>(&mut self, world: &'a World) -> BTreeMap<u32, &'a k8s_openapi::api::core::v1::Pod> {
        let mut compiled = border::offline(&manifests::text(world));
        border::attach(&mut compiled, world);
        let local = subjects(world).into_iter().enumerate();
        let local = local.map(|(n, pod)| (border::ifindex(n), pod)).collect();
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

    /// The next connection's first packet.
    fn first(&mut self, packet: &oracle::Packet) -> Packet {
        self.source_port = self.source_port.checked_add(1).unwrap_or(20_000);
        let source = (packet.source, self.source_port);
        let destination = (packet.destination, packet.port);
        match packet.protocol {
            protocol::TCP => Packet::tcp(source, destination, SYN),
            protocol::UDP => Packet::udp(source, destination),
            protocol::SCTP => Packet::sctp(source, destination).with_chunk(INIT),
            _ => Packet::echo(packet.source, packet.destination, self.source_port, false),
        }
    }

    fn passes(&mut self, program: Program, ifindex: u32, came_by: u32, frame: &Packet) -> bool {
        self.asked += 1;
        let (returned, _) = self
            .programs
            .repeat(program, ifindex, came_by, &frame.bytes(), 1)
            .unwrap();
        returned == -1
    }

    /// A packet's way out of a pod. Towards pods its own interface has the last word; beyond, the bridge is asked too. The
    /// packet comes there without its tag, so nobody can decide about a source that is a node's address as well.
    fn away(&mut self, world: &World, ifindex: u32, packet: &oracle::Packet) -> Option<bool> {
        let frame = self.first(packet).from_mac(mac(ifindex));
        let first = self.passes(Program::FromPod, ifindex, 0, &frame);
        let in_pod_network = POD_NETWORKS
            .iter()
            .any(|network| network.parse::<IpNet>().unwrap().contains(&packet.destination));
        if !first || in_pod_network {
            return Some(first);
        }
        if world.node_of(packet.source).is_some() {
            return None;
        }
        let second = self.passes(Program::FromBridge, BRIDGE, 0, &frame);
        self.at_the_bridge += usize::from(!second);
        Some(second)
    }

    fn compare(&mut self, world: &World) {
        let local = self.reach(world);
        let world = &world.enforced();
        let peers = ends(world);
        let mut questions: Vec<(u8, u16)> = Vec::new();
        for number in [protocol::TCP, protocol::UDP] {
            questions.extend([53, 79, 80, 8080, 65535].map(|port| (number, port)));
        }
        questions.push((protocol::SCTP, 80));
        for (ifindex, pod) in &local {
            for own in addresses(pod) {
                let icmp = if own.is_ipv4() {
                    protocol::ICMP
                } else {
                    protocol::ICMPV6
                };
                for peer in peers
                    .iter()
                    .filter(|peer| **peer != own && peer.is_ipv4() == own.is_ipv4())
                {
                    for (number, port) in questions.iter().chain(&[(icmp, 0)]) {
                        let packet = |source, destination| oracle::Packet {
                            source,
                            destination,
                            protocol: *number,
                            port: *port,
                        };
                        self.towards(world, &local, *ifindex, &packet(*peer, own));
                        let away = packet(own, *peer);
                        if let Some(seen) = self.away(world, *ifindex, &away) {
                            let expected = world.egress_allowed(pod, &away);
                            assert_eq!(seen, expected, "egress: {away:?}\n{}", manifests::text(world));
                        }
                    }
                }
            }
        }
    }

    /// From a neighbour the pod's interface asks both: what passes there has left the neighbour by its policies.
    fn towards(
        &mut self,
        world: &World,
        local: &BTreeMap<u32, &k8s_openapi::api::core::v1::Pod>,
        ifindex: u32,
        packet: &oracle::Packet,
    ) {
        let neighbour = local
            .iter()
            .find(|(_, pod)| addresses(pod).any(|address| address == packet.source));
        let mut expected = world.ingress_allowed(local[&ifindex], packet);
        if let Some((_, sender)) = neighbour {
            expected &= world.egress_allowed(sender, packet);
        }
        let came_by = neighbour.map_or(UPLINK, |(ifindex, _)| *ifindex);
        let frame = self.first(packet).to_mac(mac(ifindex));
        let seen = self.passes(Program::ToPod, ifindex, came_by, &frame);
        assert_eq!(seen, expected, "ingress: {packet:?}\n{}", manifests::text(world));
    }
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
        let strategy = world_of(Scope {
            local: 3,
            cluster_policies: 3,
        });
        let (mut isolated, mut denied_before) = (0, 0);
        for _ in 0..cases {
            let world = strategy.new_tree(&mut runner).unwrap().current();
            isolated += usize::from(world.policies.len() + world.cluster_policies.len() > 0);
            bench.compare(&world);
            denied_before = bench.programs.kernel.counters().unwrap().iter().sum();
        }
        assert!(isolated * 2 > cases, "most worlds have policies");
        assert!(denied_before > 0);
        let Bench {
            asked, at_the_bridge, ..
        } = bench;
        assert!(at_the_bridge > 0, "some egress is denied at the bridge");
        println!("{cases} worlds, {asked} packets, {at_the_bridge} denied at the bridge, no difference");
    });
}
