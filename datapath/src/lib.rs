//! User space's side of the kernel: load, pin, adopt, attach, typed maps.
//!
//! ```text
//! agent ──► Maps ──► Kernel ──► pinned BPF maps ◄── pinned programs ◄── links ◄── interfaces
//!             └────► fake::Fake (tests)                                   ▲
//! plugin ──────────── veth::find, attach::attach_endpoint ────────────────┘
//! ```
//!
//! Invariants:
//! - State lives in the kernel, below one versioned pin directory, and outlives every process. A new process adopts it;
//!   nothing is detached on the way, and no map is made anew.
//! - An interface that is attached and has no record in the endpoint maps is pending: closed.
//! - What the kernel holds can be read back in full ([`Maps::entries`]), so nothing need be remembered elsewhere.

pub mod attach;
mod choice;
mod clock;
mod clsact;
pub mod conntrack;
mod endpoints;
mod error;
mod events;
pub mod fake;
mod grace;
mod held;
mod kernel;
mod links;
mod maps;
mod netlink;
pub mod object;
mod pins;
mod point;
mod spec;
pub mod surroundings;
mod sys;
mod table;
pub mod versions;
pub mod veth;
pub mod wire;

pub use attach::{Choice, Hook};
pub use clock::Clock;
pub use endpoints::Endpoints;
pub use error::Error;
pub use events::Events;
pub use grace::grace;
pub use held::HeldBpffs;
pub use kernel::{Kernel, Options, PROGRAMS};
pub use links::{LinkChange, LinkWatch};
pub use maps::Maps;
pub use pins::Pins;
