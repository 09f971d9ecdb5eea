//! Maps and pins.

use std::{fs, time::Instant};

use aya::maps::{Array, HashMap, Map, MapData};
use vethwall_common::{
    address::{Addr, Prefix},
    config::Config,
    endpoint::{ENDPOINT_ARRAY_SIZE, EndpointRecord, SlotRef},
    entry::{Entry, Key},
    flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey},
    identity::{AddressEntry, Identity, PrefixEntry},
    maps,
    verdict::{Cookie, PortsKey, PortsPage, SlotRecord, VerdictEntry, VerdictKey},
};
use vethwall_datapath::{Choice, Error, Kernel, Maps, Pins, attach, wire::Wire};
use vethwall_tests::sandbox::{self, BPFFS};

use super::{load, pins};

fn endpoint(ifindex: u32, index: u16) -> Entry {
    let record = EndpointRecord {
        ingress: SlotRef::new(7, 1),
        egress: SlotRef::new(8, 2),
        ifindex,
        flags: EndpointRecord::ENFORCING,
        addresses: [Addr::from_v4([10, 0, 0, 1]), Addr::NONE],
        mac: [2, 0, 0, 0, 0, index.to_le_bytes()[0]],
        index,
    };
    Entry::Endpoint(ifindex, record)
}

fn address(n: u32) -> Entry {
    let [_, a, b, c] = n.to_be_bytes();
    let value = AddressEntry {
        identity: Identity(300 + n % 7),
        flags: AddressEntry::POD,
        ifindex: n,
    };
    Entry::Address(Addr::from_v4([10, a, b, c]), value)
}

fn prefix(length: u32, last: u8) -> Entry {
    let prefix = Prefix {
        length,
        addr: Addr::from_v4([10, 1, last, 0]),
    };
    Entry::Prefix(
        prefix,
        PrefixEntry {
            identity: Identity(400),
            flags: 0,
        },
    )
}

/// One of each kind.
fn one_of_each() -> Vec<Entry> {
    let verdict = VerdictEntry {
        allow: 3,
        cookie: Cookie(9),
        port_set: 4,
        ..VerdictEntry::default()
    };
    vec![
        endpoint(5, 1),
        Entry::Slot(
            7,
            SlotRecord {
                allow: 3,
                flags: SlotRecord::OPEN,
                reserved: 0,
                cookie: Cookie(1),
            },
        ),
        Entry::Verdict(
            VerdictKey {
                slot: 7,
                identity: Identity(300),
            },
            verdict,
        ),
        Entry::Ports(
            PortsKey {
                set: 4,
                protocol: 6,
                page: 3,
                reserved: 0,
            },
            PortsPage {
                enforced: [1; 8],
                shadow: [2; 8],
            },
        ),
        address(1),
        prefix(96 + 24, 3),
        // The whole world: no bit counts.
        Entry::Prefix(
            Prefix {
                length: 0,
                addr: Addr::NONE,
            },
            PrefixEntry {
                identity: Identity(2),
                flags: 0,
            },
        ),
    ]
}

fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by_key(Entry::key);
    entries
}

fn pinned<T: TryFrom<Map>>(name: &str, kind: impl Fn(MapData) -> Map) -> T
where
    T::Error: std::fmt::Debug,
{
    kind(MapData::from_pin(pins().map(name)).unwrap())
        .try_into()
        .unwrap()
}

fn index_map() -> Array<MapData, u32> {
    pinned(maps::ENDPOINT_INDEX, Map::Array)
}

#[test]
fn what_is_put_is_read_back_and_deleted() {
    sandbox::run(|| {
        let start = Instant::now();
        let mut kernel = load();
        println!("maps made and programs loaded in {:?}", start.elapsed());
        assert!(!kernel.adopted());
        assert!(kernel.entries().unwrap().is_empty());
        for entry in one_of_each() {
            kernel.put(&entry).unwrap();
            kernel.put(&entry).unwrap();
        }
        assert_eq!(sorted(kernel.entries().unwrap()), sorted(one_of_each()));
        for entry in one_of_each() {
            kernel.delete(&entry.key()).unwrap();
            kernel.delete(&entry.key()).unwrap();
        }
        assert!(kernel.entries().unwrap().is_empty());
        assert_eq!(index_map().get(&1, 0).unwrap(), 0);
    });
}

#[test]
fn more_entries_than_one_batch_holds_are_all_read() {
    sandbox::run(|| {
        let mut kernel = load();
        let all: Vec<Entry> = (0..10_000).map(address).collect();
        for entry in &all {
            kernel.put(entry).unwrap();
        }
        let start = Instant::now();
        let found = kernel.entries().unwrap();
        println!(
            "10000 addresses and the arrays read back in {:?}",
            start.elapsed()
        );
        assert_eq!(sorted(found), sorted(all));
    });
}

#[test]
fn a_new_process_adopts_what_it_finds() {
    sandbox::run(|| {
        let mut kernel = load();
        kernel
            .set_config(&Config {
                abi: 0,
                flags: Config::EVENTS,
                other: 5,
                ..Config::default()
            })
            .unwrap();
        for entry in one_of_each() {
            kernel.put(&entry).unwrap();
        }
        drop(kernel);
        let mut kernel = load();
        assert!(kernel.adopted());
        assert_eq!(sorted(kernel.entries().unwrap()), sorted(one_of_each()));
        let config = kernel.config().unwrap();
        assert_eq!(
            (config.abi, config.flags, config.other),
            (vethwall_common::ABI_VERSION, Config::EVENTS, 5)
        );
        // The size of a pinned map is the one it was made with, whatever is asked for now.
        drop(kernel);
        kernel = Kernel::load_or_adopt(BPFFS).unwrap();
        for n in 0..64 {
            let key = VerdictKey {
                slot: 9,
                identity: Identity(1000 + n),
            };
            let outcome = kernel.put(&Entry::Verdict(key, VerdictEntry::default()));
            assert_eq!(outcome.is_ok(), n < 63, "{n}: {outcome:?}");
        }
    });
}

#[test]
fn maps_that_do_not_fit_are_refused_and_left_alone() {
    sandbox::run(|| {
        drop(load());
        let path = pins().map(maps::SLOTS);
        fs::remove_file(&path).unwrap();
        HashMap::<MapData, u32, u32>::create(4, 0)
            .unwrap()
            .pin(&path)
            .unwrap();
        let error = Kernel::load_or_adopt(BPFFS).unwrap_err();
        assert!(
            matches!(&error, Error::Incompatible { path: at, .. } if *at == path),
            "{error}"
        );
        assert!(path.exists());

        fs::remove_file(&path).unwrap();
        drop(load());
        let mut config: Array<MapData, Wire<Config>> = pinned(maps::CONFIG, Map::Array);
        config
            .set(
                0,
                Wire(Config {
                    abi: 99,
                    ..Config::default()
                }),
                0,
            )
            .unwrap();
        let error = Kernel::load_or_adopt(BPFFS).unwrap_err();
        assert!(error.to_string().contains("version 99"), "{error}");
    });
}

#[test]
fn without_a_bpffs_the_error_says_what_to_do() {
    sandbox::run(|| {
        let error = Kernel::load_or_adopt("/run").unwrap_err();
        assert!(error.to_string().contains("mount -t bpf bpf /run"), "{error}");
        let error = Kernel::load_or_adopt("/run/nothing").unwrap_err();
        assert!(matches!(error, Error::NoBpffs { .. }), "{error}");
        let error = attach::attach_endpoint(&Pins::new("/run"), 1, "lo", Choice::Best).unwrap_err();
        assert!(matches!(error, Error::NotLoaded { .. }), "{error}");
    });
}

#[test]
fn two_interfaces_that_share_a_place_have_a_record_each() {
    sandbox::run(|| {
        let mut kernel = load();
        let (first, second) = (endpoint(5, 1), endpoint(5 + ENDPOINT_ARRAY_SIZE, 2));
        kernel.put(&first).unwrap();
        kernel.put(&second).unwrap();
        assert_eq!(sorted(kernel.entries().unwrap()), [first, second]);

        // The second one stays where it is when the usual place becomes free: a copy in both would come to light later.
        kernel.delete(&first.key()).unwrap();
        assert_eq!(kernel.entries().unwrap(), [second]);
        let Entry::Endpoint(ifindex, mut record) = second else {
            panic!()
        };
        record.ingress = SlotRef::new(70, 3);
        let changed = Entry::Endpoint(ifindex, record);
        kernel.put(&changed).unwrap();
        assert_eq!(kernel.entries().unwrap(), [changed]);
        kernel.put(&first).unwrap();
        kernel.delete(&changed.key()).unwrap();
        assert_eq!(kernel.entries().unwrap(), [first]);
    });
}

#[test]
fn a_tag_leads_to_one_interface() {
    sandbox::run(|| {
        let mut kernel = load();
        kernel.put(&endpoint(5, 1)).unwrap();
        assert_eq!(index_map().get(&1, 0).unwrap(), 5);
        let error = kernel.put(&endpoint(6, 1)).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert_eq!(index_map().get(&1, 0).unwrap(), 5);
        assert_eq!(kernel.entries().unwrap(), [endpoint(5, 1)]);

        kernel.put(&endpoint(5, 3)).unwrap();
        assert_eq!(
            (index_map().get(&1, 0).unwrap(), index_map().get(&3, 0).unwrap()),
            (0, 5)
        );
        kernel.put(&endpoint(6, 1)).unwrap();
        assert_eq!(index_map().get(&1, 0).unwrap(), 6);
        kernel.delete(&Key::Endpoint(5)).unwrap();
        assert_eq!(
            (index_map().get(&1, 0).unwrap(), index_map().get(&3, 0).unwrap()),
            (6, 0)
        );
    });
}

#[test]
fn nonsense_is_refused_before_the_kernel_sees_it() {
    sandbox::run(|| {
        let mut kernel = load();
        let mut fake = vethwall_datapath::fake::Fake::new();
        let Entry::Endpoint(_, record) = endpoint(5, 1) else {
            panic!()
        };
        let nonsense = [
            Entry::Endpoint(6, record),
            endpoint(0, 1),
            endpoint(5, 0x1000),
            Entry::Slot(
                0,
                SlotRecord {
                    allow: 3,
                    ..SlotRecord::default()
                },
            ),
            prefix(129, 1),
        ];
        for entry in nonsense {
            assert!(kernel.put(&entry).is_err(), "{entry:?}");
            assert!(fake.put(&entry).is_err(), "{entry:?}");
        }
        assert!(
            kernel
                .put(&Entry::Slot(maps::MAX_SLOTS, SlotRecord::default()))
                .is_err()
        );
        assert!(kernel.entries().unwrap().is_empty());
    });
}

#[test]
fn a_full_map_says_which_and_keeps_what_it_has() {
    sandbox::run(|| {
        let mut kernel = load();
        for n in 0..64 {
            let key = VerdictKey {
                slot: 1,
                identity: Identity(256 + n),
            };
            kernel.put(&Entry::Verdict(key, VerdictEntry::default())).unwrap();
            kernel.put(&prefix(96 + 32, u8::try_from(n).unwrap())).unwrap();
        }
        let key = VerdictKey {
            slot: 1,
            identity: Identity(9999),
        };
        let error = kernel
            .put(&Entry::Verdict(key, VerdictEntry::default()))
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Full {
                    map: maps::VERDICTS,
                    max_entries: 64
                }
            ),
            "{error:?}"
        );
        let error = kernel.put(&prefix(96 + 32, 99)).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Full {
                    map: maps::PREFIXES,
                    max_entries: 64
                }
            ),
            "{error:?}"
        );
        assert_eq!(kernel.entries().unwrap().len(), 128);
        kernel.delete(&prefix(96 + 32, 0).key()).unwrap();
        kernel.put(&prefix(96 + 32, 99)).unwrap();
    });
}

#[test]
fn connections_and_fragments_of_one_interface_are_swept() {
    sandbox::run(|| {
        let mut kernel = load();
        for name in [maps::FLOWS, maps::FLOWS_NEW] {
            let mut flows: HashMap<MapData, Wire<FlowKey>, Wire<FlowEntry>> = pinned(name, Map::LruHashMap);
            for n in 0..100_u16 {
                let key = FlowKey {
                    ifindex: u32::from(n % 2) + 1,
                    low_port: n,
                    ..FlowKey::default()
                };
                let entry = FlowEntry {
                    cookie: Cookie(u32::from(n)),
                    ..FlowEntry::default()
                };
                flows.insert(Wire(key), Wire(entry), 0).unwrap();
            }
        }
        assert_eq!(kernel.flows().unwrap().len(), 200);
        let mut fragments: HashMap<MapData, Wire<FragmentKey>, Wire<FragmentEntry>> =
            pinned(maps::FRAGMENTS, Map::LruHashMap);
        for ifindex in [1, 2] {
            let key = FragmentKey {
                ifindex,
                ..FragmentKey::default()
            };
            fragments
                .insert(Wire(key), Wire(FragmentEntry::default()), 0)
                .unwrap();
        }
        assert_eq!(kernel.sweep(&|ifindex| ifindex == 1).unwrap(), 100);
        let left: Vec<_> = fragments.keys().map(|key| key.unwrap().0.ifindex).collect();
        assert_eq!(left, [2]);
        assert!(kernel.flows().unwrap().iter().all(|(key, _)| key.ifindex == 2));
        assert!(kernel.counters().unwrap().iter().all(|count| *count == 0));
        assert_eq!(kernel.counters().unwrap().len(), maps::COUNTER_SIZE as usize);
    });
}
