//! Answers to many probes as a table. Every width but the last column's is known from the probes, so that a row can be
//! printed as soon as it is answered.

use vethwall_common::protocol::has_ports;

use super::input::Probe;
use crate::{
    api::{
        Explanation, Mode, Verdict,
        explain::{ProbeVerdict, Side, SideReason, protocol_name},
    },
    cli::text::{self, bad, count, escape, good, paint, strong, warn},
};

/// `AUDITED` is the longest that stands under it, but for the heading.
const VERDICT: &str = "VERDICT";

/// Columns.
pub(super) struct Table {
    from: usize,
    to: usize,
    port: usize,
    expects: bool,
    begun: bool,
}

impl Table {
    pub(super) fn new(probes: &[Probe]) -> Self {
        let width = |heading: &str, cell: fn(&Probe) -> String| {
            let cells = probes.iter().map(|probe| cell(probe).chars().count());
            cells.max().unwrap_or(0).max(heading.len())
        };
        Self {
            from: width("FROM", |probe| escape(&probe.from).into_owned()),
            to: width("TO", |probe| escape(&probe.to).into_owned()),
            port: width("PORT", port),
            expects: probes.iter().any(|probe| probe.expect.is_some()),
            begun: false,
        }
    }

    /// A row; before the first one the heading.
    pub(super) fn row(
        &mut self,
        probe: &Probe,
        told: &Result<Explanation, String>,
        ok: Option<bool>,
    ) -> String {
        let (from, to, port_width) = (self.from, self.to, self.port);
        let mut out = String::new();
        if !self.begun {
            let expect = if self.expects { "  EXPECT " } else { "" };
            let heading = format!(
                "{:from$}  {:to$}  {:port_width$}  {VERDICT}{expect}  WHY",
                "FROM", "TO", "PORT"
            );
            out.push_str(&format!("{}\n", paint(heading, strong())));
            self.begun = true;
        }
        let (verdict, why) = match told {
            Ok(explanation) => (text::verdict(explanation.verdict), why(explanation)),
            Err(error) => (paint("ERROR  ", warn()), error.clone()),
        };
        // DENIED is the one that is shorter than the heading.
        let denied = matches!(told, Ok(explanation) if explanation.verdict == Verdict::Denied);
        let pad = if denied { " " } else { "" };
        let expect = match (self.expects, probe.expect) {
            (false, _) => String::new(),
            (true, None) => format!("  {:7}", "-"),
            (true, Some(expect)) => {
                let style = match ok {
                    Some(true) => good(),
                    Some(false) => bad(),
                    None => warn(),
                };
                format!("  {}", paint(format!("{:7}", expect.name()), style))
            }
        };
        out.push_str(&format!(
            "{:from$}  {:to$}  {:port_width$}  {verdict}{pad}{expect}  {}\n",
            escape(&probe.from),
            escape(&probe.to),
            port(probe),
            escape(&why),
        ));
        out
    }
}

/// `5432/TCP`, or only the protocol.
fn port(probe: &Probe) -> String {
    let name = protocol_name(probe.request.protocol);
    match probe.port.filter(|_| has_ports(probe.request.protocol)) {
        Some(port) => format!("{port}/{name}"),
        None => name,
    }
}

/// `shop/web -> shop/db 5432/TCP`.
pub(super) fn subject(probe: &Probe) -> String {
    format!("{} -> {} {}", probe.from, probe.to, port(probe))
}

/// Which side decided, and by what.
pub(super) fn why(explanation: &Explanation) -> String {
    let (egress, ingress) = (&explanation.egress, &explanation.ingress);
    let said = match explanation.verdict {
        Verdict::Denied => [egress, ingress]
            .into_iter()
            .filter(|side| side.verdict == Verdict::Denied)
            .map(reason)
            .collect::<Vec<_>>(),
        Verdict::Allowed | Verdict::Audited => [egress, ingress]
            .into_iter()
            .filter(|side| side.selected)
            .map(reason)
            .collect(),
    };
    if said.is_empty() {
        return "no policy has a say".to_owned();
    }
    said.join("; ")
}

fn reason(side: &Side) -> String {
    let direction = side.direction.name();
    let names = |mode: Option<Mode>| {
        let names = side
            .policies
            .iter()
            .filter(|answer| mode.is_none_or(|mode| answer.mode == mode));
        let names: Vec<String> = names.map(|answer| answer.policy.to_string()).collect();
        names.join(", ")
    };
    let audited = match side.verdict {
        Verdict::Audited => format!("; {} would deny it", names(Some(Mode::Audit))),
        Verdict::Allowed | Verdict::Denied => String::new(),
    };
    let said = match (&side.decided_by, side.reason) {
        (Some(by), _) => {
            let action = by
                .cluster
                .action
                .map(|action| format!(" ({})", action.name()))
                .unwrap_or_default();
            format!("rule {} of {}{action}", by.rule, by.policy)
        }
        (None, SideReason::NoRule) => format!("no rule of {} matches", names(Some(Mode::Enforce))),
        (None, SideReason::NotIsolated | SideReason::AuditOnly) => "no policy isolates it".to_owned(),
        (None, SideReason::SelfTraffic) => "a pod always reaches itself".to_owned(),
        (None, SideReason::OwnNode) => "a pod's own node always reaches it".to_owned(),
        (None, SideReason::NotAPod) => "not a pod that policy acts on".to_owned(),
        (None, SideReason::Rule | SideReason::Denied) => "a rule".to_owned(),
        (None, SideReason::UnknownPod) => "no such pod is known".to_owned(),
    };
    format!("{direction}: {said}{audited}")
}

/// How many of which kind.
#[derive(Default)]
pub(super) struct Total {
    allowed: usize,
    denied: usize,
    as_expected: usize,
    /// Not as expected.
    pub(super) different: usize,
    /// No answer.
    pub(super) undecided: usize,
}

impl Total {
    pub(super) fn add(&mut self, verdict: Option<ProbeVerdict>, ok: Option<bool>) {
        match verdict {
            Some(ProbeVerdict::Allowed) => self.allowed += 1,
            Some(ProbeVerdict::Denied) => self.denied += 1,
            None => self.undecided += 1,
        }
        match ok {
            Some(true) => self.as_expected += 1,
            Some(false) => self.different += 1,
            None => {}
        }
    }

    /// `3 probes: 1 allowed, 2 denied; 2 as expected, 1 different`.
    pub(super) fn summary(&self) -> String {
        let all = self.allowed + self.denied + self.undecided;
        let mut text = format!(
            "{}: {} allowed, {} denied",
            count(all, "probe", "probes"),
            self.allowed,
            self.denied
        );
        if self.undecided > 0 {
            text.push_str(&format!(
                ", {}",
                paint(format!("{} undecided", self.undecided), warn())
            ));
        }
        if self.as_expected + self.different > 0 {
            let different = format!("{} different", self.different);
            let style = if self.different > 0 { bad() } else { good() };
            text.push_str(&format!(
                "; {} as expected, {}",
                self.as_expected,
                paint(different, style)
            ));
        }
        text
    }
}
