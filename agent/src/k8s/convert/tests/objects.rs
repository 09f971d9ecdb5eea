//! Pods, nodes, namespaces and modes.

use vethwall_policy::world::World;

use super::*;

#[test]
fn the_mode_is_the_policys_then_the_namespaces_then_the_clusters() {
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
        ("", "", None, 0),
        ("audit", "", Some(Mode::Audit), 0),
        ("", "audit", Some(Mode::Audit), 0),
        ("enforce", "audit", Some(Mode::Enforce), 0),
        ("audit", "enforce", Some(Mode::Audit), 0),
        ("Audit", "audit", Some(Mode::Enforce), 1),
        ("", "off", Some(Mode::Enforce), 1),
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

// Covers: SEMANTICS 31
#[test]
fn finished_pods_are_finished() {
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
fn policies_of_other_kinds_are_told_and_the_rest_is_not() {
    let (objects, problems) = read(
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: c}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n",
    );
    assert_eq!((objects.len(), problems.len(), problems[0].0), (0, 1, "POL009"));
}

// Covers: SEMANTICS 38
#[test]
fn a_static_pod_is_known_by_both_its_uids() {
    let text = |annotations: &str| {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p, uid: u, annotations: {annotations}}}\n")
    };
    for (annotations, hash) in [
        ("null", None),
        ("{a: b}", None),
        ("{kubernetes.io/config.hash: h}", Some("h")),
    ] {
        let pod = pod_of(&text(annotations));
        assert_eq!(
            (pod.uid.as_str(), pod.config_hash.as_deref()),
            ("u", hash),
            "{annotations}"
        );
    }
}

// Covers: SEMANTICS 21, 35
#[test]
fn only_what_asks_for_the_nodes_network_has_it() {
    for (spec, expected) in [
        ("{}", false),
        ("{hostNetwork: false}", false),
        ("{hostNetwork: null}", false),
        ("{hostNetwork: true}", true),
    ] {
        let pod = pod_of(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {spec}\n"
        ));
        assert_eq!(pod.host_network, expected, "{spec}");
    }
    assert!(
        !pod_of("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n").host_network,
        "no spec at all"
    );
}

// Covers: SEMANTICS 24
#[test]
fn addresses_are_read_as_the_api_server_reads_them_and_counted_once() {
    let addresses = |status: &str| {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nstatus: {status}\n");
        let addresses = pod_of(&text).addresses;
        addresses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let cases = [
        ("{}", ""),
        ("{podIP: 10.0.0.1}", "10.0.0.1"),
        (
            "{podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}",
            "10.0.0.1 fd00::1",
        ),
        ("{podIP: 10.0.0.9, podIPs: [{ip: 10.0.0.1}]}", "10.0.0.1 10.0.0.9"),
        ("{podIPs: [{ip: 010.000.00.01}]}", "10.0.0.1"),
        ("{podIPs: [{ip: '::ffff:10.0.0.1'}, {ip: 10.0.0.1}]}", "10.0.0.1"),
        ("{podIP: '', podIPs: [{ip: ''}, {ip: x}]}", ""),
    ];
    for (status, expected) in cases {
        assert_eq!(addresses(status), expected, "{status}");
    }
}

// Covers: SEMANTICS 27, 28
#[test]
fn container_ports_without_meaning_are_left_out() {
    let ports = |ports: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{name: c, ports: [{ports}]}}]}}\n"
        );
        pod_of(&text).ports
    };
    let port = |name: Option<&str>, protocol, port| ContainerPort {
        name: name.map(str::to_owned),
        protocol,
        port,
    };
    assert_eq!(
        ports("{containerPort: 0}, {containerPort: 65536}, {containerPort: -1}"),
        []
    );
    assert_eq!(
        ports("{name: p, containerPort: 1, protocol: ICMP}, {name: p, containerPort: 1, protocol: tcp}"),
        []
    );
    assert_eq!(
        ports("{name: '', containerPort: 65535}"),
        [port(None, protocol::TCP, 65535)]
    );
    assert_eq!(
        ports("{name: p, containerPort: 1}, {name: p, containerPort: 2, protocol: UDP}"),
        [
            port(Some("p"), protocol::TCP, 1),
            port(Some("p"), protocol::UDP, 2)
        ]
    );
}

// Covers: SEMANTICS 19
#[test]
fn a_namespace_has_its_name_as_a_label_whether_it_says_so_or_not() {
    let label = |labels: &str| {
        let (objects, _) = read(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: n, labels: {labels}}}\n"
        ));
        let mut world = World::new("node");
        world.replace(objects);
        world
            .namespace_labels("n")
            .get("kubernetes.io/metadata.name")
            .cloned()
    };
    for labels in ["null", "{}", "{a: b}", "{kubernetes.io/metadata.name: n}"] {
        assert_eq!(label(labels).as_deref(), Some("n"), "{labels}");
    }
}

// Covers: SEMANTICS 37
#[test]
fn a_namespace_that_is_being_deleted_says_so() {
    for (rest, expected) in [
        ("", false),
        ("status: {phase: Active}\n", false),
        ("status: {phase: Terminating}\n", true),
    ] {
        for (deletion, deleted) in [("", false), (", deletionTimestamp: 2024-01-01T00:00:00Z", true)] {
            let (objects, problems) = read(&format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: n{deletion}}}\n{rest}"
            ));
            let [Object::Namespace(namespace)] = objects.as_slice() else {
                panic!("{objects:?}")
            };
            assert_eq!(
                (namespace.terminating, problems),
                (expected || deleted, vec![]),
                "{deletion} {rest}"
            );
        }
    }
}
