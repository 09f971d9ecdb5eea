//! The iptables rules of a flannel node, as text for `iptables-restore --noflush`.
//!
//! ```text
//! pod ──cni0──> PREROUTING ──> FORWARD ──> POSTROUTING ──> flannel.1 / underlay
//!                 KUBE-SERVICES  KUBE-FORWARD  KUBE-POSTROUTING (mark 0x4000)
//!                 (DNAT)         FLANNEL-FWD   FLANNEL-POSTRTG  (masquerade)
//! ```
//!
//! Everything here is a pure function: services and networks in, text out. Nothing is run.
//! Invariants: a text names every chain that it fills, so it rewrites exactly those chains and leaves
//! all others alone; the rules are those that flannel and kube-proxy write, in their order.

pub mod flannel;
mod names;
pub mod proxy;

#[cfg(test)]
mod tests;
