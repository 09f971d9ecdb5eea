//! What `agent`, `install` and `uninstall` are told of the node's CNI directories.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum, builder::PossibleValue};

use crate::{
    api::chain::ChainMode,
    chain::places::{self, Places},
};

#[derive(Debug, Args)]
#[command(next_help_heading = "The node's CNI directories")]
pub(crate) struct NodeArgs {
    /// Network lists [default: k3s', MicroK8s' or /etc/cni/net.d].
    #[arg(long, value_name = "DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// Plugins [default: k3s', MicroK8s' or /opt/cni/bin].
    #[arg(long, value_name = "DIR")]
    cni_bin_dir: Option<PathBuf>,
}

impl NodeArgs {
    /// The directories, found where they are not given.
    pub(super) fn places(self) -> Places {
        let found = places::detect(Path::new("/"));
        Places {
            conf: self.cni_conf_dir.unwrap_or(found.conf),
            bin: self.cni_bin_dir.unwrap_or(found.bin),
        }
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
