//! Names of IP protocols, as IANA's registry "Protocol Numbers" has them.

use vethwall_common::protocol::ICMPV6;

/// The names, by number; empty where the registry has none.
#[rustfmt::skip]
const NAMES: [&str; 146] = [
    "HOPOPT", "ICMP", "IGMP", "GGP", "IPv4", "ST", "TCP", "CBT", "EGP", "IGP",
    "BBN-RCC-MON", "NVP-II", "PUP", "ARGUS", "EMCON", "XNET", "CHAOS", "UDP", "MUX", "DCN-MEAS",
    "HMP", "PRM", "XNS-IDP", "TRUNK-1", "TRUNK-2", "LEAF-1", "LEAF-2", "RDP", "IRTP", "ISO-TP4",
    "NETBLT", "MFE-NSP", "MERIT-INP", "DCCP", "3PC", "IDPR", "XTP", "DDP", "IDPR-CMTP", "TP++",
    "IL", "IPv6", "SDRP", "IPv6-Route", "IPv6-Frag", "IDRP", "RSVP", "GRE", "DSR", "BNA",
    "ESP", "AH", "I-NLSP", "SWIPE", "NARP", "Min-IPv4", "TLSP", "SKIP", "ICMPv6", "IPv6-NoNxt",
    "IPv6-Opts", "", "CFTP", "", "SAT-EXPAK", "KRYPTOLAN", "RVD", "IPPC", "", "SAT-MON",
    "VISA", "IPCV", "CPNX", "CPHB", "WSN", "PVP", "BR-SAT-MON", "SUN-ND", "WB-MON", "WB-EXPAK",
    "ISO-IP", "VMTP", "SECURE-VMTP", "VINES", "IPTM", "NSFNET-IGP", "DGP", "TCF", "EIGRP", "OSPFIGP",
    "Sprite-RPC", "LARP", "MTP", "AX.25", "IPIP", "MICP", "SCC-SP", "ETHERIP", "ENCAP", "",
    "GMTP", "IFMP", "PNNI", "PIM", "ARIS", "SCPS", "QNX", "A/N", "IPComp", "SNP",
    "Compaq-Peer", "IPX-in-IP", "VRRP", "PGM", "", "L2TP", "DDX", "IATP", "STP", "SRP",
    "UTI", "SMP", "SM", "PTP", "ISIS", "FIRE", "CRTP", "CRUDP", "SSCOPMCE", "IPLT",
    "SPS", "PIPE", "SCTP", "FC", "RSVP-E2E-IGNORE", "Mobility-Header", "UDPLite", "MPLS-in-IP", "manet", "HIP",
    "Shim6", "WESP", "ROHC", "Ethernet", "AGGFRAG", "NSH",
];

/// Other names that people and `/etc/protocols` use.
const ALSO: [(&str, u8); 6] = [
    ("IPv6-ICMP", ICMPV6),
    ("ICMP6", ICMPV6),
    ("IPENCAP", 4),
    ("IPSEC-ESP", 50),
    ("IPSEC-AH", 51),
    ("OSPF", 89),
];

/// The name of an IP protocol, or its number where it has none.
pub fn protocol_name(protocol: u8) -> String {
    match NAMES.get(usize::from(protocol)) {
        Some(&name) if !name.is_empty() => name.to_owned(),
        Some(_) | None => protocol.to_string(),
    }
}

/// The number of an IP protocol that is given by name, in any case, or by number.
pub fn protocol_number(name: &str) -> Option<u8> {
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        return name.parse().ok();
    }
    let known = (0..=u8::MAX).zip(NAMES).filter(|(_, known)| !known.is_empty());
    known
        .chain(ALSO.map(|(known, number)| (number, known)))
        .find(|(_, known)| known.eq_ignore_ascii_case(name))
        .map(|(number, _)| number)
}

#[cfg(test)]
mod tests {
    use vethwall_common::protocol::{ICMP, SCTP, TCP, UDP};

    use super::*;

    #[test]
    fn names_and_numbers_fit_together() {
        for (name, number) in [
            ("TCP", TCP),
            ("UDP", UDP),
            ("SCTP", SCTP),
            ("ICMP", ICMP),
            ("ICMPv6", ICMPV6),
            ("GRE", 47),
            ("ESP", 50),
            ("AH", 51),
            ("IPv6", 41),
            ("OSPFIGP", 89),
            ("VRRP", 112),
            ("L2TP", 115),
            ("UDPLite", 136),
            ("NSH", 145),
        ] {
            assert_eq!(protocol_name(number), name);
        }
        for number in 0..=u8::MAX {
            assert_eq!(protocol_number(&protocol_name(number)), Some(number));
            assert_eq!(protocol_number(&number.to_string()), Some(number));
        }
    }

    #[test]
    fn any_case_and_common_names_are_understood() {
        for (text, number) in [
            ("tcp", Some(TCP)),
            ("IcmpV6", Some(ICMPV6)),
            ("ipv6-icmp", Some(ICMPV6)),
            ("gre", Some(47)),
            ("ospf", Some(89)),
            ("047", Some(47)),
            ("255", Some(255)),
            ("256", None),
            ("", None),
            ("QUIC", None),
            ("-1", None),
            ("+6", None),
            ("TCP ", None),
        ] {
            assert_eq!(protocol_number(text), number, "{text:?}");
        }
    }
}
