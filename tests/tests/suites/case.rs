//! The format of a case.
//!
//! ```yaml
//! title: what it is about
//! steps:
//! - says: what happened
//!   continues: true                   together with the step before it is one part of the case
//!   gone: [NetworkPolicy x/deny]      objects that are deleted
//!   manifests: |                      objects that are made or changed; all others stay as they were
//!     ...
//!   problems: [POL001]                codes of what is wrong with any of the objects
//!   tables:                           a row for each source, a character for each destination:
//!   - |                               . arrives, X is dropped, = is the pod itself
//!     TCP 80 | x:ab y:a
//!     x/a    | =X   .
//!     ...
//!   probes:                           the same, one by one, as `vethwall-lab probe` has them
//!   - {from: x/a, to: 192.0.2.7, port: 80, protocol: TCP, expect: denied}
//! ```
//! A table must ask about every pod of the world, so that none is forgotten.

use serde::Deserialize;
use vethwall_common::protocol;

/// A case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    /// What it is about.
    pub(super) title: String,
    /// What happens, one after the other.
    pub(super) steps: Vec<Step>,
}

/// A change, and what is expected after it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    /// What happened.
    pub(super) says: String,
    /// It belongs to the step before; both together are one part of the case.
    #[serde(default)]
    pub(super) continues: bool,
    /// Objects that are deleted, as `KIND NAMESPACE/NAME` or `KIND NAME`.
    #[serde(default)]
    pub(super) gone: Vec<String>,
    /// Objects that are made or changed.
    #[serde(default)]
    pub(super) manifests: String,
    /// Codes of what is wrong with the objects.
    #[serde(default)]
    pub(super) problems: Vec<String>,
    #[serde(default)]
    tables: Vec<String>,
    #[serde(default)]
    probes: Vec<Probe>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Probe {
    from: String,
    to: String,
    #[serde(default)]
    port: u16,
    protocol: String,
    expect: Expect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Allowed,
    Denied,
}

/// May this connection be made?
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// `NAMESPACE/POD` or an address.
    pub(super) from: String,
    /// `NAMESPACE/POD` or an address.
    pub(super) to: String,
    /// IP protocol number.
    pub(super) protocol: u8,
    /// Destination port.
    pub(super) port: u16,
    /// The answer.
    pub(super) allowed: bool,
}

impl Case {
    pub(super) fn read(name: &str, text: &str) -> Self {
        let case: Self = serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!case.steps.is_empty(), "{name} has no steps");
        case
    }
}

impl Step {
    /// What is asked after this step, in a world of these pods.
    pub(super) fn questions(&self, at: &str, pods: &[String]) -> Vec<Question> {
        let tables = self.tables.iter().flat_map(|text| table(at, text, pods));
        let probes = self.probes.iter().map(|probe| Question {
            from: probe.from.clone(),
            to: probe.to.clone(),
            protocol: number(at, &probe.protocol),
            port: probe.port,
            allowed: probe.expect == Expect::Allowed,
        });
        tables.chain(probes).collect()
    }
}

fn number(at: &str, name: &str) -> u8 {
    match name {
        "TCP" => protocol::TCP,
        "UDP" => protocol::UDP,
        "SCTP" => protocol::SCTP,
        "ICMP" => protocol::ICMP,
        other => other
            .parse()
            .unwrap_or_else(|_| panic!("{at}: {other:?} is no protocol")),
    }
}

/// Reads a table; see the top of this file.
pub(super) fn table(at: &str, text: &str, pods: &[String]) -> Vec<Question> {
    let mut lines = text.lines().filter_map(|line| line.split_once('|'));
    let (asked, head) = lines.next().unwrap_or_else(|| panic!("{at}: an empty table"));
    let (protocol, port) = asked
        .trim()
        .split_once(' ')
        .unwrap_or_else(|| panic!("{at}: {asked:?}"));
    let (protocol, port) = (number(at, protocol), port.trim().parse().unwrap());
    let groups = head
        .split_whitespace()
        .map(|group| group.split_once(':').unwrap_or_else(|| panic!("{at}: {group:?}")));
    let columns: Vec<String> = groups
        .flat_map(|(namespace, names)| names.chars().map(move |name| format!("{namespace}/{name}")))
        .collect();
    assert_eq!(columns, pods, "{at}: the columns are not the world's pods");
    let (mut sources, mut questions) = (Vec::new(), Vec::new());
    for (from, cells) in lines {
        let from = from.trim().to_owned();
        let cells: Vec<char> = cells.chars().filter(|cell| !cell.is_whitespace()).collect();
        assert_eq!(cells.len(), columns.len(), "{at}: the row of {from}");
        for (to, cell) in columns.iter().zip(cells) {
            assert_eq!(cell == '=', *to == from, "{at}: {from} to {to}");
            let allowed = match cell {
                '.' | '=' => true,
                'X' => false,
                other => panic!("{at}: {from} to {to}: {other:?}"),
            };
            let to = to.clone();
            questions.push(Question {
                from: from.clone(),
                to,
                protocol,
                port,
                allowed,
            });
        }
        sources.push(from);
    }
    assert_eq!(sources, pods, "{at}: the rows are not the world's pods");
    questions
}

#[test]
fn a_table_is_read_cell_by_cell_and_is_complete() {
    let pods = ["x/a", "x/b", "y/c"].map(str::to_owned);
    let text = "UDP 53 | x:ab y:c\nx/a | =X .\nx/b | .= .\ny/c | XX =\n";
    let questions = table("here", text, &pods);
    let answers: String = questions
        .iter()
        .map(|q| if q.allowed { '.' } else { 'X' })
        .collect();
    assert_eq!(answers, ".X....XX.");
    let wanted = Question {
        from: "y/c".to_owned(),
        to: "x/b".to_owned(),
        protocol: protocol::UDP,
        port: 53,
        allowed: false,
    };
    assert_eq!(questions[7], wanted);
    for bad in [
        "UDP 53 | x:ab y:c\nx/a | =X .\nx/b | .= .\n",
        "UDP 53 | x:ab\nx/a | =X\nx/b | .=\n",
    ] {
        assert!(
            std::panic::catch_unwind(|| table("here", bad, &pods)).is_err(),
            "{bad}"
        );
    }
}
