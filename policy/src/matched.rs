//! What pods answer, remembered from one compilation to the next.
//!
//! ```text
//! terms in use ──┐
//! namespaces ────┴─► answers of the pods that answer anything ─► which namespaces answer otherwise than before
//! ```
//! A namespace whose stamp is the same holds the same pods with the same labels, so only its answers to terms that came
//! or went are looked at again. Forgetting everything at any time changes no result.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use crate::{
    model::Pod,
    numbers::Numbers,
    term::{Answers, Term, TermId},
    terms::Terms,
    world::{Space, Stamp, World, addresses},
};

/// The terms in use and what the pods of a world answer.
#[derive(Debug, Default)]
pub(crate) struct Matched {
    used: BTreeSet<TermId>,
    terms: Terms,
    /// Whether pods that answer nothing are kept too.
    everyone: bool,
    /// By name.
    spaces: Vec<(String, MatchedSpace)>,
}

/// The pods of a namespace that answer something at some address.
#[derive(Debug, Default)]
pub(crate) struct MatchedSpace {
    stamp: Stamp,
    /// By name.
    pods: Vec<MatchedPod>,
}

#[derive(Debug)]
struct MatchedPod {
    pod: Arc<Pod>,
    at: Vec<MatchedAddress>,
}

#[derive(Debug)]
struct MatchedAddress {
    address: IpAddr,
    answers: Answers,
}

/// What an update changed.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    /// All of it: what was derived from any address holds no longer.
    pub(crate) everything: bool,
    /// Addresses that namespaces which changed had before.
    pub(crate) went: Vec<IpAddr>,
    /// The namespaces that changed, by their place among all.
    pub(crate) came: Vec<usize>,
}

impl Matched {
    /// Brings it to this world and these terms; of pods that answer nothing too, if `everyone` matters.
    pub(crate) fn update(
        &mut self,
        world: &World,
        used: BTreeSet<TermId>,
        everyone: bool,
        numbers: &Numbers,
    ) -> Difference {
        let mut difference = Difference::default();
        let mut anew = everyone != self.everyone;
        let came = (used != self.used).then(|| {
            let went: BTreeSet<TermId> = self.used.difference(&used).copied().collect();
            let came: BTreeSet<TermId> = used.difference(&self.used).copied().collect();
            let before = std::mem::replace(&mut self.terms, Terms::new(&used, numbers));
            difference.everything = !self.terms.same_prefixes(&before);
            // A named port belongs to an address, and to prefixes around it: then everything is asked anew.
            if before.asks_for_ports() || self.terms.asks_for_ports() {
                anew = true;
            }
            // Only selectors of pods need asking them.
            let of_pods = |id: &TermId| matches!(numbers.term(*id).map(Arc::as_ref), Some(Term::Pods { .. }));
            let came: BTreeSet<TermId> = came.into_iter().filter(of_pods).collect();
            (Terms::new(&came, numbers), came.is_empty(), went)
        });
        self.used = used;
        self.everyone = everyone;

        let mut before = std::mem::take(&mut self.spaces).into_iter().peekable();
        self.spaces.reserve(world.spaces().len());
        for (name, space) in world.spaces() {
            // Side by side: there may be many thousands, and most are as before, which their stamps say without their
            // names.
            let same = before.next_if(|(_, known)| known.stamp.same(space.stamp()));
            let (own, mut matched) = same.unwrap_or_else(|| {
                while let Some((known, before)) = before.next_if(|(known, _)| known <= name) {
                    if known == *name {
                        return (known, before);
                    }
                    difference
                        .went
                        .extend(before.addresses().map(|(address, _)| address));
                }
                (name.clone(), MatchedSpace::default())
            });
            let as_before = matched.stamp.same(space.stamp()) && !anew;
            let changed = match &came {
                None if as_before => false,
                Some((terms, nothing, went)) if as_before => {
                    let forgot = matched.forget(went, everyone, &mut difference.went);
                    let learnt = !nothing && matched.learn(name, space, terms);
                    forgot || learnt
                }
                Some(_) | None => {
                    difference
                        .went
                        .extend(matched.addresses().map(|(address, _)| address));
                    matched = MatchedSpace::of(name, space, &self.terms, everyone);
                    true
                }
            };
            if changed {
                difference.came.push(self.spaces.len());
            }
            self.spaces.push((own, matched));
        }
        for (_, gone) in before {
            difference
                .went
                .extend(gone.addresses().map(|(address, _)| address));
        }
        difference
    }

    /// The terms in use.
    pub(crate) const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// All namespaces, by name.
    pub(crate) fn spaces(&self) -> impl Iterator<Item = &MatchedSpace> {
        self.spaces.iter().map(|(_, space)| space)
    }

    /// The namespace at this place among all.
    pub(crate) fn nth(&self, place: usize) -> Option<&MatchedSpace> {
        self.spaces.get(place).map(|(_, space)| space)
    }

    /// What a pod of the world answers at an address that its status lists; `None` at others.
    pub(crate) fn answers(&self, pod: &Pod, address: IpAddr) -> Option<Answers> {
        let space = self.named(&pod.namespace)?;
        let Ok(place) = space
            .pods
            .binary_search_by(|known| known.pod.name.as_str().cmp(&pod.name))
        else {
            // Who answers nothing is not kept.
            return addresses(pod).contains(&address).then(Answers::new);
        };
        let mut at = space.pods.get(place)?.at.iter();
        at.find(|at| at.address == address).map(|at| at.answers.clone())
    }

    /// The namespace of this name.
    pub(crate) fn named(&self, name: &str) -> Option<&MatchedSpace> {
        let place = self
            .spaces
            .binary_search_by(|(known, _)| known.as_str().cmp(name));
        self.nth(place.ok()?)
    }
}

impl MatchedSpace {
    fn of(name: &str, space: &Space, terms: &Terms, everyone: bool) -> Self {
        let local = terms.in_namespace(name, space.labels());
        let mut pods = Vec::new();
        if everyone || !local.is_empty() || terms.asks_for_ports() {
            for pod in space.pods() {
                let at = addresses(pod).into_iter().filter_map(|address| {
                    let answers = terms.of_pod(&local, pod, Some(address));
                    (everyone || !answers.is_empty()).then_some(MatchedAddress { address, answers })
                });
                let at: Vec<_> = at.collect();
                if !at.is_empty() {
                    pods.push(MatchedPod {
                        pod: Arc::clone(pod),
                        at,
                    });
                }
            }
        }
        Self {
            stamp: space.stamp(),
            pods,
        }
    }

    /// Addresses, with what their pods answer there.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (IpAddr, &Answers)> {
        let all = self.pods.iter().flat_map(|pod| &pod.at);
        all.map(|at| (at.address, &at.answers))
    }

    /// Whether anything changed; adds the addresses that are left without an answer.
    fn forget(&mut self, terms: &BTreeSet<TermId>, everyone: bool, went: &mut Vec<IpAddr>) -> bool {
        let mut changed = false;
        if terms.is_empty() {
            return changed;
        }
        for pod in &mut self.pods {
            pod.at.retain_mut(|at| {
                let before = at.answers.len();
                at.answers.retain(|(term, _)| !terms.contains(term));
                changed |= at.answers.len() != before;
                let keep = everyone || !at.answers.is_empty();
                if !keep {
                    went.push(at.address);
                }
                keep
            });
        }
        self.pods.retain(|pod| !pod.at.is_empty());
        changed
    }

    /// Whether anything changed.
    fn learn(&mut self, name: &str, space: &Space, terms: &Terms) -> bool {
        let more = Self::of(name, space, terms, false).pods;
        if more.is_empty() {
            return false;
        }
        let mut more = more.into_iter().peekable();
        let mut merged = Vec::with_capacity(self.pods.len());
        for mut known in std::mem::take(&mut self.pods) {
            while let Some(new) = more.next_if(|new| new.pod.name < known.pod.name) {
                merged.push(new);
            }
            if let Some(new) = more.next_if(|new| new.pod.name == known.pod.name) {
                // Both hold every address of the pod: without named ports what is answered at one is at all.
                for (at, extra) in known.at.iter_mut().zip(new.at) {
                    at.answers.extend(extra.answers);
                }
            }
            merged.push(known);
        }
        merged.extend(more);
        self.pods = merged;
        true
    }
}
