//! Programs of somebody else on an interface: two instructions that say what becomes of a packet.

#![expect(unsafe_code, reason = "bpf(2) takes addresses")]

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use nix::libc;

const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const SCHED_CLS: u32 = 3;
const F_BEFORE: u32 = 8;
const F_AFTER: u32 = 16;
/// `BPF_TCX_INGRESS`.
pub(super) const INGRESS: u32 = 46;
/// `BPF_TCX_EGRESS`.
pub(super) const EGRESS: u32 = 47;

/// Ends the line and lets the packet pass: `TCX_PASS`, `TC_ACT_OK`. The kernel then overwrites `tc_index`.
pub(super) const PASS: i32 = 0;

/// Where in the line.
#[derive(Clone, Copy)]
pub(super) enum Place {
    First,
    Last,
}

#[derive(Default)]
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    rest: [u64; 8],
}

#[repr(C)]
struct Link {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: u64,
    revision: u64,
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is readable for its size, and what it points to outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands return a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program that always says `answer`, in this thread's network namespace. It is there until this is dropped.
pub(super) fn attach(ifindex: u32, attach_type: u32, place: Place, answer: i32) -> io::Result<OwnedFd> {
    // r0 = answer; exit
    let instructions = [0xb7 | u64::from(answer.cast_unsigned()) << 32, 0x95];
    let program = bpf(
        PROG_LOAD,
        &mut Load {
            kind: SCHED_CLS,
            count: 2,
            instructions: instructions.as_ptr().expose_provenance() as u64,
            license: c"GPL".as_ptr().expose_provenance() as u64,
            ..Load::default()
        },
    )?;
    bpf(
        LINK_CREATE,
        &mut Link {
            program: program.as_raw_fd().cast_unsigned(),
            ifindex,
            attach_type,
            flags: match place {
                Place::First => F_BEFORE,
                Place::Last => F_AFTER,
            },
            relative: 0,
            revision: 0,
        },
    )
}
