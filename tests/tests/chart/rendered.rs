//! What is made, compared with files that people can read, on every minor version.

use std::fs;

use super::{MINORS, root, same_as, template, with_template};

/// Values, the version of Kubernetes, and the file with what comes of them.
const CASES: &[(&str, &str, &str)] = &[
    ("none.yaml", "1.34.0", "none.yaml"),
    ("none.yaml", "1.29.0", "before-1.30.yaml"),
    ("k3s.yaml", "1.33.4", "k3s.yaml"),
    ("everything.yaml", "1.34.0", "everything.yaml"),
];

fn rendered(values: &str, version: &str) -> String {
    let values = root().join("tests/data/chart/cases").join(values);
    template(version, &["--values", &values.display().to_string()]).unwrap()
}

#[test]
fn what_is_made_of_values_is_what_it_was() {
    for (values, version, file) in CASES {
        let path = root().join("tests/data/chart/golden").join(file);
        same_as(&path, &rendered(values, version));
    }
}

#[test]
fn every_case_has_its_file() {
    let cases: Vec<_> = CASES.iter().map(|(_, _, file)| (*file).to_owned()).collect();
    for entry in fs::read_dir(root().join("tests/data/chart/golden")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(cases.contains(&name), "{name} belongs to no case");
    }
}

#[test]
fn every_version_of_kubernetes_gets_the_same_but_for_apparmors_field() {
    let at = |minor: u32| rendered("none.yaml", &format!("1.{minor}.0"));
    for minor in MINORS {
        let like = if minor < 30 { 29 } else { 34 };
        assert_eq!(at(minor), at(like), "1.{minor}");
    }
    let refused = template("1.27.9", &[]).unwrap_err();
    assert!(refused.contains("incompatible with Kubernetes"), "{refused}");
}

/// Without a cluster helm drops what distributions append to the version, so the version is put in.
#[test]
fn k3s_is_known_by_its_version() {
    let found = |version: &str, platform: &str| {
        let context =
            r#"(dict "Values" .Values "Capabilities" (dict "KubeVersion" (dict "Version" "VERSION")))"#;
        let template = format!(
            "platform: {{{{ include \"vethwall.platform\" {} | trim }}}}\n",
            context.replace("VERSION", version)
        );
        let text = with_template(&template, &["--set", &format!("platform={platform}")]);
        text.lines().last().unwrap().to_owned()
    };
    assert_eq!(found("v1.33.4+k3s1", "auto"), "platform: k3s");
    assert_eq!(found("v1.33.4+rke2r1", "auto"), "platform: generic");
    assert_eq!(found("v1.33.4", "auto"), "platform: generic");
    assert_eq!(found("v1.33.4+k3s1", "generic"), "platform: generic");
}

#[test]
fn the_platform_is_found_or_named() {
    let of = |version: &str, arguments: &[&str]| template(version, arguments).unwrap();
    let directory = |text: &str, directory: &str| text.contains(&format!("mountPath: {directory}}}"));
    let k3s = of("1.33.4", &["--set", "platform=k3s"]);
    assert!(directory(&k3s, "/var/lib/rancher/k3s/agent/etc/cni/net.d") && !k3s.contains("/opt/cni/bin"));
    let other = of("1.33.4", &[]);
    assert!(directory(&other, "/opt/cni/bin"));
    let snap = of("1.33.4", &["--set", "platform=microk8s"]);
    assert!(directory(&snap, "/var/snap/microk8s/current/opt/cni/bin"));
    let own = of(
        "1.33.4",
        &[
            "--set",
            "config.cniConfDir=/a,config.cniBinDir=/b,config.criSocket=/c/d.sock",
        ],
    );
    assert!(["/a", "/b"].iter().all(|at| directory(&own, at)));
    assert!(own.contains("mountPath: /c,"), "the socket's directory");
    assert!(!of("1.33.4", &["--set", "config.criSocket=none"]).contains("containerd"));
}
