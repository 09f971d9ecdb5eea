//! What helm says when it has installed. Without a cluster it knows of no policies.

use super::with_template;

/// Helm renders NOTES only for a cluster, so they are rendered as an object's.
fn notes(arguments: &[&str]) -> String {
    let object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata:\n  notes: |\n{{ tpl (.Files.Get \"notes.txt\") . | indent 4 }}\n";
    let object: serde_json::Value = serde_saphyr::from_str(&with_template(object, arguments)).unwrap();
    object["data"]["notes"].as_str().unwrap().to_owned()
}

#[test]
fn helm_says_where_it_is_what_it_does_and_what_comes_next() {
    let usual = notes(&["--set", "platform=k3s"]);
    for part in [
        "(k3s, Kubernetes v1.33.4)",
        "There are no NetworkPolicies in this cluster yet",
        "kubectl -n kube-system exec ds/vethwall -- vethwall status",
    ] {
        assert!(usual.contains(part), "{usual}");
    }
    assert!(!usual.contains("{{") && !usual.contains("<no value>"), "{usual}");
    let audit = notes(&["--set", "config.mode=audit"]);
    assert!(audit.contains("Mode audit: nothing is denied"), "{audit}");
    // All of the configuration may be left to the agent.
    let bare = notes(&["--set", "config.mode=null,config.log=null"]);
    assert!(bare.contains("vethwall status"), "{bare}");
}
