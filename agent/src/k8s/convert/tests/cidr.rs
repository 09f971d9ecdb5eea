//! CIDRs against the parser that Kubernetes uses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

/// `ParseCIDRSloppy` of k8s.io/utils/net (net/parse.go, with internal/third_party/forked/golang/net/parse.go and ip.go,
/// which is `net.ParseCIDR` of Go 1.16), line by line, and what `IPNet.Contains` then takes the network for.
mod go {
    use super::*;

    const BIG: u32 = 0x00ff_ffff;

    /// `dtoi` and `xtoi`: number, characters consumed, success.
    fn number(text: &[u8], radix: u32) -> (u32, usize, bool) {
        let mut n = 0;
        let mut i = 0;
        while let Some(digit) = text.get(i).and_then(|byte| char::from(*byte).to_digit(radix)) {
            n = n * radix + digit;
            if n >= BIG {
                return (BIG, i, false);
            }
            i += 1;
        }
        (n, i, i > 0)
    }

    fn parse_ipv4(mut text: &[u8]) -> Option<[u8; 4]> {
        let mut p = [0; 4];
        for (i, byte) in p.iter_mut().enumerate() {
            if text.is_empty() {
                return None;
            }
            if i > 0 {
                text = text.strip_prefix(b".")?;
            }
            let (n, consumed, ok) = number(text, 10);
            if !ok || n > 0xff {
                return None;
            }
            text = &text[consumed..];
            *byte = u8::try_from(n).ok()?;
        }
        text.is_empty().then_some(p)
    }

    fn parse_ipv6(mut text: &[u8]) -> Option<[u8; 16]> {
        let mut ip = [0; 16];
        let mut ellipsis = None;
        if let Some(rest) = text.strip_prefix(b"::") {
            ellipsis = Some(0);
            text = rest;
            if text.is_empty() {
                return Some(ip);
            }
        }
        let mut i = 0;
        while i < 16 {
            let (n, consumed, ok) = number(text, 16);
            if !ok || n > 0xffff {
                return None;
            }
            if text.get(consumed) == Some(&b'.') {
                if ellipsis.is_none() && i != 12 || i + 4 > 16 {
                    return None;
                }
                ip[i..i + 4].copy_from_slice(&parse_ipv4(text)?);
                text = &[];
                i += 4;
                break;
            }
            ip[i..i + 2].copy_from_slice(&u16::try_from(n).ok()?.to_be_bytes());
            i += 2;
            text = &text[consumed..];
            if text.is_empty() {
                break;
            }
            text = text.strip_prefix(b":")?;
            if text.is_empty() {
                return None;
            }
            if let Some(rest) = text.strip_prefix(b":") {
                if ellipsis.is_some() {
                    return None;
                }
                ellipsis = Some(i);
                text = rest;
                if text.is_empty() {
                    break;
                }
            }
        }
        if !text.is_empty() {
            return None;
        }
        match ellipsis {
            None if i < 16 => return None,
            Some(_) if i == 16 => return None,
            Some(at) => {
                let tail = i - at;
                ip.copy_within(at..i, 16 - tail);
                ip[at..16 - tail].fill(0);
            }
            None => {}
        }
        Some(ip)
    }

    pub(super) fn parse_cidr(text: &str) -> Option<IpNet> {
        let (address, mask) = text.split_once('/')?;
        let v4 = parse_ipv4(address.as_bytes());
        let ip: IpAddr = match v4 {
            Some(bytes) => Ipv4Addr::from(bytes).into(),
            None => Ipv6Addr::from(parse_ipv6(address.as_bytes())?).into(),
        };
        let bits = if v4.is_some() { 32 } else { 128 };
        let (n, consumed, ok) = number(mask.as_bytes(), 10);
        if !ok || consumed != mask.len() || n > bits {
            return None;
        }
        let net = IpNet::new(ip, u8::try_from(n).ok()?).ok()?.trunc();
        // `networkNumberAndMask`: an address that To4 takes is IPv4, with the last four bytes of the mask.
        Some(match net {
            IpNet::V6(v6) => match v6.addr().to_ipv4_mapped() {
                Some(v4) => IpNet::new(v4.into(), v6.prefix_len().saturating_sub(96)).ok()?,
                None => net,
            },
            IpNet::V4(_) => net,
        })
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
        assert_eq!(
            go::parse_cidr(text),
            expected,
            "the copy of Go's parser: {text:?}"
        );
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
        prop_assert_eq!(parse_cidr(&text), go::parse_cidr(&text), "{:?}", text);
    }
}
