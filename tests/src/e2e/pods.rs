//! The pods of the story, and what comes of their tries.
//!
//! ```text
//! left    shop/client  shop/friend  shop/web-left      web: TCP 80 and 81, UDP 53
//! right   else/client               shop/web-right
//! ```
//!
//! All are there before vethwall.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::Story;
use crate::runtime::{IMAGE, PROGRAM};

/// After how long at most a policy must be in force.
const SOON: Duration = Duration::from_secs(10);
/// How often in a row a try must come to the same.
const SURE: u32 = 3;

/// A pod that is to run.
pub(super) struct Spec<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) node: &'a str,
    pub(super) labels: &'a str,
    pub(super) arguments: &'a [&'a str],
}

impl Spec<'_> {
    pub(super) fn manifest(&self) -> String {
        let Self {
            namespace,
            name,
            node,
            labels,
            arguments,
        } = self;
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
             spec:\n  nodeSelector: {{kubernetes.io/hostname: {node}}}\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
             - {{name: main, image: '{IMAGE}', imagePullPolicy: Never, command: [{PROGRAM}], args: {arguments:?}}}\n"
        )
    }
}

const WEB: &[&str] = &["receive", "tcp/80", "tcp/81", "udp/53"];
const PAUSE: &[&str] = &["pause"];
#[rustfmt::skip]
const PODS: &[Spec<'_>] = &[
    Spec { namespace: "shop", name: "web-left", node: "left", labels: "app: web", arguments: WEB },
    Spec { namespace: "shop", name: "web-right", node: "right", labels: "app: web", arguments: WEB },
    Spec { namespace: "shop", name: "client", node: "left", labels: "role: client", arguments: PAUSE },
    Spec { namespace: "shop", name: "friend", node: "left", labels: "role: friend", arguments: PAUSE },
    Spec { namespace: "else", name: "client", node: "right", labels: "role: client", arguments: PAUSE },
];

const SERVICES: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: a, port: 8080, targetPort: 80}, {name: b, port: 8081, targetPort: 81}]
---
apiVersion: v1
kind: Service
metadata: {name: dns, namespace: shop}
spec:
  selector: {app: web}
  ports: [{port: 53, protocol: UDP}]
";

/// Starts them; all can talk to all.
pub(super) fn start(story: &mut Story) -> Result<()> {
    let mut manifests = String::new();
    for namespace in ["shop", "else"] {
        manifests += &format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n");
    }
    manifests.extend(PODS.iter().map(Spec::manifest));
    manifests += SERVICES;
    story.cluster.until("the default ServiceAccounts are there", || {
        // A pod that comes before its namespace's ServiceAccount is refused.
        Ok(story.cluster.apply(&manifests).is_ok())
    })?;
    for pod in PODS {
        story.ready(pod.namespace, pod.name)?;
    }
    for client in ["shop/client", "shop/friend", "else/client"] {
        story.expect(client, EVERYTHING)?;
    }
    Ok(())
}

/// Where a client may try, all answered.
pub(super) const EVERYTHING: &[(&str, &str)] = &[
    ("tcp/web-left:80", "answered"),
    ("tcp/web-right:81", "answered"),
    ("udp/web-left:53", "answered"),
    ("tcp/service/web:8080", "answered"),
    ("udp/service/dns:53", "answered"),
];

/// No container of the cluster has ever ended, and no pod waits for anything.
pub(super) fn sound(story: &mut Story) -> Result<()> {
    story.cluster.until("all pods of the cluster run", || {
        let pods = story.cluster.get(&["pods", "--all-namespaces"])?;
        for pod in pods["items"].as_array().context("a list")? {
            let (metadata, status) = (&pod["metadata"], &pod["status"]);
            ensure!(
                status["phase"] == "Running" && metadata["deletionTimestamp"].is_null(),
                "{} is {}, to be deleted at {}",
                metadata["name"],
                status["phase"],
                metadata["deletionTimestamp"]
            );
            for container in status["containerStatuses"].as_array().context("containers")? {
                ensure!(
                    container["ready"] == true && container["restartCount"] == 0,
                    "{}: {container}",
                    metadata["name"]
                );
            }
        }
        Ok(true)
    })
}

impl Story {
    /// Starts pods, all at once, and waits until they run.
    pub(super) fn begin(&self, pods: &[Spec<'_>]) -> Result<()> {
        self.cluster
            .apply(&pods.iter().map(Spec::manifest).collect::<String>())?;
        pods.iter()
            .try_for_each(|pod| self.ready(pod.namespace, pod.name))
    }

    /// Waits until a pod's containers run.
    pub(super) fn ready(&self, namespace: &str, name: &str) -> Result<()> {
        self.cluster
            .kubectl(&[
                "wait",
                "--namespace",
                namespace,
                "--for=condition=Ready",
                "--timeout=60s",
                &format!("pod/{name}"),
            ])
            .map(drop)
    }

    /// A pod's address.
    pub(super) fn address(&self, namespace: &str, name: &str) -> Result<IpAddr> {
        let path = ["--output", "jsonpath={.status.podIP}"];
        let text = self
            .cluster
            .kubectl(&["get", "pod", "--namespace", namespace, name, path[0], path[1]])?;
        text.parse()
            .with_context(|| format!("the address of {namespace}/{name}: {text:?}"))
    }

    /// A Service's address.
    pub(super) fn service(&self, namespace: &str, name: &str) -> Result<IpAddr> {
        let path = ["--output", "jsonpath={.spec.clusterIP}"];
        let text =
            self.cluster
                .kubectl(&["get", "service", "--namespace", namespace, name, path[0], path[1]])?;
        text.parse()
            .with_context(|| format!("the address of {namespace}/{name}: {text:?}"))
    }

    /// `tcp/web-left:80` and `udp/service/dns:53`, of the namespace `shop`, with addresses.
    pub(super) fn resolve(&self, target: &str) -> Result<String> {
        let (protocol, rest) = target.split_once('/').context("PROTOCOL/...")?;
        let (name, port) = rest.rsplit_once(':').context("...:PORT")?;
        let address = match name.strip_prefix("service/") {
            Some(service) => self.service("shop", service)?,
            None => self.address("shop", name)?,
        };
        Ok(format!("{protocol}/{address}:{port}"))
    }

    /// Waits until a pod's tries come to this, several times in a row.
    pub(super) fn expect(&self, client: &str, outcomes: &[(&str, &str)]) -> Result<()> {
        let (namespace, name) = client.split_once('/').context("NAMESPACE/POD")?;
        let targets = outcomes
            .iter()
            .map(|(target, _)| self.resolve(target))
            .collect::<Result<Vec<_>>>()?;
        let mut command = vec!["exec", "--namespace", namespace, name, "--", PROGRAM, "try"];
        command.extend(targets.iter().map(String::as_str));
        let start = Instant::now();
        let mut sure = 0;
        while sure < SURE {
            let said = self.cluster.kubectl(&command)?;
            // tried TARGET OUTCOME
            let came: BTreeMap<&str, &str> = said
                .lines()
                .filter_map(|line| line.strip_prefix("tried ")?.split_once(' '))
                .collect();
            let wrong: Vec<String> = outcomes
                .iter()
                .zip(&targets)
                .filter_map(|((target, wanted), address)| {
                    let outcome = came.get(address.as_str()).copied().unwrap_or("nothing");
                    (outcome != *wanted).then(|| format!("{client} to {target}: {outcome}, not {wanted}"))
                })
                .collect();
            if wrong.is_empty() {
                sure += 1;
                continue;
            }
            sure = 0;
            ensure!(start.elapsed() < SOON, "{}", wrong.join("; "));
        }
        Ok(())
    }

    /// What a pod's program has said.
    pub(super) fn said_by(&self, namespace: &str, name: &str) -> Result<String> {
        self.cluster.kubectl(&["logs", "--namespace", namespace, name])
    }
}
