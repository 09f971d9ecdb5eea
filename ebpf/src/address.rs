//! Addresses as the programs hold them.

use vethwall_common::address::Addr;

/// An [`Addr`] as two aligned words in memory order: compared and copied in two instructions, where 16 single bytes
/// would take 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Words {
    /// Bytes 0 to 7.
    pub(crate) high: u64,
    /// Bytes 8 to 15.
    pub(crate) low: u64,
}

const _: () = assert!(size_of::<Words>() == size_of::<Addr>());

impl Words {
    /// No address.
    pub(crate) const NONE: Self = Self { high: 0, low: 0 };

    /// From the word of an IPv4 header, in network order.
    #[inline(always)]
    pub(crate) const fn v4(word: u32) -> Self {
        Self {
            high: 0,
            low: (0xffff_0000_0000 | u32::from_be(word) as u64).to_be(),
        }
    }

    /// From the words of an IPv6 header, in network order.
    #[inline(always)]
    pub(crate) const fn v6(words: [u32; 4]) -> Self {
        Self {
            high: join(words[0], words[1]),
            low: join(words[2], words[3]),
        }
    }

    /// The bytes, for a log line.
    #[cfg(feature = "debug-log")]
    #[inline(always)]
    pub(crate) fn octets(&self) -> [u8; 16] {
        let word = u128::from(u64::from_be(self.high)) << 64 | u128::from(u64::from_be(self.low));
        word.to_be_bytes()
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub(crate) const fn is_v4(&self) -> bool {
        self.high == 0 && u64::from_be(self.low) >> 32 == 0xffff
    }

    /// `fe80::/10`.
    #[inline(always)]
    pub(crate) const fn is_link_local(&self) -> bool {
        u64::from_be(self.high) >> 54 == 0xfe80 >> 6
    }

    /// Multicast of either family, and IPv4's limited broadcast: an address that many listen to.
    #[inline(always)]
    pub(crate) const fn is_group(&self) -> bool {
        let low = u64::from_be(self.low);
        if self.is_v4() {
            (low as u32) >> 28 == 0xe || low as u32 == u32::MAX
        } else {
            u64::from_be(self.high) >> 56 == 0xff
        }
    }

    /// Whether this end stands before the other in a flow's key: by address, then by port.
    #[inline(always)]
    pub(crate) const fn before(&self, port: u16, other: &Self, other_port: u16) -> bool {
        let (a, b) = (u64::from_be(self.high), u64::from_be(other.high));
        if a != b {
            return a < b;
        }
        let (a, b) = (u64::from_be(self.low), u64::from_be(other.low));
        if a != b {
            return a < b;
        }
        port <= other_port
    }
}

/// Two words of memory, the first one first.
const fn join(first: u32, second: u32) -> u64 {
    ((u32::from_be(first) as u64) << 32 | u32::from_be(second) as u64).to_be()
}
