//! What `agent`, `install` and `uninstall` are told of the node's CNI directories.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum, builder::PossibleValue};

use crate::{
    api::chain::ChainMode,
    chain::places::{self, Places},
    cri::{Client, Runtime as _, Socket},
};

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
    /// The directories, found where they are not given.
    pub(super) fn places(&self) -> Places {
        let told = || {
            let view = Client::new(self.cri_socket.clone()).ok()?.view()?.ok()?;
            places::told(&view.cni?)
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
