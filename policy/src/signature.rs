//! Signatures: what is known of an address, and for how sure.
//!
//! Whatever a slot says of a peer depends on its signature alone, so one identity stands for all addresses of one
//! signature, however their labels differ. Nearly always one pod owns an address and everything about it is certain.
//! Where several claim it (a status not yet updated, an object not yet deleted), or nobody known does, a question has a
//! third answer, *maybe*, and rules are read so that whoever owns the address gets nothing that it would not get alone:
//! a rule that allows needs certainty, a rule that denies does not.

use std::{collections::BTreeSet, sync::Arc};

use crate::term::{Answers, TermId};

/// What an address answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Signature {
    /// Answered by whoever may own the address; sorted. Remembered with each address and handed on with each compilation.
    certain: Arc<[(TermId, u16)]>,
    /// Answered by some of those who may own it; sorted, nothing of `certain`.
    possible: Vec<(TermId, u16)>,
    /// The owner may be a pod that nobody knows yet: it may answer anything that pods answer.
    unknown: bool,
}

/// Whether a peer matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Match {
    /// It does not.
    No,
    /// It may.
    Maybe,
    /// It does.
    Yes,
}

impl Signature {
    /// Of an address with this one owner.
    pub(crate) fn known(answers: Answers) -> Self {
        Self {
            certain: answers.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Of an address that may be any pod's.
    pub(crate) fn unknown() -> Self {
        Self {
            unknown: true,
            ..Self::default()
        }
    }

    /// Of an address with one of these owners; `None` is a pod that nobody knows.
    pub(crate) fn one_of(claims: impl IntoIterator<Item = Option<Answers>>) -> Self {
        let (mut all, mut any): (Option<Answers>, Answers) = (None, Answers::new());
        let mut unknown = false;
        for claim in claims {
            let answers = claim.unwrap_or_else(|| {
                unknown = true;
                Answers::new()
            });
            any.extend(&answers);
            all = Some(match all {
                None => answers,
                Some(before) => before.intersection(&answers).copied().collect(),
            });
        }
        let certain = all.unwrap_or_default();
        Self {
            possible: any.difference(&certain).copied().collect(),
            certain: certain.into_iter().collect(),
            unknown,
        }
    }

    /// Without what is only possible.
    #[must_use]
    pub(crate) fn certain_only(self) -> Self {
        Self {
            certain: self.certain,
            ..Self::default()
        }
    }

    /// With these too, for certain.
    #[must_use]
    pub(crate) fn with(mut self, terms: impl Iterator<Item = TermId>) -> Self {
        let mut more = terms.map(|term| (term, 0)).peekable();
        if more.peek().is_some() {
            let all: Answers = self.certain.iter().copied().chain(more).collect();
            self.certain = all.into_iter().collect();
        }
        self
    }

    /// Whether nothing at all is known or possible.
    pub(crate) fn is_empty(&self) -> bool {
        self.certain.is_empty() && self.possible.is_empty() && !self.unknown
    }

    /// Whether the owner may be a pod that nobody knows.
    pub(crate) const fn is_unknown(&self) -> bool {
        self.unknown
    }

    /// Whether the address answers a question about its prefixes or its node, of which all is known.
    pub(crate) fn has(&self, term: TermId) -> bool {
        numbers(&self.certain, term).next().is_some()
    }

    /// Whether its owner is a pod that answers the term.
    pub(crate) fn pod(&self, term: TermId) -> Match {
        if self.has(term) {
            Match::Yes
        } else if self.unknown || numbers(&self.possible, term).next().is_some() {
            Match::Maybe
        } else {
            Match::No
        }
    }

    /// The port numbers that its owner has for a [`crate::term::Term::Port`], and how sure each is; for a pod that
    /// nobody knows it may be any number, which is not among these.
    pub(crate) fn ports(&self, term: TermId) -> impl Iterator<Item = (u16, Match)> + '_ {
        let certain = numbers(&self.certain, term).map(|number| (number, Match::Yes));
        let possible = numbers(&self.possible, term).map(|number| (number, Match::Maybe));
        certain.chain(possible)
    }

    /// The terms that it answers, or may.
    pub(crate) fn terms(&self) -> impl Iterator<Item = TermId> + '_ {
        self.certain
            .iter()
            .chain(self.possible.iter())
            .map(|(term, _)| *term)
    }

    /// The terms with how sure each is.
    pub(crate) fn described(&self) -> impl Iterator<Item = (TermId, Match)> + '_ {
        let certain: BTreeSet<TermId> = self.certain.iter().map(|(term, _)| *term).collect();
        let possible: BTreeSet<TermId> = self.possible.iter().map(|(term, _)| *term).collect();
        let maybe: Vec<_> = possible
            .difference(&certain)
            .map(|t| (*t, Match::Maybe))
            .collect();
        certain.into_iter().map(|t| (t, Match::Yes)).chain(maybe)
    }
}

fn numbers(of: &[(TermId, u16)], term: TermId) -> impl Iterator<Item = u16> + '_ {
    let from = of.partition_point(|(id, _)| *id < term);
    of[from..]
        .iter()
        .take_while(move |(id, _)| *id == term)
        .map(|(_, number)| *number)
}
