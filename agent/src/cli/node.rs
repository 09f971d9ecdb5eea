//! What `agent`, `install` and `uninstall` are told of the node's CNI directories.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum, builder::PossibleValue};

use crate::{
    api::chain::ChainMode,
    chain::places::{self, Places},
    cri::{Client, Runtime as _, Socket},
};

/// For how long a runtime may take to answer, before the usual directories are taken for its own.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[command(next_help_heading = "The node's container runtime")]
pub(crate) struct NodeArgs {
    /// Where it listens: auto, none or a path.
    #[arg(long, value_name = "SOCKET", default_value = "auto")]
    cri_socket: Socket,
    /// Network lists [default: the runtime's].
    #[arg(long, value_name = "DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// Plugins [default: the runtime's].
    #[arg(long, value_name = "DIR")]
    cni_bin_dir: Option<PathBuf>,
}

impl NodeArgs {
    /// The directories, found where they are not given. `waits`: a runtime without a socket may be about to make one, as when the
    /// node boots or k3s starts anew.
    pub(super) fn places(&self, waits: bool) -> Places {
        let waits = waits && self.cri_socket != Socket::Nobody;
        let told = || {
            let mut client = Client::new(self.cri_socket.clone()).ok()?;
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
        let (conf, bin) = (self.cni_conf_dir.clone(), self.cni_bin_dir.clone());
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

    /// Whom to ask for the chain in memory.
    pub(super) fn runtime(&self) -> Socket {
        self.cri_socket.clone()
    }
}

impl ValueEnum for ChainMode {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}
