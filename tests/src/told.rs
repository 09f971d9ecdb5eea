//! What a test tells beyond passed or failed, in lines that [`crate::vm`] reads.

use std::fmt::Display;

/// Begins the line that says why a test tried nothing on this kernel.
pub const SKIPPED: &str = "skipped: ";
/// Begins a line `NAME VALUE`.
pub const MEASURED: &str = "measured: ";

/// The test can not be made here; it returns after this.
pub fn skipped(reason: impl Display) {
    println!("{SKIPPED}{reason}");
}

/// Something that was found out, such as a number of instructions.
pub fn measured(name: impl Display, value: impl Display) {
    println!("{MEASURED}{name} {value}");
}
