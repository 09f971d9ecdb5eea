//! The commands of bpf(2) that aya does not show: loading with the verifier's statistics, and running without a context.

#![expect(unsafe_code, reason = "bpf(2) takes addresses")]

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type};
use nix::libc;

/// `BPF_LOG_STATS`.
const STATISTICS: u32 = 4;

/// # Safety
///
/// Every address in `attr` must be that of memory that lives as long as the call and is as long as `attr` says.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_int> {
    // SAFETY: the caller's promise; `attr` itself is as long as is said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            libc::c_long::from(command as u32),
            &raw mut *attr,
            mem::size_of::<bpf_attr>(),
        )
    };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of structures of plain numbers, for each of which zero is a value.
    unsafe { mem::zeroed() }
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).map_err(io::Error::other)
}

/// Loads a SCHED_CLS program; with it come the verifier's statistics.
pub(super) fn load(instructions: &[bpf_insn], licence: &std::ffi::CStr) -> io::Result<(OwnedFd, String)> {
    let mut log = vec![0_u8; 64 * 1024];
    let mut attr = zeroed();
    // SAFETY: BPF_PROG_LOAD takes this part of the union, and all of it is zero.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    load.insns = instructions.as_ptr().expose_provenance() as u64;
    load.insn_cnt = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    load.license = licence.as_ptr().expose_provenance() as u64;
    load.log_level = STATISTICS;
    load.log_buf = log.as_mut_ptr().expose_provenance() as u64;
    load.log_size = length(&log)?;
    // SAFETY: the instructions, the licence and the log outlive the call, and the lengths are theirs.
    let fd = unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)? };
    // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    Ok((fd, String::from_utf8_lossy(&log[..end]).into_owned()))
}

/// Runs a program once on a frame, with a context that is all zero; what it returns.
pub(super) fn run(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<u32> {
    let mut attr = zeroed();
    // SAFETY: BPF_PROG_TEST_RUN takes this part of the union, and all of it is zero.
    let test = unsafe { &mut attr.test };
    test.prog_fd = program.as_raw_fd().unsigned_abs();
    test.data_in = frame.as_ptr().expose_provenance() as u64;
    test.data_size_in = length(frame)?;
    test.repeat = 1;
    // SAFETY: the frame outlives the call, the length is its own, and nothing is asked to be written.
    unsafe { bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)? };
    // SAFETY: the kernel has filled in the same part of the union.
    Ok(unsafe { attr.test.retval })
}
