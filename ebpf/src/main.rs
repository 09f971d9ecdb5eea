//! The tc programs. For the host this is an empty program, so that the ordinary toolchain checks it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    not(target_arch = "bpf"),
    allow(dead_code, reason = "nothing calls the programs on the host")
)]

mod maps;

use aya_ebpf::{macros::classifier, programs::TcContext};

#[classifier]
fn from_pod(_: TcContext) -> i32 {
    -1
}

#[classifier]
fn to_pod(_: TcContext) -> i32 {
    -1
}

#[classifier]
fn from_bridge(_: TcContext) -> i32 {
    -1
}

/// The kernel lends its GPL-only helpers to objects whose licence it knows as compatible.
#[cfg_attr(target_arch = "bpf", unsafe(link_section = "license"))]
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
#[allow(unsafe_code, reason = "the attributes that place the licence are unsafe")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
