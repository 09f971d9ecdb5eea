//! `vethwall explain --probes`.

use std::fs;

use serde_json::{Value, json};

use super::*;

mod wrong;

const CLUSTER: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}, {type: InternalIP, address: '2001:db8::10'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: node-b, containers: [{name: c, image: i}]}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: node-b, containers: [{name: c, image: i, ports: [{name: sql, containerPort: 5432}]}]}
status: {podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: new, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Pod
metadata: {name: free, namespace: other, labels: {app: web}}
spec: {containers: [{name: c, image: i}]}
status: {podIP: 10.0.1.1, podIPs: [{ip: 10.0.1.1}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{ipBlock: {cidr: 192.0.2.0/24}}, {ipBlock: {cidr: 'fd00::/64'}}]
    ports: [{port: 1, endPort: 65535}]
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: sql}]
";

/// Answers these lines from these manifests.
fn probe(manifests: &str, lines: &str, more: &[&str]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(path("m")).unwrap();
    fs::write(path("m/all.yaml"), manifests).unwrap();
    fs::write(path("probes.jsonl"), lines).unwrap();
    let (m, p) = (path("m"), path("probes.jsonl"));
    let mut args = vec![
        "--run-dir",
        "/nonexistent",
        "explain",
        "--manifests",
        &m,
        "--probes",
        &p,
    ];
    args.extend(more);
    let mut ran = vethwall(&args);
    ran.err = ran.err.replace(&format!("{}/", dir.path().display()), "");
    ran
}

fn json(manifests: &str, lines: &str) -> (Vec<Value>, Ran) {
    let ran = probe(manifests, lines, &["-o", "json"]);
    let values = ran.out.lines().map(|line| serde_json::from_str(line).unwrap());
    (values.collect(), ran)
}

/// One answer.
fn one(manifests: &str, line: &str) -> Value {
    let (mut values, ran) = json(manifests, line);
    assert_eq!((values.len(), ran.err.as_str()), (1, ""), "{line}: {}", ran.err);
    values.remove(0)
}

#[test]
fn a_line_comes_back_for_each() {
    let (values, ran) = json(
        CLUSTER,
        "\u{feff}{\"from\":\"shop/web\",\"to\":\"shop/db\",\"port\":5432,\"protocol\":\"TCP\"}\r\n\n  \n\
         {\"id\":7,\"from\":\"shop/db\",\"to\":\"10.0.0.1\",\"protocol\":\"gre\",\"expect\":\"allowed\"}\n\
         {\"to\":\"shop/db\",\"from\":\"other/free\",\"port\":80,\"result\":\"denied\",\"expect\":\"denied\",\"comment\":\"x\"}",
    );
    let open = json!({"verdict": "not-selected", "policies": [], "rule": null});
    assert_eq!(
        values,
        [
            json!({"from": "shop/web", "to": "shop/db", "port": 5432, "protocol": "TCP", "family": 4,
                "verdict": "allowed", "egress": open,
                "ingress": {"verdict": "allowed", "policies": ["shop/db"], "rule": {"policy": "shop/db", "rule": 2}}}),
            json!({"from": "shop/db", "to": "10.0.0.1", "port": null, "protocol": "gre", "family": 4,
                "verdict": "allowed", "egress": open, "ingress": open, "expect": "allowed", "ok": true, "id": 7}),
            json!({"from": "other/free", "to": "shop/db", "port": 80, "protocol": "TCP", "family": 4,
                "verdict": "denied", "egress": open,
                "ingress": {"verdict": "denied", "policies": ["shop/db"], "rule": null},
                "expect": "denied", "ok": true, "comment": "x"}),
        ]
    );
    assert_eq!((ran.err.as_str(), ran.exit), ("", Exit::Yes));
    assert!(ran.out.starts_with(r#"{"from":"shop/web","to":"shop/db","port":5432,"protocol":"TCP","family":4,"verdict":"allowed","egress":{"verdict":"not-selected","policies":[],"rule":null},"ingress":{"#), "{}", ran.out);
}

#[test]
fn the_family_is_the_first_that_both_have_or_the_one_asked_for() {
    let family = |line: &str| {
        let answer = one(CLUSTER, line);
        (
            answer["family"].clone(),
            answer["ingress"]["rule"]["rule"].clone(),
        )
    };
    for (line, expected) in [
        (
            r#"{"from":"shop/web","to":"shop/db","port":1}"#,
            (json!(4), json!(null)),
        ),
        (
            r#"{"from":"shop/web","to":"shop/db","port":1,"family":6}"#,
            (json!(6), json!(1)),
        ),
        (
            r#"{"from":"shop/web","to":"shop/db","port":1,"family":"IPv6"}"#,
            (json!(6), json!(1)),
        ),
        (
            r#"{"from":"fd00::9","to":"shop/db","port":1}"#,
            (json!(6), json!(1)),
        ),
        (
            r#"{"from":"fd00:1::9","to":"shop/db","port":1}"#,
            (json!(6), json!(null)),
        ),
        (
            r#"{"from":"::ffff:192.0.2.9","to":"shop/db","port":1}"#,
            (json!(4), json!(1)),
        ),
        (
            r#"{"from":"node/node-a","to":"shop/db","port":1}"#,
            (json!(4), json!(1)),
        ),
        (
            r#"{"from":"node/node-a","to":"shop/db","port":1,"family":6}"#,
            (json!(6), json!(null)),
        ),
        // Without an address, or one of this family, the labels still say who it is.
        (
            r#"{"from":"shop/new","to":"shop/db","port":5432}"#,
            (json!(4), json!(2)),
        ),
        (
            r#"{"from":"shop/new","to":"other/free","port":5432}"#,
            (json!(4), json!(null)),
        ),
        (
            r#"{"from":"shop/new","to":"shop/new","port":5432}"#,
            (json!(null), json!(null)),
        ),
        (
            r#"{"from":"other/free","to":"shop/db","port":1,"family":6}"#,
            (json!(6), json!(null)),
        ),
    ] {
        assert_eq!(family(line), expected, "{line}");
    }
}

#[test]
fn any_protocol_is_judged() {
    let open = CLUSTER.replace("    ports: [{port: sql}]\n", "");
    for protocol in [
        "\"GRE\"",
        "47",
        "\"47\"",
        "\"icmp\"",
        "\"ICMPv6\"",
        "\"esp\"",
        "\"Ah\"",
        "\"sctp\",\"port\":9",
    ] {
        let line = format!("{{\"from\":\"shop/web\",\"to\":\"shop/db\",\"protocol\":{protocol}}}");
        assert_eq!(one(CLUSTER, &line)["verdict"], "denied", "{line}");
        assert_eq!(one(&open, &line)["verdict"], "allowed", "{line}");
    }
    // Who names no port asks for all of them.
    let line = r#"{"from":"192.0.2.1","to":"shop/db","port":null}"#;
    assert_eq!(one(CLUSTER, line)["verdict"], "denied");
    assert_eq!(
        one(&CLUSTER.replace("port: 1, endPort: 65535", "protocol: TCP"), line)["verdict"],
        "allowed"
    );
    // One of a protocol that has none means nothing.
    let line = r#"{"from":"shop/web","to":"shop/db","protocol":"ICMP","port":0}"#;
    assert_eq!(one(&open, line)["port"], 0);
}

#[test]
fn a_table_shows_what_differs_and_why() {
    let ran = probe(
        CLUSTER,
        "{\"from\":\"shop/web\",\"to\":\"shop/db\",\"port\":5432,\"expect\":\"allowed\"}\n\
         {\"from\":\"shop/web\",\"to\":\"shop/db\",\"port\":80,\"expect\":\"allowed\"}\n\
         {\"from\":\"198.51.100.1\",\"to\":\"shop/db\",\"protocol\":\"ICMP\"}\n\
         {\"from\":\"shop/db\",\"to\":\"shop/who\",\"port\":1}\n",
        &[],
    );
    assert_eq!(
        ran.out,
        "\
FROM          TO        PORT      VERDICT  EXPECT   WHY
shop/web      shop/db   5432/TCP  ALLOWED  allowed  ingress: rule 2 of shop/db
shop/web      shop/db   80/TCP    DENIED   allowed  ingress: no rule of shop/db matches
198.51.100.1  shop/db   ICMP      DENIED   -        ingress: no rule of shop/db matches
shop/db       shop/who  1/TCP     ERROR    -        no pod shop/who is known

4 probes: 1 allowed, 2 denied, 1 undecided; 1 as expected, 1 different
"
    );
    assert_eq!(
        ran.err,
        "different: probes.jsonl:2: shop/web -> shop/db 80/TCP is denied, expected allowed: ingress: no rule of shop/db \
         matches; fix: add TCP port 80 to the ports of ingress rule 2 of shop/db\n"
    );
    assert_eq!(ran.exit, Exit::Undecided);
    let ran = probe(
        CLUSTER,
        "{\"from\":\"shop/web\",\"to\":\"shop/db\",\"expect\":\"Allowed\"}",
        &[],
    );
    assert_eq!(ran.exit, Exit::No, "{}", ran.out);
    let ran = probe(CLUSTER, "{\"from\":\"shop/web\",\"to\":\"other/free\"}", &[]);
    assert_eq!((ran.err.as_str(), ran.exit), ("", Exit::Yes));
    assert!(
        ran.out
            .contains("no policy has a say\n\n1 probe: 1 allowed, 0 denied\n"),
        "{}",
        ran.out
    );
}

#[test]
fn cluster_policies_are_named_with_their_rank() {
    let rules = "
  - {name: keep, action: Pass, from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}}]}
  - {name: no-strangers, action: Deny, from: [{namespaces: {}}]}
";
    let all = format!("{CLUSTER}{FENCE}{rules}");
    let answer = one(&all, r#"{"from":"other/free","to":"shop/db","port":5432}"#);
    assert_eq!(
        answer["ingress"],
        json!({"verdict": "denied", "policies": ["fence", "shop/db"], "rule":
            {"policy": "fence", "rule": 2, "name": "no-strangers", "action": "Deny", "tier": "Admin", "priority": 7}})
    );
    let answer = one(&all, r#"{"from":"shop/web","to":"shop/db","port":5432}"#);
    assert_eq!(answer["ingress"]["rule"], json!({"policy": "shop/db", "rule": 2}));
    // A pod always reaches itself; its policies are named all the same.
    let answer = one(&all, r#"{"from":"shop/db","to":"shop/db","port":5432}"#);
    assert_eq!(
        answer["ingress"],
        json!({"verdict": "allowed", "policies": ["fence", "shop/db"], "rule": null})
    );
}

#[test]
fn what_is_only_audited_is_allowed_and_says_so() {
    let audited = CLUSTER.replace(
        "metadata: {name: db, namespace: shop}\nspec:\n  podSelector",
        "metadata: {name: db, namespace: shop, annotations: {vethwall.io/mode: audit}}\nspec:\n  podSelector",
    );
    let line = r#"{"from":"other/free","to":"shop/db","port":80,"expect":"allowed"}"#;
    let answer = one(&audited, line);
    assert_eq!(
        (&answer["verdict"], &answer["audited"], &answer["ok"]),
        (&json!("allowed"), &json!(true), &json!(true))
    );
    assert_eq!(
        answer["ingress"],
        json!({"verdict": "allowed", "policies": ["shop/db"], "rule": null})
    );
    let open = line.replace("allowed", "denied");
    assert_eq!(one(CLUSTER, &open)["audited"], Value::Null);
    let ran = probe(&audited, line, &[]);
    assert!(ran.out.contains("AUDITED  allowed  ingress: "), "{}", ran.out);
    assert!(ran.out.contains("; shop/db would deny it\n"), "{}", ran.out);
}

#[test]
fn without_manifests_the_agent_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p");
    fs::write(
        &file,
        "{\"from\":\"shop/web\",\"to\":\"shop/db\",\"port\":5432,\"expect\":\"denied\"}\n",
    )
    .unwrap();
    let args = ["explain", "--probes", file.to_str().unwrap(), "-o", "json"];
    let (request, ran) = asked(
        &[Response::Explanation(Box::new(explanation())), Response::End],
        &args,
    );
    assert!(matches!(request, Request::Explain(_)));
    let value: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&value["verdict"], &value["ok"]),
        (&json!("denied"), &json!(true))
    );
    assert_eq!((ran.err.as_str(), ran.exit), ("", Exit::Yes));
    let refusal = ErrorBody::new(ErrorCode::UnknownPod, "no pod shop/web is known");
    let (_, ran) = asked(&[Response::Error(refusal)], &args);
    assert_eq!(ran.exit, Exit::Undecided);
    assert!(
        ran.out.contains("\"error\":\"no pod shop/web is known\""),
        "{}",
        ran.out
    );
}

#[test]
fn who_stops_reading_still_gets_the_exit_status() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("all.yaml"), CLUSTER).unwrap();
    for (expect, exit) in [("denied", Exit::No), ("allowed", Exit::Yes)] {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line =
            format!("{{\"from\":\"shop/web\",\"to\":\"shop/db\",\"port\":5432,\"expect\":\"{expect}\"}}\n");
        fs::write(file.path(), line.repeat(3)).unwrap();
        let args = ["vethwall", "explain", "--manifests"].map(std::ffi::OsStr::new);
        let paths = [
            dir.path().as_os_str(),
            "--probes".as_ref(),
            file.path().as_os_str(),
        ];
        let cli = Cli::try_parse_from(args.into_iter().chain(paths)).unwrap();
        let mut err = Vec::new();
        let streams = Streams {
            out: &mut Gone,
            err: &mut err,
        };
        assert_eq!(run(cli, false, streams), exit);
    }
}

#[test]
fn the_example_is_as_it_expects() {
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/demo");
    let ran = vethwall(&[
        "explain",
        "--manifests",
        demo,
        "--probes",
        &format!("{demo}/probes.jsonl"),
    ]);
    assert_eq!((ran.err.as_str(), ran.exit), ("", Exit::Yes), "{}", ran.out);
}
