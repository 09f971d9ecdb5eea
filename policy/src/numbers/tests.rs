//! Which number is given next.

use vethwall_common::{
    Direction,
    address::Addr,
    endpoint::{EndpointRecord, SlotRef},
    identity::AddressEntry,
    verdict::{PortRange, PortsKey, PortsPage, SlotRecord, VerdictEntry, VerdictKey},
};

use super::*;
use crate::model::Selector;

fn gives(pool: &mut Pool<char>, keys: &str) -> Vec<u32> {
    keys.chars().map(|key| pool.get(&key).unwrap_or(0)).collect()
}

/// A compilation that asks for these, after which the kernel holds `held`.
fn uses(pool: &mut Pool<char>, keys: &str, held: &[u32]) -> Vec<u32> {
    pool.current.clear();
    let given = gives(pool, keys);
    pool.release(|| held.iter().copied().collect());
    given
}

#[test]
fn what_became_free_comes_back_last() {
    let mut pool = Pool::new(1, 4);
    assert_eq!(uses(&mut pool, "abc", &[]), [1, 2, 3]);
    assert_eq!(uses(&mut pool, "bc", &[]), [2, 3], "who stays keeps its number");
    assert_eq!(
        uses(&mut pool, "bcd", &[]),
        [2, 3, 4],
        "not 1, which was free first"
    );
    assert_eq!(uses(&mut pool, "bcde", &[]), [2, 3, 4, 1]);
    assert_eq!(gives(&mut pool, "f"), [0], "there is no fifth");
    let mut pool = Pool::new(1, 4);
    assert_eq!(uses(&mut pool, "wxy", &[]), [1, 2, 3]);
    uses(&mut pool, "wx", &[]);
    assert_eq!(
        uses(&mut pool, "wxz", &[]),
        [1, 2, 4],
        "nor 3, which was given last"
    );
}

#[test]
fn what_the_kernel_holds_is_not_given() {
    let mut pool = Pool::new(1, 3);
    assert_eq!(uses(&mut pool, "ab", &[]), [1, 2]);
    assert_eq!(uses(&mut pool, "b", &[1]), [2]);
    assert_eq!(uses(&mut pool, "bc", &[1]), [2, 3]);
    assert_eq!(gives(&mut pool, "d"), [0], "1 is nobody's, and in the kernel");
    assert_eq!(uses(&mut pool, "bc", &[]), [2, 3]);
    assert_eq!(gives(&mut pool, "d"), [1]);
}

#[test]
fn what_somebody_else_wrote_is_avoided() {
    let after = |held: &[u32], keys: &str| {
        let mut pool = Pool::new(1, 4);
        pool.avoid(held.iter().copied().collect());
        gives(&mut pool, keys)
    };
    assert_eq!(after(&[2], "abcd"), [3, 4, 1, 0], "from the highest on");
    assert_eq!(after(&[4], "abcd"), [1, 2, 3, 0]);
    assert_eq!(after(&[1, 4], "abc"), [2, 3, 0]);
    assert_eq!(after(&[3], "abcd"), [4, 1, 2, 0]);
    assert_eq!(after(&[0, 9], "a"), [1], "no numbers of this kind");
}

#[test]
fn every_number_in_a_state_is_seen() {
    let mut state = State::default();
    let slot = SlotRef::new(21, 0);
    let record = EndpointRecord {
        index: 5,
        ingress: slot,
        egress: SlotRef::new(22, 0),
        ..EndpointRecord::default()
    };
    state.endpoints.insert(7, record);
    state.slots.insert(
        23,
        SlotRecord {
            cookie: Cookie(41),
            ..SlotRecord::default()
        },
    );
    let (identity, range) = (
        Identity(300),
        PortRange {
            cookie: Cookie(42),
            ..PortRange::default()
        },
    );
    let entry = VerdictEntry {
        cookie: Cookie(43),
        port_set: 31,
        ranges: [range; 4],
        ..VerdictEntry::default()
    };
    state.verdicts.insert(VerdictKey { slot: 24, identity }, entry);
    let (set, page) = (
        32,
        PortsPage {
            enforced: [0; 8],
            shadow: [0; 8],
        },
    );
    state.ports.insert(
        PortsKey {
            set,
            protocol: 6,
            page: 0,
            reserved: 0,
        },
        page,
    );
    let address = AddressEntry {
        identity: Identity(301),
        ..AddressEntry::default()
    };
    state.addresses.insert(Addr::from_v4([10, 0, 0, 1]), address);
    let used = Used(&state);
    let list = |set: BTreeSet<u32>| set.into_iter().collect::<Vec<_>>();
    assert_eq!(list(used.indices()), [5]);
    assert_eq!(list(used.slots()), [21, 22, 23, 24]);
    assert_eq!(list(used.port_sets()), [31, 32]);
    assert_eq!(list(used.identities()), [300, 301]);
    for cookie in [41, 42, 43] {
        assert!(used.cookies().contains(&cookie), "{cookie}");
    }
}

#[test]
fn what_nobody_uses_is_freed_whatever_its_kind() {
    let ask = |numbers: &mut Numbers, kind: usize| match kind {
        0 => _ = numbers.term_id(&Term::Nodes(Selector::everything())),
        1 => _ = numbers.identity(&Signature::unknown()),
        2 => {
            let meaning = SlotMeaning {
                direction: Direction::Ingress,
                policies: vec![],
                closed: true,
            };
            numbers.slot(&meaning);
        }
        3 => _ = numbers.port_set(&Pages::new()),
        4 => {
            let nobody = Attribution {
                policies: vec![],
                rule: None,
                direction: Direction::Ingress,
            };
            numbers.cookie(&nobody);
        }
        _ => _ = numbers.endpoint(7),
    };
    for gone in 0..6 {
        let mut numbers = Numbers::default();
        (0..6).for_each(|kind| ask(&mut numbers, kind));
        numbers.begin();
        (0..6)
            .filter(|kind| *kind != gone)
            .for_each(|kind| ask(&mut numbers, kind));
        numbers.release(&State::default());
        let left = [
            numbers.terms.given.len(),
            numbers.identities.given.len(),
            numbers.slots.given.len(),
            numbers.port_sets.given.len(),
            numbers.cookies.given.len(),
            numbers.endpoints.given.len(),
        ];
        let wanted: [usize; 6] = std::array::from_fn(|kind| usize::from(kind != gone));
        assert_eq!(left, wanted);
    }
}

#[test]
fn what_somebody_else_wrote_comes_back_last_too() {
    let mut pool = Pool::new(1, 4);
    pool.avoid([2].into());
    uses(&mut pool, "", &[]);
    assert_eq!(gives(&mut pool, "abcd"), [3, 4, 1, 2]);
}
