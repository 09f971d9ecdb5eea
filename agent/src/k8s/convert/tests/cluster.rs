//! ClusterNetworkPolicies: manifests in, model out.

use vethwall_policy::model::{
    ClusterNetworkPolicy, ClusterRule, Peer, Peers, PortMatch, Ports, RuleAction, Selector,
};

use super::*;

const HEAD: &str = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n";

/// The text of a policy for every pod.
fn text(name: &str, rules: &str) -> String {
    format!(
        "{HEAD}metadata: {{name: {name}}}\nspec:\n  tier: Admin\n  priority: 7\n  subject: {{namespaces: {{}}}}\n{rules}"
    )
}

/// The only object of a text, and the codes and messages of its problems.
fn only(text: &str) -> (ClusterNetworkPolicy, Vec<(&'static str, String)>) {
    let (objects, problems) = read(text);
    let [Object::ClusterNetworkPolicy(policy)] = objects.as_slice() else {
        panic!("{text}: {objects:?} {problems:?}")
    };
    (policy.clone(), problems)
}

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

fn everything() -> Selector {
    Selector::everything()
}

fn labelled(value: &str) -> Selector {
    Selector::labels([("l", value)])
}

fn pods(namespaces: Selector, pods: Selector) -> Peer {
    Peer::Pods {
        namespaces: Some(namespaces),
        pods,
    }
}

fn block(cidr: &str) -> Peer {
    Peer::Block {
        cidr: net(cidr),
        except: vec![],
    }
}

/// Denies everything, both ways.
fn closed(policy: &ClusterNetworkPolicy) -> bool {
    let deny = [ClusterRule {
        name: None,
        action: RuleAction::Deny,
        peers: Peers::All,
        ports: Ports::All,
    }];
    policy.tier == Tier::Admin && policy.priority == 0 && policy.ingress == deny && policy.egress == deny
}

// Covers: CNP 1, 3
#[test]
fn a_policy_stands_where_its_tier_and_priority_say_and_its_rules_keep_their_order() {
    for (tier, priority) in [("Admin", 0), ("Admin", 1000), ("Baseline", 500)] {
        let (policy, problems) = only(&format!(
            "{HEAD}metadata: {{name: p}}\nspec: {{tier: {tier}, priority: {priority}, subject: {{namespaces: {{}}}}, ingress: [\
             {{name: one, action: Deny, from: [{{namespaces: {{}}}}]}}, {{action: Pass, from: [{{namespaces: {{}}}}]}},\
             {{name: '', action: Accept, from: [{{namespaces: {{}}}}]}}]}}\n"
        ));
        assert_eq!(problems, []);
        assert_eq!(
            (format!("{:?}", policy.tier), policy.priority),
            (tier.to_owned(), priority)
        );
        let rules: Vec<_> = policy
            .ingress
            .iter()
            .map(|rule| (rule.name.as_deref(), rule.action))
            .collect();
        let expected = [
            (Some("one"), RuleAction::Deny),
            (None, RuleAction::Pass),
            (None, RuleAction::Accept),
        ];
        assert_eq!(rules, expected);
        assert_eq!(policy.egress, [], "it says nothing of egress");
    }
}

#[test]
fn the_subject_is_namespaces_or_pods_in_them() {
    let cases = [
        ("{namespaces: {}}", everything(), everything()),
        ("{namespaces: {matchLabels: {l: n}}}", labelled("n"), everything()),
        ("{pods: {}}", everything(), everything()),
        (
            "{pods: {podSelector: {matchLabels: {l: p}}}}",
            everything(),
            labelled("p"),
        ),
        (
            "{pods: {namespaceSelector: {matchLabels: {l: n}}, podSelector: null}}",
            labelled("n"),
            everything(),
        ),
        (
            "{namespaces: null, pods: {namespaceSelector: {matchLabels: {l: n}}, podSelector: {matchLabels: {l: p}}}}",
            labelled("n"),
            labelled("p"),
        ),
    ];
    for (subject, namespaces, pods) in cases {
        let (policy, problems) = only(&format!(
            "{HEAD}metadata: {{name: p}}\nspec: {{tier: Admin, priority: 1, subject: {subject}}}\n"
        ));
        assert_eq!((policy.namespaces, policy.pods), (namespaces, pods), "{subject}");
        assert_eq!(
            (policy.ingress, policy.egress, problems),
            (vec![], vec![], vec![]),
            "{subject}"
        );
    }
}

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
            "{tcp: {destinationPort: {range: {start: 5, end: 5}}}}",
            vec![range(protocol::TCP, 5, 5)],
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
fn an_unknown_tier_is_the_first_and_never_opens_there() {
    for tier in ["tier: admin", "tier: null", "tier: ''", ""] {
        let all = "from: [{namespaces: {}}]";
        let text = text(
            "p",
            &format!(
                "  ingress: [{{action: Accept, {all}}}, {{action: Pass, {all}}}, {{action: Deny, {all}}}]\n"
            ),
        );
        let (policy, problems) = only(&text.replace("tier: Admin", tier));
        assert_eq!((policy.tier, policy.priority), (Tier::Admin, 7), "{tier}");
        assert_eq!(
            problems.iter().map(|(code, _)| *code).collect::<Vec<_>>(),
            ["POL015"],
            "{tier}"
        );
        let matches: Vec<_> = policy.ingress.iter().map(|rule| rule.peers.clone()).collect();
        let nothing = Peers::Some(vec![Peer::Nothing]);
        let expected = [
            nothing.clone(),
            nothing,
            Peers::Some(vec![pods(everything(), everything())]),
        ];
        assert_eq!(matches, expected, "{tier}");
    }
}

// Covers: SEMANTICS 18
#[test]
fn a_policy_that_was_never_understood_closes_its_subject() {
    let spec = |spec: &str| format!("{HEAD}metadata: {{name: p}}\nspec: {spec}\n");
    let n = "{namespaces: {matchLabels: {l: n}}}";
    let p = "{pods: {namespaceSelector: {matchLabels: {l: n}}, podSelector: {matchLabels: {l: p}}}}";
    let bad = "{pods: {namespaceSelector: {matchLabels: {l: n}}, podSelector: {matchLabel: {l: p}}}}";
    let near = "{namespaces: {matchLabels: {l: n}, matchExpressions: [{key: a, operator: Near}]}}";
    let cases = [
        (
            format!("{{tier: Admin, subject: {n}}}"),
            labelled("n"),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: -1, subject: {n}}}"),
            labelled("n"),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: 1001, subject: {p}}}"),
            labelled("n"),
            labelled("p"),
        ),
        (
            format!("{{tier: Baseline, priority: 1, subject: {n}, ingresss: []}}"),
            labelled("n"),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: x, subject: {n}}}"),
            labelled("n"),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: 1, subject: {bad}}}"),
            labelled("n"),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: 1, subject: {near}}}"),
            labelled("n"),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: 1, subject: {n}, egress: [{{action: Deny, too: []}}]}}"),
            labelled("n"),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: 1, subject: {n}, egress: [{{action: Deny, from: []}}]}}"),
            labelled("n"),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: 1, subject: {n}, ingress: [null]}}"),
            labelled("n"),
            everything(),
        ),
        (
            "{tier: Admin, priority: 1}".to_owned(),
            everything(),
            everything(),
        ),
        (
            "{tier: Admin, priority: 1, subject: {}}".to_owned(),
            everything(),
            everything(),
        ),
        (
            "{tier: Admin, priority: 1, subject: {nodes: {}}}".to_owned(),
            everything(),
            everything(),
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {l: n}}, pods: {}}}".to_owned(),
            everything(),
            everything(),
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {l: n}}, users: {}}}".to_owned(),
            everything(),
            everything(),
        ),
        // No JSON has such a number.
        (
            format!(
                "{{tier: Admin, priority: 1, subject: {n}, ingress: [{{action: Accept, protocols: [{{tcp: {{destinationPort: .nan}}}}]}}]}}"
            ),
            labelled("n"),
            everything(),
        ),
        ("5".to_owned(), everything(), everything()),
        (String::new(), everything(), everything()),
    ];
    for (text, namespaces, pods) in cases {
        let (policy, problems) = only(&spec(&text));
        assert!(closed(&policy), "{text}: {policy:?}");
        assert_eq!((&policy.namespaces, &policy.pods), (&namespaces, &pods), "{text}");
        assert_eq!(policy.mode, Mode::Enforce, "{text}");
        assert_eq!(problems[0].0, "POL010", "{text}");
        let expected = if namespaces == everything() {
            "every pod may"
        } else {
            "the pods it selects may"
        };
        assert!(problems[0].1.contains(expected), "{text}: {}", problems[0].1);
    }
}
