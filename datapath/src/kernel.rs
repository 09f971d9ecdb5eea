//! The real thing: programs and maps in the kernel, pinned so that they outlive every process.
//!
//! ```text
//! nothing pinned ── create maps, pin ──┐
//!                                      ├─► check types and sizes ─► load programs against the maps
//! pinned by an earlier process ────────┘          ─► replace program pins ─► update links in place
//! ```
//!
//! Invariants:
//! - Enforcement never pauses: an upgrade replaces programs through their links and by renaming pins; nothing is
//!   detached, no map is made anew. Another version of the layouts has maps of its own (see [`crate::versions`]).
//! - Maps that do not fit this version are refused, never used and never removed.
//! - All programs are loaded before the first pin is replaced, and program pins are replaced before links are updated, so an
//!   attachment made in between is already the new program. A load that fails, or ends, at any step leaves on every link
//!   a program, old or new, of these maps; the next load, by the old agent or the new one, makes all of them its own.

use std::{collections::BTreeMap, fmt, fs, path::PathBuf};

use crate::{
    Endpoints, Error, Events, Maps, Pins, attach,
    clock::ProgramTime,
    maps::check,
    object::OBJECT,
    pins::unpin,
    spec, sys,
    table::{Hash, Records, Trie},
};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, PerCpuArray, RingBuf},
    programs::{ProgramError, SchedClassifier},
};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use vethwall_common::{
    address::Addr,
    config::Config,
    endpoint::tag,
    entry::{Entry, Key},
    flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey, state},
    identity::{AddressEntry, PrefixEntry},
    maps,
    verdict::{PortsKey, PortsPage, SlotRecord, VerdictEntry, VerdictKey},
};

/// The programs, by name.
pub const PROGRAMS: [&str; 3] = [maps::FROM_POD, maps::TO_POD, maps::FROM_BRIDGE];

/// How to load.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Sizes of maps other than the usual ones, by name. Maps that are pinned keep the size they have.
    pub max_entries: BTreeMap<&'static str, u32>,
    /// Programs other than [`OBJECT`], for the same maps: those of tests.
    pub object: Option<&'static [u8]>,
}

impl Options {
    /// Tables of connections for a node that holds so many pods: 512 connections a pod, between 16,384 and 262,144, and a
    /// quarter of that without an answer. The kernel allocates them at once. The other maps grow with what is in them.
    pub fn for_pods(pods: u32) -> Self {
        let flows = pods
            .saturating_mul(512)
            .clamp(1 << 14, 1 << 18)
            .next_power_of_two();
        let sizes = [
            (maps::FLOWS, flows),
            (maps::FLOWS_NEW, flows / 4),
            (maps::FRAGMENTS, flows / 16),
            (maps::SUPPRESSION, flows / 16),
        ];
        Self {
            max_entries: BTreeMap::from(sizes),
            ..Self::default()
        }
    }
}

/// The maps and programs of this node.
pub struct Kernel {
    pins: Pins,
    programs: Ebpf,
    adopted: bool,
    endpoints: Endpoints,
    slots: Records<SlotRecord>,
    verdicts: Hash<VerdictKey, VerdictEntry>,
    ports: Hash<PortsKey, PortsPage>,
    addresses: Hash<Addr, AddressEntry>,
    prefixes: Trie<PrefixEntry>,
    flows: [Hash<FlowKey, FlowEntry>; 2],
    fragments: Hash<FragmentKey, FragmentEntry>,
    counters: PerCpuArray<MapData, u64>,
    config: Records<Config>,
    time: ProgramTime,
}

impl Kernel {
    /// Loads the programs under the usual directory of this bpffs, with the maps that are pinned there or new ones.
    pub fn load_or_adopt(bpffs: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::load_with(Pins::new(bpffs), &Options::default())
    }

    /// Like [`Kernel::load_or_adopt`], with a choice of map sizes.
    pub fn load_with(pins: Pins, options: &Options) -> Result<Self, Error> {
        check_tags(&pins)?;
        pins.create()?;
        let adopted = pins.map(maps::CONFIG).exists();
        spec::check_pins(&pins)?;
        let mut programs = load_object(&pins, options)?;
        for name in PROGRAMS {
            let program = program(&mut programs, name)?;
            sys::uninterrupted(interrupted, || program.load())
                .map_err(|e| Error::loader("load", format!("program {name}"), e))?;
        }
        let mut kernel = Self::open(pins, programs, adopted)?;
        kernel.check_abi()?;
        let used = !kernel.endpoints.overflow.all()?.is_empty();
        kernel.endpoints.use_overflow(used)?;
        kernel.publish_programs()?;
        attach::update_links(&kernel.pins)?;
        Ok(kernel)
    }

    fn open(pins: Pins, programs: Ebpf, adopted: bool) -> Result<Self, Error> {
        let data = |name: &'static str| -> Result<MapData, Error> {
            let fd = pins.open(&pins.map(name))?;
            MapData::from_fd(fd).map_err(|e| Error::loader("open", format!("map {name}"), e))
        };
        let wrong = |name: &'static str| move |e| Error::loader("open", format!("map {name}"), e);
        // Each map under its type, from its pin: a pinned map has the size it was made with, whatever the object says.
        macro_rules! table {
            ($table:ident, $kind:ident, $name:path) => {
                $table::new(
                    $name,
                    Map::$kind(data($name)?).try_into().map_err(wrong($name))?,
                )
            };
        }
        Ok(Self {
            endpoints: Endpoints::open(&pins)?,
            slots: table!(Records, Array, maps::SLOTS),
            verdicts: table!(Hash, HashMap, maps::VERDICTS),
            ports: table!(Hash, HashMap, maps::PORTS),
            addresses: table!(Hash, HashMap, maps::ADDRESSES),
            prefixes: table!(Trie, LpmTrie, maps::PREFIXES),
            flows: [
                table!(Hash, LruHashMap, maps::FLOWS),
                table!(Hash, LruHashMap, maps::FLOWS_NEW),
            ],
            fragments: table!(Hash, LruHashMap, maps::FRAGMENTS),
            counters: Map::PerCpuArray(data(maps::COUNTERS)?)
                .try_into()
                .map_err(wrong(maps::COUNTERS))?,
            config: table!(Records, Array, maps::CONFIG),
            time: ProgramTime::load()?,
            pins,
            programs,
            adopted,
        })
    }

    /// Maps are written before their version is; zero is a load that did not get so far.
    fn check_abi(&mut self) -> Result<(), Error> {
        let mut config = self.config.get(0)?;
        let version = self.pins.abi();
        match config.abi {
            0 => {
                config.abi = version;
                self.config.put(0, config)
            }
            found if found == version => Ok(()),
            other => Err(Error::Incompatible {
                path: self.pins.map(maps::CONFIG),
                what: format!("written by version {other} of the layout, this is {version}"),
                directory: self.pins.root().to_owned(),
            }),
        }
    }

    /// Pins the programs under their names, each by a rename.
    fn publish_programs(&mut self) -> Result<(), Error> {
        for name in PROGRAMS {
            // A name on bpffs may hold no dot.
            let fresh = self.pins.program(&format!("{name}-new"));
            unpin(&fresh)?;
            program(&mut self.programs, name)?
                .pin(&fresh)
                .map_err(|e| Error::loader("pin", fresh.display(), e))?;
            let pin = self.pins.program(name);
            fs::rename(&fresh, &pin).map_err(|e| Error::file("replace", pin.display(), e))?;
        }
        Ok(())
    }

    /// Whether the maps were there already.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Where everything is pinned.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// A loaded program, for test runs and what the kernel says about it.
    pub fn program(&mut self, name: &str) -> Result<&mut SchedClassifier, Error> {
        program(&mut self.programs, name)
    }

    /// A reader of events; one at a time, since readers share their place in the ring.
    pub fn events(&self) -> Result<Events, Error> {
        let path = self.pins.map(maps::EVENTS);
        let wrong = |e| Error::loader("open", path.display(), e);
        let data = MapData::from_fd(self.pins.open(&path)?).map_err(wrong)?;
        Ok(Events::new(RingBuf::try_from(Map::RingBuf(data)).map_err(wrong)?))
    }

    /// An entry that lives, and in which of the tables.
    fn living(&self, key: &FlowKey, config: &Config, now: u32) -> Result<Option<(usize, FlowEntry)>, Error> {
        for (number, table) in self.flows.iter().enumerate() {
            let found = table.get(*key)?;
            if let Some(entry) = found.filter(|entry| entry.is_alive(key.protocol, now, config)) {
                return Ok(Some((number, entry)));
            }
        }
        Ok(None)
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pins, adopted, .. } = self;
        f.debug_struct("Kernel")
            .field("pins", pins)
            .field("adopted", adopted)
            .finish_non_exhaustive()
    }
}

impl Maps for Kernel {
    fn put(&mut self, entry: &Entry) -> Result<(), Error> {
        check(entry)?;
        match entry {
            Entry::Endpoint(ifindex, record) => self.endpoints.put(*ifindex, record),
            Entry::Slot(slot, record) => self.slots.put(*slot, *record),
            Entry::Verdict(key, value) => self.verdicts.put(*key, *value),
            Entry::Ports(key, page) => self.ports.put(*key, *page),
            Entry::Address(address, value) => self.addresses.put(*address, *value),
            Entry::Prefix(prefix, value) => self.prefixes.put(*prefix, *value),
        }
    }

    fn delete(&mut self, key: &Key) -> Result<(), Error> {
        match key {
            Key::Endpoint(ifindex) => self.endpoints.delete(*ifindex).map(drop),
            Key::Slot(slot) => self.slots.put(*slot, SlotRecord::default()),
            Key::Verdict(key) => self.verdicts.delete(*key).map(drop),
            Key::Ports(key) => self.ports.delete(*key).map(drop),
            Key::Address(address) => self.addresses.delete(*address).map(drop),
            Key::Prefix(prefix) => self.prefixes.delete(*prefix).map(drop),
        }
    }

    fn entries(&self) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        entries.extend(
            self.endpoints
                .all()?
                .into_iter()
                .map(|r| Entry::Endpoint(r.ifindex, r)),
        );
        entries.extend(self.slots.all()?.into_iter().map(|(k, v)| Entry::Slot(k, v)));
        entries.extend(
            self.verdicts
                .all()?
                .into_iter()
                .map(|(k, v)| Entry::Verdict(k, v)),
        );
        entries.extend(self.ports.all()?.into_iter().map(|(k, v)| Entry::Ports(k, v)));
        entries.extend(
            self.addresses
                .all()?
                .into_iter()
                .map(|(k, v)| Entry::Address(k, v)),
        );
        entries.extend(self.prefixes.all()?.into_iter().map(|(k, v)| Entry::Prefix(k, v)));
        Ok(entries)
    }

    fn config(&self) -> Result<Config, Error> {
        self.config.get(0)
    }

    fn set_config(&mut self, config: &Config) -> Result<(), Error> {
        // The plugin may have set it since the configuration was read.
        let overflow = self.config.get(0)?.flags & Config::OVERFLOW;
        self.config.put(
            0,
            Config {
                abi: self.pins.abi(),
                flags: config.flags & !Config::OVERFLOW | overflow,
                ..*config
            },
        )
    }

    fn counters(&self) -> Result<Vec<u64>, Error> {
        let failed = |e| Error::loader("read", format!("map {}", maps::COUNTERS), e);
        let sum = |values: aya::maps::PerCpuValues<u64>| values.iter().sum();
        self.counters
            .iter()
            .map(|values| values.map(sum).map_err(failed))
            .collect()
    }

    fn flows(&self) -> Result<Vec<(FlowKey, FlowEntry)>, Error> {
        let mut all = Vec::new();
        for table in &self.flows {
            all.extend(table.all()?);
        }
        Ok(all)
    }

    fn now(&self) -> Result<u32, Error> {
        self.time.now()
    }

    fn flow(&self, key: &FlowKey) -> Result<Option<FlowEntry>, Error> {
        let found = self.living(key, &self.config()?, self.now()?)?;
        Ok(found.map(|(_, entry)| entry))
    }

    fn seed(&mut self, flows: &[(FlowKey, FlowEntry)]) -> Result<usize, Error> {
        let (config, now) = (self.config()?, self.now()?);
        let stays = |key: &FlowKey, entry: &FlowEntry| {
            entry.is_alive(key.protocol, now, &config) && entry.state & state::UNSURE == 0
        };
        let mut seeded = 0;
        for (key, entry) in flows {
            // A node may have tens of thousands, nearly all of them unknown: two calls of the kernel each.
            let table = usize::from(entry.state & state::REPLIED == 0);
            let other = &mut self.flows[1 - table];
            match other.get(*key)? {
                Some(known) if stays(key, &known) => continue,
                // It would be in the way.
                Some(_) => _ = other.delete(*key)?,
                None => {}
            }
            let table = &mut self.flows[table];
            let mut added = table.add(*key, *entry)?;
            if !added && !table.get(*key)?.is_some_and(|known| stays(key, &known)) {
                table.delete(*key)?;
                added = table.add(*key, *entry)?;
            }
            seeded += usize::from(added);
        }
        Ok(seeded)
    }

    fn revoke(&mut self, key: &FlowKey, generation: u32) -> Result<bool, Error> {
        let now = self.now()?;
        let Some((table, entry)) = self.living(key, &self.config()?, now)? else {
            return Ok(false);
        };
        let entry = FlowEntry {
            generation,
            last_seen: now,
            state: entry.state | state::REVOKED,
            ..entry
        };
        self.flows[table].replace(*key, entry)
    }

    fn sweep(&mut self, gone: &dyn Fn(u32) -> bool) -> Result<usize, Error> {
        let mut swept = 0;
        for table in &mut self.flows {
            for (key, _) in table.all()? {
                if gone(key.ifindex) && table.delete(key)? {
                    swept += 1;
                }
            }
        }
        for (key, _) in self.fragments.all()? {
            if gone(key.ifindex) {
                self.fragments.delete(key)?;
            }
        }
        Ok(swept)
    }
}

/// Refuses to run beside a version whose tags look like ours.
fn check_tags(pins: &Pins) -> Result<(), Error> {
    let version = pins.abi();
    let alike = |other: &Pins| tag::version(other.abi()) == tag::version(version);
    match pins.others()?.into_iter().find(alike) {
        None => Ok(()),
        Some(other) => Err(Error::Incompatible {
            what: format!(
                "version {} of the layout can not be replaced by version {version} at once; go by way of one between them, or uninstall first",
                other.abi()
            ),
            path: other.root().to_owned(),
            directory: other.root().to_owned(),
        }),
    }
}

/// Before Linux 5.11 maps count as locked memory of the process, of which the usual limit leaves room for almost none.
///
/// Newer kernels do not ask, so that failing is no error here; an old one refuses the maps, and the error says why.
fn allow_locked_memory() {
    let unlimited = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let most = getrlimit(Resource::RLIMIT_MEMLOCK).map(|(_, most)| most);
    if let (Err(_), Ok(most)) = (unlimited, most) {
        let _refused = setrlimit(Resource::RLIMIT_MEMLOCK, most, most);
    }
}

fn load_object(pins: &Pins, options: &Options) -> Result<Ebpf, Error> {
    // First of all: the loader finds out what the kernel can do by making maps, too.
    allow_locked_memory();
    let mut loader = EbpfLoader::new();
    for spec in spec::MAPS {
        loader.map_pin_path(spec.name, pins.map(spec.name));
    }
    for (name, size) in &options.max_entries {
        loader.map_max_entries(name, *size);
    }
    loader
        .load(options.object.unwrap_or(OBJECT))
        .map_err(|e| Error::loader("create", "the maps", e))
}

fn program<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Error> {
    let program = programs
        .program_mut(name)
        .ok_or_else(|| Error::invalid(format!("program {name}"), "is not in the object"))?;
    program
        .try_into()
        .map_err(|e: ProgramError| Error::loader("open", format!("program {name}"), e))
}

fn interrupted(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { io_error, .. } if sys::interrupted(io_error))
}
