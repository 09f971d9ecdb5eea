//! Mistakes in policies, found before anybody applies them.
//!
//! ```text
//! texts ─ manifests::trees ─► Object ─┬─► World (pods, namespaces, nodes, Services of the input)
//!                                     └─► Policy (both kinds, one shape) ─ checks ─► Finding
//!       ─ manifests::load_texts ─► what can not be decoded ──────────────────────────►
//! ```
//!
//! Invariants:
//! - Pure: texts in, findings out.
//! - A check says "matches nothing" only where the input holds what it could match; what it could not look at is told.
//! - Every finding has a code of [`CODES`], and docs/lint.md has a section for it.

mod blocks;
mod cluster;
mod codes;
mod directions;
mod dns;
mod documents;
mod matches;
mod named;
mod object;
mod peers;
mod policy;
mod ports;
mod reach;
mod selector;
mod spot;
mod world;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use self::codes::{CODES, Code, Severity, code};
use self::{object::Object, policy::Policy, spot::Spot, world::World};
use crate::manifests::Texts;

/// A mistake, or what looks like one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which kind of mistake.
    pub code: &'static Code,
    /// How grave it is here.
    pub severity: Severity,
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// The object, as `NetworkPolicy shop/web`; none where that can not be read.
    pub object: Option<String>,
    /// The way to the field: `spec.ingress[0].from[1]`.
    pub field: Option<String>,
    /// What it means in effect.
    pub message: String,
    /// What to do.
    pub fix: String,
}

/// What came of a lint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was found, in order of place.
    pub findings: Vec<Finding>,
    /// Checks that had nothing to look at.
    pub skipped: Vec<Skipped>,
    /// Objects in the input.
    pub objects: usize,
    /// Policies among them.
    pub policies: usize,
    /// Findings that annotations silence.
    pub silenced: usize,
}

/// Checks that had nothing to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// What the input lacks.
    pub lacks: &'static str,
    /// The codes that need it.
    pub codes: Vec<&'static str>,
}

impl Report {
    /// How many findings are this grave.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    }
}

/// What checks look at and where they put what they find.
struct Lint<'a> {
    objects: &'a [Object<'a>],
    policies: &'a [Policy<'a>],
    world: &'a World,
    findings: Vec<Finding>,
    silenced: usize,
}

impl<'a> Lint<'a> {
    /// Notes a finding.
    fn find(
        &mut self,
        object: &Object<'_>,
        code: &'static Code,
        at: &Spot<'_>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.find_as(code.severity, object, code, at, message, fix);
    }

    /// Notes a finding that is graver or less so than its kind.
    fn find_as(
        &mut self,
        severity: Severity,
        object: &Object<'_>,
        code: &'static Code,
        at: &Spot<'_>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        if object.ignores(code.id) && documents::can_be_silenced(code) {
            self.silenced += 1;
            return;
        }
        let place = at.place();
        self.findings.push(Finding {
            code,
            severity,
            file: object.file.to_owned(),
            line: place.line,
            column: place.column,
            object: Some(object.title()),
            field: Some(at.path().to_owned()).filter(|path| !path.is_empty()),
            message: message.into(),
            fix: fix.into(),
        });
    }

    /// The NetworkPolicies.
    fn network_policies(&self) -> impl Iterator<Item = &'a Policy<'a>> + use<'a> {
        self.policies.iter().filter(|policy| policy.cluster.is_none())
    }
}

/// Whether a finding says with a code of its own what the decoder says of the same field. The decoder takes a
/// ClusterNetworkPolicy without its parts for unreadable.
fn says_more(other: &Finding, finding: &Finding) -> bool {
    let within = |field: &String| {
        other
            .field
            .as_ref()
            .is_some_and(|other| other.starts_with(field.as_str()))
    };
    finding.code == codes::DECODE
        && [codes::BAD_SELECTOR, codes::BAD_CLUSTER].contains(&other.code)
        && (&other.file, &other.object) == (&finding.file, &finding.object)
        && finding.field.as_ref().is_some_and(within)
}

/// Looks at all texts together.
pub fn run(texts: &Texts) -> Report {
    let documents = object::documents(texts);
    let objects = object::objects(&documents);
    let policies: Vec<Policy<'_>> = objects.iter().filter_map(Policy::of).collect();
    let world = World::of(&objects);
    let mut lint = Lint {
        objects: &objects,
        policies: &policies,
        world: &world,
        findings: Vec::new(),
        silenced: 0,
    };
    documents::check(&mut lint, texts);
    for policy in lint.policies {
        peers::check(&mut lint, policy);
        matches::check(&mut lint, policy);
        blocks::check(&mut lint, policy);
        ports::check(&mut lint, policy);
        named::check(&mut lint, policy);
        directions::check(&mut lint, policy);
    }
    dns::check(&mut lint);
    cluster::check(&mut lint);
    let Lint {
        mut findings,
        silenced,
        ..
    } = lint;
    findings.sort_by(|a, b| {
        let place = |one: &Finding| (one.file.clone(), one.line, one.column, one.code.id);
        place(a).cmp(&place(b))
    });
    findings.dedup();
    let said = findings.clone();
    findings.retain(|finding| !said.iter().any(|other| says_more(other, finding)));
    Report {
        findings,
        skipped: skipped(&world, &policies),
        objects: objects.len(),
        policies: policies.len(),
        silenced,
    }
}

/// The checks that had nothing to look at.
fn skipped(world: &World, policies: &[Policy<'_>]) -> Vec<Skipped> {
    if policies.is_empty() {
        return Vec::new();
    }
    let blocks = policies
        .iter()
        .flat_map(Policy::peers)
        .any(|peer| !peer.blocks.is_empty());
    let ids = |codes: &[&'static Code]| codes.iter().map(|code| code.id).collect();
    let mut skipped = Vec::new();
    if !world.has_pods() {
        skipped.push(Skipped {
            lacks: "pods",
            codes: ids(&[
                codes::NO_SUBJECT,
                codes::NO_PEER,
                codes::EMPTY_NAMESPACE,
                codes::HOST_SUBJECT,
                codes::HOST_PEER,
                codes::NO_NAMED_PORT,
                codes::OTHER_PROTOCOL,
            ]),
        });
    }
    if !world.has_namespaces {
        skipped.push(Skipped {
            lacks: "Namespaces",
            codes: ids(&[codes::NO_NAMESPACE, codes::MISSING_NAMESPACE]),
        });
    }
    let has_addresses = world.pods().any(|pod| !pod.addresses.is_empty());
    if blocks && world.pod_ranges.is_empty() && !has_addresses {
        skipped.push(Skipped {
            lacks: "Nodes with podCIDRs and pods with addresses",
            codes: ids(&[codes::POD_RANGE]),
        });
    }
    if blocks && world.cluster_ips.is_empty() {
        skipped.push(Skipped {
            lacks: "Services with addresses",
            codes: ids(&[codes::SERVICE_RANGE]),
        });
    }
    skipped
}
