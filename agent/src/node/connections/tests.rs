use std::sync::mpsc;

use vethwall_common::{endpoint::SlotRef, identity::Identity, protocol::TCP};
use vethwall_datapath::fake::Fake;

use super::*;

const POD: (&str, u16) = ("10.42.0.2", 40000);
const BACKEND: (&str, u16) = ("10.42.1.3", 8080);
const VIP: (&str, u16) = ("10.96.0.80", 80);
const NODE: (&str, u16) = ("192.168.99.2", 6443);
const GENERATION: u32 = 9;

/// A list of connections that counts what it is asked.
#[derive(Default)]
struct List {
    connections: Vec<Connection>,
    finds: std::cell::Cell<usize>,
    dumps: std::cell::Cell<usize>,
}

impl Tracker for List {
    fn each(&self, each: &mut dyn FnMut(Connection)) -> Result<(), Error> {
        self.dumps.set(self.dumps.get() + 1);
        self.connections.iter().copied().for_each(each);
        Ok(())
    }

    fn find(&self, tuple: &Tuple) -> Result<Option<Connection>, Error> {
        self.finds.set(self.finds.get() + 1);
        let found = self
            .connections
            .iter()
            .find(|known| [known.original, known.reply].contains(tuple));
        Ok(found.copied())
    }
}

fn between(source: (&str, u16), destination: (&str, u16)) -> Tuple {
    Tuple {
        source: source.0.parse().unwrap(),
        source_port: source.1,
        destination: destination.0.parse().unwrap(),
        destination_port: destination.1,
        protocol: TCP,
    }
}

fn connection(original: Tuple, reply: Tuple) -> Connection {
    Connection {
        original,
        reply,
        state: state::REPLIED,
    }
}

fn dropped(packet: Tuple, direction: Direction, reason: Reason) -> Event {
    Event {
        source: packet.source.into(),
        source_port: packet.source_port,
        destination: packet.destination.into(),
        destination_port: packet.destination_port,
        protocol: packet.protocol,
        direction: direction as u8,
        action: Action::Drop as u8,
        reason: reason as u8,
        ifindex: 2,
        generation: GENERATION,
        ..Event::default()
    }
}

/// A node with one pod behind interface 2, and the network of all pods.
fn node() -> (Fake, State) {
    let record = EndpointRecord {
        ingress: SlotRef::new(1, GENERATION),
        egress: SlotRef::new(1, GENERATION),
        ifindex: 2,
        addresses: [POD.0.parse::<IpAddr>().unwrap().into(), Addr::NONE],
        ..EndpointRecord::default()
    };
    let mut observed = State::default();
    observed.endpoints.insert(2, record);
    let prefix = Prefix {
        length: 96 + 16,
        addr: "10.42.0.0".parse::<IpAddr>().unwrap().into(),
    };
    let entry = PrefixEntry {
        identity: Identity::UNKNOWN_POD,
        flags: PrefixEntry::POD_NETWORK,
    };
    observed.prefixes.insert(prefix, entry);
    let mut maps = Fake::new();
    maps.now = 1000;
    let config = vethwall_common::config::Config {
        tcp_established: 500,
        tcp_unreplied: 50,
        ..Default::default()
    };
    maps.set_config(&config).unwrap();
    (maps, observed)
}

/// The pod's connection through a Service, and the entries that the programs have of it.
fn through_a_service(maps: &mut Fake, reply: Tuple) -> Connection {
    let service = connection(between(POD, VIP), reply);
    for (key, entry) in service.flows(
        1000,
        |address| (address.to_string() == POD.0).then_some(2),
        |_| false,
    ) {
        maps.flows.insert(key, entry);
    }
    service
}

fn follow(list: &List, maps: &mut Fake, observed: &State, events: Vec<Event>) -> Connections {
    let mut connections = Connections::default();
    connections.wonder(events);
    connections.follow(list, maps, observed, Instant::now()).unwrap();
    connections
}

// Covers: SEMANTICS 46
#[test]
fn only_connections_of_the_interfaces_at_hand_are_seeded_and_none_twice() {
    let (mut maps, observed) = node();
    let direct = between(POD, BACKEND);
    let list = List {
        connections: vec![
            connection(direct, direct.reversed()),
            connection(between(BACKEND, NODE), between(NODE, BACKEND)),
        ],
        ..List::default()
    };
    let mut connections = Connections::default();
    let seed = |connections: &mut Connections, maps: &mut Fake, older: &mut Older| {
        connections.seed(&list, maps, &observed, older).unwrap();
    };
    let older = |ifindex| Older::from(BTreeSet::from([ifindex]));
    seed(&mut connections, &mut maps, &mut older(7));
    assert!(maps.flows.is_empty());
    seed(&mut connections, &mut maps, &mut older(2));
    let key = direct.key(2);
    let entry = maps.flows[&key];
    assert_eq!((entry.generation, entry.last_seen), (0, 1000));
    assert_eq!(entry.state, state::REPLIED | state::DIRECT);
    assert_eq!((maps.flows.len(), connections.counts(0).seeded), (1, 1));
    // What policy has cut stays cut.
    maps.revoke(&key, 3).unwrap();
    seed(&mut connections, &mut maps, &mut older(2));
    assert_ne!(maps.flows[&key].state & state::REVOKED, 0);
    assert_eq!(connections.counts(4).seeded, 1);
    assert_eq!(connections.counts(4).unasked, 4);
}

/// As while interfaces are taken over: before and after the programs come.
#[test]
fn a_second_look_makes_known_what_began_since_the_first() {
    let (mut maps, observed) = node();
    let [first, second] = [BACKEND, NODE].map(|peer| between(POD, peer));
    let mut list = List::default();
    let mut connections = Connections::default();
    let mut older = Older::from(BTreeSet::from([2]));
    for (begun, seeded) in [(Some(first), 1), (None, 1), (Some(second), 2)] {
        list.connections
            .extend(begun.map(|tuple| connection(tuple, tuple.reversed())));
        connections.seed(&list, &mut maps, &observed, &mut older).unwrap();
        assert_eq!(connections.counts(0).seeded, seeded);
        // What is known is not written again, not even where a full table has lost it.
        maps.flows.clear();
    }
}

// Covers: SEMANTICS 46
#[test]
fn a_packet_in_the_middle_makes_its_connection_known_in_the_direction_it_was_opened() {
    let opened_here = between(POD, BACKEND);
    for original in [opened_here, opened_here.reversed()] {
        let list = List {
            connections: vec![connection(original, original.reversed())],
            ..List::default()
        };
        // Either side's packet, as it was dropped at the pod.
        for (packet, direction) in [
            (opened_here, Direction::Egress),
            (opened_here.reversed(), Direction::Ingress),
        ] {
            let (mut maps, observed) = node();
            let event = dropped(packet, direction, Reason::MidStream);
            let connections = follow(&list, &mut maps, &observed, vec![event]);
            let entry = maps.flows[&original.key(2)];
            let wanted = if original == opened_here {
                Direction::Egress
            } else {
                Direction::Ingress
            };
            assert_eq!(entry.direction, wanted as u8);
            assert_eq!(connections.counts(0).asked, 1);
        }
        assert_eq!((list.finds.get(), list.dumps.get()), (2, 0));
    }
}

#[test]
fn many_packets_in_the_middle_cost_one_dump_a_second() {
    let (mut maps, observed) = node();
    let list = List {
        connections: vec![connection(between(POD, BACKEND), between(BACKEND, POD))],
        ..List::default()
    };
    let event = dropped(between(POD, BACKEND), Direction::Egress, Reason::MidStream);
    let mut connections = Connections::default();
    let start = Instant::now();
    for (after, dumps) in [(0, 1), (10, 1), (900, 1), (1000, 2)] {
        connections.wonder(vec![event; MANY + 1]);
        let now = start + Duration::from_millis(after);
        connections.follow(&list, &mut maps, &observed, now).unwrap();
        assert_eq!(list.dumps.get(), dumps, "{after}");
    }
    assert_eq!((list.finds.get(), maps.flows.len()), (0, 1));
    // Others hide behind one that is told for many.
    let (mut maps, observed) = node();
    let event = Event {
        suppressed: 5,
        ..event
    };
    follow(&list, &mut maps, &observed, vec![event]);
    assert_eq!((list.finds.get(), list.dumps.get()), (1, 3));
}

// Covers: SEMANTICS 41, 43
#[test]
fn a_service_whose_pod_is_denied_is_revoked_where_its_answers_come_in() {
    let behind = between(POD, BACKEND);
    for reason in [Reason::NoRule, Reason::Rule, Reason::Revoked] {
        let (mut maps, observed) = node();
        let service = through_a_service(&mut maps, behind.reversed());
        let list = List {
            connections: vec![service],
            ..List::default()
        };
        let event = dropped(behind, Direction::Egress, reason);
        let connections = follow(&list, &mut maps, &observed, vec![event]);
        let entry = maps.flows[&service.original.key(2)];
        assert_ne!(entry.state & state::REVOKED, 0, "{reason:?}");
        assert_ne!(entry.state & state::DEFERRED, 0);
        assert_eq!(entry.generation, GENERATION);
        assert_eq!(maps.flows[&behind.key(2)].state & state::REVOKED, 0);
        assert_eq!((connections.counts(0).revoked, list.dumps.get()), (1, 0));
        // Once is enough.
        let again = follow(&list, &mut maps, &observed, vec![event]);
        assert_eq!(again.counts(0).revoked, 0);
    }
}

#[test]
fn a_service_on_a_node_is_found_behind_its_masquerade() {
    let (mut maps, observed) = node();
    let masked = between(NODE, ("192.168.99.1", 61000));
    let service = through_a_service(&mut maps, masked);
    let list = List {
        connections: vec![service],
        ..List::default()
    };
    let event = dropped(between(POD, NODE), Direction::Egress, Reason::Revoked);
    let connections = follow(&list, &mut maps, &observed, vec![event]);
    assert_eq!((connections.counts(0).revoked, list.dumps.get()), (1, 1));
    assert_ne!(maps.flows[&service.original.key(2)].state & state::REVOKED, 0);
}

#[test]
fn what_nothing_translates_is_left_to_the_programs() {
    for (other, finds, dumps) in [(BACKEND, 1, 0), (NODE, 1, 1)] {
        let (mut maps, observed) = node();
        let packet = between(POD, other);
        let list = List::default();
        let event = dropped(packet, Direction::Egress, Reason::NoRule);
        follow(&list, &mut maps, &observed, vec![event]);
        assert_eq!(
            (list.finds.get(), list.dumps.get()),
            (finds, dumps),
            "new: {other:?}"
        );
        // A connection that the programs have under the same addresses is no question.
        let plain = connection(packet, packet.reversed());
        let owner = |address: IpAddr| (address.to_string() == POD.0).then_some(2);
        let flows = plain.flows(1000, owner, |address| {
            Owners::new(&observed).is_pods(address.into())
        });
        maps.flows.extend(flows);
        let before = maps.flows.clone();
        let list = List::default();
        follow(&list, &mut maps, &observed, vec![event]);
        assert_eq!((list.finds.get(), list.dumps.get()), (0, 0), "known: {other:?}");
        assert_eq!(maps.flows, before);
    }
}

#[test]
fn questions_are_chosen_and_bounded() {
    let (sender, receiver) = mpsc::channel();
    let unasked = Arc::new(AtomicU64::new(0));
    let mut questions = Questions::new(sender, Arc::clone(&unasked));
    let packet = between(POD, BACKEND);
    for (direction, reason, asked) in [
        (Direction::Egress, Reason::MidStream, true),
        (Direction::Ingress, Reason::MidStream, true),
        (Direction::Egress, Reason::NoRule, true),
        (Direction::Ingress, Reason::NoRule, false),
        (Direction::Ingress, Reason::Revoked, false),
        (Direction::Egress, Reason::Spoofed, false),
    ] {
        let event = dropped(packet, direction, reason);
        questions.consider(&event);
        questions.consider(&Event {
            action: Action::Pass as u8,
            ..event
        });
        questions.ask();
        let told = match receiver.try_recv() {
            Ok(Input::Dropped(events)) => events == [event],
            Ok(other) => panic!("{other:?}"),
            Err(_) => false,
        };
        assert_eq!(told, asked, "{direction:?} {reason:?}");
    }
    questions.left = QUESTIONS;
    let event = dropped(packet, Direction::Egress, Reason::MidStream);
    for _ in 0..QUESTIONS + 10 {
        questions.consider(&event);
    }
    questions.ask();
    let Ok(Input::Dropped(events)) = receiver.try_recv() else {
        panic!("nothing asked");
    };
    // Unless the machine took a second for it.
    assert!(events.len() == QUESTIONS as usize || questions.second.elapsed() < SECOND);
    assert_eq!(
        events.len() as u64 + unasked.load(Ordering::Relaxed),
        u64::from(QUESTIONS) + 10
    );
}

#[test]
fn what_lies_in_the_pods_networks_is_a_pods() {
    let (_, observed) = node();
    let owners = Owners::new(&observed);
    let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
    assert!(owners.is_pods(address("10.42.255.1")));
    assert!(!owners.is_pods(address("10.43.0.1")));
    assert!(!owners.is_pods(address("fd00::1")));
}
