//! Addresses of new pods, told to all nodes before kubelet has told the API server.
//!
//! ```text
//! thread "node": pods without an address in their status ─► publish ─► ConfigMap early-NODE in our namespace
//!                                       ADD waits ◄─ it is written ─┘            │ watched by every agent
//! thread "node" of every node: World::claim_early ◄──────────── follow ◄─────────┘
//! ```
//! A ConfigMap because it may hold anything, nobody else watches it (kubelets watch those that pods name; kube-proxy and
//! CoreDNS would watch EndpointSlices), and one for each node because then a node's pods that start together are one
//! write. What has an address in its pod's status is taken out a moment later, so an object holds what started in the
//! last seconds.
//!
//! A claim is no right: whoever writes here speaks for pods that the API server bound to that node, and addresses of its
//! `podCIDRs` ([`vethwall_policy::world::Claim`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc::Sender},
    time::Duration,
};

use futures_util::TryStreamExt as _;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{ListParams, PostParams, WatchEvent, WatchParams},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::sleep};
use tracing::warn;
use vethwall_policy::world::{Change, Claim};

use super::connect::{Access, cause};
use crate::node::Input;

/// Marks our objects; its value is the node's name, for who watches and for people.
const LABEL: &str = "vethwall.io/early-addresses";
/// Where in the object the claims are, as a JSON list.
const DATA: &str = "addresses";

/// After a failure.
const AGAIN: Duration = Duration::from_secs(2);
/// How long what is superseded may stay: pods that start together are taken out together.
const LATER: Duration = Duration::from_secs(2);

/// Who we are in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The agents' namespace.
    pub namespace: String,
    /// The agent's pod: what owns it owns its ConfigMap, so that it goes with it.
    pub pod: Option<String>,
    /// This node.
    pub node: String,
}

/// An entry of a ConfigMap.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    address: std::net::IpAddr,
    namespace: String,
    pod: String,
    uid: String,
}

fn write(claims: &BTreeSet<Claim>) -> String {
    let entries: Vec<Entry> = claims
        .iter()
        .map(|claim| Entry {
            address: claim.address,
            namespace: claim.namespace.clone(),
            pod: claim.pod.clone(),
            uid: claim.uid.clone(),
        })
        .collect();
    serde_json::to_string(&entries).unwrap_or_default()
}

/// The node and its claims. An object that is not understood claims nothing.
fn read(object: &ConfigMap) -> Option<(String, BTreeSet<Claim>)> {
    let node = object.metadata.labels.as_ref()?.get(LABEL)?.clone();
    let text = object.data.as_ref().and_then(|data| data.get(DATA));
    let entries = text.map(|text| serde_json::from_str::<Vec<Entry>>(text));
    let entries = match entries.transpose() {
        Ok(entries) => entries.unwrap_or_default(),
        Err(error) => {
            warn!(%node, "early addresses that are not understood: {error}");
            Vec::new()
        }
    };
    let claims = entries.into_iter().map(|entry| Claim {
        address: entry.address,
        namespace: entry.namespace,
        pod: entry.pod,
        uid: entry.uid,
    });
    Some((node, claims.collect()))
}

/// Tells the node's thread what all nodes claim, until it ends.
pub(super) async fn follow(access: Arc<Access>, home: Home, node: Sender<Input>) {
    let mut known = BTreeSet::new();
    loop {
        match follow_once(&access, &home, &node, &mut known).await {
            Ok(Ended::NobodyListens) => return,
            Ok(Ended::Forgotten) => {}
            Err(error) => {
                if node.send(Input::Heard(Err(error))).is_err() {
                    return;
                }
                sleep(AGAIN).await;
            }
        }
    }
}

/// Why a watch ended that did not fail.
enum Ended {
    NobodyListens,
    /// The API server does not know the past any more: all is listed again.
    Forgotten,
}

async fn follow_once(
    access: &Access,
    home: &Home,
    node: &Sender<Input>,
    known: &mut BTreeSet<String>,
) -> Result<Ended, String> {
    let (client, _) = access.client().await.map_err(|failure| format!("{failure:?}"))?;
    let objects: Api<ConfigMap> = Api::namespaced(client, &home.namespace);
    let tell = |node_name: String, claims: BTreeSet<Claim>| {
        let change = Change::Early {
            node: node_name,
            claims,
        };
        node.send(Input::Early(change)).is_ok()
    };
    let list = objects.list(&ListParams::default().labels(LABEL)).await;
    let list = list.map_err(|error| cause(&error))?;
    let mut there = BTreeSet::new();
    for (name, claims) in list.items.iter().filter_map(read) {
        there.insert(name.clone());
        if !tell(name, claims) {
            return Ok(Ended::NobodyListens);
        }
    }
    for name in known.difference(&there).cloned() {
        if !tell(name, BTreeSet::new()) {
            return Ok(Ended::NobodyListens);
        }
    }
    *known = there;
    let mut version = list.metadata.resource_version.unwrap_or_default();
    loop {
        let parameters = WatchParams::default().labels(LABEL).timeout(290);
        let events = objects
            .watch(&parameters, &version)
            .await
            .map_err(|error| cause(&error))?;
        if node.send(Input::Heard(Ok(()))).is_err() {
            return Ok(Ended::NobodyListens);
        }
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.try_next().await.map_err(|error| cause(&error))? {
            let (object, gone) = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
                WatchEvent::Deleted(object) => (object, true),
                WatchEvent::Bookmark(bookmark) => {
                    version = bookmark.metadata.resource_version;
                    continue;
                }
                WatchEvent::Error(status) if status.code == 410 => return Ok(Ended::Forgotten),
                WatchEvent::Error(status) => return Err(status.message),
            };
            if let Some(now) = &object.metadata.resource_version {
                version.clone_from(now);
            }
            let Some((name, claims)) = read(&object) else {
                continue;
            };
            let claims = if gone { BTreeSet::new() } else { claims };
            known.insert(name.clone());
            if !tell(name, claims) {
                return Ok(Ended::NobodyListens);
            }
        }
    }
}

/// Writes what the node's thread wants told, and tells it what is written, until it ends.
pub(super) async fn publish(
    access: Arc<Access>,
    home: Home,
    mut wanted: watch::Receiver<BTreeSet<Claim>>,
    node: Sender<Input>,
) {
    let mut written: Option<BTreeSet<Claim>> = None;
    let mut owners = None;
    loop {
        let claims = wanted.borrow_and_update().clone();
        if written.as_ref().is_none_or(|written| *written != claims) {
            let only_less = written.as_ref().is_some_and(|written| claims.is_subset(written));
            if only_less {
                // Whatever comes first: something to add, or the time to clean up.
                tokio::select! {
                    changed = wanted.changed() => {
                        if changed.is_err() { return }
                        continue;
                    }
                    () = sleep(LATER) => {}
                }
            }
            let outcome = put(&access, &home, &mut owners, &claims).await;
            let failed = outcome.is_err();
            let told = match outcome {
                Ok(()) => {
                    written = Some(claims.clone());
                    Ok(claims)
                }
                Err(error) => Err(error),
            };
            if node.send(Input::Published(told)).is_err() {
                return;
            }
            if failed {
                sleep(AGAIN).await;
                continue;
            }
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

async fn put(
    access: &Access,
    home: &Home,
    owners: &mut Option<Vec<OwnerReference>>,
    claims: &BTreeSet<Claim>,
) -> Result<(), String> {
    let (client, _) = access.client().await.map_err(|failure| format!("{failure:?}"))?;
    if owners.is_none() {
        *owners = Some(own_owners(client.clone(), home).await?);
    }
    let name = format!("vethwall-early-{}", home.node);
    let object = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(BTreeMap::from([(LABEL.to_owned(), home.node.clone())])),
            owner_references: owners.clone().filter(|owners| !owners.is_empty()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(DATA.to_owned(), write(claims))])),
        ..ConfigMap::default()
    };
    let objects: Api<ConfigMap> = Api::namespaced(client, &home.namespace);
    let parameters = PostParams::default();
    match objects.replace(&name, &parameters, &object).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let created = objects.create(&parameters, &object).await;
            created.map(drop).map_err(|error| cause(&error))
        }
        outcome => outcome.map(drop).map_err(|error| cause(&error)),
    }
}

/// The DaemonSet that owns this pod. The agent may list pods, and not get one.
async fn own_owners(client: kube::Client, home: &Home) -> Result<Vec<OwnerReference>, String> {
    let Some(pod) = &home.pod else {
        return Ok(Vec::new());
    };
    let pods: Api<Pod> = Api::namespaced(client, &home.namespace);
    let own = ListParams::default().fields(&format!("metadata.name={pod}"));
    let found = pods.list_metadata(&own).await.map_err(|error| cause(&error))?;
    let mut owners = found
        .items
        .into_iter()
        .next()
        .and_then(|pod| pod.metadata.owner_references)
        .unwrap_or_default();
    for owner in &mut owners {
        owner.controller = None;
        // To block its deletion takes a right of its own.
        owner.block_owner_deletion = None;
    }
    Ok(owners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let claims: BTreeSet<Claim> = ["10.42.1.7", "fd00::7"]
            .map(|address| Claim {
                address: address.parse().unwrap(),
                namespace: "shop".to_owned(),
                pod: "web-0".to_owned(),
                uid: "u1".to_owned(),
            })
            .into();
        let object = |data: &str| ConfigMap {
            metadata: ObjectMeta {
                labels: Some(BTreeMap::from([(LABEL.to_owned(), "n".to_owned())])),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(DATA.to_owned(), data.to_owned())])),
            ..ConfigMap::default()
        };
        assert_eq!(read(&object(&write(&claims))), Some(("n".to_owned(), claims)));
        assert_eq!(read(&object("[{]")), Some(("n".to_owned(), [].into())));
        assert_eq!(read(&ConfigMap::default()), None, "somebody else's");
    }
}
