//! IP protocol numbers (IANA "Assigned Internet Protocol Numbers") that the programs know by name.

/// ICMP for IPv4.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;

/// Whether the protocol has 16-bit source and destination ports in its first four bytes and is one that
/// NetworkPolicy can name (TCP, UDP, SCTP).
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}
