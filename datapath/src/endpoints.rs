//! The records of the pods' interfaces: an array, an overflow map, and the index behind the tags.
//!
//! ```text
//! ifindex ──► ENDPOINTS[ifindex % 4096]      the usual place
//!        └──► EP_OVERFLOW{ifindex}           where another interface has that place
//! index ────► EP_INDEX[index] = ifindex      what a tag of the first stage leads back to
//! ```
//!
//! Invariants:
//! - An interface has its record in one of the two places. It stays there for life, so that no stale copy comes to
//!   light when the other one is deleted.
//! - The programs look into EP_OVERFLOW only where the configuration says that it is in use: that is written before its
//!   first entry, and taken back only by a loader that finds none.
//! - EP_INDEX is written before the record that carries the index, and cleared after that record is gone. A reader with
//!   a tag finds the interface whose program wrote the tag, or one without a record, which drops.

use aya::maps::MapData;
use vethwall_common::{
    config::Config,
    endpoint::{ENDPOINT_ARRAY_SIZE, EndpointRecord},
    entry::Entry,
    maps::{CONFIG, ENDPOINT_INDEX, ENDPOINT_OVERFLOW, ENDPOINTS},
};

use crate::{
    Error, Pins,
    maps::check,
    table::{Hash, Records},
};

/// The three maps about endpoints.
pub struct Endpoints {
    pub(crate) array: Records<EndpointRecord>,
    pub(crate) overflow: Hash<u32, EndpointRecord>,
    pub(crate) index: Records<u32>,
    config: Records<Config>,
}

impl Endpoints {
    /// Opens the pinned maps; all that the plugin needs of them.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let data = |name: &'static str| -> Result<MapData, Error> {
            let fd = pins.open(&pins.map(name))?;
            MapData::from_fd(fd).map_err(|e| Error::loader("open", format!("map {name}"), e))
        };
        let typed = |name: &'static str| move |e| Error::loader("open", format!("map {name}"), e);
        let (array, overflow, index) = (data(ENDPOINTS)?, data(ENDPOINT_OVERFLOW)?, data(ENDPOINT_INDEX)?);
        let config = data(CONFIG)?;
        Ok(Self {
            array: Records::new(
                ENDPOINTS,
                aya::maps::Map::Array(array)
                    .try_into()
                    .map_err(typed(ENDPOINTS))?,
            ),
            overflow: Hash::new(
                ENDPOINT_OVERFLOW,
                aya::maps::Map::HashMap(overflow)
                    .try_into()
                    .map_err(typed(ENDPOINT_OVERFLOW))?,
            ),
            index: Records::new(
                ENDPOINT_INDEX,
                aya::maps::Map::Array(index)
                    .try_into()
                    .map_err(typed(ENDPOINT_INDEX))?,
            ),
            config: Records::new(
                CONFIG,
                aya::maps::Map::Array(config).try_into().map_err(typed(CONFIG))?,
            ),
        })
    }

    /// The record of an interface, if it has one.
    pub fn get(&self, ifindex: u32) -> Result<Option<EndpointRecord>, Error> {
        let record = self.array.get(place(ifindex))?;
        if ifindex != 0 && record.ifindex == ifindex {
            return Ok(Some(record));
        }
        self.overflow.get(ifindex)
    }

    /// Writes the record of an interface.
    pub fn put(&mut self, ifindex: u32, record: &EndpointRecord) -> Result<(), Error> {
        check(&Entry::Endpoint(ifindex, *record))?;
        let old = self.get(ifindex)?;
        let index = u32::from(record.index);
        if index != 0 {
            let owner = self.index.get(index)?;
            if owner != ifindex {
                // Two pods behind one tag would be judged by each other's policies.
                let taken = owner != 0 && self.get(owner)?.is_some_and(|other| other.index == record.index);
                if taken {
                    return Err(Error::invalid(
                        format!("endpoint {ifindex}"),
                        format!("index {index} belongs to interface {owner}"),
                    ));
                }
                self.index.put(index, ifindex)?;
            }
        }
        let usual = self.array.get(place(ifindex))?;
        let overflow = match old {
            Some(_) => usual.ifindex != ifindex,
            None => usual.ifindex != 0,
        };
        if overflow {
            self.use_overflow(true)?;
            self.overflow.put(ifindex, *record)?;
        } else {
            self.array.put(place(ifindex), *record)?;
        }
        match old {
            Some(old) if old.index != record.index => self.clear_index(old.index, ifindex),
            _ => Ok(()),
        }
    }

    /// Tells the programs whether to look into the overflow map.
    pub(crate) fn use_overflow(&mut self, used: bool) -> Result<(), Error> {
        let mut config = self.config.get(0)?;
        let before = config.flags;
        config.flags &= !Config::OVERFLOW;
        if used {
            config.flags |= Config::OVERFLOW;
        }
        if config.flags == before {
            return Ok(());
        }
        self.config.put(0, config)
    }

    /// Makes an interface pending again; whether it had a record.
    pub fn delete(&mut self, ifindex: u32) -> Result<bool, Error> {
        let Some(old) = self.get(ifindex)? else {
            return Ok(false);
        };
        if self.array.get(place(ifindex))?.ifindex == ifindex {
            self.array.put(place(ifindex), EndpointRecord::default())?;
        }
        self.overflow.delete(ifindex)?;
        self.clear_index(old.index, ifindex)?;
        Ok(true)
    }

    fn clear_index(&mut self, index: u16, ifindex: u32) -> Result<(), Error> {
        let index = u32::from(index);
        if index != 0 && self.index.get(index)? == ifindex {
            self.index.put(index, 0)?;
        }
        Ok(())
    }

    /// All records.
    pub fn all(&self) -> Result<Vec<EndpointRecord>, Error> {
        let mut all: Vec<EndpointRecord> = self.array.all()?.into_iter().map(|(_, record)| record).collect();
        all.extend(self.overflow.all()?.into_iter().map(|(_, record)| record));
        Ok(all)
    }
}

impl std::fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoints").finish_non_exhaustive()
    }
}

fn place(ifindex: u32) -> u32 {
    ifindex & (ENDPOINT_ARRAY_SIZE - 1)
}
