//! The same policies for every engine: each has ten rules, each rule a peer and a port; the last policy's first rule is
//! the one that lets the client in.
//!
//! The iptables rules have the shape of kube-router's (pkg/controllers/netpol, its user guide): a chain for the pod that
//! accepts what is established and asks one chain a policy, in which each rule is an ipset match, a port and a mark. The
//! nftables rules are the same, with named sets.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Rules in a policy.
pub(crate) const RULES: u16 = 10;

/// Who may ask whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    /// The client.
    pub(crate) client: Ipv4Addr,
    /// The server, whom the policies select.
    pub(crate) server: Ipv4Addr,
    /// The port that it serves.
    pub(crate) port: u16,
}

/// A pod somewhere else that the n-th policy names.
fn stranger(n: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0af4_4000 + u32::try_from(n).unwrap_or(u32::MAX - 0x0af4_4000))
}

impl Pair {
    fn peer(self, n: usize, of: usize) -> Ipv4Addr {
        if n + 1 == of { self.client } else { stranger(n) }
    }

    /// Pods and NetworkPolicies for a cluster directory.
    pub(crate) fn manifests(self, policies: usize) -> Value {
        let mut items = Vec::new();
        for n in 0..policies {
            let last = n + 1 == policies;
            let name = format!("peer-{n}");
            if !last {
                items.push(json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": {"namespace": "shop", "name": name, "uid": name, "labels": {"peer": name}},
                    "spec": {"nodeName": "elsewhere"},
                    "status": {"phase": "Running", "podIP": stranger(n).to_string()},
                }));
            }
            let from = if last {
                json!({"app": "client"})
            } else {
                json!({"peer": name})
            };
            let rule = |r: u16| {
                json!({
                    "from": [{"podSelector": {"matchLabels": from}}],
                    "ports": [{"protocol": "TCP", "port": self.port + r}, {"protocol": "UDP", "port": self.port + r}],
                })
            };
            items.push(json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": "shop", "name": format!("policy-{n}")},
                "spec": {
                    "podSelector": {"matchLabels": {"app": "server"}},
                    "policyTypes": ["Ingress"],
                    "ingress": (0..RULES).map(rule).collect::<Vec<_>>(),
                },
            }));
        }
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    }

    /// For `ipset restore`.
    pub(crate) fn ipsets(self, policies: usize) -> String {
        let mut text = String::new();
        for n in 0..policies {
            let peer = self.peer(n, policies);
            // Writing to a string does not fail.
            _ = writeln!(text, "create S{n} hash:ip\nadd S{n} {peer}");
        }
        _ = writeln!(text, "create D hash:ip\nadd D {}", self.server);
        text
    }

    /// For `iptables-restore --noflush`.
    pub(crate) fn iptables(self, policies: usize) -> String {
        let server = self.server;
        let mut text = String::from("*filter\n:FORWARD ACCEPT [0:0]\n:POD-FW - [0:0]\n");
        for n in 0..policies {
            _ = writeln!(text, ":P{n} - [0:0]");
        }
        _ = writeln!(text, "-F FORWARD\n-A FORWARD -d {server} -j POD-FW");
        text.push_str("-A POD-FW -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n");
        for n in 0..policies {
            _ = writeln!(text, "-A POD-FW -d {server} -j P{n}");
        }
        text.push_str("-A POD-FW -m mark ! --mark 0x10000/0x10000 -j DROP\n");
        text.push_str("-A POD-FW -j MARK --set-mark 0/0x10000\n");
        for n in 0..policies {
            for r in 0..RULES {
                let sets = format!("-m set --match-set S{n} src -m set --match-set D dst");
                let port = self.port + r;
                for protocol in ["tcp", "udp"] {
                    _ = writeln!(
                        text,
                        "-A P{n} {sets} -p {protocol} -m {protocol} --dport {port} -j MARK --set-xmark 0x10000/0x10000\n\
                         -A P{n} {sets} -p {protocol} -m {protocol} --dport {port} -m mark --mark 0x10000/0x10000 -j RETURN"
                    );
                }
            }
        }
        text.push_str("COMMIT\n");
        text
    }

    /// For `nft -f`.
    pub(crate) fn nftables(self, policies: usize) -> String {
        let server = self.server;
        let mut text = String::from("table ip bench {\n");
        for n in 0..policies {
            let peer = self.peer(n, policies);
            _ = writeln!(text, "set S{n} {{ type ipv4_addr; elements = {{ {peer} }} }}");
        }
        for n in 0..policies {
            _ = writeln!(text, "chain P{n} {{");
            for r in 0..RULES {
                for protocol in ["tcp", "udp"] {
                    _ = writeln!(text, "ip saddr @S{n} {protocol} dport {} accept", self.port + r);
                }
            }
            text.push_str("}\n");
        }
        text.push_str("chain pod {\nct state established,related accept\n");
        for n in 0..policies {
            _ = writeln!(text, "jump P{n}");
        }
        text.push_str("drop\n}\nchain forward { type filter hook forward priority 0; policy accept;\n");
        _ = writeln!(text, "ip daddr {server} jump pod\n}}\n}}");
        text
    }
}
