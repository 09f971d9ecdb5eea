//! ClusterNetworkPolicies.

use super::*;

const HEAD: &str =
    "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: a}\n";

const SUBJECT: &str = "{namespaces: {matchLabels: {app: x}}}";

/// Selectors of the namespaces and the pods that a broken text closes; `None` where it closes none.
type Closed = Option<(Option<LabelSelector>, Option<LabelSelector>)>;

fn closes(text: &str) -> Closed {
    let file = read(text);
    assert!(!file.errors.is_empty(), "{text}");
    let [broken] = file.broken.as_slice() else {
        panic!("{text}: {:?}", file.broken)
    };
    match broken.isolates.clone()?.of {
        Isolated::ClusterNetworkPolicy { namespaces, pods, .. } => Some((namespaces, pods)),
        Isolated::NetworkPolicy { .. } => panic!("{text}: {broken:?}"),
    }
}

fn app() -> LabelSelector {
    LabelSelector {
        match_labels: Some([("app".to_owned(), "x".to_owned())].into()),
        ..LabelSelector::default()
    }
}

#[test]
fn errors_name_line_column_and_what_was_expected() {
    let good = "tier: Admin, priority: 1, subject: {namespaces: {}}";
    // The place is where the named text starts; without one it is the spec's.
    let cases = [
        (
            "{tier: Admin, prioritee: 1, subject: {namespaces: {}}}".to_owned(),
            "prioritee",
            "unknown field spec.prioritee (did you mean priority?)",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespace: {}}}".to_owned(),
            "namespace:",
            "unknown field spec.subject.namespace (did you mean namespaces?)",
        ),
        (
            "{tier: Admin, priority: 1, subject: {pods: {podSelectr: {}}}}".to_owned(),
            "podSelectr",
            "unknown field spec.subject.pods.podSelectr (did you mean podSelector?)",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {matchLabel: {}}}}".to_owned(),
            "matchLabel",
            "unknown field spec.subject.namespaces.matchLabel (did you mean matchLabels?)",
        ),
        (
            format!("{{{good}, ingress: [{{action: Deny, form: []}}]}}"),
            "form",
            "unknown field spec.ingress[0].form (did you mean from?)",
        ),
        (
            format!("{{{good}, egress: [{{action: Deny, ports: []}}]}}"),
            "ports",
            "unknown field spec.egress[0].ports (expected one of name, action, to, protocols)",
        ),
        (
            "{tier: Admin, subject: {namespaces: {}}}".to_owned(),
            "",
            "spec.priority is missing (0 to 1000, the lower is asked first)",
        ),
        (
            "{tier: Admin, priority: 1001, subject: {namespaces: {}}}".to_owned(),
            "priority",
            "spec.priority: expected 0 to 1000, found 1001",
        ),
        (
            "{tier: Admin, priority: high, subject: {namespaces: {}}}".to_owned(),
            "high",
            "spec.priority: expected a whole number",
        ),
        (
            "{tier: Admin, priority: 1}".to_owned(),
            "",
            "spec.subject is missing (namespaces or pods)",
        ),
        (
            "{tier: Admin, priority: 1, subject: {}}".to_owned(),
            "subject",
            "spec.subject: expected namespaces or pods",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {}, pods: {}}}".to_owned(),
            "subject",
            "spec.subject: expected namespaces or pods, found both",
        ),
        (
            "{tier: Admin, priority: 1, subject: {pods: {podSelector: {matchExpressions: [{key: a, operator: in}]}}}}".to_owned(),
            "subject",
            "spec.subject.pods.podSelector.matchExpressions[0].operator: expected In, NotIn, Exists or DoesNotExist, found \"in\"",
        ),
        (
            format!("{{{good}, ingress: [null]}}"),
            "null",
            "expected a mapping, found an empty list item",
        ),
        (
            format!("{{{good}, ingress: [{{action: Deny, protocols: [{{tcp: {{destinationPort: .nan}}}}]}}]}}"),
            ".nan",
            "spec.ingress[0].protocols[0].tcp.destinationPort: expected a number, found .nan",
        ),
    ];
    for (spec, at, message) in cases {
        let file = read(&format!("{HEAD}spec:\n  {spec}\n"));
        assert_eq!(file.documents, [], "{spec}");
        let [error] = file.errors.as_slice() else {
            panic!("{spec}: {:?}", file.errors)
        };
        let place = if at.is_empty() {
            (4, 1)
        } else {
            (5, spec.find(at).unwrap() + 3)
        };
        assert_eq!(
            ((error.line, error.column), error.message.as_str()),
            (place, message),
            "{spec}"
        );
    }
}

// Covers: CNP 6
#[test]
fn what_nobody_knows_of_a_peer_or_protocol_is_kept() {
    let text = format!(
        "{HEAD}spec:\n  tier: Admin\n  priority: 1\n  subject: {SUBJECT}\n  ingress:\n  - {{action: Deny, from: [{{colour: {{a: [1, x]}}}}], \
         protocols: [{{quic: {{}}}}]}}\n"
    );
    let file = read(&text);
    assert_eq!(
        (file.errors.as_slice(), file.broken.as_slice()),
        (&[][..], &[][..])
    );
    let Manifest::ClusterNetworkPolicy(policy) = &*file.documents[0].object else {
        panic!("{file:?}")
    };
    let rule = &policy.spec.as_ref().unwrap().ingress.as_ref().unwrap()[0];
    let from = serde_json::json!([{"colour": {"a": [1, "x"]}}]);
    assert_eq!(serde_json::json!(rule.from), from);
    assert_eq!(
        serde_json::json!(rule.protocols),
        serde_json::json!([{"quic": {}}])
    );
}

#[test]
fn kinds_and_versions_that_were_meant_are_told() {
    let every = Some((None, None));
    for (from, to, message) in [
        (
            "ClusterNetworkPolicy",
            "ClusterNetworkpolicy",
            "unknown kind ClusterNetworkpolicy (did you mean ClusterNetworkPolicy?)",
        ),
        (
            "policy.networking.k8s.io/v1alpha2",
            "networking.k8s.io/v1",
            "expected apiVersion policy.networking.k8s.io/v1alpha2 for a ClusterNetworkPolicy, found networking.k8s.io/v1",
        ),
        (
            "policy.networking.k8s.io/v1alpha2",
            "v1alpha2",
            "expected apiVersion policy.networking.k8s.io/v1alpha2 for a ClusterNetworkPolicy, found v1alpha2",
        ),
    ] {
        let text = HEAD.replace(from, to);
        assert_eq!(read(&text).errors[0].message, message);
        assert_eq!(closes(&text), every, "{to}");
    }
    for (version, kind) in [
        ("policy.networking.k8s.io/v1beta1", "ClusterNetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy"),
        ("crd.antrea.io/v1beta1", "ClusterNetworkPolicy"),
    ] {
        let file = read(&format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n"
        ));
        assert_eq!(file.errors, []);
        let object = &*file.documents[0].object;
        assert!(
            matches!(object, Manifest::Other { kind: found, .. } if found == kind),
            "{object:?}"
        );
    }
}

// Covers: SEMANTICS 18
#[test]
fn a_text_that_breaks_off_closes_the_subject_if_all_of_it_was_read() {
    let every = Some((None, None));
    let some = Some((Some(app()), None));
    for (spec, expected) in [
        (
            "spec: {subject: {namespaces: {matchLabels: {app: x}}}, ingress: [",
            &some,
        ),
        (
            "spec:\n  subject: {namespaces: {matchLabels: {app: x}}}\n  ingress: [\n",
            &some,
        ),
        ("spec: {subject: {namespaces: {matchLabels: {app: x}", &every),
        (
            "spec:\n  subject:\n    namespaces:\n      matchLabels: {app: x}\n      [",
            &every,
        ),
        ("spec:\n  ingress: [", &every),
    ] {
        assert_eq!(&closes(&format!("{HEAD}{spec}")), expected, "{spec}");
    }
    let file = read(&HEAD.replace("{name: a}", "{name: a"));
    assert!(file.broken[0].unreadable, "its name may go on");
}

#[test]
fn a_policy_without_its_kind_is_known_by_what_it_says() {
    let without = HEAD.replace("kind: ClusterNetworkPolicy\n", "");
    let spec = format!("spec: {{subject: {SUBJECT}, tier: Admin}}\n");
    assert_eq!(closes(&format!("{without}{spec}")), Some((Some(app()), None)));
    assert_eq!(
        closes(&without),
        Some((None, None)),
        "the group has no other kind"
    );
    assert_eq!(
        closes(&format!("metadata: {{name: a}}\n{spec}")),
        Some((Some(app()), None))
    );
    // Certificates have a subject, but no tier.
    assert_eq!(
        closes("metadata: {name: a}\nspec: {subject: {organizations: [x]}}\n"),
        None
    );
}

#[test]
fn it_has_no_namespace() {
    let file = read(&HEAD.replace("{name: a}", "{name: a, namespace: b}"));
    assert_eq!(file.broken[0].name.as_ref().unwrap().namespace, "");
    let file = read(&format!(
        "{}spec: {{tier: Admin, priority: 1, subject: {SUBJECT}}}\n",
        HEAD.replace("{name: a}", "{name: a, namespace: b}")
    ));
    assert_eq!(file.documents[0].object.object_name().namespace, "");
}
