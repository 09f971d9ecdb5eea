//! Pods and other interfaces that come past the plugin, and pods that go without a word, on a node with the real agent.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use vethwall_cni::conflist;
use vethwall_common::flow::{FlowEntry, FlowKey};
use vethwall_datapath::{Endpoints, Kernel, Maps, Pins, attach, surroundings, veth};
use vethwall_tests::{
    cni::{BIN, CONF, FLANNEL},
    kernel::has_tcx,
    sandbox::{self, BPFFS, command, ip, program},
};

use crate::chain::{Agent, MANIFESTS, endpoints, plain_node, pod, starts, status, until};

fn pins() -> Pins {
    Pins::new(BPFFS)
}

/// An agent that nobody chains: whatever starts comes past the plugin.
fn unchained() -> Agent {
    let agent = Agent::start("off");
    until("the agent is ready", || status()["ready"] == true);
    agent
}

/// Name and number of a pod's host end.
fn host_end(name: &str) -> (String, u32) {
    let status = status();
    let endpoint = status["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .find(|e| e["pod"] == name)
        .unwrap()
        .clone();
    let ifindex = endpoint["ifindex"].as_u64().unwrap();
    (
        endpoint["interface"].as_str().unwrap().to_owned(),
        u32::try_from(ifindex).unwrap(),
    )
}

fn found_by(name: &str) -> Value {
    let status = status();
    let mut endpoints = status["endpoints"].as_array().unwrap().iter();
    endpoints
        .find(|e| e["pod"] == name)
        .map(|e| e["foundBy"].clone())
        .unwrap_or_default()
}

fn record(ifindex: u32) -> bool {
    Endpoints::open(&pins()).unwrap().get(ifindex).unwrap().is_some()
}

/// Waits until an interface is closed: it carries our programs, and never had a record while it did.
fn closed(ifindex: u32) -> Duration {
    let start = Instant::now();
    while !surroundings::is_judged(&pins(), ifindex).unwrap() {
        assert!(start.elapsed() < Duration::from_secs(5), "{}", status());
        thread::sleep(Duration::from_millis(1));
    }
    assert!(!record(ifindex), "closed by name only");
    start.elapsed()
}

fn stranger(name: &str, more: &str) -> u32 {
    ip(&format!("link add {name} {more} type veth peer name x{name}")).unwrap();
    ip(&format!("link set {name} master cni0 up")).unwrap();
    veth::ifindex(name).unwrap().unwrap()
}

fn tc(words: &str) {
    command("tc", &words.split_whitespace().collect::<Vec<_>>()).unwrap();
}

fn problems(code: &str) -> Vec<String> {
    let status = status();
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    let told = problems.iter().filter(|problem| problem["code"] == code);
    told.map(|problem| problem["message"].as_str().unwrap().to_owned())
        .collect()
}

// Covers: SEMANTICS 30
#[test]
fn who_comes_past_the_plugin_is_closed_until_it_is_known() {
    sandbox::run(|| {
        let (node, _) = plain_node();
        let before = stranger("before", "");
        let _agent = unchained();
        assert_eq!(found_by("old"), "cache");

        // A pod that nobody announced. Its interface is closed long before its start is done.
        let start = Instant::now();
        starts(&node, "new");
        let started = Instant::now();
        until("the pod is enforced", || {
            endpoints().get("new").is_some_and(|state| state == "enforcing")
        });
        println!(
            "a pod past the plugin: started in {:?}, enforced {:?} after",
            started - start,
            started.elapsed()
        );
        assert_eq!(found_by("new"), "cache");
        assert_eq!(status()["interfaces"]["identified"], 1, "{}", status());

        // An interface of nobody.
        let nobody = stranger("nobody", "");
        println!("a stranger was closed after {:?}", closed(nobody));
        // The bandwidth plugin may still be to come: what closes must leave it its place.
        if has_tcx().unwrap() {
            tc("qdisc add dev nobody ingress");
        }
        // Far more often than anybody looks around, which is once a second.
        let all: Duration = (0..8)
            .map(|n| {
                let took = closed(stranger("brief", ""));
                ip("link del brief").unwrap();
                println!("stranger {n} was closed after {took:?}");
                took
            })
            .sum();
        assert!(all < Duration::from_secs(2), "{all:?}");
        // The pod goes, and its number becomes another's at once: its record opens nothing.
        let (interface, ifindex) = host_end("new");
        assert!(record(ifindex));
        ip(&format!("link del {interface}")).unwrap();
        stranger("heir", &format!("index {ifindex}"));
        closed(ifindex);
        until("the pod is forgotten", || !endpoints().contains_key("new"));
        closed(ifindex);

        // What stood there before is told and not touched.
        assert!(!surroundings::is_judged(&pins(), before).unwrap());
        until("strangers are told", || problems("ATT002").len() == 3);
        let told = problems("ATT002");
        for (name, what) in [
            ("before", "left alone"),
            ("nobody", "is closed"),
            ("heir", "is closed"),
        ] {
            assert!(
                told.iter()
                    .any(|text| text.starts_with(name) && text.contains(what)),
                "{told:?}"
            );
        }
        for name in ["before", "nobody", "heir"] {
            ip(&format!("link del {name}")).unwrap();
        }
        until("nothing is told any more", || problems("ATT002").is_empty());
        assert!(pod(&node, "del", "new").status.success());
    });
}

#[test]
fn what_the_kernel_could_not_tell_is_looked_up() {
    sandbox::run(|| {
        let (_node, _) = plain_node();
        let agent = unchained();
        let (interface, _) = host_end("old");
        agent.signal(Signal::SIGSTOP);
        // Far more changes than there is room for.
        ip("link add busy type bridge").unwrap();
        let changes: String = (0..20_000)
            .map(|n| format!("link set busy mtu {}\n", 1400 + n % 2))
            .collect();
        fs::write("/run/changes", changes).unwrap();
        ip("-batch /run/changes").unwrap();
        ip(&format!("link del {interface}")).unwrap();
        let nobody = stranger("nobody", "");
        agent.signal(Signal::SIGCONT);
        closed(nobody);
        until("the pod is forgotten", || endpoints().is_empty());
        assert!(status()["interfaces"]["lost"].as_u64() > Some(0), "{}", status());
    });
}

#[test]
fn pins_that_are_unmounted_come_back_and_what_is_in_their_way_is_told() {
    sandbox::run(|| {
        let (node, _) = plain_node();
        let _agent = unchained();
        let mounted = || Path::new(BPFFS).join("vethwall").exists();
        let enforcing = || endpoints().values().all(|state| state == "enforcing");
        command("umount", &[BPFFS]).unwrap();
        assert!(!mounted());
        until("the pins are back", mounted);
        until("all is as it was", enforcing);
        starts(&node, "new");
        assert!(problems("KRN011").is_empty());

        command("mount", &["-t", "bpf", "bpf", BPFFS]).unwrap();
        fs::create_dir(Path::new(BPFFS).join("theirs")).unwrap();
        until("it is told", || problems("KRN011").len() == 1);
        assert!(!mounted());
        command("umount", &[BPFFS]).unwrap();
        until("it is told no more", || problems("KRN011").is_empty());
        until("all is as it was", || {
            enforcing() && problems("ATT001").is_empty()
        });
        assert!(mounted() && endpoints().len() == 2);
    });
}

#[test]
fn a_pod_that_goes_without_a_word_leaves_nothing() {
    sandbox::run(|| {
        let (_node, _) = plain_node();
        let agent = unchained();
        let (interface, ifindex) = host_end("old");
        assert!(record(ifindex));
        let start = Instant::now();
        ip(&format!("link del {interface}")).unwrap();
        while record(ifindex)
            || attach::links(&pins())
                .unwrap()
                .iter()
                .any(|link| link.ifindex == ifindex)
        {
            assert!(start.elapsed() < Duration::from_secs(5), "{}", status());
            thread::sleep(Duration::from_millis(1));
        }
        println!("record and pins were gone after {:?}", start.elapsed());
        // The agent looks around once a second.
        assert!(
            start.elapsed() < Duration::from_millis(400),
            "{:?}",
            start.elapsed()
        );
        until("the pod is forgotten", || endpoints().is_empty());

        // With nobody there to see it.
        let (node, _) = (crate::plugin::node::Node::again(), ());
        assert!(pod(&node, "del", "old").status.success());
        starts(&node, "old");
        until("the pod is back", || {
            endpoints().get("old").is_some_and(|state| state == "enforcing")
        });
        let (interface, ifindex) = host_end("old");
        agent.terminate();
        ip(&format!("link del {interface}")).unwrap();
        assert!(record(ifindex));
        let mut kernel = Kernel::load_or_adopt(BPFFS).unwrap();
        let key = FlowKey {
            ifindex,
            ..FlowKey::default()
        };
        assert_eq!(kernel.seed(&[(key, FlowEntry::default())]).unwrap(), 1);
        let _agent = unchained();
        assert!(!record(ifindex));
        until("its connections are forgotten", || {
            kernel
                .flows()
                .unwrap()
                .iter()
                .all(|(key, _)| key.ifindex != ifindex)
        });
        until("its pins are gone", || {
            attach::links(&pins())
                .unwrap()
                .iter()
                .all(|link| link.ifindex != ifindex)
        });
    });
}

#[test]
fn a_pod_is_known_by_its_record_where_the_cache_is_missing() {
    sandbox::run(|| {
        let (node, _) = plain_node();
        let agent = unchained();
        let status = status();
        let address = status["endpoints"][0]["addresses"][0]
            .as_str()
            .unwrap()
            .to_owned();
        let text = fs::read_to_string(Path::new(MANIFESTS).join("all.yaml")).unwrap();
        let with = text.replace(
            "metadata: {name: old, namespace: shop, uid: u-old}",
            &format!("metadata: {{name: old, namespace: shop, uid: u-old}}\nspec: {{nodeName: n}}\nstatus: {{podIPs: [{{ip: {address}}}]}}"),
        );
        fs::write(Path::new(MANIFESTS).join("all.yaml"), with).unwrap();
        let (_, ifindex) = host_end("old");
        agent.terminate();
        fs::rename("/var/lib/cni/results", "/var/lib/cni/elsewhere").unwrap();
        let agent = unchained();
        assert_eq!(endpoints(), [("old".into(), "enforcing".into())].into());
        assert_eq!(found_by("old"), "record");
        assert!(record(ifindex));
        // Nor does a result that a crash has torn, of which is told where it is and what to do.
        let torn = "/var/lib/cni/results/cbr0-c-eth0";
        fs::create_dir("/var/lib/cni/results").unwrap();
        fs::write(torn, "{\"kind\":\"cniCacheV1\",\"contai").unwrap();
        until("the torn result is told", || {
            let status = crate::chain::status();
            let mut problems = status["problems"].as_array().unwrap().iter();
            problems.any(|problem| {
                let says =
                    |key: &str, what: &str| problem[key].as_str().is_some_and(|text| text.contains(what));
                problem["code"] == "CNI002" && says("message", torn) && says("hint", "start it again")
            })
        });
        assert_eq!(found_by("old"), "record");
        fs::remove_dir_all("/var/lib/cni/results").unwrap();
        // Whoever knows better is believed.
        fs::rename("/var/lib/cni/elsewhere", "/var/lib/cni/results").unwrap();
        until("the cache is read again", || found_by("old") == "cache");
        assert_eq!(endpoints(), [("old".into(), "enforcing".into())].into());
        agent.terminate();

        // Nobody has the address any more: then nobody says whose the interface is, and it is closed.
        fs::rename("/var/lib/cni/results", "/var/lib/cni/elsewhere").unwrap();
        fs::write(Path::new(MANIFESTS).join("all.yaml"), text).unwrap();
        let _agent = unchained();
        assert_eq!(endpoints(), [].into());
        assert!(!record(ifindex) && surroundings::is_judged(&pins(), ifindex).unwrap());
        fs::rename("/var/lib/cni/elsewhere", "/var/lib/cni/results").unwrap();
        let output = pod(&node, "del", "old");
        assert!(output.status.success(), "{}", crate::plugin::node::text(&output));
    });
}

#[test]
fn a_pod_that_started_without_an_agent_is_taken_over_when_there_is_one() {
    sandbox::run(|| {
        let (node, _) = plain_node();
        unchained().terminate();
        fs::copy(
            program("vethwall-cni").unwrap(),
            Path::new(BIN).join(conflist::PLUGIN),
        )
        .unwrap();
        let entry = r#"{"type":"vethwall-cni","failOpenNamespaces":["shop"]}"#;
        let list = conflist::insert(FLANNEL, entry).unwrap();
        fs::write(Path::new(CONF).join("10-flannel.conflist"), list).unwrap();
        starts(&node, "new");
        let veths = surroundings::interfaces()
            .unwrap()
            .into_iter()
            .filter(surroundings::Interface::is_veth);
        let judged = veths
            .filter(|link| surroundings::is_judged(&pins(), link.ifindex).unwrap())
            .count();
        assert_eq!(
            judged, 1,
            "the pod that ran is still enforced, the new one is open"
        );
        let _agent = unchained();
        assert_eq!(
            endpoints(),
            ["new", "old"]
                .map(|name| (name.into(), "enforcing".into()))
                .into()
        );
        assert_eq!(found_by("new"), "cache");
    });
}
