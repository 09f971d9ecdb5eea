//! The one place where aya is told that our map types are plain bytes.

#![expect(
    unsafe_code,
    reason = "aya::Pod is an unsafe trait; the proof is in zerocopy's derives"
)]

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A key or value as it lies in a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Wire<T>(pub T);

// SAFETY: the kernel copies the bytes of the value in and out. `IntoBytes` proves that there is no padding to leak,
// `FromBytes` that any bytes are a value, `Immutable` that nothing changes behind a shared reference, and
// `repr(transparent)` that the wrapper adds nothing.
unsafe impl<T: IntoBytes + FromBytes + Immutable + Copy + 'static> aya::Pod for Wire<T> {}
