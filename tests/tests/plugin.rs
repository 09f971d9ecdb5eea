//! The plugin under the real libcni (`cnitool`), after the real flannel, bridge, host-local and portmap plugins.

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

use serde_json::{Value, json};
use vethwall_cni::{
    code, conflist,
    proto::{self, AddRequest, Request, Response},
};
use vethwall_common::endpoint::{EndpointRecord, SlotRef};
use vethwall_datapath::{Choice, Endpoints, Kernel, Pins, attach, veth};
use vethwall_tests::sandbox::{self, BPFFS, command, ip, program, workspace};

const NETNS: &str = "/run/netns/pod";
const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart;\
                    K8S_POD_INFRA_CONTAINER_ID=c0ffee;K8S_POD_UID=0f0f";

/// Flannel's list as kube-flannel installs it.
const FLANNEL: &str = r#"{
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

/// A node's CNI directories in the sandbox: flannel's subnet, the list, and a folder with all plugins.
struct Node {
    bin: PathBuf,
}

impl Node {
    fn new(list: &str) -> Self {
        fs::create_dir_all("/run/flannel").unwrap();
        let subnet = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
        fs::write("/run/flannel/subnet.env", subnet).unwrap();
        fs::create_dir_all("/run/net.d").unwrap();
        fs::write("/run/net.d/10-flannel.conflist", list).unwrap();
        let bin = PathBuf::from("/run/bin");
        fs::create_dir_all(&bin).unwrap();
        let tools = workspace().join(".tools/cni");
        for plugin in ["flannel", "bridge", "host-local", "portmap"] {
            std::os::unix::fs::symlink(tools.join(plugin), bin.join(plugin)).unwrap();
        }
        fs::copy(program("vethwall-cni").unwrap(), bin.join(conflist::PLUGIN)).unwrap();
        ip("netns add pod").unwrap();
        Self { bin }
    }

    fn chained() -> Self {
        Self::new(&conflist::insert(FLANNEL, &conflist::default_entry()).unwrap())
    }

    fn cnitool(&self, verb: &str) -> Output {
        self.cnitool_for(verb, NETNS)
    }

    fn cnitool_for(&self, verb: &str, netns: &str) -> Output {
        Command::new(workspace().join(".tools/cni/cnitool"))
            .args([verb, "cbr0", netns])
            .env("NETCONFPATH", "/run/net.d")
            .env("CNI_PATH", &self.bin)
            .env("CNI_ARGS", ARGS)
            .output()
            .expect("cnitool is built by make setup")
    }

    fn add(&self) -> Value {
        let output = self.cnitool("add");
        assert!(output.status.success(), "{}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn del(&self) {
        let start = Instant::now();
        let output = self.cnitool("del");
        assert!(output.status.success(), "{}", text(&output));
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }

    /// What is left of pods: leases and host's ends.
    fn leftovers(&self) -> (usize, usize) {
        let leases = match fs::read_dir("/var/lib/cni/networks/cbr0") {
            Ok(files) => {
                files.filter(|f| f.as_ref().unwrap().file_name().to_str().unwrap().starts_with("10.")).count()
            }
            Err(_) => 0,
        };
        let links = command("ip", &["-br", "link", "show", "type", "veth"]).unwrap();
        (leases, links.lines().count())
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Calls the plugin itself, as a runtime does.
fn call(verb: &str, environment: &[(&str, &str)], stdin: &str) -> (bool, String) {
    let mut child = Command::new(program("vethwall-cni").unwrap())
        .env_clear()
        .env("CNI_COMMAND", verb)
        .env("CNI_PATH", "/run/bin")
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

fn error(outcome: (bool, String)) -> (u64, String) {
    let (success, output) = outcome;
    assert!(!success, "{output}");
    let error: Value = serde_json::from_str(&output).unwrap();
    assert!(error["cniVersion"].is_string(), "{output}");
    (error["code"].as_u64().unwrap(), format!("{} {}", error["msg"], error["details"]))
}

/// Stands in for the agent: notes what it is asked and answers as it is told.
struct Agent {
    asked: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
}

impl Agent {
    fn start(answer: impl Fn(&Request) -> Response + Send + 'static) -> Self {
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
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
                let request = serde_json::from_str(&line).unwrap();
                let response = answer(&request);
                log.lock().unwrap().push(request);
                let mut line = serde_json::to_vec(&response).unwrap();
                line.push(b'\n');
                stream.write_all(&line).unwrap();
            }
        });
        Self { asked, stop, worker: Some(worker) }
    }

    fn adds(&self) -> Vec<AddRequest> {
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

fn pins() -> Pins {
    Pins::new(BPFFS)
}

fn load() -> Kernel {
    Kernel::load_or_adopt(BPFFS).unwrap_or_else(|error| panic!("{}", error.chain()))
}

#[test]
fn a_pod_is_attached_before_the_agent_is_asked() {
    sandbox::run(|| {
        let _kernel = load();
        let node = Node::chained();
        let agent = Agent::start(|request| {
            if let Request::Add(add) = request {
                let links = attach::links(&pins()).unwrap();
                let attached = links.iter().filter(|link| link.alive && link.ifindex == add.ifindex).count();
                assert_eq!(attached, 2, "asked before the pod was closed");
            }
            Response::done(1)
        });
        let result = node.add();
        let address = result["ips"][0]["address"].as_str().unwrap();
        let [add] = &agent.adds()[..] else { panic!("asked {} times", agent.adds().len()) };
        assert_eq!((add.namespace.as_str(), add.pod.as_str(), add.uid.as_str()), ("shop", "cart", "0f0f"));
        assert_eq!(address, format!("{}/24", add.addresses[0]));
        let host = result["interfaces"].as_array().unwrap();
        assert!(host.iter().any(|interface| interface["name"] == add.host_ifname.as_str()), "{result}");
        let eth0 = host.iter().find(|interface| interface["name"] == "eth0").unwrap();
        assert_eq!(eth0["mac"], add.mac.map(|byte| format!("{byte:02x}")).join(":"));
        assert_eq!(veth::ifindex(&add.host_ifname).unwrap(), Some(add.ifindex));

        node.del();
        assert_eq!(node.leftovers(), (0, 0));
        let dels = agent.asked.lock().unwrap().iter().filter(|r| matches!(r, Request::Del(_))).count();
        assert_eq!(dels, 1);
    });
}

#[test]
fn the_result_of_the_chain_is_the_same_with_and_without_us() {
    let through = |list: &str| {
        sandbox::run(|| {
            let _kernel = load();
            let node = Node::new(list);
            let _agent = Agent::start(|_| Response::done(1));
            // Names and MAC addresses are random; everything else must agree.
            let mut result = node.add();
            for interface in result["interfaces"].as_array_mut().unwrap() {
                let interface = interface.as_object_mut().unwrap();
                interface.remove("mac");
                if interface["name"].as_str().unwrap().starts_with("veth") {
                    interface.insert("name".to_owned(), json!("veth"));
                }
            }
            result.to_string()
        })
    };
    let chained = conflist::insert(FLANNEL, &conflist::default_entry()).unwrap();
    assert_eq!(through(FLANNEL), through(&chained));
}

#[test]
fn the_previous_result_is_printed_byte_for_byte() {
    sandbox::run(|| {
        let _kernel = load();
        let _agent = Agent::start(|_| Response::done(1));
        ip("netns add pod").unwrap();
        ip("link add vpod type veth peer name eth0 netns pod").unwrap();
        let environment =
            [("CNI_CONTAINERID", "c"), ("CNI_NETNS", NETNS), ("CNI_IFNAME", "eth0"), ("CNI_ARGS", ARGS)];
        let results = [
            "{\"cniVersion\":\"0.3.1\",\"ips\":[{\"version\":\"4\",\"address\":\"10.0.0.2/24\"}],\"dns\":{}}",
            "{ \"unknown\" : [ 1.50, 1e3, \"\\u00e9\\/\" ],\n\t\"cniVersion\": \"1.1.0\", \"mtu\" :7 , \"a\":{},\"a\":{} }",
        ];
        for result in results {
            let stdin = format!("{{\"cniVersion\":\"0.3.1\",\"prevResult\": {result}\n,\"name\":\"x\"}}");
            assert_eq!(call("ADD", &environment, &stdin), (true, result.to_owned()));
        }
    });
}

#[test]
fn without_an_agent_the_pod_waits_and_nothing_is_left_of_it() {
    sandbox::run(|| {
        let _kernel = load();
        let node = Node::chained();
        let start = Instant::now();
        let output = node.cnitool("add");
        let took = start.elapsed();
        assert!(!output.status.success());
        let said = text(&output);
        assert!(said.contains("the pod's start is delayed"), "{said}");
        assert!(said.contains("is the vethwall agent running on this node?"), "{said}");
        assert!((Duration::from_millis(1500)..Duration::from_secs(4)).contains(&took), "{took:?}");
        // What the runtime does next.
        node.del();
        assert_eq!(node.leftovers(), (0, 0));

        // The agent returns while a pod waits.
        let late = thread::spawn(|| {
            thread::sleep(Duration::from_millis(700));
            Agent::start(|_| Response::done(1))
        });
        node.add();
        drop(late.join().unwrap());
    });
}

#[test]
fn deleting_never_fails() {
    sandbox::run(|| {
        let node = Node::chained();
        // Nothing was ever loaded, added or known.
        node.del();
        node.del();
        let nowhere = node.cnitool_for("del", "/run/netns/never");
        assert!(nowhere.status.success(), "{}", text(&nowhere));

        let _kernel = load();
        let agent = Agent::start(|_| Response::done(1));
        node.add();
        drop(agent);
        node.del();
        node.del();
        assert_eq!(node.leftovers(), (0, 0));

        let start = Instant::now();
        for (environment, stdin) in [
            (vec![("CNI_CONTAINERID", "unknown"), ("CNI_IFNAME", "eth0")], "{\"cniVersion\":\"1.0.0\"}"),
            (vec![("CNI_CONTAINERID", "c"), ("CNI_NETNS", "/run/netns/gone")], "{\"cniVersion\":\"9.9\"}"),
            (vec![], "{"),
            (vec![], ""),
        ] {
            assert_eq!(call("DEL", &environment, stdin), (true, String::new()), "{stdin}");
            assert_eq!(call("GC", &environment, stdin), (true, String::new()), "{stdin}");
        }
        assert!(start.elapsed() < Duration::from_secs(2));
        // The agent hangs.
        let _silent = UnixListener::bind(proto::socket(Path::new("/run/vethwall"))).or_else(|_| {
            fs::remove_file(proto::socket(Path::new("/run/vethwall")))
                .and_then(|()| UnixListener::bind(proto::socket(Path::new("/run/vethwall"))))
        });
        let start = Instant::now();
        assert!(call("DEL", &[("CNI_CONTAINERID", "c")], "{\"cniVersion\":\"1.0.0\"}").0);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    });
}

#[test]
fn links_of_pods_that_are_gone_are_collected() {
    sandbox::run(|| {
        let _kernel = load();
        let node = Node::chained();
        let _agent = Agent::start(|_| Response::done(1));
        node.add();
        assert_eq!(attach::links(&pins()).unwrap().len(), 2);
        node.del();
        // Ours is called first, while the interface is still there and enforced; the next call finds it gone.
        node.del();
        assert!(attach::links(&pins()).unwrap().is_empty());
    });
}

#[test]
fn an_agents_refusal_reaches_the_runtime() {
    sandbox::run(|| {
        let _kernel = load();
        let node = Node::chained();
        let _agent = Agent::start(|_| Response::failed(code::TRY_LATER, "vethwall: manifests are being read"));
        let output = node.cnitool("add");
        assert!(!output.status.success());
        assert!(text(&output).contains("manifests are being read"), "{}", text(&output));
    });
}

#[test]
fn a_predecessors_record_does_not_open_the_pod() {
    sandbox::run(|| {
        let _kernel = load();
        ip("netns add pod").unwrap();
        ip("link add vpod type veth peer name eth0 netns pod").unwrap();
        let ifindex = veth::ifindex("vpod").unwrap().unwrap();
        let mac = veth::find(Path::new(NETNS), "eth0").unwrap().mac;
        let mut endpoints = Endpoints::open(&pins()).unwrap();
        let record = |mac| EndpointRecord {
            ingress: SlotRef::new(7, 1),
            ifindex,
            flags: EndpointRecord::ENFORCING,
            mac,
            index: 3,
            ..EndpointRecord::default()
        };
        let _agent = Agent::start(move |_| {
            let found = Endpoints::open(&pins()).unwrap().get(ifindex).unwrap();
            Response::done(u64::from(found.is_some()))
        });
        let environment =
            [("CNI_CONTAINERID", "c"), ("CNI_NETNS", NETNS), ("CNI_IFNAME", "eth0"), ("CNI_ARGS", ARGS)];
        let stdin = "{\"cniVersion\":\"0.3.1\",\"prevResult\":{}}";
        endpoints.put(ifindex, &record([9; 6])).unwrap();
        assert!(call("ADD", &environment, stdin).0);
        assert_eq!(endpoints.get(ifindex).unwrap(), None);
        // A second call for the same pod leaves what the agent has written for it.
        endpoints.put(ifindex, &record(mac)).unwrap();
        assert!(call("ADD", &environment, stdin).0);
        assert_eq!(endpoints.get(ifindex).unwrap(), Some(record(mac)));
        // With that record in force CHECK is content; with the links gone it is not.
        assert_eq!(call("CHECK", &environment, stdin), (true, String::new()));
        attach::detach_endpoint(&pins(), ifindex, "vpod").unwrap();
        ip("link add vx type veth peer name vy").unwrap();
        let other = veth::ifindex("vx").unwrap().unwrap();
        attach::attach_endpoint(&pins(), other, "vx", Choice::Best).unwrap();
        assert_eq!(error(call("CHECK", &environment, stdin)).0, u64::from(code::NOT_ENFORCED));
        assert_eq!(call("STATUS", &[], "{\"cniVersion\":\"1.1.0\"}"), (true, String::new()));
    });
}

#[test]
fn every_error_is_json_with_its_code() {
    sandbox::run(|| {
        let pod = [("CNI_CONTAINERID", "c"), ("CNI_NETNS", NETNS), ("CNI_IFNAME", "eth0"), ("CNI_ARGS", ARGS)];
        let chained = "{\"cniVersion\":\"0.3.1\",\"prevResult\":{}}";
        let (code_, said) = error(call("ADD", &pod, "{\"cniVersion\":\"0.3.1\"}"));
        assert_eq!(code_, u64::from(code::CONFIG));
        assert!(said.contains("must be called as a chained plugin"), "{said}");
        assert_eq!(error(call("ADD", &pod, "{\"prevResult\":{}}")).0, u64::from(code::VERSION));
        assert_eq!(error(call("ADD", &pod, "{\"cniVersion\":\"0.2.0\",\"prevResult\":{}}")).0, 1);
        assert_eq!(error(call("ADD", &pod, "{")).0, u64::from(code::DECODE));
        assert_eq!(error(call("NONSENSE", &pod, chained)).0, u64::from(code::ENVIRONMENT));
        assert_eq!(error(call("ADD", &pod[..1], chained)).0, u64::from(code::ENVIRONMENT));
        assert_eq!(error(call("ADD", &pod, chained)).0, u64::from(code::ENVIRONMENT), "no such namespace");
        assert_eq!(error(call("STATUS", &[], "{\"cniVersion\":\"1.1.0\"}")).0, u64::from(code::UNAVAILABLE));

        ip("netns add pod").unwrap();
        ip("-n pod link add eth0 type bridge").unwrap();
        assert_eq!(error(call("ADD", &pod, chained)).0, u64::from(code::CONFIG), "no veth");
        ip("-n pod link del eth0").unwrap();
        ip("link add vpod type veth peer name eth0 netns pod").unwrap();
        assert_eq!(error(call("ADD", &pod[..3], chained)).0, u64::from(code::ENVIRONMENT), "whose pod?");
        // No agent has ever run here.
        assert_eq!(error(call("ADD", &pod, chained)).0, u64::from(code::TRY_LATER));

        let (success, versions) = call("VERSION", &[], "{\"cniVersion\":\"1.0.0\"}");
        assert!(success);
        let versions: Value = serde_json::from_str(&versions).unwrap();
        assert_eq!(versions["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    });
}
