//! Rules of ClusterNetworkPolicies: actions, peers, protocols, and what of them is not understood.

use vethwall_policy::model::{ClusterRule, Peer, Peers, PortMatch, Ports, RuleAction};

use super::{
    cluster::{everything, labelled, only, pods, text},
    *,
};

/// The only rule of a policy, and the codes of its problems.
fn rule(direction: &str, rule: &str) -> (ClusterRule, Vec<&'static str>) {
    let (policy, problems) = only(&text("p", &format!("  {direction}: [{rule}]\n")));
    let rules = if direction == "ingress" {
        assert_eq!(policy.egress, []);
        policy.ingress
    } else {
        assert_eq!(policy.ingress, []);
        policy.egress
    };
    let [rule] = rules.as_slice() else {
        panic!("{rules:?}")
    };
    (rule.clone(), problems.into_iter().map(|(code, _)| code).collect())
}

/// The peers that an entry of `from` or `to` means in a rule with this action.
fn peers(direction: &str, action: &str, entry: &str) -> (Vec<Peer>, Vec<&'static str>) {
    let field = if direction == "ingress" { "from" } else { "to" };
    let (rule, problems) = rule(direction, &format!("{{action: {action}, {field}: [{entry}]}}"));
    assert_eq!(rule.ports, Ports::All);
    match rule.peers {
        Peers::Some(peers) => (peers, problems),
        Peers::All => panic!("{entry}"),
    }
}

/// The ports that an entry of `protocols` means.
fn ports(action: &str, entry: &str) -> (Vec<PortMatch>, Vec<&'static str>) {
    let (rule, problems) = rule(
        "ingress",
        &format!("{{action: {action}, from: [{{namespaces: {{}}}}], protocols: [{entry}]}}"),
    );
    match rule.ports {
        Ports::Some(ports) => (ports, problems),
        Ports::All => panic!("{entry}"),
    }
}

fn block(cidr: &str) -> Peer {
    Peer::Block {
        cidr: net(cidr),
        except: vec![],
    }
}

// Covers: CNP 5
#[test]
fn peers_are_what_their_field_says() {
    let both = ["ingress", "egress"];
    let cases: [(&[&str], &str, Vec<Peer>); 10] = [
        (&both, "{namespaces: {}}", vec![pods(everything(), everything())]),
        (
            &both,
            "{namespaces: {matchLabels: {l: n}}}",
            vec![pods(labelled("n"), everything())],
        ),
        (
            &both,
            "{namespaces: {}, pods: null}",
            vec![pods(everything(), everything())],
        ),
        (&both, "{pods: {}}", vec![pods(everything(), everything())]),
        (
            &both,
            "{pods: {podSelector: {matchLabels: {l: p}}}}",
            vec![pods(everything(), labelled("p"))],
        ),
        (
            &both,
            "{pods: {namespaceSelector: {matchLabels: {l: n}}, podSelector: {matchLabels: {l: p}}}}",
            vec![pods(labelled("n"), labelled("p"))],
        ),
        (&["egress"], "{nodes: {}}", vec![Peer::Nodes(everything())]),
        (
            &["egress"],
            "{nodes: {matchLabels: {l: n}}}",
            vec![Peer::Nodes(labelled("n"))],
        ),
        (
            &["egress"],
            "{networks: [10.0.0.0/8, 'fd00::/8']}",
            vec![block("10.0.0.0/8"), block("fd00::/8")],
        ),
        (
            &["egress"],
            "{networks: [010.1.2.3/8]}",
            vec![block("10.0.0.0/8")],
        ),
    ];
    for (directions, entry, expected) in cases {
        for direction in directions {
            for action in ["Accept", "Deny", "Pass"] {
                assert_eq!(
                    peers(direction, action, entry),
                    (expected.clone(), vec![]),
                    "{direction} {entry}"
                );
            }
        }
    }
}

// Covers: CNP 6
#[test]
fn peers_that_are_not_understood_fail_closed() {
    let both = ["ingress", "egress"];
    let cases: [(&[&str], &str, &str); 22] = [
        (&both, "{}", "POL012"),
        (&both, "{namespaces: null}", "POL012"),
        (&both, "5", "POL012"),
        (&both, "[]", "POL012"),
        (&both, "{colour: {}}", "POL012"),
        (&both, "{colour: null}", "POL012"),
        (&both, "{namespaces: {}, colour: {}}", "POL012"),
        (&both, "{namespaces: {}, colour: null}", "POL012"),
        (&both, "{namespaces: {}, pods: {}}", "POL012"),
        (&both, "{namespaces: {matchLabel: {a: b}}}", "POL012"),
        (&both, "{namespaces: {matchLabels: {a: 1}}}", "POL012"),
        (&both, "{namespaces: 5}", "POL012"),
        (&both, "{pods: {podSelector: {}, serviceAccounts: {}}}", "POL012"),
        (
            &both,
            "{pods: {podSelector: {matchExpressions: [{key: a, operator: Near}]}}}",
            "POL006",
        ),
        (
            &both,
            "{namespaces: {matchExpressions: [{key: a, operator: In}]}}",
            "POL006",
        ),
        (&both, "{domainNames: [example.org]}", "POL012"),
        (&["ingress"], "{nodes: {}}", "POL012"),
        (&["ingress"], "{networks: [10.0.0.0/8]}", "POL012"),
        (&["egress"], "{networks: [10.0.0.0/8, 10.0.0.0/33]}", "POL002"),
        (&["egress"], "{networks: []}", "POL012"),
        (&["egress"], "{networks: 10.0.0.0/8}", "POL012"),
        (
            &["egress"],
            "{nodes: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            "POL006",
        ),
    ];
    for (directions, entry, code) in cases {
        for direction in directions {
            for (action, peer) in [
                ("Accept", Peer::Nothing),
                ("Deny", Peer::Everything),
                ("Pass", Peer::Everything),
            ] {
                assert_eq!(
                    peers(direction, action, entry),
                    (vec![peer], vec![code]),
                    "{direction} {action} {entry}"
                );
            }
        }
    }
}

// Covers: CNP 6
#[test]
fn an_entry_that_is_not_understood_leaves_its_neighbours_alone() {
    let (peers, problems) = peers("ingress", "Accept", "{namespaces: {}}, {colour: {}}, {pods: {}}");
    let all = || pods(everything(), everything());
    assert_eq!(
        (peers, problems),
        (vec![all(), Peer::Nothing, all()], vec!["POL012"])
    );
    let (ports, problems) = ports("Deny", "{tcp: {}}, {quic: {}}");
    assert_eq!(
        (ports, problems),
        (
            vec![PortMatch::Protocol(protocol::TCP), PortMatch::Everything],
            vec!["POL013"]
        )
    );
}

// Covers: CNP 6
#[test]
fn a_rule_without_peers_fails_closed() {
    for (direction, field) in [("ingress", "from"), ("egress", "to")] {
        for peers in [
            String::new(),
            format!(", {field}: []"),
            format!(", {field}: null"),
        ] {
            for (action, expected) in [
                ("Accept", Peers::Some(vec![Peer::Nothing])),
                ("Deny", Peers::All),
                ("Pass", Peers::All),
            ] {
                let (rule, problems) = rule(direction, &format!("{{action: {action}{peers}}}"));
                assert_eq!(
                    (rule.peers, problems),
                    (expected, vec!["POL012"]),
                    "{action} {peers}"
                );
            }
        }
    }
}

// Covers: CNP 7
#[test]
fn protocols_are_what_their_field_says() {
    for protocols in ["", ", protocols: []", ", protocols: null"] {
        let (rule, problems) = rule(
            "egress",
            &format!("{{action: Deny, to: [{{namespaces: {{}}}}]{protocols}}}"),
        );
        assert_eq!((rule.ports, problems), (Ports::All, vec![]), "{protocols}");
    }
    let range = |protocol, first, last| PortMatch::Range {
        protocol,
        first,
        last,
    };
    let named = |name: &str| {
        [protocol::TCP, protocol::UDP, protocol::SCTP].map(|protocol| PortMatch::Named {
            protocol,
            name: name.to_owned(),
        })
    };
    let cases = [
        ("{tcp: {}}", vec![PortMatch::Protocol(protocol::TCP)]),
        (
            "{udp: {destinationPort: null}}",
            vec![PortMatch::Protocol(protocol::UDP)],
        ),
        (
            "{sctp: {destinationPort: {number: 1}}}",
            vec![range(protocol::SCTP, 1, 1)],
        ),
        (
            "{tcp: {destinationPort: {number: 65535}}}",
            vec![range(protocol::TCP, 65535, 65535)],
        ),
        (
            "{udp: {destinationPort: {range: {start: 1, end: 65535}}}}",
            vec![range(protocol::UDP, 1, 65535)],
        ),
        (
            "{tcp: {destinationPort: {range: {start: 5, end: 6}}}}",
            vec![range(protocol::TCP, 5, 6)],
        ),
        ("{destinationNamedPort: http}", named("http").to_vec()),
        ("{destinationNamedPort: h, tcp: null}", named("h").to_vec()),
        (
            "{tcp: {}}, {udp: {}}",
            vec![
                PortMatch::Protocol(protocol::TCP),
                PortMatch::Protocol(protocol::UDP),
            ],
        ),
    ];
    for (entry, expected) in cases {
        for action in ["Accept", "Deny", "Pass"] {
            assert_eq!(ports(action, entry), (expected.clone(), vec![]), "{entry}");
        }
    }
}

// Covers: CNP 6
#[test]
fn protocols_that_are_not_understood_fail_closed() {
    let cases = [
        ("{}", "POL013"),
        ("{tcp: null}", "POL013"),
        ("7", "POL013"),
        ("{icmp: {}}", "POL013"),
        ("{TCP: {}}", "POL013"),
        ("{tcp: {}, icmp: {}}", "POL013"),
        ("{tcp: {}, udp: {}}", "POL013"),
        ("{tcp: {}, destinationNamedPort: ''}", "POL013"),
        ("{tcp: {flags: [SYN]}}", "POL013"),
        ("{tcp: {destinationPort: 80}}", "POL013"),
        ("{tcp: {destinationPort: {number: '80'}}}", "POL013"),
        ("{tcp: {destinationPort: {number: 80, set: [1]}}}", "POL013"),
        ("{tcp: {destinationPort: {range: {start: 1}}}}", "POL013"),
        ("{tcp: {destinationPort: {}}}", "POL003"),
        ("{tcp: {destinationPort: {number: 0}}}", "POL003"),
        ("{tcp: {destinationPort: {number: -1}}}", "POL003"),
        ("{tcp: {destinationPort: {number: 65536}}}", "POL003"),
        (
            "{tcp: {destinationPort: {number: 1, range: {start: 1, end: 2}}}}",
            "POL003",
        ),
        ("{tcp: {destinationPort: {range: {start: 2, end: 1}}}}", "POL003"),
        ("{tcp: {destinationPort: {range: {start: 5, end: 5}}}}", "POL003"),
        ("{tcp: {destinationPort: {range: {start: 0, end: 1}}}}", "POL003"),
        (
            "{tcp: {destinationPort: {range: {start: 1, end: 65536}}}}",
            "POL003",
        ),
        ("{destinationNamedPort: ''}", "POL003"),
        ("{destinationNamedPort: '80'}", "POL003"),
        ("{destinationNamedPort: 80}", "POL013"),
    ];
    for (entry, code) in cases {
        for (action, port) in [
            ("Accept", PortMatch::Nothing),
            ("Deny", PortMatch::Everything),
            ("Pass", PortMatch::Everything),
        ] {
            assert_eq!(ports(action, entry), (vec![port], vec![code]), "{action} {entry}");
        }
    }
}

#[test]
fn an_unknown_action_denies() {
    for action in ["accept", "''", "Allow", "null"] {
        let (rule, problems) = rule(
            "ingress",
            &format!("{{action: {action}, from: [{{namespaces: {{}}}}]}}"),
        );
        assert_eq!(
            (rule.action, problems),
            (RuleAction::Deny, vec!["POL014"]),
            "{action}"
        );
        assert_eq!(rule.peers, Peers::Some(vec![pods(everything(), everything())]));
    }
    let (rule, problems) = rule("ingress", "{action: Log, from: [{}]}");
    assert_eq!(
        rule.peers,
        Peers::Some(vec![Peer::Everything]),
        "it denies, so it closes by matching"
    );
    assert_eq!(problems, ["POL014", "POL012"]);
}

#[test]
fn problems_name_the_field_and_what_it_means() {
    let rules = "  ingress:\n  - {action: Accept, from: [{namespace: {}}]}\n  - {action: Deny, from: [{pods: {podSelectors: {}}}], protocols: [{tpc: {}}]}\n\
                 \x20 egress:\n  - {action: Pass, to: [{domainNames: [a.b]}, {networks: [10/8]}]}\n  - {action: Accept, to: [{}], protocols: [{tcp: {destinationPort: {number: 0}}}]}\n\
                 \x20 - {action: deny, to: [{nodes: {}, pods: {}}]}\n";
    let (_, problems) = only(&text("p", rules));
    let messages: Vec<_> = problems.iter().map(|(_, message)| message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "spec.ingress[0].from[0]: unknown field namespace (did you mean namespaces?); nobody is accepted by it",
            "spec.ingress[1].from[0].pods: unknown field podSelectors; the rule denies every peer",
            "spec.ingress[1].protocols[0]: unknown field tpc (did you mean tcp?); the rule denies every protocol and port",
            "spec.egress[0].to[0].domainNames: domain names are not supported; the rule passes every peer",
            "spec.egress[0].to[1].networks[0]: expected a network such as 10.0.0.0/8, found \"10/8\"; the rule passes every peer",
            "spec.egress[1].to[0]: expected one of namespaces, pods, nodes, networks, found none; nobody is accepted by it",
            "spec.egress[1].protocols[0].tcp.destinationPort.number: expected 1 to 65535, found 0; nothing is accepted by it",
            "spec.egress[2].action: expected Accept, Deny or Pass, found \"deny\"; the rule denies",
            "spec.egress[2].to[0]: expected one of namespaces, pods, nodes, networks, found nodes and pods; the rule denies every peer",
        ]
    );
    let (_, problems) = only(&text(
        "p",
        "  ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}, {action: Accept}]\n",
    ));
    let messages: Vec<_> = problems.iter().map(|(_, message)| message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "spec.ingress[0].from[0].networks: networks are no peers of ingress rules; the rule denies every peer",
            "spec.ingress[1].from: expected at least one peer; the rule accepts nothing",
        ]
    );
}
