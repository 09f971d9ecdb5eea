//! The node's state as people and programs ask for it.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Instant};

use vethwall_common::{
    Direction, maps,
    verdict::{Action, Reason},
};
use vethwall_datapath::{Hook, Maps};

use super::{
    existing,
    thread::{Known, Node},
};
use crate::api::{
    Mode, PolicyName,
    settings::FailurePolicy,
    status::{
        AgentState, Bridge, Counter, Endpoint, EndpointState, Events, Interfaces, Isolation, Manifests,
        MapUse, Phase, Policy, Problem, Status, Stranger,
    },
};
use crate::chain::keeper::Told;

impl From<Hook> for crate::api::status::Hook {
    fn from(hook: Hook) -> Self {
        match hook {
            Hook::Tcx => Self::Tcx,
            Hook::Clsact => Self::Clsact,
        }
    }
}

impl Node {
    pub(super) fn status(&self) -> Status {
        let counters = self.control.maps().counters();
        let objects = self.control.objects();
        let cluster = self.watched.cluster.as_ref();
        let hooks = self
            .interfaces
            .values()
            .filter_map(|known| known.hook)
            .chain(self.bridge.map(|(_, hook)| hook));
        // The weaker one, where there are both.
        let hook = hooks.max();
        let mut problems = self.no_second_stage();
        let judged = problems.is_empty();
        problems.extend(self.problems());
        let chain = self.watched.chain.told();
        problems.extend(chain.problems.iter().cloned());
        if let Err(error) = &counters {
            problems.push(Problem::new(
                "KRN004",
                format!("the counters can not be read: {}", error.chain()),
                None,
            ));
        }
        let counters = counters.unwrap_or_default();
        Status {
            node: self.places.node.clone(),
            ready: self.ready,
            phase: self.phase(&chain),
            state: match (
                self.control.synced(),
                self.control.failures().is_empty() && judged,
            ) {
                (false, _) => AgentState::Starting,
                (true, true) => AgentState::Enforcing,
                (true, false) => AgentState::Degraded,
            },
            hook: hook.map(Into::into),
            bridge: Bridge {
                name: self.places.bridge.clone(),
                attached: self.bridge.is_some(),
            },
            bridge_nf_call_iptables: self.surroundings.bridge_nf[0],
            revision: self.control.revision(),
            manifests: Manifests {
                directory: objects.directory.clone(),
                digest: self.control.applied_digest().to_owned(),
                files: objects.files,
                problems: objects.problems.clone(),
            },
            cluster: cluster.map(|cluster| cluster.status(Instant::now())),
            interfaces: Interfaces {
                identified: self.strangers.identified,
                strangers: self
                    .strangers
                    .on_the_bridge()
                    .map(|stranger| Stranger {
                        interface: stranger.name.clone(),
                        closed: stranger.closed,
                    })
                    .collect(),
                lost: self.changes_lost,
            },
            endpoints: self
                .interfaces
                .values()
                .map(|known| self.endpoint(known))
                .collect(),
            policies: self.policies(),
            maps: self.map_use(),
            events: Events {
                read: self.watched.events_read.load(Ordering::Relaxed),
                lost: counters
                    .get(maps::EVENTS_LOST as usize)
                    .copied()
                    .unwrap_or_default(),
            },
            settings: self.settings,
            failure_policy: FailurePolicy::new(&self.places.fail_open_namespaces),
            connections: self
                .connections
                .counts(self.watched.unasked.load(Ordering::Relaxed)),
            chain: chain.chain,
            problems,
            counters: named(&counters),
            ..Status::new()
        }
    }

    /// Why not all objects are known, while nothing is in force because of that.
    pub(super) fn incomplete(&self) -> Option<String> {
        if self.control.synced() {
            return None;
        }
        let cluster = self.watched.cluster.as_ref();
        let unlisted = cluster.and_then(|cluster| cluster.incomplete());
        unlisted.or_else(|| self.control.objects().incomplete.clone())
    }

    fn phase(&self, chain: &Told) -> Phase {
        // Pods that came by the chain before it named us were looked for since.
        let second = chain
            .since
            .is_some_and(|since| self.looked.is_some_and(|looked| looked > since));
        match (self.removed, self.control.synced(), self.ready) {
            (true, _, _) => Phase::Removed,
            (false, false, _) => Phase::Loaded,
            (false, true, false) => Phase::Synced,
            (false, true, true) if second => Phase::Steady,
            (false, true, true) => Phase::Ready,
        }
    }

    fn endpoint(&self, known: &Known) -> Endpoint {
        let interface = &known.interface;
        let isolation = |direction| {
            let policies = self.selecting(known, direction);
            let isolated = policies.iter().any(|(_, mode)| *mode == Mode::Enforce);
            Isolation {
                isolated,
                policies: policies.into_iter().map(|(name, _)| name).collect(),
            }
        };
        Endpoint {
            namespace: interface.namespace.clone(),
            pod: interface.pod.clone(),
            uid: interface.uid.clone(),
            ifindex: interface.ifindex,
            interface: interface.host_ifname.clone(),
            addresses: interface.addresses.clone(),
            state: match known.hook {
                None => EndpointState::Unprotected,
                Some(_) if self.control.enforcing(interface.ifindex) => EndpointState::Enforcing,
                Some(_) => EndpointState::Pending,
            },
            ingress: isolation(Direction::Ingress),
            egress: isolation(Direction::Egress),
            hook: known.hook.map(Into::into),
            since: known.since,
            found_by: known.found_by,
        }
    }

    /// The policies that select a pod in one direction.
    fn selecting(&self, known: &Known, direction: Direction) -> Vec<(PolicyName, Mode)> {
        let world = self.control.world();
        let interface = &known.interface;
        let Some(pod) = world.pod(&interface.namespace, &interface.pod) else {
            return Vec::new();
        };
        world
            .policies_of(&interface.namespace)
            .filter(|policy| policy.pod_selector.matches(&pod.labels))
            .filter(|policy| match direction {
                Direction::Ingress => policy.ingress.is_some(),
                Direction::Egress => policy.egress.is_some(),
            })
            .map(|policy| {
                (
                    PolicyName {
                        namespace: policy.namespace.clone(),
                        name: policy.name.clone(),
                    },
                    world.mode_of(policy.mode).into(),
                )
            })
            .collect()
    }

    fn policies(&self) -> Vec<Policy> {
        let mut selected: BTreeMap<PolicyName, usize> = BTreeMap::new();
        for known in self.interfaces.values() {
            let mut names: Vec<_> = Direction::ALL
                .into_iter()
                .flat_map(|d| self.selecting(known, d))
                .map(|(name, _)| name)
                .collect();
            names.sort();
            names.dedup();
            names
                .into_iter()
                .for_each(|name| *selected.entry(name).or_default() += 1);
        }
        let problems = self.control.policy_problems();
        let describe = |policy: &vethwall_policy::model::NetworkPolicy| {
            let name = PolicyName {
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
            };
            Policy {
                mode: self.control.world().mode_of(policy.mode).into(),
                selects: selected.get(&name).copied().unwrap_or_default(),
                problems: problems.get(&name).cloned().unwrap_or_default(),
                namespace: name.namespace,
                name: name.name,
            }
        };
        self.control.world().policies().map(describe).collect()
    }

    fn map_use(&self) -> Vec<MapUse> {
        let observed = self.control.observed();
        let use_of = |name: &str, entries: usize, capacity: u32| MapUse {
            name: name.to_owned(),
            entries: entries as u64,
            capacity: capacity.into(),
        };
        vec![
            use_of(
                maps::ENDPOINTS,
                observed.endpoints.len(),
                vethwall_common::endpoint::ENDPOINT_ARRAY_SIZE,
            ),
            use_of(maps::SLOTS, observed.slots.len(), maps::MAX_SLOTS),
            use_of(maps::VERDICTS, observed.verdicts.len(), maps::MAX_VERDICTS),
            use_of(maps::PORTS, observed.ports.len(), maps::MAX_PORT_PAGES),
            use_of(maps::ADDRESSES, observed.addresses.len(), maps::MAX_ADDRESSES),
            use_of(maps::PREFIXES, observed.prefixes.len(), maps::MAX_PREFIXES),
        ]
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.config_problems.clone();
        problems.extend(self.surrounding_problems());
        problems.extend(self.other_versions());
        if let Some(error) = self.connections.error() {
            problems.push(Problem::new(
                "KRN010",
                format!(
                    "connections that are older than vethwall may be interrupted, since the kernel does not tell of them: {error}"
                ),
                Some("modprobe nf_conntrack_netlink"),
            ));
        }
        if let Some(cluster) = &self.watched.cluster {
            problems.extend(cluster.problems(Instant::now()));
        }
        if let Some(why) = &self.control.objects().incomplete {
            problems.push(Problem::new(
                "OBJ001",
                why.clone(),
                Some("mend the file; the agent sees the change by itself"),
            ));
        }
        for failure in self.control.failures() {
            problems.push(Problem::new(
                "MAP001",
                format!("the kernel's maps do not follow yet: {failure}"),
                None,
            ));
        }
        for found in &self.control.compiled().problems {
            problems.push(Problem::new(found.code, found.message.clone(), None));
        }
        for (what, error) in &self.unreadable {
            problems.push(Problem::new(
                "CNI002",
                format!("can not read the {what}: {error}"),
                (*what == existing::RESULTS).then_some(
                    "if the pod runs, start it again, which writes its result anew; if it is gone, remove the file",
                ),
            ));
        }
        for known in self.interfaces.values() {
            if let Some(error) = &known.error {
                let name = format!("{}/{}", known.interface.namespace, known.interface.pod);
                problems.push(Problem::new(
                    "ATT001",
                    format!("pod {name} is not protected: {error}"),
                    None,
                ));
            }
        }
        problems
    }
}

fn named(counters: &[u64]) -> Vec<Counter> {
    let mut named = Vec::new();
    for action in [Action::Drop, Action::Pass, Action::Audit] {
        for direction in Direction::ALL {
            for reason in Reason::ALL {
                let index = maps::counter_index(action, direction, *reason) as usize;
                let packets = counters.get(index).copied().unwrap_or_default();
                if packets > 0 {
                    named.push(Counter {
                        verdict: action.name().to_owned(),
                        direction: direction.name().to_owned(),
                        reason: reason.name().to_owned(),
                        packets,
                    });
                }
            }
        }
    }
    named
}
