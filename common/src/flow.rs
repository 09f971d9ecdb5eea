//! Tracked connections and fragments.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{address::Addr, config::Config, identity::Identity, protocol, verdict::Cookie};

/// Key of [`crate::maps::FLOWS`] and [`crate::maps::FLOWS_NEW`]: a connection as one endpoint sees it.
///
/// The ends are sorted, the lower (address, port) first, so that both directions find the same entry. Flows are never
/// shared between interfaces: what one pod sends can not open a way to another.
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
#[repr(C)]
pub struct FlowKey {
    /// The lower end's address.
    pub low: Addr,
    /// The higher end's address.
    pub high: Addr,
    /// The endpoint's interface.
    pub ifindex: u32,
    /// The lower end's port; for ICMP echo the identifier at the end that asks, else 0.
    pub low_port: u16,
    /// The higher end's port; for ICMP echo the identifier at the end that asks, else 0.
    pub high_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl FlowKey {
    /// The connection between two ends as the endpoint of this interface sees it, whichever end comes first.
    pub fn between(ifindex: u32, protocol: u8, one: (Addr, u16), other: (Addr, u16)) -> Self {
        let (low, high) = if one <= other { (one, other) } else { (other, one) };
        Self {
            low: low.0,
            high: high.0,
            ifindex,
            low_port: low.1,
            high_port: high.1,
            protocol,
            reserved: [0; 3],
        }
    }
}

/// Value of [`crate::maps::FLOWS`] and [`crate::maps::FLOWS_NEW`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FlowEntry {
    /// Generation of the endpoint's policy, in the flow's direction, that admitted it.
    pub generation: u32,
    /// The peer when it was admitted.
    pub identity: Identity,
    /// The policy and rule that admitted it.
    pub cookie: Cookie,
    /// When a packet was last seen, in ticks ([`TICK_SHIFT`]).
    pub last_seen: u32,
    /// [`state`] bits.
    pub state: u8,
    /// [`crate::Direction`] of the first packet, seen from the endpoint.
    pub direction: u8,
    /// Zero.
    pub reserved: u16,
}

impl FlowEntry {
    /// Whether it is more than a memory at this time, in ticks. An expired entry is as good as none.
    pub const fn is_alive(&self, protocol: u8, now: u32, config: &Config) -> bool {
        now.wrapping_sub(self.last_seen) < life(self.state, protocol, config)
    }
}

/// How long an entry with these [`state`] bits lives after its last packet, in ticks.
#[inline(always)]
pub const fn life(state: u8, protocol: u8, config: &Config) -> u32 {
    const BOTH_FINS: u8 = state::FIN_ORIGINAL | state::FIN_REPLY;
    let replied = state & state::REPLIED != 0;
    match protocol {
        protocol::TCP if state & state::RESET != 0 || state & BOTH_FINS == BOTH_FINS => config.tcp_closing,
        protocol::TCP if replied => config.tcp_established,
        protocol::TCP => config.tcp_unreplied,
        protocol::UDP if replied => config.udp_established,
        protocol::UDP => config.udp_unreplied,
        protocol::SCTP if state & state::RESET != 0 => config.tcp_closing,
        protocol::SCTP if replied => config.sctp_established,
        _ => config.other,
    }
}

/// Bits of [`FlowEntry::state`].
pub mod state {
    /// A packet went the other way: the flow lives in the table of established flows.
    pub const REPLIED: u8 = 1;
    /// FIN from the side that opened the connection.
    pub const FIN_ORIGINAL: u8 = 2;
    /// FIN from the other side.
    pub const FIN_REPLY: u8 = 4;
    /// RST from either side.
    pub const RESET: u8 = 8;
    /// Stage one of an egress flow whose destination is translated later; only replies ride on it.
    pub const DEFERRED: u8 = 16;
    /// Judged at the pod's veth on a destination that nothing translates later; needs no second stage.
    pub const DIRECT: u8 = 32;
    /// Policy no longer allows it: its replies are dropped, and packets the other way are judged one by one. It stays as
    /// long as a connection would, so that neither side's packets are mistaken for the beginning of another.
    pub const REVOKED: u8 = 64;
    /// With [`DEFERRED`]: only first fragments were seen, and whether the node can put their datagram together nobody knows.
    /// No answer passes until a whole packet was sent, or the kernel's connection tracking has it.
    pub const UNSURE: u8 = 128;
    /// Either end of a closing connection.
    pub const CLOSING: u8 = FIN_ORIGINAL | FIN_REPLY | RESET;
}

/// A tick is 2^8 jiffies: about a second at HZ=250. Reading jiffies costs a tenth of a nanosecond, a clock 16 to 28.
pub const TICK_SHIFT: u32 = 8;

/// Key of [`crate::maps::FRAGMENTS`]: one datagram as one endpoint sees it.
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
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// The endpoint's interface.
    pub ifindex: u32,
    /// Identification field, IPv4 (16 bits) or IPv6 (32 bits).
    pub id: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// [`crate::Direction`] of the packet, seen from the endpoint.
    pub direction: u8,
    /// Zero.
    pub reserved: u16,
}

/// Value of [`crate::maps::FRAGMENTS`]: the first fragment was allowed.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FragmentEntry {
    /// Generation of the policy that allowed the first fragment.
    pub generation: u32,
    /// When, in ticks.
    pub last_seen: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 44);
const _: () = assert!(size_of::<FlowEntry>() == 20);
const _: () = assert!(size_of::<FragmentKey>() == 44);
const _: () = assert!(size_of::<FragmentEntry>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_are_one_connection() {
        let (a, b) = (Addr::from_v4([10, 0, 0, 2]), Addr::from_v4([10, 0, 0, 10]));
        let key = FlowKey::between(7, protocol::TCP, (b, 1), (a, 2));
        assert_eq!(key, FlowKey::between(7, protocol::TCP, (a, 2), (b, 1)));
        assert_eq!((key.low, key.low_port, key.high_port), (a, 2, 1));
        let same = FlowKey::between(7, protocol::TCP, (a, 9), (a, 3));
        assert_eq!((same.low_port, same.high_port), (3, 9));
    }

    #[test]
    fn an_entry_lives_until_its_time_is_over() {
        let config = Config {
            tcp_established: 100,
            tcp_unreplied: 10,
            tcp_closing: 20,
            ..Config::default()
        };
        let entry = |state, last_seen| FlowEntry {
            state,
            last_seen,
            ..FlowEntry::default()
        };
        for (state, lives) in [
            (0, 10),
            (state::REPLIED, 100),
            (state::REPLIED | state::FIN_REPLY, 100),
            (state::REPLIED | state::FIN_REPLY | state::FIN_ORIGINAL, 20),
            (state::REPLIED | state::RESET, 20),
        ] {
            // Also where the ticks wrap.
            for now in [1000_u32, 5] {
                let seen = |ago: u32| entry(state, now.wrapping_sub(ago));
                assert!(seen(lives - 1).is_alive(protocol::TCP, now, &config), "{state}");
                assert!(!seen(lives).is_alive(protocol::TCP, now, &config), "{state}");
            }
        }
    }
}
