//! The chart, by the real helm: what it makes on every Kubernetes that is supported, and what it refuses. Nothing is installed.
//!
//! `UPDATE=1` writes what is compared with files: `values.schema.json`, the table in docs/operations.md, and what is rendered.

mod notes;
mod objects;
mod refused;
mod rendered;
mod rules;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use vethwall_tests::chart::{self, Values, directory, root};

/// The minor versions of Kubernetes that the chart is for.
const MINORS: std::ops::RangeInclusive<u32> = 28..=36;

fn tool(path: &str) -> PathBuf {
    let path = root().join(".tools").join(path);
    assert!(
        path.exists(),
        "{} is missing: scripts/setup.sh chart",
        path.display()
    );
    path
}

fn helm(arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    Command::new(tool("cluster/helm"))
        .args(arguments)
        .env("HOME", home.path())
        .env_remove("KUBECONFIG")
        .output()
        .unwrap()
}

/// What the chart makes; all of it, hooks too.
fn template(version: &str, arguments: &[&str]) -> Result<String, String> {
    let chart = directory().display().to_string();
    let fixed = [
        "template",
        "vethwall",
        &chart,
        "--namespace",
        "kube-system",
        "--kube-version",
        version,
    ];
    let output = helm(&[&fixed, arguments].concat());
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// What a template makes that the chart does not have; it finds the notes in the file `notes.txt`.
fn with_template(text: &str, arguments: &[&str]) -> String {
    let copy = tempfile::tempdir().unwrap();
    let chart = copy.path().join("vethwall");
    let copied = Command::new("cp").arg("-r").arg(directory()).arg(&chart).status();
    assert!(copied.unwrap().success());
    fs::rename(chart.join("templates/NOTES.txt"), chart.join("notes.txt")).unwrap();
    fs::write(chart.join("templates/more.yaml"), text).unwrap();
    let at = chart.display().to_string();
    let fixed = [
        "template",
        "vethwall",
        &at,
        "-n",
        "kube-system",
        "--show-only",
        "templates/more.yaml",
        "--kube-version",
        "1.33.4",
    ];
    let output = helm(&[&fixed, arguments].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Compares with a file, or writes it.
fn same_as(path: &Path, text: &str) {
    if env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        return;
    }
    let held = fs::read_to_string(path).unwrap_or_default();
    assert!(
        held == text,
        "{} is not what is made now; look at what changed with: UPDATE=1 cargo test -p vethwall-tests chart:: && git diff\n{}",
        path.display(),
        first_difference(&held, text)
    );
}

fn first_difference(held: &str, text: &str) -> String {
    let mut lines = held.lines().zip(text.lines()).zip(1..);
    lines.find(|((a, b), _)| a != b).map_or_else(
        || "one ends before the other".to_owned(),
        |((a, b), line)| format!("line {line}\n- {a}\n+ {b}"),
    )
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    let chart = directory().display().to_string();
    let output = helm(&["lint", "--strict", &chart]);
    assert!(output.status.success(), "{output:?}");
    let archive = tempfile::tempdir().unwrap();
    let to = archive.path().display().to_string();
    let output = helm(&["package", &chart, "--destination", &to]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_chart_has_the_workspaces_version() {
    let text = fs::read_to_string(directory().join("Chart.yaml")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(text.contains(&format!("\nversion: {version}\n")), "{text}");
    assert!(text.contains(&format!("\nappVersion: {version}\n")), "{text}");
}

#[test]
fn the_schema_is_made_from_the_types() {
    same_as(
        &directory().join("values.schema.json"),
        &chart::schema_text().unwrap(),
    );
}

#[test]
fn values_have_a_type_a_sentence_and_stay_few() {
    let text = fs::read_to_string(directory().join("values.yaml")).unwrap();
    serde_saphyr::from_str::<Values>(&text).expect("values.yaml is of the type");
    let leaves = chart::leaves().unwrap();
    for leaf in &leaves {
        assert!(leaf.description.len() > 15, "{leaf:?}");
        assert!(leaf.description.ends_with('.'), "{leaf:?}");
    }
    assert!(leaves.len() <= 45, "{} values", leaves.len());
}

#[test]
fn the_table_of_values_is_made_from_the_types() {
    let path = root().join("docs/operations.md");
    let page = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- values -->\n", "<!-- /values -->\n");
    let (before, rest) = page.split_once(begin).expect("where the table begins");
    let (_, after) = rest.split_once(end).expect("where the table ends");
    same_as(
        &path,
        &format!("{before}{begin}{}{end}{after}", chart::table().unwrap()),
    );
}
