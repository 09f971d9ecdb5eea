//! Looking at every node: a pod on each that looks, says what it found, and is deleted.
//!
//! ```text
//! nodes ─► may we? ─► create ─► list, until all have ended, are stuck, or time is over ─► logs ─► Answer
//!                        └──────────── whatever happens, also Ctrl-C ───────────────────► delete
//! ```
//!
//! Invariants:
//! - Nothing is made by who may not delete it.
//! - A node that did not answer is an answer, with the reason.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::{Event, Node, Pod},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, LogParams, PostParams},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, timeout},
};

use super::{
    answer::{Answer, read},
    name,
    pod::{self, Stage, stage},
};
use crate::fleet::{Error, NoAnswer};

/// How long all nodes together may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Nothing is said of what takes less.
const QUICK: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(500);
/// For one question to the API server.
const ONE: Duration = Duration::from_secs(10);
/// Questions to the API server at once.
const AT_ONCE: usize = 16;
/// A log has less than a kilobyte.
const MAX_LOG: i64 = 1 << 20;
/// A pod that is older was left by somebody who was killed, or lost the cluster.
const LEFT: Duration = Duration::from_secs(600);

/// Who is asked, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Where the pods are made.
    pub namespace: String,
    /// What they run.
    pub image: String,
}

/// Ctrl-C, or another signal to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl Probe {
    /// Looks at nodes. `say` hears of what takes long, and of pods that could not be deleted.
    ///
    /// # Errors
    /// It was interrupted; the pods are deleted all the same.
    pub async fn ask(
        &self,
        client: &Client,
        nodes: &[Node],
        say: &mut dyn FnMut(&str),
    ) -> Result<Vec<Answer>, Interrupted> {
        let nodes: Vec<&Node> = nodes.iter().filter(|node| pod::fits(node)).collect();
        let pods = Pods::new(self, client);
        if let Err(error) = pods.may_be_made().await {
            return Ok(silent(&nodes, &error.to_string()));
        }
        // From here on a signal ends the process only when nothing is left.
        let mut interrupts = match [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ]
        .map(signal)
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        {
            Ok(interrupts) => interrupts,
            Err(error) => return Ok(silent(&nodes, &format!("signals can not be waited for: {error}"))),
        };
        let answers = {
            let interrupted =
                futures_util::future::select_all(interrupts.iter_mut().map(|i| Box::pin(i.recv())));
            tokio::select! {
                answers = pods.ask(&nodes, say) => Ok(answers),
                _ = interrupted => Err(Interrupted),
            }
        };
        if answers.is_err() {
            // What was under way when it was interrupted may appear a moment later.
            say("interrupted; the pods are being deleted");
            sleep(PAUSE).await;
        }
        if let Err(why) = pods.delete().await {
            say(&format!(
                "pods are left, which end by themselves; delete them with: kubectl -n {} delete pods -l {}: {why}",
                self.namespace, pods.selector
            ));
        }
        answers
    }
}

fn silent(nodes: &[&Node], why: &str) -> Vec<Answer> {
    let each = nodes.iter();
    each.map(|node| Answer {
        node: name(node),
        outcome: Err(NoAnswer(why.to_owned())),
    })
    .collect()
}

/// The pods of one probe.
struct Pods<'p> {
    probe: &'p Probe,
    client: &'p Client,
    api: Api<Pod>,
    run: String,
    selector: String,
}

/// A pod that has not answered.
struct Open {
    node: String,
    /// What was last heard of it.
    last: String,
}

impl<'p> Pods<'p> {
    fn new(probe: &'p Probe, client: &'p Client) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let run = format!("{:x}-{:x}", std::process::id(), since.as_nanos());
        Self {
            probe,
            client,
            api: Api::namespaced(client.clone(), &probe.namespace),
            selector: format!("{}={run}", pod::RUN),
            run,
        }
    }

    fn what(&self, resource: &str) -> String {
        format!("{resource} in namespace {}", self.probe.namespace)
    }

    /// Whether we have the rights, all of them, before anything is made. An API server that does not say does so when it is asked
    /// to do it.
    async fn may_be_made(&self) -> Result<(), Error> {
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        for (verb, resource, subresource) in [
            ("create", "pods", None),
            ("list", "pods", None),
            ("get", "pods", Some("log")),
            ("delete", "pods", None),
        ] {
            let attributes = ResourceAttributes {
                namespace: Some(self.probe.namespace.clone()),
                verb: Some(verb.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: subresource.map(str::to_owned),
                ..ResourceAttributes::default()
            };
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(attributes),
                    non_resource_attributes: None,
                },
                ..SelfSubjectAccessReview::default()
            };
            let asked = timeout(ONE, reviews.create(&PostParams::default(), &review)).await;
            let Ok(Ok(review)) = asked else { continue };
            let status = review.status.unwrap_or_default();
            if !status.allowed {
                let resource =
                    subresource.map_or_else(|| resource.to_owned(), |sub| format!("{resource}/{sub}"));
                let reason = status.reason.filter(|reason| !reason.is_empty());
                return Err(Error::Forbidden {
                    verb,
                    what: self.what(&resource),
                    message: reason.unwrap_or_else(|| "nothing grants it".to_owned()),
                });
            }
        }
        Ok(())
    }

    async fn ask(&self, nodes: &[&Node], say: &mut dyn FnMut(&str)) -> Vec<Answer> {
        let start = Instant::now();
        let mut answers = Vec::new();
        let mut open = BTreeMap::new();
        for some in nodes.chunks(AT_ONCE) {
            for (node, made) in some
                .iter()
                .zip(join_all(some.iter().map(|node| self.make(node))).await)
            {
                let node = name(node);
                match made {
                    Ok(pod) => {
                        let last = "it was just made".to_owned();
                        _ = open.insert(pod, Open { node, last });
                    }
                    Err(why) => answers.push(Answer {
                        node,
                        outcome: Err(NoAnswer(why)),
                    }),
                }
            }
        }
        let mut told = String::new();
        while !open.is_empty() && start.elapsed() < PATIENCE {
            sleep(PAUSE).await;
            answers.extend(self.look(&mut open).await);
            let waits = waiting(&open, nodes.len());
            if !open.is_empty() && start.elapsed() > QUICK && waits != told {
                say(&waits);
                told = waits;
            }
        }
        let left: Vec<(String, Open)> = open.into_iter().collect();
        for some in left.chunks(AT_ONCE) {
            answers.extend(join_all(some.iter().map(|(pod, open)| self.too_late(pod, open))).await);
        }
        answers.sort_by(|one, other| one.node.cmp(&other.node));
        answers
    }

    /// Makes the pod of a node, and tells its name.
    async fn make(&self, node: &Node) -> Result<String, String> {
        let pod = pod::pod(node, &self.probe.image, &self.run);
        let refused = |error: kube::Error| {
            let why = Error::of("create", &self.what("pods"), &error).to_string();
            pod::nameless(&why)
        };
        let made = match timeout(ONE, self.api.create(&PostParams::default(), &pod)).await {
            Ok(made) => made.map_err(refused)?,
            Err(_) => return Err(format!("its pod was not made within {} s", ONE.as_secs())),
        };
        made.metadata.name.ok_or_else(|| "its pod has no name".to_owned())
    }

    /// One look at all pods: those that answered, or never will, are not open any more.
    async fn look(&self, open: &mut BTreeMap<String, Open>) -> Vec<Answer> {
        let parameters = ListParams::default().labels(&self.selector);
        let listed = match timeout(ONE, self.api.list(&parameters)).await {
            Ok(Ok(listed)) => listed.items,
            // It may answer the next time; if not, this is the reason.
            Ok(Err(error)) => {
                let why = Error::of("list", &self.what("pods"), &error).to_string();
                open.values_mut().for_each(|open| open.last.clone_from(&why));
                return Vec::new();
            }
            Err(_) => return Vec::new(),
        };
        let mut stages: BTreeMap<String, Stage> = listed
            .iter()
            .filter_map(|pod| Some((pod.metadata.name.clone()?, stage(pod))))
            .collect();
        let mut answers = Vec::new();
        let mut ended = Vec::new();
        open.retain(|pod, open| {
            let why = match stages.remove(pod) {
                Some(Stage::Waiting(why)) => {
                    open.last = why;
                    return true;
                }
                Some(Stage::Ended(status)) => {
                    ended.push((pod.clone(), open.node.clone(), status));
                    return false;
                }
                // The kubelet's first try had the reason; that it waits for the next one is none.
                Some(Stage::Stuck(_)) if open.last.starts_with("ErrImagePull") => open.last.clone(),
                Some(Stage::Stuck(why)) => why,
                None => "somebody deleted it".to_owned(),
            };
            answers.push(Answer {
                node: open.node.clone(),
                outcome: Err(NoAnswer(format!("its pod does not run: {why}"))),
            });
            false
        });
        for some in ended.chunks(AT_ONCE) {
            answers.extend(
                join_all(
                    some.iter()
                        .map(|(pod, node, status)| self.log(pod, node, *status)),
                )
                .await,
            );
        }
        answers
    }

    async fn log(&self, pod: &str, node: &str, status: i32) -> Answer {
        let parameters = LogParams {
            limit_bytes: Some(MAX_LOG),
            ..LogParams::default()
        };
        let outcome = match timeout(ONE, self.api.logs(pod, &parameters)).await {
            Ok(Ok(log)) => read(&log, status),
            Ok(Err(error)) => Err(NoAnswer(
                Error::of("get", &self.what("pods/log"), &error).to_string(),
            )),
            Err(_) => Err(NoAnswer(format!(
                "the log of its pod was not told within {} s",
                ONE.as_secs()
            ))),
        };
        Answer {
            node: node.to_owned(),
            outcome,
        }
    }

    /// Of a pod whose time is over. Volumes that can not be mounted are told by events alone.
    async fn too_late(&self, pod: &str, open: &Open) -> Answer {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.probe.namespace);
        let parameters = ListParams::default().fields(&format!("involvedObject.name={pod},type=Warning"));
        let mut why = open.last.clone();
        // What has a message of its own needs no more words.
        if !why.contains(": ")
            && let Ok(Ok(listed)) = timeout(ONE, events.list(&parameters)).await
            && let Some(message) = listed
                .items
                .into_iter()
                .filter_map(|event| event.message)
                .next_back()
        {
            why = format!("{why}: {message}");
        }
        Answer {
            node: open.node.clone(),
            outcome: Err(NoAnswer(format!(
                "its pod did not answer within {} s: {why}",
                PATIENCE.as_secs()
            ))),
        }
    }

    /// Deletes the pods of this probe, and what earlier ones had to leave.
    async fn delete(&self) -> Result<(), String> {
        let parameters = ListParams::default().labels(pod::ALL);
        let listed = timeout(ONE, self.api.list(&parameters))
            .await
            .map_err(|_| format!("the API server did not list them within {} s", ONE.as_secs()))?
            .map_err(|error| Error::of("list", &self.what("pods"), &error).to_string())?;
        let now = Timestamp::now();
        let names: Vec<String> = listed
            .into_iter()
            .filter(|pod| is_ours(pod, &self.run, now))
            .filter_map(|pod| pod.metadata.name)
            .collect();
        // It has nothing to end in order; and of a node that is gone nobody would tell that it ended.
        let at_once = DeleteParams::default().grace_period(0);
        let mut failed = None;
        for some in names.chunks(AT_ONCE) {
            let deletions = some
                .iter()
                .map(|pod| timeout(ONE, self.api.delete(pod, &at_once)));
            for deleted in join_all(deletions).await {
                match deleted {
                    Ok(Ok(_)) => {}
                    Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
                    Ok(Err(error)) => {
                        failed = Some(Error::of("delete", &self.what("pods"), &error).to_string());
                    }
                    Err(_) => failed = Some(format!("not within {} s", ONE.as_secs())),
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Whether a pod is of this probe, or of one that ended long ago and did not delete it.
fn is_ours(pod: &Pod, run: &str, now: Timestamp) -> bool {
    let label = pod
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(pod::RUN));
    let age = pod
        .metadata
        .creation_timestamp
        .as_ref()
        .and_then(|made| Duration::try_from(now.duration_since(made.0)).ok());
    label.is_some_and(|label| label == run) || age.is_some_and(|age| age > LEFT)
}

fn waiting(open: &BTreeMap<String, Open>, all: usize) -> String {
    let some = open.values().take(3);
    // The reason's own word; the rest of it is told in the end.
    let word = |open: &Open| open.last.split(": ").next().unwrap_or_default().to_owned();
    let some: Vec<String> = some
        .map(|open| format!("{}: {}", open.node, word(open)))
        .collect();
    let more = if open.len() > some.len() { ", ..." } else { "" };
    format!(
        "waiting for {} of {all} nodes ({}{more})",
        open.len(),
        some.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_somebody_was_killed_over_is_deleted_by_the_next() {
        let now: Timestamp = "2025-11-29T12:00:00Z".parse().unwrap();
        let pod = |run: &str, made: &str| -> Pod {
            let metadata = json!({"name": "x", "labels": {pod::RUN: run}, "creationTimestamp": made});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        assert!(is_ours(&pod("us", "2025-11-29T11:59:58Z"), "us", now));
        assert!(
            !is_ours(&pod("them", "2025-11-29T11:59:58Z"), "us", now),
            "theirs, at work"
        );
        assert!(is_ours(&pod("them", "2025-11-29T11:00:00Z"), "us", now));
        assert!(
            !is_ours(&pod("them", "2025-11-29T12:00:05Z"), "us", now),
            "clocks differ"
        );
    }

    #[test]
    fn progress_names_nodes_and_reasons() {
        let open = |node: &str| Open {
            node: node.to_owned(),
            last: "ErrImagePull: not found".to_owned(),
        };
        let all: BTreeMap<String, Open> = ["a", "b", "c", "d"]
            .map(|node| (format!("pod-{node}"), open(node)))
            .into();
        let text = waiting(&all, 9);
        assert!(
            text.starts_with("waiting for 4 of 9 nodes (a: ErrImagePull, b: "),
            "{text}"
        );
        assert!(text.ends_with("c: ErrImagePull, ...)"), "{text}");
    }
}
