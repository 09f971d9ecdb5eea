//! An answer in the form the programs look up: a default, up to four inline ranges, pages of a port set.

use std::collections::{BTreeMap, BTreeSet};

use vethwall_common::verdict::{
    Cookie, INLINE_RANGES, PORTS_PER_PAGE, PortRange, PortsPage, VerdictEntry, allow,
};

use crate::answer::{Answer, Bits, Range};

/// Pages of a port set by (protocol, page).
pub(crate) type Pages = BTreeMap<(u8, u8), PortsPage>;

/// An encoded answer; the port set's number is still missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Encoded {
    /// The entry, `port_set` 0.
    pub(crate) entry: VerdictEntry,
    /// The port set's pages; empty where the entry needs none.
    pub(crate) pages: Pages,
}

/// Encodes an answer. Where the ranges are too many to stand in the entry, those that would fill the most pages stay in
/// it and the rest go to pages, which hold the complete answer for their ports.
pub(crate) fn encode(answer: &Answer, mut cookie: impl FnMut(Bits) -> Cookie) -> Encoded {
    let mut by_size: Vec<&Range> = answer.ranges.iter().collect();
    by_size.sort_by_key(|range| (u16::MAX - (range.last - range.first), range.protocol, range.first));
    let (inline, paged) = by_size.split_at(by_size.len().min(INLINE_RANGES));
    let mut inline = inline.to_vec();
    inline.sort();

    let mut entry = VerdictEntry {
        allow: answer.base.allow,
        cookie: cookie(answer.base),
        ..VerdictEntry::default()
    };
    for (place, range) in entry.ranges.iter_mut().zip(&inline) {
        *place = PortRange {
            protocol: range.protocol,
            allow: range.bits.allow,
            first: range.first,
            last: range.last,
            reserved: 0,
            cookie: cookie(range.bits),
        };
        entry.count += 1;
    }
    let touched: BTreeSet<(u8, u8)> = paged.iter().flat_map(|range| pages_of(range)).collect();
    let pages = touched
        .into_iter()
        .map(|(protocol, page)| ((protocol, page), fill(answer, protocol, page)));
    Encoded {
        entry,
        pages: pages.collect(),
    }
}

fn pages_of(range: &Range) -> impl Iterator<Item = (u8, u8)> + use<> {
    let page = |port: u16| u8::try_from(u32::from(port) / PORTS_PER_PAGE).unwrap_or(u8::MAX);
    let protocol = range.protocol;
    (page(range.first)..=page(range.last)).map(move |page| (protocol, page))
}

/// The complete answer for the ports of one page.
fn fill(answer: &Answer, protocol: u8, page: u8) -> PortsPage {
    let start = u32::from(page) * PORTS_PER_PAGE;
    let mut bits = vec![answer.base.allow; PORTS_PER_PAGE as usize];
    for range in answer.ranges.iter().filter(|range| range.protocol == protocol) {
        let first = u32::from(range.first).max(start);
        let last = u32::from(range.last).min(start + PORTS_PER_PAGE - 1);
        for port in first..=last {
            bits[(port - start) as usize] = range.bits.allow;
        }
    }
    let word = |i: usize, bit: u8| {
        let ports = bits[i * 64..(i + 1) * 64].iter().enumerate();
        ports
            .filter(|(_, allow)| **allow & bit != 0)
            .fold(0u64, |word, (j, _)| word | 1 << j)
    };
    PortsPage {
        enforced: std::array::from_fn(|i| word(i, allow::ENFORCED)),
        shadow: std::array::from_fn(|i| word(i, allow::SHADOW)),
    }
}
