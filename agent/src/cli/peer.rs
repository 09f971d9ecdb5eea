//! `SRC` and `DST[:PORT[/PROTO]]` on the command line.

use std::net::IpAddr;

use vethwall_common::protocol::{TCP, has_ports};

use crate::api::{Peer, explain::protocol_number};

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

/// `DST`, `DST:PORT`, `DST:PORT/PROTO` or `DST:PROTO`; IPv6 with a port in brackets.
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
            Some((port, protocol)) => (Some(port_number(port)?), named(protocol)?),
            None if rest.starts_with(|c: char| c.is_ascii_digit()) => (Some(port_number(rest)?), TCP),
            None => (None, named(rest)?),
        },
    };
    if port.is_some() && !has_ports(protocol) {
        return Err("only TCP, UDP and SCTP have ports; write DST:ICMP without one".to_owned());
    }
    Ok(Destination { peer, protocol, port })
}

fn port_number(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        Ok(_) | Err(_) => Err(format!("{text:?} is not a port number, 1 to 65535")),
    }
}

fn named(text: &str) -> Result<u8, String> {
    protocol_number(text).ok_or_else(|| format!("{text:?} is not a protocol; say TCP, UDP, SCTP or ICMP"))
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
