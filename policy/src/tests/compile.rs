//! Properties of the compiler: it says what the rules say, and nothing of how the world came about.

use proptest::{prelude::*, strategy::ValueTree};
use vethwall_common::{Direction, identity::AddressEntry};

use crate::{
    compile::{Compiled, compile, compile_within},
    explain::{SideReason, Target, explain},
    limits::Limits,
    model::Object,
    numbers::Numbers,
    reader,
    tests::judge::judge,
    tests::random::{OTHERS, PACKETS, PODS, Parts, change, parts},
    tests::world::ip,
    world::World,
};

fn addresses() -> impl Iterator<Item = std::net::IpAddr> {
    PODS.iter().chain(&OTHERS).map(|address| ip(address))
}

/// What a compilation says, cookies spelled out, numbers left out.
pub(crate) fn meaning(world: &World, compiled: &Compiled) -> Vec<String> {
    let mut all = Vec::new();
    for endpoint in world.endpoints() {
        for direction in Direction::ALL {
            for address in addresses() {
                for (protocol, port) in PACKETS {
                    let answer = reader::lookup(
                        &compiled.state,
                        endpoint.ifindex,
                        direction,
                        address,
                        protocol,
                        port,
                    );
                    let by = compiled.cookies.get(answer.cookie);
                    let peer = compiled.identities.get(&answer.identity);
                    all.push(format!("{} {} {by:?} {peer:?}", answer.allow, answer.pending));
                }
            }
        }
    }
    let state = &compiled.state;
    let sizes = [
        state.slots.len(),
        state.verdicts.len(),
        state.ports.len(),
        state.addresses.len(),
        state.prefixes.len(),
    ];
    all.push(format!("{sizes:?}"));
    all
}

/// The maps as the judge wants them.
fn agrees_with_the_judge(world: &World) -> Result<(), TestCaseError> {
    let compiled = compile(world, &mut Numbers::default());
    prop_assert_eq!(&compiled.problems, &vec![]);
    for endpoint in world.endpoints() {
        let pod = world.pod_of(endpoint);
        for direction in Direction::ALL {
            for address in addresses() {
                for packet in PACKETS {
                    let answer = reader::lookup(
                        &compiled.state,
                        endpoint.ifindex,
                        direction,
                        address,
                        packet.0,
                        packet.1,
                    );
                    let Some(pod) = pod else {
                        prop_assert!(answer.pending && answer.allow == 0, "no pod, no policy: closed");
                        continue;
                    };
                    let wanted = judge(world, pod, direction, address, packet);
                    prop_assert_eq!(
                        answer.allow,
                        wanted,
                        "{:?} {:?} of {}/{} with {} {:?}",
                        answer,
                        direction,
                        pod.namespace,
                        pod.name,
                        address,
                        packet
                    );
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    // Covers: SEMANTICS 2, 8, 35
    #[test]
    fn the_maps_say_what_the_rules_say(parts in parts()) {
        agrees_with_the_judge(&parts.world())?;
    }

    #[test]
    fn explain_says_what_the_rules_say(
        parts in parts(),
        packet in proptest::sample::select(PACKETS.to_vec()),
    ) {
        let world = parts.world();
        for pod in world.pods() {
            let subject = Target::Pod { namespace: pod.namespace.clone(), name: pod.name.clone() };
            for address in addresses() {
                let peer = Target::Address(address);
                for direction in Direction::ALL {
                    let (src, dst) = match direction {
                        Direction::Ingress => (&peer, &subject),
                        Direction::Egress => (&subject, &peer),
                    };
                    let explanation = explain(&world, src, dst, packet.0, Some(packet.1));
                    let side = match direction {
                        Direction::Ingress => explanation.ingress,
                        Direction::Egress => explanation.egress,
                    };
                    if matches!(side.reason, SideReason::SelfTraffic | SideReason::OwnNode) {
                        prop_assert!(side.allowed);
                        continue;
                    }
                    let bits = u8::from(side.allowed) | u8::from(side.shadow_allowed) << 1;
                    prop_assert_eq!(bits, judge(&world, pod, direction, address, packet), "{:#?}", side);
                }
            }
        }
    }

    // DESIGN rule: output is a function of the current state only.
    // Covers: SEMANTICS 36
    #[test]
    fn order_repetition_and_detours_do_not_show(
        (before, after) in change(),
        order in Just(()).prop_perturb(|(), mut rng| rng.random::<u64>()),
    ) {
        let direct = after.world();
        let wanted = compile(&direct, &mut Numbers::default());

        // Another order, each object twice.
        let mut shuffled = after.clone();
        let n = shuffled.objects.len().max(1);
        shuffled.objects.rotate_left(usize::try_from(order).unwrap_or(0) % n);
        shuffled.objects.extend(after.objects.iter().rev().cloned().collect::<Vec<_>>());
        prop_assert_eq!(&shuffled.world(), &direct);

        // By way of another world, compiled on the way, by single events.
        let mut world = before.world();
        let mut numbers = Numbers::default();
        let on_the_way = compile(&world, &mut numbers);
        numbers.release(&on_the_way.state);
        for object in before.objects.iter().filter(|object| !after.objects.iter().any(|o| o.key() == object.key())) {
            world.delete(&object.key());
            world.delete(&object.key());
        }
        after.objects.iter().cloned().for_each(|object| world.apply(object));
        before.endpoints.iter().for_each(|endpoint| world.detach(endpoint.ifindex));
        after.endpoints.iter().cloned().for_each(|endpoint| world.attach(endpoint));
        prop_assert_eq!(&world, &direct);
        prop_assert_eq!(meaning(&world, &compile(&world, &mut numbers)), meaning(&direct, &wanted));

        // By a resync.
        let mut world = before.world();
        world.replace(after.objects.iter().cloned());
        before.endpoints.iter().for_each(|endpoint| world.detach(endpoint.ifindex));
        after.endpoints.iter().cloned().for_each(|endpoint| world.attach(endpoint));
        prop_assert_eq!(&world, &direct);

        // Compiling twice gives the same numbers.
        let mut numbers = Numbers::default();
        let first = compile(&direct, &mut numbers);
        numbers.release(&first.state);
        prop_assert_eq!(compile(&direct, &mut numbers), first);
    }

    // Beyond a limit something is denied that should pass, never the other way round, and it is said.
    #[test]
    fn limits_deny_and_say_so(
        parts in parts(),
        verdicts in 0usize..12, port_pages in 0usize..6, addresses_limit in 0usize..6, prefixes in 0usize..3,
    ) {
        let world = parts.world();
        let limits = Limits { verdicts, port_pages, addresses: addresses_limit, prefixes, namespaces: 1 };
        let compiled = compile_within(&world, &mut Numbers::default(), &limits);
        let state = &compiled.state;
        prop_assert!(state.verdicts.len() <= verdicts && state.ports.len() <= port_pages);
        let optional = state.addresses.values().filter(|entry| entry.ifindex == 0 && entry.flags & AddressEntry::POD != 0);
        prop_assert!(state.addresses.len() <= addresses_limit || optional.count() == 0);
        let mut short = false;
        for endpoint in world.endpoints() {
            let Some(pod) = world.pod_of(endpoint) else { continue };
            for (direction, address) in Direction::ALL.into_iter().flat_map(|d| addresses().map(move |a| (d, a))) {
                for packet in PACKETS {
                    let answer = reader::lookup(state, endpoint.ifindex, direction, address, packet.0, packet.1);
                    let wanted = judge(&world, pod, direction, address, packet);
                    prop_assert!(answer.allow & !wanted == 0, "{answer:?} opens");
                    short |= answer.allow != wanted;
                }
            }
        }
        prop_assert!(!short || !compiled.problems.is_empty(), "denied in silence");
    }
}

#[test]
fn parts_have_what_the_properties_need() {
    // A generator that never isolates a pod would make every property true.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut isolated, mut paged, mut pending) = (0, 0, 0);
    for _ in 0..200 {
        let parts: Parts = parts().new_tree(&mut runner).unwrap().current();
        let state = compile(&parts.world(), &mut Numbers::default()).state;
        isolated += usize::from(!state.verdicts.is_empty());
        paged += usize::from(!state.ports.is_empty());
        pending += usize::from(state.endpoints.len() < parts.endpoints.len());
        assert!(
            parts
                .objects
                .iter()
                .all(|object| !matches!(object, Object::Pod(pod) if pod.addresses.is_empty()))
        );
    }
    assert!(
        isolated > 60 && paged >= 8 && pending > 10,
        "{isolated} {paged} {pending}"
    );
}
