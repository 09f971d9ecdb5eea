//! Probes that are none, that nobody can answer, and manifests with mistakes.

use super::*;

#[test]
fn what_is_no_probe_is_told_by_line_and_column_and_nothing_is_answered() {
    for (line, place, part) in [
        ("nonsense", "1", "begins with {"),
        ("[{\"from\":1}]", "1", "jq -c '.[]'"),
        ("{", "1", "jq -c ."),
        (
            r#"{"from":"a/b","to":"c/d","port":80,}"#,
            "36",
            "not a JSON object: trailing comma",
        ),
        (r#"{"from":"a/b","to":"c/d"} x"#, "27", "trailing characters"),
        (
            r#"{"from":"ä/b","to":"c/d","prot":80}"#,
            "26",
            "no field is called \"prot\"; did you mean \"port\"?",
        ),
        (
            r#"{"from":"a/b","to":"c/d","weather":"sun"}"#,
            "26",
            "there are from, to, port, protocol, family, expect",
        ),
        (r#"{"from":"a/b","to":"c/d","from":"e/f"}"#, "26", "given twice"),
        (r#"{"from":"a/b"}"#, "1", "\"to\" is missing"),
        (r#"{"from":"a/b","to":7}"#, "20", "must be a string, not 7"),
        (
            r#"{"from":"web","to":"c/d"}"#,
            "9",
            "in which namespace? Say NAMESPACE/web",
        ),
        (r#"{"from":"a/b","to":"shop/svc/db"}"#, "20", "behind a Service"),
        (r#"{"from":"outside","to":"c/d"}"#, "9", "name an IP address"),
        (
            r#"{"from":"a/b","to":"c/d","port":"80"}"#,
            "33",
            "a number from 1 to 65535, not \"80\"",
        ),
        (
            r#"{"from":"a/b","to":"c/d","port":0}"#,
            "33",
            "a number from 1 to 65535",
        ),
        (
            r#"{"from":"a/b","to":"c/d","port":65536}"#,
            "33",
            "a number from 1 to 65535",
        ),
        (
            r#"{"from":"a/b","to":"c/d","protocol":"TPC"}"#,
            "37",
            "did you mean TCP?",
        ),
        (
            r#"{"from":"a/b","to":"c/d","protocol":256}"#,
            "37",
            "not a protocol",
        ),
        (
            r#"{"from":"a/b","to":"c/d","protocol":["TCP"]}"#,
            "37",
            "a name or a number",
        ),
        (r#"{"from":"a/b","to":"c/d","family":5}"#, "35", "4 or 6, not 5"),
        (
            r#"{"from":"a/b","to":"c/d","expect":"allow"}"#,
            "35",
            "\"allowed\" or \"denied\", not \"allow\"",
        ),
    ] {
        let good = r#"{"from":"shop/web","to":"shop/db"}"#;
        let ran = probe(CLUSTER, &format!("{good}\n{line}\n{good}\n"), &["-o", "json"]);
        assert_eq!((ran.out.as_str(), ran.exit), ("", Exit::Usage), "{line}");
        let place = format!("probes.jsonl:2:{place}: ");
        assert!(ran.err.contains(&place), "{place} {line}: {}", ran.err);
        assert!(ran.err.contains(part), "{part} {line}: {}", ran.err);
        assert!(
            ran.err.starts_with("error: nothing was answered: 1 line of "),
            "{}",
            ran.err
        );
    }
    let ran = probe(CLUSTER, " \n\r\n", &[]);
    assert_eq!((ran.out.as_str(), ran.exit), ("", Exit::Usage));
    assert!(ran.err.starts_with("error: there is no probe in "), "{}", ran.err);
    let long = format!("{{\"from\":\"{}\"}}\n", "x".repeat(1 << 20));
    let ran = probe(CLUSTER, &format!("{long}{{}}\n"), &[]);
    assert!(
        ran.err
            .contains("probes.jsonl:1:1: the line is longer than 65536 bytes\n"),
        "{}",
        ran.err
    );
    assert!(
        ran.err.contains("probes.jsonl:2:1: \"from\" is missing"),
        "{}",
        ran.err
    );
}

#[test]
fn what_can_not_be_decided_stands_in_its_place_and_is_3() {
    let (values, ran) = json(
        CLUSTER,
        "{\"from\":\"shop/web\",\"to\":\"shop/nobody\",\"expect\":\"allowed\"}\n\
         {\"from\":\"10.0.0.1\",\"to\":\"fd00::2\"}\n\
         {\"from\":\"10.0.0.1\",\"to\":\"shop/db\",\"family\":6}\n\
         {\"from\":\"shop/web\",\"to\":\"shop/db\",\"port\":5432,\"expect\":\"denied\"}\n",
    );
    assert_eq!(
        values[0],
        json!({"from": "shop/web", "to": "shop/nobody", "port": null, "protocol": "TCP",
            "error": "no pod shop/nobody is known", "expect": "allowed"})
    );
    assert!(
        values[1]["error"].as_str().unwrap().contains("two families"),
        "{}",
        values[1]
    );
    assert_eq!(values[2]["error"], "10.0.0.1 is no IPv6 address");
    assert_eq!(values[3]["ok"], false);
    assert_eq!(ran.exit, Exit::Undecided);
    assert!(ran.err.starts_with("different: probes.jsonl:4: "), "{}", ran.err);
    let ran = vethwall(&["explain", "--probes", "/nonexistent/p"]);
    assert_eq!(ran.exit, Exit::Undecided);
    assert!(
        ran.err
            .starts_with("error: can not read the probes in /nonexistent/p: "),
        "{}",
        ran.err
    );
}

#[test]
fn what_is_wrong_in_the_manifests_is_told_once_and_decides_nothing() {
    let typo = CLUSTER.replace("  ingress:", "  ingresss:");
    let line = "{\"from\":\"shop/web\",\"to\":\"shop/db\",\"port\":5432}\n".repeat(3);
    let (values, ran) = json(&typo, &line);
    assert_eq!((values.len(), ran.exit), (3, Exit::Yes));
    assert_eq!(values[2]["verdict"], "denied");
    assert_eq!(
        ran.err.matches("all.yaml:").count(),
        ran.err.lines().count(),
        "{}",
        ran.err
    );
    assert_eq!(ran.err.matches("ingresss").count(), 1, "{}", ran.err);
    let (values, ran) = json("}{ not yaml", &line);
    assert_eq!((values.len(), ran.exit), (0, Exit::Undecided));
    assert!(ran.err.contains("nothing in all.yaml can be read"), "{}", ran.err);
}

#[test]
fn ends_and_probes_exclude_each_other() {
    for args in [
        &["vethwall", "explain", "--probes", "p", "a/b", "c/d"][..],
        &["vethwall", "explain", "--probes", "p", "--family", "4"],
        &["vethwall", "explain", "--family", "5", "a/b", "c/d"],
        &["vethwall", "explain"],
    ] {
        assert_eq!(Cli::try_parse_from(args).unwrap_err().exit_code(), 2, "{args:?}");
    }
}
