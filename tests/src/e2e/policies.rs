//! Policies, seen by the pods of [`super::pods`].

use anyhow::Result;

use super::{Story, pods::EVERYTHING};

/// Nothing comes into the pods of shop.
pub(super) fn deny_all(story: &mut Story) -> Result<()> {
    story.cluster.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress]}
",
    )?;
    for client in ["shop/client", "shop/friend", "else/client"] {
        story.expect(client, &NOTHING)?;
    }
    Ok(())
}

const NOTHING: [(&str, &str); 5] = [
    ("tcp/web-left:80", "silent"),
    ("tcp/web-right:81", "silent"),
    ("udp/web-left:53", "silent"),
    ("tcp/service/web:8080", "silent"),
    ("udp/service/dns:53", "silent"),
];

/// Friends may, to one port; on the same node, on the other, and by the Service.
pub(super) fn allow_by_label(story: &mut Story) -> Result<()> {
    story.cluster.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {role: friend}}}]
    ports: [{port: 80}]
",
    )?;
    story.expect("shop/friend", FRIENDLY)?;
    story.expect("shop/client", &NOTHING)?;
    story.expect("else/client", &NOTHING)
}

const FRIENDLY: &[(&str, &str)] = &[
    ("tcp/web-left:80", "answered"),
    ("tcp/web-right:80", "answered"),
    ("tcp/service/web:8080", "answered"),
    ("tcp/web-left:81", "silent"),
    ("tcp/service/web:8081", "silent"),
    ("udp/service/dns:53", "silent"),
];

/// A client becomes a friend and the friend a client.
pub(super) fn relabel(story: &mut Story) -> Result<()> {
    label(story, "client", "friend")?;
    label(story, "friend", "client")?;
    story.expect("shop/client", FRIENDLY)?;
    story.expect("shop/friend", &NOTHING)?;
    label(story, "client", "client")?;
    label(story, "friend", "friend")?;
    story.expect("shop/friend", FRIENDLY)?;
    story.expect("shop/client", &NOTHING)
}

fn label(story: &Story, pod: &str, role: &str) -> Result<()> {
    let label = format!("role={role}");
    story
        .cluster
        .kubectl(&["label", "--namespace", "shop", "pod", pod, &label, "--overwrite"])
        .map(drop)
}

/// What a client may send: questions to the name server, by the Service's address or the pods'.
pub(super) fn egress_to_dns(story: &mut Story) -> Result<()> {
    delete(story, "deny-all")?;
    delete(story, "friends")?;
    story.cluster.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client-out, namespace: shop}
spec:
  podSelector: {matchLabels: {role: client}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 53, protocol: UDP}]
",
    )?;
    story.expect(
        "shop/client",
        &[
            ("udp/service/dns:53", "answered"),
            ("udp/web-right:53", "answered"),
            ("tcp/web-left:80", "silent"),
            ("tcp/service/web:8080", "silent"),
        ],
    )?;
    story.expect("shop/friend", EVERYTHING)?;
    story.expect("else/client", EVERYTHING)
}

/// The rule names the pods' port; the Service has another.
pub(super) fn egress_through_service(story: &mut Story) -> Result<()> {
    story.cluster.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client-out, namespace: shop}
spec:
  podSelector: {matchLabels: {role: client}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 80}]
",
    )?;
    story.expect(
        "shop/client",
        &[
            ("tcp/service/web:8080", "answered"),
            ("tcp/web-right:80", "answered"),
            ("tcp/service/web:8081", "silent"),
            ("udp/service/dns:53", "silent"),
        ],
    )
}

/// Without policies all is open again.
pub(super) fn delete_all(story: &mut Story) -> Result<()> {
    delete(story, "client-out")?;
    for client in ["shop/client", "shop/friend", "else/client"] {
        story.expect(client, EVERYTHING)?;
    }
    Ok(())
}

fn delete(story: &Story, policy: &str) -> Result<()> {
    story
        .cluster
        .kubectl(&["delete", "networkpolicy", "--namespace", "shop", policy])
        .map(drop)
}
