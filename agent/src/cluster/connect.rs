//! Where the API server is, and by what the agent proves who it is.
//!
//! Inside a pod: the service account's token and certificate, and the address in the environment; the token's file is
//! read again once a minute. Elsewhere: the kubeconfig that is named. `KUBECONFIG` and `~/.kube/config` are not looked
//! at: what runs on a node must not take an administrator's rights because of where it was started.
//!
//! When credentials are refused, all of it is read anew: a token, a certificate or a kubeconfig may have been replaced.

use std::{
    env,
    path::PathBuf,
    time::{Duration, Instant},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tokio::sync::Mutex;

use super::health::Failure;

/// Where the cluster is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where this pod runs.
    InCluster,
    /// Where a kubeconfig's current context says.
    Kubeconfig(PathBuf),
}

/// The environment of each pod.
const HOST: &str = "KUBERNETES_SERVICE_HOST";

/// Credentials are not read more often than this.
const AGAIN: Duration = Duration::from_secs(2);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on which nothing came for so long is dead. An API server sends a bookmark a minute on each watch
/// (k8s.io/apiserver storage/cacher, `bookmarkFrequency`); two may be lost.
pub(super) const SILENCE: Duration = Duration::from_secs(130);

impl Place {
    /// Whether it can ever be found.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match self {
            Self::Kubeconfig(_) => Ok(()),
            Self::InCluster => {
                anyhow::ensure!(
                    env::var_os(HOST).is_some(),
                    "the agent runs in no pod ({HOST} is not set); name a cluster with --kubeconfig FILE, or a directory of manifests with --manifests DIR"
                );
                Ok(())
            }
        }
    }

    /// A client, for a question of one's own; or what is wrong with the credentials, a sentence.
    ///
    /// # Errors
    /// The credentials can not be read.
    pub async fn client(&self) -> Result<Client, String> {
        self.connect().await.map(|(client, _)| client)
    }

    /// A client and the API server's address; or what is wrong with the credentials, a sentence. Nothing is sent yet.
    async fn connect(&self) -> Result<(Client, String), String> {
        let mut config = match self {
            Self::InCluster => Config::incluster_env().map_err(|error| error.to_string())?,
            Self::Kubeconfig(file) => {
                let named = |error: KubeconfigError| format!("{}: {error}", file.display());
                let read = Kubeconfig::read_from(file).map_err(named)?;
                let options = KubeConfigOptions::default();
                let config = Config::from_custom_kubeconfig(read, &options).await;
                config.map_err(named)?
            }
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(SILENCE);
        // Each watch has its own patience, and tells of every failure.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| error.to_string())?;
        Ok((client, server.trim_end_matches('/').to_owned()))
    }
}

/// A client, made of credentials that are not known to be bad.
pub(super) struct Access {
    place: Place,
    client: Mutex<Option<Made>>,
}

struct Made {
    /// The client and the API server's address; or why there is none.
    outcome: Result<(Client, String), String>,
    at: Instant,
}

impl Access {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            client: Mutex::new(None),
        }
    }

    /// The client, and the API server's address.
    pub(super) async fn client(&self) -> Result<(Client, String), Failure> {
        let mut made = self.client.lock().await;
        made.take_if(|made| made.outcome.is_err() && made.at.elapsed() > AGAIN);
        let outcome = match &*made {
            Some(made) => made.outcome.clone(),
            None => {
                let outcome = self.place.connect().await;
                *made = Some(Made {
                    outcome: outcome.clone(),
                    at: Instant::now(),
                });
                outcome
            }
        };
        outcome.map_err(Failure::Credentials)
    }

    /// The credentials were refused: they are read anew.
    pub(super) async fn doubt(&self) {
        let mut made = self.client.lock().await;
        made.take_if(|made| made.at.elapsed() > AGAIN);
    }
}

/// The first cause of an error: what is around it names the layers of a client.
pub(crate) fn cause(mut error: &dyn std::error::Error) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    let text = error.to_string();
    // rustls points to its manual.
    text.split(": https://").next().unwrap_or_default().to_owned()
}
