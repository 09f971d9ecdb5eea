//! LINT040 to LINT048.

use super::*;

fn ports(ports: &str) -> String {
    format!(
        "spec: {{podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Ingress], ingress: [{{ports: [{ports}]}}]}}\n"
    )
}

#[test]
fn a_protocol_that_is_missing() {
    alone(&ports("{port: «LINT040»53}"));
    alone(&ports("{port: «LINT040»123}"));
    alone(&ports("{port: «LINT040»dns}"));
    for good in [
        "{port: 53, protocol: UDP}, {port: 53}",
        "{port: 80}",
        "{port: 53, protocol: TCP}",
        "{port: 123, protocol: UDP}",
        "{protocol: UDP}, {port: 53}",
        "{port: 1, endPort: 1024}",
    ] {
        alone(&ports(good));
    }
}

#[test]
fn ranges() {
    let report = alone(&ports("{port: 8090, endPort: «LINT041»8080}"));
    assert_eq!(
        report.findings[0].fix,
        "write port: 8080 and endPort: 8090, or the range that is meant"
    );
    alone(&ports("{port: 8080, endPort: 8080}"));
    alone(&ports("{endPort: «LINT042»8080}"));
    alone(&ports("{port: http, endPort: «LINT042»8080}"));
    alone(&ports("{port: 8080, endPort: 8090}"));
}

#[test]
fn names_of_ports() {
    in_cluster(&ports("{port: «LINT043»htpp}"));
    in_cluster(&ports("{port: «LINT044»gossip}"));
    let report = in_cluster(&ports("{port: «LINT044»http, protocol: UDP}"));
    assert_eq!(report.findings[0].fix, "write protocol: TCP");
    in_cluster(&ports("{port: http}, {port: gossip, protocol: UDP}"));
    alone(&ports("{port: htpp}"));
    // On egress it is the destination's name.
    let egress = |port: &str| {
        format!(
            "spec: {{podSelector: {{}}, policyTypes: [Egress], egress: [{{to: [{{podSelector: {{matchLabels: {{app: db}}}}}}], ports: [{{port: {port}}}]}}, {{ports: [{{port: 53}}, {{port: 53, protocol: UDP}}]}}]}}\n"
        )
    };
    in_cluster(&egress("«LINT043»http"));
    in_cluster(&egress("postgres"));
}

#[test]
fn numbers_and_words() {
    alone(&ports("{port: «LINT045»\"80\"}"));
    alone(&ports("{port: 80}"));
    let report = alone(&ports("{port: 80, protocol: «LINT046»tcp}"));
    assert_eq!(report.findings[0].fix, "write TCP, in capitals");
    alone(&ports("{protocol: «LINT046»ICMP}"));
    alone(&ports("{protocol: SCTP}"));
    alone(&ports("{port: «LINT047»0}"));
    alone(&ports("{port: «LINT047»65536}"));
    alone(&ports("{port: 1, endPort: «LINT047»70000}"));
    alone(&ports("{port: 65535}"));
    let report = alone(&ports("{port: «LINT048»80-90}"));
    assert_eq!(report.findings[0].fix, "write port: 80 and endPort: 90");
    alone(&ports("{port: «LINT048»a-name-that-is-too-long}"));
    alone(&ports("{port: a-name}"));
}
