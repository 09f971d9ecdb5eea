//! After the faults of a round: the node is as it should be again, and nothing is left of what is gone.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use vethwall_cni::conflist;
use vethwall_common::maps;
use vethwall_datapath::{Pins, attach, surroundings};

use super::pods::World;
use crate::{
    cni::{BIN, CONF},
    runtime::{PATIENCE, Traces},
    sandbox::BPFFS,
};

const OWN_LIST: &str = "05-vethwall.conflist";
const LEASES: &str = "/var/lib/cni/networks/cbr0";

impl World<'_> {
    fn bpffs(&self) -> PathBuf {
        self.node.root().join(BPFFS.trim_start_matches('/'))
    }

    fn pins(&self) -> Pins {
        Pins::new(self.bpffs())
    }

    /// Waits until the agent says that all is well, the runtime too, and every pod is enforced.
    pub(super) fn settle(&self) -> Result<()> {
        self.wait("the node settles", || {
            let status = self.node.status()?;
            if status["phase"] != "steady" || status["chain"]["state"] != "chained" {
                return Ok(Some(format!("status: {} {}", status["phase"], status["chain"])));
            }
            let endpoints = status["endpoints"].as_array().cloned().unwrap_or_default();
            let enforcing = endpoints.iter().filter(|pod| pod["state"] == "enforcing").count();
            if enforcing != self.pods.len() || enforcing != endpoints.len() {
                return Ok(Some(format!("pods: {}", status["endpoints"])));
            }
            if !fs::exists(Path::new(BIN).join("vethwall-cni"))? {
                return Ok(Some("the plugin is not back".to_owned()));
            }
            // Ours is flannel's and one entry more.
            let own = fs::read_to_string(Path::new(CONF).join(OWN_LIST))?;
            if conflist::remove(&own)? != self.list() {
                return Ok(Some(format!("our list is not made anew: {own}")));
            }
            let chain = self.node.chain()?;
            Ok((chain.last().map(String::as_str) != Some("vethwall-cni"))
                .then(|| format!("chain: {chain:?}")))
        })
    }

    /// Everything that is promised.
    pub(super) fn check(&mut self) -> Result<()> {
        let before = (self.talked, self.answered.clone());
        let start = Instant::now();
        loop {
            self.listen()?;
            let senders = ["one", "two", "free"];
            let quiet: Vec<&str> = senders
                .into_iter()
                .filter(|name| {
                    self.answered
                        .get(*name)
                        .is_none_or(|now| Some(now) == before.1.get(*name))
                })
                .chain((self.talked == before.0).then_some("talk"))
                .collect();
            if quiet.is_empty() {
                break;
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "SILENT: nothing of {quiet:?} arrives, though policy allows it"
            );
            thread::sleep(Duration::from_millis(20));
        }
        self.wait("nothing is left", || self.left())
    }

    /// What is there beyond what the pods that run have, or is missing.
    fn left(&self) -> Result<Option<String>> {
        let pods = self.pods.len();
        let expected = Traces {
            leases: pods,
            results: pods,
            interfaces: pods,
            programs: if pods == 0 && !fs::exists("/sys/class/net/cni0")? {
                0
            } else {
                2 * pods + 1
            },
        };
        let pins = self.pins();
        let found = Traces::of(&pins)?;
        if found != expected {
            return Ok(Some(format!("{found:?}, not {expected:?}")));
        }
        let links = attach::links(&pins)?;
        if let Some(dead) = links.iter().find(|link| !link.alive) {
            return Ok(Some(format!("a pin of nothing: {dead:?}")));
        }
        if links.len() > expected.programs {
            return Ok(Some(format!("{} links for {pods} pods", links.len())));
        }
        if let Some(other) = pins.others()?.first() {
            return Ok(Some(format!(
                "another version's pins: {}",
                other.root().display()
            )));
        }
        let marks = self.bpffs().join(maps::PIN_DIRECTORY).join(maps::CLSACT);
        if marks.exists() {
            let interfaces = surroundings::interfaces()?;
            for mark in fs::read_dir(marks)? {
                let name = mark?.file_name();
                if !interfaces
                    .iter()
                    .any(|interface| name == interface.ifindex.to_string().as_str())
                {
                    return Ok(Some(format!("a mark of no interface: {}", name.display())));
                }
            }
        }
        Ok(None)
    }

    /// containerd 2 forgets a sandbox that did not start because the plugin was missing, and never takes its network down: flannel's
    /// IPAM keeps the address. It is counted and given back here; that is not what is tested. Any other is a leak.
    pub(super) fn give_back(&mut self, forgotten: Option<&str>) -> Result<()> {
        let addresses: Vec<String> = self
            .pods
            .iter()
            .filter_map(|pod| Some(pod.address?.to_string()))
            .collect();
        let mut leaked = Vec::new();
        for entry in fs::read_dir(LEASES)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with("10.") || addresses.contains(&name) {
                continue;
            }
            // The sandbox that it was given to, and the interface.
            let owner = fs::read_to_string(entry.path())?;
            if forgotten.is_some_and(|sandbox| owner.lines().next() == Some(sandbox)) {
                fs::remove_file(entry.path())?;
                self.report.forgotten += 1;
            } else {
                leaked.push(name);
            }
        }
        ensure!(leaked.is_empty(), "LEAKED: the addresses {leaked:?}");
        Ok(())
    }

    /// Waits until nothing is wrong.
    fn wait(&self, what: &str, mut wrong: impl FnMut() -> Result<Option<String>>) -> Result<()> {
        let start = Instant::now();
        loop {
            let now = match wrong() {
                Ok(None) => return Ok(()),
                Ok(Some(now)) => now,
                // Such as an interface that goes between two looks at it, or a runtime that does not answer yet.
                Err(error) => format!("{error:#}"),
            };
            if start.elapsed() > PATIENCE {
                bail!("{what}: not in time; {now}\n{}", self.node.status()?);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}
