//! The few commands of bpf(2) that aya 0.14 lacks or does not show: pins by file descriptor, tcx links by interface
//! index with what the kernel knows of them, and batch look-ups.
//!
//! Only [`bpf`] is unsafe; every function that calls it keeps the buffers alive to which the attributes point.

#![expect(unsafe_code, reason = "bpf(2) takes addresses")]

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::libc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `BPF_TCX_INGRESS`.
pub(crate) const TCX_INGRESS: u32 = 46;
/// `BPF_TCX_EGRESS`.
pub(crate) const TCX_EGRESS: u32 = 47;
/// `BPF_LINK_TYPE_TCX`.
pub(crate) const LINK_TYPE_TCX: u32 = 11;
/// `BPF_PROG_TYPE_SCHED_CLS`.
const PROG_TYPE_SCHED_CLS: u32 = 3;
/// `BPF_F_BEFORE` without a relative: before all others.
const BPF_F_BEFORE: u32 = 1 << 3;

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct LinkCreateAttr {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    padding: u32,
    revision: u64,
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct BatchAttr {
    input: u64,
    output: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ProgramLoadAttr {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct TestRunAttr {
    program: u32,
    result: u32,
    input_size: u32,
    output_size: u32,
    input: u64,
    output: u64,
    repeat: u32,
    duration: u32,
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct QueryAttr {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// What the kernel knows of a link; the head of `struct bpf_link_info`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct LinkInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) program_id: u32,
    pub(crate) padding: u32,
    /// tcx: the interface, 0 once it is gone.
    pub(crate) ifindex: u32,
    /// tcx: [`TCX_INGRESS`] or [`TCX_EGRESS`].
    pub(crate) attach_type: u32,
}

#[derive(Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ProgramInfo {
    kind: u32,
    id: u32,
}

/// Calls bpf(2).
///
/// # Safety
///
/// Every address in `attr` must be valid for what the kernel reads or writes there in `command`.
unsafe fn bpf<T: FromBytes + IntoBytes + Immutable>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    let length = size_of::<T>();
    // SAFETY: `attr` is `length` bytes, readable and writable; what it points to is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_bytes().as_mut_ptr(), length) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// Like [`bpf`], for the commands that return a file descriptor.
///
/// # Safety
///
/// As [`bpf`], and `command` must be one that returns a new descriptor.
unsafe fn bpf_fd<T: FromBytes + IntoBytes + Immutable>(
    command: libc::c_long,
    attr: &mut T,
) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr)? };
    // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn address<T: ?Sized>(at: *const T) -> u64 {
    at.cast::<u8>().expose_provenance() as u64
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

/// Opens a pin.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjectAttr {
        path: address(path.as_ptr()),
        fd: 0,
        flags: 0,
    };
    // SAFETY: `path` is a terminated string that outlives the call.
    unsafe { bpf_fd(BPF_OBJ_GET, &mut attr) }
}

/// Pins an object.
pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjectAttr {
        path: address(path.as_ptr()),
        fd: number(fd),
        flags: 0,
    };
    // SAFETY: `path` is a terminated string that outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Attaches a program to an interface, before all others.
///
/// First in line, because a program of somebody else that ends the line must not keep packets from being judged; ours
/// hand every packet they pass on to the next.
pub(crate) fn link_create(program: BorrowedFd<'_>, ifindex: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr {
        program: number(program),
        ifindex,
        attach_type,
        flags: BPF_F_BEFORE,
        relative: 0,
        padding: 0,
        revision: 0,
    };
    // SAFETY: the attributes hold no address.
    unsafe { bpf_fd(BPF_LINK_CREATE, &mut attr) }
}

/// Replaces the program of a link, with no packet in between that meets none.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link: number(link),
        program: number(program),
        flags: 0,
        old_program: 0,
    };
    // SAFETY: the attributes hold no address.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Takes a link off its interface, done when this returns. Dropping the last reference does so too, but at the kernel's
/// leisure: a pin that was removed may go on judging packets for a while.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = number(link);
    // SAFETY: the attributes are one number and hold no address.
    unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// Loads a program. A load that was `interrupted` says nothing of the program: it is tried again, five times as in libbpf.
pub(crate) fn uninterrupted<T, E>(
    interrupted: impl Fn(&E) -> bool,
    mut load: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let mut again = 1..5;
    loop {
        match load() {
            Err(error) if interrupted(&error) && again.next().is_some() => {}
            done => return done,
        }
    }
}

/// Whether the verifier gave up because a signal is pending for the thread (`do_check()` in `kernel/bpf/verifier.c`).
pub(crate) fn interrupted(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAGAIN)
}

/// Loads a tc program from instructions as `struct bpf_insn` has them.
pub(crate) fn program_load(instructions: &[[u8; 8]]) -> io::Result<OwnedFd> {
    let mut attr = ProgramLoadAttr {
        kind: PROG_TYPE_SCHED_CLS,
        count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: address(instructions.as_ptr()),
        license: address(c"Dual MIT/GPL".as_ptr()),
    };
    // SAFETY: the instructions and the text outlive the calls; the kernel reads them only.
    uninterrupted(interrupted, || unsafe { bpf_fd(BPF_PROG_LOAD, &mut attr) })
}

/// What a tc program returns for a packet.
pub(crate) fn program_test_run(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<u32> {
    let mut attr = TestRunAttr {
        program: number(program),
        result: 0,
        input_size: u32::try_from(packet.len()).map_err(io::Error::other)?,
        output_size: 0,
        input: address(packet.as_ptr()),
        output: 0,
        repeat: 1,
        duration: 0,
    };
    // SAFETY: the packet outlives the call; without room for output the kernel only reads.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr)? };
    Ok(attr.result)
}

fn info<T: FromBytes + IntoBytes + Immutable + Default>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::default();
    let mut attr = InfoAttr {
        fd: number(fd),
        length: u32::try_from(size_of::<T>()).map_err(io::Error::other)?,
        info: info.as_mut_bytes().as_mut_ptr().expose_provenance() as u64,
    };
    // SAFETY: `info` is `length` bytes, outlives the call, and any bytes are a valid `T`.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)? };
    Ok(info)
}

/// What the kernel knows of a link.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info(link)
}

/// The id of a program.
pub(crate) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    info::<ProgramInfo>(program).map(|info| info.id)
}

/// The ids of the programs on an interface's tcx hook, in the order in which they see packets. None on a kernel without.
pub(crate) fn tcx_programs(ifindex: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    // As many as the kernel allows on one hook (`BPF_MPROG_MAX`).
    let mut programs = [0_u32; 64];
    let mut attr = QueryAttr {
        ifindex,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        programs: programs.as_mut_ptr().expose_provenance() as u64,
        count: 64,
        padding: 0,
        program_flags: 0,
        links: 0,
        link_flags: 0,
        revision: 0,
    };
    // SAFETY: `programs` has room for `count` numbers and outlives the call; the other addresses are null, which means
    // that they are not asked for.
    match unsafe { bpf(BPF_PROG_QUERY, &mut attr) } {
        Ok(_) => Ok(programs.into_iter().take(attr.count as usize).collect()),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// All entries of a hash or array map, in a few system calls.
///
/// Unlike a walk from key to key it is not thrown back to the start when the kernel evicts the key where it stands, so
/// it ends on a busy LRU map too (kernel 5.6, commit 057996380a42).
pub(crate) fn lookup_all<K, V>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>>
where
    K: FromBytes + IntoBytes + Immutable + Copy,
    V: FromBytes + IntoBytes + Immutable + Copy,
{
    const FIRST_GUESS: usize = 4096;
    let mut result = Vec::new();
    let mut room = FIRST_GUESS;
    // A hash map's cursor is a bucket number, an array's a key; both fit.
    let mut cursor = [0_u64; 8];
    let mut started = false;
    loop {
        let mut keys = vec![K::new_zeroed(); room];
        let mut values = vec![V::new_zeroed(); room];
        let mut next = [0_u64; 8];
        let mut attr = BatchAttr {
            input: if started { address(cursor.as_ptr()) } else { 0 },
            output: next.as_mut_ptr().expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: u32::try_from(room).map_err(io::Error::other)?,
            map: number(map),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: all buffers outlive the call; `keys` and `values` have room for `count` elements of the sizes that
        // the maps were checked for, any bytes are valid for both, and the cursors are larger than any key here.
        let outcome = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        match outcome {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                result.extend(keys.into_iter().zip(values).take(attr.count as usize));
                return Ok(result);
            }
            // A bucket that holds more than there is room for; nothing was delivered.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                room *= 2;
                continue;
            }
            Err(error) => return Err(error),
        }
        result.extend(keys.into_iter().zip(values).take(attr.count as usize));
        cursor = next;
        started = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_load_is_tried_again_and_no_other_error_is() {
        let loads = |errors: &[i32]| {
            let (mut errors, mut count) = (errors.iter(), 0);
            let outcome = uninterrupted(interrupted, || {
                count += 1;
                errors
                    .next()
                    .map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(*code)))
            });
            (outcome.map_err(|e| e.raw_os_error()), count)
        };
        assert_eq!(loads(&[libc::EAGAIN; 4]), (Ok(()), 5));
        assert_eq!(loads(&[libc::EAGAIN; 9]), (Err(Some(libc::EAGAIN)), 5));
        assert_eq!(loads(&[libc::EPERM]), (Err(Some(libc::EPERM)), 1));
    }
}
