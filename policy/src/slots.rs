//! Slots: what each answers to every identity that some address has.
//!
//! ```text
//! meaning, identities ─► draft (remembered) ─ fits? ─► entries with numbers (remembered)
//!                                   └─ no ─► the policy that needs most allows nothing, and again
//! ```

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use vethwall_common::{
    identity::Identity,
    verdict::{Cookie, PortsKey, PortsPage, SlotRecord, VerdictEntry, VerdictKey, allow},
};

use crate::{
    answer::{Answer, Asked, Bits, Origin, answer},
    compiled::{Attribution, Compiled, Cookies, Problem},
    encode::{Encoded, Pages, encode},
    limits::{self, Limits, Room},
    meaning::{Level, SlotMeaning},
    model::{Mode, PolicyRef},
    numbers::Numbers,
    signature::Signature,
};

/// What slots answered in the last compilation.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    live: BTreeMap<Identity, Arc<Signature>>,
    drafts: BTreeMap<SlotMeaning, Draft>,
}

/// A slot's answers, before it has numbers.
#[derive(Debug)]
struct Draft {
    default: Bits,
    /// Only where the default does not say the same.
    answers: BTreeMap<Identity, Answer>,
    /// Port sets that the answers need.
    sets: BTreeSet<Arc<Pages>>,
    written: Option<Written>,
}

/// A slot's entries.
#[derive(Debug)]
struct Written {
    slot: u32,
    record: SlotRecord,
    verdicts: Vec<(VerdictKey, VerdictEntry)>,
    ports: Vec<(PortsKey, PortsPage)>,
    cookies: Vec<(Cookie, Arc<Attribution>)>,
}

/// Identities that came and went since the last compilation.
struct Change<'l> {
    came: Vec<(Identity, &'l Signature)>,
    went: Vec<Identity>,
}

impl Draft {
    fn new(meaning: &SlotMeaning) -> Self {
        Self {
            default: least(&answer(meaning, &Signature::unknown())),
            answers: BTreeMap::new(),
            sets: BTreeSet::new(),
            written: None,
        }
    }

    fn of(meaning: &SlotMeaning, live: &BTreeMap<Identity, Arc<Signature>>) -> Self {
        let came = live
            .iter()
            .map(|(id, signature)| (*id, signature.as_ref()))
            .collect();
        let mut draft = Self::new(meaning);
        draft.update(
            meaning,
            &Change {
                came,
                went: Vec::new(),
            },
        );
        draft
    }

    fn update(&mut self, meaning: &SlotMeaning, change: &Change<'_>) {
        let mut changed = false;
        for identity in &change.went {
            changed |= self.answers.remove(identity).is_some();
        }
        let asked = LazyCell::new(|| Asked::new(meaning));
        for (identity, signature) in &change.came {
            let answer = asked.about(signature);
            if !(answer.ranges.is_empty() && answer.base.stand_for(self.default)) {
                self.answers.insert(*identity, answer);
                changed = true;
            }
        }
        if changed {
            let sets = self.answers.values().filter_map(|answer| {
                let Encoded { pages, .. } = encode(answer, |_| Cookie(0));
                (!pages.is_empty()).then(|| Arc::new(pages))
            });
            self.sets = sets.collect();
            self.written = None;
        }
    }

    fn size(&self) -> usize {
        self.answers.len() + self.sets.iter().map(|pages| pages.len()).sum::<usize>()
    }
}

/// What a peer gets of which nothing is certain: no other gets less, so it can stand where an entry is missing.
fn least(answer: &Answer) -> Bits {
    let ranges = answer.ranges.iter().map(|range| range.bits.allow);
    let common = ranges.fold(answer.base.allow, |all, allow| all & allow);
    // Whatever an entry would say of its base, it then has to say itself.
    let denied = answer.ranges.iter().find(|range| range.bits.allow == common);
    let origin = match denied {
        Some(range) if common != answer.base.allow => range.bits.origin,
        Some(_) | None => answer.base.origin,
    };
    Bits {
        allow: common,
        origin,
    }
}

impl Slots {
    /// Writes the slots, smallest first, as long as there is room; policies for which there is none allow nothing.
    /// Returns the numbers of those slots that have one.
    pub(crate) fn write<'m>(
        &mut self,
        meanings: BTreeSet<&'m SlotMeaning>,
        live: BTreeMap<Identity, Arc<Signature>>,
        numbers: &mut Numbers,
        limits: &Limits,
        compiled: &mut Compiled,
    ) -> BTreeMap<&'m SlotMeaning, u32> {
        let before = std::mem::replace(&mut self.live, live);
        let live = &self.live;
        let came = live.iter().filter(|(id, _)| !before.contains_key(id));
        let change = Change {
            came: came.map(|(id, signature)| (*id, signature.as_ref())).collect(),
            went: before
                .keys()
                .filter(|id| !live.contains_key(id))
                .copied()
                .collect(),
        };
        let mut known = std::mem::take(&mut self.drafts);
        let mut drafts: Vec<(&SlotMeaning, SlotMeaning, Draft)> = Vec::with_capacity(meanings.len());
        for meaning in meanings {
            let (own, draft) = match known.remove_entry(meaning) {
                Some((own, mut draft)) => {
                    draft.update(&own, &change);
                    (own, draft)
                }
                None => (meaning.clone(), Draft::of(meaning, live)),
            };
            drafts.push((meaning, own, draft));
        }
        // Of equal size by names: a meaning's own order is that of its terms' numbers, which depend on what was before.
        let names = |meaning: &SlotMeaning| -> Vec<PolicyRef> {
            meaning
                .policies
                .iter()
                .map(|policy| policy.policy.clone())
                .collect()
        };
        drafts.sort_by_cached_key(|(_, own, draft)| (draft.size(), own.direction, names(own)));

        let mut room = Room::new(limits);
        let mut slots = BTreeMap::new();
        for (asked, mut own, mut draft) in drafts {
            if !room.take(&own, draft.answers.len(), &draft.sets) {
                let (less, smaller) = with_less(&own, live, &mut room, &mut compiled.problems);
                // Tried again with the next compilation; numbers that it had may be others' then. Another slot that had
                // no room may be this one already, and written.
                draft.written = None;
                self.drafts.entry(own).or_insert(draft);
                (own, draft) = (less, smaller);
            }
            match draft.write(&own, numbers) {
                Some(slot) => _ = slots.insert(asked, slot),
                None => compiled.problems.push(limits::no_slot(&own)),
            }
            self.drafts.insert(own, draft);
        }
        self.put_together(compiled);
        slots
    }

    /// All slots' entries, into the result: in the order of their keys, in which a map is built fastest.
    fn put_together(&self, compiled: &mut Compiled) {
        let written = self.drafts.values().filter_map(|draft| draft.written.as_ref());
        let mut written: Vec<&Written> = written.collect();
        written.sort_by_key(|written| written.slot);
        let state = &mut compiled.state;
        state.slots = written.iter().map(|one| (one.slot, one.record)).collect();
        state.verdicts = written
            .iter()
            .flat_map(|one| one.verdicts.iter().copied())
            .collect();
        state.ports = written.iter().flat_map(|one| one.ports.iter().copied()).collect();
        let cookies = written.iter().flat_map(|one| one.cookies.iter().cloned());
        compiled.cookies = Cookies(cookies.collect());
    }
}

/// The same slot with fewer rules: one after the other, the NetworkPolicy that needs most allows nothing; at last the
/// slot denies everything.
fn with_less(
    meaning: &SlotMeaning,
    live: &BTreeMap<Identity, Arc<Signature>>,
    room: &mut Room<'_>,
    problems: &mut Vec<Problem>,
) -> (SlotMeaning, Draft) {
    let alone = |p: usize| {
        let policies = meaning.policies.get(p).cloned().into_iter().collect();
        let alone = SlotMeaning {
            policies,
            ..meaning.clone()
        };
        Draft::of(&alone, live).size()
    };
    let namespaced = meaning.first(Level::Namespace)..meaning.first(Level::Baseline);
    let mut by_size: Vec<usize> = namespaced
        .filter(|p| meaning.policies.get(*p).is_some_and(|p| !p.rules.is_empty()))
        .collect();
    by_size.sort_by_cached_key(|p| std::cmp::Reverse(alone(*p)));
    let mut less = meaning.clone();
    for p in by_size {
        if let Some(policy) = less.policies.get_mut(p) {
            policy.rules.clear();
            problems.push(limits::too_many_entries(meaning.direction, &policy.policy));
        }
        let draft = Draft::of(&less, live);
        if room.take(&less, draft.answers.len(), &draft.sets) {
            return (less, draft);
        }
    }
    less.closed = true;
    problems.push(limits::closed(&less));
    let draft = Draft::new(&less);
    (less, draft)
}

impl Draft {
    /// Writes its entries. Returns its number; none if there is no slot left.
    fn write(&mut self, meaning: &SlotMeaning, numbers: &mut Numbers) -> Option<u32> {
        let before = self.written.take();
        let slot = numbers.slot(meaning)?;
        self.written = Some(match before {
            // What was written last is in use since, so its numbers are still its own.
            Some(written) => {
                for (cookie, _) in &written.cookies {
                    numbers.keep_cookie(*cookie);
                }
                for (key, _) in &written.ports {
                    numbers.keep_port_set(key.set);
                }
                written
            }
            None => self.entries(slot, meaning, numbers),
        });
        Some(slot)
    }

    fn entries(&self, slot: u32, meaning: &SlotMeaning, numbers: &mut Numbers) -> Written {
        let mut known: BTreeMap<Origin, Cookie> = BTreeMap::new();
        let mut cookies = Vec::new();
        let mut cookie = |bits: Bits, numbers: &mut Numbers| {
            *known
                .entry(bits.origin)
                .or_insert_with(|| match attribution(meaning, bits.origin) {
                    None => Cookie(0),
                    Some(attribution) => {
                        let cookie = numbers.cookie(&attribution);
                        cookies.push((cookie, Arc::new(attribution)));
                        cookie
                    }
                })
        };
        let open = meaning.policies.is_empty() && self.default.allow == allow::BOTH;
        let cluster = meaning
            .policies
            .iter()
            .any(|policy| policy.level != Level::Namespace);
        let record = SlotRecord {
            allow: self.default.allow,
            flags: if open { SlotRecord::OPEN } else { 0 } | if cluster { SlotRecord::CLUSTER } else { 0 },
            reserved: 0,
            cookie: cookie(self.default, numbers),
        };
        let (mut verdicts, mut ports) = (Vec::new(), Vec::new());
        for (identity, answer) in &self.answers {
            let Encoded { mut entry, pages } = encode(answer, |bits| cookie(bits, numbers));
            if !pages.is_empty() {
                // Without a number for the set nothing is said of the identity: the default, which allows least.
                let Some(set) = numbers.port_set(&pages) else {
                    continue;
                };
                entry.port_set = set;
                let key = |(protocol, page)| PortsKey {
                    set,
                    protocol,
                    page,
                    reserved: 0,
                };
                ports.extend(pages.into_iter().map(|(at, content)| (key(at), content)));
            }
            let identity = *identity;
            verdicts.push((VerdictKey { slot, identity }, entry));
        }
        Written {
            slot,
            record,
            verdicts,
            ports,
            cookies,
        }
    }
}

/// What an answer stems from, in words that outlive the slot; nothing where no policy decided.
fn attribution(meaning: &SlotMeaning, origin: Origin) -> Option<Attribution> {
    let direction = meaning.direction;
    let (policies, rule) = match origin {
        Origin::Open => return None,
        Origin::Isolated(mode) => (meaning.isolators(mode), None),
        Origin::Closed => {
            let all = meaning
                .policies
                .iter()
                .filter(|policy| policy.mode == Mode::Enforce);
            (all.map(|policy| policy.policy.clone()).collect(), None)
        }
        Origin::Rule(p, r) => (vec![meaning.policies.get(p)?.policy.clone()], Some(r)),
    };
    Some(Attribution {
        policies,
        rule,
        direction,
    })
}
