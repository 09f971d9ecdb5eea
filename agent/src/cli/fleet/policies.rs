//! `vethwall policy list`: policies, and how many pods each selects, on this node or on all.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde::Serialize;

use super::{Where, endpoints::statuses, tell_silent};
use crate::{
    api::{API_VERSION, Mode, Status},
    cli::{
        Exit, Failure, Global, Output, Streams,
        text::{self, escape, json_line, wrap},
    },
};

#[derive(Debug, Args)]
#[command(after_help = "\
A ClusterNetworkPolicy has no namespace. PODS are those that it selects, of this node or of all.

Exit status: 0 no policy has a problem, 1 some have, 3 an agent does not answer.

Examples:
  vethwall policy list
  kubectl vethwall policy list -n shop -o json")]
pub(crate) struct ListArgs {
    /// Only policies of this namespace.
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    #[command(flatten)]
    place: Where,
}

/// A policy, over nodes.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    api_version: &'static str,
    namespace: String,
    name: String,
    mode: Mode,
    /// Pods.
    selects: usize,
    /// Nodes that know it.
    nodes: usize,
    problems: BTreeSet<String>,
}

pub(crate) fn run(args: &ListArgs, global: &Global, streams: &mut Streams<'_>) -> Result<Exit, Failure> {
    let nodes = statuses(&args.place, global, streams)?;
    let mut policies = gather(nodes.iter().filter_map(|node| node.outcome.as_ref().ok()));
    policies.retain(|policy| {
        args.namespace
            .as_ref()
            .is_none_or(|wanted| policy.namespace == *wanted)
    });
    let text = match global.output {
        Output::Json => policies.iter().map(json_line).collect::<Result<String, _>>()?,
        Output::Table => render(&policies),
    };
    streams.out.write_all(text.as_bytes())?;
    let sound = policies.iter().all(|policy| policy.problems.is_empty());
    Ok(match (tell_silent(&nodes, streams)?, sound) {
        (true, _) => Exit::Undecided,
        (false, true) => Exit::Yes,
        (false, false) => Exit::No,
    })
}

fn gather<'s>(statuses: impl Iterator<Item = &'s Status>) -> Vec<Policy> {
    let mut all: BTreeMap<(&str, &str), Policy> = BTreeMap::new();
    for policy in statuses.flat_map(|status| &status.policies) {
        let known = all
            .entry((&policy.namespace, &policy.name))
            .or_insert_with(|| Policy {
                api_version: API_VERSION,
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
                mode: policy.mode,
                selects: 0,
                nodes: 0,
                problems: BTreeSet::new(),
            });
        known.selects += policy.selects;
        known.nodes += 1;
        known.problems.extend(policy.problems.iter().cloned());
    }
    all.into_values().collect()
}

fn render(policies: &[Policy]) -> String {
    if policies.is_empty() {
        return "No policies: everything is allowed.\n".to_owned();
    }
    let shown = |policy: &Policy| match policy.namespace.as_str() {
        "" => escape(&policy.name).into_owned(),
        namespace => escape(&format!("{namespace}/{}", policy.name)).into_owned(),
    };
    let rows = policies.iter().map(|policy| {
        let problems = match policy.problems.len() {
            0 => String::new(),
            n => text::count(n, "PROBLEM", "PROBLEMS"),
        };
        vec![
            shown(policy),
            policy.mode.name().to_owned(),
            policy.selects.to_string(),
            problems,
        ]
    });
    let mut out = text::table(&["POLICY", "MODE", "PODS", ""], rows);
    for policy in policies {
        for problem in &policy.problems {
            out.push_str(&wrap(&escape(problem), &format!("  {}  ", shown(policy)), 4));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status;

    fn status(selects: usize, problems: &[&str]) -> Status {
        let mut status = Status::new();
        status.policies = vec![status::Policy {
            namespace: "shop".to_owned(),
            name: "db".to_owned(),
            mode: Mode::Enforce,
            selects,
            problems: problems.iter().map(|problem| (*problem).to_owned()).collect(),
        }];
        status
    }

    #[test]
    fn a_policy_is_one_on_all_nodes() {
        let all = [status(2, &["odd"]), status(3, &["odd"])];
        let policies = gather(all.iter());
        assert_eq!(policies.len(), 1);
        assert_eq!((policies[0].selects, policies[0].nodes), (5, 2));
        let text = render(&policies);
        assert!(
            text.contains("shop/db") && text.matches("odd").count() == 1,
            "{text}"
        );
    }
}
