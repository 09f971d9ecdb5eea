//! What nodes answered, as findings: each once, with the nodes that it is about. Pure.

use std::{borrow::Cow, collections::BTreeMap};

use super::{Finding, Outcome, here::CHECKS};
use crate::fleet::NoAnswer;

/// What one node answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The node.
    pub node: String,
    /// What was found there, or why nothing is known.
    pub outcome: Result<Vec<Finding>, NoAnswer>,
}

/// The answer in a pod's log. What the program says of itself is in it too: of an image that does not know the question there is
/// nothing else.
pub fn read(log: &str, status: i32) -> Result<Vec<Finding>, NoAnswer> {
    let (answers, rest): (Vec<&str>, Vec<&str>) = log.lines().partition(|line| line.starts_with('{'));
    if answers.is_empty() {
        let why = rest.first().copied().unwrap_or("nothing");
        let why = why.strip_prefix("error: ").unwrap_or(why);
        return Err(NoAnswer(format!(
            "its pod says: {why} (exit status {status}); is the image of another version?"
        )));
    }
    let parsed: Result<Vec<Finding>, _> = answers.into_iter().map(serde_json::from_str).collect();
    parsed.map_err(|error| {
        NoAnswer(format!(
            "its answer is not understood, is the image of another version? {error}"
        ))
    })
}

/// Where it stands among the findings of nodes.
fn place(check: &str) -> usize {
    let known = CHECKS.iter().position(|known| *known == check);
    known.unwrap_or(CHECKS.len())
}

/// What to do about silence, by the kubelet's and the runtime's words for it, and ours.
fn hint(why: &str) -> Option<&'static str> {
    if why.contains("hostPath type check") {
        return Some("nodes that keep their network lists elsewhere, as MicroK8s does, can not be looked at");
    }
    if why.contains("violates PodSecurity") {
        return Some(
            "name a namespace whose pods may use their node's network and directories with: --agent-namespace NS",
        );
    }
    why.to_lowercase()
        .contains("image")
        .then_some("name an image that these nodes have or can pull with: --probe-image IMAGE")
}

/// The findings of all nodes. What holds on all of them names none if it is well.
pub fn merge(answers: Vec<Answer>) -> Vec<Finding> {
    let all = answers.len();
    let mut told: BTreeMap<_, Vec<String>> = BTreeMap::new();
    let mut silent: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for Answer { node, outcome } in answers {
        let mut findings = match outcome {
            Ok(findings) => findings,
            Err(NoAnswer(why)) => {
                silent.entry(why).or_default().push(node);
                continue;
            }
        };
        for check in CHECKS {
            // Doubt, as when the end of an answer is missing.
            if findings.iter().all(|finding| finding.check != check) {
                findings.push(Finding::new(check, Outcome::Unknown, "its pod does not tell"));
            }
        }
        for Finding {
            check,
            outcome,
            message,
            hint,
            names: _,
        } in findings
        {
            let nodes: &mut Vec<String> = told
                .entry((place(&check), check, outcome, message, hint))
                .or_default();
            // Said twice it is no other node.
            if nodes.last() != Some(&node) {
                nodes.push(node.clone());
            }
        }
    }
    let told = told
        .into_iter()
        .map(|((_, check, outcome, message, hint), names)| {
            let everywhere = outcome == Outcome::Ok && names.len() == all;
            Finding {
                check,
                outcome,
                message: if everywhere {
                    format!("{message}, on all nodes")
                } else {
                    message
                },
                hint,
                names: if everywhere { Vec::new() } else { names },
            }
        });
    let silent = silent.into_iter().map(|(why, names)| Finding {
        check: Cow::Borrowed("node"),
        outcome: Outcome::Unknown,
        hint: hint(&why).map(str::to_owned),
        message: format!("not known: {why}"),
        names,
    });
    told.chain(silent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Vec<Finding> {
        CHECKS
            .map(|check| Finding::new(check, Outcome::Ok, format!("{check} is well")))
            .to_vec()
    }

    fn answer(node: &str, outcome: Result<Vec<Finding>, &str>) -> Answer {
        Answer {
            node: node.to_owned(),
            outcome: outcome.map_err(|why| NoAnswer(why.to_owned())),
        }
    }

    fn outcomes(findings: &[Finding]) -> Vec<(&str, Outcome, &[String])> {
        let each = findings.iter();
        each.map(|finding| (&*finding.check, finding.outcome, &finding.names[..]))
            .collect()
    }

    #[test]
    fn what_all_nodes_say_is_said_once() {
        let findings = merge(vec![answer("a", Ok(well())), answer("b", Ok(well()))]);
        let ok = CHECKS.map(|check| (check, Outcome::Ok, &[][..]));
        assert_eq!(outcomes(&findings), ok);
        assert_eq!(findings[0].message, "bpffs is well, on all nodes");
    }

    #[test]
    fn what_some_say_names_them() {
        let mut ill = well();
        ill[1] = Finding::new("bridge", Outcome::Fail, "br_netfilter is not loaded").hint("modprobe");
        let (a, b, c) = (["a".to_owned()], ["b".to_owned()], ["c".to_owned()]);
        let found = merge(vec![
            answer("a", Ok(well())),
            answer("b", Ok(ill)),
            answer("c", Err("ImagePullBackOff: no such image")),
        ]);
        let both = [a.clone(), b.clone()].concat();
        assert_eq!(
            outcomes(&found),
            [
                ("bpffs", Outcome::Ok, &both[..]),
                ("bridge", Outcome::Ok, &a),
                ("bridge", Outcome::Fail, &b),
                ("networks", Outcome::Ok, &both),
                ("node", Outcome::Unknown, &c),
            ]
        );
        assert_eq!(found[2].hint.as_deref(), Some("modprobe"));
        assert!(found[4].hint.as_ref().unwrap().contains("--probe-image"));
    }

    #[test]
    fn half_an_answer_is_doubt_about_the_rest() {
        let found = merge(vec![answer("a", Ok(well()[..1].to_vec()))]);
        let a = ["a".to_owned()];
        assert_eq!(outcomes(&found)[1], ("bridge", Outcome::Unknown, &a[..]));
        assert_eq!(found.len(), CHECKS.len());
    }

    #[test]
    fn a_log_is_an_answer_or_says_why_not() {
        let line = |finding: &Finding| serde_json::to_string(finding).unwrap() + "\n";
        let log: String = well().iter().map(line).collect();
        assert_eq!(read(&log, 0), Ok(well()));
        let old = read(
            "error: unexpected argument '--here' found\n\nUsage: vethwall\n",
            2,
        );
        let NoAnswer(why) = old.unwrap_err();
        assert!(
            why.contains("says: unexpected argument '--here' found (exit status 2)"),
            "{why}"
        );
        assert!(read("", 0).unwrap_err().0.contains("nothing"));
        assert!(read("{\"half\n", 0).unwrap_err().0.contains("not understood"));
    }
}
