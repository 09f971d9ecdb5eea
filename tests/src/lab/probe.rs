//! Probes: one a line, real traffic, an answer for each in the order of the lines.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value};

use super::{
    flannel,
    prober::Shot,
    proxy,
    state::{Pod, State},
};

/// The largest datagram that the lab's servers read whole.
const LARGEST: usize = 4096;

/// One line.
#[derive(Clone, Debug)]
pub struct Probe {
    /// `NS/POD`, `node/NAME` or `outside`.
    pub from: String,
    /// `NS/POD`, `NS/svc/NAME`, an address, `node/NAME` or `outside`.
    pub to: String,
    /// Which port.
    pub port: u16,
    /// TCP, UDP, SCTP or ICMP.
    pub protocol: String,
    /// 4 or 6; none: that of the cluster.
    pub family: Option<u8>,
    /// How many bytes a UDP datagram has at least; the answer of the lab's servers has as many.
    pub bytes: usize,
    /// The line as it was written.
    pub line: Map<String, Value>,
}

impl Probe {
    /// A probe that was not read from a line.
    pub fn new(from: &str, to: &str, port: u16, protocol: &str) -> Self {
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
            port,
            protocol: protocol.to_owned(),
            family: None,
            bytes: 0,
            line: Map::new(),
        }
    }

    /// Reads a line.
    pub fn parse(text: &str) -> Result<Self> {
        let line: Map<String, Value> = serde_json::from_str(text).context("not a JSON object")?;
        let string = |key: &str| match line.get(key) {
            Some(Value::String(value)) if !value.is_empty() => Ok(value.clone()),
            Some(other) => bail!("\"{key}\" must be a string, not {other}"),
            None => bail!("\"{key}\" is missing"),
        };
        let protocol = match line.get("protocol") {
            None => "TCP".to_owned(),
            Some(_) => string("protocol")?.to_uppercase(),
        };
        ensure!(
            ["TCP", "UDP", "SCTP", "ICMP"].contains(&protocol.as_str()),
            "\"protocol\" must be TCP, UDP, SCTP or ICMP, not {protocol}"
        );
        let port = match line.get("port") {
            None if protocol == "ICMP" => 0,
            None => bail!("\"port\" is missing"),
            Some(value) => value
                .as_u64()
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port > 0 || protocol == "ICMP")
                .with_context(|| format!("\"port\" must be a number from 1 to 65535, not {value}"))?,
        };
        let family = match line.get("family") {
            None | Some(Value::Null) => None,
            Some(value) => match value.as_u64() {
                Some(4) => Some(4),
                Some(6) => Some(6),
                _ => bail!("\"family\" must be 4 or 6, not {value}"),
            },
        };
        let bytes = match line.get("bytes") {
            None | Some(Value::Null) => 0,
            Some(value) => value
                .as_u64()
                .and_then(|bytes| usize::try_from(bytes).ok())
                .filter(|bytes| *bytes <= LARGEST)
                .with_context(|| format!("\"bytes\" must be a number up to {LARGEST}, not {value}"))?,
        };
        Ok(Self {
            from: string("from")?,
            to: string("to")?,
            port,
            protocol,
            family,
            bytes,
            line,
        })
    }

    /// Reads many lines; an error names the line.
    pub fn parse_all(text: &str) -> Result<Vec<Self>> {
        text.lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(index, line)| Self::parse(line).with_context(|| format!("line {}", index + 1)))
            .collect()
    }
}

/// What came of a probe.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// `allowed`, `denied`, `refused` or `error`.
    pub result: String,
    /// More about it.
    pub detail: Option<String>,
    /// What the other side said: the name of who answered.
    pub answer: Option<String>,
    /// The line again, with `result`.
    pub line: Map<String, Value>,
}

/// Where a probe starts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// In a pod's network namespace: holder's pid and name.
    Pod(u32, String),
    /// In a holder's network namespace.
    Host(u32),
}

/// Finds a running pod.
pub(super) fn pod<'a>(state: &'a State, name: &str) -> Result<&'a Pod> {
    let pod = state
        .pods
        .get(name)
        .with_context(|| format!("there is no pod {name}; `vethwall-lab status` lists them"))?;
    ensure!(!pod.finished, "pod {name} has finished");
    if let Some(why) = &pod.waiting {
        bail!("pod {name} does not run yet: {why}");
    }
    Ok(pod)
}

/// Where a command for this target runs.
pub(super) fn source(state: &State, from: &str) -> Result<Source> {
    if from == "outside" {
        return Ok(Source::Host(state.outside));
    }
    let (first, second) = from
        .split_once('/')
        .with_context(|| format!("{from:?} is neither NAMESPACE/POD nor node/NAME nor outside"))?;
    if first == "node" {
        return Ok(Source::Host(node(state, second)?.pid));
    }
    let pod = pod(state, from)?;
    let holder = node(state, &pod.node)?.pid;
    Ok(if pod.host_network {
        Source::Host(holder)
    } else {
        Source::Pod(holder, pod.netns.clone())
    })
}

fn node<'a>(state: &'a State, name: &str) -> Result<&'a super::state::Node> {
    state.node(name).with_context(|| {
        let names: Vec<_> = state.nodes.iter().map(|node| node.name.as_str()).collect();
        format!("there is no node {name}; there are {}", names.join(", "))
    })
}

fn destination(state: &State, probe: &Probe) -> Result<IpAddr> {
    let to = probe.to.as_str();
    if let Ok(address) = to.parse() {
        return Ok(address);
    }
    let v6 = probe.family.map_or(!state.families.v4(), |family| family == 6);
    let family = if v6 { "IPv6" } else { "IPv4" };
    let missing = || format!("{to} has no {family} address");
    if to == "outside" {
        return Ok(if v6 { flannel::OUTSIDE6 } else { flannel::OUTSIDE4 }.parse()?);
    }
    let parts: Vec<_> = to.split('/').collect();
    match parts.as_slice() {
        ["node", name] => {
            let node = node(state, name)?;
            node.addresses(state.families)
                .into_iter()
                .find(|address| address.is_ipv6() == v6)
                .with_context(missing)
        }
        [namespace, "svc", name] => {
            let service = state
                .services
                .get(&format!("{namespace}/{name}"))
                .with_context(|| format!("there is no Service {name} in namespace {namespace}"))?;
            let own = service
                .addresses
                .iter()
                .copied()
                .find(|address| address.is_ipv6() == v6);
            let behind = || proxy::endpoints(state, service).find_map(|pod| pod.address(v6));
            own.or_else(|| behind().filter(|_| service.addresses.is_empty()))
                .with_context(missing)
        }
        [_, _] => pod(state, to)?.address(v6).with_context(missing),
        _ => bail!("{to:?} is neither NAMESPACE/POD, NAMESPACE/svc/NAME, an address, node/NAME nor outside"),
    }
}

/// What is to be sent from where; an error names the line.
pub(super) fn plan(state: &State, probes: &[Probe]) -> Result<BTreeMap<Source, Vec<Shot>>> {
    let mut plan: BTreeMap<Source, Vec<Shot>> = BTreeMap::new();
    for (index, probe) in probes.iter().enumerate() {
        let step = || -> Result<_> { Ok((source(state, &probe.from)?, destination(state, probe)?)) };
        let (source, address) = step().with_context(|| format!("probe {}", index + 1))?;
        plan.entry(source).or_default().push(Shot {
            index,
            address,
            port: probe.port,
            protocol: probe.protocol.clone(),
            bytes: probe.bytes,
        });
    }
    Ok(plan)
}
