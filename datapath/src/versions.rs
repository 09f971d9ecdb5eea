//! One version of the layouts takes over from another, upwards or downwards.
//!
//! ```text
//!  v1/links/7-ingress ── link ── program of v1       v2/maps filled, connections known, v2/programs pinned
//!          │  1. the link gets the program of v2: one packet meets the old one, the next meets the new one
//!          │  2. its pin is renamed
//!  v2/links/7-ingress ── link ── program of v2       3. when nothing is left: v1/programs go, then all of v1/
//! ```
//! clsact: the filters of all versions have one place, and the new one replaces the old one there.
//!
//! Invariants:
//! - On each hook of an interface one version judges, before, between and after any two steps; never none. Two do where an
//!   old plugin attached beside the new programs: then both must pass, and the old ones go with the next step.
//! - Whatever step was the last before a crash, either version can go on: a link that is pinned below v1 and carries the
//!   program of v2 is v1's again with its next load, or v2's with the next adoption.
//! - An interface that carries programs of another version gets ours, known to the agent or not: it is closed rather than
//!   open, and the other version's directory goes only when nothing hangs on it.
//! - Nothing is taken over before the caller has filled the maps: [`supersede`] is called by the agent when its policy is in
//!   force, and attaching one interface adopts that one.

use std::{fs, io, os::fd::AsFd};

use crate::{
    Error, Hook, Pins,
    attach::{Existing, for_each_pin, update_link},
    clsact,
    netlink::Socket,
    pins::unpin,
    point::Point,
    surroundings::{self, Interface, Presence},
    sys,
};

/// Puts the programs of this version wherever those of others hang, and removes what the others have pinned. What fails stops
/// nothing else, keeps the other version's pins, and can be tried again.
///
/// # Errors
///
/// The last of what failed.
pub fn supersede(pins: &Pins) -> Result<(), Error> {
    let mut failed = None;
    for other in pins.others()? {
        let mut left = None;
        for_each_pin(&other, |_, ifindex, point| {
            left = adopt_from(pins, &other, ifindex, point).err().or(left.take());
            Ok(())
        })?;
        for interface in surroundings::interfaces()? {
            for point in Point::ALL {
                left = replace_filter(pins, &other, &interface, point).err().or(left);
            }
        }
        failed = match left {
            None => other.remove().err().or(failed),
            Some(error) => Some(error),
        };
    }
    failed.map_or(Ok(()), Err)
}

/// What other versions pinned on one hook becomes ours.
pub(crate) fn adopt(pins: &Pins, ifindex: u32, point: Point) -> Result<(), Error> {
    for other in pins.others()? {
        adopt_from(pins, &other, ifindex, point)?;
    }
    Ok(())
}

fn adopt_from(pins: &Pins, other: &Pins, ifindex: u32, point: Point) -> Result<(), Error> {
    let name = point.pin_name(ifindex);
    let (theirs, ours) = (other.links().join(&name), pins.links().join(&name));
    let link = match sys::open(&theirs) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::bpf("open", theirs.display(), error)),
    };
    match update_link(pins, &ours, ifindex, point)? {
        // Ours judges already. Detached at once, or the kernel lets the old program judge for a while yet.
        Existing::Current | Existing::Updated => {
            sys::link_detach(link.as_fd()).map_err(|e| Error::net("detach", theirs.display(), e))?;
            unpin(&theirs).map(drop)
        }
        Existing::Gone => match update_link(pins, &theirs, ifindex, point)? {
            Existing::Gone => unpin(&theirs).map(drop),
            Existing::Current | Existing::Updated => match fs::rename(&theirs, &ours) {
                // Plugin and agent met here.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                renamed => renamed.map_err(|e| Error::file("move", theirs.display(), e)),
            },
        },
    }
}

fn replace_filter(pins: &Pins, other: &Pins, interface: &Interface, point: Point) -> Result<(), Error> {
    let Interface { ifindex, name, .. } = interface;
    let failed = |e| Error::net("look at", format!("interface {name}"), e);
    let found = Socket::route()
        .and_then(|socket| socket.filter(*ifindex, point))
        .map_err(failed)?;
    let theirs = match sys::open(&other.program(point.program())) {
        Ok(program) => sys::program_id(program.as_fd()).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if found.is_none_or(|filter| filter.program != theirs) {
        return Ok(());
    }
    if surroundings::presence(pins, *ifindex, point, Hook::Tcx)? == Presence::Missing {
        clsact::attach(pins, point, *ifindex, name)
    } else {
        clsact::detach(pins, point, *ifindex, name)
    }
}
