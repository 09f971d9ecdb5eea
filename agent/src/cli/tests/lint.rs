//! `vethwall policy lint`.

use std::fs;

use super::*;

const BAD: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {team: ops}}
    - podSelector: {matchLabels: {app: prometheus}}
    ports: [{port: 9090, protocol: tcp}]
";

const GOOD: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

/// Lints a file with this text; the directory's name is taken out of what is printed.
fn lint(text: &str, more: &[&str]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.yaml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    let mut ran = vethwall(&[&["policy", "lint", "-f", path], more].concat());
    let prefix = format!("{}/", dir.path().display());
    (ran.out, ran.err) = (ran.out.replace(&prefix, ""), ran.err.replace(&prefix, ""));
    ran
}

#[test]
fn findings_show_the_place_and_the_fix() {
    let ran = lint(BAD, &[]);
    assert_eq!(
        ran.out,
        "\
warning[LINT010]: from[0] and from[1] are two peers, and either is enough: every pod of namespaces
    team=ops, and pods app=prometheus of namespace shop
  --> p.yaml:10:7  NetworkPolicy shop/web  spec.ingress[0].from[1]
10 |     - podSelector: {matchLabels: {app: prometheus}}
   |       ^
  fix: if only pods app=prometheus in those namespaces are meant, remove the dash before this
       podSelector, so that both stand in one item of from

error[LINT046]: \"tcp\" is no protocol of a policy: this entry matches nothing, and the pods stay
    isolated
  --> p.yaml:11:36  NetworkPolicy shop/web  spec.ingress[0].ports[0].protocol
11 |     ports: [{port: 9090, protocol: tcp}]
   |                                    ^
  fix: write TCP, in capitals

1 policy in 1 file: 1 error, 1 warning
"
    );
    assert_eq!(
        ran.err,
        "\
note: not checked, as the input has no pods: LINT020, LINT021, LINT025, LINT027, LINT028, LINT043,
      LINT044
note: not checked, as the input has no Namespaces: LINT022, LINT024
"
    );
    assert_eq!(ran.exit, Exit::No);
}

#[test]
fn json_is_one_object_a_finding() {
    let ran = lint(BAD, &["-o", "json"]);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 2, "{}", ran.out);
    assert_eq!(
        lines[1],
        r#"{"apiVersion":"vethwall.io/v1","code":"LINT046","severity":"error","file":"p.yaml","line":11,"column":36,"object":"NetworkPolicy shop/web","field":"spec.ingress[0].ports[0].protocol","message":"\"tcp\" is no protocol of a policy: this entry matches nothing, and the pods stay isolated","fix":"write TCP, in capitals"}"#
    );
    assert_eq!(ran.exit, Exit::No);
}

#[test]
fn the_exit_status_says_what_was_found() {
    let ran = lint(GOOD, &[]);
    assert_eq!(
        (ran.out.as_str(), ran.exit),
        ("1 policy in 1 file: nothing found\n", Exit::Yes)
    );
    let info = GOOD.replace("default-deny", "web");
    assert_eq!(lint(&info, &[]).exit, Exit::Yes);
    assert_eq!(lint(&info, &["--strict"]).exit, Exit::No);
    for text in ["", "# nothing\n", "kind: [\n"] {
        let ran = lint(text, &[]);
        assert_eq!(ran.exit, Exit::Undecided, "{text:?}");
        assert!(
            ran.err
                .starts_with("error: no Kubernetes object can be read in p.yaml"),
            "{}",
            ran.err
        );
    }
    let ran = vethwall(&["policy", "lint", "-f", "/nonexistent/p.yaml"]);
    assert_eq!(ran.exit, Exit::Undecided);
    assert!(
        ran.err.starts_with("error: can not read /nonexistent/p.yaml: "),
        "{}",
        ran.err
    );
    for args in [
        &["vethwall", "policy"][..],
        &["vethwall", "policy", "lint"],
        &["vethwall", "policy", "lint", "-f"],
    ] {
        assert_eq!(Cli::try_parse_from(args).unwrap_err().exit_code(), 2, "{args:?}");
    }
}

#[test]
fn several_files_are_one_input() {
    let dir = tempfile::tempdir().unwrap();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: db, namespace: shop, labels: {app: db}}\n";
    let (policies, pods) = (dir.path().join("policies"), dir.path().join("pods.json"));
    fs::create_dir(&policies).unwrap();
    fs::write(policies.join("p.yaml"), BAD).unwrap();
    fs::write(&pods, pod).unwrap();
    let ran = vethwall(&[
        "policy",
        "lint",
        "-o",
        "json",
        "-f",
        policies.to_str().unwrap(),
        "-f",
        pods.to_str().unwrap(),
    ]);
    let codes: Vec<String> = ran
        .out
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["code"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(codes, ["LINT020", "LINT010", "LINT021", "LINT046"]);
}

#[test]
fn long_and_hostile_lines_stay_readable() {
    let labels: String = (0..100).map(|i| format!("l{i}: v, ")).collect();
    let text = BAD.replace("{app: prometheus}", &format!("{{{labels}a: \"x \u{202e}[2J\"}}"));
    let ran = lint(&text, &[]);
    assert!(
        ran.out.contains("LINT026") && !ran.out.contains('\u{202e}'),
        "{}",
        ran.out
    );
    let line = ran.out.lines().find(|line| line.contains("| ...")).unwrap();
    assert!(line.chars().count() <= 110, "{line}");
}

#[test]
fn help_has_examples() {
    let error = Cli::try_parse_from(["vethwall", "policy", "lint", "--help"]).unwrap_err();
    let help = error.to_string();
    assert!(
        help.contains("Examples:\n  vethwall policy lint -f policy.yaml"),
        "{help}"
    );
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
}
