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
