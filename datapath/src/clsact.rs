//! Attaching on kernels without tcx: direct-action filters of the clsact queueing discipline.

use std::{io, mem::ManuallyDrop};

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};
use nix::libc;

use crate::{Error, Pins, netlink, point::Point};

/// Our filter's place: before those that other programs add without asking for one.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 1);

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
    match tc::qdisc_add_clsact(ifname) {
        Ok(()) => {}
        Err(error) if code(&error) == Some(libc::EEXIST) => {}
        Err(error) => return Err(failed("add clsact to", object(), error)),
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
    let kind = netlink::Socket::route()
        .and_then(|socket| socket.ingress_qdisc(ifindex))
        .map_err(|e| Error::net("inspect the queueing disciplines of", object(), e))?;
    match kind.as_deref() {
        Some("clsact") => Ok(()),
        other => Err(Error::Occupied {
            object: object(),
            kind: other.unwrap_or("none").to_owned(),
        }),
    }
}

/// Takes our filter off; one that is absent is no error. The queueing discipline may be somebody else's and stays.
pub(crate) fn detach(point: Point, ifname: &str) -> Result<(), Error> {
    match tc::qdisc_detach_program(ifname, direction(point), point.program()) {
        Ok(()) => Ok(()),
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // No clsact, so nothing of ours.
        Err(error) if matches!(code(&error), Some(libc::EINVAL | libc::ENOENT)) => Ok(()),
        Err(error) => Err(failed("detach from", format!("interface {ifname}"), error)),
    }
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
