//! When what is known is written, and what a failure leaves.

use vethwall_common::{
    entry::{Entry, Key},
    flow::{FlowEntry, FlowKey},
};
use vethwall_datapath::fake::Fake;
use vethwall_policy::{
    model::{Mode, NetworkPolicy, Object, Pod},
    selector::Selector,
};

use super::*;

fn pod(name: &str, address: &str) -> Object {
    Object::Pod(Pod {
        namespace: "shop".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        config_hash: None,
        host_addresses: Vec::new(),
        labels: BTreeMap::new(),
        node: Some("n".into()),
        addresses: vec![address.parse().unwrap()],
        host_network: false,
        finished: false,
        ports: Vec::new(),
    })
}

fn deny() -> Object {
    Object::NetworkPolicy(NetworkPolicy {
        namespace: "shop".into(),
        name: "deny".into(),
        pod_selector: Selector::default(),
        ingress: Some(Vec::new()),
        egress: None,
        mode: Some(Mode::Enforce),
    })
}

fn objects(digest: &str, objects: Vec<Object>) -> Objects {
    Objects {
        content: Content::All(objects),
        digest: digest.into(),
        ..Objects::default()
    }
}

fn endpoint(name: &str, ifindex: u32, address: &str) -> Endpoint {
    Endpoint {
        ifindex,
        mac: [2, 0, 0, 0, 0, 1],
        addresses: vec![address.parse().unwrap()],
        namespace: "shop".into(),
        pod: name.into(),
        uid: format!("uid-{name}"),
    }
}

fn control(maps: Fake) -> Control<Fake> {
    Control::new("n", maps, || {}).unwrap()
}

#[test]
fn nothing_is_written_before_the_objects_are_complete() {
    let mut control = control(Fake::new());
    control.attach(endpoint("web", 7, "10.0.0.2"));
    assert!(!control.sync());
    control.set_objects(Objects {
        incomplete: Some("policy.yaml".into()),
        ..objects("1", vec![pod("web", "10.0.0.2")])
    });
    assert!(!control.sync());
    assert!(control.maps().calls().is_empty());
    control.set_objects(objects("2", vec![pod("web", "10.0.0.2")]));
    assert!(control.sync());
    assert!(control.enforcing(7));
    assert_eq!(control.applied_digest(), "2");
    // From then on a file that can not be read holds up nothing else.
    control.set_objects(Objects {
        incomplete: Some("new.yaml".into()),
        ..objects("3", vec![pod("web", "10.0.0.2"), deny()])
    });
    assert!(control.sync());
    assert_eq!(control.applied_digest(), "3");
}

// Covers: SEMANTICS 30
#[test]
fn an_interface_waits_for_its_pod() {
    let mut control = control(Fake::new());
    control.set_objects(objects("1", Vec::new()));
    control.attach(endpoint("web", 7, "10.0.0.2"));
    assert!(control.sync());
    assert!(
        !control.enforcing(7),
        "no object, no record: the programs drop everything"
    );
    control.set_objects(objects("2", vec![pod("web", "10.0.0.2")]));
    assert!(control.sync());
    assert!(control.enforcing(7) && control.settled());
    control.detach(7);
    assert!(!control.settled());
    assert!(control.sync());
    assert!(!control.enforcing(7));
    assert_eq!(control.maps().get(&Key::Endpoint(7)), None);
}

#[test]
fn a_failure_is_told_and_done_again() {
    let mut control = control(Fake::new());
    control.set_objects(objects("1", vec![pod("web", "10.0.0.2")]));
    control.attach(endpoint("web", 7, "10.0.0.2"));
    assert!(control.sync());
    let open = control.observed().endpoints[&7].ingress;
    control.maps_mut().fail_on(Key::Endpoint(7));
    control.set_objects(objects("2", vec![pod("web", "10.0.0.2"), deny()]));
    assert!(!control.sync());
    assert!(!control.failures().is_empty());
    assert!(!control.enforcing(7));
    assert_eq!(control.applied_digest(), "1", "the change is not in force");
    assert_eq!(control.observed().endpoints[&7].ingress, open);
    control.maps_mut().heal();
    assert!(control.sync());
    assert!(control.enforcing(7) && control.failures().is_empty());
    assert_ne!(control.observed().endpoints[&7].ingress.slot(), open.slot());
    assert_eq!(control.applied_digest(), "2");
}

#[test]
fn a_number_that_is_given_anew_inherits_nothing() {
    let mut control = control(Fake::new());
    let flow = |ifindex| FlowKey {
        ifindex,
        ..FlowKey::default()
    };
    control.set_objects(objects("1", vec![pod("web", "10.0.0.2"), pod("db", "10.0.0.3")]));
    control.attach(endpoint("web", 7, "10.0.0.2"));
    assert!(control.in_sync().is_none(), "nothing may be swept yet");
    assert!(control.sync());
    let flows = [7, 8, 9].map(|ifindex| (flow(ifindex), FlowEntry::default()));
    assert_eq!(control.maps_mut().seed(&flows).unwrap(), 3);
    // Before anything is compiled anew: the next interface may be attached at any moment.
    control.detach(7);
    assert_eq!(control.maps().get(&Key::Endpoint(7)), None);
    control.attach(endpoint("db", 7, "10.0.0.3"));
    assert!(control.sync());
    assert!(control.enforcing(7));
    let left = |control: &Control<Fake>| {
        let flows = control.maps().flows().unwrap();
        flows.iter().map(|(key, _)| key.ifindex).collect::<Vec<_>>()
    };
    assert_eq!(left(&control), [8, 9]);
    // A record that can not be taken away is tried again, and connections go after it.
    control.maps_mut().fail_on(Key::Endpoint(7));
    control.detach(7);
    assert!(control.close(7).is_err());
    control.maps_mut().heal();
    assert!(control.sync());
    assert_eq!(control.maps().get(&Key::Endpoint(7)), None);
    let in_sync = control.in_sync().unwrap();
    assert_eq!(control.sweep_all_but(&[9].into(), in_sync).unwrap(), 1);
    assert_eq!(left(&control), [9]);
}

// Covers: SEMANTICS 43
#[test]
fn all_connections_can_be_judged_again() {
    let mut first = control(Fake::new());
    first.set_objects(objects("1", vec![pod("web", "10.0.0.2")]));
    first.attach(endpoint("web", 7, "10.0.0.2"));
    assert!(first.sync());
    let before = first.observed().endpoints[&7];
    // An agent that comes after it.
    let mut second = control(first.maps().clone());
    second.judge_again();
    second.set_objects(objects("1", vec![pod("web", "10.0.0.2")]));
    second.attach(endpoint("web", 7, "10.0.0.2"));
    assert!(second.sync());
    let after = second.observed().endpoints[&7];
    assert_eq!(
        second.maps().get(&Key::Endpoint(7)),
        Some(&Entry::Endpoint(7, after))
    );
    assert!(after.ingress.generation() > before.ingress.generation());
    assert!(after.egress.generation() > before.egress.generation());
}
