//! What is heard, as steps, without an API server: `tests/tests/cluster` has one.

use std::time::{Duration, Instant};

use serde_json::{Value, json, value::RawValue};
use vethwall_policy::{
    model::{Kind, Mode, ObjectKey},
    world::World,
};

use super::{
    Heard, Resource,
    decode::{Decoded, Seen, decode, name},
    gather::{Gather, HOLD, QUIET},
};
use crate::node::{Content, Objects};

/// The object as a watch sees it.
fn seen(resource: Resource, object: &Value) -> Seen {
    let raw = RawValue::from_string(object.to_string()).unwrap();
    let (key, _) = name(resource, &raw).unwrap();
    let what = decode(resource, &key, &raw);
    Seen { key, what }
}

fn key(kind: Kind, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn pod(name: &str, app: &str) -> Seen {
    let object = json!({
        "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"app": app}},
        "spec": {"containers": [], "nodeName": "n"},
        "status": {"podIP": "10.0.0.2", "phase": "Running"},
    });
    seen(Resource::Pods, &object)
}

fn namespace(annotations: Value) -> Seen {
    seen(
        Resource::Namespaces,
        &json!({"metadata": {"name": "shop", "annotations": annotations}}),
    )
}

fn policy(name: &str, spec: Value) -> Seen {
    let object = json!({
        "metadata": {"name": name, "namespace": "shop", "managedFields": [{"manager": "x"}], "newer": 1},
        "spec": spec,
        "status": {},
    });
    seen(Resource::NetworkPolicies, &object)
}

fn cluster_policy(name: &str, spec: Value) -> Seen {
    seen(
        Resource::ClusterNetworkPolicies,
        &json!({"apiVersion": "x", "metadata": {"name": name}, "spec": spec}),
    )
}

fn good() -> Value {
    json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]})
}

fn admin(priority: Value) -> Value {
    json!({"tier": "Admin", "priority": priority, "subject": {"namespaces": {}}})
}

/// What is followed, and the world that comes of it.
struct Node {
    gather: Gather,
    world: World,
    now: Instant,
    last: Objects,
}

impl Node {
    fn new() -> Self {
        Self {
            gather: Gather::default(),
            world: World::new("n"),
            now: Instant::now(),
            last: Objects::default(),
        }
    }

    /// Everything was listed; this was there.
    fn listed(seen: Vec<Seen>) -> Self {
        let mut node = Self::new();
        for resource in Resource::ALL {
            let of = seen.iter().filter(|seen| seen.key.kind == resource.kind());
            node.hear(resource, Heard::All(of.cloned().collect()));
        }
        node.step();
        assert_eq!(node.last.digest, "1", "a step was due");
        node
    }

    fn hear(&mut self, resource: Resource, heard: Heard) {
        self.gather.take(resource, heard, self.now);
    }

    fn there(&mut self, seen: Seen) {
        let resource = Resource::ALL.into_iter().find(|r| r.kind() == seen.key.kind);
        self.hear(resource.unwrap(), Heard::There(Box::new(seen)));
    }

    /// Takes the step that is due now, if one is. True where it said something new.
    fn step(&mut self) -> bool {
        if self.gather.due(self.now).is_none_or(|due| due > self.now) {
            return false;
        }
        self.last = self.gather.step();
        let Content::Changes(changes) = std::mem::take(&mut self.last.content) else {
            panic!("a cluster tells changes")
        };
        let followed = changes.into_iter().map(|change| self.world.follow(change));
        followed.fold(false, |any, new| any | new)
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn problems(&self) -> Vec<String> {
        let problems = self.last.problems.iter();
        let text =
            problems.map(|p| format!("{} {}: {}", p.code.clone().unwrap_or_default(), p.file, p.message));
        text.collect()
    }
}

#[test]
fn nothing_is_told_before_everything_was_listed_and_then_all_of_it_in_one() {
    let mut node = Node::new();
    for resource in Resource::ALL {
        node.wait(2 * HOLD);
        // A failure is no list.
        node.hear(resource, Heard::Behind { brief: false });
        node.hear(resource, Heard::Open);
        assert_eq!(node.gather.due(node.now), None, "{resource}");
        let there = if resource == Resource::Pods {
            vec![pod("web", "web")]
        } else {
            Vec::new()
        };
        node.hear(resource, Heard::All(there));
    }
    assert!(node.step());
    assert_eq!((node.world.pods().count(), node.last.digest.as_str()), (1, "1"));
    assert_eq!(node.gather.due(node.now), None, "there is nothing else");
}

#[test]
fn changes_are_told_at_once_and_together() {
    let mut node = Node::listed(vec![pod("web", "web")]);
    node.there(pod("db", "db"));
    node.there(policy("p", good()));
    assert!(node.step());
    assert_eq!((node.world.pods().count(), node.world.policies().count()), (2, 1));
    assert!(!node.step());
    node.hear(Resource::Pods, Heard::Gone(key(Kind::Pod, "shop", "db")));
    assert!(node.step());
    assert_eq!(node.world.pods().count(), 1);
}

#[test]
fn after_an_interruption_all_catch_up_in_one_step() {
    let mut node = Node::listed(vec![pod("web", "web")]);
    for resource in Resource::ALL {
        node.hear(resource, Heard::Behind { brief: true });
    }
    assert_eq!(node.gather.due(node.now), None, "nothing changed");
    node.wait(Duration::from_secs(600));
    for resource in Resource::ALL {
        assert!(!node.step(), "{resource} is behind");
        node.hear(resource, Heard::Open);
        node.there(pod(resource.name(), "late"));
        node.wait(Duration::from_millis(20));
    }
    assert!(!node.step(), "more may come at any moment");
    node.wait(QUIET);
    assert!(node.step());
    assert_eq!(node.world.pods().count(), 6);
    // As ever from here on.
    node.there(pod("db", "db"));
    assert!(node.step());
}

#[test]
fn what_is_known_does_not_wait_for_what_never_comes() {
    let mut node = Node::listed(Vec::new());
    node.hear(Resource::Nodes, Heard::Behind { brief: true });
    node.there(pod("web", "web"));
    assert!(!node.step());
    node.wait(HOLD);
    assert!(node.step(), "long enough");
    node.there(pod("db", "db"));
    node.wait(QUIET);
    assert!(node.step(), "it is not waited for again");
    // Of one that will not be back soon the others need not wait.
    let mut node = Node::listed(Vec::new());
    node.hear(Resource::ClusterNetworkPolicies, Heard::Behind { brief: false });
    node.there(pod("web", "web"));
    node.wait(QUIET);
    assert!(node.step());
}

#[test]
fn what_a_new_list_lacks_is_gone() {
    let all = || {
        vec![
            namespace(json!({})),
            pod("web", "web"),
            pod("db", "db"),
            policy("a", good()),
            policy("b", good()),
            cluster_policy("c", admin(json!(1))),
        ]
    };
    let mut node = Node::listed(all());
    let mut fresh = Node::listed(vec![pod("db", "new"), policy("b", good())]);
    assert_ne!(node.world, fresh.world);
    for resource in Resource::ALL {
        node.hear(resource, Heard::Behind { brief: true });
    }
    let of = |kind| match kind {
        Kind::Pod => vec![pod("db", "new")],
        Kind::NetworkPolicy => vec![policy("b", good())],
        Kind::Namespace | Kind::Node | Kind::ClusterNetworkPolicy => Vec::new(),
    };
    for resource in Resource::ALL {
        node.hear(resource, Heard::All(of(resource.kind())));
    }
    node.wait(QUIET);
    assert!(node.step());
    assert_eq!(node.world, fresh.world);
    // And back.
    for resource in Resource::ALL {
        let of = all().into_iter().filter(|seen| seen.key.kind == resource.kind());
        fresh.hear(resource, Heard::All(of.collect()));
    }
    assert!(fresh.step());
    assert_eq!(fresh.world, Node::listed(all()).world);
}

// Covers: SEMANTICS 18
#[test]
fn a_policy_that_is_not_understood_keeps_its_last_good_version_or_isolates() {
    let unknown = json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"fromm": []}]});
    let mut node = Node::listed(vec![policy("new", unknown.clone()), policy("known", good())]);
    let get = |node: &Node, name: &str| node.world.policies().find(|p| p.name == name).cloned();
    let closed = get(&node, "new").unwrap();
    assert_eq!((closed.ingress, closed.egress), (Some(vec![]), Some(vec![])));
    assert!(
        closed
            .pod_selector
            .matches(&[("app".into(), "web".into())].into())
    );
    assert!(
        !closed.pod_selector.matches(&[].into()),
        "no more than it selects"
    );
    let told = node.problems();
    assert!(
        told.iter().any(
            |text| text.starts_with("OBJ002 NetworkPolicy shop/new: unknown field spec.ingress[0].fromm")
        ),
        "{told:?}"
    );
    assert!(
        told.iter()
            .any(|text| text.starts_with("POL010 NetworkPolicy shop/new: ")),
        "{told:?}"
    );
    assert_eq!(node.last.policy_problems.len(), 1);

    let before = get(&node, "known");
    node.there(policy("known", unknown));
    assert!(!node.step());
    assert_eq!(get(&node, "known"), before, "the last good version");
    assert!(
        node.problems()
            .iter()
            .any(|text| text.contains("shop/known: unknown field"))
    );

    // Mended, or gone: nothing is remembered.
    node.there(policy("new", good()));
    node.hear(
        Resource::NetworkPolicies,
        Heard::Gone(key(Kind::NetworkPolicy, "shop", "known")),
    );
    assert!(node.step());
    assert_eq!(get(&node, "known"), None);
    assert!(node.problems().is_empty(), "{:?}", node.problems());
    assert_eq!(node.world, Node::listed(vec![policy("new", good())]).world);
}

// Covers: SEMANTICS 18
#[test]
fn a_cluster_policy_that_no_schema_checked_isolates_and_can_be_deleted() {
    for wrong in [
        admin(json!("high")),
        admin(json!(2000)),
        json!({"subject": {"namespaces": {}}}),
        json!("nothing"),
        Value::Null,
        json!([]),
    ] {
        let mut node = Node::listed(vec![cluster_policy("wrong", wrong.clone())]);
        let found: Vec<_> = node.world.cluster_policies().cloned().collect();
        assert_eq!(found.len(), 1, "{wrong}");
        assert!(
            !found[0].ingress.is_empty() && !found[0].egress.is_empty(),
            "it denies: {wrong}"
        );
        assert!(
            node.problems()
                .iter()
                .any(|text| text.starts_with("OBJ002 ClusterNetworkPolicy wrong: "))
        );
        node.hear(
            Resource::ClusterNetworkPolicies,
            Heard::Gone(key(Kind::ClusterNetworkPolicy, "", "wrong")),
        );
        assert!(node.step(), "{wrong}");
        assert_eq!(node.world.cluster_policies().count(), 0, "{wrong}");
        assert!(node.problems().is_empty());
    }
}

#[test]
fn the_mode_of_a_policy_follows_its_namespace() {
    let mode = |node: &Node| node.world.policies().next().unwrap().mode;
    let mut node = Node::listed(vec![policy("p", good())]);
    assert_eq!(mode(&node), None);
    node.there(namespace(json!({"vethwall.io/mode": "audit", "other": "x"})));
    assert!(node.step());
    assert_eq!(mode(&node), Some(Mode::Audit));
    node.there(namespace(json!({"vethwall.io/mode": "off"})));
    assert!(node.step());
    assert_eq!(mode(&node), Some(Mode::Enforce));
    assert!(
        node.problems()[0].starts_with("POL007 Namespace shop: "),
        "{:?}",
        node.problems()
    );
    node.hear(
        Resource::Namespaces,
        Heard::Gone(key(Kind::Namespace, "", "shop")),
    );
    assert!(node.step());
    assert!(node.problems().is_empty());
}

#[test]
fn equal_priorities_are_told_as_long_as_there_are_two() {
    let mut node = Node::listed(vec![cluster_policy("a", admin(json!(7)))]);
    assert!(node.problems().is_empty());
    node.there(cluster_policy("b", admin(json!(7))));
    assert!(node.step());
    assert!(
        node.problems().iter().any(|text| text.starts_with("POL011")),
        "{:?}",
        node.problems()
    );
    let gone = key(Kind::ClusterNetworkPolicy, "", "a");
    node.hear(Resource::ClusterNetworkPolicies, Heard::Gone(gone));
    assert!(node.step());
    assert!(node.problems().is_empty(), "{:?}", node.problems());
}

#[test]
fn a_pod_that_can_not_be_read_stays_as_it_was_known() {
    let broken = || {
        let object =
            json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"hostNetwork": "maybe"}});
        seen(Resource::Pods, &object)
    };
    assert!(matches!(broken().what, Decoded::Broken { .. }));
    let mut node = Node::listed(vec![pod("web", "web")]);
    for heard in [Heard::There(Box::new(broken())), Heard::All(vec![broken()])] {
        node.hear(Resource::Pods, heard);
        assert!(!node.step());
        assert_eq!(node.world.pods().count(), 1);
        assert!(
            node.problems()[0].starts_with("OBJ002 Pod shop/web: "),
            "{:?}",
            node.problems()
        );
    }
    node.hear(Resource::Pods, Heard::All(Vec::new()));
    assert!(node.step());
    assert_eq!(node.world.pods().count(), 0);
    assert!(node.problems().is_empty());
    // One that was never understood is nobody: its interface stays closed.
    node.there(broken());
    node.step();
    assert_eq!(node.world.pods().count(), 0);
    assert_eq!(node.problems().len(), 1);
}

#[test]
fn a_step_takes_namespaces_first_and_policies_last() {
    let mut node = Node::listed(vec![namespace(json!({})), pod("web", "web"), policy("p", good())]);
    // As the watches may tell it: the policy's first.
    node.hear(
        Resource::NetworkPolicies,
        Heard::Gone(key(Kind::NetworkPolicy, "shop", "p")),
    );
    let dying = json!({"metadata": {"name": "shop", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    node.there(seen(Resource::Namespaces, &dying));
    node.step();
    assert_eq!(
        node.world.policies().count(),
        1,
        "kept while the namespace has pods"
    );
}
