//! Numbers of an event to names.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::{SignedDuration, Timestamp};
use vethwall_common::{
    Direction,
    event::Event,
    identity::Identity,
    protocol::{ICMP, ICMPV6, has_ports},
    verdict::{Action, Reason},
};
use vethwall_policy::{
    compile::{Attribution, Cookies},
    world::World,
};

use crate::api::{API_VERSION, End, EndKind, Flow, Icmp, PolicyName, Verdict, explain::protocol_name};

/// Names a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What the numbers of events mean now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    node: String,
    pods: BTreeMap<IpAddr, PodName>,
    nodes: BTreeMap<IpAddr, String>,
    endpoints: BTreeMap<u32, PodName>,
    cookies: Cookies,
    /// Of the state before: events of it are still on their way when the new one is in the kernel.
    earlier: Cookies,
}

impl Names {
    /// Takes over a changed world and what its cookies mean.
    pub fn update(&mut self, world: &World, cookies: &Cookies) {
        world.node().clone_into(&mut self.node);
        self.nodes = world
            .nodes()
            .flat_map(|node| {
                let named = |address: &IpAddr| (address.to_canonical(), node.name.clone());
                node.addresses.iter().map(named)
            })
            .collect();
        let own = world.own_addresses().into_iter();
        self.nodes
            .extend(own.map(|address| (address, world.node().to_owned())));
        let alive = world.pods().filter(|pod| !pod.host_network && !pod.finished);
        self.pods = alive
            .flat_map(|pod| {
                let name = PodName {
                    namespace: pod.namespace.clone(),
                    name: pod.name.clone(),
                };
                pod.addresses
                    .iter()
                    .map(move |address| (address.to_canonical(), name.clone()))
            })
            .collect();
        self.endpoints.clear();
        for endpoint in world.endpoints() {
            let name = PodName {
                namespace: endpoint.namespace.clone(),
                name: endpoint.pod.clone(),
            };
            // An interface here knows better than an object of elsewhere who has the address.
            for address in &endpoint.addresses {
                self.pods.insert(address.to_canonical(), name.clone());
            }
            self.endpoints.insert(endpoint.ifindex, name);
        }
        if self.cookies != *cookies {
            self.earlier = std::mem::replace(&mut self.cookies, cookies.clone());
        }
    }

    /// The event with names; `None` where it is not one of this version's programs.
    pub fn flow(&self, event: &Event, time: Timestamp) -> Option<Flow> {
        let direction = Direction::from_u8(event.direction)?;
        let verdict = match Action::from_u8(event.action)? {
            Action::Drop => Verdict::Denied,
            Action::Pass => Verdict::Allowed,
            Action::Audit => Verdict::Audited,
        };
        let reason = Reason::from_u8(event.reason).unwrap_or_default();
        let ports = has_ports(event.protocol);
        let (mut source, mut destination) = (
            self.end(event.source.into(), ports.then_some(event.source_port)),
            self.end(event.destination.into(), ports.then_some(event.destination_port)),
        );
        let (pod, peer) = match direction {
            Direction::Ingress => (&mut destination, &mut source),
            Direction::Egress => (&mut source, &mut destination),
        };
        self.name_peer(peer, event.peer);
        self.name_pod(pod, event.ifindex, reason);
        let attribution = self
            .cookies
            .get(event.cookie)
            .or_else(|| self.earlier.get(event.cookie));
        let icmp = matches!(event.protocol, ICMP | ICMPV6).then_some(Icmp {
            kind: event.source_port as u8,
            code: event.destination_port as u8,
        });
        Some(Flow {
            api_version: API_VERSION.to_owned(),
            time,
            node: self.node.clone(),
            source,
            destination,
            protocol: protocol_name(event.protocol),
            icmp,
            direction: direction.into(),
            verdict,
            reason: explained(reason, attribution).name().to_owned(),
            policies: attribution
                .map(|found| found.policies.iter().map(PolicyName::from).collect())
                .unwrap_or_default(),
            rule: attribution.and_then(|found| found.rule).map(|rule| rule + 1),
            count: u64::from(event.suppressed) + 1,
        })
    }

    fn end(&self, address: IpAddr, port: Option<u16>) -> End {
        let pod = self.pods.get(&address);
        let node = self.nodes.get(&address);
        End {
            address,
            port,
            kind: match (pod, node) {
                (Some(_), _) => EndKind::Pod,
                (None, Some(_)) => EndKind::Node,
                (None, None) => EndKind::World,
            },
            namespace: pod.map(|pod| pod.namespace.clone()),
            pod: pod.map(|pod| pod.name.clone()),
            node: node.filter(|_| pod.is_none()).cloned(),
        }
    }

    /// What the program knew of the other end counts more than its address.
    fn name_peer(&self, peer: &mut End, identity: Identity) {
        let kind = match identity {
            Identity::LOCAL_HOST => EndKind::Node,
            Identity::MASQUERADED => EndKind::Masqueraded,
            Identity::UNKNOWN_POD if peer.kind == EndKind::World => EndKind::UnknownPod,
            _ => return,
        };
        *peer = End {
            address: peer.address,
            port: peer.port,
            kind,
            namespace: None,
            pod: None,
            node: (kind != EndKind::UnknownPod).then(|| self.node.clone()),
        };
    }

    /// The pod is known by its interface, also when it wrote another's address into the packet.
    fn name_pod(&self, pod: &mut End, ifindex: u32, reason: Reason) {
        let Some(name) = self.endpoints.get(&ifindex) else {
            return;
        };
        if reason == Reason::WrongDestination {
            // Delivered to the pod, but meant for the address that the packet has.
            return;
        }
        pod.kind = EndKind::Pod;
        pod.namespace = Some(name.namespace.clone());
        pod.pod = Some(name.name.clone());
        pod.node = None;
    }
}

/// The program knows of an answer whether it allows, not whether a rule gave it: a ClusterNetworkPolicy may deny by a
/// rule, and a pod for which it has rules is open to what none of them matches.
fn explained(reason: Reason, attribution: Option<&Attribution>) -> Reason {
    match (reason, attribution) {
        (Reason::NoRule, Some(Attribution { rule: Some(_), .. })) => Reason::Rule,
        (Reason::Rule, None) => Reason::NotIsolated,
        (reason, _) => reason,
    }
}

/// The clock of events (CLOCK_MONOTONIC) against the clock on the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventClock {
    /// The wall's time at monotonic zero.
    zero: Timestamp,
}

impl EventClock {
    /// From one moment on both clocks, the monotonic one in nanoseconds. Take it anew now and then: the wall's clock is
    /// set, the other runs on.
    pub fn new(wall: Timestamp, monotonic: u64) -> Self {
        let since = SignedDuration::from_nanos(i64::try_from(monotonic).unwrap_or(i64::MAX));
        Self {
            zero: wall.checked_sub(since).unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }

    /// The wall's time of an event.
    pub fn at(&self, monotonic: u64) -> Timestamp {
        let since = SignedDuration::from_nanos(i64::try_from(monotonic).unwrap_or(i64::MAX));
        self.zero.checked_add(since).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vethwall_common::{address::Addr, verdict::Cookie};
    use vethwall_policy::model::{Endpoint, Labels, Node, Object, Pod, PolicyRef};

    use super::*;

    const WEB: &str = "10.42.0.2";
    const DB: &str = "10.42.1.3";

    fn pod(name: &str, address: &str) -> Object {
        Object::Pod(Pod {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: String::new(),
            config_hash: None,
            host_addresses: Vec::new(),
            labels: Labels::new(),
            node: None,
            addresses: vec![address.parse().unwrap()],
            host_network: false,
            finished: false,
            ports: Vec::new(),
        })
    }

    fn names() -> Names {
        let mut world = World::new("node-a");
        world.apply(pod("web", WEB));
        world.apply(pod("db", DB));
        world.apply(Object::Node(Node {
            name: "node-b".to_owned(),
            labels: Labels::new(),
            addresses: vec!["192.168.7.2".parse().unwrap()],
            pod_cidrs: Vec::new(),
        }));
        world.attach(Endpoint {
            ifindex: 7,
            mac: [2, 0, 0, 0, 0, 7],
            addresses: vec![WEB.parse().unwrap()],
            namespace: "shop".to_owned(),
            pod: "web".to_owned(),
            uid: String::new(),
        });
        let mut names = Names::default();
        names.update(&world, &cookies("allow-web"));
        names
    }

    fn cookies(policy: &str) -> Cookies {
        Cookies(BTreeMap::from([(
            Cookie(9),
            Arc::new(Attribution {
                policies: vec![PolicyRef {
                    namespace: "shop".to_owned(),
                    name: policy.to_owned(),
                }],
                rule: Some(0),
                direction: Direction::Egress,
            }),
        )]))
    }

    fn addr(address: &str) -> Addr {
        Addr::from(address.parse::<IpAddr>().unwrap())
    }

    fn event() -> Event {
        Event {
            source: addr(WEB),
            destination: addr(DB),
            ifindex: 7,
            peer: Identity(300),
            cookie: Cookie(9),
            source_port: 40_000,
            destination_port: 5432,
            protocol: 6,
            direction: Direction::Egress as u8,
            action: Action::Pass as u8,
            reason: Reason::Rule as u8,
            suppressed: 2,
            ..Event::default()
        }
    }

    fn flow(event: &Event) -> Flow {
        names().flow(event, Timestamp::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn both_ends_and_the_policy_get_their_names() {
        let json = serde_json::to_string(&flow(&event())).unwrap();
        assert_eq!(
            json,
            r#"{"apiVersion":"vethwall.io/v1","time":"1970-01-01T00:00:00Z","node":"node-a","source":{"address":"10.42.0.2","port":40000,"kind":"pod","namespace":"shop","pod":"web"},"destination":{"address":"10.42.1.3","port":5432,"kind":"pod","namespace":"shop","pod":"db"},"protocol":"TCP","direction":"egress","verdict":"allowed","reason":"rule","policies":[{"namespace":"shop","name":"allow-web"}],"rule":1,"count":3}"#
        );
    }

    #[test]
    fn a_rule_that_denies_and_a_default_that_allows_are_told_as_such() {
        let denied = flow(&Event {
            action: Action::Drop as u8,
            reason: Reason::NoRule as u8,
            ..event()
        });
        assert_eq!((denied.reason.as_str(), denied.rule), ("rule", Some(1)));
        let open = flow(&Event {
            cookie: Cookie(0),
            ..event()
        });
        assert_eq!((open.reason.as_str(), open.policies.len()), ("not_isolated", 0));
    }

    #[test]
    fn nodes_and_the_world_are_told_apart() {
        for (address, peer, kind, node) in [
            ("192.168.7.2", Identity(300), EndKind::Node, Some("node-b")),
            ("203.0.113.9", Identity::WORLD, EndKind::World, None),
            ("10.42.0.1", Identity::LOCAL_HOST, EndKind::Node, Some("node-a")),
            (
                "192.168.7.1",
                Identity::MASQUERADED,
                EndKind::Masqueraded,
                Some("node-a"),
            ),
            ("10.42.9.9", Identity::UNKNOWN_POD, EndKind::UnknownPod, None),
            (DB, Identity::UNKNOWN_POD, EndKind::Pod, None),
        ] {
            let flow = flow(&Event {
                source: addr(address),
                destination: addr(WEB),
                direction: Direction::Ingress as u8,
                peer,
                ..event()
            });
            assert_eq!(flow.source.kind, kind, "{address}");
            assert_eq!(flow.source.node.as_deref(), node, "{address}");
            assert_eq!(flow.destination.pod.as_deref(), Some("web"));
        }
    }

    #[test]
    fn a_pod_that_lies_about_its_address_is_named_by_its_interface() {
        let flow = flow(&Event {
            source: addr("203.0.113.9"),
            reason: Reason::Spoofed as u8,
            action: Action::Drop as u8,
            ..event()
        });
        assert_eq!(flow.source.pod.as_deref(), Some("web"));
        assert_eq!(flow.source.address.to_string(), "203.0.113.9");
        assert_eq!((flow.verdict, flow.reason.as_str()), (Verdict::Denied, "spoofed"));
    }

    #[test]
    fn icmp_has_a_type_and_no_port() {
        let flow = flow(&Event {
            protocol: ICMP,
            source_port: 8,
            destination_port: 0,
            ..event()
        });
        assert_eq!((flow.source.port, flow.destination.port), (None, None));
        assert_eq!(flow.icmp, Some(Icmp { kind: 8, code: 0 }));
    }

    #[test]
    fn a_cookie_of_the_state_before_still_has_its_name() {
        let mut names = names();
        names.update(&World::new("node-a"), &Cookies::default());
        let flow = names.flow(&event(), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(flow.policies.len(), 1);
        // An update that changes no policy keeps them.
        names.update(&World::new("node-a"), &Cookies::default());
        let flow = names.flow(&event(), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(flow.policies.len(), 1);
        names.update(&World::new("node-a"), &cookies("other"));
        let flow = names.flow(&event(), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(flow.policies[0].name, "other");
    }

    #[test]
    fn numbers_of_another_version_are_no_flow() {
        for event in [
            Event { action: 9, ..event() },
            Event {
                direction: 2,
                ..event()
            },
        ] {
            assert_eq!(names().flow(&event, Timestamp::UNIX_EPOCH), None);
        }
        let event = Event {
            reason: 200,
            ..event()
        };
        assert_eq!(flow(&event).reason, "unknown");
    }

    #[test]
    fn events_get_the_time_of_the_wall() {
        let wall: Timestamp = "2025-11-21T09:14:02.5Z".parse().unwrap();
        let clock = EventClock::new(wall, 2_500_000_000);
        assert_eq!(clock.at(3_617_000_000).to_string(), "2025-11-21T09:14:03.617Z");
        assert_eq!(clock.at(1_500_000_000).to_string(), "2025-11-21T09:14:01.5Z");
    }
}
