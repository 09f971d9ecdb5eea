//! Entries of ports: numbers, ranges, names and protocols.

use super::{
    Lint, codes,
    policy::{Direction, Policy, Port, Ports},
    spot::Spot,
};

/// Services that are asked over UDP.
const OVER_UDP: &[(i64, &str)] = &[
    (53, "DNS"),
    (67, "DHCP"),
    (68, "DHCP"),
    (69, "TFTP"),
    (123, "NTP"),
    (161, "SNMP"),
    (162, "SNMP traps"),
    (500, "IKE"),
    (1194, "OpenVPN"),
    (1812, "RADIUS"),
    (1813, "RADIUS"),
    (4500, "IPsec"),
    (4789, "VXLAN"),
    (5353, "mDNS"),
    (6081, "Geneve"),
    (8472, "VXLAN"),
    (51820, "WireGuard"),
];

/// Names of ports that are asked over UDP.
const NAMED_OVER_UDP: &[(&str, &str)] = &[("dns", "DNS"), ("ntp", "NTP"), ("snmp", "SNMP")];

pub(super) fn check(lint: &mut Lint<'_>, policy: &Policy<'_>) {
    for (direction, rule) in policy.rules() {
        for port in &rule.ports {
            if policy.cluster.is_some() {
                cluster_port(lint, policy, port);
            } else {
                protocol(lint, policy, direction, port);
                number(lint, policy, port);
                end(lint, policy, port);
            }
        }
    }
}

/// A protocol that is missing or none.
fn protocol(lint: &mut Lint<'_>, policy: &Policy<'_>, direction: &Direction<'_>, port: &Port<'_>) {
    if let Some(at) = port.spot.get("protocol") {
        let text = at.text().unwrap_or_default();
        if port.protocol.is_none() {
            let upper = text.to_ascii_uppercase();
            let fix = if matches!(upper.as_str(), "TCP" | "UDP" | "SCTP") {
                format!("write {upper}, in capitals")
            } else {
                "write TCP, UDP or SCTP; ICMP and others are allowed only by a rule without ports".to_owned()
            };
            let message = format!(
                "{text:?} is no protocol of a policy: this entry matches nothing, and the pods stay isolated"
            );
            lint.find(policy.object, codes::BAD_PROTOCOL, &at, message, fix);
        }
        return;
    }
    let (at, service) = match &port.ports {
        Ports::Range(at, first, last) if first == last => (
            at,
            OVER_UDP
                .iter()
                .find(|(number, _)| number == first)
                .map(|(_, name)| *name),
        ),
        Ports::Named(at, name) => (
            at,
            NAMED_OVER_UDP
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, service)| *service),
        ),
        Ports::Range(..) | Ports::All | Ports::Wrong => return,
    };
    let Some(service) = service else { return };
    // Beside the same port over UDP it is the TCP half, and meant.
    let over_udp = |other: &Port<'_>| {
        other.protocol == Some("UDP")
            && match (&other.ports, &port.ports) {
                (Ports::All, _) => true,
                (Ports::Range(_, first, last), Ports::Range(_, number, _)) => {
                    (first..=last).contains(&number)
                }
                (Ports::Named(_, one), Ports::Named(_, other)) => one == other,
                _ => false,
            }
    };
    if direction.rules.iter().flat_map(|rule| &rule.ports).any(over_udp) {
        return;
    }
    let message = format!(
        "without protocol it is TCP {}, and {service} is asked over UDP: it stays denied",
        at.text().unwrap_or_default()
    );
    let fix = if service == "DNS" {
        "write it twice: once with protocol: UDP, once with protocol: TCP"
    } else {
        "add protocol: UDP"
    };
    lint.find(policy.object, codes::NO_PROTOCOL, at, message, fix);
}

/// A port's number or name.
fn number(lint: &mut Lint<'_>, policy: &Policy<'_>, port: &Port<'_>) {
    let Some(at) = port.spot.get("port") else { return };
    let text = at.text().unwrap_or_default();
    if let Some(number) = at.number() {
        in_range(lint, policy, &at, number);
    } else if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        let message = format!(
            "{text:?} in quotes is the name of a port, and no name has only digits: it matches nothing"
        );
        lint.find(
            policy.object,
            codes::QUOTED,
            &at,
            message,
            format!("write {text} without quotes"),
        );
    } else if !is_port_name(text) && !text.is_empty() {
        let fix = match text.split_once('-') {
            Some((first, last)) if [first, last].iter().all(|part| part.parse::<u16>().is_ok()) => {
                format!("write port: {first} and endPort: {last}")
            }
            _ if text.contains(',') => "write one entry for each port".to_owned(),
            _ => "write a name of at most 15 small letters, digits and dashes, as the container has it, or a number".to_owned(),
        };
        let message = format!("{text:?} is no name that a port can have: it matches nothing");
        lint.find(policy.object, codes::BAD_PORT_NAME, &at, message, fix);
    }
}

/// The last port of a range.
fn end(lint: &mut Lint<'_>, policy: &Policy<'_>, port: &Port<'_>) {
    let Some(at) = port.spot.get("endPort") else {
        return;
    };
    let Some(port) = port.spot.get("port") else {
        lint.find(
            policy.object,
            codes::BAD_END,
            &at,
            "an endPort without port is refused, and matches nothing",
            "add port: with the first port of the range",
        );
        return;
    };
    let Some(first) = port.number() else {
        let message = format!(
            "a range can not start at the name {:?}: it is refused, and matches nothing",
            port.text().unwrap_or_default()
        );
        lint.find(
            policy.object,
            codes::BAD_END,
            &at,
            message,
            "write the first port as a number, or remove endPort",
        );
        return;
    };
    let Some(last) = at.number() else { return };
    if in_range(lint, policy, &at, last) && last < first {
        let message =
            format!("the range from {first} to {last} runs backwards: it is refused, and matches nothing");
        lint.find(
            policy.object,
            codes::BACKWARDS,
            &at,
            message,
            format!("write port: {last} and endPort: {first}, or the range that is meant"),
        );
    }
}

/// An entry of a ClusterNetworkPolicy.
fn cluster_port(lint: &mut Lint<'_>, policy: &Policy<'_>, port: &Port<'_>) {
    let Ports::Range(at, first, last) = &port.ports else {
        if let Ports::Named(at, name) = &port.ports
            && !is_port_name(name)
        {
            let message = format!("{name:?} is no name that a port can have: it matches no pod");
            lint.find(
                policy.object,
                codes::BAD_PORT_NAME,
                at,
                message,
                "write the name as the container has it",
            );
        }
        return;
    };
    let is_range = at.name() == "start";
    if in_range(lint, policy, at, *first) && is_range && (*last > 65535 || last <= first) {
        let message =
            format!("the range from {first} to {last} does not run forwards to at most 65535: it is refused");
        lint.find(
            policy.object,
            codes::BACKWARDS,
            at,
            message,
            "write a start that is smaller than the end; for one port write number",
        );
    }
}

fn in_range(lint: &mut Lint<'_>, policy: &Policy<'_>, at: &Spot<'_>, number: i64) -> bool {
    let good = (1..=65535).contains(&number);
    if !good {
        let message = format!("{number} is no port: the API server refuses it, and it matches nothing");
        let fix = if number == 0 {
            "leave port out for every port of the protocol"
        } else {
            "write a number from 1 to 65535"
        };
        lint.find(policy.object, codes::BAD_PORT, at, message, fix);
    }
    good
}

/// At most 15 small letters, digits and single dashes within, one letter at least.
fn is_port_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}
