//! CIDRs as Kubernetes reads them: `ParseCIDRSloppy` and `IPNet.Contains` of `k8s.io/utils`, step by step (rule 24).

use std::net::IpAddr;

/// Whether an address is in the network; `None` where the text is no CIDR.
pub(super) fn contains(text: &str, address: IpAddr) -> Option<bool> {
    let (network, length) = text.split_once('/')?;
    let (bytes, width) = match ipv4(network) {
        Some(bytes) => (bytes.to_vec(), 32),
        None => (ipv6(network)?.to_vec(), 128),
    };
    let length = decimal(length)?;
    if length > width {
        return None;
    }
    let mut network = masked(&bytes, length);
    let mut length = length;
    // What is an IPv4 address in IPv6 clothes after masking is one, with the rest of the mask.
    if network.len() == 16 && network[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff] {
        network.drain(..12);
        length = length.saturating_sub(96);
    }
    let address = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    // Rule 23: families do not cross.
    Some(address.len() == network.len() && masked(&address, length) == network)
}

fn masked(bytes: &[u8], length: u32) -> Vec<u8> {
    let mut left = length;
    let keep = |byte: &u8| {
        let bits = left.min(8);
        left -= bits;
        byte & !u8::MAX.checked_shr(bits).unwrap_or(0)
    };
    bytes.iter().map(keep).collect()
}

/// Digits only; leading zeros mean nothing.
fn decimal(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn ipv4(text: &str) -> Option<[u8; 4]> {
    let numbers: Option<Vec<u8>> = text
        .split('.')
        .map(|part| u8::try_from(decimal(part)?).ok())
        .collect();
    numbers?.try_into().ok()
}

fn ipv6(text: &str) -> Option<[u8; 16]> {
    let Some((left, right)) = text.split_once("::") else {
        return groups(text)?.try_into().ok();
    };
    // An IPv4 address in dots can only stand at the end.
    if left.contains('.') {
        return None;
    }
    let side = |text: &str| {
        if text.is_empty() {
            Some(Vec::new())
        } else {
            groups(text)
        }
    };
    let (left, right) = (side(left)?, side(right)?);
    // The gap stands for one group at least.
    let gap = 16_usize
        .checked_sub(left.len() + right.len())
        .filter(|gap| *gap >= 2)?;
    [left, vec![0; gap], right].concat().try_into().ok()
}

/// Groups of hexadecimal digits between colons; the last may be an IPv4 address.
fn groups(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut parts = text.split(':').peekable();
    while let Some(part) = parts.next() {
        if part.contains('.') {
            if parts.peek().is_some() {
                return None;
            }
            bytes.extend(ipv4(part)?);
        } else {
            let hexadecimal = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            let group = hexadecimal.then(|| u16::from_str_radix(part, 16).ok())??;
            bytes.extend(group.to_be_bytes());
        }
    }
    Some(bytes)
}
