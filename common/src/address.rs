//! One address type for both families.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IP address: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`. All zero means "no address".
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct Addr(pub [u8; 16]);

impl Addr {
    /// No address.
    pub const NONE: Self = Self([0; 16]);

    /// From the four bytes of an IPv4 header field.
    pub const fn from_v4(b: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, b[0], b[1], b[2], b[3]])
    }

    /// The first `length` bits, 0 to 128; the rest are zero. More than 128 is 128.
    pub const fn truncate(self, length: u32) -> Self {
        let rest = 128_u32.saturating_sub(length);
        let mask = if rest == 128 { 0 } else { u128::MAX << rest };
        Self((u128::from_be_bytes(self.0) & mask).to_be_bytes())
    }

    /// Whether this is an IPv4 address.
    pub const fn is_v4(&self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..])
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        let b = addr.0;
        if addr.is_v4() {
            Self::V4(Ipv4Addr::new(b[12], b[13], b[14], b[15]))
        } else {
            Self::V6(Ipv6Addr::from(b))
        }
    }
}

/// A prefix: key of the longest-prefix map, in the layout the kernel asks for (`struct bpf_lpm_trie_key_u8`).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Prefix {
    /// Bits of `addr` that count, 0 to 128; an IPv4 prefix of n bits has 96 + n.
    pub length: u32,
    /// The network; bits beyond `length` are zero.
    pub addr: Addr,
}

impl Prefix {
    /// Whether an address is in it.
    pub fn contains(&self, address: Addr) -> bool {
        address.truncate(self.length) == self.addr
    }
}

const _: () = assert!(size_of::<Addr>() == 16);
const _: () = assert!(size_of::<Prefix>() == 20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_contains_what_begins_as_it_does() {
        let within = |length: u32, network, address| {
            let addr = Addr::from_v4(network).truncate(96 + length);
            Prefix {
                length: 96 + length,
                addr,
            }
            .contains(Addr::from_v4(address))
        };
        assert!(within(16, [10, 1, 2, 3], [10, 1, 255, 255]) && !within(16, [10, 1, 2, 3], [10, 2, 0, 0]));
        assert!(within(32, [10, 1, 2, 3], [10, 1, 2, 3]) && !within(32, [10, 1, 2, 3], [10, 1, 2, 2]));
        assert!(within(0, [10, 0, 0, 0], [192, 168, 0, 1]));
        let everything = Prefix {
            length: 0,
            addr: Addr::NONE,
        };
        assert!(everything.contains(Addr([0xff; 16])));
        assert_eq!(Addr([0xff; 16]).truncate(200), Addr([0xff; 16]));
    }
}
