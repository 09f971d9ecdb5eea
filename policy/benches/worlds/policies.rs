//! The policies of made-up clusters.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use vethwall_common::protocol::{TCP, UDP};
use vethwall_policy::model::{
    ClusterNetworkPolicy, ClusterRule, Mode, NetworkPolicy, Object, Peer, Peers, PortMatch, Ports, Rule,
    RuleAction, Selector, Tier,
};

use super::{APPS, Change, Event, SHARED, TEAMS, namespace_name};

/// Two or three policies a namespace: what isolates it, and what its applications may do.
pub(super) fn usual(namespaces: usize, policies: usize) -> Vec<NetworkPolicy> {
    let teams = SHARED.len()..namespaces;
    let more = policies.saturating_sub(2 * teams.len());
    let first = teams.clone().map(isolation);
    let second = teams.clone().map(|i| usual_of(i, i / 4));
    let third = (0..more).map(|j| {
        let i = SHARED.len() + (2 * j + j / teams.len()) % teams.len();
        usual_of(i, i / 4 + 4)
    });
    first.chain(second).chain(third).collect()
}

/// Every port of 50, for the pods of all namespaces.
pub(super) fn adversarial(namespaces: usize, policies: usize) -> Vec<NetworkPolicy> {
    let all = (0..policies).map(|i| {
        let rules = (0..50).map(|port| rule(vec![within(&[], &[])], vec![tcp(8_000 + 7 * port)]));
        NetworkPolicy {
            ingress: Some(rules.collect()),
            ..policy(i % namespaces, "fifty", &[])
        }
    });
    all.collect()
}

/// One more port in the policy of this namespace that lets somebody in, or the only one.
pub(super) fn edited(policies: &[NetworkPolicy], namespace: &str) -> Change {
    let lets_in = |policy: &&NetworkPolicy| {
        policy.namespace == namespace && policy.ingress.as_ref().is_some_and(|rules| !rules.is_empty())
    };
    let before = policies.iter().find(lets_in).unwrap_or(&policies[0]);
    let mut there = before.clone();
    if let Some(rule) = there.ingress.as_mut().and_then(|rules| rules.first_mut())
        && let Ports::Some(ports) = &mut rule.ports
    {
        ports.push(tcp(8_443));
    }
    Change {
        name: "policy edited",
        there: Event::Apply(Object::NetworkPolicy(there)),
        back: Event::Apply(Object::NetworkPolicy(before.clone())),
    }
}

/// Nobody comes in; out only for names.
fn isolation(namespace: usize) -> NetworkPolicy {
    let dns = Peer::Pods {
        namespaces: Some(named(SHARED[0])),
        pods: Selector::labels([("k8s-app", "kube-dns")]),
    };
    let port = |protocol| PortMatch::Range {
        protocol,
        first: 53,
        last: 53,
    };
    NetworkPolicy {
        ingress: Some(Vec::new()),
        egress: Some(vec![rule(vec![dns], vec![port(UDP), port(TCP)])]),
        ..policy(namespace, "default", &[])
    }
}

/// One of the policies that people write, for the namespace's first application.
fn usual_of(namespace: usize, kind: usize) -> NetworkPolicy {
    let (app, _) = APPS[namespace % APPS.len()];
    let partner = named(&namespace_name(SHARED.len() + (7 * namespace + kind) % TEAMS));
    let partner = |app| Peer::Pods {
        namespaces: Some(partner.clone()),
        pods: Selector::labels([("app", app)]),
    };
    let name = format!("{app}-{kind}");
    let subject = policy(namespace, &name, &[("app", app)]);
    match kind % 8 {
        0 | 7 => NetworkPolicy {
            ingress: Some(vec![
                rule(
                    vec![own(&[("tier", "backend")])],
                    vec![named_port("http"), tcp(5432)],
                ),
                rule(vec![partner("web"), partner("worker")], vec![named_port("http")]),
            ]),
            ..subject
        },
        1 | 3 => NetworkPolicy {
            ingress: Some(vec![
                rule(
                    vec![own(&[("tier", "frontend")])],
                    vec![named_port("http"), tcp(8081)],
                ),
                rule(
                    vec![within(&[("kubernetes.io/metadata.name", SHARED[2])], &[])],
                    vec![tcp(8080)],
                ),
            ]),
            ..subject
        },
        2 | 5 => NetworkPolicy {
            egress: Some(vec![
                rule(vec![own(&[("tier", "db")])], vec![named_port("postgres")]),
                rule(vec![partner("api")], vec![tcp(8080), tcp(8443)]),
                rule(
                    vec![
                        block(
                            "0.0.0.0",
                            0,
                            &[("10.0.0.0", 8), ("172.16.0.0", 12), ("192.168.0.0", 16)],
                        ),
                        block("::", 0, &[("fc00::", 7)]),
                    ],
                    vec![tcp(443)],
                ),
                rule(vec![office(namespace)], vec![tcp(8443)]),
            ]),
            ..subject
        },
        4 => NetworkPolicy {
            ingress: Some(vec![rule(
                vec![within(&[("env", "prod")], &[])],
                vec![named_port("http")],
            )]),
            ..subject
        },
        _ => NetworkPolicy {
            ingress: Some(vec![
                rule(
                    vec![within(&[], &[("app", "prometheus")])],
                    vec![named_port("metrics")],
                ),
                rule(vec![own(&[])], Vec::new()),
            ]),
            ..subject
        },
    }
}

/// Ten, of both tiers, with every action.
pub(super) fn cluster() -> Vec<ClusterNetworkPolicy> {
    let everybody = || Selector::everything();
    let env = |environment| Selector::labels([("env", environment)]);
    let of = |namespaces| Peer::Pods {
        namespaces: Some(namespaces),
        pods: Selector::everything(),
    };
    let (accept, deny, pass) = (RuleAction::Accept, RuleAction::Deny, RuleAction::Pass);
    let (admin, baseline) = (Tier::Admin, Tier::Baseline);
    let any = Vec::new;
    vec![
        egress(
            admin,
            10,
            everybody(),
            acts(accept, of(named(SHARED[0])), vec![tcp(53), udp(53)]),
        ),
        ingress(
            admin,
            20,
            everybody(),
            acts(accept, of(named(SHARED[1])), vec![tcp(9090)]),
        ),
        egress(
            admin,
            30,
            everybody(),
            acts(deny, block("169.254.169.254", 32, &[]), any()),
        ),
        ingress(admin, 40, env("prod"), acts(deny, of(env("dev")), any())),
        egress(admin, 41, env("dev"), acts(deny, of(env("prod")), any())),
        ingress(admin, 50, everybody(), acts(pass, of(named(SHARED[2])), any())),
        egress(
            admin,
            60,
            everybody(),
            acts(deny, Peer::Nodes(everybody()), vec![tcp(10_250), tcp(10_255)]),
        ),
        egress(
            admin,
            70,
            everybody(),
            acts(deny, block("0.0.0.0", 0, &[]), vec![tcp(25)]),
        ),
        ingress(baseline, 10, env("prod"), acts(accept, of(env("prod")), any())),
        ingress(baseline, 100, everybody(), acts(deny, of(everybody()), any())),
    ]
}

fn ingress(tier: Tier, priority: u16, subject: Selector, rule: ClusterRule) -> ClusterNetworkPolicy {
    ClusterNetworkPolicy {
        name: format!("{tier:?}-{priority}").to_lowercase(),
        tier,
        priority,
        namespaces: subject,
        pods: Selector::everything(),
        ingress: vec![rule],
        egress: Vec::new(),
        mode: Some(Mode::Enforce),
    }
}

fn egress(tier: Tier, priority: u16, subject: Selector, rule: ClusterRule) -> ClusterNetworkPolicy {
    let policy = ingress(tier, priority, subject, rule);
    ClusterNetworkPolicy {
        egress: policy.ingress,
        ingress: Vec::new(),
        ..policy
    }
}

fn acts(action: RuleAction, peer: Peer, ports: Vec<PortMatch>) -> ClusterRule {
    ClusterRule {
        name: None,
        action,
        peers: Peers::Some(vec![peer]),
        ports: some(ports),
    }
}

fn policy(namespace: usize, name: &str, pods: &[(&str, &str)]) -> NetworkPolicy {
    NetworkPolicy {
        namespace: namespace_name(namespace),
        name: name.to_owned(),
        pod_selector: Selector::labels(pods.iter().copied()),
        ingress: None,
        egress: None,
        mode: Some(Mode::Enforce),
    }
}

fn rule(peers: Vec<Peer>, ports: Vec<PortMatch>) -> Rule {
    Rule {
        peers: Peers::Some(peers),
        ports: some(ports),
    }
}

fn some(ports: Vec<PortMatch>) -> Ports {
    if ports.is_empty() {
        Ports::All
    } else {
        Ports::Some(ports)
    }
}

fn named(namespace: &str) -> Selector {
    Selector::labels([("kubernetes.io/metadata.name", namespace)])
}

fn own(pods: &[(&str, &str)]) -> Peer {
    Peer::Pods {
        namespaces: None,
        pods: Selector::labels(pods.iter().copied()),
    }
}

fn within(namespaces: &[(&str, &str)], pods: &[(&str, &str)]) -> Peer {
    Peer::Pods {
        namespaces: Some(Selector::labels(namespaces.iter().copied())),
        pods: Selector::labels(pods.iter().copied()),
    }
}

fn block(address: &str, length: u8, except: &[(&str, u8)]) -> Peer {
    Peer::Block {
        cidr: net(address, length),
        except: except
            .iter()
            .map(|(address, length)| net(address, *length))
            .collect(),
    }
}

/// A single host outside, another one for each namespace.
fn office(namespace: usize) -> Peer {
    let last = u8::try_from(namespace % 250).unwrap_or(0);
    Peer::Block {
        cidr: IpNet::from(IpAddr::V4(Ipv4Addr::new(203, 0, 113, last))),
        except: Vec::new(),
    }
}

fn net(address: &str, length: u8) -> IpNet {
    match address.parse::<IpAddr>() {
        Ok(address) => IpNet::new_assert(address, length),
        Err(error) => unreachable!("{address}: {error}"),
    }
}

fn tcp(port: u16) -> PortMatch {
    PortMatch::Range {
        protocol: TCP,
        first: port,
        last: port,
    }
}

fn udp(port: u16) -> PortMatch {
    PortMatch::Range {
        protocol: UDP,
        first: port,
        last: port,
    }
}

fn named_port(name: &str) -> PortMatch {
    PortMatch::Named {
        protocol: TCP,
        name: name.to_owned(),
    }
}
