//! What holds a node's namespaces: a process that makes them, mounts what a node has of its own, and sleeps.
//!
//! A node has its own /run, /etc/cni, /var/lib/cni, /sys and /sys/fs/bpf. Directories that the machine lacks are not
//! made on it: the parent is covered by a copy made of bind mounts, seen by the node alone.

use std::{
    fs::{self, File},
    io::Write as _,
    os::{fd::AsRawFd as _, unix::fs::symlink},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::sethostname,
};

use super::enter::{bind, private};

const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/route_localnet", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/bridge/bridge-nf-call-iptables", "1"),
    ("net/bridge/bridge-nf-call-ip6tables", "1"),
];

/// `vethwall-lab hold`: never returns.
pub(super) fn hold(name: &str, directory: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS)
        .context("make namespaces")?;
    sethostname(name).context("sethostname")?;
    private()?;
    let none = None::<&str>;
    for path in ["/etc/cni", "/var/lib/cni"] {
        own(Path::new(path))?;
    }
    // The lab's own directory stays visible below the node's /run.
    let state = File::open(directory)?;
    tmpfs("/run")?;
    fs::create_dir_all(directory)?;
    bind(
        Path::new(&format!("/proc/self/fd/{}", state.as_raw_fd())),
        directory,
    )?;
    for path in ["/run/netns", "/run/flannel", "/run/lock", "/etc/cni/net.d"] {
        fs::create_dir_all(path)?;
    }
    // Where /etc/resolv.conf points below /run (systemd-resolved), the pods' one has a place.
    if let Ok(target) = fs::read_link("/etc/resolv.conf") {
        let target = Path::new("/etc").join(target);
        if !target.exists() {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&target, "")?;
        }
    }
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("mount /sys")?;
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).context("mount bpffs")?;
    set_sysctls()?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "ready")?;
    stdout.flush()?;
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

/// Gives this mount namespace an empty directory of its own there, whether the machine has one or not.
pub(crate) fn own(path: &Path) -> Result<()> {
    mount_point(path)?;
    tmpfs(&path.display().to_string())
}

/// Makes this network namespace a node's.
pub(crate) fn set_sysctls() -> Result<()> {
    for (key, value) in SYSCTLS {
        let path = Path::new("/proc/sys").join(key);
        if path.exists() {
            fs::write(&path, value).with_context(|| format!("write {}", path.display()))?;
        }
    }
    Ok(())
}

fn tmpfs(path: &str) -> Result<()> {
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .with_context(|| format!("mount {path}"))
}

/// Makes a directory to mount on, in this mount namespace only.
fn mount_point(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().context("no parent")?;
    let entries: Vec<_> = fs::read_dir(parent)?.flatten().collect();
    let held = File::open(parent).with_context(|| format!("open {}", parent.display()))?;
    tmpfs(&parent.display().to_string())?;
    for entry in entries {
        let from = Path::new(&format!("/proc/self/fd/{}", held.as_raw_fd())).join(entry.file_name());
        let to = parent.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
        } else if kind.is_dir() {
            fs::create_dir(&to)?;
            bind(&from, &to)?;
        } else {
            File::create(&to)?;
            bind(&from, &to)?;
        }
    }
    fs::create_dir(path)?;
    Ok(())
}
