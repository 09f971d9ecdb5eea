//! What the programs would answer: the same look-ups over a [`State`].

use std::net::IpAddr;

use vethwall_common::{Direction, identity::Identity, verdict::Cookie};

use crate::state::State;

/// The answer of a policy look-up, before connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// [`vethwall_common::verdict::allow`] bits.
    pub allow: u8,
    /// What decided.
    pub cookie: Cookie,
    /// The peer.
    pub identity: Identity,
    /// The endpoint has no record: everything is dropped.
    pub pending: bool,
}

/// The identity of an address: its own entry, else its longest prefix, else the world.
pub fn identity(state: &State, address: IpAddr) -> Identity {
    let _ = (state, address);
    Identity::WORLD
}

/// Asks the policy of an endpoint about a packet. `port` is the destination port; protocols without ports have 0.
pub fn lookup(
    state: &State,
    ifindex: u32,
    direction: Direction,
    peer: IpAddr,
    protocol: u8,
    port: u16,
) -> Answer {
    let _ = (ifindex, direction, protocol, port);
    Answer {
        allow: 0,
        cookie: Cookie(0),
        identity: identity(state, peer),
        pending: true,
    }
}
