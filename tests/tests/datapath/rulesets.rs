//! Chains that others made in netfilter.

use std::process::Command;

use vethwall_datapath::rulesets::{self, Chain};
use vethwall_tests::sandbox;

fn run(program: &str, arguments: &str) {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} {arguments}: {output:?}");
}

fn legacy_tables() -> String {
    ["ip", "ip6"]
        .map(|family| {
            std::fs::read_to_string(format!("/proc/thread-self/net/{family}_tables_names"))
                .unwrap_or_default()
        })
        .concat()
}

fn chain(table: &str, name: &str) -> Chain {
    Chain {
        table: table.to_owned(),
        name: name.to_owned(),
    }
}

#[test]
fn chains_of_others_are_seen_and_nothing_is_made() {
    sandbox::run(|| {
        assert_eq!(rulesets::chains().unwrap(), [].into());
        assert_eq!(legacy_tables(), "", "to look makes no table");
        run("iptables-legacy", "-N KUBE-ROUTER-FORWARD");
        run("iptables-legacy", "-A FORWARD -j KUBE-ROUTER-FORWARD");
        run(
            "iptables-legacy",
            "-A KUBE-ROUTER-FORWARD -s 10.244.0.2 -j ACCEPT",
        );
        run("ip6tables-legacy", "-N KUBE-ROUTER-INPUT");
        run("iptables-nft", "-N cali-FORWARD");
        run("nft", "add table inet kube-network-policies");
        run("nft", "add chain inet kube-network-policies postrouting");
        let found = rulesets::chains().unwrap();
        for expected in [
            chain("filter", "KUBE-ROUTER-FORWARD"),
            chain("filter", "KUBE-ROUTER-INPUT"),
            chain("filter", "cali-FORWARD"),
            chain("kube-network-policies", "postrouting"),
        ] {
            assert!(found.contains(&expected), "{expected:?} is not in {found:?}");
        }
        for number in 0..300 {
            run("iptables-legacy", &format!("-N KUBE-POD-FW-{number}"));
        }
        let found = rulesets::chains().unwrap();
        let pods = found
            .iter()
            .filter(|chain| chain.name.starts_with("KUBE-POD-FW-"));
        assert_eq!(pods.count(), 300, "a table larger than a page");
    });
}
