//! What an engine costs two pods of one node that talk to each other, in the lab: none, vethwall, and the same policies
//! as iptables and nftables rules, each in a lab of its own. All are measured in turns, so that a busy minute of the machine
//! falls on all of them.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use vethwall_tests::lab::{Engine, Lab, Options, State};

use crate::{
    rules::Pair,
    traffic::{self, Measured},
};

/// All is measured so many times; the median counts.
const ROUNDS: usize = 3;
/// How long an agent may take to enforce what was written.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Judge {
    Nobody,
    Vethwall,
    Iptables,
    Nftables,
}

impl fmt::Display for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nobody => "none",
            Self::Vethwall => "vethwall",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        })
    }
}

const PODS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: client, labels: {app: client}}
spec: {nodeName: node-a, containers: [{name: c, image: none}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: server, labels: {app: server}}
spec: {nodeName: node-a, containers: [{name: c, image: none}]}
"#;

/// A lab with two pods on one node.
struct Stage {
    lab: Lab,
    pair: Pair,
    server: Child,
}

impl Stage {
    fn new(name: &str, engine: Engine) -> Result<Self> {
        let manifests = tempfile::tempdir()?;
        fs::write(manifests.path().join("pods.yaml"), PODS)?;
        let options = Options {
            nodes: 1,
            engine,
            ..Options::new(name, manifests.path())
        };
        let (lab, applied) = Lab::up(&options, &mut |_| {})?;
        ensure!(applied.complete(), "{applied:?}");
        let address = |pod: &str| -> Result<Ipv4Addr> {
            let known = lab.state.pods.get(pod).and_then(|pod| pod.address(false));
            match known {
                Some(std::net::IpAddr::V4(address)) => Ok(address),
                _ => bail!("{pod} has no address"),
            }
        };
        let pair = Pair {
            client: address("shop/client")?,
            server: address("shop/server")?,
            port: traffic::PORT,
        };
        let mut command = own("serve", pair.server)?;
        command.stdout(Stdio::piped());
        let mut server = lab.target("shop/server")?.spawn(command)?;
        let mut said = String::new();
        let output = server.stdout.as_mut().context("no standard output")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut said)?;
        ensure!(said == "ready\n", "the server said {said:?}");
        Ok(Self { lab, pair, server })
    }

    fn measure(&self) -> Result<Measured> {
        let command = own("measure", self.pair.server)?;
        let output = self.lab.target("shop/client")?.output(command)?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("the client failed: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// On the node, with this input.
    fn tell(&self, command: &[&str], input: &str) -> Result<()> {
        let (program, arguments) = command.split_first().context("no command")?;
        let mut command = Lab::command(program)?;
        command.args(arguments);
        self.lab.target("node/node-a")?.feed(command, input).map(drop)
    }

    /// Puts the policies in force.
    fn prepare(&self, judge: Judge, policies: usize) -> Result<()> {
        match judge {
            Judge::Nobody => Ok(()),
            Judge::Vethwall => self.enforce(policies),
            Judge::Iptables => {
                self.tell(&["ipset", "restore"], &self.pair.ipsets(policies))?;
                self.tell(&["iptables-restore", "--noflush"], &self.pair.iptables(policies))
            }
            Judge::Nftables => self.tell(&["nft", "-f", "-"], &self.pair.nftables(policies)),
        }
    }

    fn clear(&self, judge: Judge) -> Result<()> {
        match judge {
            Judge::Nobody | Judge::Vethwall => Ok(()),
            Judge::Iptables => {
                self.tell(&["iptables-restore"], "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n")?;
                self.tell(&["ipset", "destroy"], "")
            }
            Judge::Nftables => self.tell(&["nft", "delete", "table", "ip", "bench"], ""),
        }
    }

    /// The agent watches the cluster directory.
    fn enforce(&self, policies: usize) -> Result<()> {
        let file = State::directory(&self.lab.state.name).join("cluster/zz-bench.json");
        let fresh = file.with_extension("tmp");
        // In lines, as people and kubectl write them: the parser takes its time over a line of megabytes.
        fs::write(&fresh, serde_json::to_vec_pretty(&self.pair.manifests(policies))?)?;
        fs::rename(&fresh, &file)?;
        let node = self.lab.state.nodes.first().context("no node")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.lab.status(node)?;
            let entries = status.maps.iter().find(|map| map.name == "VERDICTS");
            let entries = entries.map_or(0, |map| map.entries);
            if status.policies.len() == policies && entries == policies as u64 && status.problems.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{} of {policies} policies, {entries} verdicts: {:?}",
                    status.policies.len(),
                    status.problems
                );
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // It ends with the lab at the latest.
        drop(self.server.kill());
        drop(self.server.wait());
        if let Err(error) = Lab::down(&self.lab.state.name) {
            eprintln!("vethwall-bench: {error:#}");
        }
    }
}

fn own(what: &str, address: Ipv4Addr) -> Result<Command> {
    let mut command = Lab::command(std::env::current_exe()?)?;
    command.args(["traffic", what, &address.to_string()]);
    Ok(command)
}

/// Measures and prints the table. `most`: the largest number of policies.
pub(crate) fn bench(most: usize) -> Result<()> {
    let sizes: Vec<usize> = [1, 1000, 10_000]
        .into_iter()
        .filter(|size| *size <= most)
        .collect();
    let mut judges = vec![Judge::Nobody, Judge::Vethwall];
    for (judge, needs) in [(Judge::Iptables, "ipset"), (Judge::Nftables, "nft")] {
        if there(needs) {
            judges.push(judge);
        } else {
            eprintln!("{judge} is left out: {needs} is not installed (apt-get install ipset nftables)");
        }
    }
    let mut found: BTreeMap<(Judge, usize), Vec<Measured>> = BTreeMap::new();
    {
        let mut stages = Vec::new();
        for judge in judges {
            let engine = match judge {
                Judge::Vethwall => Engine::Vethwall,
                Judge::Nobody | Judge::Iptables | Judge::Nftables => Engine::None,
            };
            let name = format!("bench-{judge}-{}", std::process::id());
            stages.push((judge, Stage::new(&name, engine)?));
        }
        for size in &sizes {
            for (judge, stage) in &stages {
                eprintln!("live, {size} policies: {judge} ...");
                let start = Instant::now();
                stage
                    .prepare(*judge, *size)
                    .with_context(|| format!("{judge}, {size} policies"))?;
                eprintln!(
                    "live, {size} policies: {judge} has them after {:.1?}",
                    start.elapsed()
                );
            }
            for round in 1..=ROUNDS {
                eprintln!("live, {size} policies: round {round} of {ROUNDS} ...");
                for (judge, stage) in &stages {
                    let size = if *judge == Judge::Nobody { 0 } else { *size };
                    found.entry((*judge, size)).or_default().push(stage.measure()?);
                }
            }
            for (judge, stage) in &stages {
                stage.clear(*judge)?;
            }
        }
    }
    table(&found);
    Ok(())
}

fn there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn table(found: &BTreeMap<(Judge, usize), Vec<Measured>>) {
    println!(
        "\ntwo pods of one node, the medians of {ROUNDS} rounds ({} of no engine); every policy selects the server and has {} rules\n",
        found.values().map(Vec::len).max().unwrap_or_default(),
        crate::rules::RULES,
    );
    println!("engine     policies   TCP Gbit/s   UDP kpkt/s   answer p50 us   p99 us   connections/s");
    for ((judge, policies), all) in found {
        let median = |of: fn(&Measured) -> f64| {
            let mut values: Vec<f64> = all.iter().map(of).collect();
            values.sort_unstable_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        println!(
            "{judge:<10} {policies:>8} {:>12.2} {:>12.0} {:>15.1} {:>8.1} {:>15.0}",
            median(|m| m.gigabits),
            median(|m| m.datagrams),
            median(|m| m.answer_p50),
            median(|m| m.answer_p99),
            median(|m| m.connections),
        );
    }
}
