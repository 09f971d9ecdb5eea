//! What is around the plugin on a node: libcni, flannel's plugins, an agent.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;
use vethwall_cni::{
    conflist,
    proto::{self, AddRequest, Request, Response},
};
use vethwall_tests::{
    cni::{self, BIN, CONF, FLANNEL},
    sandbox::{command, ip, program, workspace},
};

pub(crate) const NETNS: &str = "/run/netns/pod";
pub(crate) const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart;\
                    K8S_POD_INFRA_CONTAINER_ID=c0ffee;K8S_POD_UID=0f0f";

/// A node's CNI directories in the sandbox: flannel's subnet, the list, and a folder with all plugins.
pub(crate) struct Node {
    bin: PathBuf,
}

impl Node {
    pub(crate) fn new(list: &str) -> Self {
        cni::install(list).unwrap();
        let bin = PathBuf::from(BIN);
        fs::copy(program("vethwall-cni").unwrap(), bin.join(conflist::PLUGIN)).unwrap();
        ip("netns add pod").unwrap();
        Self { bin }
    }

    /// The node that an earlier one of the sandbox left.
    pub(crate) fn again() -> Self {
        Self {
            bin: PathBuf::from(BIN),
        }
    }

    pub(crate) fn chained() -> Self {
        Self::new(&conflist::insert(FLANNEL, &conflist::default_entry()).unwrap())
    }

    pub(crate) fn cnitool(&self, verb: &str) -> Output {
        self.cnitool_for(verb, NETNS)
    }

    pub(crate) fn cnitool_for(&self, verb: &str, netns: &str) -> Output {
        self.cnitool_as(verb, netns, ARGS)
    }

    /// As another pod.
    pub(crate) fn cnitool_as(&self, verb: &str, netns: &str, args: &str) -> Output {
        self.cnitool_on(verb, ("cbr0", "eth0"), netns, args)
    }

    /// For an interface of a pod, by the list of this network.
    pub(crate) fn cnitool_on(
        &self,
        verb: &str,
        (network, ifname): (&str, &str),
        netns: &str,
        args: &str,
    ) -> Output {
        Command::new(workspace().join(".tools/cni/cnitool"))
            .args([verb, network, netns])
            .env("CNI_IFNAME", ifname)
            .env("NETCONFPATH", CONF)
            .env("CNI_PATH", &self.bin)
            .env("CNI_ARGS", args)
            .output()
            .expect("cnitool is built by make setup")
    }

    pub(crate) fn add(&self) -> Value {
        let output = self.cnitool("add");
        assert!(output.status.success(), "{}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn del(&self) {
        let start = Instant::now();
        let output = self.cnitool("del");
        assert!(output.status.success(), "{}", text(&output));
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }

    /// What is left of pods: leases and host's ends.
    pub(crate) fn leftovers(&self) -> (usize, usize) {
        let leases = match fs::read_dir("/var/lib/cni/networks/cbr0") {
            Ok(files) => files
                .filter(|f| {
                    f.as_ref()
                        .unwrap()
                        .file_name()
                        .to_str()
                        .unwrap()
                        .starts_with("10.")
                })
                .count(),
            Err(_) => 0,
        };
        let links = command("ip", &["-br", "link", "show", "type", "veth"]).unwrap();
        (leases, links.lines().count())
    }
}

pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Calls the plugin itself, as a runtime does.
pub(crate) fn call(verb: &str, environment: &[(&str, &str)], stdin: &str) -> (bool, String) {
    let mut child = Command::new(program("vethwall-cni").unwrap())
        .env_clear()
        .env("CNI_COMMAND", verb)
        .env("CNI_PATH", BIN)
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

pub(crate) fn error(outcome: (bool, String)) -> (u64, String) {
    let (success, output) = outcome;
    assert!(!success, "{output}");
    let error: Value = serde_json::from_str(&output).unwrap();
    assert!(error["cniVersion"].is_string(), "{output}");
    (
        error["code"].as_u64().unwrap(),
        format!("{} {}", error["msg"], error["details"]),
    )
}

/// Stands in for the agent: notes what it is asked and answers as it is told.
pub(crate) struct Agent {
    pub(crate) asked: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
}

impl Agent {
    pub(crate) fn start(answer: impl Fn(&Request) -> Response + Send + 'static) -> Self {
        let path = proto::socket(Path::new(proto::RUN_DIR));
        fs::create_dir_all(proto::RUN_DIR).unwrap();
        fs::set_permissions(proto::RUN_DIR, fs::Permissions::from_mode(0o700)).unwrap();
        let _gone = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, end) = (Arc::clone(&asked), Arc::clone(&stop));
        let worker = thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let mut stream = stream.unwrap();
                let mut line = String::new();
                BufReader::new(stream.try_clone().unwrap())
                    .read_line(&mut line)
                    .unwrap();
                let request = serde_json::from_str(&line).unwrap();
                let response = answer(&request);
                log.lock().unwrap().push(request);
                let mut line = serde_json::to_vec(&response).unwrap();
                line.push(b'\n');
                stream.write_all(&line).unwrap();
            }
        });
        Self {
            asked,
            stop,
            worker: Some(worker),
        }
    }

    pub(crate) fn adds(&self) -> Vec<AddRequest> {
        let asked = self.asked.lock().unwrap();
        let adds = asked.iter().filter_map(|request| match request {
            Request::Add(add) => Some(add.clone()),
            Request::Del(_) | Request::Status => None,
        });
        adds.collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _wake = std::os::unix::net::UnixStream::connect(proto::socket(Path::new(proto::RUN_DIR)));
        let _ended = self.worker.take().map(JoinHandle::join);
    }
}
