//! Where the node's CNI directories are.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use super::{Failure, text::escape};
use crate::{
    chain::places::{self, Places},
    config::{Config, GivenOfNode},
    cri::{Client, Runtime as _, Socket},
};

/// For how long a runtime may take to answer, before the usual directories are taken for its own.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(500);

/// What `install` and `uninstall` are told of the node.
#[derive(Debug, Args)]
#[command(next_help_heading = "The node")]
pub(crate) struct NodeArgs {
    /// The agent's configuration, for the keys below.
    #[arg(long, value_name = "FILE", env = "VETHWALL_CONFIG", hide_env = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    given: GivenOfNode,
}

impl NodeArgs {
    pub(super) fn config(&self) -> Result<Config, Failure> {
        wanted(self.given.0.over(self.config.as_deref()))
    }
}

/// The configuration, or what is wrong with it.
pub(super) fn wanted(config: Result<Config, crate::config::Error>) -> Result<Config, Failure> {
    config.map_err(|error| Failure::Usage(escape(&error.to_string()).into_owned()))
}

/// The CNI directories, found where they are not given. `waits`: a runtime without a socket may be about to make one, as when
/// the node boots or k3s starts anew.
pub(super) fn places(config: &Config, waits: bool) -> Places {
    let waits = waits && config.cri_socket != Socket::Nobody;
    let told = || {
        let mut client = Client::new(config.cri_socket.clone()).ok()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match client.view() {
                Some(Ok(view)) => return places::told(&view.cni?),
                None if !waits => return None,
                // It is starting: while it does, no pod starts either, and what runs is judged without us.
                None | Some(Err(_)) if Instant::now() < deadline => thread::sleep(PAUSE),
                None | Some(Err(_)) => return None,
            }
        }
    };
    let (conf, bin) = (config.cni_conf_dir.clone(), config.cni_bin_dir.clone());
    if let (Some(conf), Some(bin)) = (&conf, &bin) {
        return Places {
            conf: conf.clone(),
            bin: bin.clone(),
        };
    }
    let found = told().unwrap_or_else(|| places::detect(Path::new("/")));
    Places {
        conf: conf.unwrap_or(found.conf),
        bin: bin.unwrap_or(found.bin),
    }
}
