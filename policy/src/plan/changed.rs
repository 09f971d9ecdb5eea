//! Where two maps differ.

use std::{cmp::Ordering, collections::BTreeMap};

/// A key with its values before and after, at least one of them.
pub(super) type Changed<'m, K, V> = (&'m K, Option<&'m V>, Option<&'m V>);

/// The keys whose values differ, in order. Both maps are walked once, side by side: most of a plan's maps stay the same,
/// and looking each key up would take most of its time.
pub(super) fn changed<'m, K: Ord, V: PartialEq>(
    before: &'m BTreeMap<K, V>,
    after: &'m BTreeMap<K, V>,
) -> impl Iterator<Item = Changed<'m, K, V>> {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    let pairs = std::iter::from_fn(move || {
        let order = match (before.peek(), after.peek()) {
            (Some((old, _)), Some((new, _))) => old.cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let old = if order.is_le() { before.next() } else { None };
        let new = if order.is_ge() { after.next() } else { None };
        let (key, _) = old.or(new)?;
        Some((key, old.map(|(_, value)| value), new.map(|(_, value)| value)))
    });
    pairs.filter(|(_, old, new)| old != new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_in_order() {
        let before = BTreeMap::from([(1, 'a'), (2, 'b'), (3, 'c'), (6, 'f')]);
        let after = BTreeMap::from([(0, 'x'), (1, 'a'), (3, 'y'), (4, 'd'), (6, 'f'), (7, 'z')]);
        let found: Vec<_> = changed(&before, &after)
            .map(|(key, old, new)| (*key, old.copied(), new.copied()))
            .collect();
        let wanted = [
            (0, None, Some('x')),
            (2, Some('b'), None),
            (3, Some('c'), Some('y')),
            (4, None, Some('d')),
            (7, None, Some('z')),
        ];
        assert_eq!(found, wanted);
        assert_eq!(changed(&before, &before).count(), 0);
        assert_eq!(changed(&before, &BTreeMap::new()).count(), before.len());
    }
}
