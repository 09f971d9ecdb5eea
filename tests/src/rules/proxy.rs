//! kube-proxy's rules in iptables mode, one address family at a time.
//!
//! ```text
//! KUBE-SERVICES ─VIP:port──────────────> KUBE-SVC-x ─random─> KUBE-SEP-y ──> DNAT pod:port
//!       └─ local address ─> KUBE-NODEPORTS ─> KUBE-EXT-x ─┬─> KUBE-SVC-x   (Cluster, masqueraded)
//!                                                         └─> KUBE-SVL-x   (Local, source kept)
//! ```
//!
//! [`hooks`] is installed once per node, [`rules`] at every change. The mark 0x4000 asks
//! `KUBE-POSTROUTING` to masquerade.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::names::{self, Kind};

/// A Service of one address family; a dual-stack Service is two of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The virtual address. Services whose family is not the asked one are left out.
    pub cluster_ip: IpAddr,
    /// What it serves.
    pub ports: Vec<ServicePort>,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The port's name, empty when it has none.
    pub name: String,
    /// `tcp`, `udp` or `sctp`, in lower case.
    pub protocol: String,
    /// The port at the virtual address.
    pub port: u16,
    /// The port at every node's own addresses.
    pub node_port: Option<u16>,
    /// Pod address and target port, and whether the pod is on this node.
    pub endpoints: Vec<(SocketAddr, bool)>,
}

/// What [`rules`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Text for `iptables-restore --noflush` (or `ip6tables-restore`).
    pub text: String,
    /// The per-service nat chains that the text fills: `previous` of the next call.
    pub chains: Vec<String>,
}

const NAT: [&str; 4] = [
    "KUBE-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
];
const FILTER: [&str; 4] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-FORWARD",
];

/// The chains and the jumps from the built-in chains into them, for both families: install it once per
/// node, before the first [`rules`]. Like kube-proxy it puts the jumps first, before flannel's.
#[must_use]
pub fn hooks() -> String {
    let mut text = "*filter\n".to_owned();
    declare(&mut text, &FILTER);
    let new = "-m conntrack --ctstate NEW";
    let external = "-m comment --comment \"kubernetes externally-visible service portals\"";
    let portals = "-m comment --comment \"kubernetes service portals\"";
    let lines = [
        format!("-I INPUT {new} {external} -j KUBE-EXTERNAL-SERVICES"),
        format!("-I FORWARD {new} {external} -j KUBE-EXTERNAL-SERVICES"),
        "-I INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS"
            .to_owned(),
        format!("-I FORWARD {new} {portals} -j KUBE-SERVICES"),
        format!("-I OUTPUT {new} {portals} -j KUBE-SERVICES"),
        "-I FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD".to_owned(),
        "COMMIT\n*nat".to_owned(),
    ];
    text += &lines.join("\n");
    text += "\n";
    declare(&mut text, &NAT);
    let lines = [
        format!("-I OUTPUT {portals} -j KUBE-SERVICES"),
        format!("-I PREROUTING {portals} -j KUBE-SERVICES"),
        "-I POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING".to_owned(),
        "COMMIT\n".to_owned(),
    ];
    text += &lines.join("\n");
    text
}

/// The rules for `services` on one node, of the family of `pod_network` (kube-proxy's `--cluster-cidr`).
///
/// `previous` are the [`Rules::chains`] of the text that is installed now: those that no service
/// needs any more are emptied and deleted.
#[must_use]
pub fn rules(services: &[Service], pod_network: IpNet, previous: &[String]) -> Rules {
    let mut writer = Writer {
        pod_network,
        chains: BTreeSet::new(),
        nat: Vec::new(),
        filter: Vec::new(),
    };
    writer.common();
    for service in services
        .iter()
        .filter(|service| is_family(service.cluster_ip, pod_network))
    {
        for port in &service.ports {
            writer.port(service, port);
        }
    }
    // The loopback restriction is kube-proxy's: nothing can be translated from ::1.
    let local = if matches!(pod_network, IpNet::V6(_)) {
        "! -d ::1/128 "
    } else {
        ""
    };
    writer.nat.push(format!(
        "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last \
         rule in this chain\" -m addrtype --dst-type LOCAL {local}-j KUBE-NODEPORTS"
    ));
    writer.finish(previous)
}

struct Writer {
    pod_network: IpNet,
    chains: BTreeSet<String>,
    nat: Vec<String>,
    filter: Vec<String>,
}

impl Writer {
    fn common(&mut self) {
        let masquerade = "kubernetes service traffic requiring SNAT";
        self.nat.extend([
            "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN".to_owned(),
            // The mark goes before the packet leaves: an encapsulated copy must not be masqueraded again.
            "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000".to_owned(),
            format!("-A KUBE-POSTROUTING -m comment --comment \"{masquerade}\" -j MASQUERADE --random-fully"),
            "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000".to_owned(),
        ]);
        let forward = "-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding";
        self.filter.extend([
            "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP".to_owned(),
            format!("{forward} rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT"),
            format!("{forward} conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
        ]);
    }

    fn port(&mut self, service: &Service, port: &ServicePort) {
        let names = Names::new(service, port);
        let endpoints: Vec<(SocketAddr, bool)> = port
            .endpoints
            .iter()
            .copied()
            .filter(|(at, _)| is_family(at.ip(), self.pod_network))
            .collect();
        let here: Vec<SocketAddr> = endpoints
            .iter()
            .filter(|(_, local)| *local)
            .map(|(at, _)| *at)
            .collect();
        let all: Vec<SocketAddr> = endpoints.iter().map(|(at, _)| *at).collect();
        let to_vip = format!(
            "-m {0} -p {0} -d {1} --dport {2}",
            port.protocol, service.cluster_ip, port.port
        );
        let (label, svc) = (&names.label, &names.service);

        if all.is_empty() {
            let comment = format!("-m comment --comment \"{label} has no endpoints\"");
            self.filter
                .push(format!("-A KUBE-SERVICES {comment} {to_vip} -j REJECT"));
        } else {
            let comment = format!("-m comment --comment \"{label} cluster IP\"");
            self.nat
                .push(format!("-A KUBE-SERVICES {comment} {to_vip} -j {svc}"));
            self.nat.push(format!(
                "-A {svc} {comment} {to_vip} ! -s {} -j KUBE-MARK-MASQ",
                self.pod_network
            ));
            self.balance(svc, &names, &all);
            self.endpoints(&names, port, &all);
        }
        if let Some(node_port) = port.node_port {
            self.node_port(service, port, &names, node_port, (&all, &here));
        }
    }

    fn node_port(
        &mut self,
        service: &Service,
        port: &ServicePort,
        names: &Names,
        node_port: u16,
        (all, here): (&[SocketAddr], &[SocketAddr]),
    ) {
        let to_port = format!("-m {0} -p {0} --dport {node_port}", port.protocol);
        let (label, external, svc) = (&names.label, &names.external, &names.service);
        let missing = match (all.is_empty(), service.external_local && here.is_empty()) {
            (true, _) => Some(("no endpoints", "REJECT")),
            (false, true) => Some(("no local endpoints", "DROP")),
            (false, false) => None,
        };
        if let Some((what, verdict)) = missing {
            self.filter.push(format!(
                "-A KUBE-EXTERNAL-SERVICES -m comment --comment \"{label} has {what}\" \
                 -m addrtype --dst-type LOCAL {to_port} -j {verdict}"
            ));
        }
        if all.is_empty() {
            return;
        }
        let comment = |what: &str| format!("-m comment --comment \"{what}{label} external destinations\"");
        self.nat.push(format!(
            "-A KUBE-NODEPORTS -m comment --comment \"{label}\" {to_port} -j {external}"
        ));
        self.chains.insert(external.clone());
        if !service.external_local {
            let comment = comment("masquerade traffic for ");
            self.nat
                .push(format!("-A {external} {comment} -j KUBE-MARK-MASQ"));
            self.nat.push(format!("-A {external} -j {svc}"));
            return;
        }
        // Pods and the node itself may use every endpoint; only strangers are kept on this node.
        let pods = comment("pod traffic for ");
        let masquerade = comment("masquerade LOCAL traffic for ");
        let route = comment("route LOCAL traffic for ");
        self.nat.extend([
            format!("-A {external} {pods} -s {} -j {svc}", self.pod_network),
            format!("-A {external} {masquerade} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ"),
            format!("-A {external} {route} -m addrtype --src-type LOCAL -j {svc}"),
        ]);
        if !here.is_empty() {
            self.nat.push(format!("-A {external} -j {}", names.local));
            self.balance(&names.local, names, here);
        }
    }

    /// One jump for each endpoint, each as likely as the others.
    fn balance(&mut self, chain: &str, names: &Names, endpoints: &[SocketAddr]) {
        self.chains.insert(chain.to_owned());
        for (index, endpoint) in endpoints.iter().enumerate() {
            let left = endpoints.len() - index;
            let odds = match left {
                1 => String::new(),
                #[expect(clippy::cast_precision_loss, reason = "there are not 2^52 endpoints")]
                left => format!(
                    " -m statistic --mode random --probability {:.10}",
                    1.0 / left as f64
                ),
            };
            self.nat.push(format!(
                "-A {chain} -m comment --comment \"{} -> {endpoint}\"{odds} -j {}",
                names.label,
                names.endpoint(*endpoint)
            ));
        }
    }

    fn endpoints(&mut self, names: &Names, port: &ServicePort, endpoints: &[SocketAddr]) {
        for endpoint in endpoints {
            let chain = names.endpoint(*endpoint);
            let comment = format!("-m comment --comment \"{}\"", names.label);
            if !self.chains.insert(chain.clone()) {
                continue;
            }
            // A pod that reaches itself through the Service must see the answer come from elsewhere.
            self.nat.push(format!(
                "-A {chain} {comment} -s {} -j KUBE-MARK-MASQ",
                endpoint.ip()
            ));
            self.nat.push(format!(
                "-A {chain} {comment} -m {0} -p {0} -j DNAT --to-destination {endpoint}",
                port.protocol
            ));
        }
    }

    fn finish(self, previous: &[String]) -> Rules {
        let stale: BTreeSet<&String> = previous
            .iter()
            .filter(|name| !self.chains.contains(*name))
            .collect();
        let mut text = "*filter\n".to_owned();
        declare(&mut text, &FILTER);
        text += &self.filter.join("\n");
        text += "\nCOMMIT\n*nat\n";
        declare(&mut text, &NAT);
        declare(
            &mut text,
            &self
                .chains
                .iter()
                .chain(stale.iter().copied())
                .collect::<Vec<_>>(),
        );
        text += &self.nat.join("\n");
        text += "\n";
        for chain in stale {
            append(&mut text, format_args!("-X {chain}\n"));
        }
        text += "COMMIT\n";
        Rules {
            text,
            chains: self.chains.into_iter().collect(),
        }
    }
}

/// The names of one service port.
struct Names {
    label: String,
    protocol: String,
    service: String,
    local: String,
    external: String,
}

impl Names {
    fn new(service: &Service, port: &ServicePort) -> Self {
        let colon = if port.name.is_empty() { "" } else { ":" };
        let label = format!("{}/{}{colon}{}", service.namespace, service.name, port.name);
        let protocol = port.protocol.clone();
        Self {
            service: names::service(Kind::Service, &label, &protocol),
            local: names::service(Kind::Local, &label, &protocol),
            external: names::service(Kind::External, &label, &protocol),
            label,
            protocol,
        }
    }

    fn endpoint(&self, endpoint: SocketAddr) -> String {
        names::endpoint(&self.label, &self.protocol, endpoint)
    }
}

/// A chain line creates the chain, or empties it where it is already there.
fn declare(text: &mut String, chains: &[impl AsRef<str>]) {
    for chain in chains {
        append(text, format_args!(":{} - [0:0]\n", chain.as_ref()));
    }
}

fn append(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let written = text.write_fmt(line);
    debug_assert!(written.is_ok());
}

fn is_family(address: IpAddr, network: IpNet) -> bool {
    address.is_ipv4() == matches!(network, IpNet::V4(_))
}
