//! What a slot answers to a peer, for every protocol and port: tiers and rules resolved to disjoint ranges.

use std::collections::{BTreeMap, BTreeSet};

use vethwall_common::verdict::allow;

use crate::{
    meaning::{Level, ResolvedPeer, ResolvedPort, ResolvedRule, SlotMeaning},
    model::{Mode, RuleAction},
    signature::{Match, Signature},
    term::TermId,
};

/// What an answer stems from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// Nothing decided: what no policy denies is allowed.
    Open,
    /// NetworkPolicies of this mode isolate the pod, and none allows.
    Isolated(Mode),
    /// A limit was exceeded.
    Closed,
    /// A rule: places of the policy in the slot's meaning and of the rule in the policy.
    Rule(usize, usize),
}

/// [`allow`] bits and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bits {
    /// [`allow`] bits.
    pub(crate) allow: u8,
    /// What they stem from: of a denial what denies, whether in force or only audited.
    pub(crate) origin: Origin,
}

impl Bits {
    /// Whether an entry with these can be left out where `other` answers: a denial is attributed exactly, what is
    /// allowed to everybody need not be.
    pub(crate) fn stand_for(self, other: Self) -> bool {
        self.allow == other.allow && (self.allow == allow::BOTH || self.origin == other.origin)
    }
}

/// Ports of one protocol with one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Range {
    /// IP protocol number.
    pub(crate) protocol: u8,
    /// First port.
    pub(crate) first: u16,
    /// Last port.
    pub(crate) last: u16,
    /// The answer.
    pub(crate) bits: Bits,
}

/// The whole answer for one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Where no range decides, and for protocols without ports.
    pub(crate) base: Bits,
    /// Disjoint, sorted, neighbours merged; only where they differ from `base`.
    pub(crate) ranges: Vec<Range>,
}

impl Answer {
    /// For one protocol and port; protocols without ports have no ranges.
    pub(crate) fn at(&self, protocol: u8, port: u16) -> Bits {
        let inside = |range: &&Range| range.protocol == protocol && range.first <= port && port <= range.last;
        self.ranges
            .iter()
            .find(inside)
            .map_or(self.base, |range| range.bits)
    }
}

impl Answer {
    /// For all ports of a protocol together: what the worst of them gets.
    pub(crate) fn anywhere(&self, protocol: u8) -> Bits {
        let ranges = self.ranges.iter().filter(|range| range.protocol == protocol);
        let covered: u32 = ranges
            .clone()
            .map(|r| u32::from(r.last) - u32::from(r.first) + 1)
            .sum();
        let rest = (covered <= u32::from(u16::MAX)).then_some(self.base);
        let all = ranges.map(|range| range.bits).chain(rest);
        let grade = |bits: &Bits| (bits.allow & allow::ENFORCED, bits.allow & allow::SHADOW);
        all.min_by_key(grade).unwrap_or(self.base)
    }
}

/// What a rule says of a peer at some ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hit {
    /// Protocol, first and last port; `None` is every port of every protocol (SEMANTICS 9, 29).
    pub(crate) ports: Option<(u8, u16, u16)>,
    /// [`Match::Yes`] or [`Match::Maybe`].
    pub(crate) sure: Match,
}

/// A rule that matches: places of its policy and of the rule in it, and whether it only may match. In this order rules
/// are asked.
type Place = (usize, usize, bool);

/// Rules that match a port, and by how many of their entries.
type Open = BTreeMap<Place, usize>;

/// Asks the slot about a peer (SEMANTICS 2, 7, 8; CNP 1 to 3).
pub(crate) fn answer(slot: &SlotMeaning, peer: &Signature) -> Answer {
    Asked::new(slot).about(peer)
}

/// A slot's rules by what they ask of a peer. Most rules name peers that most others are not: of thousands of policies only
/// those few are looked at that a peer could answer to.
pub(crate) struct Asked<'m> {
    slot: &'m SlotMeaning,
    /// Rules that include everybody: places of the policy and of the rule in it.
    always: BTreeSet<(usize, usize)>,
    /// Rules by each of their peers' terms.
    by_term: BTreeMap<TermId, Vec<(usize, usize)>>,
}

impl<'m> Asked<'m> {
    /// Arranges the rules.
    pub(crate) fn new(slot: &'m SlotMeaning) -> Self {
        let (mut always, mut by_term) = (BTreeSet::new(), BTreeMap::<_, Vec<_>>::new());
        for (p, policy) in slot.policies.iter().enumerate() {
            for (r, rule) in policy.rules.iter().enumerate() {
                let Some(peers) = &rule.peers else {
                    always.insert((p, r));
                    continue;
                };
                for peer in peers {
                    match peer {
                        ResolvedPeer::Pods(term)
                        | ResolvedPeer::Nodes(term)
                        | ResolvedPeer::Block { cidr: term, .. } => {
                            by_term.entry(*term).or_default().push((p, r));
                        }
                        ResolvedPeer::Everything | ResolvedPeer::Perhaps => _ = always.insert((p, r)),
                        ResolvedPeer::Nothing => {}
                    }
                }
            }
        }
        Self {
            slot,
            always,
            by_term,
        }
    }

    /// The answer for a peer.
    pub(crate) fn about(&self, peer: &Signature) -> Answer {
        let mut everywhere = Open::new();
        let mut ports: BTreeMap<u8, Vec<(u16, u16, Place)>> = BTreeMap::new();
        for (p, r) in self.candidates(peer) {
            let policy = self.slot.policies.get(p);
            let Some(rule) = policy.and_then(|policy| policy.rules.get(r)) else {
                continue;
            };
            for hit in hits(rule, peer) {
                let place = (p, r, hit.sure != Match::Yes);
                match hit.ports {
                    None => *everywhere.entry(place).or_default() += 1,
                    Some((protocol, first, last)) => {
                        ports.entry(protocol).or_default().push((first, last, place));
                    }
                }
            }
        }
        let base = bits(self.slot, &everywhere);
        let mut ranges = Vec::new();
        for (protocol, list) in ports {
            sweep(self.slot, protocol, &list, &everywhere, base, &mut ranges);
        }
        Answer { base, ranges }
    }

    /// The rules that the peer may match. A pod that nobody knows may match any.
    fn candidates(&self, peer: &Signature) -> BTreeSet<(usize, usize)> {
        let mut found = self.always.clone();
        if peer.is_unknown() {
            found.extend(self.by_term.values().flatten());
        } else {
            let terms = peer.terms().filter_map(|term| self.by_term.get(&term));
            found.extend(terms.flatten());
        }
        found
    }
}

/// Cuts the ports of one protocol where an entry of a rule begins or ends.
fn sweep(
    slot: &SlotMeaning,
    protocol: u8,
    list: &[(u16, u16, Place)],
    everywhere: &Open,
    base: Bits,
    ranges: &mut Vec<Range>,
) {
    const END: u32 = u16::MAX as u32 + 1;
    let mut events: BTreeMap<u32, Vec<(Place, bool)>> = BTreeMap::new();
    for &(first, last, place) in list {
        events.entry(u32::from(first)).or_default().push((place, true));
        events
            .entry(u32::from(last) + 1)
            .or_default()
            .push((place, false));
    }
    let mut open = everywhere.clone();
    let mut points = events.into_iter().peekable();
    while let Some((from, changes)) = points.next() {
        for (place, begins) in changes {
            let count = open.entry(place).or_insert(0);
            if begins {
                *count += 1;
            } else {
                *count -= 1;
                if *count == 0 {
                    open.remove(&place);
                }
            }
        }
        let until = points.peek().map_or(END, |(next, _)| *next);
        let bits = bits(slot, &open);
        if from >= END || bits.stand_for(base) {
            continue;
        }
        let (Ok(first), Ok(last)) = (u16::try_from(from), u16::try_from(until - 1)) else {
            continue;
        };
        match ranges.last_mut() {
            Some(before)
                if before.protocol == protocol
                    && before.bits == bits
                    && u32::from(before.last) + 1 == from =>
            {
                before.last = last;
            }
            Some(_) | None => ranges.push(Range {
                protocol,
                first,
                last,
                bits,
            }),
        }
    }
}

/// What the rules that match make of it.
fn bits(slot: &SlotMeaning, open: &Open) -> Bits {
    if slot.closed {
        return Bits {
            allow: 0,
            origin: Origin::Closed,
        };
    }
    let (enforced, by) = decide(slot, open, false);
    let (shadow, shadow_by) = decide(slot, open, true);
    Bits {
        allow: if enforced { allow::ENFORCED } else { 0 } | if shadow { allow::SHADOW } else { 0 },
        origin: match (enforced, shadow, by) {
            (false, ..) | (true, true, Origin::Rule(..)) => by,
            (true, false, _) | (true, true, Origin::Open | Origin::Isolated(_) | Origin::Closed) => shadow_by,
        },
    }
}

/// Walks the tiers: Admin, NetworkPolicies, Baseline, and what remains is allowed. With `shadow` the audited policies
/// count as if they were in force.
fn decide(slot: &SlotMeaning, open: &Open, shadow: bool) -> (bool, Origin) {
    if let Some(decision) = tier(slot, open, Level::Admin, shadow) {
        return decision;
    }
    if slot.isolated(shadow) {
        let (first, end) = (slot.first(Level::Namespace), slot.first(Level::Baseline));
        let allows = |(p, _, maybe): &&Place| {
            !*maybe && (shadow || slot.policies.get(*p).is_some_and(|p| p.mode == Mode::Enforce))
        };
        let found = open
            .range((first, 0, false)..(end, 0, false))
            .map(|(place, _)| place)
            .find(allows);
        return match found {
            Some((p, r, _)) => (true, Origin::Rule(*p, *r)),
            None if slot.isolated(false) => (false, Origin::Isolated(Mode::Enforce)),
            None => (false, Origin::Isolated(Mode::Audit)),
        };
    }
    tier(slot, open, Level::Baseline, shadow).unwrap_or((true, Origin::Open))
}

/// The decision of the first rule of a tier that matches and does not pass.
///
/// A rule that only may match is read both ways, and the answer is what both allow: an Accept is then no help, a Deny
/// denies. After a Pass that may have been taken the next tier has to agree, so nothing in this one accepts any more.
fn tier(slot: &SlotMeaning, open: &Open, level: Level, shadow: bool) -> Option<(bool, Origin)> {
    let first = slot.first(level);
    let mut may_have_passed = false;
    for &(p, r, maybe) in open.range((first, 0, false)..).map(|(place, _)| place) {
        let policy = slot.policies.get(p).filter(|policy| policy.level == level)?;
        if policy.mode == Mode::Audit && !shadow {
            continue;
        }
        match (policy.rules.get(r)?.action, maybe) {
            (RuleAction::Accept, false) if !may_have_passed => return Some((true, Origin::Rule(p, r))),
            (RuleAction::Accept | RuleAction::Pass, false) => return None,
            (RuleAction::Accept, true) => {}
            (RuleAction::Deny, _) => return Some((false, Origin::Rule(p, r))),
            (RuleAction::Pass, true) => may_have_passed = true,
        }
    }
    None
}

/// What a rule says of a peer: ports AND peers (SEMANTICS 8).
pub(crate) fn hits(rule: &ResolvedRule, peer: &Signature) -> Vec<Hit> {
    let sure = reaches(rule, peer);
    if sure == Match::No {
        return Vec::new();
    }
    match &rule.ports {
        None => vec![Hit { ports: None, sure }],
        Some(ports) => ports
            .iter()
            .flat_map(|port| port_hits(rule, port, peer, sure))
            .collect(),
    }
}

/// Whether the rule's peers include this one.
pub(crate) fn reaches(rule: &ResolvedRule, peer: &Signature) -> Match {
    let Some(peers) = &rule.peers else {
        return Match::Yes;
    };
    let all = peers.iter().map(|candidate| is_peer(candidate, peer));
    all.max().unwrap_or(Match::No)
}

/// Whether one entry of `from` or `to` includes this peer. An `except` is a hole in this block only (SEMANTICS 22).
pub(crate) fn is_peer(candidate: &ResolvedPeer, peer: &Signature) -> Match {
    let sure = |yes| if yes { Match::Yes } else { Match::No };
    match candidate {
        ResolvedPeer::Pods(term) => peer.pod(*term),
        ResolvedPeer::Nodes(term) => sure(peer.has(*term)),
        ResolvedPeer::Block { cidr, except } => {
            sure(peer.has(*cidr) && !except.iter().any(|hole: &TermId| peer.has(*hole)))
        }
        ResolvedPeer::Nothing => Match::No,
        ResolvedPeer::Everything => Match::Yes,
        ResolvedPeer::Perhaps => Match::Maybe,
    }
}

/// The ports that one entry of `ports` means for this peer, which the rule reaches so surely.
pub(crate) fn port_hits(rule: &ResolvedRule, port: &ResolvedPort, peer: &Signature, sure: Match) -> Vec<Hit> {
    match port {
        ResolvedPort::Ranges(protocol, ranges) => {
            let hit = |(first, last): &(u16, u16)| Hit {
                ports: Some((*protocol, *first, *last)),
                sure,
            };
            ranges.iter().map(hit).collect()
        }
        ResolvedPort::OfPeer(protocol, terms) => {
            let mut numbers: BTreeMap<(u16, u16), Match> = BTreeMap::new();
            let mut note = |ports, sure| {
                let known = numbers.entry(ports).or_insert(Match::No);
                *known = (*known).max(sure);
            };
            for (i, term) in terms.iter().enumerate() {
                let matches = match &rule.peers {
                    None => Match::Yes,
                    Some(peers) => peers
                        .get(i)
                        .map_or(Match::No, |candidate| is_peer(candidate, peer)),
                };
                let (true, Some(term)) = (matches != Match::No, term) else {
                    continue;
                };
                for (number, sure) in peer.ports(*term) {
                    note((number, number), sure.min(matches));
                }
                if peer.is_unknown() {
                    note((0, u16::MAX), Match::Maybe);
                }
            }
            let hit = |((first, last), sure)| Hit {
                ports: Some((*protocol, first, last)),
                sure,
            };
            numbers.into_iter().map(hit).collect()
        }
        ResolvedPort::Nothing => Vec::new(),
        ResolvedPort::Everything => vec![Hit { ports: None, sure }],
    }
}
