//! The plugin under the real libcni (`cnitool`), after the real flannel, bridge, host-local and portmap plugins.

mod hostile;
mod interfaces;
pub(crate) mod node;

use std::{
    fs,
    os::unix::net::UnixListener,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use vethwall_cni::{
    code, conflist,
    proto::{self, Request, Response},
};
use vethwall_common::endpoint::{EndpointRecord, SlotRef};
use vethwall_datapath::{Choice, Endpoints, Kernel, Pins, attach, surroundings, veth};
use vethwall_tests::{
    cni::FLANNEL,
    hooks,
    sandbox::{self, BPFFS, ip},
};

use node::{ARGS, Agent, NETNS, Node, call, error, text};

fn pins() -> Pins {
    Pins::new(BPFFS)
}

fn load() -> Kernel {
    Kernel::load_or_adopt(BPFFS).unwrap_or_else(|error| panic!("{}", error.chain()))
}

// Covers: SEMANTICS 10, 30
#[test]
fn a_pod_is_attached_before_the_agent_is_asked() {
    sandbox::run(|| {
        let _kernel = load();
        let node = Node::chained();
        let agent = Agent::start(|request| {
            if let Request::Add(add) = request {
                let closed = hooks::on(&pins(), add.ifindex).unwrap();
                assert!(closed, "asked before the pod was closed");
            }
            Response::done(1)
        });
        let result = node.add();
        let address = result["ips"][0]["address"].as_str().unwrap();
        let [add] = &agent.adds()[..] else {
            panic!("asked {} times", agent.adds().len())
        };
        assert_eq!(
            (add.namespace.as_str(), add.pod.as_str(), add.uid.as_str()),
            ("shop", "cart", "0f0f")
        );
        assert_eq!(address, format!("{}/24", add.addresses[0]));
        let host = result["interfaces"].as_array().unwrap();
        assert!(
            host.iter()
                .any(|interface| interface["name"] == add.host_ifname.as_str()),
            "{result}"
        );
        let eth0 = host.iter().find(|interface| interface["name"] == "eth0").unwrap();
        assert_eq!(eth0["mac"], add.mac.map(|byte| format!("{byte:02x}")).join(":"));
        assert_eq!(veth::ifindex(&add.host_ifname).unwrap(), Some(add.ifindex));

        node.del();
        assert_eq!(node.leftovers(), (0, 0));
        let dels = agent
            .asked
            .lock()
            .unwrap()
            .iter()
            .filter(|r| matches!(r, Request::Del(_)))
            .count();
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
        let environment = [
            ("CNI_CONTAINERID", "c"),
            ("CNI_NETNS", NETNS),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", ARGS),
        ];
        let results = [
            "{\"cniVersion\":\"0.3.1\",\"ips\":[{\"version\":\"4\",\"address\":\"10.0.0.2/24\"}],\"dns\":{}}",
            "{ \"unknown\" : [ 1.50, 1e3, \"\\u00e9\\/\" ],\n\t\"cniVersion\": \"1.1.0\", \"mtu\" :7 , \"a\":{},\"a\":{} }",
        ];
        for result in results {
            let stdin = format!("{{\"cniVersion\":\"0.3.1\",\"prevResult\": {result}\n,\"name\":\"x\"}}");
            let start = Instant::now();
            assert_eq!(call("ADD", &environment, &stdin), (true, result.to_owned()));
            println!("the plugin's part of ADD took {:?}", start.elapsed());
        }
    });
}

// Covers: SEMANTICS 30
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
        assert!(
            said.contains("is the vethwall agent running on this node?"),
            "{said}"
        );
        assert!(
            (Duration::from_millis(1500)..Duration::from_secs(4)).contains(&took),
            "{took:?}"
        );
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
            (
                vec![("CNI_CONTAINERID", "unknown"), ("CNI_IFNAME", "eth0")],
                "{\"cniVersion\":\"1.0.0\"}",
            ),
            (
                vec![("CNI_CONTAINERID", "c"), ("CNI_NETNS", "/run/netns/gone")],
                "{\"cniVersion\":\"9.9\"}",
            ),
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
fn what_hangs_on_pods_that_are_gone_is_collected() {
    sandbox::run(|| {
        let _kernel = load();
        let node = Node::chained();
        let agent = Agent::start(|_| Response::done(1));
        node.add();
        // As the agent does when no pod starts; kernels without tcx keep the filters.
        let [add] = &agent.adds()[..] else {
            panic!("asked once")
        };
        attach::settle_endpoint(&pins(), add.ifindex, &add.host_ifname).unwrap();
        assert!(hooks::on(&pins(), add.ifindex).unwrap());
        node.del();
        // Ours is called first, while the interface is still there and enforced; the next call finds it gone.
        node.del();
        assert!(attach::links(&pins()).unwrap().is_empty());
        for directory in ["links", "clsact"] {
            let left = fs::read_dir(pins().root().join(directory)).map_or(0, Iterator::count);
            assert_eq!(left, 0, "{directory}");
        }
    });
}

#[test]
fn an_agents_refusal_reaches_the_runtime() {
    sandbox::run(|| {
        let _kernel = load();
        let node = Node::chained();
        let _agent =
            Agent::start(|_| Response::failed(code::TRY_LATER, "vethwall: manifests are being read"));
        let output = node.cnitool("add");
        assert!(!output.status.success());
        assert!(
            text(&output).contains("manifests are being read"),
            "{}",
            text(&output)
        );
    });
}

// Covers: SEMANTICS 30
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
        let environment = [
            ("CNI_CONTAINERID", "c"),
            ("CNI_NETNS", NETNS),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", ARGS),
        ];
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
        attach::settle_endpoint(&pins(), ifindex, "vpod").unwrap();
        assert_eq!(call("CHECK", &environment, stdin), (true, String::new()));
        attach::detach_endpoint(&pins(), ifindex, "vpod").unwrap();
        ip("link add vx type veth peer name vy").unwrap();
        let other = veth::ifindex("vx").unwrap().unwrap();
        attach::attach_endpoint(&pins(), other, "vx", Choice::Best).unwrap();
        assert_eq!(
            error(call("CHECK", &environment, stdin)).0,
            u64::from(code::NOT_ENFORCED)
        );
        assert_eq!(
            call("STATUS", &[], "{\"cniVersion\":\"1.1.0\"}"),
            (true, String::new())
        );
    });
}

#[test]
fn every_error_is_json_with_its_code() {
    sandbox::run(|| {
        let pod = [
            ("CNI_CONTAINERID", "c"),
            ("CNI_NETNS", NETNS),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", ARGS),
        ];
        let chained = "{\"cniVersion\":\"0.3.1\",\"prevResult\":{}}";
        let (code_, said) = error(call("ADD", &pod, "{\"cniVersion\":\"0.3.1\"}"));
        assert_eq!(code_, u64::from(code::CONFIG));
        assert!(said.contains("must be called as a chained plugin"), "{said}");
        assert_eq!(
            error(call("ADD", &pod, "{\"prevResult\":{}}")).0,
            u64::from(code::VERSION)
        );
        assert_eq!(
            error(call("ADD", &pod, "{\"cniVersion\":\"0.2.0\",\"prevResult\":{}}")).0,
            1
        );
        assert_eq!(error(call("ADD", &pod, "{")).0, u64::from(code::DECODE));
        assert_eq!(
            error(call("NONSENSE", &pod, chained)).0,
            u64::from(code::ENVIRONMENT)
        );
        assert_eq!(
            error(call("ADD", &pod[..1], chained)).0,
            u64::from(code::ENVIRONMENT)
        );
        assert_eq!(
            error(call("ADD", &pod, chained)).0,
            u64::from(code::ENVIRONMENT),
            "no such namespace"
        );
        assert_eq!(
            error(call("STATUS", &[], "{\"cniVersion\":\"1.1.0\"}")).0,
            u64::from(code::UNAVAILABLE)
        );

        ip("netns add pod").unwrap();
        ip("-n pod link add eth0 type bridge").unwrap();
        assert_eq!(
            error(call("ADD", &pod, chained)).0,
            u64::from(code::CONFIG),
            "no veth"
        );
        ip("-n pod link del eth0").unwrap();
        ip("link add vpod type veth peer name eth0 netns pod").unwrap();
        assert_eq!(
            error(call("ADD", &pod[..3], chained)).0,
            u64::from(code::ENVIRONMENT),
            "whose pod?"
        );
        // No agent has ever run here.
        assert_eq!(error(call("ADD", &pod, chained)).0, u64::from(code::TRY_LATER));

        let (success, versions) = call("VERSION", &[], "{\"cniVersion\":\"1.0.0\"}");
        assert!(success);
        let versions: Value = serde_json::from_str(&versions).unwrap();
        assert_eq!(
            versions["supportedVersions"],
            json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
        );
    });
}

/// Namespaces that the node can not do without: while nobody answers, and only then, their pods start unprotected.
#[test]
fn a_namespace_that_fails_open_does_so_only_where_nobody_answers() {
    sandbox::run(|| {
        ip("netns add pod").unwrap();
        ip("link add vpod type veth peer name eth0 netns pod").unwrap();
        let environment = [
            ("CNI_CONTAINERID", "c"),
            ("CNI_NETNS", NETNS),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", ARGS),
        ];
        let stdin = |namespaces: &str| {
            format!(
                "{{\"cniVersion\":\"0.3.1\",\"failOpenNamespaces\":[{namespaces}],\"prevResult\":{{\"x\":1}}}}"
            )
        };
        let listed = stdin("\"kube-system\",\"shop\"");
        let opened = (true, "{\"x\":1}".to_owned());
        let ifindex = veth::ifindex("vpod").unwrap().unwrap();
        let closed = || surroundings::is_judged(&pins(), ifindex).unwrap();
        // No agent has ever run; then one was there and is gone, so that there is something to attach.
        assert_eq!(call("ADD", &environment, &listed), opened);
        let _kernel = load();
        assert_eq!(call("ADD", &environment, &listed), opened);
        assert!(!closed(), "what is attached and has no record drops everything");
        assert_eq!(
            error(call("ADD", &environment, &stdin("\"kube-system\""))).0,
            u64::from(code::TRY_LATER)
        );
        assert!(closed());
        // An agent that says no has a reason.
        let agent = Agent::start(|_| Response::failed(code::TRY_LATER, "not yet"));
        let (refused, said) = error(call("ADD", &environment, &listed));
        assert!(
            refused == u64::from(code::TRY_LATER) && said.contains("not yet"),
            "{said}"
        );
        assert!(closed());
        drop(agent);
        // One that hangs is none.
        fs::remove_file(proto::socket(Path::new(proto::RUN_DIR))).unwrap();
        let silent = UnixListener::bind(proto::socket(Path::new(proto::RUN_DIR))).unwrap();
        let start = Instant::now();
        assert_eq!(call("ADD", &environment, &listed), opened);
        assert!(
            start.elapsed() < Duration::from_millis(8500),
            "{:?}",
            start.elapsed()
        );
        assert!(!closed());
        drop(silent);
        // What is wrong with the pod stays wrong.
        ip("-n pod link del eth0").unwrap();
        ip("-n pod link add eth0 type bridge").unwrap();
        assert_eq!(
            error(call("ADD", &environment, &listed)).0,
            u64::from(code::CONFIG)
        );
    });
}
