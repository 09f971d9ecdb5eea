//! The API server away, slow, forgetful: what was known stays, and what came meanwhile is one step.

use std::{
    thread,
    time::{Duration, Instant},
};

use vethwall::{api::cluster::WatchState, cluster::Resource};
use vethwall_tests::{apiserver::objects, sandbox};

use super::{Cluster, relabel};

/// Three changes of three kinds; two of them delete.
fn change(cluster: &Cluster) {
    relabel(&cluster.admin, "web", "moved");
    cluster
        .admin
        .delete(&objects::policy("shop", "db", "", ""))
        .unwrap();
    cluster.admin.delete(&objects::pod("shop", "db", "", "")).unwrap();
    cluster.admin.apply(&objects::namespace("new")).unwrap();
}

#[test]
fn what_happens_while_the_line_is_cut_is_one_step_once_it_is_mended() {
    sandbox::run(|| {
        let cluster = Cluster::start();
        let mut followed = cluster.followed();
        let (before, steps) = (followed.world.clone(), followed.steps.len());
        cluster.line.cut();
        change(&cluster);
        followed
            .until("all are behind", |followed| followed.all(WatchState::Behind))
            .unwrap();
        followed.for_some(Duration::from_secs(2)).unwrap();
        assert_eq!(followed.world, before, "what was known stays");
        let codes = followed.codes();
        assert_eq!(codes.len(), 1, "{codes:?}");
        let (code, text) = &codes[0];
        assert_eq!(code, "API001");
        assert!(
            text.contains("https://127.0.0.1:7443") && text.contains("policies stay as they were known"),
            "{text}"
        );

        cluster.line.mend();
        let wanted = cluster.world();
        let took = followed
            .until("caught up", |followed| followed.world == wanted)
            .unwrap();
        println!("caught up {took:?} after the line was mended");
        assert_eq!(followed.steps.len(), steps + 1, "{:?}", followed.steps);
        assert!(followed.all(WatchState::Current) && followed.codes().is_empty());
        for resource in [Resource::Pods, Resource::NetworkPolicies] {
            assert_eq!(
                followed.watch(resource).lists,
                1,
                "the watch went on where it was"
            );
        }
    });
}

#[test]
fn what_the_api_server_has_forgotten_is_listed_again_as_one_step() {
    sandbox::run(|| {
        let mut cluster = Cluster::start();
        let mut followed = cluster.followed();
        let steps = followed.steps.len();
        cluster.line.cut();
        change(&cluster);
        // A new one knows no past: "too old resource version" (410).
        cluster.api.kill().unwrap();
        cluster.api.run().unwrap();
        cluster.admin = cluster.api.admin().unwrap();
        relabel(&cluster.admin, "web", "again");
        let wanted = cluster.world();
        cluster.line.mend();
        followed
            .until("caught up", |followed| followed.world == wanted)
            .unwrap();
        assert_eq!(followed.steps.len(), steps + 1, "{:?}", followed.steps);
        followed
            .until("current", |followed| followed.all(WatchState::Current))
            .unwrap();
        assert_eq!(followed.watch(Resource::Pods).lists, 2, "listed again");
        assert!(followed.codes().is_empty(), "{:?}", followed.codes());
    });
}

#[test]
fn an_api_server_that_is_gone_for_ten_seconds_changes_nothing() {
    sandbox::run(|| {
        let mut cluster = Cluster::start();
        let mut followed = cluster.followed();
        let (before, steps) = (followed.world.clone(), followed.steps.len());
        cluster.api.kill().unwrap();
        followed.for_some(Duration::from_secs(10)).unwrap();
        assert_eq!((&followed.world, followed.steps.len()), (&before, steps));
        assert!(followed.all(WatchState::Behind));
        let age = followed.watch(Resource::Pods).heard_seconds_ago.unwrap();
        assert!((8..=12).contains(&age), "{age}");
        assert!(
            followed.codes().iter().all(|(code, _)| code == "API001"),
            "{:?}",
            followed.codes()
        );
        cluster.api.run().unwrap();
        let up = Instant::now();
        cluster.admin = cluster.api.admin().unwrap();
        change(&cluster);
        cluster.caught_up(&mut followed);
        println!("caught up {:?} after the API server was ready", up.elapsed());
        assert!(followed.codes().is_empty(), "{:?}", followed.codes());
    });
}

#[test]
fn an_api_server_that_stands_still_is_waited_for_and_its_knowledge_ages() {
    sandbox::run(|| {
        let cluster = Cluster::start();
        let mut followed = cluster.followed();
        let before = followed.world.clone();
        cluster.api.freeze(true).unwrap();
        thread::sleep(Duration::from_secs(4));
        followed.for_some(Duration::from_millis(100)).unwrap();
        assert_eq!(followed.world, before);
        assert!(followed.watch(Resource::Pods).heard_seconds_ago.unwrap() >= 4);
        cluster.api.freeze(false).unwrap();
        change(&cluster);
        cluster.caught_up(&mut followed);
        assert!(followed.codes().is_empty());
    });
}
