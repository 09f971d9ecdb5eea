//! LINT050 to LINT061.

use super::*;

#[test]
fn an_empty_rule_beside_what_says_the_opposite() {
    let other = |name: &str, spec: &str| expect_in("", &named("shop", name, spec));
    other(
        "deny-all",
        "spec: {podSelector: {}, policyTypes: [Ingress], ingress: [«LINT050»{}]}",
    );
    alone(
        "spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}]}, «LINT050»{}]}\n",
    );
    alone(
        "spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [«LINT050»{}], «LINT052»egress: []}\n",
    );
    other(
        "allow-all",
        "spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{}]}",
    );
    other(
        "deny-egress",
        "spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}], egress: []}",
    );
    other(
        "deny-all",
        "spec: {podSelector: {}, policyTypes: [Ingress], ingress: []}",
    );
    // Two policies of which one undoes the other.
    let deny = named(
        "shop",
        "default-deny",
        "spec: {podSelector: {}, policyTypes: [Ingress]}",
    );
    let open = |rule: &str, pods: &str| {
        named(
            "shop",
            "open",
            &format!("spec: {{podSelector: {pods}, policyTypes: [Ingress], ingress: [{rule}]}}"),
        )
    };
    expect_in("", &(deny.clone() + &open("«LINT050»{}", "{}")));
    expect_in("", &(deny + &open("{}", "{matchLabels: {app: web}}")));
}

#[test]
fn rules_that_do_nothing() {
    let report = alone(
        "spec:\n  podSelector: {}\n  policyTypes: [Ingress]\n  ingress: [{from: [{podSelector: {}}]}]\n  «LINT051»egress:\n  - to: [{podSelector: {}}]\n",
    );
    assert_eq!(
        report.findings[0].message,
        "these egress rules do nothing, because policyTypes leaves out Egress: egress of these pods stays open"
    );
    let report =
        alone("spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}], «LINT051»egress: []}\n");
    assert_eq!(
        report.findings[0].message,
        "egress: [] does nothing, because there is no policyTypes: egress of these pods stays open"
    );
    alone(
        "spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {}}]}], egress: [{}]}\n",
    );
}

#[test]
fn a_direction_without_rules() {
    alone(
        "spec: {podSelector: {}, policyTypes: [Ingress, «LINT052»Egress], ingress: [{from: [{podSelector: {}}]}]}\n",
    );
    expect_in("", &named("shop", "«LINT052»web", "spec: {podSelector: {}}"));
    expect_in(
        "",
        &named(
            "shop",
            "default-deny",
            "spec: {podSelector: {}, policyTypes: [Ingress, Egress]}",
        ),
    );
}

#[test]
fn egress_rules_that_deny_ingress() {
    alone("spec:\n  podSelector: {}\n  «LINT053»egress:\n  - {}\n");
    alone("spec:\n  podSelector: {}\n  policyTypes: [Egress]\n  egress:\n  - {}\n");
    alone("spec:\n  podSelector: {}\n  «LINT052»ingress: []\n  egress:\n  - «LINT050»{}\n");
}

#[test]
fn types_that_are_none() {
    let report = alone(
        "spec: {podSelector: {}, policyTypes: [«LINT054»ingress], ingress: [{from: [{podSelector: {}}]}]}\n",
    );
    assert_eq!(report.findings[0].fix, "write Ingress");
}

/// An egress policy with these rules.
fn egress(rules: &str) -> String {
    format!("spec:\n  podSelector: {{matchLabels: {{app: web}}}}\n  policyTypes: [Egress]\n  {rules}\n")
}

const DB: &str = "{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 5432}]}";
const BOTH: &str = "ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]";
const TO_DNS: &str = "to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]";

#[test]
fn egress_without_dns() {
    for bad in [
        DB,
        // Where DNS is not.
        &format!("{DB}, {{to: [{{podSelector: {{matchLabels: {{k8s-app: kube-dns}}}}}}], {BOTH}}}"),
        &format!("{DB}, {{to: [{{podSelector: {{}}}}], {BOTH}}}"),
        // TCP alone.
        &format!("{DB}, {{{TO_DNS}, ports: [{{port: 53, protocol: TCP}}]}}"),
        // The world but not the cluster.
        "{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16]}}]}",
        "{to: [{ipBlock: {cidr: 203.0.113.0/24}}]}",
        "{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]}",
    ] {
        alone(&egress(&format!("«LINT060»egress: [{bad}]")));
    }
    in_cluster(&egress(&format!("«LINT060»egress: [{DB}]")));
    in_cluster(&egress(
        "«LINT060»egress: [{to: [{namespaceSelector: {matchLabels: {team: ops}}}]}]",
    ));
    alone(&egress("«LINT060»egress: [{ports: [{port: «LINT040»53}]}]"));
}

#[test]
fn egress_with_dns() {
    for good in [
        format!("{DB}, {{{TO_DNS}, {BOTH}}}"),
        format!("{DB}, {{{BOTH}}}"),
        format!("{DB}, {{to: [{{namespaceSelector: {{}}}}], {BOTH}}}"),
        format!(
            "{DB}, {{to: [{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{k8s-app: kube-dns}}}}}}], {BOTH}}}"
        ),
        format!("{DB}, {{to: [{{ipBlock: {{cidr: 169.254.20.10/32}}}}], {BOTH}}}"),
        "{to: [{namespaceSelector: {}}]}".to_owned(),
        "{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}".to_owned(),
        "{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}".to_owned(),
        "{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]}".to_owned(),
        "{}".to_owned(),
        "{ports: [{port: 1, endPort: 65535, protocol: UDP}, {port: 1, endPort: 65535}]}".to_owned(),
    ] {
        alone(&egress(&format!("egress: [{good}]")));
        in_cluster(&egress(&format!("egress: [{good}]")));
    }
}

#[test]
fn dns_of_another_policy() {
    let dns = named(
        "shop",
        "dns",
        &format!("spec: {{podSelector: {{}}, policyTypes: [Egress], egress: [{{{TO_DNS}, {BOTH}}}]}}"),
    );
    let elsewhere = dns.replace("namespace: shop", "namespace: monitoring");
    let narrow = dns.replace(
        "podSelector: {}, policyTypes",
        "podSelector: {matchLabels: {app: db}}, policyTypes",
    );
    for cluster in ["", CLUSTER] {
        expect_in(
            cluster,
            &format!("{dns}{HEAD}{}", egress(&format!("egress: [{DB}]"))),
        );
        for other in [&elsewhere, &narrow] {
            expect_in(
                cluster,
                &format!("{other}{HEAD}{}", egress(&format!("«LINT060»egress: [{DB}]"))),
            );
        }
    }
    // Each pod by itself: one has DNS, the other has not.
    let all = format!("spec:\n  podSelector: {{}}\n  policyTypes: [Egress]\n  «LINT060»egress: [{DB}]\n");
    expect_in(CLUSTER, &format!("{narrow}{HEAD}{all}"));
}

#[test]
fn dns_over_udp_only() {
    let report = alone(&egress(&format!(
        "«LINT061»egress: [{DB}, {{{TO_DNS}, ports: [{{port: 53, protocol: UDP}}]}}]"
    )));
    assert_eq!(report.findings[0].severity, Severity::Info);
}

#[test]
fn dns_for_its_own_sake() {
    let spec = "spec: {podSelector: {matchLabels: {k8s-app: kube-dns}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 203.0.113.53/32}}], ports: [{port: 853}]}]}";
    expect_in(CLUSTER, &named("kube-system", "coredns", spec));
}
