//! `vethwall explain`.

use std::fs;

use super::*;

#[test]
fn an_explanation_shows_both_directions_and_what_failed() {
    let (request, ran) = asked(
        &[Response::Explanation(Box::new(explanation())), Response::End],
        &["explain", "shop/web", "shop/db:5432"],
    );
    let line = serde_json::to_string(&RequestLine::new(request)).unwrap();
    assert_eq!(
        line,
        r#"{"apiVersion":"vethwall.io/v1","request":"explain","source":{"namespace":"shop","name":"web"},"destination":{"namespace":"shop","name":"db"},"protocol":6,"port":5432}"#
    );
    assert_eq!(
        ran.out,
        "\
shop/web -> shop/db port 5432/TCP  DENIED

EGRESS  of shop/web  ALLOWED  no policy isolates it for egress
INGRESS of shop/db  DENIED  isolated by shop/db-allow-api; the one rule does not match
  shop/db-allow-api  1 rule
    ✗ rule 1  does not match
      ✗ peer  pods app=api in namespace shop: shop/web has app=web
      ✓ port  port 5432/TCP

note: what node node-b itself generates always reaches its pods
"
    );
    assert_eq!(ran.exit, Exit::No);
}

#[test]
fn allowed_and_audited_are_0() {
    for verdict in [Verdict::Allowed, Verdict::Audited] {
        let answer = Explanation {
            verdict,
            ..explanation()
        };
        let (_, ran) = asked(
            &[Response::Explanation(Box::new(answer)), Response::End],
            &["explain", "shop/web", "shop/db:5432", "-o", "json"],
        );
        assert_eq!(ran.exit, Exit::Yes);
        let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(value["verdict"], verdict.name());
        assert_eq!(value["ingress"]["policies"][0]["name"], "db-allow-api");
        assert_eq!(value["ingress"]["policies"][0]["rules"][0]["matches"], false);
    }
}

/// A directory of manifests; `web` and `db` in `shop`, and a policy.
fn manifests(policy: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let pod = |name: &str, address: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n\
             spec: {{containers: [{{name: c, image: i}}]}}\nstatus: {{podIPs: [{{ip: {address}}}]}}\n---\n"
        )
    };
    fs::write(
        dir.path().join("pods.yaml"),
        pod("web", "10.42.0.9") + &pod("db", "10.42.1.4"),
    )
    .unwrap();
    fs::write(dir.path().join("policy.yaml"), policy).unwrap();
    dir
}

const ALLOW_API: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-allow-api, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: api}}}]
    ports: [{port: 5432}]
";

fn offline(policy: &str, args: &[&str]) -> Ran {
    let dir = manifests(policy);
    let mut all = vec!["--run-dir", "/nonexistent", "explain", "--manifests"];
    all.push(dir.path().to_str().unwrap());
    all.extend(args);
    vethwall(&all)
}

#[test]
fn manifests_alone_are_enough_for_an_answer() {
    let ran = offline(ALLOW_API, &["shop/web", "shop/db:5432"]);
    assert_eq!((ran.err.as_str(), ran.exit), ("", Exit::No), "{}", ran.out);
    for part in [
        "shop/web -> shop/db port 5432/TCP  DENIED\n",
        "EGRESS  of shop/web  ALLOWED  no policy isolates it for egress\n",
        "INGRESS of shop/db  DENIED  isolated by shop/db-allow-api; the one rule does not match\n",
        "  ✗ rule 1  does not match\n",
        "  ✓ port  ",
        "app=web",
    ] {
        assert!(ran.out.contains(part), "{part}\nin\n{}", ran.out);
    }
    let ran = offline(
        &ALLOW_API.replace("app: api", "app: web"),
        &["shop/web", "shop/db:5432"],
    );
    assert_eq!(ran.exit, Exit::Yes, "{}", ran.out);
    assert!(
        ran.out
            .contains("INGRESS of shop/db  ALLOWED  by shop/db-allow-api rule 1\n"),
        "{}",
        ran.out
    );
    let ran = offline(ALLOW_API, &["shop/db", "shop/web:80"]);
    assert_eq!(ran.exit, Exit::Yes, "{}", ran.out);
    let ran = offline(ALLOW_API, &["10.42.0.9", "10.42.1.4:5432", "-o", "json"]);
    assert_eq!(ran.exit, Exit::No);
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(value["source"]["owner"], "shop/web");
    assert_eq!(value["ingress"]["reason"], "no_rule");
    assert_eq!(
        value["ingress"]["policies"][0]["rules"][0]["ports"][0]["matches"],
        true
    );
}

#[test]
fn a_pod_that_is_nowhere_is_doubt() {
    let ran = offline(ALLOW_API, &["shop/nobody", "shop/db:5432"]);
    assert_eq!((ran.out.as_str(), ran.exit), ("", Exit::Undecided));
    assert!(
        ran.err.starts_with("error: no pod shop/nobody is known in /"),
        "{}",
        ran.err
    );
    let ran = offline(ALLOW_API, &["other/web", "shop/db:5432"]);
    assert!(ran.err.contains("there is shop/web"), "{}", ran.err);
    let ran = vethwall(&["explain", "--manifests", "/nonexistent", "a/b", "c/d"]);
    assert_eq!(ran.exit, Exit::Undecided);
    assert!(
        ran.err
            .starts_with("error: can not read the manifests in /nonexistent: "),
        "{}",
        ran.err
    );
}

#[test]
fn what_is_wrong_in_the_manifests_is_said_and_denies() {
    let typo = ALLOW_API
        .replace("app: api", "app: web")
        .replace("ingress:", "ingresss:");
    let ran = offline(&typo, &["shop/web", "shop/db:5432"]);
    assert!(ran.err.starts_with("warning: policy.yaml:6:3: "), "{}", ran.err);
    assert!(ran.err.contains("ingress"), "{}", ran.err);
    assert_eq!(ran.exit, Exit::No, "{}", ran.out);
}

#[test]
fn a_file_that_is_no_yaml_is_doubt() {
    let ran = offline("}{ not yaml", &["shop/web", "shop/db:5432"]);
    assert_eq!((ran.out.as_str(), ran.exit), ("", Exit::Undecided));
    assert!(
        ran.err.contains("nothing in policy.yaml can be read"),
        "{}",
        ran.err
    );
}

#[test]
fn the_nearest_fix_is_the_last_line() {
    let ran = offline(ALLOW_API, &["shop/web", "shop/db:5432"]);
    let last = ran.out.rsplit("\n\n").next().unwrap();
    assert_eq!(
        last,
        "fix: add a peer to from of ingress rule 1 of shop/db-allow-api: podSelector app=web, or label pod\n     \
         shop/web with app=api\n"
    );
    let ran = offline(ALLOW_API, &["shop/web", "shop/db:5432", "-o", "json"]);
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert!(
        value["ingress"]["fix"]
            .as_str()
            .unwrap()
            .starts_with("add a peer"),
        "{value}"
    );
    assert_eq!(value["egress"].get("fix"), None);
    assert_eq!(value["family"], 4);
}

#[test]
fn a_cluster_policy_stands_with_its_tier_and_the_rules_that_had_a_say() {
    let rules = "
  - {name: others, action: Accept, from: [{namespaces: {matchLabels: {team: other}}}]}
  - {name: no-sql, action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 5432}}}]}
  - {action: Deny, from: [{namespaces: {}}]}
";
    let all = format!("{ALLOW_API}{FENCE}{rules}");
    let ran = offline(&all, &["shop/web", "shop/db:5432"]);
    assert_eq!((ran.err.as_str(), ran.exit), ("", Exit::No));
    assert_eq!(
        ran.out,
        "\
shop/web -> shop/db port 5432/TCP  DENIED

EGRESS  of shop/web  ALLOWED  no policy isolates it for egress
INGRESS of shop/db  DENIED  by fence rule 2 \"no-sql\" (Deny)
  fence (Admin tier, priority 7)  3 rules
    ✓ rule 2 \"no-sql\" Deny  matches
      ✓ peer  pods {} in namespaces {}
      ✓ port  TCP port 5432
  and 1 more policy, 3 more rules (--all shows them)

fix: put a rule that accepts namespaceSelector kubernetes.io/metadata.name=shop and podSelector
     app=web on TCP port 5432 before ingress rule 2 of ClusterNetworkPolicy fence, which denies it
"
    );
    let ran = offline(&all, &["shop/web", "shop/db:5432", "--all"]);
    for part in [
        "✗ rule 1 \"others\" Accept  does not match\n",
        "✓ rule 3 Deny  matches\n",
        "shop/db-allow-api  1 rule\n",
    ] {
        assert!(ran.out.contains(part), "{part}\nin\n{}", ran.out);
    }
}

#[test]
fn many_rules_are_folded_to_the_nearest() {
    let mut policy = ALLOW_API.to_owned();
    for port in 1..=9 {
        policy.push_str(&format!(
            "  - {{from: [{{podSelector: {{matchLabels: {{n: '{port}'}}}}}}], ports: [{{port: {port}}}]}}\n"
        ));
    }
    policy.push_str("  - {from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}\n");
    let ran = offline(&policy, &["shop/web", "shop/db:5432"]);
    assert!(ran.out.contains("none of 11 rules matches\n"), "{}", ran.out);
    // The port is right in the first, the peer in the last.
    for part in [
        "✗ rule 1  does",
        "✗ rule 11  does",
        "✗ port  TCP port 80: ",
        "and 8 more rules (--all shows them)\n",
    ] {
        assert!(ran.out.contains(part), "{part}\nin\n{}", ran.out);
    }
    assert!(ran.out.lines().count() < 24, "a screen:\n{}", ran.out);
    assert!(
        ran.out
            .ends_with("fix: add TCP port 5432 to the ports of ingress rule 11 of shop/db-allow-api\n"),
        "{}",
        ran.out
    );
}

#[test]
fn a_family_or_protocol_can_be_asked_for() {
    let ran = offline(ALLOW_API, &["10.42.0.9", "shop/db:gre", "--family", "6"]);
    assert_eq!((ran.out.as_str(), ran.exit), ("", Exit::Usage));
    assert_eq!(ran.err, "error: 10.42.0.9 is no IPv6 address\n");
    let ran = offline(ALLOW_API, &["shop/web", "shop/db:/47", "--family", "6"]);
    assert!(
        ran.out.starts_with("shop/web -> shop/db GRE  DENIED\n"),
        "{}",
        ran.out
    );
    assert!(
        ran.out.contains("note: no IPv6 address of shop/web is known"),
        "{}",
        ran.out
    );
    let ran = offline(ALLOW_API, &["10.42.0.9", "fd00::1"]);
    assert_eq!(ran.exit, Exit::Usage);
    assert!(ran.err.contains("of two families"), "{}", ran.err);
    let ran = offline(ALLOW_API, &["203.0.113.9", "shop/web:80"]);
    assert!(
        ran.out
            .starts_with("203.0.113.9 (world) -> shop/web port 80/TCP  ALLOWED\n"),
        "{}",
        ran.out
    );
}
