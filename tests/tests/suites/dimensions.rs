//! The dimensions along which a NetworkPolicy can differ from another, after those of [cyclonus]: a policy in the
//! middle, changed in one respect at a time, or in two that may get into each other's way.
//!
//! [cyclonus]: https://github.com/mattfenwick/cyclonus

use serde_json::{Value, json};

/// What is made or changed, and what is deleted before.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    /// Objects that are deleted, as `KIND NAMESPACE/NAME` or `KIND NAME`.
    pub(super) gone: Vec<String>,
    /// Objects that are made or changed.
    pub(super) objects: Vec<Value>,
}

/// A case: what differs, and the changes that lead there.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// What differs.
    pub(super) name: String,
    /// The changes, each to be judged.
    pub(super) steps: Vec<Change>,
}

/// A direction, with the names of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Side {
    rules: &'static str,
    peers: &'static str,
    kind: &'static str,
}

const SIDES: [Side; 2] = [
    Side {
        rules: "ingress",
        peers: "from",
        kind: "Ingress",
    },
    Side {
        rules: "egress",
        peers: "to",
        kind: "Egress",
    },
];

/// Every case, by dimension.
pub(super) fn cases() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("target", targets()),
        ("direction", directions()),
        ("rules", rules()),
        ("peers", peers()),
        ("ports", ports()),
        ("conflicts", conflicts()),
        ("actions", actions()),
        ("example", example()),
    ]
}

fn make(objects: impl IntoIterator<Item = Value>) -> Change {
    Change {
        gone: Vec::new(),
        objects: objects.into_iter().collect(),
    }
}

fn remove(name: &str) -> Change {
    Change {
        gone: vec![name.to_owned()],
        objects: Vec::new(),
    }
}

fn one(name: impl Into<String>, policies: impl IntoIterator<Item = Value>) -> Case {
    Case {
        name: name.into(),
        steps: vec![make(policies)],
    }
}

fn policy(namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec
    })
}

fn among(key: &str, values: &[&str]) -> Value {
    json!({"matchExpressions": [{"key": key, "operator": "In", "values": values}]})
}

fn label(key: &str, value: &str) -> Value {
    json!({"matchLabels": {key: value}})
}

/// The policy in the middle: one pod, one port, peers by both selectors, both directions, and DNS.
fn middle() -> Value {
    policy(
        "x",
        "base",
        json!({
            "podSelector": label("pod", "a"),
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{
                "ports": [{"port": 80, "protocol": "TCP"}],
                "from": [{"podSelector": among("pod", &["b", "c"]), "namespaceSelector": among("ns", &["x", "y"])}]
            }],
            "egress": [
                {
                    "ports": [{"port": 80, "protocol": "TCP"}],
                    "to": [{"podSelector": among("pod", &["a", "b"]), "namespaceSelector": among("ns", &["y", "z"])}]
                },
                {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}
            ]
        }),
    )
}

fn changed(change: impl FnOnce(&mut Value)) -> Value {
    let mut policy = middle();
    change(&mut policy);
    policy
}

fn with_peers(side: Side, peers: &Value) -> Value {
    changed(|policy| policy["spec"][side.rules][0][side.peers] = peers.clone())
}

fn with_ports(side: Side, ports: &Value) -> Value {
    changed(|policy| policy["spec"][side.rules][0]["ports"] = ports.clone())
}

fn targets() -> Vec<Case> {
    let namespaces = ["x", "y", "z"].into_iter().map(|namespace| {
        let policy = changed(|policy| policy["metadata"]["namespace"] = json!(namespace));
        one(format!("namespace {namespace}"), [policy])
    });
    let selectors = [json!({}), label("pod", "a"), among("pod", &["a", "b"])]
        .into_iter()
        .map(|selector| {
            let name = format!("pods {selector}");
            one(name, [changed(|policy| policy["spec"]["podSelector"] = selector)])
        });
    namespaces.chain(selectors).collect()
}

fn directions() -> Vec<Case> {
    let types = [json!(["Ingress"]), json!(["Egress"]), json!([]), Value::Null];
    let cases = types.into_iter().map(|types| {
        let name = format!("policy types {types}");
        one(name, [changed(|policy| policy["spec"]["policyTypes"] = types)])
    });
    cases.collect()
}

fn rules() -> Vec<Case> {
    let mut cases = Vec::new();
    for side in SIDES {
        for (what, rules) in [
            ("deny all", json!([])),
            ("no rules", Value::Null),
            ("allow all", json!([{}])),
        ] {
            let name = format!("{} {what}", side.rules);
            cases.push(one(name, [changed(|policy| policy["spec"][side.rules] = rules)]));
        }
    }
    cases
}

fn peers() -> Vec<Case> {
    let mut all: Vec<(String, Value)> = Vec::new();
    for (namespaces, namespace_selector) in [
        ("own", None),
        ("all", Some(json!({}))),
        ("labelled", Some(label("ns", "x"))),
    ] {
        for (pods, pod_selector) in [
            ("any", None),
            ("all", Some(json!({}))),
            ("labelled", Some(label("pod", "c"))),
        ] {
            let mut peer = json!({});
            if let Some(selector) = &namespace_selector {
                peer["namespaceSelector"] = selector.clone();
            }
            if let Some(selector) = pod_selector {
                peer["podSelector"] = selector;
            }
            if peer != json!({}) {
                all.push((format!("{namespaces} namespaces {pods} pods"), peer));
            }
        }
    }
    all.push(("block".to_owned(), json!({"ipBlock": {"cidr": "10.244.0.0/16"}})));
    all.push((
        "block with a hole".to_owned(),
        json!({"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.2.0/24", "10.244.1.2/32"]}}),
    ));
    let mut cases = Vec::new();
    for side in SIDES {
        let direction = side.rules;
        cases.push(one(
            format!("{direction} no peers"),
            [with_peers(side, &json!([]))],
        ));
        let by_name = json!([{"namespaceSelector": label("kubernetes.io/metadata.name", "z")}]);
        cases.push(one(
            format!("{direction} default label"),
            [with_peers(side, &by_name)],
        ));
        for (i, (name, peer)) in all.iter().enumerate() {
            cases.push(one(
                format!("{direction} {name}"),
                [with_peers(side, &json!([peer]))],
            ));
            for (other, second) in &all[i + 1..] {
                let both = with_peers(side, &json!([peer, second]));
                cases.push(one(format!("{direction} {name}, {other}"), [both]));
            }
        }
    }
    cases
}

fn ports() -> Vec<Case> {
    let mut singles = Vec::new();
    for protocol in [None, Some("TCP"), Some("UDP"), Some("SCTP")] {
        for port in [None, Some(80), Some(81)] {
            let mut entry = json!({});
            if let Some(protocol) = protocol {
                entry["protocol"] = json!(protocol);
            }
            if let Some(port) = port {
                entry["port"] = json!(port);
            }
            singles.push(entry);
        }
    }
    for protocol in ["TCP", "UDP", "SCTP"] {
        for port in [80, 81] {
            let name = format!("serve-{port}-{}", protocol.to_lowercase());
            singles.push(json!({"protocol": protocol, "port": name}));
        }
        for end in [80, 84] {
            singles.push(json!({"protocol": protocol, "port": 53, "endPort": end}));
        }
    }
    // A name of another protocol, a name that nobody has, a number that nobody serves.
    singles.extend(["serve-81-udp", "serve-7981-udp"].map(|name| json!({"protocol": "TCP", "port": name})));
    singles.push(json!({"protocol": "TCP", "port": 7981}));
    let pairs = [
        json!([{}, {"port": 80}]),
        json!([{}, {"port": "serve-80-tcp"}]),
        json!([{}, {"protocol": "UDP"}]),
        json!([{"port": 80}, {"port": 81}]),
        json!([{"port": 80}, {"port": "serve-81-tcp"}]),
        json!([{"port": 80}, {"protocol": "UDP", "port": "serve-81-udp"}]),
        json!([{"protocol": "UDP", "port": 80}, {"protocol": "UDP", "port": "serve-81-udp"}]),
    ];
    let lists: Vec<Value> = [json!([])]
        .into_iter()
        .chain(singles.into_iter().map(|entry| json!([entry])))
        .chain(pairs)
        .collect();
    let cases = SIDES.into_iter().flat_map(|side| {
        lists
            .iter()
            .map(move |list| one(format!("{} {list}", side.rules), [with_ports(side, list)]))
    });
    cases.collect()
}

/// Policies that close and policies that open, on the same pod and at the two ends of a connection.
fn conflicts() -> Vec<Case> {
    let closers = [
        ("nothing", json!([])),
        ("no address", json!([{"ipBlock": {"cidr": "0.0.0.0/31"}}])),
        (
            "no pod",
            json!([{"namespaceSelector": label("this", "never-happens")}]),
        ),
    ];
    let openers = [
        ("everything", Value::Null),
        ("all pods", json!([{"namespaceSelector": {}}])),
        ("all addresses", json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}])),
    ];
    let spec = |pod: &str, side: Side, peers: &Value| {
        let mut spec = json!({"podSelector": label("pod", pod), "policyTypes": [side.kind]});
        spec[side.rules] = if peers.is_null() {
            json!([{}])
        } else if *peers == json!([]) {
            json!([])
        } else {
            json!([{side.peers: peers}])
        };
        spec
    };
    let ends = [("y", "c"), ("x", "b")];
    let mut cases = Vec::new();
    for (side, (namespace, pod)) in SIDES.into_iter().zip(ends) {
        for (closed, closer) in &closers {
            let close = policy(namespace, "close", spec(pod, side, closer));
            cases.push(one(format!("{} {closed}", side.rules), [close.clone()]));
            for (opened, opener) in &openers {
                let open = policy(namespace, "open", spec(pod, side, opener));
                cases.push(one(
                    format!("{} {closed} and {opened}", side.rules),
                    [close.clone(), open],
                ));
            }
        }
    }
    let [ingress, egress] = SIDES;
    let at = |(namespace, pod): (&str, &str), side, peers: &Value| {
        policy(namespace, side_name(side), spec(pod, side, peers))
    };
    let [destination, source] = ends;
    let (nothing, everything) = (json!([]), Value::Null);
    cases.push(one(
        "egress nothing, ingress everything",
        [
            at(source, egress, &nothing),
            at(destination, ingress, &everything),
        ],
    ));
    cases.push(one(
        "egress everything, ingress nothing",
        [
            at(source, egress, &everything),
            at(destination, ingress, &nothing),
        ],
    ));
    cases
}

fn side_name(side: Side) -> &'static str {
    side.rules
}

pub(super) fn namespace(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// A pod that serves what all others of this world serve.
fn pod(namespace: &str, name: &str, address: &str, labels: Value) -> Value {
    let mut ports = Vec::new();
    for port in [80, 81] {
        for protocol in ["TCP", "UDP", "SCTP"] {
            let name = format!("serve-{port}-{}", protocol.to_lowercase());
            ports.push(json!({"name": name, "containerPort": port, "protocol": protocol}));
        }
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "uid": format!("{namespace}-{name}"), "labels": labels},
        "spec": {"nodeName": "node-a", "containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    })
}

fn actions() -> Vec<Case> {
    let steps = |name: &str, steps: Vec<Change>| Case {
        name: name.to_owned(),
        steps,
    };
    let [ingress, _] = SIDES;
    let udp = with_ports(ingress, &json!([{"protocol": "UDP", "port": "serve-81-udp"}]));
    let by_namespace = with_peers(ingress, &json!([{"namespaceSelector": label("new-ns", "qrs")}]));
    let by_pod = with_peers(
        ingress,
        &json!([{"podSelector": label("new-label", "abc"), "namespaceSelector": among("ns", &["y", "z"])}]),
    );
    let b = |labels| pod("y", "b", "10.244.2.2", labels);
    vec![
        steps(
            "a policy is made and deleted",
            vec![make([middle()]), remove("NetworkPolicy x/base")],
        ),
        steps(
            "a policy is made and changed",
            vec![make([middle()]), make([udp])],
        ),
        steps(
            "a namespace is made and deleted",
            vec![
                make([middle()]),
                make([
                    namespace("y-2", json!({"ns": "y"})),
                    pod("y-2", "a", "10.244.4.1", json!({"pod": "a"})),
                    pod("y-2", "b", "10.244.4.2", json!({"pod": "b"})),
                ]),
                Change {
                    gone: ["Pod y-2/a", "Pod y-2/b", "Namespace y-2"]
                        .map(str::to_owned)
                        .to_vec(),
                    objects: Vec::new(),
                },
            ],
        ),
        steps(
            "a namespace gets a label and loses it",
            vec![
                make([by_namespace]),
                make([namespace("y", json!({"ns": "y", "new-ns": "qrs"}))]),
                make([namespace("y", json!({"ns": "y"}))]),
            ],
        ),
        steps(
            "a pod is made and deleted",
            vec![
                make([middle()]),
                make([pod("x", "d", "10.244.1.4", json!({"pod": "d"}))]),
                remove("Pod x/d"),
            ],
        ),
        steps(
            "a pod gets a label and loses it",
            vec![
                make([by_pod]),
                make([b(json!({"pod": "b", "new-label": "abc"}))]),
                make([b(json!({"pod": "b"}))]),
            ],
        ),
    ]
}

fn example() -> Vec<Case> {
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": "serve-81-tcp"}]}]});
    vec![Case {
        name: "one named port, while a namespace comes and goes".to_owned(),
        steps: vec![
            make([policy("x", "allow-all", spec)]),
            make([
                namespace("w", json!({"ns": "w"})),
                pod("w", "a", "10.244.5.1", json!({"pod": "a"})),
            ]),
            remove("Pod w/a"),
            remove("Namespace w"),
        ],
    }]
}
