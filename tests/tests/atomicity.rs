//! Policy changes under traffic: whatever changes around them, what is always allowed always passes and what is always
//! denied never does.
//!
//! ```text
//! writer:  random change ─► World ─► compile ─► plan ─► maps, one write after the other
//! sender:  friend's and enemy's packets, through the real programs on another CPU, without a pause
//! ```
//! VETHWALL_CHANGES sets how many changes are made; 10,000 take about ten minutes.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use vethwall_common::protocol;
use vethwall_datapath::{Maps, grace};
use vethwall_policy::{
    compile::Compiler,
    model::{
        ClusterNetworkPolicy, ClusterRule, Endpoint, Kind, Labels, Mode, Namespace, NetworkPolicy, Object,
        ObjectKey, Peer, Peers, Pod, PortMatch, Ports, Rule, RuleAction, Selector, Tier,
    },
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
const OWN: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 11);
/// May reach port 80 of the pod, and be reached there, whatever changes.
const FRIEND: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
/// May not, whatever changes.
const ENEMY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
/// May, while a policy says so.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 3);
/// Ports up to here are used by other connections.
const FIRST_PORT: u16 = 20_000;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn pod(namespace: &str, name: &str, address: Ipv4Addr, pairs: &[(&str, &str)]) -> Object {
    Object::Pod(Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: name.to_owned(),
        config_hash: None,
        host_addresses: Vec::new(),
        labels: labels(pairs),
        node: Some("node".to_owned()),
        addresses: vec![address.into()],
        host_network: false,
        finished: false,
        ports: Vec::new(),
    })
}

fn namespace(name: &str, pairs: &[(&str, &str)]) -> Object {
    Object::Namespace(Namespace {
        name: name.to_owned(),
        labels: labels(pairs),
        terminating: false,
    })
}

fn tcp(first: u16, last: u16) -> PortMatch {
    PortMatch::Range {
        protocol: protocol::TCP,
        first,
        last,
    }
}

fn rule(namespaces: Option<Selector>, pods: Selector, ports: Vec<PortMatch>) -> Rule {
    Rule {
        peers: Peers::Some(vec![Peer::Pods { namespaces, pods }]),
        ports: Ports::Some(ports),
    }
}

/// A policy about the pod, in both directions.
fn policy(name: &str, mode: Mode, rules: Vec<Rule>) -> Object {
    Object::NetworkPolicy(NetworkPolicy {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        pod_selector: Selector::labels([("app", "web")]),
        ingress: Some(rules.clone()),
        egress: Some(rules),
        mode: Some(mode),
    })
}

fn cluster(name: &str, tier: Tier, action: RuleAction, peers: Peers) -> Object {
    let rules = vec![ClusterRule {
        name: None,
        action,
        peers,
        ports: Ports::All,
    }];
    Object::ClusterNetworkPolicy(ClusterNetworkPolicy {
        name: name.to_owned(),
        tier,
        priority: 5,
        namespaces: Selector::default(),
        pods: Selector::default(),
        ingress: rules.clone(),
        egress: rules,
        mode: Some(Mode::Enforce),
    })
}

fn start() -> World {
    let mut world = World::new("node");
    world.set_pod_network(vec!["10.244.0.0/16".parse().unwrap()]);
    let friends = rule(None, Selector::labels([("role", "friend")]), vec![tcp(80, 80)]);
    for object in [
        namespace("shop", &[]),
        namespace("other", &[]),
        pod("shop", "web", OWN, &[("app", "web")]),
        pod("shop", "friend", FRIEND, &[("role", "friend")]),
        pod("other", "enemy", ENEMY, &[("role", "enemy")]),
        pod("other", "guest", GUEST, &[("role", "guest")]),
        policy("friends", Mode::Enforce, vec![friends]),
    ] {
        world.apply(object);
    }
    world.attach(Endpoint {
        ifindex: POD,
        mac: mac(POD),
        addresses: vec![OWN.into()],
        namespace: "shop".to_owned(),
        pod: "web".to_owned(),
        uid: "web".to_owned(),
    });
    world
}

/// Something around the two changes; nothing of it lets the enemy in or keeps the friend out.
fn change(world: &mut World, random: &mut TestRunner) {
    let mut any = |of: u32| (0..of).new_tree(random).unwrap().current();
    let value = ["1", "2", "3"][any(3) as usize];
    let name = format!("p{}", any(4));
    let kind = any(12);
    let object = match kind {
        // Labels that policies below ask for: the friend's and the enemy's identities change.
        0 => pod("shop", "friend", FRIEND, &[("role", "friend"), ("team", value)]),
        1 => pod("other", "enemy", ENEMY, &[("role", "enemy"), ("team", value)]),
        2 => pod("shop", "web", OWN, &[("app", "web"), ("team", value)]),
        3 => namespace("shop", &[("zone", value)]),
        4 => namespace("other", &[("zone", value)]),
        5 => pod(
            "other",
            &name,
            Ipv4Addr::new(10, 244, 2, any(9) as u8),
            &[("team", value)],
        ),
        6 => {
            let ports = if any(2) == 0 {
                vec![tcp(8080, 8090)]
            } else {
                (0..9).map(|n| tcp(1000 + 512 * n, 1000 + 512 * n)).collect()
            };
            let to = Selector::labels([("team", value), ("role", "friend")]);
            policy(
                &name,
                Mode::Enforce,
                vec![rule(Some(Selector::default()), to, ports)],
            )
        }
        7 => {
            let zone = Selector::labels([("zone", value)]);
            let block = Peer::Block {
                cidr: "10.0.0.0/8".parse().unwrap(),
                except: vec!["10.244.1.2/31".parse().unwrap()],
            };
            let mode = if any(2) == 0 { Mode::Enforce } else { Mode::Audit };
            let rules = vec![
                rule(
                    Some(zone),
                    Selector::labels([("team", value), ("role", "friend")]),
                    vec![tcp(1, 65535)],
                ),
                Rule {
                    peers: Peers::Some(vec![block]),
                    ports: Ports::All,
                },
            ];
            policy(&name, mode, rules)
        }
        8 => {
            let enemies = Peers::Some(vec![Peer::Pods {
                namespaces: Some(Selector::labels([("zone", value)])),
                pods: Selector::labels([("role", "enemy")]),
            }]);
            cluster(&name, Tier::Admin, RuleAction::Deny, enemies)
        }
        9 => cluster(&name, Tier::Admin, RuleAction::Pass, Peers::All),
        10 => cluster(&name, Tier::Baseline, RuleAction::Deny, Peers::All),
        _ => {
            let kinds = [
                (Kind::NetworkPolicy, "shop"),
                (Kind::ClusterNetworkPolicy, ""),
                (Kind::Pod, "other"),
            ];
            let (kind, namespace) = kinds[any(3) as usize];
            world.delete(&ObjectKey {
                kind,
                namespace: namespace.to_owned(),
                name,
            });
            return;
        }
    };
    world.apply(object);
}

/// What the sender sends, over and over; whether each must pass.
struct Stream {
    name: &'static str,
    program: Program,
    packet: Packet,
    passes: bool,
    /// Each packet from another port: a connection of its own.
    fresh: bool,
}

fn streams() -> Vec<Stream> {
    let own = |packet: Packet| packet.from_mac(mac(POD));
    let to_pod = |packet: Packet| packet.to_mac(mac(POD));
    let stream = |name, program, packet, passes, fresh| Stream {
        name,
        program,
        packet,
        passes,
        fresh,
    };
    let long = |flags| Packet::tcp((FRIEND, 10_000), (OWN, 80), flags);
    vec![
        stream(
            "friend's new connections",
            Program::ToPod,
            to_pod(Packet::tcp((FRIEND, FIRST_PORT), (OWN, 80), SYN)),
            true,
            true,
        ),
        stream(
            "enemy's new connections",
            Program::ToPod,
            to_pod(Packet::tcp((ENEMY, FIRST_PORT), (OWN, 80), SYN)),
            false,
            true,
        ),
        stream(
            "enemy's datagrams",
            Program::ToPod,
            to_pod(Packet::udp((ENEMY, FIRST_PORT), (OWN, 80))),
            false,
            true,
        ),
        stream(
            "friend's other ports",
            Program::ToPod,
            to_pod(Packet::udp((ENEMY, FIRST_PORT), (OWN, 81))),
            false,
            true,
        ),
        stream(
            "a long connection",
            Program::ToPod,
            to_pod(long(ACK)),
            true,
            false,
        ),
        stream(
            "its answers",
            Program::FromPod,
            own(long(ACK).reversed()),
            true,
            false,
        ),
        stream(
            "new connections to the friend",
            Program::FromPod,
            own(Packet::tcp((OWN, FIRST_PORT), (FRIEND, 80), SYN)),
            true,
            true,
        ),
        stream(
            "new connections to the enemy",
            Program::FromPod,
            own(Packet::tcp((OWN, FIRST_PORT), (ENEMY, 80), SYN)),
            false,
            true,
        ),
    ]
}

impl Stream {
    fn send(&mut self, programs: &mut Programs, round: u16) -> Option<String> {
        if self.fresh {
            let port = FIRST_PORT + round % 40_000;
            self.packet.body[..2].copy_from_slice(&port.to_be_bytes());
        }
        let came_by = if matches!(self.program, Program::ToPod) {
            UPLINK
        } else {
            POD
        };
        let (returned, _) = programs
            .repeat(self.program, POD, came_by, &self.packet.bytes(), 1)
            .unwrap();
        let passed = returned == -1;
        (passed != self.passes).then(|| format!("{}: passed is {passed}", self.name))
    }
}

struct Writer {
    programs: Programs,
    compiler: Compiler,
    observed: State,
}

impl Writer {
    fn follow(&mut self, world: &World) {
        let desired = self.compiler.compile(world);
        assert_eq!(desired.problems, []);
        let kernel = &mut self.programs.kernel;
        let outcome = execute(
            &self.observed,
            plan(&self.observed, &desired.state),
            |operation| match operation {
                Operation::Put(entry) => kernel.put(entry),
                Operation::Delete(key) => kernel.delete(key),
                Operation::Grace => {
                    grace();
                    Ok(())
                }
            },
        );
        assert!(outcome.complete(), "{:?}", outcome.failures);
        self.observed = outcome.observed;
        self.compiler.release(&self.observed);
    }

    fn passes(&mut self, program: Program, packet: Packet) -> bool {
        let (packet, came_by) = match program {
            Program::ToPod => (packet.to_mac(mac(POD)), UPLINK),
            Program::FromPod | Program::FromBridge => (packet.from_mac(mac(POD)), POD),
        };
        self.programs
            .repeat(program, POD, came_by, &packet.bytes(), 1)
            .unwrap()
            .0
            == -1
    }

    /// A guest comes, talks, and is asked to leave: its connection ends with its next packet, in both directions.
    fn a_guest_leaves(&mut self, world: &mut World, port: u16) {
        let guests = rule(
            Some(Selector::default()),
            Selector::labels([("role", "guest")]),
            vec![tcp(80, 80)],
        );
        world.apply(policy("guests", Mode::Enforce, vec![guests]));
        self.follow(world);
        let from = |flags| Packet::tcp((GUEST, port), (OWN, 80), flags);
        assert!(self.passes(Program::ToPod, from(SYN)));
        assert!(self.passes(Program::FromPod, from(SYN | ACK).reversed()));
        assert!(self.passes(Program::ToPod, from(ACK)));
        world.delete(&ObjectKey {
            kind: Kind::NetworkPolicy,
            namespace: "shop".to_owned(),
            name: "guests".to_owned(),
        });
        self.follow(world);
        assert!(
            !self.passes(Program::ToPod, from(ACK)),
            "a connection that policy cut goes on"
        );
        assert!(
            !self.passes(Program::FromPod, from(ACK).reversed()),
            "its answers go on"
        );
        assert!(!self.passes(Program::ToPod, from(ACK)));
    }
}

// Covers: SEMANTICS 36, 43
#[test]
fn changes_under_traffic_let_nothing_through_and_drop_nothing() {
    let changes: u32 = std::env::var("VETHWALL_CHANGES").map_or(150, |text| text.parse().unwrap());
    sandbox::run(|| {
        let mut world = start();
        let mut writer = Writer {
            programs: Programs::load().unwrap_or_else(|e| panic!("{e:#}")),
            compiler: Compiler::default(),
            observed: State::default(),
        };
        writer.follow(&world);
        let long = |flags| Packet::tcp((FRIEND, 10_000), (OWN, 80), flags);
        assert!(writer.passes(Program::ToPod, long(SYN)));
        assert!(writer.passes(Program::FromPod, long(SYN | ACK).reversed()));

        let (done, made) = (AtomicBool::new(false), AtomicU32::new(0));
        let mut random = TestRunner::deterministic();
        let (sent, wrong) = thread::scope(|scope| {
            // The same maps, by their pins; programs of its own.
            let sender = scope.spawn(|| {
                let mut programs = Programs::load().unwrap_or_else(|e| panic!("{e:#}"));
                let mut streams = streams();
                let (mut sent, mut wrong, mut round) = (0_u64, BTreeMap::new(), 0_u16);
                while !done.load(Ordering::Relaxed) {
                    for stream in &mut streams {
                        sent += 1;
                        if let Some(what) = stream.send(&mut programs, round) {
                            let change = made.load(Ordering::Relaxed);
                            *wrong.entry((what, change)).or_insert(0_u32) += 1;
                        }
                    }
                    round = round.wrapping_add(1);
                }
                (sent, wrong)
            });
            let work = std::panic::AssertUnwindSafe(|| {
                for n in 1..=changes {
                    if n % 10 == 0 {
                        let port = 1000 + u16::try_from(n % 9000).unwrap();
                        writer.a_guest_leaves(&mut world, port);
                    }
                    made.store(n, Ordering::Relaxed);
                    change(&mut world, &mut random);
                    writer.follow(&world);
                }
            });
            // The sender must be told to end, whatever happens.
            let outcome = std::panic::catch_unwind(work);
            done.store(true, Ordering::Relaxed);
            let result = sender.join().unwrap();
            if let Err(panic) = outcome {
                std::panic::resume_unwind(panic);
            }
            result
        });
        println!("{changes} changes, {sent} packets");
        assert!(sent > u64::from(changes), "{sent} packets met {changes} changes");
        assert_eq!(wrong, BTreeMap::new(), "(what, after which change): how often");
    });
}
