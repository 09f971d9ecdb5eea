//! From a pod's network namespace to the host's end of its interface.
//!
//! ```text
//! pod   eth0   ifindex 2, kind veth, other end 9 in namespace X
//!                  ▲                            │
//!                  │ both must agree            ▼
//! host  veth4f ifindex 9, kind veth, other end 2 in namespace N = the number of the pod's namespace
//! ```
//!
//! Every pod's eth0 tends to have the same number, so one direction alone proves nothing; both together can not be
//! wrong, since a veth has exactly one other end.

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    thread,
};

use nix::sched::{CloneFlags, setns};

use crate::{
    Error,
    netlink::{Link, Socket},
};

/// The host's end of a pod's interface, and what the pod's end says of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostVeth {
    /// Number of the host's end, in this network namespace.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// MAC address of the pod's end.
    pub mac: [u8; 6],
    /// Global addresses of the pod's end.
    pub addresses: Vec<IpAddr>,
}

/// Finds the host's end of `ifname` in the network namespace at `netns` (`/run/netns/NAME`, `/proc/PID/ns/net`).
pub fn find(netns: &Path, ifname: &str) -> Result<HostVeth, Error> {
    let file = File::open(netns).map_err(|e| Error::file("open", netns.display(), e))?;
    find_in(file.as_fd(), ifname).map_err(|mut error| {
        if let Error::NotVeth { object, .. } = &mut error {
            object.push_str(&format!(" in {}", netns.display()));
        }
        error
    })
}

/// Like [`find`], for a network namespace that is open.
pub fn find_in(netns: BorrowedFd<'_>, ifname: &str) -> Result<HostVeth, Error> {
    let inside = socket_in(netns)?;
    let host = Socket::route().map_err(|e| Error::net("open", "a netlink socket", e))?;
    let ask = |what: &str| {
        let what = what.to_owned();
        move |e| Error::net("ask the kernel for", what, e)
    };
    let refuse = |why: String| Error::NotVeth {
        object: format!("interface {ifname}"),
        why,
    };

    let pod = inside
        .link_by_name(ifname)
        .map_err(ask(ifname))?
        .ok_or_else(|| refuse("does not exist".to_owned()))?;
    if pod.kind.as_deref() != Some("veth") {
        let kind = pod.kind.as_deref().unwrap_or("a device without a kind");
        return Err(refuse(format!(
            "is {kind}, and only a veth has an end on the host"
        )));
    }
    let peer = pod
        .peer
        .ok_or_else(|| refuse("its other end is unknown".to_owned()))?;

    let not_here = || refuse(format!("its other end ({peer}) is not in this network namespace"));
    let link = host
        .link_by_index(peer)
        .map_err(ask("the host's end"))?
        .ok_or_else(not_here)?;
    // After the question above, since that makes the kernel number the namespace of the other end.
    let id = host
        .netns_id(netns)
        .map_err(ask("the number of the pod's network namespace"))?;
    let points_back = link.kind.as_deref() == Some("veth")
        && link.peer == Some(pod.ifindex)
        && link.peer_netns.is_some()
        && link.peer_netns == id;
    if !points_back {
        return Err(not_here());
    }
    let mac = pod.mac.ok_or_else(|| refuse("has no MAC address".to_owned()))?;
    let addresses = inside
        .addresses(pod.ifindex)
        .map_err(ask("the pod's addresses"))?;
    Ok(HostVeth {
        ifindex: link.ifindex,
        name: link.name,
        mac,
        addresses,
    })
}

/// The number of the veth of this name in this network namespace, or None where there is no such interface or it is
/// no veth.
pub fn host_veth(name: &str) -> Result<Option<u32>, Error> {
    let is_veth = |link: &Link| link.kind.as_deref() == Some("veth");
    Ok(host_link(name)?.filter(is_veth).map(|link| link.ifindex))
}

/// The number of the interface of this name, if there is one.
pub fn ifindex(name: &str) -> Result<Option<u32>, Error> {
    Ok(host_link(name)?.map(|link| link.ifindex))
}

/// The MAC address of an interface; `None` if there is no such interface, or none of six bytes.
///
/// # Errors
/// The kernel refused to say.
pub fn mac(name: &str) -> Result<Option<[u8; 6]>, Error> {
    Ok(host_link(name)?.and_then(|link| link.mac))
}

fn host_link(name: &str) -> Result<Option<Link>, Error> {
    let host = Socket::route().map_err(|e| Error::net("open", "a netlink socket", e))?;
    host.link_by_name(name)
        .map_err(|e| Error::net("ask the kernel for", format!("interface {name}"), e))
}

/// A socket that stays in another network namespace. Only a thread of its own ever enters that.
fn socket_in(netns: BorrowedFd<'_>) -> Result<Socket, Error> {
    let enter = |source: io::Error| Error::System {
        operation: "enter",
        object: "the pod's network namespace".to_owned(),
        needs: "CAP_SYS_ADMIN",
        source,
    };
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            Socket::route()
        });
        worker
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
    .map_err(enter)
}
