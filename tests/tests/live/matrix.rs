//! The traffic matrix: every way between pods, Services, nodes and the world, in each direction that there is, under
//! policies that allow it and policies that deny it, by TCP, by UDP and by UDP in fragments.
//!
//! Over vxlan and host-gw, with tcx and clsact, in clusters of one family and of both.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use vethwall_common::protocol;
use vethwall_datapath::{Choice, Hook};
use vethwall_tests::{
    lab::{Backend, Families, Lab, Options, Outcome, Probe},
    oracle::{Packet, World},
};

use super::{up, world};

/// One row a line. `egress` is the peer on which the sending pod's egress is judged, after translation; `ingress` is
/// whose traffic the answering pod's ingress takes it for: a pod, `bridge` (masqueraded by the pod's own node), `other`
/// (the other node: its tunnel's address over vxlan, its own over host-gw), `outside`, or `own` for the pod's own node
/// and itself, about which no policy is asked. The last seven columns are the sets of policies of
/// [`world::POLICIES`]: `+` arrives, `-` is dropped.
const MATRIX: &str = "
row                                        | from       | to         |  port | answers | egress          | ingress | none deny in out pods blocks vips
pod to pod, same node                      | x/a        | x/b        |    80 | x/b     | x/b:80          | x/a     | + - - - + - -
pod to pod, other node                     | x/a        | x/r        |    80 | x/r     | x/r:80          | x/a     | + - - - + - -
pod to pod, from the other node            | x/r        | x/b        |    80 | x/b     | x/b:80          | x/r     | + - - - + - -
pod to VIP, backend on the same node       | x/a        | x/svc/b    |  8080 | x/b     | x/b:80          | x/a     | + - - - + - -
pod to VIP, backend on the other node      | x/a        | x/svc/r    |  8080 | x/r     | x/r:80          | x/a     | + - - - + - -
pod to VIP, from the other node            | x/r        | x/svc/b    |  8080 | x/b     | x/b:80          | x/r     | + - - - + - -
pod to VIP, host process of its node       | x/a        | x/svc/h    |  8080 | x/h     | node/left:9100  | -       | + - + - - + -
pod to VIP, host process of the other node | x/a        | x/svc/o    |  8080 | x/o     | node/right:9100 | -       | + - + - - + -
hairpin: pod to itself through its VIP     | x/a        | x/svc/a    |  8080 | x/a     | -               | own     | + + + + + + +
pod to itself                              | x/a        | x/a        |    80 | x/a     | -               | own     | + + + + + + +
pod to NodePort of its own node            | x/a        | node/left  | 30080 | x/b     | x/b:80          | x/a     | + - - - + - -
pod to NodePort of the other node          | x/a        | node/right | 30080 | x/b     | node/right:30080| other   | + - - - - + -
remote pod to NodePort of the pod's node   | x/r        | node/left  | 30080 | x/b     | node/left:30080 | bridge  | + - - - - + -
outside to NodePort of the pod's node      | outside    | node/left  | 30080 | x/b     | -               | bridge  | + - - + - + +
outside to NodePort of the other node      | outside    | node/right | 30080 | x/b     | -               | other   | + - - + - + +
outside to NodePort, policy Local          | outside    | node/left  | 30090 | x/b     | -               | outside | + - - + - + +
outside to hostPort                        | outside    | node/left  |  7070 | x/b     | -               | outside | + - - + - + +
other node to NodePort of the pod's node   | node/right | node/left  | 30080 | x/b     | -               | bridge  | + - - + - + +
own node to pod, as a kubelet probes       | node/left  | x/b        |    80 | x/b     | -               | own     | + + + + + + +
own node to pod through its VIP            | node/left  | x/svc/b    |  8080 | x/b     | -               | own     | + + + + + + +
other node to pod                          | node/right | x/b        |    80 | x/b     | -               | other   | + - - + - + +
other node to pod through its VIP          | node/right | x/svc/b    |  8080 | x/b     | -               | other   | + - - + - + +
pod to a process of its own node           | x/a        | node/left  |  9100 | x/h     | node/left:9100  | -       | + - + - - + -
pod to a process of the other node         | x/a        | node/right |  9100 | x/o     | node/right:9100 | -       | + - + - - + -
pod to outside, masqueraded                | x/a        | outside    |   443 | outside | outside:443     | -       | + - + - - + -
outside to pod                             | outside    | x/b        |    80 | x/b     | -               | outside | + - - + - + +
";

/// So few may be held up by a busy machine: a first packet that is lost by rule is lost on every way.
const LATE: usize = 4;
/// Larger than the MTU of every backend: three fragments.
const LARGE: usize = 3000;
const KINDS: [(&str, u8, usize); 3] = [
    ("TCP", protocol::TCP, 0),
    ("UDP", protocol::UDP, 0),
    ("UDP", protocol::UDP, LARGE),
];

struct Row {
    name: &'static str,
    from: &'static str,
    to: &'static str,
    port: u16,
    answers: &'static str,
    egress: &'static str,
    ingress: &'static str,
    arrives: Vec<bool>,
}

fn rows() -> Vec<Row> {
    let lines = MATRIX.lines().filter(|line| line.contains('|')).skip(1);
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [name, from, to, port, answers, egress, ingress, arrives] = cells[..] else {
                panic!("{line}")
            };
            Row {
                name,
                from,
                to,
                port: port.parse().expect(line),
                answers,
                egress,
                ingress,
                arrives: arrives.split_whitespace().map(|cell| cell == "+").collect(),
            }
        })
        .collect()
}

/// Where the addresses of the table's words are.
struct Places<'a> {
    lab: &'a Lab,
    v6: bool,
}

impl Places<'_> {
    fn address(&self, name: &str) -> Result<IpAddr> {
        let state = &self.lab.state;
        let text = match (name, self.v6) {
            ("outside", false) => "203.0.113.10".to_owned(),
            ("outside", true) => "2001:db8:113::10".to_owned(),
            ("bridge", false) => "10.244.0.1".to_owned(),
            ("bridge", true) => "fd00:10:244::1".to_owned(),
            ("other", v6) => match (state.backend, v6) {
                (Backend::Vxlan, false) => "10.244.1.0".to_owned(),
                (Backend::Vxlan, true) => "fd00:10:244:1::".to_owned(),
                (Backend::HostGw, _) => return self.address("node/right"),
            },
            (name, v6) => {
                let addresses = match name.strip_prefix("node/") {
                    Some(node) => state.node(node).context("node")?.addresses(state.families),
                    None => state.pods.get(name).context("pod")?.addresses.clone(),
                };
                let found = addresses.into_iter().find(|address| address.is_ipv6() == v6);
                return found.with_context(|| format!("no address of {name}"));
            }
        };
        Ok(text.parse()?)
    }

    /// What the API's text says of a row. Who sends and who is seen is the table's business, because no object says it.
    fn arrives(&self, world: &World, row: &Row, protocol: u8, bytes: usize) -> Result<bool> {
        let pod = |name: &str| {
            let name = name.strip_prefix("x/");
            let mut pods = world.pods.iter();
            pods.find(|pod| name.is_some() && pod.metadata.name.as_deref() == name)
        };
        let leaves = match row.egress.rsplit_once(':') {
            None => true,
            Some((peer, port)) => {
                let packet = Packet {
                    source: self.address(row.from)?,
                    destination: self.address(peer)?,
                    protocol,
                    port: port.parse()?,
                };
                world.egress_allowed(pod(row.from).context(row.from)?, &packet)
            }
        };
        let sender = match row.ingress {
            // Nobody knows who made an IPv6 fragment on its way to a pod: it is judged by its source address.
            "own" if self.v6 && bytes > 0 && row.from.starts_with("node/") => "bridge",
            named => named,
        };
        let enters = match sender {
            "-" | "own" => true,
            sender => {
                let packet = Packet {
                    source: self.address(sender)?,
                    destination: self.address(row.answers)?,
                    protocol,
                    port: 80,
                };
                world.ingress_allowed(pod(row.answers).context(row.answers)?, &packet)
            }
        };
        Ok(leaves && enters)
    }
}

fn families(families: Families) -> Vec<u8> {
    let v4 = families.v4().then_some(4);
    v4.into_iter().chain(families.v6().then_some(6)).collect()
}

/// All rows under one set of policies; what is wrong, a line each.
fn compare(lab: &Lab, column: usize) -> Result<Vec<String>> {
    let (policies, spec) = world::POLICIES[column];
    let world = world::living(lab, spec)?;
    let rows = rows();
    let (mut probes, mut expected, mut wrong) = (Vec::new(), Vec::<(&Row, bool)>::new(), Vec::new());
    for row in &rows {
        for family in families(lab.state.families) {
            let places = Places { lab, v6: family == 6 };
            for (kind, number, bytes) in KINDS {
                let arrives = places.arrives(&world, row, number, bytes)?;
                let own_fragments = row.ingress == "own" && family == 6 && bytes > 0;
                if arrives != row.arrives[column] && !own_fragments {
                    bail!(
                        "the table and the evaluator differ: {}, {policies}, {kind}",
                        row.name
                    );
                }
                expected.push((row, arrives));
                probes.push(Probe {
                    family: Some(family),
                    bytes,
                    ..Probe::new(row.from, row.to, row.port, kind)
                });
            }
        }
    }
    let state = &lab.state;
    let mut outcomes = lab.probe(&probes)?;
    // What a busy machine held up for longer than a probe waits is asked again, once; what arrived never is.
    let silent = |(index, outcome): (usize, &Outcome)| {
        (expected[index].1 && outcome.result == "denied").then_some(index)
    };
    let late: Vec<usize> = outcomes.iter().enumerate().filter_map(silent).collect();
    ensure!(
        late.len() <= LATE,
        "{} probes do not arrive, policies \"{policies}\"",
        late.len()
    );
    let again: Vec<Probe> = late.iter().map(|index| probes[*index].clone()).collect();
    for (index, outcome) in late.into_iter().zip(lab.probe(&again)?) {
        println!(
            "asked again, policies \"{policies}\": {:?}: {}",
            probes[index], outcome.result
        );
        outcomes[index] = outcome;
    }
    for ((probe, (row, arrives)), outcome) in probes.iter().zip(&expected).zip(outcomes) {
        let right = match arrives {
            true => outcome.result == "allowed" && outcome.answer.as_deref() == Some(row.answers),
            false => outcome.result == "denied",
        };
        if !right {
            wrong.push(format!(
                "{}: {} of {} bytes over IPv{}, {:?}, {}, policies \"{policies}\": {} {:?}{:?} instead of {}",
                row.name,
                probe.protocol,
                probe.bytes,
                probe.family.unwrap_or_default(),
                state.backend,
                state.hook,
                outcome.result,
                outcome.answer,
                outcome.detail,
                if *arrives {
                    format!("an answer of {}", row.answers)
                } else {
                    "denied".to_owned()
                }
            ));
        }
    }
    Ok(wrong)
}

fn matrix(backend: Backend, families: Families, hook: Hook) -> Result<()> {
    let directory = tempfile::tempdir()?;
    world::write(directory.path(), "")?;
    let name = format!("matrix-{backend:?}-{families:?}-{hook}").to_lowercase();
    let mut guard = up(&name, directory.path(), |options: &mut Options| {
        options.backend = backend;
        options.families = families;
        options.hook = Choice::Only(hook);
    })?;
    for node in &guard.0.state.nodes {
        let status = guard.0.status(node)?;
        ensure!(
            status.hook.map(|hook| hook.name().to_owned()) == Some(hook.to_string()),
            "{}: {:?} is used, {hook} was asked for",
            node.name,
            status.hook
        );
    }
    let mut wrong = Vec::new();
    for (column, (_, spec)) in world::POLICIES.iter().enumerate() {
        world::write(directory.path(), spec)?;
        let applied = guard.0.apply(directory.path(), &mut |_| {})?;
        ensure!(applied.complete(), "{applied:?}");
        wrong.extend(compare(&guard.0, column)?);
    }
    ensure!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    Ok(())
}

// Covers: SEMANTICS 2, 3, 22, 23, 39, 40, 41, 42, 43, 48
#[test]
fn every_way_of_a_packet_over_vxlan_with_tcx() -> Result<()> {
    matrix(Backend::Vxlan, Families::Dual, Hook::Tcx)
}

// Covers: SEMANTICS 2, 3, 22, 23, 39, 40, 41, 43, 48
#[test]
fn every_way_of_a_packet_over_routes_with_clsact() -> Result<()> {
    matrix(Backend::HostGw, Families::Dual, Hook::Clsact)
}

/// The other combinations.
#[test]
fn every_way_of_a_packet_in_every_combination() -> Result<()> {
    matrix(Backend::Vxlan, Families::Dual, Hook::Clsact)?;
    matrix(Backend::HostGw, Families::Dual, Hook::Tcx)?;
    for backend in [Backend::Vxlan, Backend::HostGw] {
        for families in [Families::V4, Families::V6] {
            for hook in [Hook::Tcx, Hook::Clsact] {
                matrix(backend, families, hook)?;
            }
        }
    }
    Ok(())
}
