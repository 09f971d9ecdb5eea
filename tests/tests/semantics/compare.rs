//! The compiled maps and the explanations of a world, question by question beside the judge.

use std::{fmt, net::IpAddr};

use vethwall_common::{Direction, protocol, verdict::allow};
use vethwall_policy::{
    compile::compile,
    explain::{Target, explain},
    numbers::Numbers,
    reader::lookup,
    state::State,
    world,
};
use vethwall_tests::{
    oracle::{Packet, World, addresses, namespace_of},
    worlds::{PORTS, ends, subjects},
};

use super::border::ifindex;

/// Generic routing encapsulation: a protocol without ports that no policy names.
const GRE: u8 = 47;

/// Two answers to one question.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    pub(super) packet: Packet,
    pub(super) expected: bool,
    /// Who says otherwise.
    pub(super) teller: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = |allowed| if allowed { "allowed" } else { "denied" };
        let Packet {
            source,
            destination,
            protocol,
            port,
        } = self.packet;
        write!(
            f,
            "{source} to {destination}, protocol {protocol} port {port}: the texts say {}, {} says {}",
            answer(self.expected),
            self.teller,
            answer(!self.expected)
        )
    }
}

/// Protocols and destination ports, at the edges of every range that policies name.
pub(super) fn questions(family: IpAddr) -> Vec<(u8, u16)> {
    let icmp = if family.is_ipv4() {
        protocol::ICMP
    } else {
        protocol::ICMPV6
    };
    let mut all = Vec::new();
    for number in [protocol::TCP, protocol::UDP, protocol::SCTP] {
        all.extend(PORTS.map(|port| (number, port)));
    }
    all.extend([(protocol::TCP, 54), (icmp, 0), (GRE, 0)]);
    all
}

/// Every local interface, both directions, every peer, every question. The number of questions.
pub(super) fn lookups(world: &World, model: &world::World) -> Result<usize, Difference> {
    let compiled = compile(model, &mut Numbers::default());
    assert_eq!(compiled.problems, []);
    states(world, &compiled.state, &questions)
}

/// The same for maps that are there already.
pub(super) fn states(
    world: &World,
    state: &State,
    questions: &dyn Fn(IpAddr) -> Vec<(u8, u16)>,
) -> Result<usize, Difference> {
    let enforced = world.enforced();
    let audited = enforced.policies.len() + enforced.cluster_policies.len()
        < world.policies.len() + world.cluster_policies.len();
    let peers = ends(world);
    let mut asked = 0;
    for (n, pod) in subjects(world).into_iter().enumerate() {
        for own in addresses(pod) {
            for peer in peers
                .iter()
                .filter(|peer| **peer != own && peer.is_ipv4() == own.is_ipv4())
            {
                for (protocol, port) in questions(own) {
                    for direction in Direction::ALL {
                        let (source, destination) = match direction {
                            Direction::Ingress => (*peer, own),
                            Direction::Egress => (own, *peer),
                        };
                        let packet = Packet {
                            source,
                            destination,
                            protocol,
                            port,
                        };
                        let judge = |world: &World| match direction {
                            Direction::Ingress => world.ingress_allowed(pod, &packet),
                            Direction::Egress => world.egress_allowed(pod, &packet),
                        };
                        let answer = lookup(state, ifindex(n), direction, *peer, protocol, port).allow;
                        let expected = judge(&enforced);
                        differ(packet, expected, answer & allow::ENFORCED != 0, || {
                            format!("{direction:?} of {} in the maps", name(pod))
                        })?;
                        let shadow = if audited { judge(world) } else { expected };
                        differ(packet, shadow, answer & allow::SHADOW != 0, || {
                            format!("{direction:?} of {} in the shadow of the maps", name(pod))
                        })?;
                        asked += 1;
                    }
                }
            }
        }
    }
    Ok(asked)
}

/// Every pair of addresses with some of the questions (all of them, over a few worlds), and every pair of pods by name.
pub(super) fn explanations(world: &World, model: &world::World, every: usize) -> Result<usize, Difference> {
    let enforced = world.enforced();
    let mut asked = 0;
    let ends = ends(world);
    let mut turn = 0;
    for source in &ends {
        for destination in ends.iter().filter(|other| other.is_ipv4() == source.is_ipv4()) {
            for (protocol, port) in questions(*source) {
                turn += 1;
                if turn % every != 0 {
                    continue;
                }
                let packet = Packet {
                    source: *source,
                    destination: *destination,
                    protocol,
                    port,
                };
                let (from, to) = (Target::Address(*source), Target::Address(*destination));
                let told = explain(model, &from, &to, protocol, Some(port));
                differ(packet, enforced.allowed(&packet), told.allowed, || {
                    "explain".into()
                })?;
                differ(packet, world.allowed(&packet), told.shadow_allowed, || {
                    "the shadow of explain".into()
                })?;
                asked += 1;
            }
        }
    }
    Ok(asked + by_name(world, &enforced, model)?)
}

fn by_name(world: &World, enforced: &World, model: &world::World) -> Result<usize, Difference> {
    let target = |pod: &k8s_openapi::api::core::v1::Pod| Target::Pod {
        namespace: namespace_of(&pod.metadata.namespace).to_owned(),
        name: pod.metadata.name.clone().unwrap_or_default(),
    };
    let mut asked = 0;
    // Finished pods have no address that they could be asked by.
    let living: Vec<_> = world
        .pods
        .iter()
        .filter(|pod| !vethwall_tests::oracle::finished(pod))
        .collect();
    for from in &living {
        for to in &living {
            let family = addresses(from).find(|a| addresses(to).any(|b| a.is_ipv4() == b.is_ipv4()));
            let Some(family) = family else { continue };
            let both = |pod: &k8s_openapi::api::core::v1::Pod| {
                let mut own = addresses(pod);
                own.find(|address| address.is_ipv4() == family.is_ipv4())
            };
            let (Some(_), Some(_)) = (both(from), both(to)) else {
                continue;
            };
            let told = explain(model, &target(from), &target(to), protocol::TCP, Some(80));
            let (Some(source), Some(destination)) = (told.from.address, told.to.address) else {
                panic!("explain finds no addresses of {} and {}", name(from), name(to));
            };
            assert!(
                addresses(from).any(|own| own == source),
                "{source} is not of {}",
                name(from)
            );
            assert!(
                addresses(to).any(|own| own == destination),
                "{destination} is not of {}",
                name(to)
            );
            assert_eq!(source.is_ipv4(), destination.is_ipv4());
            let packet = Packet {
                source,
                destination,
                protocol: protocol::TCP,
                port: 80,
            };
            differ(packet, enforced.allowed(&packet), told.allowed, || {
                "explain by names".into()
            })?;
            asked += 1;
        }
    }
    Ok(asked)
}

fn differ(
    packet: Packet,
    expected: bool,
    found: bool,
    teller: impl FnOnce() -> String,
) -> Result<(), Difference> {
    if expected == found {
        return Ok(());
    }
    Err(Difference {
        packet,
        expected,
        teller: teller(),
    })
}

fn name(pod: &k8s_openapi::api::core::v1::Pod) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    format!("{}/{name}", namespace_of(&pod.metadata.namespace))
}
