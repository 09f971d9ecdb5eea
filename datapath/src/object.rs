//! The compiled kernel programs.

/// The ELF object of `ebpf/`, aligned as its parser needs it.
pub const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vethwall-ebpf"));
