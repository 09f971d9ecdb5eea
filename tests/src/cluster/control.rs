//! The control plane. Everybody who talks to the API server has a token; its certificate is one that it makes for itself.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;

use super::{Cluster, Machine, PODS, SERVICES, program};
use crate::sandbox::command;

/// Kubeconfig of whoever may do anything, on the control plane.
pub(super) const ADMIN: &str = "/run/kubernetes/admin.conf";
const CERTIFICATE: &str = "/run/kubernetes/apiserver.crt";
/// Signs the tokens of ServiceAccounts.
const KEY: &str = "/run/kubernetes/service-accounts.key";
const TOKENS: &str = "/run/kubernetes/tokens.csv";

/// User names, and the group of each: token `token-of-NAME`. Nobody outside the cluster's namespaces can reach its API server.
const USERS: &[(&str, &str)] = &[
    ("admin", "system:masters"),
    ("system:kube-controller-manager", ""),
    ("system:kube-scheduler", ""),
    ("system:kube-proxy", ""),
    ("system:node:left", "system:nodes"),
    ("system:node:right", "system:nodes"),
];

impl Machine {
    /// etcd and kube-apiserver. They answer some seconds later.
    pub(super) fn start_control_plane(&self) -> Result<()> {
        self.on(|_| {
            command(
                "openssl",
                &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", KEY],
            )?;
            let tokens: String = USERS
                .iter()
                .map(|(user, group)| format!("token-of-{user},{user},{user},\"{group}\"\n"))
                .collect();
            fs::write(TOKENS, tokens).context("write the tokens")
        })?;
        self.daemon(
            "etcd",
            &[
                "--data-dir=/var/lib/etcd",
                "--unsafe-no-fsync",
                "--log-level=warn",
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
                "--listen-peer-urls=http://127.0.0.1:2380",
            ],
        )?;
        self.daemon(
            "kube-apiserver",
            &[
                "--etcd-servers=http://127.0.0.1:2379",
                &format!("--advertise-address={}", self.address),
                &format!("--service-cluster-ip-range={SERVICES}"),
                "--allow-privileged=true",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                // Makes a certificate there.
                "--cert-dir=/run/kubernetes",
                &format!("--token-auth-file={TOKENS}"),
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                &format!("--service-account-key-file={KEY}"),
                &format!("--service-account-signing-key-file={KEY}"),
                "--kubelet-preferred-address-types=InternalIP",
            ],
        )
    }

    /// Starts a program of Kubernetes that stays.
    pub(super) fn daemon(&self, name: &str, arguments: &[&str]) -> Result<()> {
        self.on(|node| {
            let mut command = node.command(program(name)?)?;
            command.args(arguments);
            node.start(name, command)
        })
    }
}

impl Cluster {
    /// kube-controller-manager and kube-scheduler, once the API server has made its certificate.
    pub(super) fn start_controllers(&self) -> Result<()> {
        let conf = |name: &str| format!("/run/kubernetes/{name}.conf");
        for name in ["kube-controller-manager", "kube-scheduler"] {
            let text = self.control.kubeconfig(&format!("system:{name}"))?;
            self.control.write(&conf(name), &text)?;
        }
        self.control.daemon(
            "kube-controller-manager",
            &[
                &format!("--kubeconfig={}", conf("kube-controller-manager")),
                &format!("--cluster-cidr={PODS}"),
                "--allocate-node-cidrs",
                &format!("--service-cluster-ip-range={SERVICES}"),
                &format!("--service-account-private-key-file={KEY}"),
                &format!("--root-ca-file={CERTIFICATE}"),
                "--use-service-account-credentials",
                "--leader-elect=false",
            ],
        )?;
        self.control.daemon(
            "kube-scheduler",
            &[
                &format!("--kubeconfig={}", conf("kube-scheduler")),
                "--leader-elect=false",
            ],
        )
    }

    /// A command that talks to the API server as whoever may do anything.
    pub(super) fn client(program: &Path) -> Command {
        // No client waits for ever.
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", "300"])
            .arg(program)
            .env("KUBECONFIG", ADMIN)
            .env("HOME", "/run");
        command
    }
}

impl Machine {
    /// A user's kubeconfig, where this machine is the control plane.
    pub(super) fn kubeconfig(&self, user: &str) -> Result<String> {
        let certificate = self.on(|_| fs::read(CERTIFICATE).context("the API server's certificate"))?;
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "e2e",
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": user}}],
            "users": [{"name": user, "user": {"token": format!("token-of-{user}")}}],
            "clusters": [{"name": "e2e", "cluster": {
                "server": format!("https://{}:6443", self.address),
                "certificate-authority-data": BASE64_STANDARD.encode(certificate),
            }}],
        });
        Ok(config.to_string())
    }
}
