//! A real API server, and what the agent makes of it: whatever becomes of the server or of the line to it, the world in the
//! end is that of the server's objects, and no step on the way mixes what is with what was.

mod agent;
mod broken;
mod interrupted;
mod rights;

use std::path::PathBuf;

use serde_json::{Value, json};
use vethwall::{
    api::cluster::WatchState,
    cluster::Resource,
    k8s::convert::convert,
    manifests::{Store, load_texts},
};
use vethwall_policy::world::World;
use vethwall_tests::{
    apiserver::{Admin, ApiServer, Followed, LINE, Line, objects},
    sandbox,
};

/// An API server with a few objects, somebody who follows it over a line, and the administrator.
struct Cluster {
    api: ApiServer,
    line: Line,
    admin: Admin,
}

impl Cluster {
    fn start() -> Self {
        let api = ApiServer::start().unwrap();
        let (line, admin) = (api.line().unwrap(), api.admin().unwrap());
        let cluster = Self { api, line, admin };
        for object in [
            objects::namespace("shop"),
            objects::node("n", "192.168.0.1", "10.0.0.0/24"),
            objects::pod("shop", "web", "web", "10.0.0.2"),
            objects::pod("shop", "db", "db", "10.0.0.3"),
            objects::policy("shop", "db", "db", "web"),
        ] {
            cluster.admin.apply(&object).unwrap();
        }
        cluster
    }

    /// Who follows it, with all rights, once it knows everything.
    fn followed(&self) -> Followed {
        let config = self.api.kubeconfig("line", LINE, "administrator").unwrap();
        let mut followed = Followed::start(&config).unwrap();
        followed
            .until("everything is listed", |followed| !followed.steps.is_empty())
            .unwrap();
        assert_eq!(followed.world, self.world());
        followed
    }

    /// The world that the same objects make as manifests.
    fn world(&self) -> World {
        let mut items = Vec::new();
        for (path, version, kind) in [
            ("/api/v1/namespaces", "v1", "Namespace"),
            ("/api/v1/nodes", "v1", "Node"),
            ("/api/v1/pods", "v1", "Pod"),
            (
                "/apis/networking.k8s.io/v1/networkpolicies",
                "networking.k8s.io/v1",
                "NetworkPolicy",
            ),
            (
                "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
                "policy.networking.k8s.io/v1alpha2",
                "ClusterNetworkPolicy",
            ),
        ] {
            // What is not served has no objects.
            let Ok(list) = self.admin.get(path) else { continue };
            for item in list["items"].as_array().unwrap() {
                let mut item = item.clone();
                (item["apiVersion"], item["kind"]) = (version.into(), kind.into());
                items.push(item);
            }
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        let text = serde_json::to_string_pretty(&list).unwrap();
        let texts = [(PathBuf::from("all.json"), text.into_bytes())].into();
        let mut world = World::new("n");
        world.replace(convert(&Store::default().update(&load_texts(&texts))).objects);
        world
    }

    /// Waits until what is followed is what there is.
    fn caught_up(&self, followed: &mut Followed) {
        let wanted = self.world();
        followed
            .until("the same as manifests of the same objects", |followed| {
                followed.world == wanted
            })
            .unwrap();
    }
}

fn relabel(admin: &Admin, name: &str, app: &str) {
    let patch = json!({"metadata": {"labels": {"app": app}}});
    admin
        .send(
            "PATCH",
            &format!("/api/v1/namespaces/shop/pods/{name}"),
            Some(&patch),
        )
        .unwrap();
}

#[test]
fn a_cluster_is_followed_and_means_what_manifests_of_its_objects_mean() {
    sandbox::run(|| {
        let cluster = Cluster::start();
        let Cluster { admin, .. } = &cluster;
        let mut followed = cluster.followed();
        assert_eq!(followed.steps.len(), 1, "all of it is one step");
        assert!(followed.codes().is_empty(), "{:?}", followed.codes());
        assert!(followed.all(WatchState::Current));
        assert_eq!(
            followed.watch(Resource::ClusterNetworkPolicies).state,
            WatchState::NotServed
        );

        // Objects come, change and go; each in its order.
        for app in ["one", "two", "three"] {
            relabel(admin, "web", app);
        }
        cluster.caught_up(&mut followed);
        let pod = followed.world.pod("shop", "web").unwrap();
        assert_eq!(pod.labels["app"], "three");
        admin
            .apply(&objects::policy("shop", "web", "three", "db"))
            .unwrap();
        admin.apply(&objects::namespace("other")).unwrap();
        admin
            .apply(&objects::pod("other", "web", "web", "10.0.0.9"))
            .unwrap();
        cluster.caught_up(&mut followed);
        admin.delete(&objects::pod("other", "web", "web", "")).unwrap();
        admin.delete(&objects::policy("shop", "web", "", "")).unwrap();
        cluster.caught_up(&mut followed);
        assert_eq!(
            (followed.world.pods().count(), followed.world.policies().count()),
            (2, 1)
        );

        // A pod that is made anew under its name is another one.
        let before = followed.world.pod("shop", "web").unwrap().uid.clone();
        admin.delete(&objects::pod("shop", "web", "web", "")).unwrap();
        admin
            .apply(&objects::pod("shop", "web", "web", "10.0.0.4"))
            .unwrap();
        cluster.caught_up(&mut followed);
        assert_ne!(followed.world.pod("shop", "web").unwrap().uid, before);

        // What says nothing to policy changes nothing, and is told to nobody.
        let world = followed.world.clone();
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        admin
            .send("PATCH", "/api/v1/namespaces/shop/pods/db/status", Some(&ready))
            .unwrap();
        let annotated = json!({"metadata": {"annotations": {"big": "x".repeat(200_000)}}});
        for path in [
            "/api/v1/namespaces/shop",
            "/api/v1/nodes/n",
            "/api/v1/namespaces/shop/pods/db",
        ] {
            admin.send("PATCH", path, Some(&annotated)).unwrap();
        }
        followed.for_some(std::time::Duration::from_millis(500)).unwrap();
        assert_eq!(followed.world, world);
    });
}

// Covers: SEMANTICS 38
#[test]
fn a_static_pod_is_found_by_the_hash_of_its_configuration() {
    sandbox::run(|| {
        let cluster = Cluster::start();
        let mut mirror = objects::pod("shop", "static-n", "web", "10.0.0.7");
        // What the kubelet writes to the API for a pod that it has from a file.
        mirror["metadata"]["annotations"] = json!({
            "kubernetes.io/config.mirror": "0123456789abcdef0123456789abcdef",
            "kubernetes.io/config.hash": "0123456789abcdef0123456789abcdef",
            "kubernetes.io/config.source": "file",
        });
        cluster.admin.apply(&mirror).unwrap();
        let followed = cluster.followed();
        let endpoint = |uid: &str| vethwall_policy::model::Endpoint {
            ifindex: 7,
            mac: [2; 6],
            addresses: Vec::new(),
            namespace: "shop".into(),
            pod: "static-n".into(),
            uid: uid.into(),
        };
        let found = |uid| followed.world.pod_of(&endpoint(uid)).is_some();
        assert!(found("0123456789abcdef0123456789abcdef"));
        assert!(!found("fedcba9876543210fedcba9876543210"));
    });
}

#[test]
fn many_objects_and_big_ones_are_listed_page_by_page_and_as_one_step() {
    sandbox::run(|| {
        let cluster = Cluster::start();
        for number in 0..600 {
            let name = format!("pod-{number}");
            let mut pod = objects::pod(
                "shop",
                &name,
                "many",
                &format!("10.0.{}.{}", number / 200, number % 200 + 10),
            );
            pod["metadata"]["annotations"] = json!({"note": "x".repeat(2_000)});
            cluster.admin.apply(&pod).unwrap();
        }
        // As big as etcd takes them.
        let peers: Vec<Value> = (0..12_000)
            .map(|n| json!({"ipBlock": {"cidr": format!("100.{}.{}.0/24", n / 256, n % 256)}}))
            .collect();
        let mut policy = objects::policy("shop", "big", "web", "db");
        policy["spec"]["ingress"][0]["from"] = peers.into();
        cluster.admin.apply(&policy).unwrap();
        let followed = cluster.followed();
        assert_eq!(followed.steps.len(), 1);
        assert_eq!(followed.world.pods().count(), 602);
    });
}
