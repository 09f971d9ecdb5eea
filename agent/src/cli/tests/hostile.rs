//! Names that try to act on the terminal of whoever looks at them.

use super::*;

#[test]
fn nothing_of_a_name_reaches_the_terminal() {
    const NASTY: &str = "x\u{1b}]0;t\u{7}\u{9b}2J\u{202e}\nfake";
    let name = || NASTY.to_owned();
    let mut status = healthy();
    status.node = name();
    status.version = name();
    status.manifests.directory = name();
    status.endpoints[0] = Endpoint {
        namespace: name(),
        pod: name(),
        interface: name(),
        state: EndpointState::Unprotected,
        ..endpoint("x", "10.42.0.2")
    };
    status.policies[0].name = name();
    status.policies[0].problems = vec![name()];
    status.maps[1].name = name();
    status.bridge.name = name();
    status.problems = vec![Problem {
        code: name(),
        message: name(),
        hint: Some(name()),
    }];
    status.manifests.problems = vec![ManifestProblem {
        file: name(),
        line: 1,
        column: 1,
        message: name(),
        code: Some(name()),
    }];
    let nasty_end = || End {
        namespace: Some(name()),
        pod: Some(name()),
        node: Some(name()),
        kind: EndKind::Pod,
        ..end("a/b", "10.0.0.1", 1)
    };
    let flow = Flow {
        node: name(),
        source: nasty_end(),
        destination: End {
            kind: EndKind::Node,
            ..nasty_end()
        },
        protocol: name(),
        policies: vec![PolicyName {
            namespace: name(),
            name: name(),
        }],
        ..flow()
    };
    let mut explained = explanation();
    explained.source.peer = Peer::Pod {
        namespace: name(),
        name: name(),
    };
    explained.destination = Party {
        peer: Peer::Address {
            address: "10.0.0.1".parse().unwrap(),
        },
        owner: Some(name()),
        node: Some(name()),
    };
    explained.protocol = name();
    explained.notes = vec![name()];
    explained.ingress.policies[0].policy.name = name();
    explained.ingress.policies[0].rules[0].failed = Some(name());
    explained.ingress.policies[0].rules[0].peers[0].detail = name();
    explained.egress.policies = explained.ingress.policies.clone();
    explained.egress.policies[0].rules[0].peers.clear();
    explained.egress.policies[0].rules[0].ports.clear();
    let version = Version {
        api_version: name(),
        version: name(),
        abi: 1,
        node: name(),
    };
    for (response, args) in [
        (Response::Status(Box::new(status)), &["status"][..]),
        (Response::Flow(Box::new(flow)), &["flows"]),
        (
            Response::Explanation(Box::new(explained)),
            &["explain", "a/b", "c/d"],
        ),
        (Response::Version(version), &["version"]),
    ] {
        for format in ["table", "json"] {
            let mut args = args.to_vec();
            args.extend(["-o", format]);
            let cli = Cli::try_parse_from(std::iter::once("vethwall").chain(args.iter().copied())).unwrap();
            let shown = shown(cli, &response);
            assert!(
                !shown.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}']),
                "{args:?}: {shown:?}"
            );
            assert!(
                !shown.lines().any(|line| line.starts_with("fake")),
                "{args:?}: {shown}"
            );
        }
    }
}

/// What a command writes, colours taken out by its own renderer's marks only: those are the ones that anstream knows
/// and that begin with ESC [ and end with m.
fn shown(cli: Cli, response: &Response) -> String {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
    let lines = to_line(response).unwrap() + &to_line(&Response::End).unwrap();
    let agent = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        stream.write_all(lines.as_bytes()).unwrap();
    });
    let mut cli = cli;
    cli.global.run_dir = dir.path().to_owned();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    run(
        cli,
        false,
        Streams {
            out: &mut out,
            err: &mut err,
        },
    );
    agent.join().unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(!text.is_empty());
    // Our own colours: ESC [ digits and ; m.
    let mut rest = text.as_str();
    let mut clean = String::new();
    while let Some(at) = rest.find("\u{1b}[") {
        clean.push_str(&rest[..at]);
        let tail = &rest[at + 2..];
        let end = tail.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap();
        assert_eq!(&tail[end..=end], "m", "not a colour: {tail:?}");
        rest = &tail[end + 1..];
    }
    clean.push_str(rest);
    clean
}
