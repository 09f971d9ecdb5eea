//! `SRC` and `DST[:PORT[/PROTO]]` on the command line.

use std::net::IpAddr;

use vethwall_common::protocol::{TCP, has_ports};

use crate::{
    api::{ExplainRequest, Peer, explain::protocol_number},
    manifests,
};

/// What `DST[:PORT[/PROTO]]` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) peer: Peer,
    /// IP protocol number.
    pub(super) protocol: u8,
    pub(super) port: Option<u16>,
}

/// `NS/POD` or an address.
pub(super) fn peer(text: &str) -> Result<Peer, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(Peer::Address {
            address: address.to_canonical(),
        });
    }
    match text.split('/').collect::<Vec<_>>()[..] {
        [namespace, name] if is_name(namespace) && is_name(name) => Ok(Peer::Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }),
        [_, "svc" | "service", _] => Err(
            "policy acts on the pods behind a Service, not on the Service: name one of them, NS/POD, and its own port"
                .to_owned(),
        ),
        [name] if is_name(name) => Err(format!("in which namespace? Say NAMESPACE/{name}")),
        _ => Err("neither NAMESPACE/POD nor an IP address".to_owned()),
    }
}

/// `DST`, `DST:PORT`, `DST:PORT/PROTO`, `DST:PROTO` or, for a protocol by its number, `DST:/PROTO`; IPv6 with any of
/// these in brackets.
pub(super) fn destination(text: &str) -> Result<Destination, String> {
    let (dst, rest) = if let Some(inner) = text.strip_prefix('[') {
        let (address, rest) = inner
            .split_once(']')
            .ok_or("the bracket is not closed; an IPv6 address with a port is written [ADDRESS]:PORT")?;
        match rest.strip_prefix(':') {
            Some(rest) => (address, Some(rest)),
            None if rest.is_empty() => (address, None),
            None => {
                return Err(format!(
                    "{rest:?} after the address; a port is written [ADDRESS]:PORT"
                ));
            }
        }
    } else if text.parse::<IpAddr>().is_ok() {
        (text, None)
    } else {
        match text.split_once(':') {
            Some((dst, rest)) if !rest.contains(':') => (dst, Some(rest)),
            Some(_) => {
                return Err(
                    "too many colons; an IPv6 address with a port is written [ADDRESS]:PORT".to_owned(),
                );
            }
            None => (text, None),
        }
    };
    let peer = peer(dst)?;
    let (port, protocol) = match rest {
        None => (None, TCP),
        Some(rest) => match rest.split_once('/') {
            Some(("", protocol)) => (None, named(protocol)?),
            Some((port, protocol)) => (Some(port_number(port)?), named(protocol)?),
            None => match rest.starts_with(|c: char| c.is_ascii_digit()) {
                // A number is a port; a protocol's name may begin with a digit.
                true if rest.parse::<u64>().is_ok() || protocol_number(rest).is_none() => {
                    (Some(port_number(rest)?), TCP)
                }
                true | false => (None, named(rest)?),
            },
        },
    };
    if port.is_some() && !has_ports(protocol) {
        return Err("only TCP, UDP and SCTP have ports; without one write DST:ICMP or DST:/47".to_owned());
    }
    Ok(Destination { peer, protocol, port })
}

/// `4` or `6`.
pub(super) fn family(text: &str) -> Result<u8, String> {
    match text {
        "4" => Ok(4),
        "6" => Ok(6),
        _ => Err("4 or 6".to_owned()),
    }
}

/// Nothing is ever sent between two families.
pub(super) fn check_families(request: &ExplainRequest) -> Result<(), String> {
    let of = |peer: &Peer| match peer {
        Peer::Address { address } => Some(if address.to_canonical().is_ipv4() { 4 } else { 6 }),
        Peer::Pod { .. } => None,
    };
    let (from, to) = (of(&request.source), of(&request.destination));
    match (from, to, request.family) {
        (Some(from), Some(to), _) if from != to => Err(format!(
            "an IPv{from} address sends nothing to an IPv{to} address: {} and {} are of two families",
            request.source, request.destination
        )),
        (Some(own), _, Some(family)) if own != family => {
            Err(format!("{} is no IPv{family} address", request.source))
        }
        (_, Some(own), Some(family)) if own != family => {
            Err(format!("{} is no IPv{family} address", request.destination))
        }
        _ => Ok(()),
    }
}

fn port_number(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        Ok(_) | Err(_) => Err(format!("{text:?} is not a port number, 1 to 65535")),
    }
}

fn named(text: &str) -> Result<u8, String> {
    protocol_number(text).ok_or_else(|| not_a_protocol(text))
}

/// What to say of a name that no protocol has.
pub(super) fn not_a_protocol(text: &str) -> String {
    let hint = match manifests::close(text, &["TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "GRE", "ESP"]) {
        Some(name) if !text.is_empty() => format!("did you mean {name}?"),
        Some(_) | None => "say TCP, UDP, SCTP, ICMP, another one's name or its number, 0 to 255".to_owned(),
    };
    format!("{text:?} is not a protocol; {hint}")
}

/// Could be a name in Kubernetes; who has it is for others to say.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, name: &str) -> Peer {
        Peer::Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn address(text: &str) -> Peer {
        Peer::Address {
            address: text.parse().unwrap(),
        }
    }

    #[test]
    fn all_the_ways_to_write_a_destination() {
        for (text, peer, protocol, port) in [
            ("shop/db", pod("shop", "db"), 6, None),
            ("shop/db:5432", pod("shop", "db"), 6, Some(5432)),
            ("shop/db:53/UDP", pod("shop", "db"), 17, Some(53)),
            ("shop/db:53/udp", pod("shop", "db"), 17, Some(53)),
            ("shop/db:7/sctp", pod("shop", "db"), 132, Some(7)),
            ("shop/db:icmp", pod("shop", "db"), 1, None),
            ("10.42.0.9", address("10.42.0.9"), 6, None),
            ("10.42.0.9:80", address("10.42.0.9"), 6, Some(80)),
            ("10.42.0.9:80/tcp", address("10.42.0.9"), 6, Some(80)),
            ("::ffff:10.42.0.9", address("10.42.0.9"), 6, None),
            ("2001:db8::1", address("2001:db8::1"), 6, None),
            ("[2001:db8::1]", address("2001:db8::1"), 6, None),
            ("[2001:db8::1]:443", address("2001:db8::1"), 6, Some(443)),
            ("[2001:db8::1]:53/UDP", address("2001:db8::1"), 17, Some(53)),
            ("[2001:db8::1]:ICMPv6", address("2001:db8::1"), 58, None),
            ("shop/db:gre", pod("shop", "db"), 47, None),
            ("shop/db:/47", pod("shop", "db"), 47, None),
            ("shop/db:47", pod("shop", "db"), 6, Some(47)),
            ("shop/db:/udp", pod("shop", "db"), 17, None),
            ("shop/db:3pc", pod("shop", "db"), 34, None),
            ("shop/db:80/6", pod("shop", "db"), 6, Some(80)),
            ("[2001:db8::1]:/50", address("2001:db8::1"), 50, None),
        ] {
            let expected = Destination { peer, protocol, port };
            assert_eq!(destination(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("", "neither"),
            ("db", "in which namespace? Say NAMESPACE/db"),
            ("db:80", "NAMESPACE/db"),
            ("shop/db/x", "neither"),
            ("shop/svc/db:80", "behind a Service"),
            ("shop/db:", "not a protocol"),
            ("shop/db:0", "not a port number"),
            ("shop/db:65536", "not a port number"),
            ("shop/db:80/", "not a protocol"),
            ("shop/db:80/QUIC", "not a protocol"),
            ("shop/db:80/icmp", "only TCP, UDP and SCTP"),
            ("shop/db:80/47", "only TCP, UDP and SCTP"),
            ("shop/db:/256", "not a protocol"),
            ("shop/db:/", "say TCP, UDP"),
            ("shop/db:80/tpc", "did you mean TCP?"),
            ("shop/db:-1", "not a protocol"),
            ("shop/db:80:90", "too many colons"),
            ("[2001:db8::1", "not closed"),
            ("[2001:db8::1]80", "after the address"),
            ("[shop/db]:80x", "not a port number"),
            ("10.42.0.999:80", "in which namespace"),
            ("Shop/db", "neither"),
            ("shop/\u{1b}[31m", "neither"),
        ] {
            let error = destination(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_source_has_no_port() {
        assert_eq!(peer("shop/web"), Ok(pod("shop", "web")));
        assert_eq!(peer("[2001:db8::1]"), Ok(address("2001:db8::1")));
        assert!(peer("shop/web:80").is_err());
        assert!(peer("10.0.0.1:80").is_err());
    }
}
