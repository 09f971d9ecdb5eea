//! Headers, honest and not: addresses, options, fragments, other protocols.

use super::*;

// Covers: SEMANTICS 51, 53
#[test]
fn a_pod_can_not_be_someone_else() {
    sandbox::run(|| {
        let mut s = stage();
        passed(&s.a_sends(syn(A4, FRIEND, 80)), Reason::NotIsolated);
        dropped(&s.a_sends(syn(B4, FRIEND, 80)), Reason::Spoofed);
        dropped(
            &s.a_sends(syn(Ipv4Addr::UNSPECIFIED, FRIEND, 80)),
            Reason::Spoofed,
        );
        let wrong_mac = syn(A4, FRIEND, 80).from_mac(mac(B));
        dropped(&s.run(FromPod, A, A, &wrong_mac), Reason::Spoofed);
        let mut arp = |frame_mac, sender_mac, sender| {
            let frame = packet::arp(frame_mac, sender_mac, sender, [10, 244, 0, 1]);
            s.programs.run(FromPod, A, A, &frame).unwrap()
        };
        passed(&arp(mac(A), mac(A), A4.octets()), Reason::Neighbour);
        passed(&arp(mac(A), mac(A), [0; 4]), Reason::Neighbour);
        dropped(&arp(mac(A), mac(A), B4.octets()), Reason::Spoofed);
        dropped(&arp(mac(A), mac(B), A4.octets()), Reason::Spoofed);
        dropped(&arp(mac(B), mac(A), A4.octets()), Reason::Spoofed);
        // IPv6: its own address; the link's for neighbour discovery only.
        let link: IpAddr = "fe80::1".parse().unwrap();
        let all: IpAddr = "ff02::1".parse().unwrap();
        passed(
            &s.a_sends(Packet::tcp((six_ip(A), 1), (six_ip(B), 2), SYN)),
            Reason::NotIsolated,
        );
        dropped(
            &s.a_sends(Packet::tcp((six_ip(B), 1), (six_ip(B), 2), SYN)),
            Reason::Spoofed,
        );
        dropped(
            &s.a_sends(Packet::tcp((link, 1), (six_ip(B), 2), SYN)),
            Reason::Spoofed,
        );
        let advertise = |target: Addr, hops| {
            let mut rest = vec![0x20, 0, 0, 0];
            rest.extend(target.0);
            let mut packet = Packet::icmp(link, all, 136, 0, &rest);
            packet.hops = hops;
            packet
        };
        passed(&s.a_sends(advertise(six(A), 255)), Reason::Neighbour);
        // Of the link's addresses, the one that its MAC address makes.
        let [a, b, c, d, e, f] = mac(A);
        let own = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
        passed(&s.a_sends(advertise(Addr(own), 255)), Reason::Neighbour);
        dropped(&s.a_sends(advertise(Addr::from(link), 255)), Reason::Spoofed);
        // A pod is no router: no advertisement, no redirect, no query of listeners; asking is fine.
        for (kind, hops, honest) in [
            (133, 255, true),
            (134, 255, false),
            (137, 255, false),
            (130, 1, false),
            (143, 1, true),
        ] {
            let mut packet = Packet::icmp(link, all, kind, 0, &[0; 20]);
            packet.hops = hops;
            let verdict = s.a_sends(packet);
            if honest {
                passed(&verdict, Reason::Neighbour);
            } else {
                dropped(&verdict, Reason::Spoofed);
            }
        }
        dropped(&s.a_sends(advertise(six(B), 255)), Reason::Spoofed);
        dropped(&s.a_sends(advertise(six(A), 64)), Reason::Spoofed);
        // A frame for someone else that the bridge flooded, and one that was meant to be taken in.
        dropped(&s.sends_a(syn(FRIEND, B4, 80)), Reason::WrongDestination);
        assert!(!s.programs.told().is_empty());
        dropped(
            &s.run(ToPod, A, UPLINK, &syn(FRIEND, B4, 80)),
            Reason::WrongDestination,
        );
        assert!(s.programs.told().is_empty());
    });
}

#[test]
fn what_is_not_ip_passes_only_without_policy() {
    sandbox::run(|| {
        let mut s = stage();
        let tagged =
            |ethertype| packet::frame(mac(A), ethertype, &[0, 5, 8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for (ethertype, reason) in [
            (0x88cc, Reason::NotIp),
            (0x0026, Reason::NotIp),
            (0x8100, Reason::Vlan),
            (0x88a8, Reason::Vlan),
        ] {
            for (program, came_by) in [(FromPod, A), (ToPod, B)] {
                let s = stage_again(&mut s);
                passed(
                    &s.programs.run(program, A, came_by, &tagged(ethertype)).unwrap(),
                    Reason::NotIsolated,
                );
                s.isolate(Direction::Ingress);
                s.isolate(Direction::Egress);
                dropped(
                    &s.programs.run(program, A, came_by, &tagged(ethertype)).unwrap(),
                    reason,
                );
            }
        }
    });
}

/// Nothing isolated again.
fn stage_again(s: &mut Stage) -> &mut Stage {
    s.a.ingress = SlotRef::new(OPEN, 1);
    s.a.egress = SlotRef::new(OPEN, 1);
    s.put(Entry::Endpoint(A, s.a));
    s
}

// Covers: SEMANTICS 49, 52
#[test]
fn options_and_extension_headers_are_walked() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        let ranges = [range(protocol::TCP, 80, 80, 71)];
        s.verdict(IN, FRIENDS, entry(0, &ranges, 0));
        s.verdict(IN, NEIGHBOUR, entry(0, &ranges, 0));
        for length in [4, 8, 40] {
            let options = vec![1; length];
            passed(
                &s.sends_a(syn(FRIEND, A4, 80).with_options(&options)),
                Reason::Rule,
            );
            dropped(
                &s.sends_a(syn(FRIEND, A4, 81).with_options(&options)),
                Reason::NoRule,
            );
        }
        let six = |port| Packet::tcp((six_ip(B), 40_000), (six_ip(A), port), SYN);
        passed(&s.sends_a(six(80)), Reason::Rule);
        dropped(&s.sends_a(six(81)), Reason::NoRule);
        for count in 1..=6 {
            let mut good = six(80);
            let mut bad = six(81);
            for number in [0, 60, 43, 60, 60, 60].into_iter().take(count) {
                good = good.with_extension(number);
                bad = bad.with_extension(number);
            }
            passed(&s.sends_a(good), Reason::Rule);
            dropped(&s.sends_a(bad), Reason::NoRule);
        }
        let mut many = six(80);
        for _ in 0..7 {
            many = many.with_extension(60);
        }
        dropped(&s.sends_a(many), Reason::Malformed);
        // A routing header that is not used up: where it goes is not what the header says.
        dropped(&s.sends_a(six(80).routed_on()), Reason::Malformed);
        // Authentication and encryption are protocols of their own: no ports, so no rule.
        dropped(
            &s.sends_a(Packet::new(six_ip(B), six_ip(A), 51, &[6; 24])),
            Reason::NoRule,
        );
        // IPv4 in IPv6's clothes is nobody's address.
        let mapped: IpAddr = "::ffff:10.244.1.5".parse().unwrap();
        let mut disguised = six(80);
        disguised.source = mapped;
        dropped(&s.sends_a(disguised), Reason::Malformed);
    });
}

// Covers: SEMANTICS 50
#[test]
fn what_can_not_be_read_is_dropped_for_an_isolated_pod() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        s.verdict(IN, FRIENDS, entry(allow::BOTH, &[], 0));
        s.verdict(IN, NEIGHBOUR, entry(allow::BOTH, &[], 0));
        // The kernel takes no frame without a whole IP header here; those are the parser's own tests' concern.
        let whole = syn(FRIEND, A4, 80).to_mac(mac(A)).bytes();
        for length in 34..whole.len() {
            let verdict = s.programs.run(ToPod, A, UPLINK, &whole[..length]).unwrap();
            dropped(&verdict, Reason::Malformed);
        }
        let whole = Packet::tcp((six_ip(B), 1), (six_ip(A), 80), SYN)
            .to_mac(mac(A))
            .bytes();
        for length in 54..whole.len() {
            let verdict = s.programs.run(ToPod, A, UPLINK, &whole[..length]).unwrap();
            dropped(&verdict, Reason::Malformed);
        }
        for error in [1, -1, -20, -30] {
            let mut packet = syn(FRIEND, A4, 80);
            packet.length_error = error;
            dropped(&s.sends_a(packet), Reason::Malformed);
        }
        // A header length below the minimum, a version that is not the frame's, a TCP header too short for TCP.
        for (offset, value) in [(14, 0x44), (14, 0x65), (14 + 20 + 12, 0x40)] {
            let mut bytes = syn(FRIEND, A4, 80).to_mac(mac(A)).bytes();
            bytes[offset] = value;
            dropped(
                &s.programs.run(ToPod, A, UPLINK, &bytes).unwrap(),
                Reason::Malformed,
            );
        }
        passed(&s.sends_a(syn(FRIEND, A4, 80)), Reason::Rule);
    });
}

// Covers: SEMANTICS 48, 52
#[test]
fn fragments_follow_the_first_one() {
    sandbox::run(|| {
        let mut s = stage();
        s.isolate(Direction::Ingress);
        s.isolate(Direction::Egress);
        s.verdict(IN, FRIENDS, entry(0, &[range(protocol::UDP, 53, 53, 1)], 0));
        s.verdict(IN, NEIGHBOUR, entry(0, &[range(protocol::UDP, 53, 53, 1)], 0));
        s.verdict(OUT, FRIENDS, entry(0, &[range(protocol::UDP, 53, 53, 1)], 0));
        let first = |port, id| Packet::udp((FRIEND, 1), (A4, port)).as_fragment(id, 0, true);
        // Its payload looks like a header with a port that is allowed.
        let later = |id| Packet::udp((FRIEND, 1), (A4, 53)).as_fragment(id, 16, false);
        dropped(&s.sends_a(later(1)), Reason::Fragment);
        dropped(&s.sends_a(first(99, 1)), Reason::NoRule);
        dropped(&s.sends_a(later(1)), Reason::Fragment);
        passed(&s.sends_a(first(53, 2)), Reason::Rule);
        passed(&s.sends_a(later(2)), Reason::Established);
        passed(&s.sends_a(later(2)), Reason::Established);
        dropped(&s.sends_a(later(3)), Reason::Fragment);
        // A second first fragment that is denied takes the permission back.
        dropped(&s.sends_a(first(99, 2)), Reason::NoRule);
        dropped(&s.sends_a(later(2)), Reason::Fragment);
        // A known connection, another datagram.
        passed(&s.sends_a(first(53, 4)), Reason::Established);
        passed(&s.sends_a(later(4)), Reason::Established);
        s.bump();
        dropped(&s.sends_a(later(4)), Reason::Fragment);
        // IPv6, with an extension header before the fragment header.
        let first6 = Packet::udp((six_ip(B), 1), (six_ip(A), 53))
            .with_extension(60)
            .as_fragment(7, 0, true);
        let later6 = Packet::udp((six_ip(B), 1), (six_ip(A), 53))
            .with_extension(60)
            .as_fragment(7, 16, false);
        dropped(&s.sends_a(later6.clone()), Reason::Fragment);
        passed(&s.sends_a(first6), Reason::Rule);
        passed(&s.sends_a(later6), Reason::Established);
        // From the pod: judged here for pods; the node puts together what goes beyond.
        let out = |to, id, offset| Packet::udp((A4, 1), (to, 53)).as_fragment(id, offset, offset == 0);
        dropped(&s.a_sends(out(FRIEND, 8, 16)), Reason::Fragment);
        passed(&s.a_sends(out(FRIEND, 8, 0)), Reason::Rule);
        passed(&s.a_sends(out(FRIEND, 8, 16)), Reason::Established);
        passed(&s.a_sends(out(OUTSIDE, 9, 16)), Reason::Deferred);
        dropped(&s.run(FromBridge, 99, A, &out(OUTSIDE, 9, 16)), Reason::Fragment);
    });
}
