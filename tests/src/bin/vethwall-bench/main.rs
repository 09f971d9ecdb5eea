//! What vethwall costs (`make bench`): a packet, in nanoseconds of the real programs in the real kernel, without a
//! network; the start of a pod; pods that talk.
//!
//! Everything is measured in one run and the program that does nothing is subtracted, so that the ratios hold on any
//! machine. The caches are hot except where said otherwise: this is the cost of the work, not of the memory.

mod adoption;
mod changes;
mod cluster;
mod cni;
mod live;
mod memory;
mod rules;
mod traffic;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::ExitCode,
};

use anyhow::{Result, ensure};
use vethwall_common::{config::Config, flow::FlowKey, protocol};
use vethwall_datapath::Options;
use vethwall_policy::{
    compile::compile_within,
    limits::Limits,
    model::{
        Endpoint, Mode, Namespace, NetworkPolicy, Object, Peer, Peers, Pod, PortMatch, Ports, Rule, Selector,
    },
    numbers::Numbers,
    plan::{Operation, execute, plan},
    state::State,
    world::World,
};
use vethwall_tests::{
    kernel::{
        Packet, Program, Programs,
        packet::{ACK, SYN, mac},
    },
    sandbox,
};

const POD: u32 = 11;
const UPLINK: u32 = 90;
/// Runs of one try: short enough that some tries meet no interrupt.
const REPEAT: u32 = 20_000;
/// Packets of the measurement that makes a connection each.
const CONNECTIONS: u16 = 20_000;
/// The best of so many tries: other work on the machine only ever adds.
const TRIES: usize = 20;
/// All is measured so many times, in turns: a busy minute of the machine must not fall on one column alone.
const ROUNDS: usize = 3;

const POD4: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 11);
const PEER4: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);
const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 11);
const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, 5);

/// What a packet, a connection and the start of a pod cost.
#[derive(clap::Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// Nanoseconds of the programs; the default.
    Packets,
    /// The start of pods, one by one and together, and how long pods that run take to be taken over.
    Start,
    /// From a change at a real API server to the first packet that is judged by it; memory, processor time and bytes.
    Cluster {
        /// A cluster of 20,000 pods and 20,000 policies, too: minutes to make.
        #[arg(long)]
        most: bool,
    },
    /// Bytes of the maps, and what a write takes.
    Memory,
    /// Two pods that talk, beside iptables and nftables with the same policies.
    Live {
        /// The most policies that are tried: 1, 1000 or 10000.
        #[arg(long, default_value_t = 10_000)]
        most: usize,
    },
    /// What the live benchmark runs in its pods.
    #[command(hide = true, subcommand)]
    Traffic(Traffic),
}

#[derive(clap::Subcommand)]
enum Traffic {
    Serve { address: IpAddr },
    Measure { server: IpAddr },
}

fn main() -> ExitCode {
    let Arguments { what } = clap::Parser::parse();
    let outcome = match what {
        None | Some(What::Packets) => bench(),
        Some(What::Start) => cni::bench(),
        Some(What::Cluster { most }) => cluster::bench(most),
        Some(What::Memory) => memory::bench(),
        Some(What::Live { most }) => live::bench(most),
        Some(What::Traffic(Traffic::Serve { address })) => traffic::serve(address),
        Some(What::Traffic(Traffic::Measure { server })) => traffic::tell(server),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vethwall-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One row: what is measured, with so many policies each.
struct Row {
    name: &'static str,
    costs: BTreeMap<usize, f64>,
}

fn bench() -> Result<()> {
    let sizes = [1, 100, 1000, 10_000];
    let mut rows: Vec<Row> = Vec::new();
    for round in 1..=ROUNDS {
        for policies in sizes {
            eprintln!("round {round} of {ROUNDS}: {policies} policies ...");
            // Each in a place of its own: the next one must not adopt the maps of the last.
            for (name, cost) in sandbox::run(|| Bench::new(policies)?.measure())? {
                let row = match rows.iter().position(|row| row.name == name) {
                    Some(row) => row,
                    None => {
                        rows.push(Row {
                            name,
                            costs: BTreeMap::new(),
                        });
                        rows.len() - 1
                    }
                };
                let best = rows[row].costs.entry(policies).or_insert(cost);
                *best = best.min(cost);
            }
        }
    }
    println!("nanoseconds a packet and hook, over an empty program; the best of {ROUNDS} x {TRIES} tries\n");
    print!(
        "{:<58}",
        "policies that select the pod, each with a peer of its own"
    );
    sizes.iter().for_each(|size| print!("{size:>8}"));
    println!("   ratio");
    for row in &rows {
        print!("{:<58}", row.name);
        sizes.iter().for_each(|size| print!("{:>8.0}", row.costs[size]));
        println!("{:>8.2}", row.costs[&10_000] / row.costs[&1].max(1.0));
    }
    println!(
        "\nnew connection, hot: the same SYN again and again, which is judged every time (policy, tracking, event)\n\
         new connection, cold: {CONNECTIONS} SYNs from as many ports, one run each, the median; what a first packet costs"
    );
    Ok(())
}

struct Bench {
    programs: Programs,
}

impl Bench {
    /// The programs, at the sizes that ship, with a world of one pod that this many policies select.
    fn new(policies: usize) -> Result<Self> {
        Self::sized(policies, Options::default())
    }

    fn sized(policies: usize, options: Options) -> Result<Self> {
        let mut programs = Programs::load_with(options.max_entries)?;
        // All of them are of one namespace, which may have no more than its share by default.
        let limits = Limits {
            namespaces: 1,
            ..Limits::default()
        };
        let desired = compile_within(&world(policies), &mut Numbers::default(), &limits);
        ensure!(desired.problems.is_empty(), "{:?}", desired.problems.first());
        let outcome = execute(
            &State::default(),
            plan(&State::default(), &desired.state),
            |operation| match operation {
                Operation::Put(entry) => programs.put(entry),
                Operation::Delete(key) => programs.delete(key),
                Operation::Grace => Ok(()),
            },
        );
        ensure!(outcome.complete(), "{:?}", outcome.failures);
        Ok(Self { programs })
    }

    fn measure(&mut self) -> Result<Vec<(&'static str, f64)>> {
        let in4 = Packet::tcp((PEER4, 40_000), (POD4, 80), SYN).to_mac(mac(POD));
        let in6 = Packet::tcp((PEER6, 40_000), (POD6, 80), SYN).to_mac(mac(POD));
        let out4 = Packet::tcp((POD4, 40_000), (PEER4, 80), SYN).from_mac(mac(POD));
        let out6 = Packet::tcp((POD6, 40_000), (PEER6, 80), SYN).from_mac(mac(POD));
        let denied = Packet::tcp((PEER4, 40_000), (POD4, 81), SYN).to_mac(mac(POD));
        let mut rows = vec![
            (
                "one look-up of a connection, and nothing else",
                self.one_lookup()?,
            ),
            (
                "established, to the pod, IPv4",
                self.established(Program::ToPod, &in4)?,
            ),
            (
                "established, to the pod, IPv6",
                self.established(Program::ToPod, &in6)?,
            ),
            (
                "established, from the pod, IPv4",
                self.established(Program::FromPod, &out4)?,
            ),
            (
                "established, from the pod, IPv6",
                self.established(Program::FromPod, &out6)?,
            ),
            ("answer, from the pod, IPv4", self.answer(&in4)?),
            ("established, behind the bridge, IPv4", self.behind(&out4)?),
        ];
        self.events(false)?;
        rows.push(("new connection, hot, IPv4, without events", self.hot(&in4, true)?));
        rows.push(("new connection, hot, IPv6, without events", self.hot(&in6, true)?));
        self.events(true)?;
        rows.push(("new connection, hot, IPv4, with events", self.hot(&in4, true)?));
        rows.push(("new connection, cold, IPv4, with events", self.cold(&in4)?));
        rows.push(("denied, hot, IPv4, with events", self.hot(&denied, false)?));
        Ok(rows)
    }

    fn events(&mut self, on: bool) -> Result<()> {
        self.programs.configure(|config| {
            config.flags = if on {
                config.flags | Config::EVENTS
            } else {
                config.flags & !Config::EVENTS
            };
        })
    }

    /// What every packet costs at least: the hash of its connection.
    fn one_lookup(&mut self) -> Result<f64> {
        let packet = Packet::tcp((PEER4, 40_000), (POD4, 80), SYN).to_mac(mac(POD));
        let (peer, own) = (IpAddr::from(PEER4).into(), IpAddr::from(POD4).into());
        let key = FlowKey::between(POD, protocol::TCP, (peer, 40_000), (own, 80));
        self.established(Program::ToPod, &packet)?;
        let frame = packet.bytes();
        let (mut best, mut empty) = (u64::MAX, u64::MAX);
        for _ in 0..TRIES {
            best = best.min(self.programs.one_lookup(&key, REPEAT)?);
            empty = empty.min(self.programs.baseline(POD, &frame, REPEAT)?);
        }
        Ok(best as f64 - empty as f64)
    }

    /// A packet of a connection that is known and answered.
    fn established(&mut self, program: Program, opening: &Packet) -> Result<f64> {
        let back = if program == Program::ToPod {
            Program::FromPod
        } else {
            Program::ToPod
        };
        self.pass(program, opening)?;
        self.pass(back, &opening.clone().reversed().with_flags(SYN | ACK))?;
        self.net(program, &opening.clone().with_flags(ACK), true)
    }

    /// The way back.
    fn answer(&mut self, opening: &Packet) -> Result<f64> {
        self.pass(Program::ToPod, opening)?;
        self.net(
            Program::FromPod,
            &opening.clone().reversed().with_flags(ACK),
            true,
        )
    }

    /// The second stage of egress; without a tag, which nobody can set here, so that the pod is found by its address.
    fn behind(&mut self, opening: &Packet) -> Result<f64> {
        self.programs.forget(POD)?;
        self.pass(Program::FromBridge, opening)?;
        self.net(Program::FromBridge, &opening.clone().with_flags(ACK), true)
    }

    fn hot(&mut self, opening: &Packet, passes: bool) -> Result<f64> {
        self.programs.forget(POD)?;
        self.net(Program::ToPod, opening, passes)
    }

    fn cold(&mut self, opening: &Packet) -> Result<f64> {
        self.programs.forget(POD)?;
        let (mut costs, mut empty) = (Vec::new(), Vec::new());
        for port in 0..CONNECTIONS {
            let mut packet = opening.clone();
            packet.body[..2].copy_from_slice(&(10_000 + port).to_be_bytes());
            let frame = packet.bytes();
            empty.push(self.programs.baseline(POD, &frame, 1)?);
            let (returned, cost) = self.programs.repeat(Program::ToPod, POD, UPLINK, &frame, 1)?;
            ensure!(returned == -1, "a packet of the benchmark was dropped");
            costs.push(cost);
        }
        Ok(median(costs) - median(empty))
    }

    fn pass(&mut self, program: Program, packet: &Packet) -> Result<()> {
        let verdict = self.programs.run(program, POD, UPLINK, &packet.bytes())?;
        ensure!(
            verdict.passed,
            "a packet of the benchmark was dropped: {verdict:?}"
        );
        Ok(())
    }

    /// The cost over the empty program.
    fn net(&mut self, program: Program, packet: &Packet, passes: bool) -> Result<f64> {
        let frame = packet.bytes();
        let (mut best, mut empty) = (u64::MAX, u64::MAX);
        for _ in 0..TRIES {
            let (returned, cost) = self.programs.repeat(program, POD, UPLINK, &frame, REPEAT)?;
            ensure!(
                (returned == -1) == passes,
                "{} returned {returned}",
                program.name()
            );
            best = best.min(cost);
            empty = empty.min(self.programs.baseline(POD, &frame, REPEAT)?);
        }
        Ok(best as f64 - empty as f64)
    }
}

/// The middle one: a few runs meet an interrupt, and would make a mean of it.
fn median(mut costs: Vec<u64>) -> f64 {
    costs.sort_unstable();
    costs[costs.len() / 2] as f64
}

/// One local pod, isolated both ways by this many policies, each with a peer of its own; the last policy's peer is the
/// one that packets come from.
fn world(policies: usize) -> World {
    let mut world = World::new("node");
    let labels = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    world.apply(Object::Namespace(Namespace {
        name: "shop".to_owned(),
        labels: BTreeMap::new(),
        terminating: false,
    }));
    let pod = |name: &str, labels, node: &str, addresses| {
        Object::Pod(Pod {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: name.to_owned(),
            config_hash: None,
            host_addresses: Vec::new(),
            labels,
            node: Some(node.to_owned()),
            addresses,
            host_network: false,
            finished: false,
            ports: Vec::new(),
        })
    };
    let own: Vec<IpAddr> = vec![POD4.into(), POD6.into()];
    world.apply(pod("web", labels("app", "web"), "node", own.clone()));
    world.set_pod_network(
        ["10.244.0.0/16", "fd00::/64"]
            .into_iter()
            .filter_map(|net| net.parse().ok())
            .collect(),
    );
    for number in 0..policies {
        let peer = format!("peer-{number}");
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        let addresses = if usize::from(number) + 1 == policies {
            vec![PEER4.into(), PEER6.into()]
        } else {
            vec![Ipv4Addr::from(0x0af4_0200 + u32::from(number)).into()]
        };
        world.apply(pod(&peer, labels("peer", &peer), "other", addresses));
        let rule = Rule {
            peers: Peers::Some(vec![Peer::Pods {
                namespaces: None,
                pods: Selector::labels([("peer", peer.as_str())]),
            }]),
            ports: Ports::Some(vec![PortMatch::Range {
                protocol: protocol::TCP,
                first: 80,
                last: 80,
            }]),
        };
        world.apply(Object::NetworkPolicy(NetworkPolicy {
            namespace: "shop".to_owned(),
            name: format!("policy-{number}"),
            pod_selector: Selector::labels([("app", "web")]),
            ingress: Some(vec![rule.clone()]),
            egress: Some(vec![rule]),
            mode: Some(Mode::Enforce),
        }));
    }
    world.attach(Endpoint {
        ifindex: POD,
        mac: mac(POD),
        addresses: own,
        namespace: "shop".to_owned(),
        pod: "web".to_owned(),
        uid: "web".to_owned(),
    });
    world
}
