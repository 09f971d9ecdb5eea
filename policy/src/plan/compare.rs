//! What a slot says of an identity, as a function of protocol and port: two entries that look different may say the
//! same, and it is what they say that counts.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use vethwall_common::{
    identity::Identity,
    verdict::{PORTS_PER_PAGE, PortsKey, VerdictKey},
};

use crate::{reader, state::State};

/// [`vethwall_common::verdict::allow`] bits for every protocol and port.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Says {
    /// Where no range speaks.
    base: u8,
    /// By protocol and first port; up to the next one of the protocol. A protocol that is here begins with port 0.
    from: BTreeMap<(u8, u16), u8>,
}

impl Says {
    fn read(state: &State, slot: u32, identity: Identity) -> Self {
        let at = |protocol, port| reader::slot(state, slot, identity, protocol, port).0;
        let mut says = Self {
            base: at(0, 0),
            from: BTreeMap::new(),
        };
        let mut points: BTreeMap<(u8, u16), u8> = BTreeMap::new();
        let mut point = |protocol: u8, port: u32| {
            if let Ok(port) = u16::try_from(port) {
                points
                    .entry((protocol, port))
                    .or_insert_with(|| at(protocol, port));
            }
        };
        if let Some(entry) = state.verdicts.get(&VerdictKey { slot, identity }) {
            for range in entry.ranges.iter().take(usize::from(entry.count)) {
                point(range.protocol, 0);
                point(range.protocol, u32::from(range.first));
                point(range.protocol, u32::from(range.last) + 1);
            }
            let key = |protocol, page| PortsKey {
                set: entry.port_set,
                protocol,
                page,
                reserved: 0,
            };
            let set = state.ports.range(key(0, 0)..=key(u8::MAX, u8::MAX));
            for (PortsKey { protocol, page, .. }, _) in set.filter(|_| entry.port_set != 0) {
                point(*protocol, 0);
                // One past the page, too: what follows may be no page at all.
                for port in 0..=PORTS_PER_PAGE {
                    point(*protocol, u32::from(*page) * PORTS_PER_PAGE + port);
                }
            }
        }
        let mut last: Option<(u8, u8)> = None;
        for ((protocol, port), allow) in points {
            if last != Some((protocol, allow)) {
                says.from.insert((protocol, port), allow);
            }
            last = Some((protocol, allow));
        }
        let base = says.base;
        let plain = |from: &BTreeMap<(u8, u16), u8>, protocol: u8| {
            from.range((protocol, 0)..=(protocol, u16::MAX))
                .all(|(_, allow)| *allow == base)
        };
        let snapshot = says.from.clone();
        says.from.retain(|(protocol, _), _| !plain(&snapshot, *protocol));
        says
    }

    fn at(&self, protocol: u8, port: u16) -> u8 {
        let found = self.from.range((protocol, 0)..=(protocol, port)).next_back();
        found.map_or(self.base, |(_, allow)| *allow)
    }

    /// Whether it allows nothing that `other` denies.
    pub(super) fn within(&self, other: &Self) -> bool {
        let less = |a: u8, b: u8| a & !b == 0;
        let points = self.from.keys().chain(other.from.keys());
        less(self.base, other.base)
            && points
                .into_iter()
                .all(|&(protocol, port)| less(self.at(protocol, port), other.at(protocol, port)))
    }
}

/// Remembers what one state says.
pub(super) struct Oracle<'s> {
    state: &'s State,
    known: RefCell<BTreeMap<(u32, Identity), Rc<Says>>>,
}

impl<'s> Oracle<'s> {
    pub(super) fn new(state: &'s State) -> Self {
        Self {
            state,
            known: RefCell::default(),
        }
    }

    /// What the slot says of the identity.
    pub(super) fn says(&self, slot: u32, identity: Identity) -> Rc<Says> {
        let mut known = self.known.borrow_mut();
        let says = known
            .entry((slot, identity))
            .or_insert_with(|| Rc::new(Says::read(self.state, slot, identity)));
        Rc::clone(says)
    }
}

#[cfg(test)]
mod tests {
    use vethwall_common::{
        protocol::{TCP, UDP},
        verdict::{PortsPage, VerdictEntry},
    };

    use super::*;

    /// `base` everywhere, but `allow` on the TCP ports from `first` to `last`.
    fn says(base: u8, first: u16, last: u16, allow: u8) -> Says {
        Says {
            base,
            from: BTreeMap::from([((TCP, 0), base), ((TCP, first), allow), ((TCP, last + 1), base)]),
        }
    }

    #[test]
    fn less_is_allowed_within_more() {
        let (nothing, everything) = (says(0, 1, 2, 0), says(3, 1, 2, 3));
        let (web, wide, shadow) = (says(0, 80, 80, 3), says(0, 80, 90, 3), says(0, 80, 80, 2));
        for (less, more) in [
            (&nothing, &web),
            (&web, &wide),
            (&shadow, &web),
            (&wide, &everything),
        ] {
            assert!(
                less.within(more) && less.within(less) && !more.within(less),
                "{less:?} {more:?}"
            );
        }
        let other = says(0, 70, 75, 3);
        assert!(!web.within(&other) && !other.within(&web));
        // A denial in the middle of what is allowed.
        let holed = says(3, 80, 80, 0);
        assert!(holed.within(&everything) && !everything.within(&holed) && !web.within(&holed));
    }

    #[test]
    fn an_entry_says_at_every_port_what_the_programs_find() {
        let (slot, identity) = (3, Identity(300));
        let mut entry = VerdictEntry {
            allow: 1,
            count: 2,
            port_set: 5,
            ..VerdictEntry::default()
        };
        for (place, (first, last)) in entry.ranges.iter_mut().zip([(80, 90), (5000, u16::MAX)]) {
            (place.protocol, place.first, place.last, place.allow) = (TCP, first, last, 3);
        }
        // Of the second page and the fourth one, every second port.
        let page = PortsPage {
            enforced: [0x5555_5555_5555_5555; 8],
            shadow: [u64::MAX; 8],
        };
        let key = |page| PortsKey {
            set: 5,
            protocol: TCP,
            page,
            reserved: 0,
        };
        let state = State {
            verdicts: BTreeMap::from([(VerdictKey { slot, identity }, entry)]),
            ports: BTreeMap::from([(key(1), page), (key(3), page)]),
            ..State::default()
        };
        let says = Says::read(&state, slot, identity);
        for protocol in [TCP, UDP] {
            for port in 0..=u16::MAX {
                let found = reader::slot(&state, slot, identity, protocol, port).0;
                assert_eq!(says.at(protocol, port), found, "{protocol} {port}");
            }
        }
    }
}
