//! The watch of one resource: a list, then changes from there on, for ever.
//!
//! ```text
//!            ┌────────────── 410: what came since is forgotten ───────────────┐
//!            ▼                                                                │
//! list ──► all there is, at version V ──► watch from V ──► objects, bookmarks ┴─► end or error: watch from the last V
//! ```
//! kube's own watcher does not say when a watch is open, nor that a bookmark came, and both are needed here: to catch up
//! in one step, and to know how old the knowledge is.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::TryStreamExt as _;
use http::Request;
use kube::{Client, core::WatchEvent};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    Heard, Resource,
    connect::{Access, cause},
    decode::{Seen, decode, name},
    health::{Failure, Health},
};

/// Objects in one answer: a page of pods is some MB.
const PAGE: usize = 250;

/// Patience with one page, and with the start of a watch.
const PATIENCE: Duration = Duration::from_secs(60);

/// First and longest wait after a failure.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(15);

/// How often a resource is looked for that is not served.
const LOOK: Duration = Duration::from_secs(30);

/// For how long a watch is asked for: the rights of those that stay open for ever are never looked at again.
const LIFETIME: u64 = 300;

/// What follows one resource.
pub(super) struct Follow {
    pub(super) resource: Resource,
    pub(super) access: Arc<Access>,
    pub(super) health: Arc<Health>,
    /// Notified when the API server answers again.
    pub(super) back: Arc<Notify>,
    pub(super) heard: mpsc::Sender<(Resource, Heard)>,
}

/// A part of a list.
#[derive(Deserialize)]
struct Page {
    metadata: PageMeta,
    items: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    resource_version: String,
    #[serde(default)]
    r#continue: String,
}

/// The versions of a group.
#[derive(Deserialize)]
struct Group {
    versions: Vec<GroupVersion>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    group_version: String,
}

/// What a version of a group has.
#[derive(Deserialize)]
struct Resources {
    resources: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// Why a list or a watch ended.
#[derive(Debug)]
enum End {
    /// Its time was over.
    Time,
    /// What came since is forgotten: only a list helps.
    Forgotten,
    /// The resource is not served.
    NotServed,
    Failed(Failure),
    /// Nobody listens any more.
    Unheard,
}

impl Follow {
    /// Follows the resource until nobody listens any more.
    pub(super) async fn run(self) {
        let mut version = None;
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let end = match &mut version {
                None => self.list(&mut version).await.err(),
                Some(version) => Some(self.watch(version).await),
            };
            if began.elapsed() > LONGEST {
                failures = 0;
            }
            let told = match end {
                None => Ok(()),
                Some(End::Time) if began.elapsed() > FIRST => Ok(()),
                Some(End::Time) => {
                    // Whoever closes every watch at once is not to be asked all the time.
                    self.wait(&mut failures).await;
                    Ok(())
                }
                Some(End::Forgotten) => {
                    info!(resource = %self.resource, "too much happened meanwhile: everything is listed again");
                    version = None;
                    self.tell(Heard::Behind { brief: true }).await
                }
                Some(End::NotServed) => {
                    version = None;
                    self.not_served(&mut failures).await
                }
                Some(End::Failed(failure)) => {
                    if matches!(failure, Failure::Strange(_)) {
                        // What was missed is not known.
                        version = None;
                    }
                    if matches!(failure, Failure::Credentials(_)) {
                        self.access.doubt().await;
                    }
                    let told = self.failed(&failure).await;
                    self.wait(&mut failures).await;
                    told
                }
                Some(End::Unheard) => return,
            };
            if told.is_err() {
                return;
            }
        }
    }

    async fn tell(&self, heard: Heard) -> Result<(), End> {
        let told = self.heard.send((self.resource, heard)).await;
        told.map_err(|_| End::Unheard)
    }

    async fn failed(&self, failure: &Failure) -> Result<(), End> {
        if self.health.failed(self.resource, failure) {
            warn!(resource = %self.resource, "{}; it is tried again", failure.text(self.resource));
        }
        let brief = match failure {
            Failure::Unreachable(_) | Failure::Credentials(_) | Failure::Strange(_) => true,
            // The API server answers, and will answer the same for a while.
            Failure::Forbidden { .. } | Failure::Versions(_) => false,
        };
        self.tell(Heard::Behind { brief }).await
    }

    /// After a failure: longer each time, not in step with other nodes, and no longer once the API server answers.
    async fn wait(&self, failures: &mut u32) {
        let longest = (FIRST * 2_u32.saturating_pow(*failures)).min(LONGEST);
        *failures = failures.saturating_add(1).min(16);
        // Half of it, and up to as much again.
        let part = RandomState::new().build_hasher().finish() % 512;
        let wait = longest * (512 + u32::try_from(part).unwrap_or_default()) / 1024;
        tokio::select! {
            () = sleep(wait) => {}
            () = self.back.notified() => {}
        }
    }

    /// The API server answers: who waits to try again need not.
    fn answered(&self) {
        self.health.heard(self.resource);
        self.back.notify_waiters();
    }

    async fn client(&self) -> Result<Client, End> {
        let (client, server) = self.access.client().await.map_err(End::Failed)?;
        self.health.asks(server);
        Ok(client)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, End> {
        let request = Request::get(path).body(Vec::new());
        let request = request.map_err(|error| strange(&error))?;
        let client = self.client().await?;
        let text = timeout(PATIENCE, client.request_text(request)).await;
        let text = text.map_err(|_| slow())?.map_err(|error| end("list", error))?;
        serde_json::from_str(&text).map_err(|error| strange(&error))
    }

    /// All there is, and of which version that is.
    async fn list(&self, version: &mut Option<String>) -> Result<(), End> {
        let mut all = Vec::new();
        let mut rest = String::new();
        loop {
            let page: Page = self
                .get(&format!("{}?limit={PAGE}{rest}", self.resource.path()))
                .await?;
            self.answered();
            for raw in &page.items {
                let (key, _) = name(self.resource, raw).map_err(|error| strange(&error))?;
                let what = decode(self.resource, &key, raw);
                all.push(Seen { key, what });
            }
            if page.metadata.r#continue.is_empty() {
                debug!(resource = %self.resource, objects = all.len(), "listed");
                self.health.listed(self.resource, true);
                *version = Some(page.metadata.resource_version);
                return self.tell(Heard::All(all)).await;
            }
            // Base64 of the kind that is made for URLs.
            rest = format!("&continue={}", page.metadata.r#continue);
        }
    }

    /// What changes from the version on; the version is that of what was told last.
    async fn watch(&self, version: &mut String) -> End {
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={LIFETIME}&resourceVersion={version}",
            self.resource.path()
        );
        let request = match Request::get(path).body(Vec::new()) {
            Ok(request) => request,
            Err(error) => return strange(&error),
        };
        let client = match self.client().await {
            Ok(client) => client,
            Err(end) => return end,
        };
        let opened = client.request_events::<Box<RawValue>>(request);
        let events = match timeout(PATIENCE, opened).await {
            Ok(Ok(events)) => events,
            Ok(Err(error)) => return end("watch", error),
            Err(_) => return slow(),
        };
        let mut events = pin!(events);
        self.health.open(self.resource);
        self.answered();
        let mut told = self.tell(Heard::Open).await;
        while told.is_ok() {
            let event = match events.try_next().await {
                Ok(Some(event)) => event,
                Ok(None) => return End::Time,
                Err(error) => return end("watch", error),
            };
            self.health.heard(self.resource);
            told = match event {
                WatchEvent::Added(raw) | WatchEvent::Modified(raw) => match name(self.resource, &raw) {
                    Ok((key, now)) => {
                        *version = now;
                        self.health.changed(self.resource);
                        let what = decode(self.resource, &key, &raw);
                        self.tell(Heard::There(Box::new(Seen { key, what }))).await
                    }
                    Err(error) => Err(strange(&error)),
                },
                WatchEvent::Deleted(raw) => match name(self.resource, &raw) {
                    Ok((key, now)) => {
                        *version = now;
                        self.health.changed(self.resource);
                        self.tell(Heard::Gone(key)).await
                    }
                    Err(error) => Err(strange(&error)),
                },
                WatchEvent::Bookmark(bookmark) => {
                    *version = bookmark.metadata.resource_version;
                    Ok(())
                }
                WatchEvent::Error(status) => Err(end("watch", kube::Error::Api(status))),
            };
        }
        told.err().unwrap_or(End::Time)
    }

    /// The API server has not heard of the resource. That is as it should be where ClusterNetworkPolicies were never
    /// installed; but not where they are there in another version.
    async fn not_served(&self, failures: &mut u32) -> Result<(), End> {
        let versions = match self.versions().await {
            Ok(versions) => versions,
            Err(End::Failed(failure)) => {
                let told = self.failed(&failure).await;
                self.wait(failures).await;
                return told;
            }
            Err(_) => Vec::new(),
        };
        if versions.is_empty() && self.resource == Resource::ClusterNetworkPolicies {
            self.health.listed(self.resource, false);
            self.tell(Heard::All(Vec::new())).await?;
            sleep(LOOK).await;
            return Ok(());
        }
        let told = self.failed(&Failure::Versions(versions)).await;
        self.wait(failures).await;
        told
    }

    /// The versions in which the resource is served.
    async fn versions(&self) -> Result<Vec<String>, End> {
        let group: Group = self.get(&self.resource.group_path()).await?;
        let mut versions = Vec::new();
        for GroupVersion { group_version } in group.versions {
            let has: Resources = self.get(&format!("/apis/{group_version}")).await?;
            if has.resources.iter().any(|has| has.name == self.resource.name()) {
                versions.push(group_version);
            }
        }
        Ok(versions)
    }
}

/// Why a request or a watch failed.
fn end(verb: &'static str, error: kube::Error) -> End {
    if let kube::Error::Api(status) = &error {
        return match status.code {
            401 => End::Failed(Failure::Credentials(format!("401 {}", status.message))),
            403 => End::Failed(Failure::Forbidden { verb }),
            404 => End::NotServed,
            410 => End::Forgotten,
            code => End::Failed(Failure::Unreachable(format!(
                "it answers {code}: {}",
                status.message
            ))),
        };
    }
    let text = cause(&error);
    let credentials = matches!(error, kube::Error::Auth(_)) || text.contains("certificate");
    End::Failed(if credentials {
        Failure::Credentials(text)
    } else {
        Failure::Unreachable(text)
    })
}

fn slow() -> End {
    let why = format!("it does not answer within {} s", PATIENCE.as_secs());
    End::Failed(Failure::Unreachable(why))
}

fn strange(error: &dyn std::error::Error) -> End {
    End::Failed(Failure::Strange(format!(
        "its answer is not understood: {}",
        cause(error)
    )))
}
