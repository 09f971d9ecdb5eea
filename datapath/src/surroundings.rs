//! What else is on the interfaces: whether our programs are still there, and who stands before them.
//!
//! Anybody with the right to may take a program off, or put one before it that lets packets go unseen; and a bridge takes
//! ports that we were never told of. The kernel says so only to who asks.

use std::{io, os::fd::AsFd};

use nix::libc;

use crate::{
    Error, Hook, Pins,
    netlink::{self, Link, PARENT_EGRESS, PARENT_INGRESS, Socket},
    point::Point,
    sys,
};

/// Our filter, as `clsact` makes it: `ETH_P_ALL`, first in line, handle 1.
const PRIORITY: u32 = 1;
const HANDLE: u32 = 1;
/// `TCA_OPTIONS`, with `TCA_BPF_NAME` and `TCA_BPF_ID` in it.
const OPTIONS: u16 = 2;
const BPF_NAME: u16 = 7;
const BPF_ID: u16 = 11;

/// An interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// `veth`, `bridge`, ...; `None` of hardware.
    pub kind: Option<String>,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    /// Of a VXLAN device: its UDP port, in the machine's byte order.
    pub vxlan_port: Option<u16>,
}

impl Interface {
    /// One end of a veth, as every pod of flannel's has one here.
    #[must_use]
    pub fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }
}

impl From<Link> for Interface {
    fn from(link: Link) -> Self {
        let Link {
            ifindex,
            name,
            kind,
            master,
            vxlan_port,
            peer: _,
            peer_netns: _,
            mac: _,
        } = link;
        Self {
            ifindex,
            name,
            kind,
            master,
            vxlan_port,
        }
    }
}

/// What became of an attached program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is the first that sees a packet.
    First,
    /// Before it stand these programs; a packet that one of them lets pass for good is never seen.
    Behind(Vec<u32>),
    /// It is gone.
    Missing,
}

impl Presence {
    fn after(programs: Vec<u32>) -> Self {
        if programs.is_empty() {
            Self::First
        } else {
            Self::Behind(programs)
        }
    }
}

/// All interfaces.
pub fn interfaces() -> Result<Vec<Interface>, Error> {
    let failed = |e| Error::net("list", "the interfaces", e);
    let links = Socket::route()
        .and_then(|socket| socket.links())
        .map_err(failed)?;
    Ok(links.into_iter().map(Interface::from).collect())
}

/// Whether both programs of a pod's interface are there.
pub fn endpoint(pins: &Pins, ifindex: u32, hook: Hook) -> Result<Presence, Error> {
    let mut before = Vec::new();
    for point in [Point::PodEgress, Point::PodIngress] {
        match presence(pins, ifindex, point, hook)? {
            Presence::First => {}
            Presence::Behind(programs) => before.extend(programs),
            Presence::Missing => return Ok(Presence::Missing),
        }
    }
    Ok(Presence::after(before))
}

/// Whether the bridge's program is there.
pub fn bridge(pins: &Pins, ifindex: u32, hook: Hook) -> Result<Presence, Error> {
    presence(pins, ifindex, Point::Bridge, hook)
}

/// Whether what goes out of an interface is judged, whoever attached the program and how, and by whichever version. A filter of
/// ours whose program is that of the agent before, which judges by the same maps until the filter is replaced, counts.
pub fn is_judged(pins: &Pins, ifindex: u32) -> Result<bool, Error> {
    let point = Point::PodEgress;
    for version in pins.others()?.iter().chain([pins]) {
        match presence(version, ifindex, point, Hook::Tcx) {
            Ok(Presence::Missing) => {}
            // Another version's directory goes while we look.
            Err(Error::NotLoaded { .. }) if version != pins => {}
            presence => return presence.map(|_| true),
        }
    }
    let failed = |e| Error::net("look at", format!("interface {ifindex}"), e);
    let filter = Socket::route().and_then(|socket| socket.filter(ifindex, point));
    let ours = |filter: Filter| filter.name == point.program().as_bytes();
    Ok(filter.map_err(failed)?.is_some_and(ours))
}

pub(crate) fn presence(pins: &Pins, ifindex: u32, point: Point, hook: Hook) -> Result<Presence, Error> {
    let failed = |e| Error::net("look at", format!("interface {ifindex}"), e);
    let line = match sys::tcx_programs(ifindex, point.tcx()) {
        Ok(line) => line,
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(Presence::Missing),
        Err(error) => return Err(failed(error)),
    };
    let before = match hook {
        Hook::Tcx => {
            let Some(ours) = linked(pins, ifindex, point)? else {
                return Ok(Presence::Missing);
            };
            // A plugin of another version may have put its own into a link that it saw before it was ours.
            let program = pins.open(&pins.program(point.program()))?;
            if ours != sys::program_id(program.as_fd()).map_err(failed)? {
                return Ok(Presence::Missing);
            }
            let Some(place) = line.iter().position(|program| *program == ours) else {
                return Ok(Presence::Missing);
            };
            line.into_iter().take(place).collect::<Vec<_>>()
        }
        Hook::Clsact => {
            let socket = Socket::route().map_err(failed)?;
            let Some(found) = socket.filter(ifindex, point).map_err(failed)? else {
                return Ok(Presence::Missing);
            };
            let program = pins.open(&pins.program(point.program()))?;
            if found.program != sys::program_id(program.as_fd()).map_err(failed)? {
                return Ok(Presence::Missing);
            }
            // tcx programs run before the filters of clsact.
            line
        }
    };
    Ok(Presence::after(before))
}

/// The program of our pinned link, if the link is alive.
fn linked(pins: &Pins, ifindex: u32, point: Point) -> Result<Option<u32>, Error> {
    let path = pins.links().join(point.pin_name(ifindex));
    let info = match sys::open(&path).and_then(|link| sys::link_info(link.as_fd())) {
        Ok(info) => info,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::bpf("inspect", path.display(), error)),
    };
    let alive = info.ifindex == ifindex && info.attach_type == point.tcx();
    Ok(alive.then_some(info.program_id))
}

/// A filter of clsact.
pub(crate) struct Filter {
    /// Number of its program in the kernel.
    pub(crate) program: u32,
    /// As it was named when it was attached; ours are named after their programs.
    name: Vec<u8>,
}

impl Filter {
    fn read(options: &[u8]) -> Option<Self> {
        let id = netlink::attribute(options, BPF_ID)?;
        let name = netlink::attribute(options, BPF_NAME).unwrap_or_default();
        Some(Self {
            program: u32::from_ne_bytes(id.try_into().ok()?),
            name: name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec(),
        })
    }
}

impl Socket {
    /// All interfaces.
    fn links(&self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        // struct ifinfomsg
        let body = [0_u8; 16];
        self.ask(
            libc::RTM_GETLINK,
            libc::NLM_F_DUMP,
            &body,
            &[],
            |kind, payload| {
                if kind == libc::RTM_NEWLINK {
                    links.extend(netlink::parse_link(payload));
                }
            },
        )?;
        Ok(links)
    }

    /// The clsact filter in our place, or None.
    pub(crate) fn filter(&self, ifindex: u32, point: Point) -> io::Result<Option<Filter>> {
        let parent = if point.is_egress() {
            PARENT_EGRESS
        } else {
            PARENT_INGRESS
        };
        let info = PRIORITY << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
        // struct tcmsg: family and padding, interface, handle, parent, info
        let mut body = vec![0_u8; 4];
        for word in [ifindex, HANDLE, parent, info] {
            body.extend(word.to_ne_bytes());
        }
        let mut found = None;
        let outcome = self.ask(libc::RTM_GETTFILTER, 0, &body, &[], |kind, payload| {
            if kind == libc::RTM_NEWTFILTER {
                let options = payload
                    .get(20..)
                    .and_then(|attributes| netlink::attribute(attributes, OPTIONS));
                found = options.and_then(Filter::read);
            }
        });
        match outcome {
            Ok(()) => Ok(found),
            // No such filter, no clsact, no such interface.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
