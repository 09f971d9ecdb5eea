//! What a slot answers to a peer, for every protocol and port: the rules' union, resolved to disjoint ranges.

use std::collections::{BTreeMap, BTreeSet};

use vethwall_common::verdict::allow;

use crate::{
    model::Mode,
    resolve::{ResolvedPeer, ResolvedPort, ResolvedRule, SlotMeaning},
    terms::{Signature, TermId},
};

/// What an answer stems from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// No rule: the policies that isolate, or that nothing does.
    Default,
    /// A rule: places of the policy in the slot's meaning and of the rule in the policy.
    Rule(usize, usize),
}

/// [`allow`] bits and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bits {
    /// [`allow`] bits.
    pub(crate) allow: u8,
    /// What they stem from.
    pub(crate) origin: Origin,
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

/// A matching rule's place; in this order the first that allows a port is named for it.
type Place = (usize, usize);

/// Asks the slot about a peer (SEMANTICS 2, 7, 8).
pub(crate) fn answer(slot: &SlotMeaning, peer: &Signature) -> Answer {
    let enforced = slot.enforced();
    if slot.policies.is_empty() {
        let base = Bits {
            allow: allow::BOTH,
            origin: Origin::Default,
        };
        return Answer {
            base,
            ranges: Vec::new(),
        };
    }
    if slot.degraded {
        let base = Bits {
            allow: 0,
            origin: Origin::Default,
        };
        return Answer {
            base,
            ranges: Vec::new(),
        };
    }
    let mut everything: BTreeSet<Place> = BTreeSet::new();
    let mut ports: BTreeMap<u8, Vec<(u16, u16, Place)>> = BTreeMap::new();
    for (p, policy) in slot.policies.iter().enumerate() {
        for (r, rule) in policy.rules.iter().enumerate() {
            match granted(rule, peer) {
                Granted::Nothing => {}
                Granted::Everything => _ = everything.insert((p, r)),
                Granted::Ports(list) => {
                    for (protocol, first, last) in list {
                        ports.entry(protocol).or_default().push((first, last, (p, r)));
                    }
                }
            }
        }
    }
    // Policies in force stand before audited ones, so the first place tells whether any in force allows.
    let bits = |first: Option<&Place>| {
        let in_force = first.is_some_and(|(p, _)| slot.policies[*p].mode == Mode::Enforce);
        let enforced_allows = !enforced || in_force;
        let allow = if enforced_allows { allow::ENFORCED } else { 0 }
            | if first.is_some() { allow::SHADOW } else { 0 };
        let origin = match first {
            Some(&(p, r)) if allow == allow::BOTH => Origin::Rule(p, r),
            Some(_) | None => Origin::Default,
        };
        Bits { allow, origin }
    };
    let base = bits(everything.first());
    let mut ranges = Vec::new();
    for (protocol, grants) in ports {
        sweep(protocol, &grants, &everything, &bits, base, &mut ranges);
    }
    Answer { base, ranges }
}

/// Cuts the ports of one protocol where a grant begins or ends.
fn sweep(
    protocol: u8,
    grants: &[(u16, u16, Place)],
    everything: &BTreeSet<Place>,
    bits: &impl Fn(Option<&Place>) -> Bits,
    base: Bits,
    ranges: &mut Vec<Range>,
) {
    const END: u32 = u16::MAX as u32 + 1;
    let mut events: BTreeMap<u32, Vec<(Place, bool)>> = BTreeMap::new();
    for &(first, last, place) in grants {
        events.entry(u32::from(first)).or_default().push((place, true));
        events
            .entry(u32::from(last) + 1)
            .or_default()
            .push((place, false));
    }
    // How many grants of a rule are open: a rule may list overlapping ranges.
    let mut open: BTreeMap<Place, usize> = everything.iter().map(|place| (*place, 1)).collect();
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
        let bits = bits(open.keys().next());
        if from >= END || bits.allow == base.allow {
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

/// What a rule allows a peer.
pub(crate) enum Granted {
    /// The rule does not match the peer, or no port.
    Nothing,
    /// Every port of every protocol (SEMANTICS 9, 29).
    Everything,
    /// These ports: protocol, first, last.
    Ports(Vec<(u8, u16, u16)>),
}

/// What a rule allows a peer: ports AND peers (SEMANTICS 8).
pub(crate) fn granted(rule: &ResolvedRule, peer: &Signature) -> Granted {
    if !reaches(rule, peer) {
        return Granted::Nothing;
    }
    match &rule.ports {
        None => Granted::Everything,
        Some(ports) => {
            let list: Vec<_> = ports
                .iter()
                .flat_map(|port| port_ranges(rule, port, peer))
                .collect();
            if list.is_empty() {
                Granted::Nothing
            } else {
                Granted::Ports(list)
            }
        }
    }
}

/// Whether the rule's peers include this one.
pub(crate) fn reaches(rule: &ResolvedRule, peer: &Signature) -> bool {
    rule.peers
        .as_ref()
        .is_none_or(|peers| peers.iter().any(|candidate| is_peer(candidate, peer)))
}

/// Whether one entry of `from` or `to` includes this peer. An `except` is a hole in this block only (SEMANTICS 22).
pub(crate) fn is_peer(candidate: &ResolvedPeer, peer: &Signature) -> bool {
    match candidate {
        ResolvedPeer::Pods(term) => peer.has(*term),
        ResolvedPeer::Block { cidr, except } => {
            peer.has(*cidr) && !except.iter().any(|hole: &TermId| peer.has(*hole))
        }
        ResolvedPeer::Nothing => false,
    }
}

/// The ports that one entry of `ports` means for this peer.
pub(crate) fn port_ranges(rule: &ResolvedRule, port: &ResolvedPort, peer: &Signature) -> Vec<(u8, u16, u16)> {
    match port {
        ResolvedPort::Ranges(protocol, ranges) => ranges
            .iter()
            .map(|(first, last)| (*protocol, *first, *last))
            .collect(),
        ResolvedPort::OfPeer(protocol, terms) => {
            let mut numbers = BTreeSet::new();
            for (i, term) in terms.iter().enumerate() {
                let matches = match &rule.peers {
                    None => true,
                    Some(peers) => peers.get(i).is_some_and(|candidate| is_peer(candidate, peer)),
                };
                if let (true, Some(term)) = (matches, term) {
                    numbers.extend(peer.numbers(*term));
                }
            }
            numbers
                .into_iter()
                .map(|number| (*protocol, number, number))
                .collect()
        }
        ResolvedPort::Nothing => Vec::new(),
    }
}
