//! The contract between the kernel programs and user space.
//!
//! ```text
//! policy (compiles) ──┐                                  ┌── ebpf (reads, judges)
//!                     ├─ Entry/Key ─► BPF maps ◄─ types ─┤
//! datapath (writes) ──┘                                  └── Event ─► ring buffer ─► agent
//! ```
//!
//! Invariants:
//! - Every type here has a defined layout without padding (zerocopy proves it at compile time), and all-zero bytes of
//!   every value mean the most closed thing: no endpoint, pending, deny, drop.
//! - Addresses are bytes in network order, IPv4 as IPv4-mapped IPv6 (RFC 4291, 2.5.5.2), so both families share every
//!   map and every line of code. All other integers are in the byte order of the machine; ports too.
//! - A change of any layout or meaning raises [`ABI_VERSION`], which is part of the pin directory: programs of one
//!   version never meet maps of another.
#![no_std]
#![forbid(unsafe_code)]

pub mod address;
pub mod config;
pub mod endpoint;
pub mod entry;
pub mod event;
pub mod flow;
pub mod identity;
pub mod maps;
pub mod protocol;
pub mod verdict;

/// Version of the layouts and meanings in this crate.
pub const ABI_VERSION: u32 = 1;

/// Which way a connection goes, seen from the pod whose policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Towards the pod (`Ingress` in NetworkPolicy).
    Ingress = 0,
    /// From the pod (`Egress` in NetworkPolicy).
    Egress = 1,
}

impl Direction {
    /// Both directions, ingress first.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The direction with this number, if there is one.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Ingress),
            1 => Some(Self::Egress),
            _ => None,
        }
    }

    /// Lower-case name: `ingress` or `egress`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}
