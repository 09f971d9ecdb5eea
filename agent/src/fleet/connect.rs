//! Which cluster, and why it can not be reached.

use std::path::PathBuf;

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::cluster::connect::cause;

/// Which cluster, as whom, and where vethwall is in it.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// The kubeconfig; without one `$KUBECONFIG` and `~/.kube/config` are read, as kubectl does.
    pub kubeconfig: Option<PathBuf>,
    /// The context; without one the current one.
    pub context: Option<String>,
    /// The namespace of the agents; without one they are looked for in all.
    pub namespace: Option<String>,
}

/// Why the cluster was not asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable kubeconfig.
    #[error("no cluster to ask: {0}")]
    Kubeconfig(String),
    /// The API server did not answer.
    #[error("the API server does not answer: {0}")]
    Unreachable(String),
    /// The user's rights do not suffice.
    #[error("you may not {verb} {what}: {message}")]
    Forbidden {
        /// What was tried.
        verb: &'static str,
        /// With which resource.
        what: String,
        /// The API server's words.
        message: String,
    },
    /// The API server refused for another reason.
    #[error("the API server refuses to {verb} {what}: {message}")]
    Refused {
        /// What was tried.
        verb: &'static str,
        /// With which resource.
        what: String,
        /// The API server's words.
        message: String,
    },
}

impl Error {
    /// What a question about a resource came to.
    pub(super) fn of(verb: &'static str, what: &str, error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::Unreachable(cause(error));
        };
        let (what, message) = (what.to_owned(), status.message.clone());
        if matches!(status.code, 401 | 403) {
            Self::Forbidden { verb, what, message }
        } else {
            Self::Refused { verb, what, message }
        }
    }
}

impl Target {
    /// A client, and the address that it talks to.
    pub async fn connect(&self) -> Result<(Client, String), Error> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        // In its own words, which have the file's name.
        let kubeconfig = |error: &dyn std::error::Error| Error::Kubeconfig(error.to_string());
        let config = match &self.kubeconfig {
            Some(path) => {
                let read = Kubeconfig::read_from(path).map_err(|error| kubeconfig(&error))?;
                Config::from_custom_kubeconfig(read, &options).await
            }
            None => Config::from_kubeconfig(&options).await,
        };
        let config = config.map_err(|error| kubeconfig(&error))?;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| kubeconfig(&error))?;
        Ok((client, server))
    }
}
