//! What a node runs beside its runtime: kubelet and kube-proxy.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{Machine, PODS};
use crate::runtime::SOCKET;

/// What a kubelet sets for the kernel of its machine. Here that is the machine of all nodes and more.
const TUNABLES: &[&str] = &[
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];
const LOCAL: &str = "/run/kubernetes";

impl Machine {
    /// Starts kubelet and kube-proxy.
    pub(super) fn start_kubelet(&self, control: &Self) -> Result<()> {
        let user = format!("system:node:{}", self.name);
        self.write("/run/kubernetes/kubelet.conf", &control.kubeconfig(&user)?)?;
        self.write(
            "/run/kubernetes/kube-proxy.conf",
            &control.kubeconfig("system:kube-proxy")?,
        )?;
        self.write("/run/kubernetes/resolv.conf", "")?;
        self.keep_tunables()?;
        self.delegate_controllers()?;
        let evict = [
            "memory.available",
            "nodefs.available",
            "nodefs.inodesFree",
            "imagefs.available",
            "imagefs.inodesFree",
        ];
        let cgroup = self.on(|node| Ok(node.cgroup().to_owned()))?;
        let kubelet = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            // Nobody but the API server can reach it.
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{cgroup}"),
            "failCgroupV1": false,
            "failSwapOn": false,
            // Nobody resolves names here, but a kubelet without one warns for every pod.
            "clusterDNS": ["10.96.0.10"],
            "resolvConf": format!("{LOCAL}/resolv.conf"),
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            // The disk is the machine's: how full it is says nothing about a node.
            "evictionHard": evict.iter().map(|what| (*what, "0%")).collect::<std::collections::BTreeMap<_, _>>(),
            "imageGCHighThresholdPercent": 100,
            "localStorageCapacityIsolation": false,
            "nodeStatusUpdateFrequency": "10s",
        });
        self.write("/run/kubernetes/kubelet.json", &kubelet.to_string())?;
        self.daemon(
            "kubelet",
            &[
                "--config=/run/kubernetes/kubelet.json",
                "--kubeconfig=/run/kubernetes/kubelet.conf",
                &format!("--hostname-override={}", self.name),
                &format!("--node-ip={}", self.address),
            ],
        )?;
        let proxy = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": PODS,
            "hostnameOverride": self.name,
            "clientConnection": {"kubeconfig": "/run/kubernetes/kube-proxy.conf"},
            // The size of the table is the machine's, and only its own network namespace may set it.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        });
        self.write("/run/kubernetes/kube-proxy.json", &proxy.to_string())?;
        self.daemon("kube-proxy", &["--config=/run/kubernetes/kube-proxy.json"])
    }

    /// In the hierarchy of version 2, a kubelet wants every controller in its part.
    fn delegate_controllers(&self) -> Result<()> {
        let script = "cd /sys/fs/cgroup && [ ! -e cgroup.controllers ] || \
                      sed 's/[^ ][^ ]*/+&/g' cgroup.controllers > cgroup.subtree_control";
        self.on(|node| node.said("sh", &["-c", script]).map(drop))
    }

    /// Puts files in the place of what a kubelet would set for the whole machine.
    fn keep_tunables(&self) -> Result<()> {
        self.on(|node| {
            for tunable in TUNABLES {
                let (real, own) = (
                    Path::new("/proc/sys").join(tunable),
                    Path::new(LOCAL).join(tunable.replace('/', ".")),
                );
                let value = fs::read(&real).with_context(|| format!("read {}", real.display()))?;
                fs::write(&own, value)?;
                node.said(
                    "mount",
                    &["--bind", &own.display().to_string(), &real.display().to_string()],
                )?;
            }
            Ok(())
        })
    }
}
