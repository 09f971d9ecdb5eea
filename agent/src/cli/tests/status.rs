//! `vethwall status`.

use super::*;
use crate::api::{settings::FailurePolicy, status::Stranger};

#[test]
fn a_healthy_node() {
    let (request, ran) = asked(
        &[Response::Status(Box::new(healthy())), Response::End],
        &["status"],
    );
    assert_eq!(request, Request::Status);
    assert_eq!(
        ran.out,
        "\
vethwall v0.1.0 · node-a · healthy · pods protected 2/2

Manifests  /etc/manifests: 7 files, no problems, revision 12
Chain      05-vethwall.conflist in /etc/cni/net.d, auto, put back 1 time, phase steady
Kernel     tcx, bridge cni0 attached, map layout v1, bridge-nf-call-iptables 1
Maps       fullest VERDICTS: 13107 of 131072 (9 %)
Events     0 read, 0 lost
Settings   mode: enforce, existing connections: rejudge, egress to the own node: policy

POD             INTERFACE   ADDRESS    STATE      INGRESS              EGRESS
shop/db-0       veth3f1c2a  10.42.0.4  enforcing  isolated (1 policy)  open
shop/web-7d9f8  veth3f1c2a  10.42.0.9  enforcing  open                 open

POLICY             MODE     PODS HERE
shop/db-allow-api  enforce  1
"
    );
    assert_eq!((ran.err.as_str(), ran.exit), ("", Exit::Yes));
}

#[test]
fn everything_that_is_wrong_is_listed_and_is_1() {
    let mut status = healthy();
    status.endpoints[1].state = EndpointState::Pending;
    (status.phase, status.chain.state, status.chain.file) = (Phase::Ready, ChainState::Unchained, None);
    status.policies[0].problems = vec!["rule 1: 10.0.0.0/33 is no CIDR; it matches nothing".to_owned()];
    status.manifests.problems = vec![ManifestProblem {
        file: "policies/lockdown.yaml".to_owned(),
        line: 9,
        column: 29,
        message: "invalid type: sequence, expected IntOrString".to_owned(),
        code: None,
    }];
    status.problems = vec![Problem {
        code: "NET001".to_owned(),
        message: "bridge cni0 does not exist".to_owned(),
        hint: Some("flannel makes it with the first pod".to_owned()),
    }];
    let (_, ran) = asked(&[Response::Status(Box::new(status)), Response::End], &["status"]);
    assert_eq!(ran.exit, Exit::No);
    for part in [
        "Chain      not chained, phase ready\n",
        "vethwall v0.1.0 · node-a · PROBLEMS · pods protected 1/2\n",
        "shop/web-7d9f8  veth3f1c2a  10.42.0.9  PENDING    closed               closed\n",
        "shop/db-allow-api  enforce  1          1 PROBLEM\n",
        "\nProblems (3)\n  NET001  bridge cni0 does not exist\n          flannel makes it with the first pod\n",
        "  MANIFEST  policies/lockdown.yaml:9:29  invalid type: sequence, expected IntOrString\n",
        "  POD  shop/web-7d9f8  waits: ",
    ] {
        assert!(ran.out.contains(part), "{part}\nin\n{}", ran.out);
    }
}

#[test]
fn what_is_not_closed_is_told() {
    let mut status = healthy();
    status.failure_policy = FailurePolicy::new(&["kube-system".to_owned(), "ops".to_owned()]);
    status.interfaces.identified = 2;
    status.interfaces.strangers = vec![Stranger {
        interface: "veth9".to_owned(),
        closed: true,
    }];
    let (_, ran) = asked(
        &[Response::Status(Box::new(status.clone())), Response::End],
        &["status"],
    );
    for part in [
        "Failures   OPEN while no agent answers, for pods of kube-system, ops\n",
        "Strangers  2 came past the plugin and were found; 1 of no known pod, closed\n",
    ] {
        assert!(ran.out.contains(part), "{part}\nin\n{}", ran.out);
    }
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(
        json["failurePolicy"],
        serde_json::json!({"mode": "open", "namespaces": ["kube-system", "ops"]})
    );
    assert_eq!(
        serde_json::to_value(healthy()).unwrap()["failurePolicy"],
        serde_json::json!({"mode": "closed"})
    );
}

#[test]
fn each_thing_alone_makes_a_node_unhealthy() {
    assert!(healthy().healthy());
    let changes: [fn(&mut Status); 6] = [
        |status| status.ready = false,
        |status| status.state = AgentState::Degraded,
        |status| status.problems.push(Problem::default()),
        |status| status.manifests.problems.push(ManifestProblem::default()),
        |status| status.policies[0].problems.push(String::new()),
        |status| status.endpoints[0].state = EndpointState::Unprotected,
    ];
    for (i, change) in changes.iter().enumerate() {
        let mut status = healthy();
        change(&mut status);
        assert!(!status.healthy(), "{i}");
    }
}

#[test]
fn status_as_json_is_one_line_with_the_documented_names() {
    let (_, ran) = asked(
        &[Response::Status(Box::new(healthy())), Response::End],
        &["status", "-o", "json"],
    );
    assert_eq!(ran.out.matches('\n').count(), 1);
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    for (pointer, expected) in [
        ("/apiVersion", serde_json::json!("vethwall.io/v1")),
        ("/node", "node-a".into()),
        ("/ready", true.into()),
        ("/state", "enforcing".into()),
        ("/abi", 1.into()),
        ("/hook", "tcx".into()),
        ("/bridge/attached", true.into()),
        ("/bridgeNfCallIptables", true.into()),
        ("/revision", 12.into()),
        ("/manifests/digest", "9ae16a3b2f90404f".into()),
        ("/manifests/problems", serde_json::json!([])),
        ("/endpoints/0/state", "enforcing".into()),
        ("/endpoints/0/ingress/isolated", true.into()),
        ("/endpoints/0/ingress/policies/0/name", "db-allow-api".into()),
        ("/policies/0/selects", 1.into()),
        ("/maps/0/capacity", 8192.into()),
        ("/events/lost", 0.into()),
        ("/problems", serde_json::json!([])),
    ] {
        assert_eq!(value.pointer(pointer), Some(&expected), "{pointer}");
    }
    assert_eq!(serde_json::from_str::<Status>(&ran.out).unwrap(), healthy());
}
