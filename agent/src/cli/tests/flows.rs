//! `vethwall flows`.

use super::*;
use crate::{api::Icmp, cli::flows};

#[test]
fn the_lines_of_flows() {
    let line = |flow: &Flow| plain(&flows::render(flow));
    assert_eq!(
        line(&flow()),
        "Nov 21 09:14:02.117 [node-b] shop/web-7d9f8:51544 -> shop/db-0:5432 TCP  DENIED  ingress  no rule matched \
         (isolated by shop/db-allow-api)  ×3\n"
    );
    let allowed = Flow {
        verdict: Verdict::Allowed,
        reason: "rule".to_owned(),
        rule: Some(2),
        count: 1,
        ..flow()
    };
    assert!(
        line(&allowed).ends_with("TCP  ALLOWED  ingress  by shop/db-allow-api rule 2\n"),
        "{}",
        line(&allowed)
    );
    let audited = Flow {
        verdict: Verdict::Audited,
        direction: Direction::Egress,
        destination: end("world", "2001:db8::9", 443),
        policies: vec![policy("lockdown"), policy("more")],
        count: 1,
        ..flow()
    };
    assert!(
        line(&audited).ends_with(
            "-> [2001:db8::9]:443 (world) TCP  AUDITED  egress  would be denied by shop/lockdown, shop/more\n"
        ),
        "{}",
        line(&audited)
    );
    let ping = Flow {
        source: End {
            kind: EndKind::Node,
            node: Some("node-b".to_owned()),
            port: None,
            ..end("node", "10.42.1.1", 0)
        },
        destination: End {
            port: None,
            ..end("shop/db-0", "10.42.1.4", 0)
        },
        protocol: "ICMP".to_owned(),
        icmp: Some(Icmp { kind: 8, code: 0 }),
        verdict: Verdict::Allowed,
        reason: "own_node".to_owned(),
        policies: Vec::new(),
        count: 1,
        ..flow()
    };
    assert!(
        line(&ping).ends_with(
            "10.42.1.1 (node node-b) -> shop/db-0 ICMP type 8 code 0  ALLOWED  ingress  from the pod's own node\n"
        ),
        "{}",
        line(&ping)
    );
}

#[test]
fn every_reason_has_words() {
    for reason in vethwall_common::verdict::Reason::ALL {
        for policies in [Vec::new(), vec![policy("p")]] {
            let flow = Flow {
                reason: reason.name().to_owned(),
                policies,
                ..flow()
            };
            let line = plain(&flows::render(&flow));
            assert!(!line.contains('_'), "{line}");
        }
    }
    let later = Flow {
        reason: "out_of_\u{1b}cheese".to_owned(),
        ..flow()
    };
    assert!(plain(&flows::render(&later)).contains(r"out_of_\u{1b}cheese"));
}

#[test]
fn flows_asks_for_what_it_was_told() {
    let (request, ran) = asked(
        &[
            Response::Flow(Box::new(flow())),
            Response::Lost(Lost { count: 2 }),
            Response::Flow(Box::new(flow())),
            Response::End,
        ],
        &[
            "observe",
            "--verdict",
            "denied,audited",
            "-n",
            "shop",
            "--pod",
            "shop/web",
            "--last",
            "5",
            "--direction",
            "egress",
            "-o",
            "json",
        ],
    );
    let line = serde_json::to_string(&RequestLine::new(request)).unwrap();
    assert_eq!(
        line,
        r#"{"apiVersion":"vethwall.io/v1","request":"flows","follow":false,"last":5,"verdicts":["denied","audited"],"namespace":"shop","pod":"shop/web","direction":"egress"}"#
    );
    let read: Vec<Flow> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(read, [flow(), flow()]);
    assert_eq!(ran.err, "2 flows lost: more happened than could be read\n");
    assert_eq!(ran.exit, Exit::Yes);
}

#[test]
fn no_flows_is_said_and_no_failure() {
    let (_, ran) = asked(&[Response::End], &["flows"]);
    assert_eq!((ran.out.as_str(), ran.exit), ("", Exit::Yes));
    assert_eq!(ran.err, "No flow of this node's history matches.\n");
}
