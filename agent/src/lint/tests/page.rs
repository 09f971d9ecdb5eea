//! docs/lint.md says what the code does.

use super::*;

const PAGE: &str = include_str!("../../../../docs/lint.md");

/// The object that an example is part of.
fn complete(example: &str) -> String {
    if example.contains("kind:") {
        example.to_owned()
    } else if example.contains("\n  tier:") {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: web}}\n{example}"
        )
    } else {
        format!("{HEAD}{example}")
    }
}

/// The example under a mark.
fn example<'a>(section: &'a str, mark: &str) -> &'a str {
    let start = format!("```yaml\n# {mark}\n");
    let (_, rest) = section
        .split_once(&start)
        .unwrap_or_else(|| panic!("{mark}: {section}"));
    rest.split("```").next().unwrap_or_default()
}

#[test]
fn the_page_has_every_code_and_its_examples_are_true() {
    let sections: Vec<&str> = PAGE.split("\n## ").skip(1).collect();
    let titles: Vec<&str> = sections
        .iter()
        .filter_map(|section| section.lines().next())
        .collect();
    let expected: Vec<String> = CODES
        .iter()
        .map(|code| format!("{} {}", code.id, code.title))
        .collect();
    assert_eq!(titles, expected);
    for (code, section) in CODES.iter().zip(sections) {
        assert!(
            section.contains(&format!("*{}.* ", code.severity.name())),
            "{section}"
        );
        let found = |mark| {
            let text = complete(example(section, mark));
            let report = run(&texts(&[("cluster.yaml", CLUSTER), ("policy.yaml", &text)]));
            report
                .findings
                .into_iter()
                .map(|finding| (finding.code.id, finding.severity))
                .collect::<Vec<_>>()
        };
        let bad = found("bad");
        assert!(
            bad.contains(&(code.id, code.severity)),
            "{} bad: {bad:?}",
            code.id
        );
        let good = found("good");
        assert!(
            good.iter().all(|(_, severity)| *severity == Severity::Info),
            "{} good: {good:?}",
            code.id
        );
        assert!(
            good.iter().all(|(id, _)| *id != code.id),
            "{} good: {good:?}",
            code.id
        );
    }
}
