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
    /// [`Config::BRIDGE_V4`], [`Config::BRIDGE_V6`], [`Config::EVENTS`], [`Config::KEEP_CONNECTIONS`],
    /// [`Config::OVERFLOW`], [`Config::OWN_NODE_EGRESS`].
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
    /// Life of an established SCTP association, in ticks.
    pub sctp_established: u32,
    /// Life of a flow of any other protocol, in ticks.
    pub other: u32,
    /// UDP port of the nodes' tunnel (flannel's vxlan), in the machine's byte order; 0 if there is none. What a pod sends there
    /// would come out on another node as any pod's.
    pub tunnel_port: u32,
    /// MAC address of cni0, where [`Config::BRIDGE_V4`] or [`Config::BRIDGE_V6`] is set: what a pod sends to another one never
    /// gets there, so it does not wait for the second stage.
    pub bridge_mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

impl Config {
    /// cni0 carries its program, and the kernel translates IPv4 destinations before that (`bridge-nf-call-iptables`):
    /// egress beyond the pods is judged there. Without it such egress of an isolated pod is dropped.
    pub const BRIDGE_V4: u32 = 1;
    /// Write an event for every final verdict.
    pub const EVENTS: u32 = 2;
    /// Do not judge a connection again when policy changes (`existingConnections: keep`).
    pub const KEEP_CONNECTIONS: u32 = 4;
    /// As [`Config::BRIDGE_V4`], for IPv6 (`bridge-nf-call-ip6tables`).
    pub const BRIDGE_V6: u32 = 8;
    /// Either family.
    pub const BRIDGE: u32 = Self::BRIDGE_V4 | Self::BRIDGE_V6;
    /// [`crate::maps::ENDPOINT_OVERFLOW`] is not empty. Set before its first entry, so that only then is a packet's
    /// interface looked up there.
    pub const OVERFLOW: u32 = 16;
    /// What a pod sends to its own node is no matter of policy (`ownNodeEgress: allow`).
    pub const OWN_NODE_EGRESS: u32 = 32;
}

const _: () = assert!(size_of::<Config>() == 48);
