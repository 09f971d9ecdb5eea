//! Who the agent is, and what it may: with the chart's own rules, and with each of them taken away.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use vethwall::{api::cluster::WatchState, cluster::Resource};
use vethwall_tests::{
    apiserver::{Followed, LINE, PORT, objects},
    sandbox::{self, workspace},
};

use super::{Cluster, agent::plain_node};
use crate::chain::{Agent, status, until};

const NAMESPACE: &str = "kube-system";

fn role() -> Value {
    let path = workspace().join("tests/data/cluster/clusterrole.yaml");
    serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The role's rules, one for each right.
fn rights(role: &Value) -> Vec<Value> {
    let mut rights = Vec::new();
    let list = |value: &Value| value.as_array().unwrap().clone();
    for rule in list(&role["rules"]) {
        for resource in list(&rule["resources"]) {
            for verb in list(&rule["verbs"]) {
                rights
                    .push(json!({"apiGroups": rule["apiGroups"], "resources": [resource], "verbs": [verb]}));
            }
        }
    }
    rights
}

fn set(cluster: &Cluster, rights: &[Value]) {
    let mut role = role();
    role["rules"] = rights.to_vec().into();
    cluster.admin.apply(&role).unwrap();
}

/// The agent's service account with the role, and a token of it.
fn account(cluster: &Cluster) -> String {
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "vethwall", "namespace": NAMESPACE},
    });
    cluster.admin.apply(&account).unwrap();
    cluster.admin.apply(&role()).unwrap();
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "vethwall"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "vethwall"},
        "subjects": [{"kind": "ServiceAccount", "name": "vethwall", "namespace": NAMESPACE}],
    });
    cluster.admin.apply(&binding).unwrap();
    cluster.admin.token(NAMESPACE, "vethwall").unwrap()
}

#[test]
fn each_right_of_the_role_is_needed_and_a_missing_one_is_named() {
    sandbox::run(|| {
        let cluster = Cluster::start();
        cluster.admin.apply(&objects::definition("v1alpha2")).unwrap();
        let token = account(&cluster);
        let config = cluster.api.kubeconfig("agent", PORT, &token).unwrap();
        let all = rights(&role());
        assert_eq!(all.len(), 10);

        let mut followed = Followed::start(&config).unwrap();
        followed
            .until("the role is enough", |followed| {
                followed.all(WatchState::Current)
                    && followed.watch(Resource::ClusterNetworkPolicies).state == WatchState::Current
                    && !followed.steps.is_empty()
            })
            .unwrap();
        assert_eq!(followed.steps.len(), 1);
        drop(followed);

        for right in &all {
            let others: Vec<Value> = all.iter().filter(|other| *other != right).cloned().collect();
            set(&cluster, &others);
            let mut followed = Followed::start(&config).unwrap();
            let (resource, verb) = (
                right["resources"][0].as_str().unwrap(),
                right["verbs"][0].as_str().unwrap(),
            );
            let named = format!("the agent may not {verb} {resource}");
            // The role's change takes a moment to be known, so the first attempt may still go through.
            followed
                .until(&named, |followed| {
                    let mut codes = followed.codes().into_iter();
                    codes.any(|(code, text)| code == "API002" && text.starts_with(&named))
                })
                .unwrap();
            set(&cluster, &all);
            followed
                .until("given back, it is used", |followed| followed.codes().is_empty())
                .unwrap();
        }
    });
}

/// In the agents' own namespace, where they tell each other of new pods; the chart's Role has these (tests/tests/chart).
#[test]
fn each_right_for_early_addresses_is_needed_and_a_missing_one_is_named() {
    const VERBS: [&str; 4] = ["list", "watch", "create", "update"];
    sandbox::run(|| {
        let cluster = Cluster::start();
        let token = account(&cluster);
        let config = cluster.api.kubeconfig("agent", PORT, &token).unwrap();
        let node = plain_node();
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "vethwall", "namespace": NAMESPACE},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "vethwall"},
            "subjects": [{"kind": "ServiceAccount", "name": "vethwall", "namespace": NAMESPACE}],
        });
        cluster.admin.apply(&binding).unwrap();
        let may = |verbs: &[&str]| {
            let role = json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
                "metadata": {"name": "vethwall", "namespace": NAMESPACE},
                "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}],
            });
            cluster.admin.apply(&role).unwrap();
        };
        let told = || {
            let status = status();
            let problems = status["problems"].as_array().cloned().unwrap_or_default();
            let early = problems.into_iter().find(|problem| problem["code"] == "API005");
            early.map(|problem| problem["message"].to_string())
        };
        let object = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/vethwall-early-n");
        for missing in VERBS {
            let others: Vec<&str> = VERBS.into_iter().filter(|verb| *verb != missing).collect();
            may(&others);
            if missing == "create" {
                cluster.admin.send("DELETE", &object, None).unwrap();
            }
            let agent = Agent::at_home(config.to_str().unwrap(), NAMESPACE, "off");
            let named = format!("cannot {missing} resource");
            until(&named, || told().is_some_and(|text| text.contains(&named)));
            may(&VERBS);
            until("given back, it is used", || told().is_none());
            agent.terminate();
        }
        drop(node);
    });
}

#[test]
fn a_right_that_is_lost_keeps_what_was_known_and_holds_up_nothing_else() {
    sandbox::run(|| {
        let cluster = Cluster::start();
        let token = account(&cluster);
        let config = cluster.api.kubeconfig("agent", LINE, &token).unwrap();
        let mut followed = Followed::start(&config).unwrap();
        followed
            .until("everything is listed", |followed| !followed.steps.is_empty())
            .unwrap();
        let all = rights(&role());
        let others = all
            .iter()
            .filter(|right| right["resources"][0] != "networkpolicies");
        set(&cluster, &others.cloned().collect::<Vec<_>>());
        // A watch that is open stays open; the next one is refused.
        std::thread::sleep(Duration::from_millis(500));
        cluster.line.cut();
        cluster.line.mend();
        followed
            .until("it is named", |followed| {
                followed.codes().iter().any(|(code, _)| code == "API002")
            })
            .unwrap();
        assert_eq!(followed.world.policies().count(), 1, "known policies stay");
        super::relabel(&cluster.admin, "web", "moved");
        let took = followed
            .until("pods are followed", |followed| {
                followed
                    .world
                    .pod("shop", "web")
                    .is_some_and(|pod| pod.labels["app"] == "moved")
            })
            .unwrap();
        assert!(took < Duration::from_secs(3), "{took:?}");
    });
}

#[test]
fn a_token_that_is_not_good_any_more_is_read_anew() {
    sandbox::run(|| {
        let cluster = Cluster::start();
        let token = account(&cluster);
        let config = cluster.api.kubeconfig("agent", LINE, &token).unwrap();
        let mut followed = Followed::start(&config).unwrap();
        followed
            .until("everything is listed", |followed| !followed.steps.is_empty())
            .unwrap();
        let before = followed.world.clone();
        // The account is another one under the same name: tokens of the old one are worth nothing.
        let account_path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/vethwall");
        cluster.admin.send("DELETE", &account_path, None).unwrap();
        let fresh = account(&cluster);
        followed
            .until("the old token is refused", |followed| {
                // The API server remembers for ten seconds that a token was good.
                if followed.codes().is_empty() {
                    cluster.line.cut();
                    cluster.line.mend();
                    std::thread::sleep(Duration::from_secs(2));
                }
                followed.codes().iter().any(|(code, _)| code == "API003")
            })
            .unwrap();
        assert_eq!(followed.world, before);
        super::relabel(&cluster.admin, "web", "moved");
        cluster.api.kubeconfig("agent", LINE, &fresh).unwrap();
        cluster.caught_up(&mut followed);
        assert!(followed.codes().is_empty(), "{:?}", followed.codes());
    });
}

#[test]
fn wrong_configurations_are_told_in_a_sentence_and_mended_without_a_restart() {
    sandbox::run(|| {
        let cluster = Cluster::start();
        let good = cluster.api.kubeconfig("good", PORT, "administrator").unwrap();
        let file = good.with_file_name("wrong.kubeconfig");
        let text = fs::read_to_string(&good).unwrap();
        let elsewhere = cluster
            .api
            .kubeconfig("elsewhere", 6444, "administrator")
            .unwrap();
        let stranger = good.with_file_name("stranger.crt");
        let (key, stranger_path) = (good.with_file_name("stranger.key"), stranger.to_str().unwrap());
        let words = format!(
            "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=stranger -keyout {} -out {stranger_path}",
            key.display()
        );
        sandbox::command("openssl", &words.split(' ').collect::<Vec<_>>()).unwrap();
        let distrusts = text.replace(cluster.api.certificate().to_str().unwrap(), stranger_path);
        assert_ne!(distrusts, text);
        for (wrong, code, says) in [
            (None, "API003", "wrong.kubeconfig"),
            (Some("{".to_owned()), "API003", "wrong.kubeconfig"),
            (Some(text.replace("administrator", "nobody")), "API003", "401"),
            (Some(distrusts), "API003", "certificate"),
            (Some(fs::read_to_string(elsewhere).unwrap()), "API001", "refused"),
        ] {
            match &wrong {
                Some(text) => fs::write(&file, text).unwrap(),
                None => assert!(!file.exists()),
            }
            let mut followed = Followed::start(&file).unwrap();
            followed
                .until("it is told", |followed| {
                    followed.codes().len() == 1 && followed.incomplete().is_some()
                })
                .unwrap();
            followed.for_some(Duration::from_secs(1)).unwrap();
            let codes = followed.codes();
            println!("{}: {}", codes[0].0, codes[0].1);
            assert_eq!(codes[0].0, code, "{codes:?}");
            assert!(codes[0].1.contains(says), "{codes:?}");
            assert!(followed.steps.is_empty(), "nothing is known");
            if code == "API003" {
                fs::write(&file, &text).unwrap();
                followed
                    .until("it is mended", |followed| !followed.steps.is_empty())
                    .unwrap();
                assert!(followed.codes().is_empty(), "{:?}", followed.codes());
                fs::remove_file(&file).unwrap();
            }
        }
    });
}
