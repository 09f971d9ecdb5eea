//! Connections: answers, changes of policy, ends, errors about them.

use super::*;

// Covers: SEMANTICS 43, 45
#[test]
fn replies_pass_both_ways() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        s.isolate(Direction::Egress);
        s.verdict(IN, FRIENDS, entry(allow::BOTH, &[], 0));
        let request = syn(FRIEND, A4, 80);
        dropped(
            &s.a_sends(request.clone().reversed().with_flags(SYN | ACK)),
            Reason::NoRule,
        );
        passed(&s.sends_a(request.clone()), Reason::Rule);
        passed(
            &s.a_sends(request.clone().reversed().with_flags(SYN | ACK)),
            Reason::Established,
        );
        passed(&s.sends_a(request.clone().with_flags(ACK)), Reason::Established);
        passed(
            &s.a_sends(request.clone().reversed().with_flags(ACK)),
            Reason::Established,
        );
        // Another port, another peer, another endpoint: other connections.
        dropped(&s.a_sends(data(A4, FRIEND, 80)), Reason::NoRule);
        let other = Packet::tcp((A4, 80), (STRANGER, 40_000), ACK);
        dropped(&s.a_sends(other), Reason::NoRule);

        s.verdict(OUT, FRIENDS, entry(allow::BOTH, &[], 0));
        let asked = Packet::udp((A4, 1234), (FRIEND, 53));
        s.revoke(IN, FRIENDS);
        dropped(&s.sends_a(asked.clone().reversed()), Reason::NoRule);
        passed(&s.a_sends(asked.clone()), Reason::Rule);
        passed(&s.sends_a(asked.clone().reversed()), Reason::Established);
        passed(&s.a_sends(asked), Reason::Established);
        let flows = s.programs.kernel.flows().unwrap();
        assert_eq!(flows.len(), 2, "{flows:?}");
    });
}

// Covers: SEMANTICS 43, 46
#[test]
fn an_answer_is_known_where_only_the_other_direction_is_isolated() {
    sandbox::run(|| {
        let mut s = stage();
        let request = Packet::udp((A4, 1234), (OUTSIDE, 53));
        passed(&s.a_sends(request.clone()), Reason::NotIsolated);
        // The policy comes while the answer is on its way.
        s.isolate(Direction::Ingress);
        passed(&s.sends_a(request.clone().reversed()), Reason::Established);
        dropped(&s.sends_a(Packet::udp((OUTSIDE, 53), (A4, 1235))), Reason::NoRule);
    });
}

// Covers: SEMANTICS 47
#[test]
fn a_bare_syn_is_always_judged() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        s.verdict(IN, FRIENDS, entry(allow::BOTH, &[], 0));
        let request = syn(FRIEND, A4, 80);
        passed(&s.sends_a(request.clone()), Reason::Rule);
        passed(&s.sends_a(request.clone()), Reason::Rule);
        passed(
            &s.a_sends(request.clone().reversed().with_flags(SYN | ACK)),
            Reason::Established,
        );
        s.revoke(IN, FRIENDS);
        // Same generation: what runs goes on, what is new is judged, and closes the door behind it.
        passed(&s.sends_a(request.clone().with_flags(ACK)), Reason::Established);
        dropped(&s.sends_a(request.clone()), Reason::NoRule);
        dropped(&s.sends_a(request.clone().with_flags(ACK)), Reason::Revoked);

        // The pod opens a connection; its peer can not turn it round.
        let out = syn(A4, FRIEND, 443);
        passed(&s.a_sends(out.clone()), Reason::NotIsolated);
        passed(
            &s.sends_a(out.clone().reversed().with_flags(SYN | ACK)),
            Reason::Established,
        );
        dropped(&s.sends_a(out.clone().reversed().with_flags(SYN)), Reason::NoRule);
        passed(&s.sends_a(out.reversed().with_flags(ACK)), Reason::Established);
        // The same with an echo.
        passed(
            &s.a_sends(Packet::echo(A4, FRIEND, 9, false)),
            Reason::NotIsolated,
        );
        passed(&s.sends_a(Packet::echo(FRIEND, A4, 9, true)), Reason::Established);
        dropped(&s.sends_a(Packet::echo(FRIEND, A4, 9, false)), Reason::NoRule);
        dropped(&s.sends_a(Packet::echo(FRIEND, A4, 10, true)), Reason::NoRule);
    });
}

// Covers: SEMANTICS 43
#[test]
fn a_change_of_policy_cuts_what_it_forbids_and_nothing_else() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        s.verdict(IN, FRIENDS, entry(allow::BOTH, &[], 0));
        s.verdict(IN, LISTED, entry(allow::BOTH, &[], 0));
        for source in [FRIEND, OUTSIDE] {
            passed(&s.sends_a(syn(source, A4, 80)), Reason::Rule);
            passed(&s.a_sends(data(source, A4, 80).reversed()), Reason::Established);
            passed(&s.sends_a(data(source, A4, 80)), Reason::Established);
        }
        s.programs.told();
        s.revoke(IN, LISTED);
        s.bump();
        passed(&s.sends_a(data(FRIEND, A4, 80)), Reason::Established);
        dropped(&s.sends_a(data(OUTSIDE, A4, 80)), Reason::Revoked);
        dropped(&s.sends_a(data(OUTSIDE, A4, 80)), Reason::Revoked);
        // The pod may send what it likes, and yet what it sends on this connection begins no other.
        dropped(&s.a_sends(data(OUTSIDE, A4, 80).reversed()), Reason::Revoked);
        dropped(&s.sends_a(data(OUTSIDE, A4, 80)), Reason::Revoked);
        let router = Ipv4Addr::new(198, 51, 100, 1);
        let quoting = Packet::unreachable(router, A4, &data(OUTSIDE, A4, 80).reversed());
        dropped(&s.sends_a(quoting), Reason::NoRule);
        let told = s.programs.told();
        assert_eq!(
            told.iter().filter(|e| e.action == Action::Pass as u8).count(),
            0,
            "{told:?}"
        );

        // Allowed again, it goes on.
        s.verdict(IN, LISTED, entry(allow::BOTH, &[], 0));
        s.bump();
        passed(&s.sends_a(data(OUTSIDE, A4, 80)), Reason::Established);
        passed(&s.a_sends(data(OUTSIDE, A4, 80).reversed()), Reason::Established);

        // What was judged again is still the answered connection that it was, not a new one with a short life.
        s.programs.configure(|config| config.tcp_unreplied = 0).unwrap();
        passed(&s.sends_a(data(FRIEND, A4, 80)), Reason::Established);

        // Unless the node was told to keep what runs.
        s.programs
            .configure(|config| config.flags |= Config::KEEP_CONNECTIONS)
            .unwrap();
        s.revoke(IN, FRIENDS);
        s.bump();
        passed(&s.sends_a(data(FRIEND, A4, 80)), Reason::Established);
        dropped(&s.sends_a(syn(FRIEND, A4, 80)), Reason::NoRule);
    });
}

// Covers: SEMANTICS 43
#[test]
fn a_revoked_conversation_does_not_turn_round() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        s.verdict(IN, FRIENDS, entry(allow::BOTH, &[], 0));
        let asked = Packet::udp((FRIEND, 40_000), (A4, 53));
        passed(&s.sends_a(asked.clone()), Reason::Rule);
        passed(&s.a_sends(asked.clone().reversed()), Reason::Established);
        s.revoke(IN, FRIENDS);
        s.bump();
        dropped(&s.sends_a(asked.clone()), Reason::Revoked);
        for _ in 0..3 {
            dropped(&s.a_sends(asked.clone().reversed()), Reason::Revoked);
            dropped(&s.sends_a(asked.clone()), Reason::Revoked);
        }
        // The pod's own questions from that port are others, and so is a connection that it opens.
        passed(
            &s.a_sends(Packet::udp((A4, 53), (FRIEND, 53))),
            Reason::NotIsolated,
        );
        let opened = syn(FRIEND, A4, 80);
        s.verdict(IN, FRIENDS, entry(allow::BOTH, &[], 0));
        s.bump();
        passed(&s.sends_a(opened.clone()), Reason::Rule);
        s.revoke(IN, FRIENDS);
        s.bump();
        dropped(&s.sends_a(opened.clone().with_flags(ACK)), Reason::Revoked);
        passed(&s.a_sends(opened.clone().reversed()), Reason::NotIsolated);
        passed(&s.sends_a(opened.with_flags(SYN | ACK)), Reason::Established);
    });
}

// Covers: SEMANTICS 46
#[test]
fn what_nobody_saw_begin_passes_only_where_both_ways_are_open() {
    sandbox::run(|| {
        let mut s = stage();
        s.verdict(IN, FRIENDS, entry(allow::BOTH, &[], 0));
        s.verdict(OUT, FRIENDS, entry(allow::BOTH, &[], 0));
        let chunk = |packet: Packet| packet.with_chunk(0);
        let both = |port| {
            [
                data(FRIEND, A4, port),
                chunk(Packet::sctp((FRIEND, 40_000), (A4, port))),
            ]
        };
        for packet in both(80) {
            passed(&s.sends_a(packet), Reason::NotIsolated);
        }
        // What the pod sends may be an answer to what ingress forbids, and what it gets one to what egress forbids.
        s.isolate(Direction::Ingress);
        for packet in both(81) {
            dropped(&s.a_sends(packet.reversed()), Reason::MidStream);
        }
        dropped(&s.a_sends(data(A4, OUTSIDE, 81)), Reason::MidStream);
        for packet in both(82) {
            passed(&s.sends_a(packet), Reason::Rule);
        }
        s.isolate(Direction::Egress);
        dropped(&s.a_sends(data(A4, OUTSIDE, 82)), Reason::MidStream);
        for packet in both(83) {
            dropped(&s.sends_a(packet.clone()), Reason::MidStream);
            dropped(&s.sends_a(packet), Reason::MidStream);
        }
        // Behind the translation the first stage has asked already.
        s.verdict(OUT, Identity::WORLD, entry(allow::BOTH, &[], 0));
        passed(&s.run(FromBridge, 99, A, &data(A4, BACKEND, 1)), Reason::Rule);
        // The node's own, such as the end of a probe, need no beginning.
        passed(&s.run(ToPod, A, 0, &data(NODE, A4, 84)), Reason::OwnNode);
        // An audited policy takes nothing away.
        let audited = SlotRecord {
            allow: allow::ENFORCED,
            ..SlotRecord::default()
        };
        s.put(Entry::Slot(OUT, audited));
        passed(&s.sends_a(data(FRIEND, A4, 85)), Reason::Rule);
    });
}

// Covers: SEMANTICS 44
#[test]
fn icmp_errors_pass_where_they_quote_what_was_allowed() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        let router = Ipv4Addr::new(198, 51, 100, 1);
        let sent = syn(A4, OUTSIDE, 443);
        let too_big = Packet::unreachable(router, A4, &sent);
        dropped(&s.sends_a(too_big.clone()), Reason::NoRule);
        passed(&s.a_sends(sent.clone()), Reason::NotIsolated);
        passed(&s.sends_a(too_big), Reason::Related);
        // About another port; about a connection of someone else; the wrong way round; without a quotation.
        dropped(
            &s.sends_a(Packet::unreachable(router, A4, &syn(A4, OUTSIDE, 444))),
            Reason::NoRule,
        );
        dropped(
            &s.sends_a(Packet::unreachable(router, A4, &syn(B4, OUTSIDE, 443))),
            Reason::NoRule,
        );
        dropped(
            &s.sends_a(Packet::unreachable(router, A4, &sent.clone().reversed())),
            Reason::NoRule,
        );
        dropped(
            &s.sends_a(Packet::icmp(router, A4, 3, 4, &[0; 4])),
            Reason::NoRule,
        );
        dropped(
            &s.sends_a(Packet::icmp(router, A4, 5, 1, &[0; 32])),
            Reason::NoRule,
        );
        // IPv6: packet too big.
        let sent = Packet::tcp((six_ip(A), 1), (six_ip(B), 2), SYN);
        let far: IpAddr = "2001:db8::1".parse().unwrap();
        dropped(
            &s.sends_a(Packet::unreachable(far, six_ip(A), &sent)),
            Reason::NoRule,
        );
        passed(&s.a_sends(sent.clone()), Reason::NotIsolated);
        passed(
            &s.sends_a(Packet::unreachable(far, six_ip(A), &sent)),
            Reason::Related,
        );
        // From the pod, about what it let in.
        s.verdict(IN, FRIENDS, entry(allow::BOTH, &[], 0));
        s.isolate(Direction::Egress);
        let asked = Packet::udp((FRIEND, 5), (A4, 6));
        dropped(
            &s.a_sends(Packet::unreachable(A4, FRIEND, &asked)),
            Reason::NoRule,
        );
        passed(&s.sends_a(asked.clone()), Reason::Rule);
        passed(
            &s.a_sends(Packet::unreachable(A4, FRIEND, &asked)),
            Reason::Related,
        );
    });
}

// Covers: SEMANTICS 47
#[test]
fn connections_end() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        let life = |config: &mut Config| (config.tcp_unreplied, config.tcp_closing) = (0, 0);
        let out = syn(A4, OUTSIDE, 80);
        let back = out.clone().reversed();
        // Unreplied, with no life: as good as none.
        passed(&s.a_sends(out.clone()), Reason::NotIsolated);
        s.programs.configure(life).unwrap();
        dropped(&s.sends_a(back.clone().with_flags(SYN | ACK)), Reason::NoRule);
        // Established, half closed, closed by both, by a reset.
        s.programs.configure(|config| config.tcp_unreplied = 60).unwrap();
        passed(&s.a_sends(out.clone()), Reason::NotIsolated);
        passed(
            &s.sends_a(back.clone().with_flags(SYN | ACK)),
            Reason::Established,
        );
        passed(
            &s.sends_a(back.clone().with_flags(FIN | ACK)),
            Reason::Established,
        );
        passed(&s.sends_a(back.clone().with_flags(ACK)), Reason::Established);
        passed(&s.a_sends(out.clone().with_flags(FIN | ACK)), Reason::Established);
        dropped(&s.sends_a(back.clone().with_flags(ACK)), Reason::NoRule);
        passed(&s.a_sends(out.clone()), Reason::NotIsolated);
        passed(
            &s.sends_a(back.clone().with_flags(SYN | ACK)),
            Reason::Established,
        );
        passed(&s.sends_a(back.clone().with_flags(RST)), Reason::Established);
        dropped(&s.sends_a(back.with_flags(ACK)), Reason::NoRule);
    });
}

// Covers: SEMANTICS 54
#[test]
fn connections_are_not_shared_between_pods() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        // B sends what would make A's answer, if A's and B's connections were one table.
        let poison = syn(A4, OUTSIDE, 80);
        dropped(
            &s.run(FromPod, B, B, &poison.clone().from_mac(mac(B))),
            Reason::Spoofed,
        );
        let verdict = s.run(ToPod, B, UPLINK, &poison.clone().reversed().to_mac(mac(B)));
        dropped(&verdict, Reason::WrongDestination);
        dropped(&s.sends_a(poison.reversed().with_flags(ACK)), Reason::NoRule);
    });
}
