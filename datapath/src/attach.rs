//! Programs on interfaces.
//!
//! ```text
//! pod's veth, host side    ingress ◄ from_pod     links/<ifindex>-ingress
//!                          egress  ◄ to_pod       links/<ifindex>-egress
//! cni0                     ingress ◄ from_bridge  links/<ifindex>-bridge
//! ```
//!
//! tcx (kernel 6.6) where the kernel has it: links that are pinned, outlive us, and that nobody takes off by chance. Below,
//! clsact filters: they live as long as the interface and are replaced in place.
//!
//! A tcx attachment waits for RCU under rtnl (`tcx_entry_sync`, kernel/bpf/tcx.c), so that those of a node queue; a filter does
//! not (docs/benchmarks.md has both). So a pod is *closed* by filters, and *settled* on links when nobody waits:
//!
//! ```text
//! close_endpoint ─► clsact ─► settle_endpoint: links beside the filters ─► filters off
//! ```
//!
//! Invariants:
//! - Attaching is idempotent, also from several processes at once: the plugin and the agent may meet on one interface.
//! - An interface is named by number and by name, and both must agree: a name that another interface took over since
//!   is refused.
//! - Without a record in the endpoint maps an attached program drops all but ARP and neighbour discovery, so attaching
//!   early is safe and attaching late is not.

use std::{
    fmt, fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    thread,
    time::Duration,
};

use nix::libc;

use crate::{Error, Pins, clsact, pins::unpin, point::Point, surroundings, sys, versions};

/// How a program hangs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// A pinned tcx link.
    Tcx,
    /// A filter of the clsact queueing discipline.
    Clsact,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// Which hook to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// tcx, or clsact where the kernel refuses tcx.
    #[default]
    Best,
    /// Only this one.
    Only(Hook),
}

/// A pinned link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedLink {
    /// The interface in the pin's name.
    pub ifindex: u32,
    /// The program that belongs there.
    pub program: &'static str,
    /// Number of the link in the kernel; it stays when the program is replaced.
    pub link_id: u32,
    /// Number of the program in the kernel.
    pub program_id: u32,
    /// The interface is there; false once it was deleted.
    pub alive: bool,
}

/// Attaches both programs to a pod's host-side interface. What is attached already stays, with the program replaced
/// where it is not the pinned one.
pub fn attach_endpoint(pins: &Pins, ifindex: u32, ifname: &str, choice: Choice) -> Result<Hook, Error> {
    // Towards the pod first: nothing can be sent in answer to what does not arrive.
    attach(pins, Point::PodEgress, ifindex, ifname, choice)?;
    attach(pins, Point::PodIngress, ifindex, ifname, choice)
}

/// Closes a pod's host-side interface as quickly as can be: by clsact where the choice is free, and by tcx where an `ingress`
/// queueing discipline (the bandwidth plugin's) leaves no room for one. What hangs there by tcx already stays.
pub fn close_endpoint(pins: &Pins, ifindex: u32, ifname: &str, choice: Choice) -> Result<Hook, Error> {
    if choice != Choice::Best || has_links(pins, ifindex)? {
        return attach_endpoint(pins, ifindex, ifname, choice);
    }
    match attach_endpoint(pins, ifindex, ifname, Choice::Only(Hook::Clsact)) {
        Err(Error::Occupied { .. }) => attach_endpoint(pins, ifindex, ifname, choice),
        closed => closed,
    }
}

/// Moves a pod's interface from clsact to tcx, where the kernel has it. Both judge until the filters are off, so there is no
/// packet without a judge; a packet that both judge has the same verdict twice.
pub fn settle_endpoint(pins: &Pins, ifindex: u32, ifname: &str) -> Result<Hook, Error> {
    let hook = attach_endpoint(pins, ifindex, ifname, Choice::Best)?;
    if hook == Hook::Tcx {
        clsact::detach(pins, Point::PodIngress, ifindex, ifname)?;
        clsact::detach(pins, Point::PodEgress, ifindex, ifname)?;
    }
    Ok(hook)
}

/// Whether both programs hang there by living links, which carry the pinned programs now.
fn has_links(pins: &Pins, ifindex: u32) -> Result<bool, Error> {
    for point in [Point::PodEgress, Point::PodIngress] {
        versions::adopt(pins, ifindex, point)?;
        let path = pins.links().join(point.pin_name(ifindex));
        if matches!(update_link(pins, &path, ifindex, point)?, Existing::Gone) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Attaches the second stage to the bridge of the pods.
pub fn attach_bridge(pins: &Pins, ifindex: u32, ifname: &str, choice: Choice) -> Result<Hook, Error> {
    attach(pins, Point::Bridge, ifindex, ifname, choice)
}

/// Takes the programs off a pod's interface, whichever way they hang there. What is absent is no error.
pub fn detach_endpoint(pins: &Pins, ifindex: u32, ifname: &str) -> Result<(), Error> {
    detach(pins, Point::PodIngress, ifindex, ifname)?;
    detach(pins, Point::PodEgress, ifindex, ifname)
}

/// Takes the program off the bridge.
pub fn detach_bridge(pins: &Pins, ifindex: u32, ifname: &str) -> Result<(), Error> {
    detach(pins, Point::Bridge, ifindex, ifname)
}

/// Takes every program of ours, of any version, off every interface, whichever way it hangs there, and removes the pins. One
/// that fails stops no other, and keeps the pins, so that it can be tried again.
pub fn remove_all(pins: &Pins) -> Result<(), Error> {
    let mut failed = None;
    for version in versions_of(pins)? {
        for_each_pin(&version, |path, _, _| {
            failed = detach_link(path).err().or(failed.take());
            Ok(())
        })?;
    }
    for interface in surroundings::interfaces()? {
        for point in Point::ALL {
            failed = clsact::detach(pins, point, interface.ifindex, &interface.name)
                .err()
                .or(failed);
        }
    }
    failed.map_or_else(|| pins.remove_all(), Err)
}

/// This version and the others that are there.
fn versions_of(pins: &Pins) -> Result<Vec<Pins>, Error> {
    let mut versions = pins.others()?;
    versions.push(pins.clone());
    Ok(versions)
}

/// All pinned links.
pub fn links(pins: &Pins) -> Result<Vec<PinnedLink>, Error> {
    let mut links = Vec::new();
    for_each_pin(pins, |path, ifindex, point| {
        let info = match sys::open(path).and_then(|link| sys::link_info(link.as_fd())) {
            Ok(info) => info,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::bpf("inspect", path.display(), error)),
        };
        links.push(PinnedLink {
            ifindex,
            program: point.program(),
            link_id: info.id,
            program_id: info.program_id,
            alive: info.ifindex == ifindex,
        });
        Ok(())
    })?;
    links.sort_by_key(|link| (link.ifindex, link.program));
    Ok(links)
}

/// Removes the pins of links, of any version, whose interface is gone; returns the interfaces' numbers.
pub fn collect_garbage(pins: &Pins) -> Result<Vec<u32>, Error> {
    let mut gone = Vec::new();
    for version in versions_of(pins)? {
        for link in links(&version)? {
            if link.alive {
                continue;
            }
            for point in Point::ALL {
                if point.program() == link.program {
                    unpin(&version.links().join(point.pin_name(link.ifindex)))?;
                }
            }
            gone.push(link.ifindex);
        }
    }
    clsact::forget_gone(pins)?;
    gone.dedup();
    Ok(gone)
}

/// Puts the pinned programs into every pinned link; returns how many were replaced. One link that fails stops no other.
pub(crate) fn update_links(pins: &Pins) -> Result<usize, Error> {
    let mut updated = 0;
    let mut failed = None;
    for_each_pin(pins, |path, ifindex, point| {
        match update_link(pins, path, ifindex, point) {
            Ok(Existing::Updated) => updated += 1,
            Ok(Existing::Current | Existing::Gone) => {}
            Err(error) => failed = Some(error),
        }
        Ok(())
    })?;
    failed.map_or(Ok(updated), Err)
}

pub(crate) fn for_each_pin(
    pins: &Pins,
    mut each: impl FnMut(&Path, u32, Point) -> Result<(), Error>,
) -> Result<(), Error> {
    let directory = pins.links();
    let failed = |e| Error::file("list", directory.display(), e);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if let Some((ifindex, point)) = entry.file_name().to_str().and_then(Point::parse) {
            each(&entry.path(), ifindex, point)?;
        }
    }
    Ok(())
}

/// What became of a pinned link.
pub(crate) enum Existing {
    /// It carries the pinned program.
    Current,
    /// It carries it now.
    Updated,
    /// There is none, or its interface is gone.
    Gone,
}

/// Puts the pinned program into the link that is pinned at `path`.
pub(crate) fn update_link(pins: &Pins, path: &Path, ifindex: u32, point: Point) -> Result<Existing, Error> {
    let link = match sys::open(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Existing::Gone),
        Err(error) => return Err(Error::bpf("open", path.display(), error)),
    };
    let inspect = |e| Error::bpf("inspect", path.display(), e);
    let info = sys::link_info(link.as_fd()).map_err(inspect)?;
    let fits = info.kind == sys::LINK_TYPE_TCX && info.attach_type == point.tcx();
    if info.ifindex != ifindex || !fits {
        return Ok(Existing::Gone);
    }
    let program = pins.open(&pins.program(point.program()))?;
    if sys::program_id(program.as_fd()).map_err(inspect)? == info.program_id {
        return Ok(Existing::Current);
    }
    match sys::link_update(link.as_fd(), program.as_fd()) {
        Ok(()) => Ok(Existing::Updated),
        // The interface went in between.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(Existing::Gone),
        Err(error) => Err(Error::bpf("replace the program of", path.display(), error)),
    }
}

fn attach(pins: &Pins, point: Point, ifindex: u32, ifname: &str, choice: Choice) -> Result<Hook, Error> {
    let found = nix::net::if_::if_nametoindex(ifname).unwrap_or(0);
    if ifindex == 0 || found != ifindex {
        return Err(Error::invalid(
            format!("interface {ifname}"),
            format!("number {ifindex} was expected, {found} found: the interface was replaced"),
        ));
    }
    let program = pins.open(&pins.program(point.program()))?;
    versions::adopt(pins, ifindex, point)?;
    let clsact = || clsact::attach(pins, point, ifindex, ifname).map(|()| Hook::Clsact);
    match choice {
        Choice::Only(Hook::Clsact) => clsact(),
        Choice::Only(Hook::Tcx) => attach_tcx(pins, point, program.as_fd(), ifindex)?.ok_or_else(|| {
            Error::invalid(
                format!("interface {ifname}"),
                "this kernel has no tcx (6.6 or newer)",
            )
        }),
        Choice::Best => match attach_tcx(pins, point, program.as_fd(), ifindex)? {
            Some(hook) => Ok(hook),
            None => clsact(),
        },
    }
}

/// `None` where the kernel does not know tcx.
fn attach_tcx(
    pins: &Pins,
    point: Point,
    program: BorrowedFd<'_>,
    ifindex: u32,
) -> Result<Option<Hook>, Error> {
    const TRIES: u32 = 40;
    const PAUSE: Duration = Duration::from_millis(10);
    let path = pins.links().join(point.pin_name(ifindex));
    let failed = |e| Error::net("attach a program to", format!("interface {ifindex}"), e);
    for _ in 0..TRIES {
        match update_link(pins, &path, ifindex, point)? {
            Existing::Current | Existing::Updated => return Ok(Some(Hook::Tcx)),
            Existing::Gone => drop(unpin(&path)?),
        }
        let link = match sys::link_create(program, ifindex, point.tcx()) {
            Ok(link) => link,
            // Somebody has attached the same program and not pinned it yet, or failed and is about to let go.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                thread::sleep(PAUSE);
                continue;
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        match sys::pin(link.as_fd(), &path) {
            Ok(()) => return Ok(Some(Hook::Tcx)),
            // Somebody was faster, with another program: keep the link that is pinned.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::bpf("pin", path.display(), error)),
        }
    }
    Err(failed(io::Error::other(
        "another process holds the hook and does not pin its link",
    )))
}

fn detach(pins: &Pins, point: Point, ifindex: u32, ifname: &str) -> Result<(), Error> {
    if detach_link(&pins.links().join(point.pin_name(ifindex)))? {
        return Ok(());
    }
    clsact::detach(pins, point, ifindex, ifname)
}

/// Takes a pinned link off its interface; whether there was one.
fn detach_link(path: &Path) -> Result<bool, Error> {
    let link = match sys::open(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::bpf("open", path.display(), error)),
    };
    // A link whose interface is gone has nothing to be taken off; its pin goes all the same.
    let detached = sys::link_detach(link.as_fd());
    let gone = sys::link_info(link.as_fd()).is_ok_and(|info| info.ifindex == 0);
    unpin(path)?;
    match detached {
        Err(error) if !gone => Err(Error::net("detach", path.display(), error)),
        _ => Ok(true),
    }
}
