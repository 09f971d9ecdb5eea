//! vethwall in a lab: an agent on every node, and waiting until they enforce what the cluster directory says.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use vethwall::{api::status::Status, manifests};

use super::{
    life::{Lab, program},
    state::Node,
    supervisor::{Request, Start},
};

/// How long a node may take to enforce what it was told, in seconds; for emulated machines there is the variable.
const PATIENCE: u64 = 60;
/// Names the variable with another number of seconds.
pub(crate) const PATIENCE_VARIABLE: &str = "VETHWALL_LAB_PATIENCE";

fn patience() -> Duration {
    let given = std::env::var(PATIENCE_VARIABLE).ok();
    Duration::from_secs(given.and_then(|seconds| seconds.parse().ok()).unwrap_or(PATIENCE))
}

impl Lab {
    /// Starts the agents that do not run, and waits until they are ready.
    pub(super) fn start_agents(&self, only: Option<&str>) -> Result<()> {
        let running = self.ask(&Request::List)?.running;
        let nodes: Vec<_> = self
            .state
            .nodes
            .iter()
            .filter(|node| only.is_none_or(|only| only == node.name))
            .collect();
        for node in &nodes {
            let key = format!("agent/{}", node.name);
            if running.contains_key(&key) {
                continue;
            }
            let manifests = self.directory.join("cluster").display().to_string();
            let agent = program(self.agent)?.display().to_string();
            let argv = [
                agent,
                "agent".into(),
                "--manifests".into(),
                manifests,
                "--node".into(),
                node.name.clone(),
                "--hook".into(),
                self.state.hook.clone(),
                "--chain".into(),
                "off".into(),
            ];
            let log = self.directory.join(format!("log/agent-{}.log", node.name));
            let start = Start {
                key,
                holder: node.pid,
                argv: argv.into(),
                env: BTreeMap::new(),
                log,
                wait: false,
                netns: None,
            };
            self.ask(&Request::Start(start))
                .with_context(|| format!("start the agent on {}", node.name))?;
        }
        let deadline = Instant::now() + patience();
        for node in nodes {
            loop {
                let status = self.status(node);
                if status.as_ref().is_ok_and(|status| status.ready) {
                    break;
                }
                if !self
                    .ask(&Request::List)?
                    .running
                    .contains_key(&format!("agent/{}", node.name))
                {
                    bail!("the agent on {} ended: {}", node.name, self.agent_log(node));
                }
                if Instant::now() > deadline {
                    bail!(
                        "the agent on {} is not ready: {}",
                        node.name,
                        self.agent_log(node)
                    );
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    fn agent_log(&self, node: &Node) -> String {
        let path = self.directory.join(format!("log/agent-{}.log", node.name));
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(8).collect();
        format!(
            "the end of {}:\n{}",
            path.display(),
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        )
    }

    /// What the agent of a node says of itself.
    pub fn status(&self, node: &Node) -> Result<Status> {
        let mut command = Self::command("vethwall")?;
        command.args(["status", "-o", "json"]);
        let output = self.place(node.pid).output(command)?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("no status: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// Waits until every node that has an agent enforces what the cluster directory says. Returns what to warn of.
    pub(super) fn enforced(&self, say: &mut dyn FnMut(&str)) -> Result<Vec<String>> {
        let digest = manifests::digest(&self.directory.join("cluster"))?;
        let started = Instant::now();
        let mut warnings = Vec::new();
        let mut said = false;
        for node in &self.state.nodes {
            if !self
                .ask(&Request::List)?
                .running
                .contains_key(&format!("agent/{}", node.name))
            {
                warnings.push(format!(
                    "no agent runs on {0}: what was enforced there stays, nothing new is; start it with `vethwall-lab engine start --name {1} --node {0}`",
                    node.name, self.state.name
                ));
                continue;
            }
            loop {
                let status = self.status(node);
                if status
                    .as_ref()
                    .is_ok_and(|status| status.ready && status.manifests.digest == digest)
                {
                    break;
                }
                if started.elapsed() > patience() {
                    let why = match status {
                        Ok(status) => status
                            .problems
                            .iter()
                            .map(|problem| problem.message.clone())
                            .collect::<Vec<_>>()
                            .join("; "),
                        Err(error) => format!("{error:#}"),
                    };
                    bail!(
                        "{} does not enforce the manifests after {} s. {why}\n{}",
                        node.name,
                        patience().as_secs(),
                        self.agent_log(node)
                    );
                }
                if !said && started.elapsed() > Duration::from_secs(2) {
                    say(&format!("waiting until {} enforces the manifests", node.name));
                    said = true;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(warnings)
    }
}
