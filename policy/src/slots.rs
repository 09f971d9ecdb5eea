//! Slots: what each answers to every identity that some address has.

use std::collections::{BTreeMap, BTreeSet};

use vethwall_common::{
    Direction,
    identity::Identity,
    verdict::{Cookie, PortsKey, SlotRecord, VerdictKey},
};

use crate::{
    answer::{Answer, Bits, Origin, answer},
    compile::{Attribution, Compiled},
    encode::{Encoded, encode},
    limits::{self, Limits},
    numbers::{Numbers, Pages},
    resolve::SlotMeaning,
    terms::Signature,
};

/// A slot's answers, before it has numbers.
struct Draft {
    default: Bits,
    /// Only where they differ from the default.
    answers: Vec<(Identity, Answer)>,
    /// Port sets that the answers need.
    sets: BTreeSet<Pages>,
}

impl Draft {
    fn new(meaning: &SlotMeaning, live: &BTreeMap<Identity, Signature>) -> Self {
        // Nobody matches less than nothing, and rules only ever allow: what an unknown peer gets, all get.
        let default = answer(meaning, &Signature::default()).base;
        let mut draft = Self {
            default,
            answers: Vec::new(),
            sets: BTreeSet::new(),
        };
        for (identity, signature) in live {
            let answer = answer(meaning, signature);
            if answer.ranges.is_empty() && answer.base.allow == default.allow {
                continue;
            }
            let Encoded { pages, .. } = encode(&answer, |_| Cookie(0));
            if !pages.is_empty() {
                draft.sets.insert(pages);
            }
            draft.answers.push((*identity, answer));
        }
        draft
    }
}

/// Writes the slots, smallest first, as long as there is room; the others deny everything. Returns the numbers of those
/// that have one.
pub(crate) fn write<'m>(
    meanings: BTreeSet<&'m SlotMeaning>,
    live: &BTreeMap<Identity, Signature>,
    numbers: &mut Numbers,
    limits: &Limits,
    compiled: &mut Compiled,
) -> BTreeMap<&'m SlotMeaning, u32> {
    let drafts = meanings
        .into_iter()
        .map(|meaning| (meaning, Draft::new(meaning, live)));
    let mut drafts: Vec<(&SlotMeaning, Draft)> = drafts.collect();
    drafts.sort_by_key(|(_, draft)| draft.answers.len() + draft.sets.iter().map(Pages::len).sum::<usize>());

    let (mut verdicts, mut sets) = (0, BTreeSet::new());
    let mut slots = BTreeMap::new();
    for (meaning, draft) in drafts {
        let mut with: BTreeSet<Pages> = sets.clone();
        with.extend(draft.sets.iter().cloned());
        let fits = verdicts + draft.answers.len() <= limits.verdicts
            && with.iter().map(Pages::len).sum::<usize>() <= limits.port_pages;
        let slot = if fits {
            verdicts += draft.answers.len();
            sets = with;
            numbers
                .slot(meaning)
                .inspect(|slot| write_one(*slot, meaning, draft, numbers, compiled))
        } else {
            compiled.problems.push(limits::too_many_entries(meaning));
            let closed = SlotMeaning {
                degraded: true,
                ..meaning.clone()
            };
            let draft = Draft::new(&closed, &BTreeMap::new());
            numbers
                .slot(&closed)
                .inspect(|slot| write_one(*slot, &closed, draft, numbers, compiled))
        };
        match slot {
            Some(slot) => _ = slots.insert(meaning, slot),
            None => compiled.problems.push(limits::no_slot(meaning)),
        }
    }
    slots
}

fn write_one(slot: u32, meaning: &SlotMeaning, draft: Draft, numbers: &mut Numbers, compiled: &mut Compiled) {
    let direction = meaning.direction;
    let mut known: BTreeMap<Origin, Cookie> = BTreeMap::new();
    let Compiled { state, cookies, .. } = compiled;
    let mut cookie = |bits: Bits, numbers: &mut Numbers| {
        *known
            .entry(bits.origin)
            .or_insert_with(|| match attribution(meaning, bits.origin, direction) {
                None => Cookie(0),
                Some(attribution) => {
                    let cookie = numbers.cookie(&attribution);
                    cookies.0.insert(cookie, attribution);
                    cookie
                }
            })
    };
    let flags = if meaning.policies.is_empty() {
        SlotRecord::OPEN
    } else {
        0
    };
    let default = cookie(draft.default, numbers);
    let record = SlotRecord {
        allow: draft.default.allow,
        flags,
        reserved: 0,
        cookie: default,
    };
    state.slots.insert(slot, record);
    for (identity, answer) in draft.answers {
        let Encoded { mut entry, pages } = encode(&answer, |bits| cookie(bits, numbers));
        if !pages.is_empty() {
            // Without a number for the set nothing is said of the identity: the default, which allows least.
            let Some(set) = numbers.port_set(&pages) else {
                continue;
            };
            entry.port_set = set;
            for ((protocol, page), content) in pages {
                state.ports.insert(
                    PortsKey {
                        set,
                        protocol,
                        page,
                        reserved: 0,
                    },
                    content,
                );
            }
        }
        state.verdicts.insert(VerdictKey { slot, identity }, entry);
    }
}

/// What an answer stems from, in words that outlive the slot; nothing where nothing isolates.
fn attribution(meaning: &SlotMeaning, origin: Origin, direction: Direction) -> Option<Attribution> {
    let attribution = match origin {
        Origin::Default => Attribution {
            policies: meaning.isolators(),
            rule: None,
            direction,
        },
        Origin::Rule(p, r) => {
            let policy = meaning.policies.get(p)?.policy.clone();
            Attribution {
                policies: vec![policy],
                rule: Some(r),
                direction,
            }
        }
    };
    (!attribution.policies.is_empty()).then_some(attribution)
}
