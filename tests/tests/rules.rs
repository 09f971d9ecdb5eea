//! Every numbered rule of `docs/semantics.md` has a test that says so.
//!
//! ```text
//! // Covers: SEMANTICS 16, 17        a comment at a #[test], anywhere in the workspace
//! // Covers: CNP 3
//! ```
//! A rule without a test fails here, by its number; so does a citation of a rule that does not exist, and one that
//! stands at no test.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The two parts of the page, as citations name them, with their headings and how many rules they have.
const PARTS: [(&str, &str, u32); 2] = [
    ("SEMANTICS", "## NetworkPolicy", 54),
    ("CNP", "## ClusterNetworkPolicy", 8),
];

/// Rules that no test covers yet, each with the reason. A rule that has a test must not stand here.
const UNTESTED: [(&str, u32, &str); 0] = [];

/// How far a citation may stand from its `#[test]`: attributes and comments in between, or the head of the function.
const NEAR: usize = 6;

type Rule = (&'static str, u32);

#[test]
fn every_rule_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let page = fs::read_to_string(root.join("docs/semantics.md")).expect("docs/semantics.md");
    let rules = rules(&page);
    for (part, _, count) in PARTS {
        let numbers: Vec<u32> = rules
            .iter()
            .filter(|rule| rule.0 == part)
            .map(|rule| rule.1)
            .collect();
        assert_eq!(
            numbers,
            (1..=count).collect::<Vec<_>>(),
            "the page numbers the rules of {part} otherwise"
        );
    }
    let mut files = Vec::new();
    sources(root, &mut files);
    assert!(
        files.len() > 100,
        "{} sources below {}",
        files.len(),
        root.display()
    );

    let mut cited: BTreeMap<Rule, usize> = BTreeMap::new();
    let mut wrong: Vec<String> = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let place = file.strip_prefix(root).unwrap_or(file).display().to_string();
        let found = citations(&text);
        wrong.extend(
            found
                .wrong
                .iter()
                .map(|(line, what)| format!("{place}:{line}: {what}")),
        );
        for (line, rule) in found.rules {
            if rules.contains(&rule) {
                *cited.entry(rule).or_default() += 1;
            } else {
                wrong.push(format!("{place}:{line}: there is no rule {} {}", rule.0, rule.1));
            }
        }
    }
    for rule in &rules {
        let listed = UNTESTED
            .iter()
            .find(|(part, number, _)| (*part, *number) == *rule);
        match (listed, cited.get(rule)) {
            (None, None) => wrong.push(format!("{} {} has no test", rule.0, rule.1)),
            (Some(_), Some(_)) => wrong.push(format!(
                "{} {} has a test, and is listed as untested",
                rule.0, rule.1
            )),
            (None, Some(_)) | (Some(_), None) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!(
        "{} rules, {} citations; untested: {:?}",
        rules.len(),
        cited.values().sum::<usize>(),
        UNTESTED.map(|(part, number, _)| format!("{part} {number}"))
    );
}

/// The rules of the page: the numbered lines below the heading of their part.
fn rules(page: &str) -> BTreeSet<Rule> {
    let mut part = None;
    let mut rules = BTreeSet::new();
    for line in page.lines() {
        if line.starts_with("## ") {
            part = PARTS
                .iter()
                .find(|(_, heading, _)| *heading == line)
                .map(|part| part.0);
        }
        let number = line.split_once(". ").and_then(|(number, _)| number.parse().ok());
        if let (Some(part), Some(number)) = (part, number) {
            assert!(rules.insert((part, number)), "rule {part} {number} stands twice");
        }
    }
    rules
}

/// All Rust files below a directory, without what is built and what is hidden.
fn sources(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                sources(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// What a file cites, and what is wrong with how it does; with lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Citations {
    rules: Vec<(usize, Rule)>,
    wrong: Vec<(usize, String)>,
}

fn citations(text: &str) -> Citations {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut found = Citations::default();
    for (at, line) in lines.iter().enumerate() {
        let Some(list) = line.strip_prefix("// Covers:") else {
            continue;
        };
        let near = &lines[at.saturating_sub(NEAR)..lines.len().min(at + NEAR)];
        if !near.contains(&"#[test]") {
            found
                .wrong
                .push((at + 1, "a citation that stands at no test".to_owned()));
        }
        let mut words = list.split([' ', ',']).filter(|word| !word.is_empty());
        let part = words
            .next()
            .and_then(|word| PARTS.iter().find(|part| part.0 == word));
        let numbers: Result<Vec<u32>, _> = words.map(str::parse).collect();
        match (part, numbers) {
            (Some(part), Ok(numbers)) if !numbers.is_empty() => {
                found
                    .rules
                    .extend(numbers.into_iter().map(|number| (at + 1, (part.0, number))));
            }
            (Some(_) | None, Ok(_) | Err(_)) => {
                found.wrong.push((
                    at + 1,
                    format!("{line:?} is no `// Covers: SEMANTICS 1, 2` or `// Covers: CNP 3`"),
                ));
            }
        }
    }
    found
}

#[test]
fn citations_are_read_and_misprints_told() {
    let good = "    // Covers: SEMANTICS 16, 17\n    #[test]\n    fn one() {}\n";
    assert_eq!(
        citations(good),
        Citations {
            rules: vec![(1, ("SEMANTICS", 16)), (1, ("SEMANTICS", 17))],
            wrong: vec![]
        }
    );
    let inside = "#[test]\nfn one(parts in parts()) {\n    // Covers: CNP 3\n}\n";
    assert_eq!(citations(inside).rules, [(3, ("CNP", 3))]);
    for bad in ["// Covers: CNP", "// Covers: SEMANTIC 3", "// Covers: CNP three"] {
        let found = citations(&format!("{bad}\n#[test]\n"));
        assert_eq!((found.rules.len(), found.wrong.len()), (0, 1), "{bad}");
    }
    let astray = citations("// Covers: CNP 3\nfn helper() {}\n");
    assert_eq!((astray.rules.len(), astray.wrong.len()), (1, 1));
    assert_eq!(
        rules("## NetworkPolicy\n1. a\n   2. not\n## Other\n2. no\n## ClusterNetworkPolicy\n\n1. b\n"),
        BTreeSet::from([("SEMANTICS", 1), ("CNP", 1)])
    );
}
