//! flanneld's own rules (`--ip-masq`, flannel 0.22 and later), one address family at a time.

use ipnet::IpNet;

/// The rules of one node: `nat FLANNEL-POSTRTG`, `filter FLANNEL-FWD` and the two jumps into them.
///
/// `pod_network` is the network of all pods, `node_subnet` this node's part of it, both of one family
/// (`iptables-restore` for IPv4, `ip6tables-restore` for IPv6). Apply it once per node: the chains are
/// rewritten each time, but the jumps from the built-in chains are appended.
#[must_use]
pub fn rules(pod_network: IpNet, node_subnet: IpNet) -> String {
    let multicast = match pod_network {
        IpNet::V4(_) => "224.0.0.0/4",
        IpNet::V6(_) => "ff00::/8",
    };
    let masq = "-m comment --comment \"flanneld masq\"";
    let forward = "-m comment --comment \"flanneld forward\"";
    let post = "-A FLANNEL-POSTRTG";
    let lines = [
        "*nat".to_owned(),
        ":FLANNEL-POSTRTG - [0:0]".to_owned(),
        format!("-A POSTROUTING {masq} -j FLANNEL-POSTRTG"),
        // kube-proxy has already decided on these: a second translation would be one too many.
        format!("{post} -m mark --mark 0x4000/0x4000 {masq} -j RETURN"),
        format!("{post} -s {node_subnet} -d {pod_network} {masq} -j RETURN"),
        format!("{post} -s {pod_network} -d {node_subnet} {masq} -j RETURN"),
        format!("{post} ! -s {pod_network} -d {node_subnet} {masq} -j RETURN"),
        format!("{post} -s {pod_network} ! -d {multicast} {masq} -j MASQUERADE --random-fully"),
        format!("{post} ! -s {pod_network} -d {pod_network} {masq} -j MASQUERADE --random-fully"),
        "COMMIT".to_owned(),
        "*filter".to_owned(),
        ":FLANNEL-FWD - [0:0]".to_owned(),
        format!("-A FORWARD {forward} -j FLANNEL-FWD"),
        format!("-A FLANNEL-FWD -s {pod_network} {forward} -j ACCEPT"),
        format!("-A FLANNEL-FWD -d {pod_network} {forward} -j ACCEPT"),
        "COMMIT".to_owned(),
    ];
    lines.join("\n") + "\n"
}
