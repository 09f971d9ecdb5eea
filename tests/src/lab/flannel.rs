//! The cluster's network below the pods, as flannel makes it.
//!
//! ```text
//!  node 1: eth0 192.168.99.1 ─┐                        ┌─ eth0 192.168.99.254, 203.0.113.10 : outside
//!  node 2: eth0 192.168.99.2 ─┴─ bridge `underlay` ────┘   (default gateway of the nodes)
//!  pods: 10.244.N-1.0/24 on cni0; vxlan: flannel.1, VNI 1, port 8472; host-gw: routes through eth0
//! ```
//!
//! Devices, routes, neighbours and rules are those that flanneld writes; here nothing has to be discovered.
//! The outside host answers whatever address and port it is asked for.

use std::fmt::Write as _;

use super::state::{Backend, Families, Node, State};

/// The outside host's own addresses.
pub(super) const OUTSIDE4: &str = "203.0.113.10";
/// The outside host's own addresses.
pub(super) const OUTSIDE6: &str = "2001:db8:113::10";
/// All pods.
pub(super) const NETWORK4: &str = "10.244.0.0/16";
/// All pods.
pub(super) const NETWORK6: &str = "fd00:10:244::/56";
const GATEWAY4: &str = "192.168.99.254";
const GATEWAY6: &str = "fd00:99::fe";
/// The port that the outside host's server listens on; all others are redirected to it.
pub(super) const OUTSIDE_PORT: u16 = 9;

/// Links of the underlay, for `ip -batch` in the supervisor's namespace.
pub(super) fn underlay(state: &State) -> String {
    let mut out =
        String::from("link set lo up\nlink add underlay type bridge forward_delay 0\nlink set underlay up\n");
    let outside = ("outside".to_owned(), state.outside);
    let hosts = state
        .nodes
        .iter()
        .map(|node| (format!("node{}", node.number), node.pid));
    for (name, pid) in hosts.chain([outside]) {
        out += &format!(
            "link add {name} type veth peer name eth0 netns {pid}\nlink set {name} master underlay up\n"
        );
    }
    out
}

fn mac(node: &Node, v6: bool) -> String {
    format!("aa:00:00:00:{:02x}:{:02x}", if v6 { 6 } else { 4 }, node.number)
}

fn gateway(subnet: &str) -> &str {
    subnet.split('/').next().unwrap_or(subnet)
}

/// A node's links, addresses and routes, for `ip -batch`.
pub(super) fn node(state: &State, me: &Node) -> String {
    let families = state.families;
    let mut out = String::from("link set lo up\nlink set eth0 up\n");
    if families.v4() {
        out += &format!(
            "addr add {}/24 dev eth0\nroute add default via {GATEWAY4}\n",
            me.address4()
        );
    }
    if families.v6() {
        out += &format!(
            "addr add {}/64 dev eth0 nodad\nroute add default via {GATEWAY6}\n",
            me.address6()
        );
    }
    if state.backend == Backend::Vxlan {
        if families.v4() {
            out += &format!(
                "link add flannel.1 address {} mtu 1450 type vxlan id 1 dev eth0 local {} dstport 8472 nolearning\n\
                 addr add {}/32 dev flannel.1\nlink set flannel.1 up\n",
                mac(me, false),
                me.address4(),
                gateway(&me.subnet4())
            );
        }
        if families.v6() {
            out += &format!(
                "link add flannel-v6.1 address {} mtu 1430 type vxlan id 1 dev eth0 local {} dstport 8472 nolearning\n\
                 addr add {}/128 dev flannel-v6.1 nodad\nlink set flannel-v6.1 up\n",
                mac(me, true),
                me.address6(),
                gateway(&me.subnet6())
            );
        }
    }
    for other in state.nodes.iter().filter(|other| other.number != me.number) {
        let (sub4, sub6) = (other.subnet4(), other.subnet6());
        match state.backend {
            Backend::HostGw => {
                if families.v4() {
                    out += &format!("route add {sub4} via {} dev eth0\n", other.address4());
                }
                if families.v6() {
                    out += &format!("route add {sub6} via {} dev eth0\n", other.address6());
                }
            }
            Backend::Vxlan => {
                if families.v4() {
                    let via = gateway(&sub4);
                    out += &format!(
                        "neigh replace {via} lladdr {} dev flannel.1 nud permanent\n\
                         route add {sub4} via {via} dev flannel.1 onlink\n",
                        mac(other, false)
                    );
                }
                if families.v6() {
                    let via = gateway(&sub6);
                    out += &format!(
                        "neigh replace {via} lladdr {} dev flannel-v6.1 nud permanent\n\
                         route add {sub6} via {via} dev flannel-v6.1 onlink\n",
                        mac(other, true)
                    );
                }
            }
        }
    }
    out
}

/// Where the other nodes' VXLAN devices are, for `bridge -batch`.
pub(super) fn forwarding(state: &State, me: &Node) -> String {
    let mut out = String::new();
    if state.backend == Backend::Vxlan {
        for other in state.nodes.iter().filter(|other| other.number != me.number) {
            if state.families.v4() {
                out += &format!(
                    "fdb replace {} dev flannel.1 dst {} self permanent\n",
                    mac(other, false),
                    other.address4()
                );
            }
            if state.families.v6() {
                out += &format!(
                    "fdb replace {} dev flannel-v6.1 dst {} self permanent\n",
                    mac(other, true),
                    other.address6()
                );
            }
        }
    }
    out
}

/// The outside host, for `ip -batch`: it knows the way to the pods, as a router of the nodes' network would.
pub(super) fn outside(state: &State) -> String {
    let mut out = String::from("link set lo up\nlink set eth0 up\n");
    if state.families.v4() {
        out += &format!(
            "addr add {OUTSIDE4}/32 dev eth0\naddr add {GATEWAY4}/24 dev eth0\n\
             route replace 192.168.99.0/24 dev eth0 src {OUTSIDE4}\n"
        );
    }
    if state.families.v6() {
        out += &format!(
            "addr add {OUTSIDE6}/128 dev eth0 nodad\naddr add {GATEWAY6}/64 dev eth0 nodad\n\
             route replace fd00:99::/64 dev eth0 src {OUTSIDE6}\n"
        );
    }
    for node in &state.nodes {
        if state.families.v4() {
            out += &format!(
                "route add {} via {} src {OUTSIDE4}\n",
                node.subnet4(),
                node.address4()
            );
        }
        if state.families.v6() {
            out += &format!(
                "route add {} via {} src {OUTSIDE6}\n",
                node.subnet6(),
                node.address6()
            );
        }
    }
    out
}

/// Rules of the outside host: one server answers for every address and port but the cluster's own.
pub(super) fn outside_rules(v6: bool) -> String {
    let (inner, echo) = if v6 {
        (
            [NETWORK6, "fd00:10:96::/48"],
            "ipv6-icmp --icmpv6-type echo-request",
        )
    } else {
        ([NETWORK4, "10.96.0.0/16"], "icmp --icmp-type echo-request")
    };
    let mut out = String::from("*mangle\n");
    for network in inner {
        out += &format!("-A PREROUTING -i eth0 -d {network} -j DROP\n");
    }
    out + &format!(
        "COMMIT\n*nat\n\
         -A PREROUTING -i eth0 -p tcp -j REDIRECT --to-ports {OUTSIDE_PORT}\n\
         -A PREROUTING -i eth0 -p udp -j REDIRECT --to-ports {OUTSIDE_PORT}\n\
         -A PREROUTING -i eth0 -p {echo} -j REDIRECT\nCOMMIT\n"
    )
}

/// flannel's rules on a node, for iptables-restore or ip6tables-restore.
pub(super) fn rules(me: &Node, v6: bool) -> String {
    let (network, subnet, multicast) = if v6 {
        (NETWORK6, me.subnet6(), "ff00::/8")
    } else {
        (NETWORK4, me.subnet4(), "224.0.0.0/4")
    };
    let masq = "-m comment --comment \"flanneld masq\"";
    let forward = "-m comment --comment \"flanneld forward\"";
    let mut out = String::new();
    for line in [
        "*nat".to_owned(),
        ":FLANNEL-POSTRTG - [0:0]".to_owned(),
        format!("-A POSTROUTING {masq} -j FLANNEL-POSTRTG"),
        format!("-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {masq} -j RETURN"),
        format!("-A FLANNEL-POSTRTG -s {subnet} -d {network} {masq} -j RETURN"),
        format!("-A FLANNEL-POSTRTG -s {network} -d {subnet} {masq} -j RETURN"),
        format!("-A FLANNEL-POSTRTG ! -s {network} -d {subnet} {masq} -j RETURN"),
        format!("-A FLANNEL-POSTRTG -s {network} ! -d {multicast} {masq} -j MASQUERADE --random-fully"),
        format!("-A FLANNEL-POSTRTG ! -s {network} -d {network} {masq} -j MASQUERADE --random-fully"),
        "COMMIT".to_owned(),
        "*filter".to_owned(),
        ":FLANNEL-FWD - [0:0]".to_owned(),
        format!("-A FORWARD {forward} -j FLANNEL-FWD"),
        format!("-A FLANNEL-FWD -s {network} {forward} -j ACCEPT"),
        format!("-A FLANNEL-FWD -d {network} {forward} -j ACCEPT"),
        "COMMIT".to_owned(),
    ] {
        let _infallible = writeln!(out, "{line}");
    }
    out
}

/// /run/flannel/subnet.env of a node.
pub(super) fn subnet_env(backend: Backend, families: Families, me: &Node) -> String {
    let mut out = String::new();
    if families.v4() {
        out += &format!(
            "FLANNEL_NETWORK={NETWORK4}\nFLANNEL_SUBNET={}\n",
            me.subnet4().replace(".0/24", ".1/24")
        );
    }
    if families.v6() {
        out += &format!(
            "FLANNEL_IPV6_NETWORK={NETWORK6}\nFLANNEL_IPV6_SUBNET={}\n",
            me.subnet6().replace("::/64", "::1/64")
        );
    }
    let mtu = match (backend, families.v6()) {
        (Backend::HostGw, _) => 1500,
        (Backend::Vxlan, false) => 1450,
        (Backend::Vxlan, true) => 1430,
    };
    out + &format!("FLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=true\n")
}

/// The list of plugins as kube-flannel installs it, with these entries after flannel's own.
pub(super) fn conflist(chained: &[serde_json::Value]) -> String {
    let mut plugins = vec![
        serde_json::json!({"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}}),
        serde_json::json!({"type": "portmap", "capabilities": {"portMappings": true}}),
    ];
    plugins.extend_from_slice(chained);
    let list = serde_json::json!({"name": "cbr0", "cniVersion": "0.3.1", "plugins": plugins});
    format!("{list:#}\n")
}
