//! A question at one side of a connection.

use vethwall_common::Direction;

use super::ends::Found;
use crate::{model::Pod, signature::Signature, world::World};

/// A packet, asked about at one side.
pub(super) struct Asked<'a> {
    pub(super) world: &'a World,
    pub(super) subject: &'a Pod,
    pub(super) peer: &'a Found<'a>,
    pub(super) signature: &'a Signature,
    pub(super) direction: Direction,
    pub(super) protocol: u8,
    pub(super) port: Option<u16>,
}
