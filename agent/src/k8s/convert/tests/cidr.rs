//! CIDRs against the parser that Kubernetes uses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

/// What Kubernetes takes for a network, from the grammar of RFC 4291 section 2.2 and what `ParseCIDRSloppy` of
/// k8s.io/utils/net is known to allow beyond it: any number of leading zeros, always decimal in dotted notation. An
/// IPv4-mapped network is IPv4 for `IPNet.Contains`.
mod reference {
    use super::*;

    fn digits(text: &str, radix: u32, most: u32) -> Option<u32> {
        let valid = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
        let significant = text.trim_start_matches('0');
        // Longer than any value that counts; and `from_str_radix` takes a sign.
        if !valid || significant.len() > 5 {
            return None;
        }
        let value = u32::from_str_radix(text, radix).ok()?;
        (value <= most).then_some(value)
    }

    fn dotted(text: &str) -> Option<u32> {
        let parts: Vec<u32> = text
            .split('.')
            .map(|part| digits(part, 10, 255))
            .collect::<Option<_>>()?;
        let [a, b, c, d] = parts.try_into().ok()?;
        Some(a << 24 | b << 16 | c << 8 | d)
    }

    /// Groups of 16 bits; the last may be two of them in dotted notation.
    fn groups(text: &str) -> Option<Vec<u32>> {
        if text.is_empty() {
            return Some(Vec::new());
        }
        let mut all = Vec::new();
        let parts: Vec<&str> = text.split(':').collect();
        for (i, part) in parts.iter().enumerate() {
            if part.contains('.') && i + 1 == parts.len() {
                let address = dotted(part)?;
                all.extend([address >> 16, address & 0xffff]);
            } else {
                all.push(digits(part, 16, 0xffff)?);
            }
        }
        Some(all)
    }

    fn colons(text: &str) -> Option<u128> {
        let all = match text.split_once("::") {
            None => groups(text).filter(|all| all.len() == 8)?,
            Some((before, after)) => {
                // Dots stand at the very end only.
                let before = groups(before).filter(|_| !before.contains('.'))?;
                let after = groups(after)?;
                // `::` stands for one group at least.
                let missing = 8usize
                    .checked_sub(before.len() + after.len())
                    .filter(|n| *n > 0)?;
                [before, vec![0; missing], after].concat()
            }
        };
        Some(
            all.into_iter()
                .fold(0, |bits, group| bits << 16 | u128::from(group)),
        )
    }

    pub(super) fn parse_cidr(text: &str) -> Option<IpNet> {
        let (address, length) = text.split_once('/')?;
        let (address, bits): (IpAddr, u32) = match dotted(address) {
            Some(v4) => (Ipv4Addr::from(v4).into(), 32),
            None => (Ipv6Addr::from(colons(address)?).into(), 128),
        };
        let length = u8::try_from(digits(length, 10, bits)?).ok()?;
        let net = IpNet::new(address, length).ok()?.trunc();
        let mapped = match net.network() {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().filter(|_| length >= 96),
            IpAddr::V4(_) => None,
        };
        match mapped {
            Some(v4) => IpNet::new(v4.into(), length - 96).ok(),
            None => Some(net),
        }
    }
}

// Covers: SEMANTICS 24
#[test]
fn networks_are_those_of_the_api_servers_parser() {
    let cases = [
        // Leading zeros are decimal, however many.
        ("010.0.0.0/8", Some("10.0.0.0/8")),
        ("0000000010.0.0.0/8", Some("10.0.0.0/8")),
        ("192.168.001.010/024", Some("192.168.1.0/24")),
        ("10.0.0.0/0000000000000000000008", Some("10.0.0.0/8")),
        ("00000fd00::/8", Some("fd00::/8")),
        ("0.0.0.0/00", Some("0.0.0.0/0")),
        // Host bits are cleared.
        ("10.1.2.3/8", Some("10.0.0.0/8")),
        ("255.255.255.255/0", Some("0.0.0.0/0")),
        ("fd00::ffff/64", Some("fd00::/64")),
        // IPv4-mapped networks are IPv4 from /96 on.
        ("::ffff:10.1.2.3/104", Some("10.0.0.0/8")),
        ("::ffff:010.1.2.3/128", Some("10.1.2.3/32")),
        ("::FFFF:a01:203/120", Some("10.1.2.0/24")),
        ("::ffff:0.0.0.0/96", Some("0.0.0.0/0")),
        ("::ffff:0.0.0.0/95", Some("::fffe:0.0.0.0/95")),
        ("::10.1.2.3/104", Some("::a00:0/104")),
        ("::/0", Some("::/0")),
        // Every form of an IPv6 address.
        ("1:2:3:4:5:6:7::/112", Some("1:2:3:4:5:6:7:0/112")),
        ("::2:3:4:5:6:7:8/128", Some("0:2:3:4:5:6:7:8/128")),
        ("1:2:3:4:5:6:1.2.3.4/128", Some("1:2:3:4:5:6:102:304/128")),
        ("1:2:3:4:5:6:7::8/128", None),
        ("1:2:3:4:5:6:7:8:9/128", None),
        ("1::2::3/64", None),
        (":1::/64", None),
        ("1:/64", None),
        ("12345::/16", None),
        // Signs, spaces, zones, and what is no number.
        ("10.0.0.0/+8", None),
        ("10.0.0.0/-8", None),
        ("+10.0.0.0/8", None),
        ("10.0.0.0/8 ", None),
        (" 10.0.0.0/8", None),
        ("10.0.0.0 /8", None),
        ("10.0.0.0/ 8", None),
        ("fe80::1%eth0/64", None),
        ("fe80::1/64%eth0", None),
        ("0x0a.0.0.0/8", None),
        ("10.0.0.0/0x8", None),
        ("10.0.0.0/255.0.0.0", None),
        // Lengths and parts that are missing or too many.
        ("10.0.0.0/33", None),
        ("::/129", None),
        ("10.0.0.0/256", None),
        ("10.0.0.0/4294967304", None),
        ("10.0.0.0", None),
        ("10.0.0.0/", None),
        ("/8", None),
        ("10.0.0.0/8/8", None),
        ("10/8", None),
        ("10.0.0/8", None),
        ("10.0.0.0.0/8", None),
        ("10..0.0/8", None),
        ("256.0.0.0/8", None),
        ("\u{0661}0.0.0.0/8", None),
        ("", None),
    ];
    for (text, expected) in cases {
        let expected = expected.map(|text| text.parse().unwrap());
        assert_eq!(reference::parse_cidr(text), expected, "the reference: {text:?}");
        assert_eq!(parse_cidr(text), expected, "{text:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    // Covers: SEMANTICS 24
    #[test]
    fn odd_networks_are_those_of_the_api_servers_parser(
        text in prop_oneof![
            "[0-9a-f:.]{0,24}/[0-9+ ]{0,4}",
            "0{0,3}[0-9]{1,3}(\\.0{0,3}[0-9]{1,3}){2,4}/0?[0-9]{1,2}",
            "(:{0,2}0{0,4}[0-9a-fF]{1,4}){0,8}:{0,2}(0?[0-9]{1,3}(\\.[0-9]{1,3}){3})?/[0-9]{1,3}",
            "::[fF]{4}:0?[0-9]{1,3}(\\.[0-9]{1,3}){3}/(9[0-9]|1[0-2][0-9])",
        ]
    ) {
        prop_assert_eq!(parse_cidr(&text), reference::parse_cidr(&text), "{:?}", text);
    }
}
