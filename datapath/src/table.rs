//! Typed maps: aya's, with our types, our errors and batch look-ups.

use std::os::fd::AsFd;

use aya::maps::{Array, HashMap, IterableMap, LpmTrie, MapData, MapError, lpm_trie};
use nix::libc;
use vethwall_common::address::Prefix;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{Error, sys, wire::Wire};

/// `bpf_map_update_elem` makes an entry or fails with EEXIST.
const BPF_NOEXIST: u64 = 1;
/// `bpf_map_update_elem` replaces an entry or fails with ENOENT.
const BPF_EXIST: u64 = 2;

/// What lies in a map.
pub(crate) trait Plain: FromBytes + IntoBytes + Immutable + Copy + 'static {}
impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> Plain for T {}

/// Turns a map's refusal into ours: which map, and whether it was full.
fn refused(operation: &'static str, name: &'static str, map: &MapData, error: MapError) -> Error {
    if let MapError::SyscallError(call) = error {
        // A hash map that is full answers E2BIG, a trie ENOSPC.
        return match (call.io_error.raw_os_error(), map.info()) {
            (Some(libc::E2BIG | libc::ENOSPC), Ok(info)) => Error::Full {
                map: name,
                max_entries: info.max_entries(),
            },
            _ => Error::bpf(operation, format!("map {name}"), call.io_error),
        };
    }
    Error::loader(operation, format!("map {name}"), error)
}

/// Whether the error means that there is no such key.
fn absent(error: &MapError) -> bool {
    if let MapError::SyscallError(call) = error {
        return call.io_error.raw_os_error() == Some(libc::ENOENT);
    }
    matches!(error, MapError::KeyNotFound)
}

/// A hash map, LRU or not.
pub(crate) struct Hash<K: Plain, V: Plain> {
    name: &'static str,
    map: HashMap<MapData, Wire<K>, Wire<V>>,
}

impl<K: Plain, V: Plain> Hash<K, V> {
    pub(crate) fn new(name: &'static str, map: HashMap<MapData, Wire<K>, Wire<V>>) -> Self {
        Self { name, map }
    }

    pub(crate) fn get(&self, key: K) -> Result<Option<V>, Error> {
        match self.map.get(&Wire(key), 0) {
            Ok(value) => Ok(Some(value.0)),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(refused("read", self.name, self.map.map(), error)),
        }
    }

    pub(crate) fn put(&mut self, key: K, value: V) -> Result<(), Error> {
        let outcome = self.map.insert(Wire(key), Wire(value), 0);
        outcome.map_err(|e| refused("write to", self.name, self.map.map(), e))
    }

    /// Stores a value unless there is one; whether there was none.
    pub(crate) fn add(&mut self, key: K, value: V) -> Result<bool, Error> {
        self.store(key, value, BPF_NOEXIST, libc::EEXIST)
    }

    /// Replaces a value; whether there was one.
    pub(crate) fn replace(&mut self, key: K, value: V) -> Result<bool, Error> {
        self.store(key, value, BPF_EXIST, libc::ENOENT)
    }

    fn store(&mut self, key: K, value: V, flag: u64, expected: i32) -> Result<bool, Error> {
        match self.map.insert(Wire(key), Wire(value), flag) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(call)) if call.io_error.raw_os_error() == Some(expected) => Ok(false),
            Err(error) => Err(refused("write to", self.name, self.map.map(), error)),
        }
    }

    /// Whether there was something to delete.
    pub(crate) fn delete(&mut self, key: K) -> Result<bool, Error> {
        match self.map.remove(&Wire(key)) {
            Ok(()) => Ok(true),
            Err(error) if absent(&error) => Ok(false),
            Err(error) => Err(refused("delete from", self.name, self.map.map(), error)),
        }
    }

    pub(crate) fn all(&self) -> Result<Vec<(K, V)>, Error> {
        sys::lookup_all(self.map.map().fd().as_fd())
            .map_err(|e| Error::bpf("read", format!("map {}", self.name), e))
    }
}

/// An array; all zero is absent.
pub(crate) struct Records<V: Plain> {
    name: &'static str,
    map: Array<MapData, Wire<V>>,
}

impl<V: Plain> Records<V> {
    pub(crate) fn new(name: &'static str, map: Array<MapData, Wire<V>>) -> Self {
        Self { name, map }
    }

    pub(crate) fn get(&self, index: u32) -> Result<V, Error> {
        match self.map.get(&index, 0) {
            Ok(value) => Ok(value.0),
            Err(MapError::OutOfBounds { max_entries, .. }) => Err(self.out_of_bounds(index, max_entries)),
            Err(error) => Err(Error::loader("read", format!("map {}", self.name), error)),
        }
    }

    pub(crate) fn put(&mut self, index: u32, value: V) -> Result<(), Error> {
        match self.map.set(index, Wire(value), 0) {
            Ok(()) => Ok(()),
            Err(MapError::OutOfBounds { max_entries, .. }) => Err(self.out_of_bounds(index, max_entries)),
            Err(MapError::SyscallError(call)) => Err(Error::bpf(
                "write to",
                format!("map {}", self.name),
                call.io_error,
            )),
            Err(error) => Err(Error::loader("write to", format!("map {}", self.name), error)),
        }
    }

    fn out_of_bounds(&self, index: u32, max_entries: u32) -> Error {
        Error::invalid(
            format!("map {}", self.name),
            format!("{index} is not below its {max_entries} entries"),
        )
    }

    /// All that are not zero.
    pub(crate) fn all(&self) -> Result<Vec<(u32, V)>, Error> {
        let data = self.map.map();
        let mut all: Vec<(u32, V)> = sys::lookup_all(data.fd().as_fd())
            .map_err(|e| Error::bpf("read", format!("map {}", self.name), e))?;
        all.retain(|(_, value)| value.as_bytes().iter().any(|byte| *byte != 0));
        Ok(all)
    }
}

/// The longest-prefix map.
pub(crate) struct Trie<V: Plain> {
    name: &'static str,
    map: LpmTrie<MapData, Wire<[u8; 16]>, Wire<V>>,
}

impl<V: Plain> Trie<V> {
    pub(crate) fn new(name: &'static str, map: LpmTrie<MapData, Wire<[u8; 16]>, Wire<V>>) -> Self {
        Self { name, map }
    }

    fn key(prefix: Prefix) -> lpm_trie::Key<Wire<[u8; 16]>> {
        lpm_trie::Key::new(prefix.length, Wire(prefix.addr.0))
    }

    pub(crate) fn put(&mut self, prefix: Prefix, value: V) -> Result<(), Error> {
        let outcome = self.map.insert(&Self::key(prefix), Wire(value), 0);
        outcome.map_err(|e| refused("write to", self.name, self.map.map(), e))
    }

    pub(crate) fn delete(&mut self, prefix: Prefix) -> Result<bool, Error> {
        match self.map.remove(&Self::key(prefix)) {
            Ok(()) => Ok(true),
            Err(error) if absent(&error) => Ok(false),
            Err(error) => Err(refused("delete from", self.name, self.map.map(), error)),
        }
    }

    /// A trie has no batch look-up on older kernels; nobody else writes, so the walk is exact.
    pub(crate) fn all(&self) -> Result<Vec<(Prefix, V)>, Error> {
        let mut all = Vec::new();
        for entry in self.map.iter() {
            let (key, value) = entry.map_err(|e| refused("read", self.name, self.map.map(), e))?;
            all.push((
                Prefix {
                    length: key.prefix_len(),
                    addr: vethwall_common::address::Addr(key.data().0),
                },
                value.0,
            ));
        }
        Ok(all)
    }
}
