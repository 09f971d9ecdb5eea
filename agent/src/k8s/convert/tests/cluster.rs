//! ClusterNetworkPolicies as a whole: where they stand, on which pods they act, what becomes of broken ones.

use vethwall_policy::model::{ClusterNetworkPolicy, ClusterRule, Peer, Peers, Ports, RuleAction, Selector};

use super::*;

const HEAD: &str = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n";

/// Selects what [`labelled`] with `n` selects.
const SELECTOR: &str = "{matchLabels: {l: n}}";

/// The text of a policy for every pod.
pub(super) fn text(name: &str, rules: &str) -> String {
    format!(
        "{HEAD}metadata: {{name: {name}}}\nspec:\n  tier: Admin\n  priority: 7\n  subject: {{namespaces: {{}}}}\n{rules}"
    )
}

/// The only object of a text, and the codes and messages of its problems.
pub(super) fn only(text: &str) -> (ClusterNetworkPolicy, Vec<(&'static str, String)>) {
    let (objects, problems) = read(text);
    let [Object::ClusterNetworkPolicy(policy)] = objects.as_slice() else {
        panic!("{text}: {objects:?} {problems:?}")
    };
    (policy.clone(), problems)
}

pub(super) fn everything() -> Selector {
    Selector::everything()
}

pub(super) fn labelled(value: &str) -> Selector {
    Selector::labels([("l", value)])
}

pub(super) fn pods(namespaces: Selector, pods: Selector) -> Peer {
    Peer::Pods {
        namespaces: Some(namespaces),
        pods,
    }
}

/// Denies everything, both ways.
fn closed(policy: &ClusterNetworkPolicy) -> bool {
    let deny = [ClusterRule {
        name: None,
        action: RuleAction::Deny,
        peers: Peers::All,
        ports: Ports::All,
    }];
    policy.tier == Tier::Admin && policy.priority == 0 && policy.ingress == deny && policy.egress == deny
}

// Covers: CNP 1, 3
#[test]
fn a_policy_stands_where_its_tier_and_priority_say_and_its_rules_keep_their_order() {
    for (tier, priority) in [("Admin", 0), ("Admin", 1000), ("Baseline", 500)] {
        let (policy, problems) = only(&format!(
            "{HEAD}metadata: {{name: p}}\nspec: {{tier: {tier}, priority: {priority}, subject: {{namespaces: {{}}}}, ingress: [\
             {{name: one, action: Deny, from: [{{namespaces: {{}}}}]}}, {{action: Pass, from: [{{namespaces: {{}}}}]}},\
             {{name: '', action: Accept, from: [{{namespaces: {{}}}}]}}]}}\n"
        ));
        assert_eq!(problems, []);
        assert_eq!(
            (format!("{:?}", policy.tier), policy.priority),
            (tier.to_owned(), priority)
        );
        let rules: Vec<_> = policy
            .ingress
            .iter()
            .map(|rule| (rule.name.as_deref(), rule.action))
            .collect();
        let expected = [
            (Some("one"), RuleAction::Deny),
            (None, RuleAction::Pass),
            (None, RuleAction::Accept),
        ];
        assert_eq!(rules, expected);
        assert_eq!(policy.egress, [], "it says nothing of egress");
    }
}

#[test]
fn the_subject_is_namespaces_or_pods_in_them() {
    let cases = [
        ("{namespaces: {}}", everything(), everything()),
        ("{namespaces: {matchLabels: {l: n}}}", labelled("n"), everything()),
        ("{pods: {}}", everything(), everything()),
        (
            "{pods: {podSelector: {matchLabels: {l: p}}}}",
            everything(),
            labelled("p"),
        ),
        (
            "{pods: {namespaceSelector: {matchLabels: {l: n}}, podSelector: null}}",
            labelled("n"),
            everything(),
        ),
        (
            "{namespaces: null, pods: {namespaceSelector: {matchLabels: {l: n}}, podSelector: {matchLabels: {l: p}}}}",
            labelled("n"),
            labelled("p"),
        ),
    ];
    for (subject, namespaces, pods) in cases {
        let (policy, problems) = only(&format!(
            "{HEAD}metadata: {{name: p}}\nspec: {{tier: Admin, priority: 1, subject: {subject}}}\n"
        ));
        assert_eq!((policy.namespaces, policy.pods), (namespaces, pods), "{subject}");
        assert_eq!(
            (policy.ingress, policy.egress, problems),
            (vec![], vec![], vec![]),
            "{subject}"
        );
    }
}

#[test]
fn an_unknown_tier_is_the_first_and_never_opens_there() {
    for tier in ["tier: admin", "tier: null", "tier: ''", ""] {
        let all = "from: [{namespaces: {}}]";
        let text = text(
            "p",
            &format!(
                "  ingress: [{{action: Accept, {all}}}, {{action: Pass, {all}}}, {{action: Deny, {all}}}]\n"
            ),
        );
        let (policy, problems) = only(&text.replace("tier: Admin", tier));
        assert_eq!((policy.tier, policy.priority), (Tier::Admin, 7), "{tier}");
        assert_eq!(
            problems.iter().map(|(code, _)| *code).collect::<Vec<_>>(),
            ["POL015"],
            "{tier}"
        );
        let matches: Vec<_> = policy.ingress.iter().map(|rule| rule.peers.clone()).collect();
        let nothing = Peers::Some(vec![Peer::Nothing]);
        let expected = [
            nothing.clone(),
            nothing,
            Peers::Some(vec![pods(everything(), everything())]),
        ];
        assert_eq!(matches, expected, "{tier}");
    }
}

// Covers: SEMANTICS 18
#[test]
fn a_policy_that_was_never_understood_closes_its_subject() {
    let spec = |spec: &str| format!("{HEAD}metadata: {{name: p}}\nspec: {spec}\n");
    let n = "{namespaces: {matchLabels: {l: n}}}";
    let p = "{pods: {namespaceSelector: {matchLabels: {l: n}}, podSelector: {matchLabels: {l: p}}}}";
    let bad = "{pods: {namespaceSelector: {matchLabels: {l: n}}, podSelector: {matchLabel: {l: p}}}}";
    let near = "{namespaces: {matchLabels: {l: n}, matchExpressions: [{key: a, operator: Near}]}}";
    let cases = [
        (
            format!("{{tier: Admin, subject: {n}}}"),
            labelled("n"),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: -1, subject: {n}}}"),
            labelled("n"),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: 1001, subject: {p}}}"),
            labelled("n"),
            labelled("p"),
        ),
        (
            format!("{{tier: Baseline, priority: 1, subject: {n}, ingresss: []}}"),
            labelled("n"),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: x, subject: {n}}}"),
            labelled("n"),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: 1, subject: {bad}}}"),
            labelled("n"),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: 1, subject: {near}}}"),
            labelled("n"),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: 1, subject: {n}, egress: [{{action: Deny, too: []}}]}}"),
            labelled("n"),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: 1, subject: {n}, egress: [{{action: Deny, from: []}}]}}"),
            labelled("n"),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: 1, subject: {n}, ingress: [null]}}"),
            labelled("n"),
            everything(),
        ),
        (
            "{tier: Admin, priority: 1}".to_owned(),
            everything(),
            everything(),
        ),
        (
            "{tier: Admin, priority: 1, subject: {}}".to_owned(),
            everything(),
            everything(),
        ),
        (
            "{tier: Admin, priority: 1, subject: {nodes: {}}}".to_owned(),
            everything(),
            everything(),
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {l: n}}, pods: {}}}".to_owned(),
            everything(),
            everything(),
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {l: n}}, users: {}}}".to_owned(),
            everything(),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: 1, subject: {{users: {{}}, namespaces: {SELECTOR}}}}}"),
            everything(),
            everything(),
        ),
        (
            format!("{{tier: Admin, priority: 1, subject: {{pods: {{}}, namespaces: {SELECTOR}}}}}"),
            everything(),
            everything(),
        ),
        (
            format!(
                "{{tier: Admin, priority: 1, subject: {{pods: {{users: {{}}, namespaceSelector: {SELECTOR}}}}}}}"
            ),
            everything(),
            everything(),
        ),
        // No JSON has such a number.
        (
            format!(
                "{{tier: Admin, priority: 1, subject: {n}, ingress: [{{action: Accept, protocols: [{{tcp: {{destinationPort: .nan}}}}]}}]}}"
            ),
            labelled("n"),
            everything(),
        ),
        ("5".to_owned(), everything(), everything()),
        (String::new(), everything(), everything()),
    ];
    for (text, namespaces, pods) in cases {
        let (policy, problems) = only(&spec(&text));
        assert!(closed(&policy), "{text}: {policy:?}");
        assert_eq!((&policy.namespaces, &policy.pods), (&namespaces, &pods), "{text}");
        assert_eq!(policy.mode, None, "{text}");
        assert_eq!(problems[0].0, "POL010", "{text}");
        let expected = if namespaces == everything() {
            "every pod may"
        } else {
            "the pods it selects may"
        };
        assert!(problems[0].1.contains(expected), "{text}: {}", problems[0].1);
    }
}

// Covers: CNP 3
#[test]
fn equal_priorities_of_a_tier_are_told() {
    let text = |name: &str, tier: &str, priority: u16| {
        format!(
            "{HEAD}metadata: {{name: {name}}}\nspec: {{tier: {tier}, priority: {priority}, subject: {{namespaces: {{}}}}}}\n---\n"
        )
    };
    let (objects, problems) = read(
        &[
            text("c", "Admin", 5),
            text("a", "Admin", 5),
            text("b", "Admin", 5),
            text("d", "Baseline", 5),
            text("e", "Admin", 6),
        ]
        .concat(),
    );
    assert_eq!(objects.len(), 5);
    let told = |others: &str| {
        (
            code::PRIORITY,
            format!(
                "spec.priority: 5 in the Admin tier is taken by {others} too; they are asked in the order of their names"
            ),
        )
    };
    assert_eq!(problems, [told("a"), told("a, b")]);
}

// Covers: CNP 2
#[test]
fn a_policy_says_nothing_of_a_direction_without_rules() {
    for rules in ["", "  ingress: []\n  egress: null\n", "  egress: []\n"] {
        let (policy, problems) = only(&text("p", rules));
        assert_eq!(
            (policy.ingress, policy.egress, problems),
            (vec![], vec![], vec![]),
            "{rules}"
        );
    }
}

#[test]
fn only_its_own_annotation_sets_the_mode() {
    let namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: default, annotations: {vethwall.io/mode: audit}}\n";
    let cases = [
        ("", None, 0),
        (", annotations: {vethwall.io/mode: audit}", Some(Mode::Audit), 0),
        (", annotations: {vethwall.io/mode: Audit}", Some(Mode::Enforce), 1),
    ];
    for (annotations, mode, count) in cases {
        for (spec, broken) in [
            ("{tier: Admin, priority: 1, subject: {namespaces: {}}}", 0),
            ("5", 1),
        ] {
            let text = format!("{HEAD}metadata: {{name: p{annotations}}}\nspec: {spec}\n{namespace}");
            let (objects, problems) = read(&text);
            let modes = objects.iter().filter_map(|object| match object {
                Object::ClusterNetworkPolicy(policy) => Some(policy.mode),
                Object::Namespace(_) | Object::Pod(_) | Object::Node(_) | Object::NetworkPolicy(_) => None,
            });
            assert_eq!(modes.collect::<Vec<_>>(), [mode], "{text}");
            assert_eq!(problems.len(), count + broken, "{problems:?}");
        }
    }
}

#[test]
fn lists_hold_them_and_their_status_is_not_looked_at() {
    let item = "{metadata: {name: p}, spec: {tier: Admin, priority: 1, subject: {namespaces: {}}}, status: {conditions: [{type: A}]}}";
    let list = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicyList\nitems:\n- ";
    let (policy, problems) = only(&format!("{list}{item}\n"));
    assert_eq!((policy.name.as_str(), problems), ("p", vec![]));
}

// Covers: SEMANTICS 18
#[test]
fn one_that_no_manifest_brought_is_closed_too() {
    // The API server may hold what an older definition of the kind let in.
    let texts = [(PathBuf::from("f.yaml"), text("p", "").into_bytes())].into();
    let mut view = Store::default().update(&load_texts(&texts));
    let Manifest::ClusterNetworkPolicy(mut object) = Manifest::clone(&view.objects[0].object) else {
        panic!("{view:?}")
    };
    let spec = object.spec.as_mut().unwrap();
    spec.priority = Some(1001);
    view.objects[0].object = std::sync::Arc::new(Manifest::ClusterNetworkPolicy(object));
    let converted = convert(&view);
    let [Object::ClusterNetworkPolicy(policy)] = converted.objects.as_slice() else {
        panic!("{converted:?}")
    };
    assert!(closed(policy));
    let problem = &converted.problems[0];
    assert_eq!(
        problem.policy.as_ref().map(ToString::to_string).as_deref(),
        Some("p")
    );
    assert_eq!(
        (problem.code, problem.message.as_str()),
        (
            code::ISOLATES,
            "spec.priority: expected 0 to 1000, found 1001: the pods it selects may neither send nor receive"
        )
    );
}

#[test]
fn written_again_it_reads_the_same() {
    let text = text(
        "p",
        "  egress:\n  - {name: n, action: Deny, to: [{networks: [010.0.0.0/8]}, {colour: {a: 1}}], protocols: [{tcp: {}}]}\n",
    );
    let load = |text: &str| {
        let texts = [(PathBuf::from("f.yaml"), text.as_bytes().to_vec())].into();
        let loaded = load_texts(&texts);
        assert_eq!(loaded.files[0].errors, []);
        Manifest::clone(&loaded.files[0].documents[0].object)
    };
    let object = load(&text);
    let Manifest::ClusterNetworkPolicy(policy) = &object else {
        panic!("{object:?}")
    };
    assert_eq!(load(&serde_json::to_string(policy).unwrap()), object);
}
