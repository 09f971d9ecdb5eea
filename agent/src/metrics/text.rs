//! A node's state as OpenMetrics text.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode as encode_registry},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::api::{
    Mode,
    chain::ChainState,
    cluster::{Watch, WatchState},
    status::{EndpointState, Phase, Status},
};

/// What Prometheus asks for and is given.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text of all metrics.
pub(super) fn encode(status: &Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("vethwall");
    registry.register_collector(Box::new(State(status.clone())));
    let mut text = String::new();
    encode_registry(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct State(Status);

/// Labels of one series, and its value.
type Series<V> = Vec<(Vec<(&'static str, String)>, V)>;

fn one<V>(value: V) -> Series<V> {
    vec![(Vec::new(), value)]
}

/// One series for each state that there is, so that one which ends is 0 and not absent.
fn states<T: Copy>(
    label: &'static str,
    all: &[T],
    name: fn(T) -> &'static str,
    value: impl Fn(T) -> i64,
) -> Series<i64> {
    all.iter()
        .map(|state| (vec![(label, name(*state).to_owned())], value(*state)))
        .collect()
}

struct Encoder<'a>(DescriptorEncoder<'a>);

impl Encoder<'_> {
    fn gauges(&mut self, name: &str, help: &str, series: Series<i64>) -> fmt::Result {
        self.metric(name, help, MetricType::Gauge, series, ConstGauge::new)
    }

    fn counters(&mut self, name: &str, help: &str, series: Series<u64>) -> fmt::Result {
        self.metric(name, help, MetricType::Counter, series, ConstCounter::new)
    }

    fn metric<V, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        series: Series<V>,
        metric: fn(V) -> M,
    ) -> fmt::Result {
        // A description without a series is text without a meaning.
        if series.is_empty() {
            return Ok(());
        }
        let mut encoder = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in series {
            metric(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for State {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = &self.0;
        let mut out = Encoder(encoder);
        node(status, &mut out)?;
        cluster(status, &mut out)?;
        enforcement(status, &mut out)?;
        packets(status, &mut out)
    }
}

fn number(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// How far the node is, and what is wrong with it.
fn node(status: &Status, out: &mut Encoder<'_>) -> fmt::Result {
    let build = vec![
        ("version", status.version.clone()),
        ("map_layout", status.abi.to_string()),
        ("hook", status.hook.map_or("none", |hook| hook.name()).to_owned()),
    ];
    out.gauges(
        "build_info",
        "The agent's version and how it hooks in.",
        vec![(build, 1)],
    )?;
    out.gauges(
        "phase",
        "How far the agent has taken over the node; 1 for the phase it is in. Steady is the aim.",
        states("phase", &Phase::ALL, Phase::name, |phase| {
            i64::from(phase == status.phase)
        }),
    )?;
    out.gauges(
        "mode",
        "Whether policies that do not say it themselves drop packets; 1 for the mode it is in.",
        states("mode", &Mode::ALL, Mode::name, |mode| {
            i64::from(mode == status.settings.mode)
        }),
    )?;
    out.gauges(
        "chain",
        "Whether the container runtime calls the plugin; 1 for the state it is in.",
        states("state", &ChainState::ALL, ChainState::name, |state| {
            i64::from(state == status.chain.state)
        }),
    )?;
    out.counters(
        "chain_repairs",
        "How often the chain had to be put back.",
        one(status.chain.repairs),
    )?;
    let mut problems: BTreeMap<&str, i64> = BTreeMap::new();
    for problem in &status.problems {
        *problems.entry(&problem.code).or_default() += 1;
    }
    let problems = problems
        .into_iter()
        .map(|(code, count)| (vec![("code", code.to_owned())], count));
    out.gauges("problems", "What is wrong, by stable code.", problems.collect())
}

/// How well the cluster is known, where one is followed.
fn cluster(status: &Status, out: &mut Encoder<'_>) -> fmt::Result {
    let watches = || status.cluster.iter().flat_map(|cluster| &cluster.watches);
    let label = |watch: &Watch| ("resource", watch.resource.clone());
    let states = watches().flat_map(|watch| {
        WatchState::ALL.map(|state| {
            let labels = vec![label(watch), ("state", state.name().to_owned())];
            (labels, i64::from(state == watch.state))
        })
    });
    out.gauges(
        "watch_state",
        "How the watch of a resource is; 1 for the state it is in. Current is the aim.",
        states.collect(),
    )?;
    let ages = watches().filter_map(|watch| Some((vec![label(watch)], gauge(watch.heard_seconds_ago?))));
    out.gauges(
        "watch_age_seconds",
        "How long ago the API server last said anything of a resource; about a minute is usual where nothing happens.",
        ages.collect(),
    )?;
    let counted = |value: fn(&Watch) -> u64| -> Series<u64> {
        watches()
            .map(|watch| (vec![label(watch)], value(watch)))
            .collect()
    };
    out.counters(
        "watch_lists",
        "How often all objects of a resource were listed.",
        counted(|watch| watch.lists),
    )?;
    out.counters(
        "watch_failures",
        "How often a list or a watch of a resource failed.",
        counted(|watch| watch.failures),
    )
}

/// What is enforced, and how full the kernel's maps are.
fn enforcement(status: &Status, out: &mut Encoder<'_>) -> fmt::Result {
    out.gauges(
        "endpoints",
        "Pods of this node by whether their policy is in force; unprotected ought to be 0.",
        states("state", &EndpointState::ALL, EndpointState::name, |state| {
            number(status.endpoints.iter().filter(|e| e.state == state).count())
        }),
    )?;
    out.gauges(
        "policies",
        "NetworkPolicies that are known.",
        one(number(status.policies.len())),
    )?;
    out.gauges(
        "policy_revision",
        "Counts the changes that are fully in the kernel.",
        one(gauge(status.revision)),
    )?;
    let of_maps = |value: fn(&crate::api::status::MapUse) -> u64| -> Series<i64> {
        let series = status.maps.iter();
        series
            .map(|map| (vec![("map", map.name.clone())], gauge(value(map))))
            .collect()
    };
    out.gauges(
        "map_entries",
        "Entries in a kernel map.",
        of_maps(|map| map.entries),
    )?;
    out.gauges(
        "map_capacity",
        "Entries that a kernel map has room for.",
        of_maps(|map| map.capacity),
    )
}

/// What became of packets, of their events, and of connections that only the kernel knew.
fn packets(status: &Status, out: &mut Encoder<'_>) -> fmt::Result {
    let packets = status.counters.iter().map(|counter| {
        let labels = vec![
            ("direction", counter.direction.clone()),
            ("verdict", counter.verdict.clone()),
            ("reason", counter.reason.clone()),
        ];
        (labels, counter.packets)
    });
    out.counters(
        "packets",
        "Packets by how they ended, from the programs' own counters.",
        packets.collect(),
    )?;
    out.counters(
        "events",
        "Events that were read from the programs.",
        one(status.events.read),
    )?;
    out.counters(
        "events_lost",
        "Events that found the ring buffer full.",
        one(status.events.lost),
    )?;
    let connections = &status.connections;
    let by = |what: &str, count| (vec![("what", what.to_owned())], count);
    out.counters(
        "known_connections",
        "Connections learnt from, or asked of, the kernel's connection tracking.",
        vec![
            by("seeded", connections.seeded),
            by("asked", connections.asked),
            by("unasked", connections.unasked),
            by("revoked", connections.revoked),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        cluster::Cluster,
        status::{Counter, Endpoint, Problem},
    };

    #[test]
    fn a_nodes_state_in_numbers() {
        let status = Status {
            phase: Phase::Steady,
            endpoints: vec![Endpoint {
                state: EndpointState::Enforcing,
                namespace: "secret".into(),
                ..Endpoint::default()
            }],
            cluster: Some(Cluster {
                server: "https://10.0.0.1".into(),
                watches: vec![Watch {
                    resource: "pods".into(),
                    state: WatchState::Behind,
                    heard_seconds_ago: Some(75),
                    failures: 3,
                    ..Watch::default()
                }],
            }),
            problems: vec![Problem::new("CNI007", "x".into(), None); 2],
            counters: vec![Counter {
                verdict: "denied".into(),
                direction: "ingress".into(),
                reason: "no_rule".into(),
                packets: 7,
            }],
            ..Status::new()
        };
        let text = encode(&status).unwrap();
        for line in [
            "vethwall_phase{phase=\"steady\"} 1",
            "vethwall_phase{phase=\"ready\"} 0",
            "vethwall_endpoints{state=\"enforcing\"} 1",
            "vethwall_endpoints{state=\"unprotected\"} 0",
            "vethwall_problems{code=\"CNI007\"} 2",
            "vethwall_packets_total{direction=\"ingress\",verdict=\"denied\",reason=\"no_rule\"} 7",
            "vethwall_chain_repairs_total 0",
            "vethwall_watch_state{resource=\"pods\",state=\"behind\"} 1",
            "vethwall_watch_state{resource=\"pods\",state=\"current\"} 0",
            "vethwall_watch_age_seconds{resource=\"pods\"} 75",
            "vethwall_watch_failures_total{resource=\"pods\"} 3",
            "# TYPE vethwall_events counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert!(!text.contains("secret"), "no pod is named");
    }
}
