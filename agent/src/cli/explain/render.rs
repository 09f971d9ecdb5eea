//! An explanation for people: at most a screen of it unless all is asked for.
//!
//! Of the rules those are shown that had a say: the ones that match, up to the one that decided; where none did, the
//! ones that nearly did, what failed first. The others are counted.

use std::collections::BTreeSet;

use crate::{
    api::{
        Explanation, Mode, Peer,
        explain::{EntryAnswer, Party, PolicyAnswer, RuleAnswer, Side, SideReason},
    },
    cli::text::{self, bad, count, escape, faint, good, paint, strong, wrap},
};

/// So many rules that do not match are shown when no rule does.
const NEAREST: usize = 3;

/// So many entries of a list that do not match are shown.
const ENTRIES: usize = 4;

/// So many policies are listed of which no rule is shown.
const POLICIES: usize = 6;

pub(super) fn render(explanation: &Explanation, all: bool) -> String {
    let port = match explanation.port {
        Some(port) => format!(" port {port}/{}", escape(&explanation.protocol)),
        None => format!(" {}", escape(&explanation.protocol)),
    };
    let mut out = format!(
        "{} -> {}{port}  {}\n\n",
        party(&explanation.source),
        party(&explanation.destination),
        text::verdict(explanation.verdict),
    );
    let (source, destination) = (&explanation.source, &explanation.destination);
    side("EGRESS ", source, &explanation.egress, all, &mut out);
    side("INGRESS", destination, &explanation.ingress, all, &mut out);
    if !explanation.notes.is_empty() {
        out.push('\n');
    }
    for note in &explanation.notes {
        out.push_str(&wrap(&escape(note), "note: ", 6));
    }
    let fixes: Vec<&str> = [&explanation.egress, &explanation.ingress]
        .into_iter()
        .filter_map(|side| side.fix.as_deref())
        .collect();
    if !fixes.is_empty() {
        out.push('\n');
    }
    for fix in fixes {
        let line = wrap(&escape(fix), "fix: ", 5);
        out.push_str(&line.replacen("fix:", &paint("fix:", strong()), 1));
    }
    out
}

/// `shop/web`, or an address and whose it is.
fn party(party: &Party) -> String {
    let peer = escape(&party.peer.to_string()).into_owned();
    match (&party.peer, &party.owner, &party.node) {
        (Peer::Pod { .. }, _, _) => peer,
        (Peer::Address { .. }, Some(pod), _) => format!("{peer} ({})", escape(pod)),
        (Peer::Address { .. }, None, Some(node)) => format!("{peer} (node {})", escape(node)),
        (Peer::Address { .. }, None, None) => format!("{peer} (world)"),
    }
}

fn side(name: &str, party: &Party, side: &Side, all: bool, out: &mut String) {
    let who = party.owner.clone().unwrap_or_else(|| party.peer.to_string());
    let head = format!(
        "{name} of {}  {}  ",
        escape(&who),
        side.verdict.name().to_uppercase()
    );
    let line = wrap(&reason(side), &head, 8);
    // Painted after wrapping, which counts characters.
    let line = line.replacen(name, &paint(name, strong()), 1);
    let verdict = side.verdict.name().to_uppercase();
    out.push_str(&line.replacen(
        &format!("  {verdict}  "),
        &format!("  {}  ", text::verdict(side.verdict)),
        1,
    ));
    let shown = if all { every(side) } else { worth(side) };
    let mut folded = (0, 0);
    for (i, policy) in side.policies.iter().enumerate() {
        let rules: Vec<&RuleAnswer> = policy
            .rules
            .iter()
            .filter(|rule| shown.contains(&(i, rule.rule)))
            .collect();
        if !all && rules.is_empty() && (decided(side) || i >= POLICIES) {
            folded.0 += 1;
            folded.1 += policy.rules.len();
            continue;
        }
        folded.1 += policy.rules.len() - rules.len();
        answer(policy, &rules, all, out);
    }
    fold(folded, out);
}

/// `and 2 more policies, 9 more rules (--all shows them)`.
fn fold((policies, rules): (usize, usize), out: &mut String) {
    let mut more = Vec::new();
    if policies > 0 {
        more.push(count(policies, "more policy", "more policies"));
    }
    if rules > 0 {
        more.push(count(rules, "more rule", "more rules"));
    }
    if !more.is_empty() {
        let text = format!("and {} (--all shows them)", more.join(", "));
        out.push_str(&format!("  {}\n", paint(text, faint())));
    }
}

fn decided(side: &Side) -> bool {
    side.decided_by.is_some()
}

/// Policy, by its place, and rule.
type Shown = BTreeSet<(usize, usize)>;

fn every(side: &Side) -> Shown {
    let policies = side.policies.iter().enumerate();
    policies
        .flat_map(|(i, policy)| policy.rules.iter().map(move |rule| (i, rule.rule)))
        .collect()
}

/// The rules that had a say, or nearly.
fn worth(side: &Side) -> Shown {
    let matching = |(i, rule): (usize, usize)| {
        let rules = side.policies.get(i).map(|policy| &policy.rules);
        rules.is_some_and(|rules| rules.iter().any(|answer| answer.rule == rule && answer.matches))
    };
    let mut shown: Shown = every(side).into_iter().filter(|rule| matching(*rule)).collect();
    if let Some(by) = &side.decided_by {
        let place = side.policies.iter().position(|policy| policy.policy == by.policy);
        // Nobody asked the rules after it.
        shown.retain(|(i, rule)| place.is_none_or(|place| (*i, *rule) <= (place, by.rule)));
        return shown;
    }
    let mut rest: Vec<(usize, usize)> = every(side).difference(&shown).copied().collect();
    let near = |(i, number): &(usize, usize)| {
        let rule = side
            .policies
            .get(*i)
            .and_then(|policy| policy.rules.iter().find(|rule| rule.rule == *number));
        std::cmp::Reverse(rule.map_or(0, nearness))
    };
    rest.sort_by_key(near);
    shown.extend(rest.into_iter().take(NEAREST));
    shown
}

/// How much of a rule matches: who it is counts for more than the port.
fn nearness(rule: &RuleAnswer) -> usize {
    let some = |entries: &[EntryAnswer]| entries.is_empty() || entries.iter().any(|entry| entry.matches);
    2 * usize::from(some(&rule.peers)) + usize::from(some(&rule.ports))
}

fn reason(side: &Side) -> String {
    let direction = side.direction.name();
    let isolating: Vec<_> = side
        .policies
        .iter()
        .filter(|answer| answer.mode == Mode::Enforce && answer.tier.is_none())
        .collect();
    let names: Vec<_> = isolating.iter().map(|answer| answer.policy.clone()).collect();
    let rules: usize = isolating.iter().map(|answer| answer.rules.len()).sum();
    match side.reason {
        SideReason::NotAPod => "not a pod that policy acts on".to_owned(),
        SideReason::NotIsolated if side.policies.iter().any(|answer| answer.tier.is_some()) => {
            format!("no ClusterNetworkPolicy decides, no NetworkPolicy isolates it for {direction}")
        }
        SideReason::NotIsolated => format!("no policy isolates it for {direction}"),
        SideReason::AuditOnly => format!("only audited policies isolate it for {direction}"),
        SideReason::Rule | SideReason::Denied => match &side.decided_by {
            Some(by) => {
                let action = by.cluster.action.map(|action| format!(" ({})", action.name()));
                format!(
                    "by {} rule {}{}{}",
                    escape(&by.policy.to_string()),
                    by.rule,
                    called(by.name.as_deref()),
                    action.unwrap_or_default()
                )
            }
            None => "by a rule".to_owned(),
        },
        SideReason::NoRule => {
            let none = match rules {
                0 => format!("no {direction} rules"),
                1 => "the one rule does not match".to_owned(),
                n => format!("none of {n} rules matches"),
            };
            format!("isolated by {}; {none}", text::policies(&names))
        }
        SideReason::SelfTraffic => "a pod always reaches itself".to_owned(),
        SideReason::OwnNode => "a pod's own node always reaches it".to_owned(),
        SideReason::UnknownPod => "no such pod is known".to_owned(),
    }
}

/// ` "allow-dns"`.
fn called(name: Option<&str>) -> String {
    name.map(|name| format!(" \"{}\"", escape(name)))
        .unwrap_or_default()
}

fn answer(answer: &PolicyAnswer, shown: &[&RuleAnswer], all: bool, out: &mut String) {
    let rules = match (answer.rules.len(), answer.tier) {
        (0, None) => "no rules: allows nothing".to_owned(),
        (0, Some(_)) => "no rules".to_owned(),
        (n, _) => count(n, "rule", "rules"),
    };
    let rank = match (answer.tier, answer.priority) {
        (Some(tier), Some(priority)) => format!(" ({} tier, priority {priority})", tier.name()),
        (Some(tier), None) => format!(" ({} tier)", tier.name()),
        (None, _) => String::new(),
    };
    let mode = match answer.mode {
        Mode::Enforce => "",
        Mode::Audit => " (audited, not in force)",
    };
    out.push_str(&format!(
        "  {}{rank}{mode}  {}\n",
        escape(&answer.policy.to_string()),
        paint(rules, faint())
    ));
    for answer in shown {
        rule(answer, all, out);
    }
}

fn rule(answer: &RuleAnswer, all: bool, out: &mut String) {
    let RuleAnswer {
        rule,
        name,
        action,
        matches,
        failed,
        peers,
        ports,
    } = answer;
    let why = match (matches, failed, peers.is_empty() && ports.is_empty()) {
        (true, _, true) => "matches everything",
        (true, _, false) => "matches",
        (false, Some(failed), true) => failed.as_str(),
        (false, ..) => "does not match",
    };
    let action = action
        .map(|action| format!(" {}", action.name()))
        .unwrap_or_default();
    let label = format!("rule {rule}{}{action}  ", called(name.as_deref()));
    marked(*matches, &label, why, 4, out);
    let mut lists = [("peer", peers), ("port", ports)];
    // What failed comes first.
    lists.sort_by_key(|(_, entries)| entries.iter().any(|entry| entry.matches));
    for (name, entries) in lists {
        list(name, entries, all, out);
    }
}

/// Entries of a list: of one that matches only those that do.
fn list(name: &str, entries: &[EntryAnswer], all: bool, out: &mut String) {
    let hit = entries.iter().any(|entry| entry.matches);
    let shown: Vec<&EntryAnswer> = match (all, hit) {
        (true, _) => entries.iter().collect(),
        (false, true) => entries.iter().filter(|entry| entry.matches).collect(),
        (false, false) => entries.iter().take(ENTRIES).collect(),
    };
    for EntryAnswer { matches, detail } in &shown {
        marked(*matches, &format!("{name}  "), detail, 6, out);
    }
    // Of a list that matches nobody asks for the others.
    if !hit && shown.len() < entries.len() {
        let more = format!("and {} more", entries.len() - shown.len());
        out.push_str(&format!("        {}\n", paint(more, faint())));
    }
}

/// A line with ✓ or ✗ before it, wrapped.
fn marked(yes: bool, label: &str, text: &str, indent: usize, out: &mut String) {
    let (mark, style) = if yes { ("✓", good()) } else { ("✗", bad()) };
    let first = format!("{:indent$}{mark} {label}", "");
    let line = wrap(&escape(text), &first, first.chars().count());
    // Painted after wrapping, which counts characters.
    out.push_str(&line.replacen(mark, &paint(mark, style), 1));
}
