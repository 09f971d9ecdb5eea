//! Services, as kube-proxy's iptables mode writes them.
//!
//! ```text
//! KUBE-SERVICES ─ cluster IP ─► KUBE-SVC-x ─ random ─► KUBE-SEP-y ─► DNAT to a pod
//!               └ local address ─► KUBE-NODEPORTS ─► KUBE-EXT-x ─ mark 0x4000 ─► KUBE-SVC-x
//! KUBE-POSTROUTING: what is marked is masqueraded
//! ```
//!
//! Pure: objects in, text for `iptables-restore --noflush` out. Chains that the last text had and this one has not are
//! emptied and deleted, so that the rules are a function of the present state.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use sha2::{Digest as _, Sha256};

use super::{
    flannel::{NETWORK4, NETWORK6},
    state::{Pod, Service, ServicePort, State},
};

/// A pod behind a Service's port.
#[derive(Clone, Debug, PartialEq)]
struct Backend {
    address: IpAddr,
    port: u16,
    local: bool,
}

/// The chain of something, named as kube-proxy does: by a hash.
fn chain(prefix: &str, parts: &[&str]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let hash = Sha256::digest(parts.concat().as_bytes());
    let bits = hash
        .iter()
        .take(10)
        .fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
    let name: String = (0..16)
        .rev()
        .map(|place| char::from(ALPHABET[usize::try_from(bits >> (5 * place) & 31).unwrap_or(0)]))
        .collect();
    format!("{prefix}{name}")
}

/// Pods that a selector selects and that answer.
pub(super) fn endpoints<'a>(state: &'a State, service: &'a Service) -> impl Iterator<Item = &'a Pod> {
    state.pods.values().filter(move |pod| {
        pod.namespace == service.namespace
            && pod.running()
            && service.selector.as_ref().is_some_and(|selector| {
                !selector.is_empty()
                    && selector
                        .iter()
                        .all(|(key, value)| pod.labels.get(key) == Some(value))
            })
    })
}

/// The port of a pod that a Service's port leads to.
pub(super) fn target(pod: &Pod, port: &ServicePort) -> Option<u16> {
    port.target.parse().ok().or_else(|| {
        let named = |candidate: &&super::state::Port| {
            candidate.name.as_deref() == Some(&port.target)
                && candidate.protocol.eq_ignore_ascii_case(&port.protocol)
        };
        pod.ports.iter().find(named).map(|found| found.port)
    })
}

/// All rules of a node for a family.
pub(super) fn rules(
    state: &State,
    node: &str,
    v6: bool,
    before: &BTreeSet<String>,
) -> (String, BTreeSet<String>) {
    let mut table = Table {
        network: if v6 { NETWORK6 } else { NETWORK4 },
        v6,
        ..Table::default()
    };
    for service in state.services.values() {
        for port in &service.ports {
            let backends: Vec<_> = endpoints(state, service)
                .filter_map(|pod| {
                    let address = pod.address(v6)?;
                    Some(Backend {
                        address,
                        port: target(pod, port)?,
                        local: pod.node == node,
                    })
                })
                .collect();
            table.service(service, port, &backends);
        }
    }
    table.text(before)
}

#[derive(Debug, Default)]
struct Table {
    network: &'static str,
    v6: bool,
    services: Vec<String>,
    node_ports: Vec<String>,
    chains: BTreeMap<String, Vec<String>>,
    rejects: Vec<String>,
    node_rejects: Vec<String>,
}

impl Table {
    fn service(&mut self, service: &Service, port: &ServicePort, backends: &[Backend]) {
        let name = if port.name.is_empty() {
            format!("{}/{}", service.namespace, service.name)
        } else {
            format!("{}/{}:{}", service.namespace, service.name, port.name)
        };
        let protocol = port.protocol.as_str();
        let note = |what: &str| format!("-m comment --comment \"{name}{what}\"");
        let local: Vec<_> = backends.iter().filter(|backend| backend.local).cloned().collect();
        let inside = if service.internal_local {
            &local[..]
        } else {
            backends
        };
        let addresses: Vec<_> = service
            .addresses
            .iter()
            .filter(|address| address.is_ipv6() == self.v6)
            .collect();
        let externals: Vec<_> = service
            .external_ips
            .iter()
            .filter(|address| address.is_ipv6() == self.v6)
            .collect();
        if addresses.is_empty() {
            return;
        }
        let svc = chain("KUBE-SVC-", &[&name, protocol]);
        let svl = chain("KUBE-SVL-", &[&name, protocol]);
        let ext = chain("KUBE-EXT-", &[&name, protocol]);
        let masq = "-j KUBE-MARK-MASQ";
        let mut svc_rules = Vec::new();
        let mut svl_rules = Vec::new();
        for address in addresses {
            let at = format!("-p {protocol} -m {protocol} -d {address} --dport {}", port.port);
            if inside.is_empty() {
                let why = if backends.is_empty() {
                    " has no endpoints"
                } else {
                    " has no local endpoints"
                };
                let (list, action) = if backends.is_empty() {
                    (&mut self.rejects, "REJECT")
                } else {
                    (&mut self.rejects, "DROP")
                };
                list.push(format!("{at} {} -j {action}", note(why)));
            } else {
                let to = if service.internal_local { &svl } else { &svc };
                self.services
                    .push(format!("{} {at} -j {to}", note(" cluster IP")));
                let rule = format!("! -s {} {at} {} {masq}", self.network, note(" cluster IP"));
                if service.internal_local {
                    svl_rules.push(rule)
                } else {
                    svc_rules.push(rule)
                }
            }
        }
        let mut external = false;
        let mut outer = externals
            .iter()
            .map(|address| {
                (
                    format!("-p {protocol} -m {protocol} -d {address} --dport {}", port.port),
                    false,
                )
            })
            .collect::<Vec<_>>();
        outer.extend(
            port.node_port
                .map(|number| (format!("-p {protocol} -m {protocol} --dport {number}"), true)),
        );
        for (at, node_port) in outer {
            let refused = backends.is_empty() || (service.external_local && local.is_empty());
            if refused {
                let action = if backends.is_empty() { "REJECT" } else { "DROP" };
                let kind = if node_port {
                    "-m addrtype --dst-type LOCAL "
                } else {
                    ""
                };
                self.node_rejects
                    .push(format!("{kind}{at} {} -j {action}", note(" has no endpoints")));
            }
            if !backends.is_empty() {
                external = true;
                let list = if node_port {
                    &mut self.node_ports
                } else {
                    &mut self.services
                };
                list.push(format!("{} {at} -j {ext}", note("")));
            }
        }
        if external {
            self.chains.insert(
                ext,
                external_rules(service, self.network, &name, &svc, &svl, !local.is_empty()),
            );
        }
        if !backends.is_empty() {
            svc_rules.extend(self.spread(service, &name, protocol, backends));
            self.chains.insert(svc, svc_rules);
            if (service.external_local || service.internal_local) && !local.is_empty() {
                svl_rules.extend(self.spread(service, &name, protocol, &local));
                self.chains.insert(svl, svl_rules);
            }
        }
    }

    /// One backend by chance, each as likely as the others.
    fn spread(&mut self, service: &Service, name: &str, protocol: &str, backends: &[Backend]) -> Vec<String> {
        let mut rules = Vec::new();
        let mut sticky = Vec::new();
        for (index, backend) in backends.iter().enumerate() {
            let to = match backend.address {
                IpAddr::V4(address) => format!("{address}:{}", backend.port),
                IpAddr::V6(address) => format!("[{address}]:{}", backend.port),
            };
            let sep = chain("KUBE-SEP-", &[name, protocol, &to]);
            let note = format!("-m comment --comment \"{name} -> {to}\"");
            let left = backends.len() - index;
            let chance = if left > 1 {
                format!(
                    " -m statistic --mode random --probability {:.10}",
                    1.0 / f64::from(u32::try_from(left).unwrap_or(1))
                )
            } else {
                String::new()
            };
            rules.push(format!("{note}{chance} -j {sep}"));
            let mut recent = String::new();
            if let Some(seconds) = service.sticky {
                sticky.push(format!(
                    "{note} -m recent --name {sep} --rcheck --seconds {seconds} --reap -j {sep}"
                ));
                recent = format!(" -m recent --name {sep} --set");
            }
            let note = format!("-m comment --comment \"{name}\"");
            self.chains.insert(
                sep,
                vec![
                    format!("{note} -s {} -j KUBE-MARK-MASQ", backend.address),
                    format!("{note}{recent} -p {protocol} -m {protocol} -j DNAT --to-destination {to}"),
                ],
            );
        }
        sticky.extend(rules);
        sticky
    }

    fn text(self, before: &BTreeSet<String>) -> (String, BTreeSet<String>) {
        let names: BTreeSet<String> = self.chains.keys().cloned().collect();
        let mut out = String::from("*filter\n");
        for fixed in ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD"] {
            out += &format!(":{fixed} - [0:0]\n");
        }
        for rule in &self.rejects {
            out += &format!("-A KUBE-SERVICES {rule}\n");
        }
        for rule in &self.node_rejects {
            out += &format!("-A KUBE-EXTERNAL-SERVICES {rule}\n");
        }
        out += "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
                -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
                -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
                COMMIT\n*nat\n";
        for fixed in [
            "KUBE-SERVICES",
            "KUBE-NODEPORTS",
            "KUBE-POSTROUTING",
            "KUBE-MARK-MASQ",
        ] {
            out += &format!(":{fixed} - [0:0]\n");
        }
        for name in names.union(before) {
            out += &format!(":{name} - [0:0]\n");
        }
        out += "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
                -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
                -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n\
                -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n";
        for rule in &self.services {
            out += &format!("-A KUBE-SERVICES {rule}\n");
        }
        for rule in &self.node_ports {
            out += &format!("-A KUBE-NODEPORTS {rule}\n");
        }
        for (name, rules) in &self.chains {
            for rule in rules {
                out += &format!("-A {name} {rule}\n");
            }
        }
        out += "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" \
                -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n";
        for name in before.difference(&names) {
            out += &format!("-X {name}\n");
        }
        out += "COMMIT\n";
        (out, names)
    }
}

fn external_rules(
    service: &Service,
    network: &str,
    name: &str,
    svc: &str,
    svl: &str,
    local: bool,
) -> Vec<String> {
    let note = |what: &str| format!("-m comment --comment \"{what} {name} external destinations\"");
    if !service.external_local {
        return vec![
            format!("{} -j KUBE-MARK-MASQ", note("masquerade traffic for")),
            format!("-j {svc}"),
        ];
    }
    let mut rules = vec![
        format!("-s {network} {} -j {svc}", note("pod traffic for")),
        format!(
            "-m addrtype --src-type LOCAL {} -j KUBE-MARK-MASQ",
            note("masquerade LOCAL traffic for")
        ),
        format!(
            "-m addrtype --src-type LOCAL {} -j {svc}",
            note("route LOCAL traffic for")
        ),
    ];
    if local {
        rules.push(format!("-j {svl}"));
    }
    rules
}

/// The jumps into kube-proxy's chains, before all other rules: once for a node and family, before the first [`rules`].
pub(super) fn hooks() -> &'static str {
    "*filter\n\
     :KUBE-SERVICES - [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\n:KUBE-FORWARD - [0:0]\n\
     -I INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES\n\
     -I FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES\n\
     -I FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
     -I FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
     -I OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
     COMMIT\n*nat\n\
     :KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
     -I PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
     -I OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
     -I POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
     COMMIT\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_named_as_kube_proxy_names_them() {
        let name = |name, protocol| chain("KUBE-SVC-", &[name, protocol]);
        assert_eq!(
            name("kube-system/kube-dns:dns-tcp", "tcp"),
            "KUBE-SVC-ERIFXISQEP7F7OF4"
        );
        assert_eq!(
            name("kube-system/kube-dns:dns", "udp"),
            "KUBE-SVC-TCOU7JCQXEZGVUNU"
        );
        assert_eq!(
            name("default/kubernetes:https", "tcp"),
            "KUBE-SVC-NPX46M4PTMTKRN6Y"
        );
    }

    fn state(pods: usize) -> State {
        let mut state = State::default();
        for index in 0..pods {
            let pod = Pod {
                namespace: "x".into(),
                name: format!("p{index}"),
                node: "n".into(),
                labels: [("app".to_owned(), "web".to_owned())].into(),
                addresses: vec![IpAddr::from([10, 244, 0, u8::try_from(index).unwrap() + 2])],
                ..Pod::default()
            };
            state.pods.insert(pod.key(), pod);
        }
        let service = Service {
            namespace: "x".into(),
            name: "web".into(),
            addresses: vec![IpAddr::from([10, 96, 0, 1])],
            selector: Some([("app".to_owned(), "web".to_owned())].into()),
            ports: vec![ServicePort {
                protocol: "tcp".into(),
                port: 80,
                target: "8080".into(),
                ..ServicePort::default()
            }],
            ..Service::default()
        };
        state.services.insert("x/web".into(), service);
        state
    }

    #[test]
    fn every_pod_behind_a_service_is_as_likely_as_the_others() {
        let (text, _) = rules(&state(3), "n", false, &BTreeSet::new());
        for chance in ["0.3333333333", "0.5000000000"] {
            assert_eq!(
                text.matches(&format!("--probability {chance}")).count(),
                1,
                "{text}"
            );
        }
        assert_eq!(
            text.matches("-j DNAT --to-destination 10.244.0.").count(),
            3,
            "{text}"
        );
        assert_eq!(
            text.matches("-s 10.244.0.3 -j KUBE-MARK-MASQ").count(),
            1,
            "a pod that reaches itself: {text}"
        );
    }

    #[test]
    fn a_service_without_pods_is_refused_and_its_chains_go() {
        let (_, before) = rules(&state(1), "n", false, &BTreeSet::new());
        assert_eq!(before.len(), 2);
        let (text, after) = rules(&state(0), "n", false, &before);
        assert!(after.is_empty());
        assert!(text.contains("has no endpoints\" -j REJECT"), "{text}");
        for chain in before {
            assert!(
                text.contains(&format!(":{chain} - [0:0]")) && text.contains(&format!("-X {chain}\n")),
                "{text}"
            );
        }
    }
}
