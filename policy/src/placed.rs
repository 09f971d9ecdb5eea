//! The entries of remote pods' addresses, remembered from one compilation to the next.
//!
//! ```text
//! namespaces that changed ─► entries of addresses that one remote pod has, and how many have which identity
//! ```
//! Most of a cluster's addresses are such. What they answer follows from [`Matched`] alone, so only those of namespaces
//! that changed are looked at again; every other address is looked at each time ([`crate::owners`]). Forgetting
//! everything at any time changes no result.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    net::IpAddr,
    sync::Arc,
};

use vethwall_common::{
    address::Addr,
    identity::{AddressEntry, Identity},
};

use crate::{
    matched::{Difference, Matched, MatchedSpace},
    numbers::Numbers,
    signature::Signature,
    terms::Terms,
    world::World,
};

/// Addresses that one pod has and that some selector selects.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    entries: BTreeMap<Addr, AddressEntry>,
    identities: BTreeMap<Identity, Counted>,
    /// Addresses that more than one pod had.
    contested: BTreeSet<IpAddr>,
}

#[derive(Debug)]
struct Counted {
    addresses: usize,
    signature: Arc<Signature>,
}

impl Placed {
    /// Follows an update of `matched`.
    pub(crate) fn update(
        &mut self,
        world: &World,
        matched: &Matched,
        difference: &Difference,
        numbers: &mut Numbers,
    ) {
        let terms = matched.terms();
        if difference.everything {
            *self = Self::default();
            for space in matched.spaces() {
                self.place(space, terms, numbers);
            }
        } else {
            // All that went before anything that came: an address may move from one namespace to another.
            for address in &difference.went {
                self.remove(*address);
            }
            let came = difference.came.iter().filter_map(|place| matched.nth(*place));
            // Of an address that has one owner left, the owner's namespace need not have changed.
            let settled = self.contested.difference(world.contested());
            let owners = settled.flat_map(|address| world.pods_with(*address));
            let owners = owners.filter_map(|pod| matched.named(&pod.namespace));
            for space in came.chain(owners).collect::<Vec<_>>() {
                self.place(space, terms, numbers);
            }
        }
        for address in world.contested() {
            self.remove(*address);
        }
        self.contested.clone_from(world.contested());
        for identity in self.identities.keys() {
            numbers.keep_identity(*identity);
        }
    }

    /// The entries.
    pub(crate) const fn entries(&self) -> &BTreeMap<Addr, AddressEntry> {
        &self.entries
    }

    /// The identities in the entries.
    pub(crate) fn identities(&self) -> impl Iterator<Item = (Identity, Arc<Signature>)> + '_ {
        let all = self.identities.iter();
        all.map(|(identity, counted)| (*identity, Arc::clone(&counted.signature)))
    }

    fn place(&mut self, space: &MatchedSpace, terms: &Terms, numbers: &mut Numbers) {
        for (address, answers) in space.addresses() {
            let signature = terms.at(address, Signature::known(answers.clone()));
            let identity = numbers.identity(&signature);
            let counted = self.identities.entry(identity).or_insert_with(|| Counted {
                addresses: 0,
                signature: Arc::new(signature),
            });
            counted.addresses += 1;
            let entry = AddressEntry {
                identity,
                flags: AddressEntry::POD,
                ifindex: 0,
            };
            if let Some(before) = self.entries.insert(Addr::from(address), entry) {
                self.discount(before.identity);
            }
        }
    }

    fn remove(&mut self, address: IpAddr) {
        if let Some(before) = self.entries.remove(&Addr::from(address)) {
            self.discount(before.identity);
        }
    }

    fn discount(&mut self, identity: Identity) {
        if let btree_map::Entry::Occupied(mut entry) = self.identities.entry(identity) {
            entry.get_mut().addresses -= 1;
            if entry.get().addresses == 0 {
                entry.remove();
            }
        }
    }
}
