//! A node's CNI directories in a sandbox, as kube-flannel leaves them.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Context as _, Result};

use crate::sandbox::workspace;

/// Network lists.
pub const CONF: &str = "/run/net.d";
/// Plugins.
pub const BIN: &str = "/run/bin";
/// Flannel's own list.
pub const FLANNEL_FILE: &str = "10-flannel.conflist";

/// Flannel's list as kube-flannel installs it.
pub const FLANNEL: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "flannel",
      "delegate": {
        "hairpinMode": true,
        "isDefaultGateway": true
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      }
    }
  ]
}
"#;

/// Makes the directories: flannel's subnet, this list, and flannel's plugins.
pub fn install(list: &str) -> Result<()> {
    for directory in [CONF, BIN] {
        fs::create_dir_all(directory).with_context(|| format!("make {directory}"))?;
    }
    write_subnet()?;
    write_list(list)?;
    let tools = workspace().join(".tools/cni");
    for plugin in ["flannel", "bridge", "ptp", "host-local", "loopback", "portmap"] {
        symlink(tools.join(plugin), Path::new(BIN).join(plugin))
            .with_context(|| format!("put {plugin} into {BIN}"))?;
    }
    Ok(())
}

/// What flanneld writes when it knows the node's subnet; gone after a boot until then.
pub fn write_subnet() -> Result<()> {
    let subnet = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
    fs::create_dir_all("/run/flannel")?;
    fs::write("/run/flannel/subnet.env", subnet).context("write flannel's subnet")
}

/// What flannel's init container does at each start of its pod, and k3s at each of its own: the list, in place.
pub fn write_list(list: &str) -> Result<()> {
    fs::write(Path::new(CONF).join(FLANNEL_FILE), list).context("write flannel's list")
}
