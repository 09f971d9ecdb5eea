//! The pods of a run, and what they say.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    net::IpAddr,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    Report,
    apply::MODE,
    arrivals::{Arrival, judge},
};
use crate::{
    lab::Tap,
    runtime::{Node, Pod, Spec},
};

/// What policy allows: everything else that arrives was forbidden. `free` is heard on every port of `open`.
pub(super) fn allowed(at: &str, port: &str, from: &str) -> bool {
    at == "open" && (port == "tcp/80" || from == "free")
}

const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nothing-in, namespace: shop}
spec: {podSelector: {matchLabels: {in: nothing}}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: little-out, namespace: shop}
spec:
  podSelector: {matchLabels: {out: little}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: open}}}]
    ports: [{port: 80}]
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
";

fn manifests(crowd: usize) -> String {
    let mut text = POLICIES.to_owned();
    let members = (0..crowd).map(member);
    // Where a pod is isolated both ways, answers come only on connections that are known.
    let pods = [
        ("open", "app: open"),
        ("closed", "in: nothing"),
        ("free", ""),
        ("one", "out: little"),
        ("two", "in: nothing, out: little"),
        ("talk", "in: nothing, out: little"),
        ("late", "out: little"),
    ]
    .map(|(name, labels)| (name.to_owned(), labels))
    .into_iter()
    .chain(members.map(|name| (name, "out: little")));
    for (name, labels) in pods {
        let metadata = format!("{{name: {name}, namespace: shop, uid: u-{name}, labels: {{{labels}}}}}");
        // Writing to a string never fails.
        let _written = writeln!(text, "---\napiVersion: v1\nkind: Pod\nmetadata: {metadata}");
    }
    text
}

/// One pod of the crowd.
pub(super) fn member(number: usize) -> String {
    format!("p{number}")
}

/// A file that grows, read from where the last reading ended.
#[derive(Debug, Default)]
struct Tail {
    read: u64,
}

impl Tail {
    /// The whole lines that are new.
    fn next(&mut self, pod: &str) -> Result<Vec<String>> {
        let path = Node::log_of(pod);
        let mut file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |last| last + 1);
        self.read += whole as u64;
        let text = String::from_utf8_lossy(bytes.get(..whole).unwrap_or_default()).into_owned();
        Ok(text.lines().filter_map(Node::line_of_log).collect())
    }
}

/// A node, its pods, and what they have said so far.
pub(super) struct World<'a> {
    pub(super) node: &'a Node,
    pub(super) crowd: usize,
    pub(super) report: Report,
    pub(super) pods: Vec<Pod>,
    tails: BTreeMap<String, Tail>,
    /// What comes in at the receivers' interfaces.
    taps: BTreeMap<&'static str, Tap>,
    /// Number of the last try of a sender, by pod and target.
    tries: BTreeMap<(String, String), u64>,
    /// Tries of what is allowed that were answered, by pod.
    pub(super) answered: BTreeMap<String, u64>,
    /// The last line of the connection that lives.
    pub(super) talked: u64,
    /// Whether flannel's list is the other one of two.
    pub(super) other_list: bool,
}

impl<'a> World<'a> {
    pub(super) fn new(node: &'a Node, crowd: usize) -> Result<Self> {
        node.manifests(&manifests(crowd))?;
        let mut world = Self {
            node,
            crowd,
            report: Report::default(),
            pods: Vec::new(),
            tails: BTreeMap::new(),
            taps: BTreeMap::new(),
            tries: BTreeMap::new(),
            answered: BTreeMap::new(),
            talked: 0,
            other_list: false,
        };
        node.start_agent(MODE)?;
        world.settle()?;
        world.populate()?;
        world.settle()?;
        world.check()?;
        Ok(world)
    }

    /// Starts the pods that stay.
    pub(super) fn populate(&mut self) -> Result<()> {
        for (name, ports) in [
            ("open", &["tcp/80", "tcp/81", "udp/53"][..]),
            ("closed", &["tcp/80", "udp/53"]),
        ] {
            let pod = self.start(name, &[&["receive"], ports].concat())?;
            self.taps.insert(name, self.node.tap(&pod)?);
        }
        let (targets, open) = (self.targets()?, self.address("open")?);
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        for name in ["one", "two", "free"] {
            self.start(name, &[&["send", "20"], targets.as_slice()].concat())?;
        }
        self.talked = 0;
        self.start("talk", &["talk", "20", &format!("{open}:80")])?;
        Ok(())
    }

    /// The pods of now, and what watches them, are no more.
    pub(super) fn depopulate(&mut self) {
        self.pods.clear();
        self.taps.clear();
    }

    fn start(&mut self, name: &str, arguments: &[&str]) -> Result<Pod> {
        let pod = self.node.start_pod(&Spec {
            name,
            host_network: false,
            arguments,
        })?;
        self.pods.push(pod.clone());
        Ok(pod)
    }

    fn address(&self, name: &str) -> Result<IpAddr> {
        let pod = self.pods.iter().find(|pod| pod.name == name);
        pod.and_then(|pod| pod.address)
            .with_context(|| format!("{name} has no address"))
    }

    /// What a sender tries: all ports of both receivers.
    pub(super) fn targets(&self) -> Result<[String; 5]> {
        let (open, closed) = (self.address("open")?, self.address("closed")?);
        Ok([
            format!("tcp/{open}:80"),
            format!("tcp/{open}:81"),
            format!("datagrams/{open}:53"),
            format!("tcp/{closed}:80"),
            format!("datagrams/{closed}:53"),
        ])
    }

    /// Reads what has come to the receivers, and what all pods have said, since the last time. An arrival that policy forbids, or a
    /// broken connection, is an error.
    pub(super) fn listen(&mut self) -> Result<()> {
        self.count_arrivals()?;
        for pod in self.pods.iter().map(|pod| pod.name.clone()).collect::<Vec<_>>() {
            self.hear(&pod)?;
        }
        Ok(())
    }

    fn count_arrivals(&mut self) -> Result<()> {
        let free = self.address("free").ok();
        let mut forbidden = None;
        for (name, tap) in &self.taps {
            for frame in tap.received().context(*name)? {
                match judge(name, free, &frame) {
                    Arrival::Aside => {}
                    Arrival::Allowed => self.report.packets_allowed += 1,
                    Arrival::Forbidden => {
                        self.report.packets_forbidden += 1;
                        forbidden.get_or_insert_with(|| format!("{name}: {frame:02x?}"));
                    }
                }
            }
        }
        match forbidden {
            Some(first) => bail!("FORBIDDEN: packets came to the interface of a pod; the first at {first}"),
            None => Ok(()),
        }
    }

    /// What one pod has said since the last time.
    pub(super) fn hear(&mut self, pod: &str) -> Result<()> {
        let open = self.address("open")?;
        for line in self.tails.entry(pod.to_owned()).or_default().next(pod)? {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                ["got", port, from, number] => {
                    ensure!(
                        allowed(pod, port, from),
                        "FORBIDDEN: {port} of {pod} was reached by {from}, message {number}"
                    );
                    if *from == "talk" {
                        self.report.talked += 1;
                    } else {
                        self.report.allowed_arrived += 1;
                    }
                }
                ["sent", number, target, outcome @ ..] => {
                    let number: u64 = number.parse()?;
                    let to_open = target.contains(&format!("/{open}:"));
                    let port = target
                        .replace("datagrams", "udp")
                        .replace(&format!("{open}:"), "");
                    let before = self.tries.insert((pod.to_owned(), (*target).to_owned()), number);
                    // A pod of the same name begins anew.
                    let tries = before
                        .filter(|before| *before < number)
                        .map_or(1, |before| number - before);
                    if to_open && allowed("open", &port, pod) {
                        self.report.allowed_sent += tries;
                        if outcome == ["answered"] && port == "tcp/80" {
                            *self.answered.entry(pod.to_owned()).or_default() += 1;
                        }
                    } else {
                        self.report.forbidden_sent += tries;
                    }
                }
                ["talked", number] => self.talked = number.parse()?,
                ["ready"] => {}
                _ => bail!("BROKEN: {pod} says: {line}"),
            }
        }
        Ok(())
    }
}
