//! Golden texts, and what the real `iptables-restore` says of them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use ipnet::IpNet;

use super::proxy::{Service, ServicePort};
use super::{flannel, proxy};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn web(external_local: bool, endpoints: &[(&str, bool)]) -> Service {
    Service {
        namespace: "shop".into(),
        name: "web".into(),
        cluster_ip: "10.96.0.7".parse().unwrap(),
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: "tcp".into(),
            port: 80,
            node_port: Some(30080),
            endpoints: endpoints
                .iter()
                .map(|(at, here)| (at.parse().unwrap(), *here))
                .collect(),
        }],
        external_local,
    }
}

const TWO: [(&str, bool); 2] = [("10.244.0.5:8080", true), ("10.244.1.6:8080", false)];

fn short(text: &str, chains: &[String]) -> String {
    let mut text = text.to_owned();
    for chain in chains {
        text = text.replace(chain.as_str(), &chain[..12]);
    }
    text
}

/// The lines of a text that are about services.
fn of_services(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.contains("shop/web") || line.starts_with("-A KUBE-EXT"))
        .collect()
}

#[test]
fn flannel_writes_what_flanneld_writes() {
    let expected = r#"*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
"#;
    assert_eq!(
        flannel::rules(net("10.244.0.0/16"), net("10.244.1.0/24")),
        expected
    );
    assert!(flannel::rules(net("fd00:10::/56"), net("fd00:10::/64")).contains("! -d ff00::/8"));
}

#[test]
fn a_node_port_service_becomes_the_chains_of_kube_proxy() {
    let rules = proxy::rules(&[web(false, &TWO)], net("10.244.0.0/16"), &[]);
    assert_eq!(rules.chains.len(), 4, "SVC, EXT and two SEP: {:?}", rules.chains);
    let first = rules.chains.iter().position(|chain| {
        rules.text.contains(&format!(
            "-A {chain} -m comment --comment \"shop/web:http\" -s 10.244.0.5 -j KUBE-MARK-MASQ"
        ))
    });
    assert!(first.is_some(), "{}", rules.text);
    let text = short(&rules.text, &rules.chains);
    let ends: Vec<String> = of_services(&text)
        .iter()
        .map(|line| line.replace(['\\'], ""))
        .map(|line| mask_endpoint(&line))
        .collect();
    assert_eq!(
        ends,
        [
            r#"-A KUBE-SERVICES -m comment --comment "shop/web:http cluster IP" -m tcp -p tcp -d 10.96.0.7 --dport 80 -j KUBE-SVC-*"#,
            r#"-A KUBE-SVC-* -m comment --comment "shop/web:http cluster IP" -m tcp -p tcp -d 10.96.0.7 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ"#,
            r#"-A KUBE-SVC-* -m comment --comment "shop/web:http -> 10.244.0.5:8080" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-*"#,
            r#"-A KUBE-SVC-* -m comment --comment "shop/web:http -> 10.244.1.6:8080" -j KUBE-SEP-*"#,
            r#"-A KUBE-SEP-* -m comment --comment "shop/web:http" -s 10.244.0.5 -j KUBE-MARK-MASQ"#,
            r#"-A KUBE-SEP-* -m comment --comment "shop/web:http" -m tcp -p tcp -j DNAT --to-destination 10.244.0.5:8080"#,
            r#"-A KUBE-SEP-* -m comment --comment "shop/web:http" -s 10.244.1.6 -j KUBE-MARK-MASQ"#,
            r#"-A KUBE-SEP-* -m comment --comment "shop/web:http" -m tcp -p tcp -j DNAT --to-destination 10.244.1.6:8080"#,
            r#"-A KUBE-NODEPORTS -m comment --comment "shop/web:http" -m tcp -p tcp --dport 30080 -j KUBE-EXT-*"#,
            r#"-A KUBE-EXT-* -m comment --comment "masquerade traffic for shop/web:http external destinations" -j KUBE-MARK-MASQ"#,
            r#"-A KUBE-EXT-* -j KUBE-SVC-*"#,
        ]
    );
}

/// `KUBE-SVC-` and what is left of the hash becomes `KUBE-SVC-*`.
fn mask_endpoint(line: &str) -> String {
    let mask = |word: &str| match word.get(..9) {
        Some(prefix @ ("KUBE-SVC-" | "KUBE-SEP-" | "KUBE-EXT-" | "KUBE-SVL-")) => format!("{prefix}*"),
        _ => word.to_owned(),
    };
    line.split(' ').map(mask).collect::<Vec<_>>().join(" ")
}

#[test]
fn local_policy_keeps_strangers_on_the_node() {
    let rules = proxy::rules(&[web(true, &TWO)], net("10.244.0.0/16"), &[]);
    let text = rules
        .text
        .lines()
        .map(mask_endpoint)
        .collect::<Vec<_>>()
        .join("\n");
    for line in [
        r#"-A KUBE-EXT-* -m comment --comment "pod traffic for shop/web:http external destinations" -s 10.244.0.0/16 -j KUBE-SVC-*"#,
        r#"-A KUBE-EXT-* -m comment --comment "masquerade LOCAL traffic for shop/web:http external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ"#,
        r#"-A KUBE-EXT-* -j KUBE-SVL-*"#,
        r#"-A KUBE-SVL-* -m comment --comment "shop/web:http -> 10.244.0.5:8080" -j KUBE-SEP-*"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(
        !text.contains("masquerade traffic for"),
        "the source must be kept\n{text}"
    );
    let nowhere = proxy::rules(&[web(true, &TWO[1..])], net("10.244.0.0/16"), &[]);
    assert!(
        nowhere
            .text
            .contains("has no local endpoints\" -m addrtype --dst-type LOCAL"),
        "{}",
        nowhere.text
    );
    assert!(!nowhere.text.contains("KUBE-SVL-"), "{}", nowhere.text);
}

#[test]
fn no_endpoints_is_a_refusal() {
    let rules = proxy::rules(&[web(false, &[])], net("10.244.0.0/16"), &[]);
    assert_eq!(rules.chains, Vec::<String>::new());
    let refusals: Vec<&str> = rules
        .text
        .lines()
        .filter(|line| line.ends_with("-j REJECT"))
        .collect();
    assert_eq!(
        refusals,
        [
            r#"-A KUBE-SERVICES -m comment --comment "shop/web:http has no endpoints" -m tcp -p tcp -d 10.96.0.7 --dport 80 -j REJECT"#,
            r#"-A KUBE-EXTERNAL-SERVICES -m comment --comment "shop/web:http has no endpoints" -m addrtype --dst-type LOCAL -m tcp -p tcp --dport 30080 -j REJECT"#,
        ]
    );
}

#[test]
fn the_other_family_is_left_out_and_old_chains_go() {
    let before = proxy::rules(&[web(false, &TWO)], net("10.244.0.0/16"), &[]);
    let after = proxy::rules(&[web(false, &TWO)], net("fd00:10::/56"), &before.chains);
    assert_eq!(after.chains, Vec::<String>::new());
    for chain in &before.chains {
        assert!(
            after.text.contains(&format!(":{chain} - [0:0]\n"))
                && after.text.contains(&format!("-X {chain}\n"))
        );
    }
    assert!(!after.text.contains("10.96.0.7"));
    assert!(after.text.contains("! -d ::1/128"));
}

/// Everything that is written, in the order of a node's life, through the real tool in a namespace of its own.
#[test]
fn iptables_restore_accepts_a_nodes_life() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let pods = net("10.244.0.0/16");
    let first = proxy::rules(&[web(true, &TWO)], pods, &[]);
    let second = proxy::rules(&[web(false, &TWO[..1])], pods, &first.chains);
    let last = proxy::rules(&[web(false, &[])], pods, &second.chains);
    let texts = [
        flannel::rules(pods, net("10.244.1.0/24")),
        proxy::hooks(),
        first.text,
        second.text,
        last.text,
    ];
    let script =
        "for text; do printf %s \"$text\" | iptables-restore --noflush -w || exit 1; done; iptables-save";
    let output = Command::new("unshare")
        .args(["-n", "sh", "-c", script, "sh"])
        .args(&texts)
        .output()
        .unwrap();
    let saved = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        saved.contains("KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\"")
    );
    for gone in ["KUBE-SVC-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-SVL-"] {
        assert!(!saved.contains(gone), "{saved}");
    }
    for jump in [
        "-A PREROUTING -m comment",
        "-A POSTROUTING -m comment",
        "-A FORWARD -m comment",
    ] {
        assert!(saved.contains(jump), "{jump}\n{saved}");
    }
}

/// The IPv6 texts are parsed only: not every kernel has ip6tables' nat table.
#[test]
fn ip6tables_restore_understands_the_text() {
    let tables = Command::new("unshare")
        .args(["-n", "ip6tables", "-t", "nat", "-S"])
        .output();
    if !tables.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no ip6tables nat table here");
        return;
    }
    let mut service = web(
        true,
        &[("[fd00:10::5]:8080", true), ("[fd00:10:0:1::6]:8080", false)],
    );
    service.cluster_ip = "fd00:96::7".parse().unwrap();
    let pods = net("fd00:10::/56");
    let rules = proxy::rules(&[service], pods, &[]);
    assert_eq!(rules.chains.len(), 5);
    for text in [
        flannel::rules(pods, net("fd00:10::/64")),
        proxy::hooks() + &rules.text,
    ] {
        let mut tool = Command::new("unshare")
            .args(["-n", "ip6tables-restore", "--noflush", "-w"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(tool.wait().unwrap().success(), "{text}");
    }
}
