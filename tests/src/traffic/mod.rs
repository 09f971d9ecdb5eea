//! What runs inside the namespaces of the lab: servers that say who they are, and probes that ask.
//!
//! ```text
//! lab ──JSON lines──> probe (in the source's namespace) ──TCP, UDP, SCTP, ICMP──> server (in a pod)
//!     <─JSON lines──        allowed, denied, refused      <─── the pod's name ───
//! ```
//!
//! Invariants: a probe's result is only what the network did, never what anybody expected; a server
//! answers from the address that it was asked at; nothing here knows about policies.

pub mod dns;
pub mod probe;
pub mod resolve;
pub mod server;
mod socket;
