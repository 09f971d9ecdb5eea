//! What can go wrong between user space and the kernel.
//!
//! Every error names the operation and its object; the cause is the error's source. Where the kernel answers EPERM the
//! text says which capability the caller lacks, and where bpffs is missing it says how to mount it.

use std::{io, path::PathBuf};

use nix::libc;

/// An operation on the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no bpffs where one is needed.
    #[error(
        "{at} is no BPF file system; as root, mount one: mkdir -p {at} && mount -t bpf bpf {at}",
        at = path.display()
    )]
    NoBpffs {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Nothing is pinned: no agent has loaded the programs since the node booted.
    #[error("vethwall is not loaded on this node: {} does not exist", path.display())]
    NotLoaded {
        /// The pin that is missing.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {operation} {object}{}", hint(source, needs))]
    System {
        /// What was tried.
        operation: &'static str,
        /// With what.
        object: String,
        /// The capability it takes.
        needs: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel or its object file was refused by the loader.
    #[error("cannot {operation} {object}{}", hint_in_chain(source.as_ref()))]
    Loader {
        /// What was tried.
        operation: &'static str,
        /// With what.
        object: String,
        /// What aya said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map has no room.
    #[error("map {map} is full ({max_entries} entries)")]
    Full {
        /// Its name.
        map: &'static str,
        /// Its size.
        max_entries: u32,
    },
    /// What is pinned was made by a program with other ideas of the layout.
    #[error("{} does not fit this version: {what}; detach and remove {} to start afresh", path.display(), directory.display())]
    Incompatible {
        /// The pin.
        path: PathBuf,
        /// What differs.
        what: String,
        /// The pin directory.
        directory: PathBuf,
    },
    /// The caller asked for something that makes no sense; nothing was changed.
    #[error("{object}: {why}")]
    Invalid {
        /// What was asked for.
        object: String,
        /// Why it is refused.
        why: String,
    },
    /// On a kernel without tcx, a queueing discipline of somebody else keeps our filters from seeing every packet.
    #[error(
        "{object} has a queueing discipline `{kind}`, beside which this kernel lets no program judge what goes to the pod; \
         kernels with tcx (6.6) do. A pod with the annotation kubernetes.io/egress-bandwidth has one"
    )]
    Occupied {
        /// The interface.
        object: String,
        /// Kind of the queueing discipline.
        kind: String,
    },
    /// The interface is not one end of a veth pair that joins this network namespace with the pod's.
    #[error("{object}: {why}")]
    NotVeth {
        /// The interface.
        object: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    pub(crate) fn bpf(operation: &'static str, object: impl ToString, source: io::Error) -> Self {
        Self::System {
            operation,
            object: object.to_string(),
            needs: "CAP_BPF",
            source,
        }
    }

    pub(crate) fn net(operation: &'static str, object: impl ToString, source: io::Error) -> Self {
        Self::System {
            operation,
            object: object.to_string(),
            needs: "CAP_NET_ADMIN",
            source,
        }
    }

    pub(crate) fn file(operation: &'static str, object: impl ToString, source: io::Error) -> Self {
        Self::System {
            operation,
            object: object.to_string(),
            needs: "root",
            source,
        }
    }

    pub(crate) fn loader(
        operation: &'static str,
        object: impl ToString,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Loader {
            operation,
            object: object.to_string(),
            source: source.into(),
        }
    }

    pub(crate) fn invalid(object: impl ToString, why: impl ToString) -> Self {
        Self::Invalid {
            object: object.to_string(),
            why: why.to_string(),
        }
    }

    /// The error and its causes in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let cause = error.to_string();
            // aya's errors often repeat their source.
            if !text.ends_with(&cause) {
                text.push_str(": ");
                text.push_str(&end_of_log(&cause));
            }
            source = error.source();
        }
        text
    }
}

fn hint(source: &io::Error, needs: &str) -> String {
    // Not EACCES: that is what the verifier answers to a program it refuses.
    match source.raw_os_error() {
        Some(libc::EPERM) => format!(" ({needs} is missing)"),
        _ => String::new(),
    }
}

/// The verifier tells of every instruction; why it refused a program are the last lines, all in one here.
fn end_of_log(cause: &str) -> String {
    const LOG: &str = "Verifier output: ";
    const SHOWN: usize = 4;
    let Some((before, log)) = cause.split_once(LOG) else {
        return cause.to_owned();
    };
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let end = lines.get(lines.len().saturating_sub(SHOWN)..).unwrap_or_default();
    format!("{before}{LOG}{}", end.join("; "))
}

/// Numbers in linux/capability.h. The first stands for the others but CAP_NET_ADMIN.
const SYS_ADMIN: u64 = 1 << 21;
const LOADERS: [(u64, &str); 3] = [
    (1 << 39, "CAP_BPF"),
    (1 << 38, "CAP_PERFMON"),
    (1 << 12, "CAP_NET_ADMIN"),
];

/// Which capabilities of those that loading takes a thread has not, by its `status` in /proc.
fn lacking(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(held) = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()) else {
        return Vec::new();
    };
    let has = |bit: u64| held & bit != 0 || (bit != 1 << 12 && held & SYS_ADMIN != 0);
    let lacking = LOADERS.iter().filter(|(bit, _)| !has(*bit));
    lacking.map(|(_, name)| *name).collect()
}

fn hint_in_chain(source: &(dyn std::error::Error + 'static)) -> String {
    let mut error: Option<&(dyn std::error::Error + 'static)> = Some(source);
    while let Some(cause) = error {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            // The verifier refuses what only CAP_PERFMON may do as it refuses a broken program, with EACCES.
            if matches!(io.raw_os_error(), Some(libc::EPERM | libc::EACCES)) {
                let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
                let lacking = lacking(&status);
                if !lacking.is_empty() {
                    return format!(" ({} is missing)", lacking.join(", "));
                }
            }
            return hint(
                io,
                "CAP_BPF, CAP_PERFMON or CAP_NET_ADMIN, or below Linux 5.11 CAP_SYS_RESOURCE,",
            );
        }
        error = cause.source();
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_capability_is_named() {
        let error = Error::bpf("open", "/x", io::Error::from_raw_os_error(libc::EPERM));
        assert!(error.to_string().contains("CAP_BPF is missing"), "{error}");
        assert!(
            error.chain().contains("Operation not permitted"),
            "{}",
            error.chain()
        );
        let error = Error::net("list", "links", io::Error::from_raw_os_error(libc::ENODEV));
        assert!(!error.to_string().contains("missing"), "{error}");
        let error = Error::loader("load", "p", io::Error::from_raw_os_error(libc::EPERM));
        assert!(error.to_string().contains("is missing"), "{error}");
    }

    #[test]
    fn of_what_loading_takes_only_what_is_missing_is_named() {
        let of = |mask: &str| lacking(&format!("Name:\tx\nCapEff:\t{mask}\n"));
        assert_eq!(of("000000c000001000"), [""; 0], "as the chart gives");
        assert_eq!(of("0000008000001000"), ["CAP_PERFMON"]);
        assert_eq!(of("000001ffffffffff"), [""; 0]);
        assert_eq!(of("0000000000200000"), ["CAP_NET_ADMIN"], "CAP_SYS_ADMIN");
        assert_eq!(of("0"), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
    }

    #[test]
    fn of_the_verifiers_log_the_end_is_told() {
        let log =
            "refused. Verifier output: 0: r1\n1: r2\n2: r3\n3: r4\nR4 pointer arithmetic prohibited\n\n";
        assert_eq!(
            end_of_log(log),
            "refused. Verifier output: 1: r2; 2: r3; 3: r4; R4 pointer arithmetic prohibited"
        );
        assert_eq!(end_of_log("Operation not permitted"), "Operation not permitted");
    }

    #[test]
    fn a_missing_bpffs_says_how_to_mount_it() {
        let error = Error::NoBpffs {
            path: "/sys/fs/bpf".into(),
        };
        assert!(
            error.to_string().contains("mount -t bpf bpf /sys/fs/bpf"),
            "{error}"
        );
    }
}
