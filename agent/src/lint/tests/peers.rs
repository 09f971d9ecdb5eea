//! LINT010 to LINT014.

use super::*;

/// One rule with these peers; what else could be said of the policy is fine.
fn from(peers: &str) -> String {
    format!(
        "spec:\n  podSelector: {{matchLabels: {{app: web}}}}\n  policyTypes: [Ingress]\n  ingress:\n  - from:\n{peers}"
    )
}

#[test]
fn two_peers_where_one_was_meant() {
    let report = alone(&from(
        "    - namespaceSelector: {matchLabels: {team: ops}}\n    - «LINT010»podSelector: {matchLabels: {app: prometheus}}\n",
    ));
    let finding = &report.findings[0];
    assert_eq!(
        finding.message,
        "from[0] and from[1] are two peers, and either is enough: every pod of namespaces team=ops, and pods app=prometheus of \
         namespace shop"
    );
    assert_eq!(finding.field.as_deref(), Some("spec.ingress[0].from[1]"));
    assert_eq!(finding.object.as_deref(), Some("NetworkPolicy shop/web"));
    // In a cluster: the pods are there and not here.
    in_cluster(&from(
        "    - namespaceSelector: {matchLabels: {team: ops}}\n    - «LINT010,LINT021»podSelector: {matchLabels: {app: prometheus}}\n",
    ));
    in_cluster(&from(
        "    - «LINT021»podSelector: {matchLabels: {app: prometheus}}\n    - «LINT010»namespaceSelector: {matchLabels: {team: ops}}\n",
    ));
    // All namespaces contain the own one, so the pods add nothing.
    in_cluster(&from(
        "    - namespaceSelector: {}\n    - «LINT010»podSelector: {matchLabels: {app: db}}\n",
    ));
    alone(&from(
        "    - ipBlock: {cidr: 192.0.2.0/24}\n    - namespaceSelector: {}\n    - «LINT010»podSelector: {matchLabels: {app: db}}\n",
    ));
}

#[test]
fn two_peers_that_were_meant() {
    for peers in [
        // One of both.
        "    - namespaceSelector: {matchLabels: {team: ops}}\n      podSelector: {matchLabels: {app: prometheus}}\n",
        // Everybody there and everybody here.
        "    - namespaceSelector: {matchLabels: {team: ops}}\n    - podSelector: {}\n",
        // A list of all kinds, as the concept page of Kubernetes has it.
        "    - ipBlock: {cidr: 172.17.0.0/16, except: [172.17.1.0/24]}\n    - namespaceSelector: {matchLabels: {team: ops}}\n    - podSelector: {matchLabels: {app: db}}\n",
        "    - podSelector: {matchLabels: {app: db}}\n    - namespaceSelector: {matchLabels: {team: ops}}\n",
        "    - podSelector: {matchLabels: {app: db}}\n    - podSelector: {matchLabels: {app: web}}\n",
        // Who writes both in one knows the difference.
        "    - namespaceSelector: {matchLabels: {team: ops}}\n      podSelector: {matchLabels: {app: prometheus}}\n    - namespaceSelector: {matchLabels: {team: shop}}\n    - podSelector: {matchLabels: {app: db}}\n",
    ] {
        alone(&from(peers));
    }
    // The pods are here and not there.
    in_cluster(&from(
        "    - namespaceSelector: {matchLabels: {team: ops}}\n    - podSelector: {matchLabels: {app: db}}\n",
    ));
}

#[test]
fn two_rules_where_one_was_meant() {
    let spec =
        |rules: &str| format!("spec:\n  podSelector: {{}}\n  policyTypes: [Ingress]\n  ingress:\n{rules}");
    let report = alone(&spec(
        "  - from: [{podSelector: {}}]\n  - «LINT011»ports: [{port: 80}]\n",
    ));
    assert_eq!(
        report.findings[0].message,
        "ingress[0] allows every port, and ingress[1] allows its ports from anybody: they are two rules"
    );
    alone(&spec(
        "  - ports: [{port: 80}]\n  - «LINT011»from: [{podSelector: {}}]\n",
    ));
    alone(&spec("  - from: [{podSelector: {}}]\n    ports: [{port: 80}]\n"));
    alone(&spec(
        "  - from: [{podSelector: {}}]\n    ports: [{port: 80}]\n  - ports: [{port: 443}]\n",
    ));
    // DNS at whatever address.
    alone(
        "spec:\n  podSelector: {}\n  policyTypes: [Egress]\n  egress:\n  - to: [{podSelector: {}}]\n  - ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]\n",
    );
}

#[test]
fn peers_that_match_nothing() {
    alone(&from("    - «LINT012»{}\n"));
    alone(&from(
        "    - {podSelector: {}, «LINT012»ipBlock: {cidr: 192.0.2.0/24}}\n",
    ));
    alone(&from("    - {podSelector: {}}\n"));
    // An unknown field is told as such, once.
    alone(&from("    - {«LINT002»podSelectr: {}}\n"));
}

#[test]
fn entries_that_are_there_twice() {
    alone(&from(
        "    - podSelector: {matchLabels: {a: b, c: d}}\n    - «LINT013»podSelector:\n        matchLabels:\n          c: d\n          a: b\n",
    ));
    let spec = |ports: &str| {
        format!("spec: {{podSelector: {{}}, policyTypes: [Ingress], ingress: [{{ports: [{ports}]}}]}}\n")
    };
    alone(&spec("{port: 80}, «LINT013»{port: 80}"));
    alone(&spec("{port: 80}, {port: 80, protocol: UDP}"));
}

#[test]
fn empty_lists_are_not_nothing() {
    let spec = |rule: &str| {
        format!("spec:\n  podSelector: {{}}\n  policyTypes: [Ingress]\n  ingress:\n  - {rule}\n")
    };
    alone(&spec("«LINT014»from: []\n    ports: [{port: 80}]"));
    alone(&spec("«LINT014»from:\n    ports: [{port: 80}]"));
    alone(&spec("from: [{podSelector: {}}]\n    «LINT014»ports: []"));
    alone(&spec("ports: [{port: 80}]"));
}
