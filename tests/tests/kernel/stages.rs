//! The two stages of egress: what waits, what is judged behind the bridge, what never gets there.

use super::*;

// Covers: SEMANTICS 41
#[test]
fn egress_beyond_the_pods_is_judged_after_translation() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Egress);
        s.isolate(Direction::Ingress);
        let service = Ipv4Addr::new(10, 96, 0, 10);
        let asked = syn(A4, service, 80);
        let translated = syn(A4, BACKEND, 6443);
        // Stage one lets it go on, and knows its answer.
        passed(&s.a_sends(asked.clone()), Reason::Deferred);
        passed(&s.a_sends(asked.clone().with_flags(ACK)), Reason::Deferred);
        passed(
            &s.sends_a(asked.clone().reversed().with_flags(SYN | ACK)),
            Reason::Established,
        );
        dropped(
            &s.sends_a(asked.clone().reversed().with_flags(SYN)),
            Reason::NoRule,
        );
        assert!(
            s.programs
                .told()
                .iter()
                .all(|event| event.direction == Direction::Ingress as u8)
        );
        // Stage two: at the bridge, on the real destination.
        dropped(&s.run(FromBridge, 99, A, &translated), Reason::NoRule);
        s.verdict(
            OUT,
            Identity::WORLD,
            entry(0, &[range(protocol::TCP, 6443, 6443, 31)], 0),
        );
        passed(&s.run(FromBridge, 99, A, &translated), Reason::Rule);
        let told = s.programs.told();
        assert_eq!(
            (told[1].ifindex, told[1].cookie, told[1].direction),
            (A, Cookie(31), Direction::Egress as u8)
        );
        passed(
            &s.run(FromBridge, 99, A, &translated.clone().with_flags(ACK)),
            Reason::Established,
        );
        // What no local pod sent, and what an open pod sent, is no business of the bridge.
        for source in [FRIEND, B4, OUTSIDE] {
            let verdict = s.run(FromBridge, 99, UPLINK, &syn(source, BACKEND, 1));
            assert!(verdict.passed && verdict.counted.is_empty(), "{verdict:?}");
        }
        // Without a translation both stages share one entry: denied, it admits no answer either.
        let direct = syn(A4, OUTSIDE, 25);
        passed(&s.a_sends(direct.clone()), Reason::Deferred);
        dropped(&s.run(FromBridge, 99, A, &direct), Reason::NoRule);
        dropped(&s.sends_a(direct.reversed().with_flags(ACK)), Reason::Revoked);
        // Without a program on the bridge nothing is deferred.
        s.programs
            .configure(|config| config.flags &= !(Config::BRIDGE_V4 | Config::BRIDGE_V6))
            .unwrap();
        s.verdict(OUT, LISTED, entry(allow::BOTH, &[], 0));
        for to in [service, OUTSIDE] {
            dropped(&s.a_sends(syn(A4, to, 81)), Reason::NoBridge);
            dropped(
                &s.a_sends(Packet::icmp(A4, to, 13, 0, &[0; 16])),
                Reason::NoBridge,
            );
        }
        s.verdict(OUT, FRIENDS, entry(allow::BOTH, &[], 0));
        passed(&s.a_sends(syn(A4, FRIEND, 81)), Reason::Rule);
    });
}

// Covers: SEMANTICS 41, 50
#[test]
fn what_never_gets_to_the_second_stage_leaves_no_way_back() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Egress);
        s.isolate(Direction::Ingress);
        let closed = |s: &mut Stage, asked: &Packet| {
            let answer = asked.clone().reversed();
            let verdict = s.sends_a(if asked.protocol == protocol::TCP {
                answer.with_flags(SYN | ACK)
            } else {
                answer
            });
            assert!(!verdict.passed, "{verdict:?}");
        };
        // To a MAC address that is not the bridge's: no bridge hands it to its node.
        for mac in [[2, 0, 0, 0, 0, 9], [0xff; 6], mac(B)] {
            let asked = syn(A4, OUTSIDE, 1).to_mac(mac);
            dropped(&s.a_sends(asked.clone()), Reason::NoBridge);
            closed(&mut s, &asked);
        }
        // With a wrong checksum, with options or without: no node takes it.
        for (port, options) in [(3, &[][..]), (4, &[7, 7, 4, 0, 0, 0, 0, 1])] {
            let mut asked = syn(A4, OUTSIDE, port);
            asked.options = options.to_vec();
            let mut frame = asked.clone().from_mac(mac(A)).bytes();
            frame[25] ^= 1;
            dropped(&s.programs.run(FromPod, A, A, &frame).unwrap(), Reason::Malformed);
            closed(&mut s, &asked);
            passed(&s.a_sends(asked), Reason::Deferred);
        }
        // As the first fragment of what may never be whole: the answer waits for a whole packet.
        let udp = Packet::udp((A4, 999), (OUTSIDE, 53));
        let first = udp.clone().as_fragment(7, 0, true);
        passed(&s.a_sends(first.clone()), Reason::Deferred);
        passed(&s.a_sends(first), Reason::Deferred);
        dropped(&s.sends_a(udp.clone().reversed()), Reason::MidStream);
        passed(&s.a_sends(udp.clone()), Reason::Deferred);
        passed(&s.sends_a(udp.reversed()), Reason::Established);
    });
}

// Covers: SEMANTICS 41
#[test]
fn a_lost_tag_is_judged_at_the_destination() {
    sandbox::run(|| {
        let mut s = stage();
        // A, isolated for egress, reaches B behind a Service on this node; B's program sees no tag.
        s.isolate(Direction::Egress);
        let verdict = s.run(ToPod, B, A, &syn(A4, B4, 8080).to_mac(mac(B)));
        assert!(!verdict.passed);
        assert_eq!(
            verdict.counted,
            [(Action::Drop, Direction::Egress, Reason::NoRule)]
        );
        s.verdict(OUT, NEIGHBOUR, entry(allow::BOTH, &[], 0));
        let verdict = s.run(ToPod, B, A, &syn(A4, B4, 8080).to_mac(mac(B)));
        assert!(verdict.passed);
        let expected = [
            (Action::Pass, Direction::Egress, Reason::Rule),
            (Action::Pass, Direction::Ingress, Reason::NotIsolated),
        ];
        assert_eq!(verdict.counted, expected);
        let told = s.programs.told();
        assert_eq!(
            told.iter().map(|event| event.ifindex).collect::<Vec<_>>(),
            [A, A, B]
        );
        // Behind the node's address too.
        s.revoke(OUT, NEIGHBOUR);
        assert!(!s.run(ToPod, B, A, &syn(NODE, B4, 8081).to_mac(mac(B))).passed);
        // And B's own ingress comes after it.
        s.verdict(OUT, NEIGHBOUR, entry(allow::BOTH, &[], 0));
        s.b.ingress = SlotRef::new(IN, 9);
        s.put(Entry::Endpoint(B, s.b));
        let verdict = s.run(ToPod, B, A, &syn(A4, B4, 8082).to_mac(mac(B)));
        assert_eq!(
            verdict.counted.last(),
            Some(&(Action::Drop, Direction::Ingress, Reason::NoRule))
        );
    });
}
