//! LINT001 to LINT005, and silence.

use super::*;

#[test]
fn what_can_not_be_decoded() {
    alone("spec:\n  podSelector: {}\n  ingress: «LINT001»7\n  policyTypes: [Egress]\n  egress: [{}]\n");
    expect_in(
        "",
        "apiVersion: «LINT001»networking.k8s.io/v2\nkind: NetworkPolicy\nmetadata: {name: deny}\nspec: {podSelector: {}}\n",
    );
    let report = run(&texts(&[("a.yaml", "kind: [\n")]));
    assert_eq!((report.objects, report.findings.len()), (0, 1));
    let report = run(&Texts::from([(
        PathBuf::from("a.yaml"),
        b"kind: \xff\n".to_vec(),
    )]));
    assert_eq!(places(&report, "a.yaml"), [("LINT001".to_owned(), 1, 7)]);
}

#[test]
fn fields_that_nobody_knows() {
    let report = alone(
        "spec:\n  podSelector: {}\n  policyTypes: [Ingress]\n  ingress:\n  - from: [{podSelector: {«LINT002»matchLabel: {a: b}}}]\n",
    );
    let finding = &report.findings[0];
    assert_eq!(finding.fix, "rename it to matchLabels");
    assert_eq!(
        finding.field.as_deref(),
        Some("spec.ingress[0].from[0].podSelector.matchLabel")
    );
    assert_eq!(finding.object.as_deref(), Some("NetworkPolicy shop/web"));
}

#[test]
fn the_same_object_twice() {
    let one = named("shop", "deny", "spec: {podSelector: {}}");
    let two = named("shop", "«LINT003»deny", "spec: {podSelector: {}}");
    let report = expect_in("", &(one.clone() + &two));
    assert_eq!(
        report.findings[0].message,
        "NetworkPolicy shop/deny stands already in policy.yaml:3: only one of them can be in force"
    );
    expect_in(
        "",
        &(one.clone() + &one.replace("namespace: shop", "namespace: other")),
    );
    // In a List, too.
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n- {apiVersion: v1, kind: Namespace, metadata: {name: «LINT003»a}}\n";
    expect_in("", list);
}

#[test]
fn annotations_that_mean_nothing() {
    let with = |annotation: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: deny\n  annotations: {{{annotation}}}\nspec: {{podSelector: {{}}}}\n"
        )
    };
    for annotation in [
        "vethwall.io/mode: «LINT004»audt",
        "vethwall.io/lint-ignore: '«»LINT999'",
        "vethwall.io/lint-ignore: «LINT004»LINT001",
        "«LINT004»vethwall.io/lint-ingore: LINT010",
    ] {
        // A scalar in quotes stands where its quote does.
        expect_in("", &with(annotation).replace("'«»", "«LINT004»'"));
    }
    for annotation in [
        "vethwall.io/mode: audit",
        "vethwall.io/lint-ignore: 'LINT010, LINT020'",
        "example.com/mode: x",
    ] {
        expect_in("", &with(annotation));
    }
}

#[test]
fn policies_of_others() {
    expect_in(
        "",
        "apiVersion: cilium.io/v2\nkind: «LINT005»CiliumNetworkPolicy\nmetadata: {name: x}\nspec: {}\n",
    );
    expect_in(
        "",
        "apiVersion: projectcalico.org/v3\nkind: «LINT005»NetworkPolicy\nmetadata: {name: x}\nspec: {selector: all()}\n",
    );
    expect_in(
        "",
        "apiVersion: example.org/v1\nkind: Policy\nmetadata: {name: x}\n",
    );
}

#[test]
fn silence() {
    let text = |ignore: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: web\n  annotations:\n    vethwall.io/lint-ignore: {ignore}\nspec: {{podSelector: {{}}, policyTypes: [Ingress], ingress: [{{ports: [{{port: 80, protocol: «LINT046»tcp}}, {{port: «LINT040»53}}]}}]}}\n"
        )
    };
    let report = expect_in("", &text("LINT046").replace("«LINT046»", ""));
    assert_eq!(report.silenced, 1);
    let report = expect_in(
        "",
        &text("LINT040,LINT046")
            .replace("«LINT046»", "")
            .replace("«LINT040»", ""),
    );
    assert_eq!((report.silenced, report.count(Severity::Warning)), (2, 0));
}

#[test]
fn a_finding_is_told_of_its_own_object() {
    let good = named(
        "shop",
        "one",
        "spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}]}]}",
    );
    let bad = named(
        "shop",
        "two",
        "spec: {podSelector: {}, policyTypes: [Ingress], «LINT002»ingres: [{from: [{podSelector: {}}]}]}",
    );
    let report = expect_in(
        "",
        &(good.clone() + &bad.replace("[Ingress]", "[«LINT052»Ingress]") + &good.replace("one", "three")),
    );
    assert!(
        report
            .findings
            .iter()
            .all(|finding| finding.object.as_deref() == Some("NetworkPolicy shop/two"))
    );
}
