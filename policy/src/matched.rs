//! What pods answer, remembered from one compilation to the next.
//!
//! ```text
//! terms in use ──┐
//! namespaces ────┴─► answers of the pods that answer anything
//! ```
//! A namespace whose stamp is the same holds the same pods with the same labels, so only its answers to terms that came
//! or went are looked at again, and its signatures only if prefixes came or went too. Forgetting everything at any time changes no result.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use crate::{
    model::Pod,
    numbers::Numbers,
    signature::Signature,
    term::{Answers, Term, TermId},
    terms::Terms,
    world::{Space, Stamp, World, addresses},
};

/// The terms in use and what the pods of a world answer.
#[derive(Debug, Default)]
pub(crate) struct Matched {
    used: BTreeSet<TermId>,
    terms: Terms,
    /// By name.
    spaces: Vec<(String, MatchedSpace)>,
}

#[derive(Debug, Default)]
struct MatchedSpace {
    stamp: Stamp,
    /// Pods that answer something at some address, by name.
    pods: Vec<MatchedPod>,
    /// Whether their signatures say what they answer.
    signed: bool,
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
    /// The answers with the prefixes around the address.
    signature: Signature,
}

impl Matched {
    /// Brings it to this world and these terms.
    pub(crate) fn update(&mut self, world: &World, used: BTreeSet<TermId>, numbers: &Numbers) {
        let asked_for_ports = self.terms.asks_for_ports();
        let mut same_prefixes = true;
        let came = (used != self.used).then(|| {
            let went: BTreeSet<TermId> = self.used.difference(&used).copied().collect();
            let came: BTreeSet<TermId> = used.difference(&self.used).copied().collect();
            let before = std::mem::replace(&mut self.terms, Terms::new(&used, numbers));
            same_prefixes = self.terms.same_prefixes(&before);
            // Only selectors of pods need asking them.
            let of_pods = |id: &TermId| matches!(numbers.term(*id).map(Arc::as_ref), Some(Term::Pods { .. }));
            let came: BTreeSet<TermId> = came.into_iter().filter(of_pods).collect();
            (Terms::new(&came, numbers), came.is_empty(), went)
        });
        // A named port belongs to an address, and to prefixes around it: then everything is asked anew.
        let anew = came.is_some() && (asked_for_ports || self.terms.asks_for_ports());
        self.used = used;

        let mut before = std::mem::take(&mut self.spaces).into_iter().peekable();
        self.spaces.reserve(world.spaces().len());
        for (name, space) in world.spaces() {
            // Side by side: there may be many thousands, and most are as before.
            while before.next_if(|(known, _)| known < name).is_some() {}
            let (own, known) = before
                .next_if(|(known, _)| known == name)
                .map_or_else(|| (name.clone(), None), |(own, known)| (own, Some(known)));
            let known = known.filter(|known| known.stamp.same(space.stamp()));
            let mut matched = match (known, &came) {
                (Some(known), None) => known,
                (Some(mut known), Some((terms, nothing, went))) if !anew => {
                    known.forget(went);
                    if !nothing {
                        known.learn(name, space, terms);
                    }
                    known
                }
                (Some(_) | None, _) => MatchedSpace::of(name, space, &self.terms),
            };
            if !(matched.signed && same_prefixes) {
                matched.sign(&self.terms);
            }
            self.spaces.push((own, matched));
        }
    }

    /// The terms in use.
    pub(crate) const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Addresses at which some pod answers something, with what they answer if it is the pod's alone.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (IpAddr, &Signature)> {
        let pods = self.spaces.iter().flat_map(|(_, space)| &space.pods);
        pods.flat_map(|pod| &pod.at).map(|at| (at.address, &at.signature))
    }
}

impl MatchedSpace {
    fn of(name: &str, space: &Space, terms: &Terms) -> Self {
        let local = terms.in_namespace(name, space.labels());
        let mut pods = Vec::new();
        if !local.is_empty() || terms.asks_for_ports() {
            for pod in space.pods() {
                let at = addresses(pod).into_iter().filter_map(|address| {
                    let answers = terms.of_pod(&local, pod, Some(address));
                    (!answers.is_empty()).then(|| MatchedAddress {
                        address,
                        answers,
                        signature: Signature::default(),
                    })
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
            signed: false,
        }
    }

    fn sign(&mut self, terms: &Terms) {
        for at in self.pods.iter_mut().flat_map(|pod| &mut pod.at) {
            at.signature = terms.at(at.address, Signature::known(at.answers.clone()));
        }
        self.signed = true;
    }

    fn forget(&mut self, went: &BTreeSet<TermId>) {
        if went.is_empty() {
            return;
        }
        for pod in &mut self.pods {
            for at in &mut pod.at {
                let before = at.answers.len();
                at.answers.retain(|(term, _)| !went.contains(term));
                self.signed &= at.answers.len() == before;
            }
            pod.at.retain(|at| !at.answers.is_empty());
        }
        self.pods.retain(|pod| !pod.at.is_empty());
    }

    fn learn(&mut self, name: &str, space: &Space, terms: &Terms) {
        let more = Self::of(name, space, terms).pods;
        if more.is_empty() {
            return;
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
        self.signed = false;
    }
}
