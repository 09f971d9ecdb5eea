//! Texts in, objects and mistakes with their places out.

mod cluster;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::*;
use crate::manifests::Isolated;

const HEAD: &str =
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: b}\n";

fn read(text: &str) -> File {
    file(Path::new("f.yaml"), text.as_bytes())
}

/// The only error of a policy whose spec is this: line and column in the spec's text, and message.
fn spec_error(spec: &str) -> (usize, usize, String) {
    let file = read(&format!("{HEAD}{spec}"));
    assert_eq!(file.documents, []);
    let [error] = file.errors.as_slice() else {
        panic!("{:?}", file.errors)
    };
    assert_eq!(error.excerpt.as_deref(), spec.lines().nth(error.line - 4));
    (error.line - 3, error.column, error.message.clone())
}

fn isolates(text: &str) -> (String, Option<LabelSelector>) {
    let file = read(text);
    let [broken] = file.broken.as_slice() else {
        panic!("{:?}", file.broken)
    };
    let isolation = broken.isolates.clone().unwrap_or_else(|| panic!("{broken:?}"));
    match isolation.of {
        Isolated::NetworkPolicy { namespace, pods } => (namespace, pods),
        Isolated::ClusterNetworkPolicy { .. } => panic!("{isolation:?}"),
    }
}

#[test]
fn errors_name_line_column_and_what_was_expected() {
    let cases = [
        (
            "spec:\n  ingresss: []\n",
            2,
            3,
            "unknown field spec.ingresss (did you mean ingress?)",
        ),
        (
            "spec:\n  ingress:\n  - from:\n    - colour: {}\n",
            4,
            7,
            "unknown field spec.ingress[0].from[0].colour (expected one of podSelector, namespaceSelector, ipBlock)",
        ),
        (
            "spec:\n  ingress:\n    - ports: [{protocol: TCP, port: [80], endPort: 90}]\n",
            3,
            37,
            "spec.ingress[0].ports[0].port: expected a number or a name, found sequence",
        ),
        (
            "spec:\n  podSelector: {matchLabels: {v: 1}}\n",
            2,
            34,
            "spec.podSelector.matchLabels.v: expected a string, found 1; if the text is meant, put it in quotes",
        ),
        (
            "spec:\n  podSelector: []\n",
            2,
            16,
            "spec.podSelector: expected a mapping",
        ),
        (
            "spec:\n  policyTypes: Ingress\n",
            2,
            16,
            "spec.policyTypes: expected a list",
        ),
        ("spec:\n  ingress: {}\n", 2, 12, "spec.ingress: expected a list"),
        (
            "spec:\n  egress:\n  - ports: [{port: 1, endPort: x}]\n",
            3,
            32,
            "spec.egress[0].ports[0].endPort: expected a whole number",
        ),
        (
            "spec:\n  ingress:\n  -\n",
            3,
            4,
            "expected a mapping, found an empty list item",
        ),
        ("spec: {}\nspec: {}\n", 2, 1, "spec: the key spec is there twice"),
        (
            "spec:\n\tpodSelector: {}\n",
            2,
            2,
            "tabs disallowed within this context (block indentation)",
        ),
    ];
    for (spec, line, column, message) in cases {
        assert_eq!(spec_error(spec), (line, column, message.to_owned()), "{spec}");
    }
}

#[test]
fn places_count_from_the_start_of_the_file_and_in_characters() {
    let file = read(&format!(
        "# é\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: é}}\n---\n{HEAD}spec: {{ñ: 1}}\n"
    ));
    let [error] = file.errors.as_slice() else {
        panic!("{:?}", file.errors)
    };
    assert_eq!((error.line, error.column), (10, 8));
    let [pod] = file.documents.as_slice() else {
        panic!("{:?}", file.documents)
    };
    assert_eq!(pod.lines, 3..=5);
    assert_eq!(pod.object.object_name().name, "é");
}

#[test]
fn a_broken_document_leaves_its_neighbours_alone() {
    let file = read(&format!("{HEAD}---\n{HEAD}spec: [\n---\n{HEAD}spec: {{}}\n"));
    assert_eq!(file.documents.len(), 2);
    assert_eq!(file.errors.len(), 1);
    assert_eq!(file.broken.len(), 1);
}

#[test]
fn lists_are_their_items() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: é}\n\
                - apiVersion: v1\n  kind: Namespace\n  metadata: {name: y, labells: {}}\n# end\n";
    let file = read(text);
    let [namespace] = file.documents.as_slice() else {
        panic!("{:?}", file.documents)
    };
    assert_eq!((namespace.lines.clone(), namespace.in_list), (4..=6, true));
    let [error] = file.errors.as_slice() else {
        panic!("{:?}", file.errors)
    };
    assert_eq!((error.line, error.column), (9, 23));
    assert_eq!(
        error.message,
        "unknown field metadata.labells (did you mean labels?)"
    );

    let text = "{\"apiVersion\":\"v1\",\"kind\":\"PodList\",\"items\":[{\"metadata\":{\"name\":\"p\"}},\n\
                \t{\"metadata\":{\"name\":\"q\"},\"spec\":{\"nodename\":\"x\",\"containers\":[]}}]}\n";
    let file = read(text);
    assert_eq!(file.documents.len(), 1);
    assert_eq!(file.documents[0].object.kind(), "Pod");
    let [error] = file.errors.as_slice() else {
        panic!("{:?}", file.errors)
    };
    assert_eq!((error.line, error.column), (2, 35));
    assert!(file.broken[0].lenient.is_some());
}

#[test]
fn comments_and_empty_documents_are_nothing() {
    for text in ["", "---\n", "# only words\n---\n...\n", "%YAML 1.2\n---\n# x\n"] {
        assert_eq!(
            read(text),
            File {
                path: "f.yaml".into(),
                ..File::default()
            },
            "{text}"
        );
    }
}

#[test]
fn other_kinds_are_named_and_not_looked_at() {
    let file =
        read("apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x}\nspec: {any: thing}\n");
    assert_eq!(file.errors, []);
    assert!(matches!(&*file.documents[0].object, Manifest::Other { kind, .. } if kind == "Service"));
}

#[test]
fn kinds_and_versions_that_were_meant_are_told() {
    let file = read(&HEAD.replace("NetworkPolicy", "Networkpolicy"));
    assert_eq!(
        file.errors[0].message,
        "unknown kind Networkpolicy (did you mean NetworkPolicy?)"
    );
    assert!(file.broken[0].isolates.is_some(), "it would have been a policy");
    let file = read(&HEAD.replace("/v1", "/v1beta1"));
    assert_eq!((file.errors[0].line, file.errors[0].column), (1, 13));
    assert!(
        file.errors[0]
            .message
            .contains("expected apiVersion networking.k8s.io/v1")
    );
    assert!(file.broken[0].isolates.is_some());
}

// Covers: SEMANTICS 18
#[test]
fn a_broken_policy_isolates_what_it_selects() {
    let selector = |value: &str| LabelSelector {
        match_labels: Some([("app".to_owned(), value.to_owned())].into()),
        ..LabelSelector::default()
    };
    let good = "spec:\n  podSelector: {matchLabels: {app: x}}\n";
    let unknown = format!("{HEAD}{good}  ingresss: []\n");
    assert_eq!(isolates(&unknown), ("b".to_owned(), Some(selector("x"))));
    let wrong_type = format!("{HEAD}{good}  ingress: 7\n");
    assert_eq!(isolates(&wrong_type), ("b".to_owned(), Some(selector("x"))));
    let syntax = format!("{HEAD}{good}  ingress: [\n");
    assert_eq!(isolates(&syntax), ("b".to_owned(), Some(selector("x"))));
    let no_kind = format!("{}{good}", HEAD.replace("kind: NetworkPolicy\n", ""));
    assert_eq!(isolates(&no_kind), ("b".to_owned(), Some(selector("x"))));
}

// Covers: SEMANTICS 18
#[test]
fn a_selector_that_can_not_be_read_in_full_isolates_the_namespace() {
    for spec in [
        "spec:\n  podSelector: {matchLabel: {app: x}}\n",
        "spec:\n  podSelector: 5\n",
        "spec:\n  podSelector:\n    matchLabels:\n      app: x\n      tier: [\n",
        "spec: {podSelector: {matchLabels: {app: x",
        "spec: 5\n",
    ] {
        assert_eq!(
            isolates(&format!("{HEAD}{spec}")),
            ("b".to_owned(), None),
            "{spec}"
        );
    }
}

#[test]
fn what_may_have_been_a_policy_of_any_namespace_is_unreadable() {
    for text in [
        "{",
        "kind: NetworkPolicy\nmetadata: {name: x",
        "some words\n",
        "- a\n",
        "\u{0}\u{1}",
    ] {
        assert!(
            read(text).broken.iter().any(|broken| broken.unreadable),
            "{text:?}"
        );
    }
    assert!(file(Path::new("x"), b"kind: \xff\n").broken[0].unreadable);
    // Of these it is known that they are no policy.
    for text in ["a: b\n", "kind: ConfigMap\ndata: [\n"] {
        assert!(
            read(text).broken.iter().all(|broken| !broken.unreadable),
            "{text:?}"
        );
    }
}

#[test]
fn a_line_that_would_take_minutes_is_not_read() {
    let config = |length: usize| {
        let data = "x".repeat(length);
        read(&format!(
            "kind: ConfigMap\napiVersion: v1\nmetadata: {{name: a}}\ndata: {{a: {data}}}\n"
        ))
    };
    assert!(
        config(1_500_000).errors.is_empty(),
        "what an API server may store is read"
    );
    let long = config(3 << 20);
    assert_eq!((long.errors[0].line, long.errors[0].column), (4, 1));
    assert!(
        long.errors[0].message.contains("jq ."),
        "{}",
        long.errors[0].message
    );
    assert!(long.broken[0].unreadable);
}

#[test]
fn numbers_are_quantities_and_y_is_a_name() {
    let file = read(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: y, creationTimestamp: null, labels: {pod: n}}\n\
         spec: {containers: [{name: x, image: i, resources: {limits: {cpu: 1, memory: 1Gi}}}]}\n\
         status: {startTime: 2024-01-01T00:00:00Z, podIPs: [{ip: 10.0.0.1}]}\n",
    );
    assert_eq!(file.errors, []);
}

/// Whatever stands in a file, reading it ends, and every document is either an object or told as a mistake.
#[test]
fn no_text_is_too_odd_to_read() {
    let seeds = [
        format!("{HEAD}spec:\n  podSelector: {{matchLabels: {{app: é}}}}\n  ingress:\n  - from: [{{podSelector: {{}}}}]\n---\n{HEAD}"),
        "apiVersion: v1\nkind: List\nitems:\n- &a {apiVersion: v1, kind: Namespace, metadata: {name: x}}\n- *a\n- b: |\n   ---\n".to_owned(),
        "{\"apiVersion\":\"v1\",\"kind\":\"PodList\",\"items\":[{\"metadata\":{\"name\":\"p\"}}, 5, null]}".to_owned(),
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: é}\nspec:\n  tier: Admin\n  priority: 1\n  \
         subject: {pods: {podSelector: {}}}\n  egress:\n  - {action: Deny, to: [{networks: [::/0]}], protocols: [{tcp: {}}]}\n"
            .to_owned(),
    ];
    let pieces = [
        "{", "}", "[", "]", ":", "-", "\n", "---\n", "...\n", "  ", "\t", "&a ", "*a", "!!x ", "\"", "'",
        "|\n", "é", "#", "\u{0}", "%", "? ", "<<: *a",
    ];
    // A fixed sequence, so that a failure repeats.
    let mut state = 42_u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for _ in 0..3000 {
        let mut text = seeds[random(seeds.len())].clone();
        for _ in 0..=random(4) {
            let mut at = random(text.len() + 1);
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            if random(3) == 0 {
                text.truncate(at);
            } else {
                text.insert_str(at, pieces[random(pieces.len())]);
            }
        }
        let file = read(&text);
        assert!(
            file.errors.iter().all(|error| error.line > 0 && error.column > 0),
            "{text:?}"
        );
        assert!(!file.errors.is_empty() || file.broken.is_empty(), "{text:?}");
        for broken in &file.broken {
            assert!(
                broken.name.is_some() || broken.isolates.is_none() || !file.errors.is_empty(),
                "{text:?}"
            );
        }
    }
}
