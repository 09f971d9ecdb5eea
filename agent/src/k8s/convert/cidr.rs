//! Addresses and networks as Kubernetes' own parser takes them.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use vethwall_policy::model::canonical;

/// An address as Kubernetes' own parser takes it: leading zeros are decimal (k8s.io/utils/net `ParseIPSloppy`).
pub(super) fn parse_ip(text: &str) -> Option<IpAddr> {
    let sloppy = without_leading_zeros(text);
    sloppy.parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// A network as Kubernetes' own parser takes it (`ParseCIDRSloppy`): leading zeros are decimal, host bits are masked,
/// an IPv4-mapped network is IPv4 (SEMANTICS 24).
pub fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let length: u8 = length.parse().ok()?;
    let address: IpAddr = without_leading_zeros(address).parse().ok()?;
    let net = match address {
        // `::ffff:a.b.c.d/n` with n below 96 covers more than IPv4; it stays what it is.
        IpAddr::V6(v6) => IpNet::new(IpAddr::V6(v6), length).ok()?,
        IpAddr::V4(v4) => IpNet::new(IpAddr::V4(v4), length).ok()?,
    };
    Some(canonical(net))
}

/// Drops leading zeros from every group of an address.
fn without_leading_zeros(text: &str) -> String {
    // A lone `Ipv6Addr` never needs this; a group of only zeros keeps one.
    if text.parse::<Ipv6Addr>().is_ok() {
        return text.to_owned();
    }
    let mut result = String::with_capacity(text.len());
    for group in text.split_inclusive(['.', ':']) {
        let (digits, separator) = match group.strip_suffix(['.', ':']) {
            Some(digits) => (digits, &group[digits.len()..]),
            None => (group, ""),
        };
        let trimmed = digits.trim_start_matches('0');
        result += if trimmed.is_empty() && !digits.is_empty() {
            "0"
        } else {
            trimmed
        };
        result += separator;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidrs_are_read_as_kubernetes_reads_them() {
        // SEMANTICS 24.
        let good = [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("010.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.168.001.010/024", "192.168.1.0/24"),
            ("000.000.0.00/0", "0.0.0.0/0"),
            ("10.0.0.1/32", "10.0.0.1/32"),
            ("fd00::1/64", "fd00::/64"),
            ("FD00:0::/16", "fd00::/16"),
            ("::/0", "::/0"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:010.1.2.3/128", "10.1.2.3/32"),
            ("::ffff:a00:0/104", "10.0.0.0/8"),
            ("00fd:0000::/16", "fd::/16"),
        ];
        for (text, expected) in good {
            assert_eq!(parse_cidr(text), Some(expected.parse().unwrap()), "{text}");
        }
        for text in [
            "10.0.0.0",
            "10.0.0/8",
            "10/8",
            "10.0.0.0/33",
            "256.0.0.0/8",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "",
            "/",
            "a/8",
            "10.0.0.0/8/8",
            " 10.0.0.0/8",
            "fe80::1%eth0/64",
            "0x0a.0.0.0/8",
            "::ffff:10.1.2.3/129",
        ] {
            assert_eq!(parse_cidr(text), None, "{text}");
        }
    }
}
