//! The life of vethwall itself: installed, killed, frozen, rolled, upgraded, uninstalled.
//!
//! ```text
//! shop/talker ── one connection that policy allows, all the time ──► shop/web-left:80
//! shop/knocker ─ what policy forbids, all the time ────────────────╳ shop/web-left:80
//! ```

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    Before, Story, fleet,
    pods::{EVERYTHING, Spec},
};
use crate::{cluster::Machine, runtime::Archive, sandbox::workspace};

const NAMESPACE: &str = "kube-system";
const RELEASE: &str = "vethwall";
const DAEMON_SET: &str = "daemonset/vethwall";
/// What `make image` names the image, and what the chart asks for without values.
const REPOSITORY: &str = "ghcr.io/vethwall/vethwall";
/// The same image by another name.
const NEXT: [&str; 2] = ["vethwall.test/vethwall", "next"];
/// For a workload to be as it should.
const ROLLED: Duration = Duration::from_secs(120);

/// `helm install`, without a value.
pub(super) fn install(story: &mut Story) -> Result<()> {
    let machine = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let file = workspace().join(format!("target/image/vethwall-{machine}.tar"));
    ensure!(
        file.is_file(),
        "{} is not there: run `make image`",
        file.display()
    );
    let name = format!("{REPOSITORY}:{}", env!("CARGO_PKG_VERSION"));
    story.cluster.import(&Archive {
        name: name.clone(),
        file,
    })?;
    for worker in &story.cluster.workers {
        worker.on(|node| node.tag(&name, &NEXT.join(":")))?;
    }
    story.before = Some(Before::now(&story.cluster)?);
    let chart = workspace().join("helm/vethwall").display().to_string();
    story.cluster.helm(&[
        "install",
        RELEASE,
        &chart,
        "--namespace",
        NAMESPACE,
        "--wait",
        "--timeout=120s",
    ])?;
    for worker in &story.cluster.workers {
        let chain = worker.on(|node| node.chain())?;
        ensure!(
            chain == ["flannel", "portmap", "vethwall-cni"],
            "the chain of {} is {}",
            worker.name,
            chain.join(", ")
        );
    }
    // Whether policies hold is the next steps' question; nothing is closed without one.
    story.expect("shop/client", EVERYTHING)
}

/// The chart's own proof.
pub(super) fn helm_test(story: &mut Story) -> Result<()> {
    story
        .cluster
        .helm(&["test", RELEASE, "--namespace", NAMESPACE, "--timeout=120s"])
        .map(drop)
}

/// Pods whose policy allows TCP 80 alone try 81 as well, from their first instruction; on both nodes, to both.
pub(super) fn first_instruction(story: &mut Story) -> Result<()> {
    story.cluster.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: little-out, namespace: shop}
spec:
  podSelector: {matchLabels: {out: little}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 80}]
",
    )?;
    story.little("early")?;
    observers(story)
}

impl Story {
    /// Starts such pods, sees that they got through where they may and nowhere else, and ends them.
    fn little(&self, name: &str) -> Result<()> {
        let targets = [
            "tcp/web-left:80",
            "tcp/web-left:81",
            "tcp/web-right:80",
            "tcp/web-right:81",
        ]
        .iter()
        .map(|target| self.resolve(target))
        .collect::<Result<Vec<_>>>()?;
        let mut arguments = vec!["send", "20"];
        arguments.extend(targets.iter().map(String::as_str));
        let names: Vec<_> = (0..4).map(|number| format!("{name}-{number}")).collect();
        let pods: Vec<_> = names
            .iter()
            .zip(["left", "right"].iter().cycle())
            .map(|(name, node)| Spec {
                namespace: "shop",
                name,
                node,
                labels: "out: little",
                arguments: &arguments,
            })
            .collect();
        self.begin(&pods)?;
        for pod in &pods {
            // Answers may wait until the other node knows of the new pod; then many have been tried.
            self.cluster.until("an early pod is answered", || {
                let said = self.said_by("shop", pod.name)?;
                Ok([":80 answered", ":81 silent"]
                    .iter()
                    .all(|end| said.lines().filter(|line| line.ends_with(end)).count() > 3))
            })?;
            let said = self.said_by("shop", pod.name)?;
            ensure!(
                !said.contains(":81 answered"),
                "{} was answered: {said}",
                pod.name
            );
        }
        for server in ["web-left", "web-right"] {
            let got = self.said_by("shop", server)?;
            for pod in &pods {
                ensure!(
                    got.contains(&format!("got tcp/80 {} ", pod.name)),
                    "{server} has heard nothing of {}",
                    pod.name
                );
                ensure!(
                    !got.contains(&format!("got tcp/81 {} ", pod.name)),
                    "{server} has heard {} on a port that is forbidden",
                    pod.name
                );
            }
        }
        self.end("shop", &names)
    }

    /// Deletes pods, and waits until they are gone.
    pub(super) fn end(&self, namespace: &str, pods: &[String]) -> Result<()> {
        let mut arguments = vec!["delete", "pod", "--namespace", namespace, "--timeout=60s"];
        arguments.extend(pods.iter().map(String::as_str));
        self.cluster.kubectl(&arguments).map(drop)
    }
}

const TALKER: &str = "talker";
const KNOCKER: &str = "knocker";

/// Starts the two pods that watch from now on.
fn observers(story: &Story) -> Result<()> {
    story.cluster.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: talkers, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchExpressions: [{key: role, operator: In, values: [talker]}]}}]
  - from: [{podSelector: {matchLabels: {out: little}}}]
    ports: [{port: 80}, {port: 81}]
",
    )?;
    story.expect("shop/client", &[("tcp/web-left:80", "silent")])?;
    let target = story.address("shop", "web-left")?;
    let (talked, knocked) = (format!("{target}:80"), format!("tcp/{target}:80"));
    for (name, arguments) in [
        (TALKER, ["talk", "40", talked.as_str()]),
        (KNOCKER, ["send", "40", knocked.as_str()]),
    ] {
        let pod = Spec {
            namespace: "shop",
            name,
            node: "right",
            labels: &format!("role: {name}"),
            arguments: &arguments,
        };
        story.begin(&[pod])?;
    }
    story.undisturbed()
}

impl Story {
    /// The connection that is allowed goes on, and what is forbidden was never answered.
    fn undisturbed(&self) -> Result<()> {
        let lines = |pod: &str, word: &str| -> Result<usize> {
            let said = self.said_by("shop", pod)?;
            ensure!(!said.contains("broken"), "the connection of {pod} broke: {said}");
            Ok(said.lines().filter(|line| line.starts_with(word)).count())
        };
        let (talked, knocked) = (lines(TALKER, "talked")?, lines(KNOCKER, "sent")?);
        self.cluster
            .within(Duration::from_secs(15), "the observers go on", || {
                Ok(lines(TALKER, "talked")? > talked + 1 && lines(KNOCKER, "sent")? > knocked + 1)
            })?;
        let said = self.said_by("shop", KNOCKER)?;
        ensure!(
            !said.contains("answered"),
            "what is forbidden was answered: {said}"
        );
        Ok(())
    }

    /// Sends a signal to the agent on a node; its number there.
    fn signal_agent(&self, worker: &Machine, signal: &str) -> Result<u64> {
        worker.on(|node| {
            let list = node.crictl(&[
                "ps",
                "--quiet",
                "--name",
                "^agent$",
                "--label",
                "io.kubernetes.pod.namespace=kube-system",
            ])?;
            let status: Value =
                serde_json::from_str(&node.crictl(&["inspect", "--output", "json", list.trim()])?)?;
            let pid = status["info"]["pid"]
                .as_u64()
                .context("the agent's container has no process")?;
            node.said("kill", &[signal, &pid.to_string()])?;
            Ok(pid)
        })
    }
}

/// Killed, and frozen while a pod starts.
pub(super) fn kill_agents(story: &mut Story) -> Result<()> {
    for worker in &story.cluster.workers {
        story.signal_agent(worker, "-KILL")?;
    }
    story
        .cluster
        .within(ROLLED, "kubelets start the agents again", || {
            let pods = story.cluster.get(&["pods", "--namespace", NAMESPACE])?;
            let agents = pods["items"].as_array().cloned().unwrap_or_default();
            let again = agents.iter().filter(|pod| {
                let status = &pod["status"]["containerStatuses"][0];
                status["restartCount"].as_u64() >= Some(1) && status["ready"] == true
            });
            Ok(again.count() == story.cluster.workers.len())
        })?;
    story.undisturbed()?;
    let left = story.cluster.worker("left")?;
    story.signal_agent(left, "-STOP")?;
    let pod = Spec {
        namespace: "shop",
        name: "patient",
        node: "left",
        labels: "out: little",
        arguments: &["pause"],
    };
    story.cluster.apply(&pod.manifest())?;
    thread::sleep(Duration::from_secs(5));
    let state = story.cluster.get(&["pod", "--namespace", "shop", "patient"])?;
    ensure!(
        state["status"]["phase"] == "Pending",
        "a pod started while the agent could not say what it may do: {}",
        state["status"]
    );
    fleet::one_is_silent(story, "left")?;
    story.signal_agent(left, "-CONT")?;
    story.ready("shop", "patient")?;
    story.end("shop", &["patient".to_owned()])?;
    story.undisturbed()
}

/// `kubectl rollout restart`, while pods start.
pub(super) fn roll(story: &mut Story) -> Result<()> {
    story
        .cluster
        .kubectl(&["rollout", "restart", "--namespace", NAMESPACE, DAEMON_SET])?;
    story.little("rolling")?;
    story.cluster.rolled_out(NAMESPACE, DAEMON_SET, ROLLED)?;
    story.undisturbed()
}

/// To another image, by helm.
pub(super) fn upgrade(story: &mut Story) -> Result<()> {
    let chart = workspace().join("helm/vethwall").display().to_string();
    let [repository, tag] = NEXT;
    story.cluster.helm(&[
        "upgrade",
        RELEASE,
        &chart,
        "--namespace",
        NAMESPACE,
        "--set",
        &format!("image.repository={repository},image.tag={tag}"),
        "--wait",
        "--timeout=120s",
    ])?;
    story.cluster.rolled_out(NAMESPACE, DAEMON_SET, ROLLED)?;
    story.little("upgraded")?;
    story.undisturbed()
}

/// Nothing but the inert plugin is left, pods of before can end, and new ones start.
pub(super) fn uninstall(story: &mut Story) -> Result<()> {
    story.cluster.helm(&[
        "uninstall",
        RELEASE,
        "--namespace",
        NAMESPACE,
        "--wait",
        "--timeout=180s",
    ])?;
    story.expect("shop/client", EVERYTHING)?;
    story.end("shop", &[TALKER.to_owned(), KNOCKER.to_owned()])?;
    let before = story
        .before
        .as_ref()
        .context("nobody looked at the nodes before")?;
    story.cluster.until("the nodes are as they were", || {
        before.compare(&Before::now(&story.cluster)?).map(|()| true)
    })?;
    let pod = Spec {
        namespace: "shop",
        name: "after",
        node: "left",
        labels: "out: little",
        arguments: &["pause"],
    };
    story.begin(&[pod])?;
    story.expect("shop/after", EVERYTHING)?;
    story.end("shop", &["after".to_owned()])
}
