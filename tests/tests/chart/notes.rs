//! What helm says when it has installed. Without a cluster it knows of no policies.

use std::{fs, process::Command};

use super::{directory, helm};

/// Helm renders NOTES only for a cluster; a copy of the chart has them as a template of an object.
fn notes(arguments: &[&str]) -> String {
    let copy = tempfile::tempdir().unwrap();
    let chart = copy.path().join("vethwall");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(directory())
        .arg(&chart)
        .status()
        .unwrap();
    assert!(copied.success());
    fs::rename(chart.join("templates/NOTES.txt"), chart.join("notes.txt")).unwrap();
    let object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata:\n  notes: |\n{{ tpl (.Files.Get \"notes.txt\") . | indent 4 }}\n";
    fs::write(chart.join("templates/notes.yaml"), object).unwrap();
    let at = chart.display().to_string();
    let fixed = [
        "template",
        "vethwall",
        &at,
        "-n",
        "kube-system",
        "--show-only",
        "templates/notes.yaml",
    ];
    let output = helm(&[&fixed, arguments].concat());
    assert!(output.status.success(), "{output:?}");
    let object: serde_json::Value =
        serde_saphyr::from_str(&String::from_utf8(output.stdout).unwrap()).unwrap();
    object["data"]["notes"].as_str().unwrap().to_owned()
}

#[test]
fn helm_says_where_it_is_what_it_does_and_what_comes_next() {
    let usual = notes(&["--kube-version", "1.33.4+k3s1"]);
    for part in [
        "(k3s, Kubernetes v1.33.4+k3s1)",
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
