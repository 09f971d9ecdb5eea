//! One value, three places to say it, and what is said when it makes no sense.

use std::{fs, path::Path};

use clap::{Args as _, Command, FromArgMatches as _};

use super::*;

fn given(line: &[&str]) -> Given {
    let matches = Given::augment_args(Command::new("agent"))
        .try_get_matches_from([&["agent"], line].concat())
        .unwrap();
    Given::from_arg_matches(&matches).unwrap()
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    fs::write(&path, text).unwrap();
    (directory, path)
}

fn from(text: &str, line: &[&str]) -> Result<Config, String> {
    let (_directory, path) = file(text);
    let said = |error: Error| error.to_string().replace(&path.display().to_string(), "FILE");
    given(line).over(Some(&path)).map_err(said)
}

#[test]
fn the_command_line_comes_before_the_file_and_that_before_the_usual() {
    let usual = Config::default();
    assert_eq!(given(&[]).over(None).unwrap(), usual);
    for empty in ["", "{}", "# nothing\n"] {
        assert_eq!(from(empty, &[]).unwrap(), usual, "{empty:?}");
    }
    let text = "maxPods: 250\nbridge: br0\nfailOpenNamespaces: [ops, kube-system]\nhttp: ['127.0.0.1:1']\n";
    let config = from(text, &["--bridge", "br1", "--http", "[::1]:2,127.0.0.1:3"]).unwrap();
    assert_eq!((config.max_pods.get(), config.bridge.as_str()), (250, "br1"));
    assert_eq!(config.http.len(), 2, "a list replaces a list");
    assert!(
        from("startupTaint: false\n", &["--startup-taint"])
            .unwrap()
            .startup_taint
    );
    assert!(
        !from("startupTaint: true\n", &["--startup-taint=false"])
            .unwrap()
            .startup_taint
    );
    assert_eq!(config.fail_open_namespaces.len(), 2);
}

#[test]
fn the_environment_comes_between_them() {
    // Variables are a whole process's: another one of this program reads them.
    let program = std::env::current_exe().unwrap();
    let output = std::process::Command::new(program)
        .args(["--exact", "config::tests::in_an_environment", "--nocapture"])
        .env("VETHWALL_MAX_PODS", "7")
        .env("VETHWALL_FAIL_OPEN_NAMESPACES", "a,b")
        .env("VETHWALL_MODE", "audit")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("1 passed"),
        "{output:?}"
    );
}

#[test]
fn in_an_environment() {
    if std::env::var_os("VETHWALL_MAX_PODS").is_none() {
        return;
    }
    let config = from("maxPods: 5\nmode: enforce\n", &["--mode", "enforce"]).unwrap();
    assert_eq!((config.max_pods.get(), config.mode), (7, Mode::Enforce));
    assert_eq!(config.fail_open_namespaces.len(), 2);
    let error = given(&["--mode", "enforce"])
        .over(Some(Path::new("/does/not/exist")))
        .unwrap_err();
    assert!(error.to_string().contains("/does/not/exist"), "{error}");
}

#[test]
fn what_makes_no_sense_is_refused_where_it_stands() {
    for (text, line, expected) in [
        (
            "bridge: b\nmod: audit\n",
            &[][..],
            "FILE:2:6: unknown key mod (did you mean mode?)",
        ),
        (
            "colour: red\n",
            &[],
            "FILE:1:9: unknown key colour (expected one of mode, log,",
        ),
        (
            "mode: audti\n",
            &[],
            "FILE:1:7: mode: unknown variant `audti`, expected `enforce` or `audit`",
        ),
        ("maxPods: 0\n", &[], "FILE:1:10: maxPods: "),
        (
            "maxPods: many\n",
            &[],
            "FILE:1:10: maxPods: invalid type: string \"many\", expected",
        ),
        (
            "log: infoo\n",
            &[],
            "FILE:1:6: log: \"infoo\" is neither error, warn",
        ),
        ("log: INFO,a=debug\n", &[], "neither"),
        (
            "failOpenNamespaces: [kube-*]\n",
            &[],
            "patterns are not understood",
        ),
        ("failOpenNamespaces: ops\n", &[], "expected a sequence"),
        (
            "criSocket: run/x\n",
            &[],
            "neither auto, none nor an absolute path",
        ),
        ("http: [localhost]\n", &[], "FILE:1:7: http: "),
        ("mode: audit\nmode: enforce\n", &[], "FILE: "),
        ("[a]\n", &[], "FILE: "),
        ("mode: [\n", &[], "FILE: "),
        ("", &["--max-pods", "0"], "--max-pods: maxPods: "),
        (
            "",
            &["--max-pods", "many"],
            "--max-pods: maxPods: invalid type: string \"many\"",
        ),
        (
            "",
            &["--startup-taint=maybe"],
            "--startup-taint: startupTaint: invalid type: string \"maybe\"",
        ),
        ("startupTaint: yes\n", &[], "FILE:1:15: startupTaint: "),
        (
            "",
            &["--hook", "xdp"],
            "--hook: hook: unknown variant `xdp`, expected one of `best`, `tcx`, `clsact`",
        ),
        (
            "",
            &["--fail-open-namespaces", "a,,b"],
            "no namespace has a name like \"\"",
        ),
        // A value that another replaces is looked at, too.
        ("maxPods: 0\n", &["--max-pods", "9"], "FILE:1:10: maxPods: "),
    ] {
        let error = from(text, line).unwrap_err();
        assert!(error.contains(expected), "{text:?} {line:?}: {error}");
    }
}

#[test]
fn every_key_is_described_and_has_a_flag_and_a_schema() {
    let schema = schema();
    let properties = schema.get("properties").unwrap().as_object().unwrap();
    let Value::Object(usual) = serde_json::to_value(Config::default()).unwrap() else {
        panic!()
    };
    let mut command = Given::augment_args(Command::new("agent"));
    let flags = command.get_arguments().count();
    let help = command.render_help().to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for (key, property) in properties {
        assert!(property["description"].as_str().unwrap().len() > 20, "{key}");
        assert!(property.get("type").is_some(), "{key}: {property}");
        assert!(
            property.get("oneOf").is_none() && property.get("$ref").is_none(),
            "{key}: {property}"
        );
        assert_eq!(property.get("default"), usual.get(key), "{key}");
    }
    assert_eq!(properties.len(), flags);
    assert_eq!(schema.get("additionalProperties"), Some(&Value::Bool(false)));
    for flag in [
        "--max-pods <PODS>",
        "--cni-conf-dir <DIR>",
        "[default: 110]",
        "[default: enforce]",
    ] {
        assert!(help.contains(flag), "{help}");
    }
    assert_eq!(
        properties["mode"]["enum"],
        serde_json::json!(["enforce", "audit"])
    );
    assert_eq!(properties["maxPods"]["minimum"], 1);
}
