//! A real etcd and kube-apiserver in a test's sandbox, and what happens to them.
//!
//! ```text
//! agent ── 127.0.0.1:7443 ─ [`Line`]: cut, mended ─► 127.0.0.1:6443 kube-apiserver ─► 127.0.0.1:2379 etcd
//! ```
//!
//! Invariants: it must be started in a [`crate::sandbox`], whose network namespace is its own, so ports are fixed; both
//! programs end with it, also when the test panics.

mod admin;
mod followed;
mod line;
pub mod objects;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

pub use self::{admin::Admin, followed::Followed, line::Line};
use crate::sandbox::{command, workspace};

const ETCD: &str = "http://127.0.0.1:2379";
/// Where the API server listens.
pub const PORT: u16 = 6443;
/// Where it is reached over a [`Line`].
pub const LINE: u16 = 7443;

/// The administrator's token.
const TOKEN: &str = "administrator";

const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster that has nothing but an API server.
#[derive(Debug)]
pub struct ApiServer {
    directory: PathBuf,
    etcd: Child,
    server: Option<Child>,
}

impl ApiServer {
    /// Starts both and waits until the API server is ready.
    pub fn start() -> Result<Self> {
        let directory = PathBuf::from("/run/apiserver");
        fs::create_dir_all(&directory)?;
        let key = directory.join("sa.key");
        let key = key.to_str().context("a path")?;
        command(
            "openssl",
            &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key],
        )?;
        fs::write(
            directory.join("tokens.csv"),
            format!("{TOKEN},admin,admin,\"system:masters\"\n"),
        )?;
        let etcd = program(
            "etcd",
            &directory,
            &[
                "--data-dir=etcd",
                "--unsafe-no-fsync",
                "--log-level=warn",
                &format!("--listen-client-urls={ETCD}"),
                &format!("--advertise-client-urls={ETCD}"),
                "--listen-peer-urls=http://127.0.0.1:2380",
            ],
        )?;
        let mut api = Self {
            directory,
            etcd,
            server: None,
        };
        api.run()?;
        Ok(api)
    }

    /// Starts the API server, after [`Self::kill`] anew, and waits until it is ready.
    pub fn run(&mut self) -> Result<()> {
        ensure!(self.server.is_none(), "it runs");
        let child = program(
            "kube-apiserver",
            &self.directory,
            &[
                &format!("--etcd-servers={ETCD}"),
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                &format!("--secure-port={PORT}"),
                "--cert-dir=pki",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--authorization-mode=RBAC",
                "--token-auth-file=tokens.csv",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-account-key-file=sa.key",
                "--service-account-signing-key-file=sa.key",
                // Nobody is there who would make service accounts for pods, or endpoints.
                "--disable-admission-plugins=ServiceAccount",
                "--endpoint-reconciler-type=none",
            ],
        )?;
        self.server = Some(child);
        let started = Instant::now();
        loop {
            let ready = self
                .admin()
                .and_then(|admin| admin.text("/readyz"))
                .is_ok_and(|text| text == "ok");
            if ready {
                return Ok(());
            }
            let child = self.server.as_mut().context("it runs")?;
            let ended = child.try_wait()?;
            ensure!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "kube-apiserver is not ready: {}",
                fs::read_to_string(self.directory.join("kube-apiserver.log")).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the API server; etcd, and so its objects, stay.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.server.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Lets the API server stand still: connections stay, and nothing is answered.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let child = self.server.as_ref().context("it does not run")?;
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        Ok(())
    }

    /// The administrator.
    pub fn admin(&self) -> Result<Admin> {
        Admin::new(&self.kubeconfig("admin", PORT, TOKEN)?)
    }

    /// A kubeconfig with a token, for whoever is told to use that port.
    pub fn kubeconfig(&self, name: &str, port: u16, token: &str) -> Result<PathBuf> {
        let file = self.directory.join(format!("{name}.kubeconfig"));
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{port}"),
                "certificate-authority": self.certificate(),
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        fs::write(&file, config.to_string())?;
        Ok(file)
    }

    /// The certificate by which the API server is known.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("pki/apiserver.crt")
    }

    /// A line to it, which can be cut.
    pub fn line(&self) -> Result<Line> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Line::new(local(LINE), local(PORT))
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let server = self.server.iter_mut();
        for child in server.chain([&mut self.etcd]) {
            let _ended = child.kill().and_then(|()| child.wait());
        }
    }
}

fn program(name: &str, directory: &Path, arguments: &[&str]) -> Result<Child> {
    let path = workspace().join(".tools/cluster").join(name);
    let log = fs::File::create(directory.join(format!("{name}.log")))?;
    let mut command = Command::new(&path);
    command
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    command.process_group(0);
    command
        .spawn()
        .with_context(|| format!("{} is built by: scripts/setup.sh cluster", path.display()))
}
