//! Policies as people write them and mean them: nothing may be found.

use super::*;

const GOOD: &[(&str, &str)] = &[
    (
        "default-deny-ingress",
        "{podSelector: {}, policyTypes: [Ingress]}",
    ),
    (
        "default-deny",
        "{podSelector: {}, policyTypes: [Ingress, Egress]}",
    ),
    (
        "deny-all",
        "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [], egress: []}",
    ),
    (
        "allow-all-ingress",
        "{podSelector: {}, policyTypes: [Ingress], ingress: [{}]}",
    ),
    (
        "allow-dns",
        "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]}]}",
    ),
    (
        "allow-dns-anywhere",
        "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]}]}",
    ),
    (
        "db-from-web",
        "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{protocol: TCP, port: 5432}]}]}",
    ),
    (
        "web-from-anywhere",
        "{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], ingress: [{ports: [{port: http}]}]}",
    ),
    (
        "from-monitoring",
        "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}, podSelector: {matchLabels: {app: prometheus}}}], ports: [{port: 9090}]}]}",
    ),
    (
        "same-namespace",
        "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}]}]}",
    ),
    (
        "same-namespace-and-ops",
        "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}, {namespaceSelector: {matchLabels: {team: ops}}}]}]}",
    ),
    (
        "internet",
        "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 192.168.0.0/16, 172.16.0.0/12]}}]}, {to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]}]}",
    ),
    (
        "all-but-shop",
        "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [shop]}]}}]}]}",
    ),
    (
        "office",
        "{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: '2001:db8::/48'}}], ports: [{port: 8080, endPort: 8090}]}]}",
    ),
    (
        "private",
        "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}, {ipBlock: {cidr: 172.16.0.0/12}}, {ipBlock: {cidr: 192.168.0.0/16}}]}]}",
    ),
    (
        "cache-of-the-node",
        "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 169.254.20.10/32}}], ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]}]}",
    ),
];

#[test]
fn good_policies_are_good() {
    for (name, spec) in GOOD {
        for cluster in ["", CLUSTER] {
            let text = named("shop", name, &format!("spec: {spec}"));
            expect_in(cluster, &text);
            // As JSON, as kubectl prints it, too.
            let json = text.replace("---\n", "");
            expect_in(cluster, &format!("# one document\n{json}"));
        }
    }
    let all: String = GOOD
        .iter()
        .filter(|(name, _)| *name != "allow-all-ingress")
        .map(|(name, spec)| named("shop", name, &format!("spec: {spec}")))
        .collect();
    expect_in(CLUSTER, &all);
}

#[test]
fn the_example_of_the_concept_page_is_good() {
    let spec = "spec:\n  podSelector: {matchLabels: {role: db}}\n  policyTypes: [Ingress, Egress]\n  ingress:\n  - from:\n    - ipBlock: {cidr: 172.17.0.0/16, except: [172.17.1.0/24]}\n    - namespaceSelector: {matchLabels: {project: myproject}}\n    - podSelector: {matchLabels: {role: frontend}}\n    ports: [{protocol: TCP, port: 6379}]\n  egress:\n  - to: [{ipBlock: {cidr: 10.0.0.0/24}}]\n    ports: [{protocol: TCP, port: 5978}]\n";
    // It does leave out DNS.
    expect_in(
        "",
        &named(
            "default",
            "test",
            &spec.replace("  egress:", "  «LINT060»egress:"),
        ),
    );
}

#[test]
fn the_demo_is_good() {
    let demo = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/demo"));
    let report = run(&crate::manifests::read(&demo).unwrap());
    assert_eq!(report.findings, []);
    assert_eq!((report.policies, report.skipped.len()), (4, 0));
}
