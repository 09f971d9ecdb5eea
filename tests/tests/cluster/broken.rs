//! ClusterNetworkPolicies that appear later, go, say nonsense, or are of a version that nobody here knows.

use serde_json::json;
use vethwall::{api::cluster::WatchState, cluster::Resource};
use vethwall_policy::model::RuleAction;
use vethwall_tests::{
    apiserver::{Admin, objects},
    sandbox,
};

use super::Cluster;

const KIND: Resource = Resource::ClusterNetworkPolicies;

/// Installs the definition and waits until it is served.
fn define(admin: &Admin, version: &str) {
    admin.apply(&objects::definition(version)).unwrap();
    let path = format!("/apis/policy.networking.k8s.io/{version}/clusternetworkpolicies");
    let started = std::time::Instant::now();
    while admin.text(&path).is_err() {
        assert!(started.elapsed().as_secs() < 20, "the definition is not served");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn deny() -> serde_json::Value {
    json!({
        "tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
        "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
    })
}

#[test]
fn cluster_policies_are_found_when_they_are_installed_and_nonsense_isolates() {
    sandbox::run(|| {
        let cluster = Cluster::start();
        let Cluster { admin, .. } = &cluster;
        let mut followed = cluster.followed();
        assert_eq!(followed.watch(KIND).state, WatchState::NotServed);
        assert!(
            followed.codes().is_empty(),
            "that they are not served is no problem"
        );

        define(admin, "v1alpha2");
        admin.apply(&objects::cluster_policy("deny", deny())).unwrap();
        let took = followed
            .until("they are noticed", |followed| {
                followed.world.cluster_policies().count() == 1
            })
            .unwrap();
        println!("noticed after {took:?}");
        assert_eq!(followed.watch(KIND).state, WatchState::Current);

        // The schema takes anything.
        let nonsense = json!({"tier": "Admin", "priority": "high", "subject": {"namespaces": {}}});
        admin
            .apply(&objects::cluster_policy("wrong", nonsense.clone()))
            .unwrap();
        admin
            .apply(&objects::cluster_policy("empty", json!(null)))
            .unwrap();
        cluster.caught_up(&mut followed);
        let policy = |followed: &vethwall_tests::apiserver::Followed, name: &str| {
            followed
                .world
                .cluster_policies()
                .find(|policy| policy.name == name)
                .cloned()
        };
        let isolates = policy(&followed, "wrong").unwrap();
        assert!(
            isolates
                .ingress
                .iter()
                .all(|rule| rule.action == RuleAction::Deny)
        );
        let problems = &followed.last.problems;
        assert!(
            problems
                .iter()
                .any(|problem| problem.file == "ClusterNetworkPolicy wrong"
                    && problem.code.as_deref() == Some("OBJ002")
                    && problem.message.contains("priority")),
            "{problems:?}"
        );

        // A good one that becomes nonsense stays as it was; deleted, none stays.
        let before = policy(&followed, "deny");
        admin.apply(&objects::cluster_policy("deny", nonsense)).unwrap();
        followed
            .until("that is told", |followed| {
                followed
                    .last
                    .problems
                    .iter()
                    .any(|problem| problem.file == "ClusterNetworkPolicy deny")
            })
            .unwrap();
        assert_eq!(policy(&followed, "deny"), before);
        for name in ["deny", "wrong", "empty"] {
            admin.delete(&objects::cluster_policy(name, json!({}))).unwrap();
        }
        followed
            .until("they are gone", |followed| {
                followed.world.cluster_policies().count() == 0
            })
            .unwrap();
        assert!(followed.last.problems.is_empty(), "{:?}", followed.last.problems);
    });
}

#[test]
fn policies_that_go_with_their_definition_are_gone() {
    sandbox::run(|| {
        let cluster = Cluster::start();
        define(&cluster.admin, "v1alpha2");
        cluster
            .admin
            .apply(&objects::cluster_policy("deny", deny()))
            .unwrap();
        let mut followed = cluster.followed();
        assert_eq!(followed.world.cluster_policies().count(), 1);
        cluster.admin.delete(&objects::definition("v1alpha2")).unwrap();
        followed
            .until("they are gone", |followed| {
                followed.world.cluster_policies().count() == 0
            })
            .unwrap();
        followed
            .until("that is known", |followed| {
                followed.watch(KIND).state == WatchState::NotServed
            })
            .unwrap();
        assert!(followed.codes().is_empty(), "{:?}", followed.codes());
    });
}

#[test]
fn policies_of_another_version_only_are_no_absence_of_policies() {
    sandbox::run(|| {
        let cluster = Cluster::start();
        define(&cluster.admin, "v1beta9");
        let config = cluster.api.kubeconfig("direct", 6443, "administrator").unwrap();
        let mut followed = vethwall_tests::apiserver::Followed::start(&config).unwrap();
        followed
            .until("it is told", |followed| !followed.codes().is_empty())
            .unwrap();
        let codes = followed.codes();
        assert_eq!(codes[0].0, "API004");
        assert!(
            codes[0].1.contains("policy.networking.k8s.io/v1beta9"),
            "{codes:?}"
        );
        followed.for_some(std::time::Duration::from_secs(1)).unwrap();
        assert!(followed.steps.is_empty(), "nobody knows what they deny");
        assert!(followed.incomplete().unwrap().contains("clusternetworkpolicies"));
    });
}
