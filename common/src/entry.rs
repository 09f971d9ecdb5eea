//! The programmable state as values: what the planner orders and the datapath writes.

use crate::{
    address::{Addr, Prefix},
    endpoint::EndpointRecord,
    identity::{AddressEntry, PrefixEntry},
    verdict::{PortsKey, PortsPage, SlotRecord, VerdictEntry, VerdictKey},
};

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// By ifindex, in whichever of the two endpoint maps has room.
    Endpoint(u32),
    /// By slot number.
    Slot(u32),
    /// The answer for one peer.
    Verdict(VerdictKey),
    /// A page of a port set.
    Ports(PortsKey),
    /// The owner of an address.
    Address(Addr),
    /// A prefix.
    Prefix(Prefix),
}

/// An entry: key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A pod's interface, by ifindex.
    Endpoint(u32, EndpointRecord),
    /// A slot's default.
    Slot(u32, SlotRecord),
    /// The answer for one peer.
    Verdict(VerdictKey, VerdictEntry),
    /// A page of a port set.
    Ports(PortsKey, PortsPage),
    /// The owner of an address.
    Address(Addr, AddressEntry),
    /// A prefix.
    Prefix(Prefix, PrefixEntry),
}

impl Entry {
    /// Where the entry stands.
    pub const fn key(&self) -> Key {
        match *self {
            Self::Endpoint(key, _) => Key::Endpoint(key),
            Self::Slot(key, _) => Key::Slot(key),
            Self::Verdict(key, _) => Key::Verdict(key),
            Self::Ports(key, _) => Key::Ports(key),
            Self::Address(key, _) => Key::Address(key),
            Self::Prefix(key, _) => Key::Prefix(key),
        }
    }
}
