//! What people use: kubectl and helm, on the control plane.

use std::{fs, os::unix::fs::symlink, path::Path, process::Output, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Cluster, program};
use crate::sandbox;

impl Cluster {
    /// `kubectl`: what it says on standard output, or an error with all that it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run("kubectl", arguments)?;
        said("kubectl", arguments, &output)
    }

    /// `helm`: likewise.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run("helm", arguments)?;
        said("helm", arguments, &output)
    }

    /// A client's whole outcome.
    pub fn run(&self, name: &str, arguments: &[&str]) -> Result<Output> {
        let program = program(name)?;
        self.control.on(|node| {
            let mut command = Self::client(&program);
            command.args(arguments);
            node.output(command)
        })
    }

    /// `kubectl vethwall`: kubectl finds it in PATH, as on a laptop. Its whole outcome.
    pub fn vethwall(&self, arguments: &[&str]) -> Result<Output> {
        const PLUGINS: &str = "/run/kubectl-plugins";
        let (kubectl, plugin) = (program("kubectl")?, sandbox::program("vethwall")?);
        self.control.on(|node| {
            let link = Path::new(PLUGINS).join("kubectl-vethwall");
            if !link.is_symlink() {
                fs::create_dir_all(PLUGINS)?;
                symlink(&plugin, &link)?;
            }
            let mut command = Self::client(&kubectl);
            command.env("PATH", format!("{PLUGINS}:/usr/bin:/bin"));
            command.arg("vethwall").args(arguments);
            node.output(command)
        })
    }

    /// An object, or a list of them.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "--output", "json"], arguments].concat())?;
        serde_json::from_str(&text).context("kubectl's JSON")
    }

    /// `kubectl apply` of manifests.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let program = program("kubectl")?;
        self.control.on(|node| {
            let mut command = Self::client(&program);
            command.args(["apply", "--filename", "-"]);
            node.feed(command, manifests).map(drop)
        })
    }

    /// Waits until a workload's pods are all of its newest version and available.
    pub fn rolled_out(&self, namespace: &str, workload: &str, most: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", most.as_secs());
        self.kubectl(&["rollout", "status", "--namespace", namespace, workload, &timeout])
            .map(drop)
    }
}

fn said(program: &str, arguments: &[&str], output: &Output) -> Result<String> {
    ensure!(
        output.status.success(),
        "{program} {}: {}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
