//! vethwall on a node: the agent as a process, and the command line.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Node;
use crate::sandbox::program;

/// Name of the daemon on a node.
pub const AGENT: &str = "vethwall";
/// The objects that the agent enforces.
pub const MANIFESTS: &str = "/run/manifests";

impl Node {
    /// Makes these manifests the whole desired state.
    pub fn manifests(&self, text: &str) -> Result<()> {
        fs::create_dir_all(MANIFESTS)?;
        // Appears whole, as a file that is half written is read too.
        fs::write("/run/manifests.new", text)?;
        fs::rename("/run/manifests.new", Path::new(MANIFESTS).join("all.yaml")).context("write manifests")
    }

    /// Starts the agent, with `--chain MODE`. It asks containerd for its directories.
    pub fn start_agent(&self, mode: &str) -> Result<()> {
        let command = self.command(program("vethwall")?)?;
        self.start_as_agent(command, mode, &[])
    }

    /// Starts a command as the agent: with the arguments of [`Self::start_agent`] behind its own, and then these.
    pub fn start_as_agent(&self, mut command: Command, mode: &str, more: &[&str]) -> Result<()> {
        command
            .args([
                "agent",
                "--manifests",
                MANIFESTS,
                "--node",
                "n",
                "--chain",
                mode,
                "--plugin",
            ])
            .arg(program("vethwall-cni")?)
            .args(more);
        self.start(AGENT, command)
    }

    /// Starts the agent and waits until all is in place, and the runtime has read it.
    pub fn steady_agent(&self, mode: &str) -> Result<()> {
        self.start_agent(mode)?;
        self.until("the agent is steady", || Ok(self.status()?["phase"] == "steady"))
    }

    /// `vethwall` with these arguments.
    pub fn vethwall(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(program("vethwall")?)?;
        command.args(arguments);
        self.place.output(command)
    }

    /// `vethwall uninstall` with these options.
    pub fn uninstall(&self, options: &[&str]) -> Result<Output> {
        self.vethwall(&[&["uninstall"], options].concat())
    }

    /// `vethwall status`; null while nobody answers.
    pub fn status(&self) -> Result<Value> {
        let said = self.vethwall(&["status", "--output", "json"])?.stdout;
        Ok(serde_json::from_slice(&said).unwrap_or_default())
    }

    /// Pods that the agent knows on this node, and their states.
    pub fn endpoints(&self) -> Result<BTreeMap<String, String>> {
        let status = self.status()?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let endpoints = status["endpoints"].as_array().cloned().unwrap_or_default();
        Ok(endpoints
            .iter()
            .map(|endpoint| (text(&endpoint["pod"]), text(&endpoint["state"])))
            .collect())
    }
}
