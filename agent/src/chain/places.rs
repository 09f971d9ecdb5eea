//! Where a distribution keeps its CNI configuration and plugins.

use std::path::{Path, PathBuf};

use super::{files, plan::Listing};
use crate::cri::view::Cni;

/// A distribution's directories.
struct Layout {
    conf: &'static str,
    /// The first that is there; the first of all where none is.
    bin: &'static [&'static str],
}

/// In the order in which they are looked at: a k3s or MicroK8s node may have the usual directories too, unused.
const LAYOUTS: [Layout; 3] = [
    // k3s: `data/cni` since the patch releases of October 2024 (k3s#10868).
    Layout {
        conf: "var/lib/rancher/k3s/agent/etc/cni/net.d",
        bin: &[
            "var/lib/rancher/k3s/data/cni",
            "var/lib/rancher/k3s/data/current/bin",
        ],
    },
    Layout {
        conf: "var/snap/microk8s/current/args/cni-network",
        bin: &["var/snap/microk8s/current/opt/cni/bin"],
    },
    // kubeadm, RKE2, k0s, kind: the defaults of containerd and CRI-O.
    Layout {
        conf: "etc/cni/net.d",
        bin: &["opt/cni/bin"],
    },
];

/// The CNI directories of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Network lists.
    pub conf: PathBuf,
    /// Plugins.
    pub bin: PathBuf,
}

/// Finds the directories below `root`: those with a list, else those that are there, else the usual ones.
#[must_use]
pub fn detect(root: &Path) -> Places {
    let holds_lists =
        |layout: &&Layout| files::read(&root.join(layout.conf)).is_ok_and(|l| l != Listing::default());
    let exists = |layout: &&Layout| root.join(layout.conf).is_dir();
    let [.., usual] = &LAYOUTS;
    let layout = LAYOUTS
        .iter()
        .find(holds_lists)
        .or_else(|| LAYOUTS.iter().find(exists))
        .unwrap_or(usual);
    let bins = layout.bin.iter().map(|bin| root.join(bin));
    let bin = bins
        .clone()
        .find(|bin| bin.is_dir())
        .or_else(|| bins.clone().next());
    Places {
        conf: root.join(layout.conf),
        bin: bin.unwrap_or_default(),
    }
}

/// Where a node's network lists are, by its kubelet's version (`v1.33.4+k3s1`); the chart tells k3s by the same.
#[must_use]
pub fn lists_of(kubelet: &str) -> PathBuf {
    let [k3s, .., usual] = &LAYOUTS;
    let layout = if kubelet.contains("+k3s") { k3s } else { usual };
    Path::new("/").join(layout.conf)
}

/// The directories that the runtime itself names, where both are there.
#[must_use]
pub fn told(cni: &Cni) -> Option<Places> {
    let bin = cni.bin_dirs.iter().find(|bin| bin.is_dir())?;
    cni.conf_dir.is_dir().then(|| Places {
        conf: cni.conf_dir.clone(),
        bin: bin.clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn found(directories: &[&str], lists: &[&str]) -> (String, String) {
        let root = tempfile::tempdir().unwrap();
        for directory in directories {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        for list in lists {
            fs::write(root.path().join(list), "{}").unwrap();
        }
        let places = detect(root.path());
        let below = |path: &Path| path.strip_prefix(root.path()).unwrap().display().to_string();
        (below(&places.conf), below(&places.bin))
    }

    #[test]
    fn the_runtime_is_believed_as_far_as_its_directories_are_there() {
        let root = tempfile::tempdir().unwrap();
        let cni = Cni {
            conf_dir: root.path().join("conf"),
            bin_dirs: vec![root.path().join("first"), root.path().join("second")],
            ..Cni::default()
        };
        assert_eq!(told(&cni), None);
        fs::create_dir(root.path().join("second")).unwrap();
        assert_eq!(told(&cni), None);
        fs::create_dir(root.path().join("conf")).unwrap();
        assert_eq!(told(&cni).unwrap().bin, root.path().join("second"));
    }

    #[test]
    fn a_kubelet_tells_its_distribution() {
        let k3s = Path::new("/var/lib/rancher/k3s/agent/etc/cni/net.d");
        assert_eq!(lists_of("v1.33.4+k3s1"), k3s);
        for other in ["v1.34.1", "v1.33.4+rke2r1", ""] {
            assert_eq!(lists_of(other), Path::new("/etc/cni/net.d"));
        }
    }

    #[test]
    fn distributions_are_told_apart() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let usual = pair("etc/cni/net.d", "opt/cni/bin");
        assert_eq!(found(&[], &[]), usual);
        let k3s = "var/lib/rancher/k3s/agent/etc/cni/net.d";
        let (new, old) = (
            "var/lib/rancher/k3s/data/cni",
            "var/lib/rancher/k3s/data/current/bin",
        );
        assert_eq!(found(&[k3s, old, "etc/cni/net.d"], &[]), pair(k3s, old));
        assert_eq!(found(&[k3s, old, new], &[]), pair(k3s, new));
        // A k3s that was there once: the lists say who is used.
        let list = ["etc/cni/net.d/10-flannel.conflist"];
        assert_eq!(found(&[k3s, new, "etc/cni/net.d"], &list), usual);
        let snap = "var/snap/microk8s/current/args/cni-network";
        assert_eq!(
            found(&[snap], &[]),
            pair(snap, "var/snap/microk8s/current/opt/cni/bin")
        );
    }
}
