//! NetworkPolicies.

use vethwall_policy::model::{Peer, Peers, PortMatch, Ports, Rule, Selector};

use super::*;

// Covers: SEMANTICS 5, 6, 7
#[test]
fn directions_follow_policy_types_or_their_default() {
    let cases: [(&str, bool, bool, &[&str]); 12] = [
        ("{}", true, false, &[]),
        ("{ingress: [{}]}", true, false, &[]),
        ("{egress: []}", true, false, &[]),
        ("{egress: [{}]}", true, true, &[]),
        ("{policyTypes: [], egress: [{}]}", true, true, &[]),
        ("{policyTypes: [Ingress], egress: [{}]}", true, false, &[]),
        ("{policyTypes: [Egress]}", false, true, &[]),
        ("{policyTypes: [Egress, Egress, Ingress]}", true, true, &[]),
        ("{policyTypes: [egress]}", false, true, &["POL005"]),
        ("{policyTypes: [ingress]}", true, false, &["POL005"]),
        ("{policyTypes: [Both]}", true, true, &["POL005"]),
        ("", true, false, &[]),
    ];
    for (spec, ingress, egress, codes) in cases {
        let (policy, problems) = policy(spec);
        assert_eq!(
            (policy.ingress.is_some(), policy.egress.is_some()),
            (ingress, egress),
            "{spec}"
        );
        assert_eq!(problems, codes, "{spec}");
        assert_eq!(policy.pod_selector, Selector::everything());
    }
}

// Covers: SEMANTICS 9
#[test]
fn absent_and_empty_peers_and_ports_are_all() {
    for spec in [
        "{ingress: [{}]}",
        "{ingress: [{from: [], ports: []}]}",
        "{ingress: [{from: null, ports: null}]}",
    ] {
        let (policy, problems) = policy(spec);
        assert_eq!(
            policy.ingress,
            Some(vec![Rule {
                peers: Peers::All,
                ports: Ports::All
            }]),
            "{spec}"
        );
        assert_eq!(problems, [""; 0]);
    }
}

// Covers: SEMANTICS 11, 12, 13, 14, 15
#[test]
fn peers_are_what_their_fields_say() {
    let app = |value| Selector::labels([("app", value)]);
    let everything = Selector::everything;
    let cases: [(&str, Peer, &[&str]); 9] = [
        (
            "{podSelector: {matchLabels: {app: a}}}",
            Peer::Pods {
                namespaces: None,
                pods: app("a"),
            },
            &[],
        ),
        (
            "{podSelector: {}}",
            Peer::Pods {
                namespaces: None,
                pods: everything(),
            },
            &[],
        ),
        (
            "{namespaceSelector: {}}",
            Peer::Pods {
                namespaces: Some(everything()),
                pods: everything(),
            },
            &[],
        ),
        (
            "{namespaceSelector: {matchLabels: {app: n}}, podSelector: {matchLabels: {app: a}}}",
            Peer::Pods {
                namespaces: Some(app("n")),
                pods: app("a"),
            },
            &[],
        ),
        ("{}", Peer::Nothing, &["POL001"]),
        ("{podSelector: null}", Peer::Nothing, &["POL001"]),
        (
            "{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}",
            Peer::Nothing,
            &["POL001"],
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/8}}",
            Peer::Block {
                cidr: net("10.0.0.0/8"),
                except: vec![],
            },
            &[],
        ),
        ("{ipBlock: {cidr: 10.0.0.0/33}}", Peer::Nothing, &["POL002"]),
    ];
    for (text, expected, codes) in cases {
        assert_eq!(peer(text), (expected, codes.to_vec()), "{text}");
    }
}

// Covers: SEMANTICS 22
#[test]
fn a_hole_that_can_not_be_read_closes_its_block() {
    let block = |except: &[&str]| Peer::Block {
        cidr: net("10.0.0.0/8"),
        except: except.iter().map(|text| net(text)).collect(),
    };
    assert_eq!(
        peer("{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}"),
        (block(&["10.1.0.0/16"]), vec![])
    );
    assert_eq!(
        peer("{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0]}}"),
        (Peer::Nothing, vec!["POL002"])
    );
    let outside = peer("{ipBlock: {cidr: 10.0.0.0/8, except: [192.168.0.0/16]}}");
    assert_eq!(outside, (block(&["192.168.0.0/16"]), vec!["POL008"]));
}

// Covers: SEMANTICS 25, 26, 27, 28
#[test]
fn ports_are_what_their_fields_say() {
    let range = |protocol, first, last| PortMatch::Range {
        protocol,
        first,
        last,
    };
    let (tcp, udp, sctp) = (protocol::TCP, protocol::UDP, protocol::SCTP);
    let cases: [(&str, PortMatch, &[&str]); 19] = [
        ("{port: 80}", range(tcp, 80, 80), &[]),
        ("{port: 80, protocol: null}", range(tcp, 80, 80), &[]),
        ("{port: 53, protocol: UDP}", range(udp, 53, 53), &[]),
        ("{protocol: SCTP}", PortMatch::Protocol(sctp), &[]),
        ("{}", PortMatch::Protocol(tcp), &[]),
        ("{port: 80, endPort: 80}", range(tcp, 80, 80), &[]),
        ("{port: 1, endPort: 65535}", range(tcp, 1, 65535), &[]),
        (
            "{port: http}",
            PortMatch::Named {
                protocol: tcp,
                name: "http".into(),
            },
            &[],
        ),
        (
            "{port: dns, protocol: UDP}",
            PortMatch::Named {
                protocol: udp,
                name: "dns".into(),
            },
            &[],
        ),
        ("{port: 80, endPort: 79}", PortMatch::Nothing, &["POL003"]),
        ("{endPort: 79}", PortMatch::Nothing, &["POL003"]),
        ("{port: http, endPort: 90}", PortMatch::Nothing, &["POL003"]),
        ("{port: \"80\"}", PortMatch::Nothing, &["POL003"]),
        ("{port: 0}", PortMatch::Nothing, &["POL003"]),
        ("{port: 65536}", PortMatch::Nothing, &["POL003"]),
        ("{port: -1}", PortMatch::Nothing, &["POL003"]),
        ("{port: 80, protocol: tcp}", PortMatch::Nothing, &["POL004"]),
        ("{protocol: ICMP}", PortMatch::Nothing, &["POL004"]),
        ("{protocol: \"\"}", PortMatch::Nothing, &["POL004"]),
    ];
    for (text, expected, codes) in cases {
        assert_eq!(port(text), (expected, codes.to_vec()), "{text}");
    }
}

// Covers: SEMANTICS 16, 17, 18
#[test]
fn selectors_that_can_not_be_evaluated_isolate_more_and_allow_less() {
    let spec = |selector: &str| {
        format!("{{podSelector: {selector}, ingress: [{{from: [{{podSelector: {selector}}}]}}]}}")
    };
    let bad = [
        "{matchLabels: {app: a}, matchExpressions: [{key: x, operator: Near, values: [y]}]}",
        "{matchLabels: {app: a}, matchExpressions: [{key: x, operator: In}]}",
        "{matchLabels: {app: a}, matchExpressions: [{key: x, operator: NotIn, values: []}]}",
        "{matchLabels: {app: a}, matchExpressions: [{key: x, operator: Exists, values: [y]}]}",
    ];
    for selector in bad {
        let (policy, problems) = policy(&spec(selector));
        assert_eq!(
            policy.pod_selector,
            Selector::labels([("app", "a")]),
            "{selector}"
        );
        let nothing = Rule {
            peers: Peers::Some(vec![Peer::Nothing]),
            ports: Ports::All,
        };
        assert_eq!(policy.ingress, Some(vec![nothing]), "{selector}");
        assert_eq!(problems, ["POL006", "POL006"], "{selector}");
    }
    let all = "{matchExpressions: [{key: a, operator: In, values: [x, y]}, {key: b, operator: NotIn, values: [z]}, \
               {key: c, operator: Exists}, {key: d, operator: DoesNotExist, values: []}]}";
    let (policy, problems) = policy(&spec(all));
    assert_eq!(
        (policy.pod_selector.to_string(), problems.len()),
        ("a in (x,y),b notin (z),c,!d".to_owned(), 0)
    );
}

#[test]
fn odd_label_values_are_compared_as_they_are() {
    let (policy, problems) =
        policy("{podSelector: {matchLabels: {app: \"not a/label value!\", empty: \"\"}}}");
    assert_eq!(
        policy.pod_selector,
        Selector::labels([("app", "not a/label value!"), ("empty", "")])
    );
    assert_eq!(problems, [""; 0]);
}

#[test]
fn a_policy_that_was_never_understood_isolates_both_ways_and_is_told() {
    let (policy, problems) = policy("{podSelector: {matchLabels: {app: a}}, ingresss: [{}]}");
    assert_eq!(policy.pod_selector, Selector::labels([("app", "a")]));
    assert_eq!((policy.ingress, policy.egress), (Some(vec![]), Some(vec![])));
    assert_eq!(problems, ["POL010"]);
    let texts = [(PathBuf::from("f.yaml"), policy_text("5").into_bytes())].into();
    let problems = convert(&Store::default().update(&load_texts(&texts))).problems;
    assert_eq!(
        (problems[0].file.clone(), problems[0].line),
        (Some("f.yaml".into()), 1)
    );
    let (policy, _) = super::policy("{podSelector: {matchLabls: {app: a}}}");
    assert_eq!(policy.pod_selector, Selector::everything());
}

#[test]
fn problems_name_the_place_and_the_policy() {
    let text = format!(
        "# one\n---\n{}",
        policy_text("{ingress: [{}, {from: [{podSelector: {}}, {}]}]}")
    );
    let texts = [(PathBuf::from("f.yaml"), text.into_bytes())].into();
    let converted = convert(&Store::default().update(&load_texts(&texts)));
    let expected = Problem {
        file: Some("f.yaml".into()),
        line: 3,
        policy: Some(PolicyRef {
            namespace: "n".into(),
            name: "p".into(),
        }),
        code: code::PEER,
        message:
            "spec.ingress[1].from[1]: expected podSelector, namespaceSelector or ipBlock; it matches nothing"
                .into(),
    };
    assert_eq!(converted.problems, [expected]);
}

// Covers: SEMANTICS 7, 8, 29
#[test]
fn rules_and_their_entries_are_all_kept_in_order() {
    for rules in ["null", "[]"] {
        let (policy, problems) = policy(&format!(
            "{{policyTypes: [Ingress, Egress], ingress: {rules}, egress: {rules}}}"
        ));
        assert_eq!(
            (policy.ingress, policy.egress),
            (Some(vec![]), Some(vec![])),
            "{rules}"
        );
        assert_eq!(problems, [""; 0]);
    }
    let (policy, problems) = policy(
        "{ingress: [{ports: [{port: 1}, {port: 2, protocol: UDP}]}, {from: [{podSelector: {}}, {namespaceSelector: {}}], ports: [{}]}, {}]}",
    );
    let port = |protocol, port| PortMatch::Range {
        protocol,
        first: port,
        last: port,
    };
    let pods = |namespaces| Peer::Pods {
        namespaces,
        pods: Selector::everything(),
    };
    let expected = [
        Rule {
            peers: Peers::All,
            ports: Ports::Some(vec![port(protocol::TCP, 1), port(protocol::UDP, 2)]),
        },
        Rule {
            peers: Peers::Some(vec![pods(None), pods(Some(Selector::everything()))]),
            ports: Ports::Some(vec![PortMatch::Protocol(protocol::TCP)]),
        },
        Rule {
            peers: Peers::All,
            ports: Ports::All,
        },
    ];
    assert_eq!(
        (policy.ingress.as_deref(), problems),
        (Some(expected.as_slice()), vec![])
    );
}

// Covers: SEMANTICS 16, 17
#[test]
fn selectors_match_as_their_requirements_say() {
    let labels = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    let (none, empty, x, xy): (Labels, Labels, Labels, Labels) = (
        labels(&[]),
        labels(&[("a", "")]),
        labels(&[("a", "x")]),
        labels(&[("a", "x"), ("b", "y")]),
    );
    // Which of no label, a without value, a=x, and a=x with b=y each selects.
    let cases = [
        ("{}", [true, true, true, true]),
        ("{matchLabels: {a: x}}", [false, false, true, true]),
        ("{matchLabels: {a: ''}}", [false, true, false, false]),
        ("{matchLabels: {a: x, b: y}}", [false, false, false, true]),
        (
            "{matchExpressions: [{key: a, operator: In, values: [x, z]}]}",
            [false, false, true, true],
        ),
        (
            "{matchExpressions: [{key: a, operator: In, values: ['']}]}",
            [false, true, false, false],
        ),
        (
            "{matchExpressions: [{key: a, operator: NotIn, values: [x]}]}",
            [true, true, false, false],
        ),
        (
            "{matchExpressions: [{key: a, operator: NotIn, values: ['']}]}",
            [true, false, true, true],
        ),
        (
            "{matchExpressions: [{key: a, operator: Exists}]}",
            [false, true, true, true],
        ),
        (
            "{matchExpressions: [{key: a, operator: DoesNotExist}]}",
            [true, false, false, false],
        ),
        (
            "{matchLabels: {a: x}, matchExpressions: [{key: b, operator: NotIn, values: [y]}]}",
            [false, false, true, false],
        ),
        (
            "{matchExpressions: [{key: a, operator: Exists}, {key: b, operator: DoesNotExist}]}",
            [false, true, true, false],
        ),
    ];
    for (selector, expected) in cases {
        let (policy, problems) = policy(&format!("{{podSelector: {selector}}}"));
        assert_eq!(problems, [""; 0], "{selector}");
        let found = [&none, &empty, &x, &xy].map(|labels| policy.pod_selector.matches(labels));
        assert_eq!(found, expected, "{selector}");
    }
}

// Covers: SEMANTICS 23, 24
#[test]
fn blocks_keep_their_family_and_lose_their_host_bits() {
    let block = |cidr: &str, except: &[&str]| Peer::Block {
        cidr: net(cidr),
        except: except.iter().map(|text| net(text)).collect(),
    };
    let cases: [(&str, Peer, &[&str]); 7] = [
        (
            "{ipBlock: {cidr: 010.1.2.3/8, except: [10.001.2.3/16]}}",
            block("10.0.0.0/8", &["10.1.0.0/16"]),
            &[],
        ),
        (
            "{ipBlock: {cidr: 'fd00::1/8', except: ['fd01::/16']}}",
            block("fd00::/8", &["fd01::/16"]),
            &[],
        ),
        (
            "{ipBlock: {cidr: '::ffff:10.1.2.3/104'}}",
            block("10.0.0.0/8", &[]),
            &[],
        ),
        (
            "{ipBlock: {cidr: 0.0.0.0/0, except: ['::/0']}}",
            block("0.0.0.0/0", &["::/0"]),
            &["POL008"],
        ),
        // A hole may be all of it.
        (
            "{ipBlock: {cidr: 10.1.0.0/16, except: [10.0.0.0/8]}}",
            block("10.1.0.0/16", &["10.0.0.0/8"]),
            &[],
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/8, except: []}}",
            block("10.0.0.0/8", &[]),
            &[],
        ),
        ("{ipBlock: {cidr: ''}}", Peer::Nothing, &["POL002"]),
    ];
    for (text, expected, codes) in cases {
        assert_eq!(peer(text), (expected, codes.to_vec()), "{text}");
    }
}

// Covers: SEMANTICS 28
#[test]
fn a_protocol_nobody_knows_isolates_all_the_same() {
    let (policy, problems) = policy(
        "{policyTypes: [Ingress, Egress], ingress: [{ports: [{protocol: DCCP}]}], egress: [{ports: [{protocol: dccp, port: 1}]}]}",
    );
    let nothing = [Rule {
        peers: Peers::All,
        ports: Ports::Some(vec![PortMatch::Nothing]),
    }];
    assert_eq!(policy.ingress.as_deref(), Some(nothing.as_slice()));
    assert_eq!(policy.egress.as_deref(), Some(nothing.as_slice()));
    assert_eq!(problems, ["POL004", "POL004"]);
}

// Covers: SEMANTICS 4
#[test]
fn a_subject_that_says_nothing_is_every_pod() {
    for spec in [
        "{}",
        "{podSelector: {}}",
        "{podSelector: null}",
        "{podSelector: {matchLabels: {}, matchExpressions: []}}",
    ] {
        let (policy, problems) = policy(spec);
        assert_eq!(
            (policy.pod_selector, problems),
            (Selector::everything(), vec![]),
            "{spec}"
        );
    }
}
