//! What the programs must know of the node.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The one value of [`crate::maps::CONFIG`]. All zero is the closed choice throughout: nothing deferred, flows expire
/// at once, no events.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Config {
    /// [`crate::ABI_VERSION`] of the writer.
    pub abi: u32,
    /// [`Config::BRIDGE_ATTACHED`], [`Config::EVENTS`], [`Config::KEEP_CONNECTIONS`].
    pub flags: u32,
    /// Life of an established TCP flow, in ticks.
    pub tcp_established: u32,
    /// Life of a TCP flow without a reply, in ticks.
    pub tcp_unreplied: u32,
    /// Life of a TCP flow after FIN or RST, in ticks.
    pub tcp_closing: u32,
    /// Life of a UDP flow with replies, in ticks.
    pub udp_established: u32,
    /// Life of a UDP flow without, in ticks.
    pub udp_unreplied: u32,
    /// Life of a flow of any other protocol, in ticks.
    pub other: u32,
}

impl Config {
    /// cni0 carries its program: egress to a Service may be judged there.
    pub const BRIDGE_ATTACHED: u32 = 1;
    /// Write an event for every final verdict.
    pub const EVENTS: u32 = 2;
    /// Do not judge a connection again when policy changes (`existingConnections: keep`).
    pub const KEEP_CONNECTIONS: u32 = 4;
}

const _: () = assert!(size_of::<Config>() == 32);
