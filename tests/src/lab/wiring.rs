//! Pods: a network namespace each, wired by cnitool as a runtime wires them, and their servers.

use std::{
    fs,
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{
    enter::Place,
    input,
    life::{Lab, cni_directory, program},
    server,
    state::Pod,
    supervisor::Request,
};

/// Wirings at once; the plugins' own locks let few of them run side by side anyway.
const AT_ONCE: usize = 6;
/// How long, and how often at least, a pod that can not be wired is tried before it is reported. A kubelet goes on for
/// ever; on a busy machine an agent may need a second ADD.
const PATIENCE: Duration = Duration::from_secs(3);
const TRIES: u32 = 4;

impl Lab {
    fn pod_place(&self, pod: &Pod) -> Result<Place> {
        let node = self
            .state
            .node(&pod.node)
            .with_context(|| format!("no node {}", pod.node))?;
        Ok(self.place(node.pid))
    }

    /// Wires all pods that wait.
    pub(super) fn wire(&mut self, say: &mut dyn FnMut(&str)) -> Result<()> {
        let waiting: Vec<Pod> = self
            .state
            .pods
            .values()
            .filter(|pod| pod.waiting.is_some() && !pod.finished)
            .cloned()
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        say(&format!("{} pods", waiting.len()));
        let queue = Mutex::new(waiting.into_iter());
        let done = Mutex::new(Vec::new());
        let lab = &*self;
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some(mut pod) = next else { return };
                        let began = Instant::now();
                        let mut tries = 0;
                        while tries < TRIES || began.elapsed() < PATIENCE {
                            if let Err(error) = lab.start(&mut pod) {
                                pod.waiting = Some(format!("{error:#}"));
                                tries += 1;
                                thread::sleep(Duration::from_millis(300));
                            } else {
                                pod.waiting = None;
                                break;
                            }
                        }
                        done.lock().unwrap_or_else(PoisonError::into_inner).push(pod);
                    }
                });
            }
        });
        for pod in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.state.pods.insert(pod.key(), pod);
        }
        Ok(())
    }

    fn start(&self, pod: &mut Pod) -> Result<()> {
        let place = self.pod_place(pod)?;
        let node = self.state.node(&pod.node).context("no node")?;
        if pod.host_network {
            pod.addresses = node.addresses(self.state.families);
            return self.start_server(pod);
        }
        pod.netns = format!("cni-{}", input::uuid()?);
        let name = pod.netns.clone();
        let wired = (|| {
            place.ip(&format!("netns add {name}\n"))?;
            Place {
                netns: Some(name.clone()),
                ..place.clone()
            }
            .ip("link set lo up\n")?;
            let result = self.cni(&place, "add", pod)?;
            pod.addresses = addresses(&result);
            self.start_server(pod)
        })();
        if wired.is_err() {
            // As a runtime does: what was half made goes, before the next try makes it anew.
            self.take_apart(&place, pod);
            pod.netns.clear();
            pod.addresses.clear();
        }
        wired
    }

    fn start_server(&self, pod: &Pod) -> Result<()> {
        let node = self.state.node(&pod.node).context("no node")?;
        let settings = server::Settings {
            name: pod.key(),
            ports: pod.ports.clone(),
            names: pod.dns.then(|| self.directory.join("dns.json")),
            addresses: if pod.host_network {
                pod.addresses.clone()
            } else {
                Vec::new()
            },
        };
        let netns = (!pod.host_network).then(|| pod.netns.clone());
        self.serve(&pod.key(), node.pid, netns, settings)
    }

    /// Runs cnitool, as a runtime calls the plugins.
    fn cni(&self, place: &Place, verb: &str, pod: &Pod) -> Result<Value> {
        let tools = cni_directory()?;
        let own = program("vethwall-lab")?;
        let own = own.parent().context("no parent directory")?;
        let mappings: Vec<_> = pod
            .ports
            .iter()
            .filter_map(|port| {
                let host = port.host_port?;
                Some(json!({"hostPort": host, "containerPort": port.port, "protocol": port.protocol.to_lowercase()}))
            })
            .collect();
        let sandbox = pod.uid.replace('-', "").repeat(2);
        let mut command = Command::new(tools.join("cnitool"));
        command
            .args([verb, "cbr0", &format!("/var/run/netns/{}", pod.netns)])
            .env("NETCONFPATH", "/etc/cni/net.d")
            .env("CNI_PATH", format!("{}:{}", tools.display(), own.display()))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_CONTAINERID", &sandbox)
            .env(
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={sandbox};K8S_POD_UID={}",
                    pod.namespace, pod.name, pod.uid
                ),
            );
        if !mappings.is_empty() {
            command.env("CAP_ARGS", json!({"portMappings": mappings}).to_string());
        }
        let output = place.output(command)?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("CNI {}: {}{}", verb.to_uppercase(), said.trim(), error.trim());
        }
        if said.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&said).context("cnitool's result")
    }

    /// Ends pods; what went wrong is returned, by pod.
    pub(super) fn unwire(&self, pods: &[Pod]) -> Vec<(String, String)> {
        let mut failures = Vec::new();
        for pod in pods {
            if let Err(error) = self.ask(&Request::Stop {
                key: format!("server/{}", pod.key()),
                kill: true,
            }) {
                failures.push((pod.key(), format!("{error:#}")));
            }
            if let Ok(place) = self.pod_place(pod)
                && !pod.netns.is_empty()
                && let Some(failure) = self.take_apart(&place, pod)
            {
                failures.push((pod.key(), failure));
            }
        }
        failures
    }

    fn take_apart(&self, place: &Place, pod: &Pod) -> Option<String> {
        let failure = self
            .cni(place, "del", pod)
            .err()
            .map(|error| format!("{error:#}"));
        if place.holder.join("root/run/netns").join(&pod.netns).exists() {
            let deleted = place.ip(&format!("netns del {}\n", pod.netns)).err();
            return failure.or(deleted.map(|error| format!("{error:#}")));
        }
        failure
    }

    /// Writes flannel's conflist on a node, with vethwall at its end or without.
    pub(super) fn write_conflist(&self, node: &super::state::Node, chained: bool) -> Result<()> {
        let entry = json!({"type": "vethwall-cni", "hook": self.state.hook});
        let text = super::flannel::conflist(if chained {
            std::slice::from_ref(&entry)
        } else {
            &[]
        });
        let directory = self.place(node.pid).holder.join("root/etc/cni/net.d");
        let temporary = directory.join(".10-flannel.conflist.tmp");
        fs::write(&temporary, text)?;
        fs::rename(&temporary, directory.join("10-flannel.conflist")).context("write the conflist")
    }
}

fn addresses(result: &Value) -> Vec<std::net::IpAddr> {
    let listed = result["ips"].as_array().into_iter().flatten();
    listed
        .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .collect()
}
