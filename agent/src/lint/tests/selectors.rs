//! LINT020 to LINT028.

use super::*;

/// A policy for these pods, which may receive from these.
fn policy(subject: &str, peer: &str) -> String {
    format!(
        "spec:\n  podSelector: {subject}\n  policyTypes: [Ingress]\n  ingress:\n  - from:\n    - {peer}\n"
    )
}

const WEB: &str = "{matchLabels: {app: web}}";

/// The policy as of another namespace.
fn of_namespace(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: web, {namespace}}}\n{spec}"
    )
}

#[test]
fn a_policy_that_selects_nothing() {
    let text = format!(
        "spec:\n  «LINT020»podSelector: {{matchLabels: {{app: wbe}}}}\n  policyTypes: [Ingress]\n  ingress: [{{from: [{{podSelector: {WEB}}}]}}]\n"
    );
    let report = in_cluster(&text);
    assert_eq!(
        report.findings[0].message,
        "no pod of namespace shop matches app=wbe in these manifests: the policy protects nothing"
    );
    assert_eq!(report.findings[0].fix, "did you mean app=web?");
    in_cluster(&policy(WEB, &format!("podSelector: {WEB}")));
    // The template of a workload counts as a pod.
    in_cluster(&policy(
        "{matchLabels: {app: db}}",
        &format!("podSelector: {WEB}"),
    ));
    // Without pods in the input nobody knows.
    alone(&policy(
        "{matchLabels: {app: wbe}}",
        &format!("podSelector: {WEB}"),
    ));
}

#[test]
fn a_peer_that_is_nobody() {
    in_cluster(&policy(WEB, "«LINT021»podSelector: {matchLabels: {app: dbb}}"));
    in_cluster(&policy(
        WEB,
        "{namespaceSelector: {matchLabels: {team: ops}}, «LINT021»podSelector: {matchLabels: {app: db}}}",
    ));
    in_cluster(&policy(
        WEB,
        "{namespaceSelector: {matchLabels: {team: ops}}, podSelector: {matchLabels: {app: prometheus}}}",
    ));
    let report = in_cluster(&policy(
        WEB,
        "«LINT021»podSelector: {matchLabels: {app: prometheus}}",
    ));
    assert_eq!(
        report.findings[0].fix,
        "monitoring/prometheus is in namespace monitoring: add a namespaceSelector (kubernetes.io/metadata.name: monitoring) to \
         the same item"
    );
    // A namespace without pods in the input may have some.
    in_cluster(&policy(
        WEB,
        "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: empty}}, podSelector: {matchLabels: {app: x}}}",
    ));
    // And kube-system is there, whether or not the input has it.
    let namespaces = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    let peer = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}";
    expect_in(namespaces, &format!("{HEAD}{}", policy(WEB, peer)));
}

#[test]
fn a_namespace_selector_that_matches_nothing() {
    let report = in_cluster(&policy(
        WEB,
        "«LINT022»namespaceSelector: {matchLabels: {team: opps}}",
    ));
    assert_eq!(report.findings[0].fix, "did you mean team=ops?");
    in_cluster(&policy(
        WEB,
        "namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [shop]}]}",
    ));
    in_cluster(&policy(
        WEB,
        "«LINT022»namespaceSelector: {matchExpressions: [{key: tier, operator: Exists}]}",
    ));
    alone(&policy(WEB, "namespaceSelector: {matchLabels: {team: opps}}"));
}

#[test]
fn the_label_name() {
    let report = in_cluster(&policy(
        WEB,
        "namespaceSelector: {matchLabels: {name: «LINT023»monitoring}}",
    ));
    assert_eq!(
        report.findings[0].fix,
        "write kubernetes.io/metadata.name: monitoring"
    );
    assert_eq!(report.findings[0].severity, Severity::Warning);
    in_cluster(&policy(
        WEB,
        "namespaceSelector: {matchExpressions: [{key: «LINT023»name, operator: In, values: [monitoring]}]}",
    ));
    in_cluster(&policy(
        WEB,
        "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}",
    ));
    // Pods have a label name as others have one.
    alone(&policy(
        "{matchLabels: {name: web}}",
        "podSelector: {matchLabels: {name: web}}",
    ));
    // Somebody set it.
    let labelled = CLUSTER.replace("team: ops", "name: monitoring");
    expect_in(
        &labelled,
        &format!(
            "{HEAD}{}",
            policy(WEB, "namespaceSelector: {matchLabels: {name: monitoring}}")
        ),
    );
    // Without Namespaces it is no more than a hint.
    let report = alone(&policy(
        WEB,
        "namespaceSelector: {matchLabels: {name: «LINT023»monitoring}}",
    ));
    assert_eq!(report.findings[0].severity, Severity::Info);
}

#[test]
fn a_namespace_that_does_not_exist() {
    in_cluster(&policy(
        WEB,
        "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: «LINT024»monitring}}",
    ));
    let spec = policy("{}", "podSelector: {}");
    let report = expect_in(CLUSTER, &of_namespace("namespace: «LINT024»shopp", &spec));
    assert_eq!(report.findings[0].fix, "did you mean shop?");
    expect_in("", &of_namespace("namespace: shopp", &spec));
    // No namespace is the namespace default.
    let report = expect_in(
        CLUSTER,
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: «LINT025»web}\nspec: {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}]}]}\n",
    );
    assert_eq!(report.findings[0].severity, Severity::Info);
}

#[test]
fn a_namespace_without_pods() {
    let spec = policy("{}", "podSelector: {}");
    expect_in(CLUSTER, &of_namespace("namespace: «LINT025»empty", &spec));
    expect_in(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: empty}\n",
        &of_namespace("namespace: empty", &spec),
    );
}

#[test]
fn selectors_that_are_refused() {
    for (bad, good) in [
        (
            "{matchExpressions: [{key: a, operator: «LINT026»in, values: [b]}]}",
            "{matchExpressions: [{key: a, operator: In, values: [b]}]}",
        ),
        (
            "{matchExpressions: [{key: a, operator: «LINT026»In}]}",
            "{matchExpressions: [{key: a, operator: Exists}]}",
        ),
        (
            "{matchExpressions: [{key: a, operator: Exists, «LINT026»values: [b]}]}",
            "{matchExpressions: [{key: a, operator: DoesNotExist, values: []}]}",
        ),
        ("{matchLabels: {a: «LINT026»b c}}", "{matchLabels: {a: b.c_d-e}}"),
        (
            "{matchLabels: {-a: «LINT026»b}}",
            "{matchLabels: {example.com/a: ''}}",
        ),
    ] {
        alone(&policy(bad, &format!("podSelector: {WEB}")));
        alone(&policy(WEB, &format!("podSelector: {bad}")));
        alone(&policy(good, &format!("namespaceSelector: {good}")));
    }
}

#[test]
fn only_pods_of_the_nodes_network() {
    let spec = policy("{matchLabels: {app: exporter}}", "podSelector: {}")
        .replace("podSelector: {matchLabels", "«LINT027»podSelector: {matchLabels");
    expect_in(CLUSTER, &of_namespace("namespace: monitoring", &spec));
    expect_in(
        CLUSTER,
        &of_namespace("namespace: monitoring", &policy("{}", "podSelector: {}")),
    );
    in_cluster(&policy(
        WEB,
        "{namespaceSelector: {matchLabels: {team: ops}}, «LINT028»podSelector: {matchLabels: {app: exporter}}}",
    ));
    in_cluster(&policy(WEB, "{namespaceSelector: {matchLabels: {team: ops}}}"));
}
