//! Bad manifests, each finding marked where it must be, and good ones beside them.

mod blocks;
mod cluster;
mod directions;
mod documents;
mod good;
mod page;
mod peers;
mod ports;
mod selectors;

use std::path::{Path, PathBuf};

use super::*;

/// A cluster: a shop with a web and a db, a monitoring namespace with a pod of the node's network, and DNS.
const CLUSTER: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: shop}}
---
apiVersion: v1
kind: Namespace
metadata: {name: monitoring, labels: {team: ops}}
---
apiVersion: v1
kind: Namespace
metadata: {name: kube-system}
---
apiVersion: v1
kind: Namespace
metadata: {name: empty}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}, {name: gossip, containerPort: 7946, protocol: UDP}]}]}
status: {podIP: 10.244.1.7}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  template:
    metadata: {labels: {app: db}}
    spec:
      containers: [{name: c, image: i, ports: [{name: postgres, containerPort: 5432}]}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: exporter, namespace: monitoring}
spec:
  template:
    metadata: {labels: {app: exporter}}
    spec: {hostNetwork: true, containers: [{name: c, image: i, ports: [{name: metrics, containerPort: 9100}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: prometheus, namespace: monitoring, labels: {app: prometheus}}
spec: {containers: [{name: c, image: i}]}
status: {podIP: 10.244.2.9}
---
apiVersion: v1
kind: Pod
metadata: {name: coredns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec: {containers: [{name: c, image: i, ports: [{name: dns, containerPort: 53, protocol: UDP}, {name: dns-tcp, containerPort: 53}]}]}
status: {podIP: 10.244.2.2}
---
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.7.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.80, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: 10.96.0.10, selector: {k8s-app: kube-dns}, ports: [{port: 53, protocol: UDP}]}
";

/// The head of a NetworkPolicy `shop/web`.
const HEAD: &str =
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\n";

/// A document of its own, with a policy of that name in that namespace.
fn named(namespace: &str, name: &str, spec: &str) -> String {
    let head = HEAD
        .replace("name: web", &format!("name: {name}"))
        .replace("namespace: shop", &format!("namespace: {namespace}"));
    format!("{head}{spec}\n---\n")
}

/// The files of an input.
fn texts(files: &[(&str, &str)]) -> Texts {
    files
        .iter()
        .map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec()))
        .collect()
}

/// Codes with line and column, in order.
fn places(report: &Report, file: &str) -> Vec<(String, usize, usize)> {
    let of_file = report
        .findings
        .iter()
        .filter(|finding| finding.file == Path::new(file));
    of_file
        .map(|finding| (finding.code.id.to_owned(), finding.line, finding.column))
        .collect()
}

/// Takes out marks such as `«LINT010,LINT021»`: each says that these findings point where it stands.
fn unmark(marked: &str) -> (String, Vec<(String, usize, usize)>) {
    let mut text = String::new();
    let mut expected = Vec::new();
    let mut rest = marked;
    while let Some((before, after)) = rest.split_once('«') {
        text += before;
        let (codes, after) = after.split_once('»').expect("a mark ends");
        let line = text.lines().count().max(1) + usize::from(text.ends_with('\n'));
        let column = text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        expected.extend(codes.split(',').map(|code| (code.to_owned(), line, column)));
        rest = after;
    }
    text += rest;
    (text, expected)
}

/// Lints a marked text in a cluster and compares what is found with the marks.
#[track_caller]
fn expect_in(cluster: &str, marked: &str) -> Report {
    let (text, mut expected) = unmark(marked);
    let report = run(&texts(&[("cluster.yaml", cluster), ("policy.yaml", &text)]));
    let mut found = places(&report, "policy.yaml");
    found.sort();
    expected.sort();
    let all: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.code.id, finding.line, &finding.message))
        .collect();
    assert_eq!(found, expected, "{text}\n{all:#?}");
    report
}

/// The spec of a NetworkPolicy `shop/web`, alone in the input.
#[track_caller]
fn alone(marked: &str) -> Report {
    expect_in("", &format!("{HEAD}{marked}"))
}

/// The spec of a NetworkPolicy `shop/web` in the cluster.
#[track_caller]
fn in_cluster(marked: &str) -> Report {
    expect_in(CLUSTER, &format!("{HEAD}{marked}"))
}

#[test]
fn the_cluster_itself_is_fine() {
    expect_in(CLUSTER, "");
}

#[test]
fn what_could_not_be_looked_at_is_told() {
    let lacks = |report: &Report| {
        report
            .skipped
            .iter()
            .map(|skipped| skipped.lacks)
            .collect::<Vec<_>>()
    };
    let rule = "spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.9.0.0/16}}]}]}";
    let report = alone(rule);
    assert_eq!(
        lacks(&report),
        [
            "pods",
            "Namespaces",
            "Nodes with podCIDRs and pods with addresses",
            "Services with addresses"
        ]
    );
    assert!(report.skipped[0].codes.contains(&"LINT020"));
    assert_eq!(lacks(&in_cluster(rule)), Vec::<&str>::new());
    // Without policies there was nothing to check.
    assert_eq!(
        run(&texts(&[(
            "a.yaml",
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n"
        )]))
        .skipped,
        []
    );
}

/// Whatever stands in a file, a lint of it ends, and every finding has a place in it.
#[test]
fn no_text_is_too_odd_to_lint() {
    let seed = format!(
        "{CLUSTER}---\n{HEAD}spec:\n  podSelector: {{matchLabels: {{app: é}}}}\n  policyTypes: [Ingress, Egress]\n  ingress:\n  - from: [{{podSelector: {{}}}}, {{ipBlock: {{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}}}]\n    ports: [{{port: 53, endPort: 50}}]\n  egress: [{{}}]\n"
    );
    let pieces = [
        "{", "}", "[", "]", ":", "-", "\n", "---\n", "  ", "~", "null", "'", "&a ", "*a", "5", "é", "#", "/",
        "List",
    ];
    // A fixed sequence, so that a failure repeats.
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for _ in 0..150 {
        let mut text = seed.clone();
        for _ in 0..=random(5) {
            let mut at = random(text.len() + 1);
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            text.insert_str(at, pieces[random(pieces.len())]);
        }
        let report = run(&texts(&[("a.yaml", &text)]));
        let lines = text.lines().count() + 1;
        for finding in &report.findings {
            assert!(
                (1..=lines).contains(&finding.line) && finding.column > 0,
                "{finding:?}\n{text}"
            );
            assert!(
                !finding.message.contains('\n') && !finding.fix.is_empty(),
                "{finding:?}"
            );
        }
    }
}
