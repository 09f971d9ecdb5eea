//! The tc programs. For the host this is an empty program, so that the ordinary toolchain checks it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(
    unsafe_code,
    reason = "the kernel's context, packets and map values are raw pointers"
)]
#![cfg_attr(
    not(target_arch = "bpf"),
    allow(dead_code, reason = "nothing calls the programs on the host")
)]

mod address;
mod case;
mod checksum;
mod count;
mod event;
mod flow;
mod harness;
mod hooks;
mod judge;
mod log;
mod lookup;
mod maps;
mod parse;
#[cfg(test)]
mod parse_test;
mod skb;

use aya_ebpf::{macros::classifier, programs::TcContext};

/// Packets from a pod: ingress of its veth.
#[classifier]
fn from_pod(context: TcContext) -> i32 {
    let verdict = harness::around(skb::Frame::new(&context), hooks::from_pod);
    log::verdict(&context, "from_pod", verdict)
}

/// Packets to a pod: egress of its veth.
#[classifier]
fn to_pod(context: TcContext) -> i32 {
    let verdict = harness::around(skb::Frame::new(&context), hooks::to_pod);
    log::verdict(&context, "to_pod", verdict)
}

/// Packets from pods to the node and beyond: ingress of the bridge.
#[classifier]
fn from_bridge(context: TcContext) -> i32 {
    let verdict = harness::around(skb::Frame::new(&context), hooks::from_bridge);
    log::verdict(&context, "from_bridge", verdict)
}

/// Nothing at all: what a benchmark subtracts.
#[classifier]
fn baseline(_: TcContext) -> i32 {
    skb::UNSPEC
}

/// One look-up of a connection, by the key that the frame begins with: what a benchmark compares with.
#[classifier]
fn one_lookup(context: TcContext) -> i32 {
    match flow::is_known(skb::Frame::new(&context)) {
        true => skb::UNSPEC,
        false => skb::SHOT,
    }
}

/// The kernel lends its GPL-only helpers to objects whose licence it knows as compatible.
#[cfg_attr(target_arch = "bpf", unsafe(link_section = "license"))]
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
