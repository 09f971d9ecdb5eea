//! Whoever makes objects in the cluster.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Speaks JSON with the API server.
#[derive(Debug)]
pub struct Admin {
    runtime: Runtime,
    client: Shown,
}

struct Shown(Client);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Admin {
    /// As the kubeconfig says.
    pub fn new(kubeconfig: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(kubeconfig)?;
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Self {
            runtime,
            client: Shown(client),
        })
    }

    /// Sends a request; what is answered.
    pub fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String, kube::Error> {
        let kind = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .body(body)
            .map_err(kube::Error::HttpError)?;
        self.runtime.block_on(self.client.0.request_text(request))
    }

    /// What is at a path.
    pub fn text(&self, path: &str) -> Result<String> {
        Ok(self.send("GET", path, None)?)
    }

    /// The object at a path.
    pub fn get(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.text(path)?)?)
    }

    /// Makes an object, or makes the one of its name say the same. Its status, too.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let (collection, path) = paths(object)?;
        let made = match self.send("POST", &collection, Some(object)) {
            Ok(made) => made,
            Err(kube::Error::Api(status)) if status.code == 409 => self
                .send("PATCH", &path, Some(object))
                .with_context(|| path.clone())?,
            Err(error) => return Err(error).with_context(|| format!("make {path}")),
        };
        if object.get("status").is_some() && object["kind"] != "CustomResourceDefinition" {
            let made: Value = serde_json::from_str(&made)?;
            let status = json!({
                "metadata": {"resourceVersion": made["metadata"]["resourceVersion"]},
                "status": object["status"],
            });
            self.send("PATCH", &format!("{path}/status"), Some(&status))
                .with_context(|| format!("the status of {path}"))?;
        }
        Ok(())
    }

    /// Deletes an object, at once.
    pub fn delete(&self, object: &Value) -> Result<()> {
        let (_, path) = paths(object)?;
        let now = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        self.send("DELETE", &path, Some(&now))
            .with_context(|| format!("delete {path}"))?;
        Ok(())
    }

    /// A token of a service account.
    pub fn token(&self, namespace: &str, account: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let answer: Value = serde_json::from_str(&self.send("POST", &path, Some(&request))?)?;
        let token = answer["status"]["token"].as_str();
        Ok(token.context("no token")?.to_owned())
    }
}

/// Where objects of its kind are made, and where it is.
fn paths(object: &Value) -> Result<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["apiVersion"]);
    let kind = text(&object["kind"]);
    let plural = match kind.as_str() {
        "NetworkPolicy" | "ClusterNetworkPolicy" => {
            format!("{}ies", kind.to_lowercase().trim_end_matches('y'))
        }
        _ => format!("{}s", kind.to_lowercase()),
    };
    let root = if version.contains('/') { "apis" } else { "api" };
    let metadata = &object["metadata"];
    let namespaced = match kind.as_str() {
        "Pod" | "NetworkPolicy" | "ServiceAccount" | "Role" | "RoleBinding" => {
            format!("/namespaces/{}", text(&metadata["namespace"]))
        }
        "Namespace"
        | "Node"
        | "ClusterNetworkPolicy"
        | "ClusterRole"
        | "ClusterRoleBinding"
        | "CustomResourceDefinition" => String::new(),
        other => bail!("whether a {other} has a namespace is not known here"),
    };
    let collection = format!("/{root}/{version}{namespaced}/{plural}");
    let path = format!("{collection}/{}", text(&metadata["name"]));
    Ok((collection, path))
}
