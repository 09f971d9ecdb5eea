//! What is told of the node's surroundings; docs/problems.md has a paragraph for each code.

use super::{surroundings::IPVS, thread::Node};
use crate::api::status::Problem;

/// What the sysctls of br_netfilter, IPv4 and IPv6, mean for pods that have addresses of these families.
pub(crate) fn untranslated([nf4, nf6]: [Option<bool>; 2], [v4, v6]: [bool; 2]) -> Vec<Problem> {
    let mut problems = Vec::new();
    if nf4.is_none() && nf6.is_none() {
        problems.push(Problem::new(
            "KRN002",
            "br_netfilter is not loaded: kube-proxy can not translate Services for bridged pods, and egress beyond the pods is dropped where a policy isolates".to_owned(),
            Some("modprobe br_netfilter"),
        ));
    }
    if nf4 == Some(false) && (v4 || !v6) {
        problems.push(Problem::new(
            "KRN001",
            "net.bridge.bridge-nf-call-iptables is 0: Services to pods of this node do not work, and IPv4 egress beyond the pods is dropped where a policy isolates".to_owned(),
            Some("sysctl -w net.bridge.bridge-nf-call-iptables=1"),
        ));
    }
    if nf6 == Some(false) && v6 {
        problems.push(Problem::new(
            "KRN005",
            "net.bridge.bridge-nf-call-ip6tables is 0: Services to pods of this node do not work, and IPv6 egress beyond the pods is dropped where a policy isolates".to_owned(),
            Some("sysctl -w net.bridge.bridge-nf-call-ip6tables=1"),
        ));
    }
    problems
}

/// What kube-proxy in IPVS mode means.
pub(crate) fn of_ipvs() -> Problem {
    Problem::new(
        "KRN008",
        format!(
            "kube-proxy runs in IPVS mode ({IPVS}), which is not supported: it translates where no program sees it, so egress beyond the pods is dropped where a policy isolates"
        ),
        Some("run kube-proxy in iptables or nftables mode"),
    )
}

impl Node {
    /// Whether some pod has an address of a family.
    fn speaks(&self, v6: bool) -> bool {
        let mut addresses = self
            .interfaces
            .values()
            .flat_map(|known| &known.interface.addresses);
        addresses.any(|address| address.is_ipv6() == v6)
    }

    /// Why egress beyond the pods can not be judged and is dropped where a policy isolates. Empty: it is judged.
    pub(super) fn no_second_stage(&self) -> Vec<Problem> {
        let around = &self.surroundings;
        let bridge = &self.places.bridge;
        let mut problems = untranslated(around.bridge_nf, [self.speaks(false), self.speaks(true)]);
        if let Some(error) = &self.bridge_error {
            problems.push(Problem::new(
                "KRN003",
                format!("{bridge} carries no program, so egress beyond the pods is dropped where a policy isolates: {error}"),
                None,
            ));
        }
        if !around.foreign.is_empty() {
            problems.push(Problem::new(
                "KRN006",
                format!(
                    "{bridge} has ports without a program of ours ({}); what a Service leads to there could not be judged, so egress beyond the pods is dropped where a policy isolates",
                    around.foreign.join(", ")
                ),
                Some("take the port off the bridge, or let the pod behind it start again through the CNI chain"),
            ));
        }
        problems.extend(around.ipvs.then(of_ipvs));
        if !around.elsewhere.is_empty() {
            problems.push(Problem::new(
                "KRN009",
                format!(
                    "pods are not ports of {bridge} ({}): flannel without a bridge (ptp) is not supported, and their egress beyond the pods is dropped where a policy isolates",
                    around.elsewhere.join(", ")
                ),
                Some("use flannel's bridge, or name it with --bridge"),
            ));
        }
        problems
    }

    /// What else is wrong around us.
    pub(super) fn surrounding_problems(&self) -> Vec<Problem> {
        let around = &self.surroundings;
        let mut problems: Vec<Problem> = self.early_problem().into_iter().collect();
        for (interface, programs) in &around.behind {
            problems.push(Problem::new(
                "KRN007",
                format!(
                    "on {interface} programs of somebody else stand before ours (ids {programs:?}); what they let pass for good is never judged"
                ),
                Some("bpftool net show dev INTERFACE names them; attach them behind, or let them return TCX_NEXT"),
            ));
        }
        for (interface, (times, last)) in &around.taken {
            problems.push(Problem::new(
                "ATT003",
                format!(
                    "our program was taken off {interface} ({times} times, the last {} s ago) and attached again; until then nothing was judged there",
                    last.elapsed().as_secs()
                ),
                Some("find out who does so; this is told for ten minutes"),
            ));
        }
        let bridge = &self.places.bridge;
        for stranger in self.strangers.told() {
            let name = &stranger.name;
            let (what, hint) = match (&stranger.error, stranger.closed) {
                (Some(error), _) => (format!("could not be closed: {error}"), None),
                (None, true) => (
                    "is closed: nothing but ARP and neighbour discovery passes".to_owned(),
                    Some("if it is no pod's, make it anew and not on the pods' bridge"),
                ),
                (None, false) => (
                    "was there before vethwall and is left alone: nothing is enforced there".to_owned(),
                    Some("if it is a pod's, start the pod again; if not, take it off the pods' bridge"),
                ),
            };
            problems.push(Problem::new(
                "ATT002",
                format!("{name} on {bridge} is an interface of no known pod, and {what}"),
                hint,
            ));
        }
        problems.extend(around.enforcers.problems());
        if let Some(error) = &around.unmounted {
            problems.push(Problem::new(
                "KRN011",
                format!("pods can neither start nor be attached again: {error}"),
                Some("do not stop the agent, which keeps what runs enforced; unmount what lies there now, and the pins come back"),
            ));
        }
        if let Some(error) = &around.error {
            problems.push(Problem::new(
                "ATT004",
                format!("whether our programs are still attached is not known: {error}"),
                None,
            ));
        }
        problems
    }
}
