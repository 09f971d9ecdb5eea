//! Attaching on kernels without tcx: direct-action filters of the clsact queueing discipline.
//!
//! A clsact that we added is marked in our pin directory, so that it goes with our last filter; one that was there, or that
//! carries a filter of somebody else, stays. The mark comes first: what is told apart wrongly after a crash is a clsact
//! without any filter.

use std::{fs, io, mem::ManuallyDrop, path::Path};

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};
use netlink_packet_core::DefaultNla;
use nix::libc;

use crate::{
    Error, Pins,
    netlink::{PARENT_EGRESS, PARENT_INGRESS, Socket, TC_H_CLSACT},
    pins::directory_for_root,
    point::Point,
};

/// Our filter's place: before those that other programs add without asking for one.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 1);
/// The handle of every clsact.
const QDISC: u32 = 0xffff_0000;

fn direction(point: Point) -> TcAttachType {
    if point.is_egress() {
        TcAttachType::Egress
    } else {
        TcAttachType::Ingress
    }
}

/// Attaches, or replaces our filter in place.
pub(crate) fn attach(pins: &Pins, point: Point, ifindex: u32, ifname: &str) -> Result<(), Error> {
    let object = || format!("interface {ifname} ({ifindex})");
    if qdisc(ifindex, object)?.is_none() {
        directory_for_root(&pins.clsact(ifindex))?;
        match tc::qdisc_add_clsact(ifname) {
            Ok(()) => {}
            Err(error) if code(&error) == Some(libc::EEXIST) => {}
            Err(error) => return Err(failed("add clsact to", object(), error)),
        }
    }
    check(ifindex, object)?;
    let path = pins.program(point.program());
    let mut program =
        SchedClassifier::from_pin(&path).map_err(|e| Error::loader("open", path.display(), e))?;
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    });
    let id = match program.attach_with_options(ifname, direction(point), options) {
        Err(ProgramError::TcError(error)) if code(&error) == Some(libc::EEXIST) => {
            let ours = SchedClassifierLink::attached(ifname, direction(point), PRIORITY, HANDLE, None)
                .map_err(|e| Error::net("find", object(), e))?;
            program.attach_to_link(ours)
        }
        other => other,
    }
    .map_err(|e| failed("attach a filter to", object(), e))?;
    // The filter stays when the handle goes; aya would take it off.
    let link = program
        .take_link(id)
        .map_err(|e| failed("keep the filter of", object(), e))?;
    let _kept = ManuallyDrop::new(link);
    Ok(())
}

/// EEXIST has two causes: a clsact is there, or an `ingress`. The latter takes filters for either direction, and runs
/// all of them on what comes in: nothing would judge what goes out, and each direction's filter would replace the
/// other's.
fn check(ifindex: u32, object: impl Fn() -> String) -> Result<(), Error> {
    match qdisc(ifindex, &object)?.as_deref() {
        Some("clsact") => Ok(()),
        other => Err(Error::Occupied {
            object: object(),
            kind: other.unwrap_or("none").to_owned(),
        }),
    }
}

fn qdisc(ifindex: u32, object: impl Fn() -> String) -> Result<Option<String>, Error> {
    Socket::route()
        .and_then(|socket| socket.ingress_qdisc(ifindex))
        .map_err(|e| Error::net("inspect the queueing disciplines of", object(), e))
}

/// Takes our filter off, and the clsact with the last one if it is ours. What is absent is no error.
pub(crate) fn detach(pins: &Pins, point: Point, ifindex: u32, ifname: &str) -> Result<(), Error> {
    let same = nix::net::if_::if_nametoindex(ifname).is_ok_and(|found| found == ifindex);
    if !same {
        return Ok(());
    }
    match tc::qdisc_detach_program(ifname, direction(point), point.program()) {
        Ok(()) => {}
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
        // No clsact, so nothing of ours.
        Err(error) if matches!(code(&error), Some(libc::EINVAL | libc::ENOENT)) => {}
        Err(error) => return Err(failed("detach from", format!("interface {ifname}"), error)),
    }
    let mark = pins.clsact(ifindex);
    if !mark.exists() {
        return Ok(());
    }
    remove_qdisc(ifindex, &mark)
        .map_err(|e| Error::net("remove clsact from", format!("interface {ifname}"), e))
}

/// Removes a clsact that is marked as ours, unless a filter hangs on it.
fn remove_qdisc(ifindex: u32, mark: &Path) -> io::Result<()> {
    let socket = Socket::route()?;
    if socket.ingress_qdisc(ifindex)?.as_deref() == Some("clsact") {
        if socket.has_filters(ifindex)? {
            return Ok(());
        }
        socket.delete_clsact(ifindex)?;
    }
    fs::remove_dir(mark)
}

/// Removes the marks of interfaces that are gone, and their clsact with them.
pub(crate) fn forget_gone(pins: &Pins) -> Result<(), Error> {
    let directory = pins.clsacts();
    let failed = |e| Error::file("clean", directory.display(), e);
    let marks = match fs::read_dir(&directory) {
        Ok(marks) => marks,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let socket = Socket::route().map_err(failed)?;
    for mark in marks {
        let mark = mark.map_err(failed)?;
        let ifindex = mark.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(ifindex) = ifindex
            && socket.link_by_index(ifindex).map_err(failed)?.is_none()
        {
            fs::remove_dir(mark.path()).map_err(failed)?;
        }
    }
    Ok(())
}

impl Socket {
    /// Whether anybody's filter hangs on an interface's clsact.
    fn has_filters(&self, ifindex: u32) -> io::Result<bool> {
        let mut found = false;
        for parent in [PARENT_INGRESS, PARENT_EGRESS] {
            self.ask(
                libc::RTM_GETTFILTER,
                libc::NLM_F_DUMP,
                &tcmsg(ifindex, 0, parent),
                &[],
                |kind, _| found |= kind == libc::RTM_NEWTFILTER,
            )?;
        }
        Ok(found)
    }

    /// Removes a clsact; an `ingress` in its place is refused.
    fn delete_clsact(&self, ifindex: u32) -> io::Result<()> {
        let kind = DefaultNla::new(libc::TCA_KIND, b"clsact\0".to_vec());
        self.ask(
            libc::RTM_DELQDISC,
            libc::NLM_F_ACK,
            &tcmsg(ifindex, QDISC, TC_H_CLSACT),
            &[kind],
            |_, _| {},
        )
    }
}

/// `struct tcmsg`: family and padding, interface, handle, parent, info.
fn tcmsg(ifindex: u32, handle: u32, parent: u32) -> Vec<u8> {
    [0, ifindex, handle, parent, 0]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect()
}

fn code(error: &TcError) -> Option<i32> {
    if let TcError::NetlinkError(error) = error {
        return error.raw_os_error();
    }
    None
}

fn failed(
    operation: &'static str,
    object: String,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::loader(operation, object, error)
}
