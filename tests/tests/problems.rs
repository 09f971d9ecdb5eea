//! `docs/problems.md` has every code that the agent and the compiler tell, and no other.

use std::{collections::BTreeSet, fs, path::Path};

/// Where problems are made; lint has its own page.
const SOURCES: [&str; 6] = [
    "agent/src/chain",
    "agent/src/cluster",
    "agent/src/config",
    "agent/src/node",
    "agent/src/k8s",
    "policy/src",
];

fn codes(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).expect("a folder of sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !path.ends_with("tests") {
                codes(&path, found);
            }
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source");
        found.extend(text.split('"').filter(|word| is_code(word)).map(str::to_owned));
    }
}

fn is_code(word: &str) -> bool {
    let (letters, digits) = word.split_at_checked(3).unwrap_or_default();
    digits.len() == 3
        && letters.bytes().all(|byte| byte.is_ascii_uppercase())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[test]
fn every_problem_has_its_paragraph() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let mut told = BTreeSet::new();
    for source in SOURCES {
        codes(&root.join(source), &mut told);
    }
    assert!(told.len() > 20, "{told:?}");
    let page = fs::read_to_string(root.join("docs/problems.md")).expect("docs/problems.md");
    let mut explained = BTreeSet::new();
    for section in page.split("\n## ").skip(1) {
        let (heading, text) = section.split_once('\n').expect("a paragraph");
        let (code, title) = heading.split_once(' ').expect("a title");
        assert!(is_code(code) && !title.is_empty(), "{heading}");
        assert!(text.trim().len() > 20, "{code} is not explained");
        assert!(explained.insert(code.to_owned()), "{code} is there twice");
    }
    assert_eq!(told, explained);
}
