//! Others that enforce policies on this node, by the chains of netfilter that they leave.
//!
//! Where two enforce, a packet passes only what both allow, and only one of them can say why. k3s' built-in controller keeps its
//! last rules when it is turned off (k3s-io/k3s#7244), so policies of long ago may go on to act.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tracing::warn;
use vethwall_datapath::rulesets::{self, Chain};

use crate::api::status::Problem;

/// Between two looks. Ten thousand rules are some megabytes to read.
const PAUSE: Duration = Duration::from_secs(30);

const CANAL: &str = "Calico (Canal)";
const KUBE_ROUTER: &str = "kube-router (k3s has it built in)";
const KUBE_NETWORK_POLICIES: &str = "kube-network-policies";

/// Whose a chain is, of those that enforce NetworkPolicy.
fn owner(chain: &Chain) -> Option<&'static str> {
    const OWNERS: [(&str, &str); 4] = [
        ("KUBE-ROUTER-", KUBE_ROUTER),
        ("KUBE-NWPLCY-", KUBE_ROUTER),
        ("KUBE-POD-FW-", KUBE_ROUTER),
        ("cali-", CANAL),
    ];
    if chain.table.ends_with("network-policies") {
        return Some(KUBE_NETWORK_POLICIES);
    }
    let found = OWNERS.iter().find(|(prefix, _)| chain.name.starts_with(prefix));
    found.map(|(_, owner)| *owner)
}

/// What was found of one.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    chains: BTreeSet<Chain>,
    /// When they last changed, as far as was seen: then somebody is at work.
    changed: Option<Instant>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Enforcers {
    found: BTreeMap<&'static str, Found>,
    looked: Option<Instant>,
    error: Option<String>,
}

impl Enforcers {
    /// Looks, unless that was done a moment ago.
    pub(super) fn look(&mut self, now: Instant) {
        if self
            .looked
            .is_some_and(|last| now.saturating_duration_since(last) < PAUSE)
        {
            return;
        }
        self.looked = Some(now);
        match rulesets::chains() {
            Ok(chains) => {
                self.error = None;
                self.see(chains, now);
            }
            Err(error) => {
                let error = Some(error.chain());
                if self.error != error {
                    warn!("whether somebody else enforces policies is not known: {error:?}");
                }
                self.error = error;
            }
        }
    }

    fn see(&mut self, chains: BTreeSet<Chain>, now: Instant) {
        let mut seen: BTreeMap<&'static str, BTreeSet<Chain>> = BTreeMap::new();
        for chain in chains {
            if let Some(owner) = owner(&chain) {
                seen.entry(owner).or_default().insert(chain);
            }
        }
        self.found.retain(|owner, _| seen.contains_key(owner));
        for (owner, chains) in seen {
            match self.found.get_mut(owner) {
                Some(found) if found.chains == chains => {}
                Some(found) => (found.chains, found.changed) = (chains, Some(now)),
                None => {
                    let count = chains.len();
                    warn!(chains = count, "rules of {owner} are on this node, too");
                    let changed = None;
                    self.found.insert(owner, Found { chains, changed });
                }
            }
        }
    }

    /// One for each, and one if nobody knows.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self
            .found
            .iter()
            .map(|(owner, found)| problem(owner, found))
            .collect();
        if let Some(error) = &self.error {
            problems.push(Problem::new(
                "ENF002",
                format!("whether somebody else enforces policies on this node is not known: {error}"),
                None,
            ));
        }
        problems
    }
}

fn problem(owner: &str, found: &Found) -> Problem {
    let count = found.chains.len();
    let first = found.chains.first().map_or("", |chain| chain.name.as_str());
    let (more, state) = (
        if count == 1 { "chain" } else { "chains" },
        match found.changed {
            Some(changed) => format!(
                "they changed {} s ago: it is at work",
                changed.elapsed().as_secs()
            ),
            None => "they have not changed since: it is at work, or was and left them".to_owned(),
        },
    );
    Problem::new(
        "ENF001",
        format!(
            "rules of {owner} are on this node, too ({count} {more}, such as {first}; {state}): a packet passes only what both allow, and only vethwall tells why it does not"
        ),
        Some("turn it off and remove its rules: docs/migrating.md has the commands"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chains(names: &[(&str, &str)]) -> BTreeSet<Chain> {
        let chain = |(table, name): &(&str, &str)| Chain {
            table: (*table).to_owned(),
            name: (*name).to_owned(),
        };
        names.iter().map(chain).collect()
    }

    const K3S: [(&str, &str); 3] = [
        ("filter", "KUBE-ROUTER-FORWARD"),
        ("filter", "KUBE-POD-FW-AAAA"),
        ("filter", "KUBE-NWPLCY-BBBB"),
    ];

    #[test]
    fn chains_that_enforce_are_told_from_those_that_do_not() {
        let mut enforcers = Enforcers::default();
        let others = [
            ("filter", "KUBE-FORWARD"),
            ("filter", "FLANNEL-FWD"),
            ("nat", "KUBE-SERVICES"),
            ("kube-proxy", "filter-forward"),
            ("filter", "DOCKER-USER"),
        ];
        enforcers.see(chains(&others), Instant::now());
        assert_eq!(enforcers.problems(), []);
        let all = [
            &others[..],
            &K3S[..],
            &[
                ("filter", "cali-FORWARD"),
                ("kube-network-policies", "postrouting"),
            ],
        ];
        enforcers.see(chains(&all.concat()), Instant::now());
        let told: Vec<String> = enforcers
            .problems()
            .into_iter()
            .map(|problem| problem.message)
            .collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(
            told[0].contains("Canal") && told[0].contains("1 chain,"),
            "{told:?}"
        );
        assert!(
            told[2].contains("kube-router") && told[2].contains("3 chains"),
            "{told:?}"
        );
    }

    #[test]
    fn rules_that_change_are_somebodys_who_is_at_work() {
        let (mut enforcers, now) = (Enforcers::default(), Instant::now());
        enforcers.see(chains(&K3S), now);
        enforcers.see(chains(&K3S), now);
        assert!(enforcers.problems()[0].message.contains("or was and left them"));
        enforcers.see(chains(&K3S[..2]), now);
        assert!(enforcers.problems()[0].message.contains("s ago: it is at work"));
        enforcers.see(BTreeSet::new(), now);
        assert_eq!(enforcers.problems(), [], "they are gone");
    }
}
