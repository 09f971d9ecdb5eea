//! What the agent's container is granted suffices; what is missing is told.

use nix::sys::resource::{Resource, setrlimit};
use vethwall_common::entry::{Entry, Key};
use vethwall_datapath::{Choice, Kernel, Maps, attach};
use vethwall_tests::{
    kernel::at_least,
    sandbox::{self, confine},
    told,
};

use super::{load, pins, pod};

const GRANTED: &str = "CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON";

/// Below 5.11 maps count as locked memory, so that the container needs one more.
fn granted() -> String {
    if at_least(5, 11).unwrap() {
        GRANTED.to_owned()
    } else {
        format!("{GRANTED},CAP_SYS_RESOURCE")
    }
}

#[test]
fn what_the_chart_grants_suffices() {
    sandbox::run(|| {
        let (first, second) = (pod("a", "10.0.0.2/24"), pod("b", "10.0.0.3/24"));
        confine(&granted()).unwrap();
        told::measured("capabilities", granted());
        let kernel = load();
        for (ifindex, name) in [(first, "va"), (second, "vb")] {
            for _ in 0..2 {
                attach::attach_endpoint(kernel.pins(), ifindex, name, Choice::Best).unwrap();
            }
        }
        drop(kernel);
        let mut kernel = load();
        assert!(kernel.adopted());
        let record = vethwall_common::endpoint::EndpointRecord {
            ifindex: first,
            index: 1,
            ..Default::default()
        };
        kernel.put(&Entry::Endpoint(first, record)).unwrap();
        assert_eq!(kernel.entries().unwrap(), [Entry::Endpoint(first, record)]);
        kernel.delete(&Key::Endpoint(first)).unwrap();
        kernel.counters().unwrap();
        kernel.flows().unwrap();
        kernel.events().unwrap();
        attach::links(kernel.pins()).unwrap();
        attach::detach_endpoint(kernel.pins(), first, "va").unwrap();
        attach::collect_garbage(kernel.pins()).unwrap();
    });
}

#[test]
fn a_capability_that_is_missing_is_named() {
    let granted = granted();
    for missing in GRANTED.split(',') {
        let others: Vec<&str> = granted.split(',').filter(|held| *held != missing).collect();
        sandbox::run(|| {
            confine(&others.join(",")).unwrap();
            let text = Kernel::load_with(pins(), &super::small()).unwrap_err().chain();
            assert!(text.contains(&format!("({missing} is missing)")), "{text}");
            assert!(text.len() < 2_000, "the whole log of the verifier: {text}");
        });
    }
}

#[test]
fn a_limit_of_locked_memory_is_named_where_it_matters() {
    if at_least(5, 11).unwrap() {
        return told::skipped("maps are locked memory below Linux 5.11 only");
    }
    sandbox::run(|| {
        setrlimit(Resource::RLIMIT_MEMLOCK, 1 << 16, 1 << 16).unwrap();
        confine(GRANTED).unwrap();
        let error = Kernel::load_with(pins(), &super::small()).unwrap_err();
        assert!(error.chain().contains("CAP_SYS_RESOURCE"), "{}", error.chain());
    });
}
