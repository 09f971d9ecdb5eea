//! The command line as its users meet it: arguments in, text and exit code out.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixListener,
    thread,
};

use vethwall_datapath::Choice;

use super::*;
use crate::api::{
    API_VERSION, Direction, ErrorBody, Explanation, Flow, Lost, PolicyName, Request, RequestLine, Response,
    SOCKET, Status, Version,
    chain::{Chain, ChainMode, ChainState},
    explain::{EntryAnswer, Party, PolicyAnswer, RuleAnswer, Side, SideReason},
    flow::{End, EndKind, Verdict},
    settings::{ExistingConnections, OwnNodeEgress, Settings},
    status::{
        AgentState, Bridge, Endpoint, EndpointState, Hook, Isolation, ManifestProblem, Manifests, MapUse,
        Phase, Policy, Problem,
    },
    to_line,
};
use crate::api::{Mode, Peer};
use crate::{cluster::Place, run::Source};

/// What a command printed and how it ended.
struct Ran {
    out: String,
    err: String,
    exit: Exit,
}

/// Runs a command without colours.
fn vethwall(args: &[&str]) -> Ran {
    let cli = Cli::try_parse_from(std::iter::once("vethwall").chain(args.iter().copied())).unwrap();
    let mut out = AutoStream::never(Vec::new());
    let mut err = AutoStream::never(Vec::new());
    let streams = Streams {
        out: &mut out,
        err: &mut err,
    };
    let exit = run(cli, false, streams);
    let text = |stream: AutoStream<Vec<u8>>| String::from_utf8(stream.into_inner()).unwrap();
    Ran {
        out: text(out),
        err: text(err),
        exit,
    }
}

/// Runs a command against an agent that gives this answer; what the agent was asked comes first.
fn asked(answer: &[Response], args: &[&str]) -> (Request, Ran) {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
    let lines: String = answer.iter().map(|response| to_line(response).unwrap()).collect();
    let agent = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        stream.write_all(lines.as_bytes()).unwrap();
        RequestLine::parse(&line).unwrap()
    });
    let mut all = vec!["--run-dir", dir.path().to_str().unwrap()];
    all.extend(args);
    let ran = vethwall(&all);
    (agent.join().unwrap(), ran)
}

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

fn policy(name: &str) -> PolicyName {
    PolicyName {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    }
}

fn endpoint(pod: &str, address: &str) -> Endpoint {
    Endpoint {
        namespace: "shop".to_owned(),
        pod: pod.to_owned(),
        ifindex: 7,
        interface: "veth3f1c2a".to_owned(),
        addresses: vec![address.parse().unwrap()],
        state: EndpointState::Enforcing,
        hook: Some(Hook::Tcx),
        ..Endpoint::default()
    }
}

fn healthy() -> Status {
    Status {
        node: "node-a".to_owned(),
        version: "0.1.0".to_owned(),
        ready: true,
        state: AgentState::Enforcing,
        hook: Some(Hook::Tcx),
        bridge: Bridge {
            name: "cni0".to_owned(),
            attached: true,
        },
        bridge_nf_call_iptables: Some(true),
        revision: 12,
        manifests: Manifests {
            directory: "/etc/manifests".to_owned(),
            digest: "9ae16a3b2f90404f".to_owned(),
            files: 7,
            problems: Vec::new(),
        },
        endpoints: vec![
            Endpoint {
                ingress: Isolation {
                    isolated: true,
                    policies: vec![policy("db-allow-api")],
                },
                ..endpoint("db-0", "10.42.0.4")
            },
            endpoint("web-7d9f8", "10.42.0.9"),
        ],
        phase: Phase::Steady,
        chain: Chain {
            state: ChainState::Chained,
            directory: "/etc/cni/net.d".to_owned(),
            file: Some("05-vethwall.conflist".to_owned()),
            repairs: 1,
            ..Chain::default()
        },
        policies: vec![Policy {
            namespace: "shop".to_owned(),
            name: "db-allow-api".to_owned(),
            mode: Mode::Enforce,
            selects: 1,
            problems: Vec::new(),
        }],
        maps: vec![
            MapUse {
                name: "SLOTS".to_owned(),
                entries: 3,
                capacity: 8192,
            },
            MapUse {
                name: "VERDICTS".to_owned(),
                entries: 13_107,
                capacity: 131_072,
            },
        ],
        ..Status::new()
    }
}

fn end(name: &str, address: &str, port: u16) -> End {
    let (namespace, pod) = name.split_once('/').unzip();
    End {
        address: address.parse().unwrap(),
        port: Some(port),
        kind: if pod.is_some() {
            EndKind::Pod
        } else {
            EndKind::World
        },
        namespace: namespace.map(str::to_owned),
        pod: pod.map(str::to_owned),
        node: None,
    }
}

fn flow() -> Flow {
    Flow {
        api_version: API_VERSION.to_owned(),
        time: "2025-11-21T09:14:02.117Z".parse().unwrap(),
        node: "node-b".to_owned(),
        source: end("shop/web-7d9f8", "10.42.0.9", 51_544),
        destination: end("shop/db-0", "10.42.1.4", 5432),
        protocol: "TCP".to_owned(),
        icmp: None,
        direction: Direction::Ingress,
        verdict: Verdict::Denied,
        reason: "no_rule".to_owned(),
        policies: vec![policy("db-allow-api")],
        rule: None,
        count: 3,
    }
}

fn explanation() -> Explanation {
    let party = |name: &str| Party {
        peer: Peer::Pod {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        },
        owner: None,
        node: None,
    };
    Explanation {
        api_version: API_VERSION.to_owned(),
        verdict: Verdict::Denied,
        source: party("web"),
        destination: party("db"),
        protocol: "TCP".to_owned(),
        port: Some(5432),
        family: Some(4),
        egress: Side {
            direction: Direction::Egress,
            verdict: Verdict::Allowed,
            reason: SideReason::NotIsolated,
            decided_by: None,
            selected: false,
            fix: None,
            policies: Vec::new(),
        },
        ingress: Side {
            direction: Direction::Ingress,
            verdict: Verdict::Denied,
            reason: SideReason::NoRule,
            decided_by: None,
            selected: true,
            fix: None,
            policies: vec![PolicyAnswer {
                policy: policy("db-allow-api"),
                tier: None,
                priority: None,
                mode: Mode::Enforce,
                rules: vec![RuleAnswer {
                    rule: 1,
                    name: None,
                    action: None,
                    matches: false,
                    failed: Some("no peer matches: pods app=api: shop/web has app=web".to_owned()),
                    peers: vec![EntryAnswer {
                        matches: false,
                        detail: "pods app=api in namespace shop: shop/web has app=web".to_owned(),
                    }],
                    ports: vec![EntryAnswer {
                        matches: true,
                        detail: "port 5432/TCP".to_owned(),
                    }],
                }],
            }],
        },
        notes: vec!["what node node-b itself generates always reaches its pods".to_owned()],
    }
}

/// A ClusterNetworkPolicy without its rules, as one more document of a file.
const FENCE: &str = "---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: fence}
spec:
  tier: Admin
  priority: 7
  subject: {namespaces: {}}
  ingress:";

#[test]
fn the_arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_shows_examples_in_its_help() {
    let mut cli = Cli::command();
    cli.build();
    let commands = cli
        .get_subcommands()
        .filter(|command| command.get_name() != "help");
    for command in commands.chain([&cli]) {
        let help = command.clone().render_help().to_string();
        assert!(help.contains("Examples:\n  vethwall "), "{help}");
        assert!(!help.contains("see more with"), "-h says it all: {help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
}

#[test]
fn kubectls_plugin_says_how_it_is_called() {
    let help = |program: &str| named(Some(program.into())).render_help().to_string();
    assert!(help("/bin/kubectl-vethwall").contains("Usage: kubectl vethwall"));
    assert!(help("/bin/vethwall").contains("Usage: vethwall"));
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &["vethwall"][..],
        &["vethwall", "enforce"],
        &["vethwall", "agent", "--manifests"],
        &["vethwall", "agent", "--colour"],
        &["vethwall", "explain", "shop/web"],
        &["vethwall", "explain", "web", "shop/db"],
        &["vethwall", "explain", "shop/web", "shop/db:80/QUIC"],
        &["vethwall", "flows", "--verdict", "maybe"],
        &["vethwall", "status", "-o", "yaml"],
    ] {
        let error = Cli::try_parse_from(args).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{args:?}");
    }
    for args in [&["vethwall", "--help"][..], &["vethwall", "--version"]] {
        assert_eq!(Cli::try_parse_from(args).unwrap_err().exit_code(), 0, "{args:?}");
    }
}

#[test]
fn doubt_is_3_and_says_what_to_do_next() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().to_str().unwrap();
    for args in [
        &["--run-dir", run_dir, "status"][..],
        &["--run-dir", run_dir, "flows"],
        &["--run-dir", run_dir, "explain", "a/b", "c/d:80"],
    ] {
        let ran = vethwall(args);
        assert_eq!(ran.exit, Exit::Undecided, "{args:?}");
        assert_eq!(ran.out, "");
        assert!(
            ran.err
                .starts_with(&format!("error: no agent answers on {run_dir}/agent.sock: ")),
            "{}",
            ran.err
        );
        assert!(ran.err.contains("vethwall agent --manifests DIR"), "{}", ran.err);
    }
    let refusal = ErrorBody::new(ErrorCode::UnknownPod, "no pod a/\u{1b}b is known");
    let (_, ran) = asked(&[Response::Error(refusal)], &["explain", "a/b", "c/d:80"]);
    assert_eq!(ran.exit, Exit::Undecided);
    assert!(
        ran.err
            .starts_with("error: no pod a/\\u{1b}b is known\nSee the pods"),
        "{}",
        ran.err
    );
    let (_, ran) = asked(&[Response::Flow(Box::new(flow()))], &["flows"]);
    assert_eq!(ran.exit, Exit::Undecided, "an answer without an end");
    assert!(ran.out.contains("shop/db-0"));
    let (_, ran) = asked(&[Response::Lost(Lost { count: 1 }), Response::End], &["status"]);
    assert_eq!(ran.exit, Exit::Undecided);
    assert!(ran.err.contains("answered something else"), "{}", ran.err);
}

#[test]
fn version_is_0_with_and_without_an_agent() {
    let version = Version {
        api_version: API_VERSION.to_owned(),
        version: "0.0.9".to_owned(),
        abi: 1,
        node: "node-a".to_owned(),
    };
    let (_, ran) = asked(&[Response::Version(version), Response::End], &["version"]);
    assert!(
        ran.out
            .contains("agent    v0.0.9, map layout v1, on node node-a\n"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("another version"), "{}", ran.out);
    let ran = vethwall(&["--run-dir", "/nonexistent", "version", "-o", "json"]);
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(value["agent"], serde_json::Value::Null);
    assert_eq!(value["abi"], 1);
    assert_eq!(ran.exit, Exit::Yes);
}

#[test]
fn who_stops_reading_ends_the_command_quietly() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let cli = Cli::try_parse_from(["vethwall", "--run-dir", "/nonexistent", "version"]).unwrap();
    let mut err = Vec::new();
    let exit = run(
        cli,
        false,
        Streams {
            out: &mut Gone,
            err: &mut err,
        },
    );
    assert_eq!((exit, err), (Exit::Yes, Vec::new()));
}

mod agent;
mod explain;
mod flows;
mod hostile;
mod lint;
mod probes;
mod status;
