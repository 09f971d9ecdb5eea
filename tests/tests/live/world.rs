//! The cluster of the traffic matrix, and the sets of policies under which every row is tried.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use k8s_openapi::api::{
    core::v1::{Pod, PodIP},
    networking::v1::NetworkPolicy,
};
use vethwall_tests::{lab::Lab, oracle};

/// Both protocols on one number, so that a row of the matrix has one port: pods serve 80, host processes 9100, Services 8080.
pub(super) const CLUSTER: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: x}
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: a, labels: {app: a}}
spec: {nodeName: left, containers: [{name: c, image: c, ports: [{containerPort: 80}, {containerPort: 80, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: b, labels: {app: b}}
spec:
  nodeName: left
  containers:
  - {name: c, image: c, ports: [{containerPort: 80, hostPort: 7070}, {containerPort: 80, hostPort: 7070, protocol: UDP}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: r, labels: {app: r}}
spec: {nodeName: right, containers: [{name: c, image: c, ports: [{containerPort: 80}, {containerPort: 80, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: h, labels: {app: h}}
spec:
  nodeName: left
  hostNetwork: true
  containers: [{name: c, image: c, ports: [{containerPort: 9100}, {containerPort: 9100, protocol: UDP}]}]
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: o, labels: {app: o}}
spec:
  nodeName: right
  hostNetwork: true
  containers: [{name: c, image: c, ports: [{containerPort: 9100}, {containerPort: 9100, protocol: UDP}]}]
---
apiVersion: v1
kind: Service
metadata: {namespace: x, name: a}
spec: {selector: {app: a}, ports: [{name: t, port: 8080, targetPort: 80}, {name: u, port: 8080, targetPort: 80, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: x, name: b}
spec:
  type: NodePort
  selector: {app: b}
  ports: [{name: t, port: 8080, targetPort: 80, nodePort: 30080}, {name: u, port: 8080, targetPort: 80, nodePort: 30080, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {namespace: x, name: local}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {app: b}
  ports: [{name: t, port: 8080, targetPort: 80, nodePort: 30090}, {name: u, port: 8080, targetPort: 80, nodePort: 30090, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {namespace: x, name: r}
spec: {selector: {app: r}, ports: [{name: t, port: 8080, targetPort: 80}, {name: u, port: 8080, targetPort: 80, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: x, name: h}
spec: {selector: {app: h}, ports: [{name: t, port: 8080, targetPort: 9100}, {name: u, port: 8080, targetPort: 9100, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: x, name: o}
spec: {selector: {app: o}, ports: [{name: t, port: 8080, targetPort: 9100}, {name: u, port: 8080, targetPort: 9100, protocol: UDP}]}
";

/// Which policies are in force, in the order of the matrix's columns: name and spec.
pub(super) const POLICIES: [(&str, &str); 7] = [
    ("none", ""),
    ("deny", "{podSelector: {}, policyTypes: [Ingress, Egress]}"),
    ("in", "{podSelector: {}, policyTypes: [Ingress]}"),
    ("out", "{podSelector: {}, policyTypes: [Egress]}"),
    // Pods, by selector and the pods' port: neither nodes nor what hides behind one.
    (
        "pods",
        "{podSelector: {}, policyTypes: [Ingress, Egress],
          ingress: [{from: [{podSelector: {}}], ports: [{port: 80}, {port: 80, protocol: UDP}]}],
          egress: [{to: [{podSelector: {}}], ports: [{port: 80}, {port: 80, protocol: UDP}]}]}",
    ),
    // Nodes, bridges, tunnels and the world, by address: no pod.
    (
        "blocks",
        "{podSelector: {}, policyTypes: [Ingress, Egress],
          ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/31}}, {ipBlock: {cidr: 10.244.1.0/31}},
              {ipBlock: {cidr: 192.168.99.0/24}}, {ipBlock: {cidr: 203.0.113.0/24}},
              {ipBlock: {cidr: 'fd00:10:244::/127'}}, {ipBlock: {cidr: 'fd00:10:244:1::/127'}},
              {ipBlock: {cidr: 'fd00:99::/64'}}, {ipBlock: {cidr: '2001:db8:113::/64'}}]}],
          egress: [{to: [{ipBlock: {cidr: 192.168.99.0/24}}, {ipBlock: {cidr: 203.0.113.0/24}},
              {ipBlock: {cidr: 'fd00:99::/64'}}, {ipBlock: {cidr: '2001:db8:113::/64'}}]}]}",
    ),
    // The Services' own addresses and ports, which are nobody's: a backend is judged, and by its own port.
    (
        "vips",
        "{podSelector: {}, policyTypes: [Egress],
          egress: [{to: [{ipBlock: {cidr: 10.96.0.0/16}}, {ipBlock: {cidr: 'fd00:10:96::/112'}}]},
                   {ports: [{port: 8080}, {port: 8080, protocol: UDP}]}]}",
    ),
];

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: x, name: matrix}}\nspec: {spec}\n"
    )
}

/// Writes the cluster with one set of policies.
pub(super) fn write(directory: &Path, spec: &str) -> Result<()> {
    fs::write(directory.join("cluster.yaml"), CLUSTER)?;
    let path = directory.join("policy.yaml");
    if spec.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        };
    }
    Ok(fs::write(path, policy(spec))?)
}

/// The cluster as the evaluator of the API's text sees it, with the addresses that the lab gave.
pub(super) fn living(lab: &Lab, spec: &str) -> Result<oracle::World> {
    let mut world = oracle::World::default();
    for document in CLUSTER.split("---\n").filter(|text| text.contains("kind: Pod\n")) {
        let mut pod: Pod = serde_saphyr::from_str(document)?;
        let name = format!("x/{}", pod.metadata.name.clone().unwrap_or_default());
        let known = lab.state.pods.get(&name).context(name)?;
        pod.status.get_or_insert_default().pod_ips = Some(
            known
                .addresses
                .iter()
                .map(|address| PodIP {
                    ip: address.to_string(),
                })
                .collect(),
        );
        world.pods.push(pod);
    }
    if !spec.is_empty() {
        let policy: NetworkPolicy = serde_saphyr::from_str(&policy(spec))?;
        world.policies.push(policy);
    }
    Ok(world)
}
