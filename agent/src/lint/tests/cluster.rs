//! LINT070 to LINT074, and the other codes where they concern ClusterNetworkPolicies.

use super::*;

/// A ClusterNetworkPolicy of the Admin tier for every pod.
fn admin(name: &str, priority: &str, rules: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n  tier: Admin\n  priority: {priority}\n  subject: {{namespaces: {{}}}}\n{rules}\n---\n"
    )
}

const DENY: &str = "  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: ops}}}]}]";

#[test]
fn equal_priorities() {
    let report = expect_in("", &(admin("a", "5", DENY) + &admin("b", "«LINT070»5", DENY)));
    assert!(
        report.findings[0]
            .message
            .starts_with("a has priority 5 in tier Admin too"),
        "{report:?}"
    );
    expect_in("", &(admin("a", "5", DENY) + &admin("b", "6", DENY)));
    expect_in(
        "",
        &(admin("a", "5", DENY) + &admin("b", "5", DENY).replace("tier: Admin", "tier: Baseline")),
    );
}

#[test]
fn rules_nobody_reaches() {
    let ingress = |rules: &str| expect_in("", &admin("a", "5", &format!("  ingress:\n{rules}")));
    let ops = "{namespaces: {matchLabels: {team: ops}}}";
    let report = ingress(&format!(
        "  - {{action: Deny, from: [{{namespaces: {{}}}}]}}\n  - «LINT071»{{action: Accept, from: [{ops}]}}"
    ));
    assert_eq!(
        report.findings[0].message,
        "spec.ingress[0] denies all that this rule matches: it is never reached"
    );
    ingress(&format!(
        "  - {{action: Pass, from: [{ops}]}}\n  - «LINT071»{{action: Accept, from: [{ops}], protocols: [{{tcp: {{}}}}]}}"
    ));
    ingress(&format!(
        "  - {{action: Accept, from: [{ops}]}}\n  - {{action: Deny, from: [{{namespaces: {{}}}}]}}"
    ));
    ingress(&format!(
        "  - {{action: Deny, from: [{{namespaces: {{}}}}], protocols: [{{tcp: {{}}}}]}}\n  - {{action: Accept, from: [{ops}]}}"
    ));
    let egress = |rules: &str| expect_in("", &admin("a", "5", &format!("  egress:\n{rules}")));
    egress(
        "  - {action: Deny, to: [{networks: [192.168.0.0/16]}]}\n  - «LINT071»{action: Accept, to: [{networks: [192.168.7.0/24]}]}",
    );
    egress(
        "  - {action: Deny, to: [{networks: [192.168.7.0/24]}]}\n  - {action: Accept, to: [{networks: [192.168.0.0/16]}]}",
    );
    // Pods are not all there is.
    egress("  - {action: Accept, to: [{namespaces: {}}]}\n  - {action: Deny, to: [{networks: [0.0.0.0/0]}]}");
}

#[test]
fn what_fails_closed() {
    let rule = |rule: &str| expect_in("", &admin("a", "5", &format!("  ingress:\n  - {rule}")));
    let report = rule("{action: Accept, from: [{«LINT072»namespace: {}}]}");
    assert!(
        report.findings[0].message.contains("matches nothing"),
        "{report:?}"
    );
    assert_eq!(report.findings[0].fix, "did you mean namespaces?");
    let report = rule("{action: Deny, from: [«LINT072»{}]}");
    assert!(
        report.findings[0].message.contains("matches everything"),
        "{report:?}"
    );
    rule("{action: Deny, from: [«LINT072»{namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}]}");
    rule("{action: Deny, from: [{«LINT072»networks: [10.0.0.0/8]}]}");
    rule("{action: Deny, from: [{namespaces: {}}], protocols: [{«LINT072»icmp: {}}]}");
    rule("{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {«LINT072»port: 80}}]}");
    rule(
        "{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {}}}], protocols: [{tcp: {destinationPort: {range: {start: 1, end: 5}}}}, {destinationNamedPort: http}]}",
    );
    expect_in(
        "",
        &admin(
            "a",
            "5",
            "  egress: [{action: Deny, to: [{networks: [203.0.113.0/24]}, {nodes: {}}]}]",
        ),
    );
    expect_in(
        "",
        &admin(
            "a",
            "5",
            "  egress: [{action: Accept, to: [{«LINT072»domainNames: [example.org]}]}]",
        ),
    );
}

#[test]
fn denies_that_take_dns() {
    let egress = |rules: &str| admin("a", "5", &format!("  egress:\n{rules}"));
    let dns = "  - {action: Accept, to: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}}], protocols: [{udp: {destinationPort: {number: 53}}}, {tcp: {destinationPort: {number: 53}}}]}\n";
    let deny = "  - «LINT073»{action: Deny, to: [{networks: [0.0.0.0/0]}]}";
    let quiet = deny.replace("«LINT073»", "");
    for cluster in ["", CLUSTER] {
        expect_in(cluster, &egress(deny));
        expect_in(
            cluster,
            &egress("  - «LINT073»{action: Deny, to: [{namespaces: {}}]}"),
        );
        expect_in(cluster, &egress(&format!("{dns}{quiet}")));
        expect_in(
            cluster,
            &egress("  - {action: Deny, to: [{networks: [169.254.169.254/32]}]}"),
        );
        expect_in(
            cluster,
            &egress(
                "  - {action: Deny, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 25}}}]}",
            ),
        );
        // Accepted by one that comes before.
        expect_in(
            cluster,
            &(egress(&quiet)
                + &egress(dns.trim_end())
                    .replace("name: a", "name: b")
                    .replace("priority: 5", "priority: 1")),
        );
    }
    expect_in(
        CLUSTER,
        &egress(
            "  - «LINT073»{action: Deny, to: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]}",
        ),
    );
}

#[test]
fn policies_that_are_not_complete() {
    let head =
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: a}\n";
    let expect = |spec: &str| expect_in("", &format!("{head}{spec}\n"));
    expect("spec: {tier: «LINT074»admin, priority: 5, subject: {namespaces: {}}}");
    expect("spec: {tier: Admin, priority: «LINT074»1001, subject: {namespaces: {}}}");
    expect("«LINT074»spec: {tier: Admin, priority: 5}");
    expect("spec: {tier: Admin, priority: 5, «LINT074»subject: {}}");
    expect(
        "spec: {tier: Admin, priority: 5, subject: {namespaces: {}}, ingress: [{action: «LINT074»Allow, from: [{namespaces: {}}]}]}",
    );
    expect(
        "spec: {tier: Admin, priority: 5, subject: {namespaces: {}}, ingress: [«LINT074»{action: Accept}]}",
    );
    expect(
        "spec: {tier: Admin, priority: 5, subject: {namespaces: {}}, ingress: [{action: Accept, «LINT074»from: []}]}",
    );
    expect("spec: {tier: Baseline, priority: 0, subject: {pods: {namespaceSelector: {}, podSelector: {}}}}");
}

#[test]
fn selectors_blocks_and_ports_are_looked_at_too() {
    let subject = |subject: &str| {
        admin("a", "5", DENY).replace("subject: {namespaces: {}}", &format!("subject: {subject}"))
    };
    expect_in(
        CLUSTER,
        &subject("{pods: {namespaceSelector: {}, «LINT020»podSelector: {matchLabels: {app: wbe}}}}"),
    );
    expect_in(
        CLUSTER,
        &subject("{«LINT022»namespaces: {matchLabels: {team: opps}}}"),
    );
    expect_in(
        CLUSTER,
        &subject("{namespaces: {matchLabels: {name: «LINT023»shop}}}"),
    );
    expect_in(
        CLUSTER,
        &subject(
            "{pods: {namespaceSelector: {matchLabels: {team: ops}}, «LINT027»podSelector: {matchLabels: {app: exporter}}}}",
        ),
    );
    let egress = |rule: &str| expect_in(CLUSTER, &admin("a", "5", &format!("  egress:\n  - {rule}")));
    egress("{action: Accept, to: [{networks: [«LINT030»10.0.0.0]}]}");
    egress("{action: Accept, to: [{networks: [«LINT035»10.96.0.80/32]}]}");
    egress(
        "{action: Accept, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: «LINT047»0}}}]}",
    );
    egress(
        "{action: Accept, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: «LINT041»9, end: 9}}}}]}",
    );
    egress("{action: Accept, to: [{namespaces: {}}], protocols: [{destinationNamedPort: «LINT043»htpp}]}");
    egress("{action: Accept, to: [{namespaces: {}}], protocols: [{destinationNamedPort: gossip}]}");
}
