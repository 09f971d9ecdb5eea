//! LINT030 to LINT035.

use super::*;

fn block(block: &str) -> String {
    format!(
        "spec: {{podSelector: {{}}, policyTypes: [Ingress], ingress: [{{from: [{{ipBlock: {{{block}}}}}]}}]}}\n"
    )
}

#[test]
fn what_is_no_network() {
    let report = alone(&block("cidr: «LINT030»10.0.0.7"));
    assert_eq!(report.findings[0].fix, "write 10.0.0.7/32 for this one address");
    alone(&block("cidr: «LINT030»10.0.0.0/33"));
    alone(&block("cidr: «LINT030»example.org"));
    alone(&block("cidr: 10.0.0.0/8, except: [«LINT030»10.1.0.0]"));
    alone(&block("cidr: 10.0.0.7/32"));
    alone(&block("cidr: '2001:db8::/32'"));
}

#[test]
fn what_means_another_network() {
    let report = alone(&block("cidr: «LINT031»10.1.2.3/8"));
    assert!(
        report.findings[0]
            .message
            .starts_with("10.1.2.3/8 means 10.0.0.0/8"),
        "{report:?}"
    );
    alone(&block("cidr: «LINT031»010.0.0.0/8"));
    alone(&block("cidr: «LINT031»'::ffff:10.0.0.0/104'"));
    alone(&block("cidr: 0.0.0.0/0, except: [«LINT031»10.1.2.3/16]"));
    alone(&block("cidr: '2001:DB8:0::/48'"));
}

#[test]
fn holes() {
    alone(&block("cidr: 10.0.0.0/8, except: [«LINT032»192.168.0.0/16]"));
    alone(&block("cidr: 10.0.0.0/8, except: [«LINT032»'2001:db8::/32']"));
    alone(&block("cidr: 10.0.0.0/8, except: [«LINT033»10.0.0.0/8]"));
    alone(&block("cidr: 10.0.0.0/8, except: [«LINT033»0.0.0.0/0]"));
    alone(&block("cidr: 10.0.0.0/8, except: [10.0.0.0/9, 10.255.0.0/16]"));
}

#[test]
fn addresses_of_pods() {
    let message = |text: &str| in_cluster(text).findings[0].message.clone();
    assert!(
        message(&block("cidr: «LINT034»10.244.2.9/32"))
            .starts_with("10.244.2.9/32 is the address of pod monitoring/prometheus")
    );
    assert!(
        message(&block("cidr: «LINT034»10.244.1.128/25"))
            .contains("inside the pod range 10.244.1.0/24 of node node-a")
    );
    assert!(message(&block("cidr: «LINT034»10.244.0.0/16")).contains("a block around the pod range"));
    assert!(message(&block("cidr: «LINT034»10.244.2.0/24")).contains("a block around the address of pod"));
    for good in [
        "cidr: 10.0.0.0/8",
        "cidr: 0.0.0.0/0, except: [10.244.0.0/16]",
        "cidr: 192.168.7.0/24",
        "cidr: 10.245.0.0/16",
        // From here come processes of the node, when they ask pods of other nodes.
        "cidr: 10.244.1.0/32",
    ] {
        in_cluster(&block(good));
    }
    alone(&block("cidr: 10.244.0.0/16"));
}

#[test]
fn addresses_of_services() {
    let egress = "spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: «LINT035»10.96.0.10/32}}], ports: [{port: 53, protocol: UDP}, {port: 53}]}]}\n";
    let report = in_cluster(egress);
    assert!(
        report.findings[0].message.starts_with(
            "10.96.0.10/32 is the address of Service kube-system/kube-dns: policy acts on the pod"
        )
    );
    in_cluster(&block("cidr: «LINT035»10.96.0.0/12"));
    in_cluster(&block("cidr: «LINT035»10.96.0.40/32"));
    in_cluster(&block("cidr: 10.97.0.0/16"));
    in_cluster(&block("cidr: 10.96.1.0/24"));
}
