//! Manifests in, model out: each test reads as one point of SEMANTICS.

mod cidr;
mod cluster;
mod cluster_rules;
mod objects;
mod policy;
mod selectors;

use std::path::PathBuf;

use vethwall_policy::model::{Peer, Peers, PortMatch, Ports, Rule};

use super::*;
use crate::manifests::{Store, load_texts};

/// The objects of a text, and the codes and messages of its problems.
fn read(text: &str) -> (Vec<Object>, Vec<(&'static str, String)>) {
    let texts = [(PathBuf::from("f.yaml"), text.as_bytes().to_vec())].into();
    let loaded = load_texts(&texts);
    let converted = convert(&Store::default().update(&loaded));
    let problems = converted
        .problems
        .into_iter()
        .map(|problem| (problem.code, problem.message));
    (converted.objects, problems.collect())
}

fn policy_text(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: n}}\nspec: {spec}\n"
    )
}

/// The policy with this spec, and the codes of its problems.
fn policy(spec: &str) -> (NetworkPolicy, Vec<&'static str>) {
    let (objects, problems) = read(&policy_text(spec));
    let [Object::NetworkPolicy(policy)] = objects.as_slice() else {
        panic!("{spec}: {objects:?} {problems:?}")
    };
    (
        policy.clone(),
        problems.into_iter().map(|(code, _)| code).collect(),
    )
}

fn pod_of(text: &str) -> Pod {
    let (objects, problems) = read(text);
    let [Object::Pod(pod)] = objects.as_slice() else {
        panic!("{objects:?} {problems:?}")
    };
    pod.clone()
}

/// The only peer of the only ingress rule.
fn peer(peer: &str) -> (Peer, Vec<&'static str>) {
    let (policy, problems) = policy(&format!("{{ingress: [{{from: [{peer}]}}]}}"));
    match policy.ingress.as_deref() {
        Some(
            [
                Rule {
                    peers: Peers::Some(peers),
                    ports: Ports::All,
                },
            ],
        ) if peers.len() == 1 => (peers[0].clone(), problems),
        other => panic!("{other:?}"),
    }
}

/// The only port of the only egress rule.
fn port(port: &str) -> (PortMatch, Vec<&'static str>) {
    let (policy, problems) = policy(&format!(
        "{{policyTypes: [Egress], egress: [{{ports: [{port}]}}]}}"
    ));
    match policy.egress.as_deref() {
        Some(
            [
                Rule {
                    peers: Peers::All,
                    ports: Ports::Some(ports),
                },
            ],
        ) if ports.len() == 1 => (ports[0].clone(), problems),
        other => panic!("{other:?}"),
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}
