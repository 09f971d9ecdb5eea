//! Manifests in, model out: each test reads as one point of SEMANTICS.

mod cluster;

use std::path::PathBuf;

use vethwall_policy::model::{Peer, Peers, PortMatch, Ports, Rule, Selector};

use super::*;
use crate::manifests::{Store, load_texts};

/// The objects of a text, and the codes and messages of its problems.
fn read(text: &str) -> (Vec<Object>, Vec<(&'static str, String)>) {
    let texts = [(PathBuf::from("f.yaml"), text.as_bytes().to_vec())].into();
    let loaded = load_texts(&texts);
    let converted = convert(&Store::default().update(&loaded));
    let problems = converted
        .problems
        .into_iter()
        .map(|problem| (problem.code, problem.message));
    (converted.objects, problems.collect())
}

fn policy_text(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: n}}\nspec: {spec}\n"
    )
}

/// The policy with this spec, and the codes of its problems.
fn policy(spec: &str) -> (NetworkPolicy, Vec<&'static str>) {
    let (objects, problems) = read(&policy_text(spec));
    let [Object::NetworkPolicy(policy)] = objects.as_slice() else {
        panic!("{spec}: {objects:?} {problems:?}")
    };
    (
        policy.clone(),
        problems.into_iter().map(|(code, _)| code).collect(),
    )
}

fn pod_of(text: &str) -> Pod {
    let (objects, problems) = read(text);
    let [Object::Pod(pod)] = objects.as_slice() else {
        panic!("{objects:?} {problems:?}")
    };
    pod.clone()
}

/// The only peer of the only ingress rule.
fn peer(peer: &str) -> (Peer, Vec<&'static str>) {
    let (policy, problems) = policy(&format!("{{ingress: [{{from: [{peer}]}}]}}"));
    match policy.ingress.as_deref() {
        Some(
            [
                Rule {
                    peers: Peers::Some(peers),
                    ports: Ports::All,
                },
            ],
        ) if peers.len() == 1 => (peers[0].clone(), problems),
        other => panic!("{other:?}"),
    }
}

/// The only port of the only egress rule.
fn port(port: &str) -> (PortMatch, Vec<&'static str>) {
    let (policy, problems) = policy(&format!(
        "{{policyTypes: [Egress], egress: [{{ports: [{port}]}}]}}"
    ));
    match policy.egress.as_deref() {
        Some(
            [
                Rule {
                    peers: Peers::All,
                    ports: Ports::Some(ports),
                },
            ],
        ) if ports.len() == 1 => (ports[0].clone(), problems),
        other => panic!("{other:?}"),
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn directions_follow_policy_types_or_their_default() {
    // SEMANTICS 5, 6, 7.
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

#[test]
fn absent_and_empty_peers_and_ports_are_all() {
    // SEMANTICS 9.
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

#[test]
fn peers_are_what_their_fields_say() {
    // SEMANTICS 11 to 15.
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

#[test]
fn a_hole_that_can_not_be_read_closes_its_block() {
    // SEMANTICS 22.
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

#[test]
fn ports_are_what_their_fields_say() {
    // SEMANTICS 25 to 28.
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

#[test]
fn selectors_that_can_not_be_evaluated_isolate_more_and_allow_less() {
    // SEMANTICS 16 to 18.
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
fn the_mode_is_the_policys_then_the_namespaces_then_enforce() {
    let text = |on_policy: &str, on_namespace: &str| {
        let annotations = |mode: &str| match mode {
            "" => String::new(),
            mode => format!(", annotations: {{vethwall.io/mode: {mode}}}"),
        };
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: n{}}}\n---\n\
             apiVersion: v1\nkind: Namespace\nmetadata: {{name: n{}}}\n",
            annotations(on_policy),
            annotations(on_namespace)
        )
    };
    let cases = [
        ("", "", Mode::Enforce, 0),
        ("audit", "", Mode::Audit, 0),
        ("", "audit", Mode::Audit, 0),
        ("enforce", "audit", Mode::Enforce, 0),
        ("audit", "enforce", Mode::Audit, 0),
        ("Audit", "audit", Mode::Enforce, 1),
        ("", "off", Mode::Enforce, 1),
    ];
    for (on_policy, on_namespace, expected, count) in cases {
        let (objects, problems) = read(&text(on_policy, on_namespace));
        let mode = objects.iter().find_map(|object| match object {
            Object::NetworkPolicy(policy) => Some(policy.mode),
            Object::Namespace(_) | Object::Pod(_) | Object::Node(_) | Object::ClusterNetworkPolicy(_) => None,
        });
        assert_eq!(
            (mode, problems.len()),
            (Some(expected), count),
            "{on_policy:?} {on_namespace:?}"
        );
    }
}

#[test]
fn pods_carry_what_policy_needs() {
    let pod = pod_of(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, uid: u, labels: {a: b}}\nspec:\n  nodeName: node-a\n  hostNetwork: true\n\
         \x20 containers:\n  - {name: c, ports: [{name: http, containerPort: 8080}, {containerPort: 53, protocol: UDP}]}\n\
         \x20 initContainers:\n  - {name: side, restartPolicy: Always, ports: [{name: m, containerPort: 9, protocol: SCTP}]}\n\
         \x20 - {name: init, ports: [{name: no, containerPort: 10}]}\n\
         status: {phase: Running, podIP: 10.0.0.5, podIPs: [{ip: 10.0.0.5}, {ip: \"fd00::5\"}]}\n",
    );
    assert_eq!(
        (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()),
        ("default", "p", "u")
    );
    assert_eq!(
        (pod.node.as_deref(), pod.host_network, pod.finished),
        (Some("node-a"), true, false)
    );
    assert_eq!(
        pod.addresses,
        ["10.0.0.5", "fd00::5"].map(|text| text.parse::<IpAddr>().unwrap())
    );
    let ports: Vec<_> = pod
        .ports
        .iter()
        .map(|port| (port.name.as_deref(), port.protocol, port.port))
        .collect();
    assert_eq!(
        ports,
        [
            (Some("http"), protocol::TCP, 8080),
            (None, protocol::UDP, 53),
            (Some("m"), protocol::SCTP, 9)
        ]
    );
}

#[test]
fn finished_pods_are_finished_and_static_pods_have_the_runtimes_uid() {
    // SEMANTICS 31, 38.
    for (phase, finished) in [
        ("Pending", false),
        ("Running", false),
        ("Unknown", false),
        ("Succeeded", true),
        ("Failed", true),
    ] {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nstatus: {{phase: {phase}}}\n");
        assert_eq!(pod_of(&text).finished, finished, "{phase}");
    }
    let mirror = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, uid: u, annotations: {kubernetes.io/config.hash: h}}\n";
    assert_eq!(pod_of(mirror).uid, "h");
}

#[test]
fn nodes_have_addresses_and_pod_networks() {
    let (objects, _) = read(
        "apiVersion: v1\nkind: Node\nmetadata: {name: node-a, labels: {z: one}}\n\
         spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, \"fd00:1::/64\"]}\n\
         status: {addresses: [{type: Hostname, address: node-a}, {type: InternalIP, address: 192.168.0.1}]}\n",
    );
    let [Object::Node(node)] = objects.as_slice() else {
        panic!("{objects:?}")
    };
    assert_eq!(node.addresses, ["192.168.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(node.pod_cidrs, [net("10.244.1.0/24"), net("fd00:1::/64")]);
    assert_eq!(node.labels["z"], "one");
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
    let (policy, _) = super::tests::policy("{podSelector: {matchLabls: {app: a}}}");
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

#[test]
fn policies_of_other_kinds_are_told_and_the_rest_is_not() {
    let (objects, problems) = read(
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: c}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n",
    );
    assert_eq!((objects.len(), problems.len(), problems[0].0), (0, 1, "POL009"));
}
