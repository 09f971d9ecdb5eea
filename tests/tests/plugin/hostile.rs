//! What no runtime ought to hand over, and sockets that no agent made: errors that are JSON, in bounded time, and never of a DEL.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::Write as _,
    os::unix::{ffi::OsStringExt as _, net::UnixListener},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use vethwall_cni::{code, proto};
use vethwall_tests::sandbox::{self, ip, program};

use super::{
    load,
    node::{ARGS, NETNS},
};

/// Error code, or None of success; and how long it took.
fn call(verb: &str, pod: &OsStr, stdin: &[u8]) -> (Option<u64>, Duration) {
    call_with(verb, pod, stdin, false)
}

/// With a standard input that is left `open`, so that it has no end.
fn call_with(verb: &str, pod: &OsStr, stdin: &[u8], open: bool) -> (Option<u64>, Duration) {
    let start = Instant::now();
    let mut child = Command::new(program("vethwall-cni").unwrap())
        .env_clear()
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", "c")
        .env("CNI_NETNS", NETNS)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", pod)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // It need not read all of it.
    let _closed = input.write_all(stdin);
    if open {
        // Longer than any call may take, and not for ever.
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(12));
            drop(input);
        });
    } else {
        drop(input);
    }
    let output = child.wait_with_output().unwrap();
    let code = (!output.status.success()).then(|| {
        let error: Value =
            serde_json::from_slice(&output.stdout).expect("an error is JSON on standard output");
        error["code"].as_u64().unwrap()
    });
    (code, start.elapsed())
}

fn del_succeeds(pod: &OsStr, stdin: &[u8]) {
    for verb in ["DEL", "GC"] {
        let (code, took) = call(verb, pod, stdin);
        assert_eq!(code, None, "{verb}");
        assert!(took < Duration::from_secs(1), "{verb}: {took:?}");
    }
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let deep = "[".repeat(200_000);
    let long = vec![b' '; 100 << 20];
    let nothing = br#"{"cniVersion":"1.0.0","prevResult":null}"#;
    for (stdin, expected) in [
        (&long[..], code::DECODE),
        (deep.as_bytes(), code::DECODE),
        (b"\xff\xfe", code::DECODE),
        (b"", code::DECODE),
        (nothing, code::CONFIG),
    ] {
        let (found, took) = call("ADD", OsStr::new(ARGS), stdin);
        assert_eq!(found, Some(u64::from(expected)), "{} bytes", stdin.len());
        assert!(took < Duration::from_secs(2), "{took:?}");
        del_succeeds(OsStr::new(ARGS), stdin);
    }
}

#[test]
fn a_configuration_without_an_end_is_not_waited_for() {
    let whole = br#"{"cniVersion":"1.0.0","prevResult":{}}"#;
    for stdin in [&whole[..], b"{", b""] {
        for verb in ["DEL", "GC"] {
            let (found, took) = call_with(verb, OsStr::new(ARGS), stdin, true);
            assert_eq!(found, None, "{verb}");
            assert!(took < Duration::from_secs(1), "{verb}: {took:?}");
        }
    }
    let others = ["ADD", "CHECK", "STATUS", "VERSION"].map(|verb| {
        thread::spawn(move || {
            let (found, took) = call_with(verb, OsStr::new(ARGS), whole, true);
            assert_eq!(found, Some(u64::from(code::IO)), "{verb}");
            assert!(took < Duration::from_millis(8500), "{verb}: {took:?}");
        })
    });
    for other in others {
        other.join().unwrap();
    }
}

#[test]
fn a_variable_that_is_no_text_is_refused() {
    let garbled = OsString::from_vec(b"K8S_POD_NAMESPACE=shop;K8S_POD_NAME=\xff".to_vec());
    let stdin = br#"{"cniVersion":"1.0.0","prevResult":{}}"#;
    assert_eq!(call("ADD", &garbled, stdin).0, Some(u64::from(code::ENVIRONMENT)));
    del_succeeds(&garbled, stdin);
}

#[test]
fn whoever_listens_in_the_agents_place_lets_no_pod_start_and_holds_nobody_up() {
    sandbox::run(|| {
        let _kernel = load();
        ip("netns add pod").unwrap();
        ip("link add vpod type veth peer name eth0 netns pod").unwrap();
        let stdin = br#"{"cniVersion":"1.0.0","prevResult":{},"cni.dev/valid-attachments":[],"cni.dev/attachments":[]}"#;
        let add = || {
            let (code, took) = call("ADD", OsStr::new(ARGS), stdin);
            assert_eq!(code, Some(u64::from(code::TRY_LATER)));
            assert!(took < Duration::from_millis(8500), "{took:?}");
            del_succeeds(OsStr::new(ARGS), stdin);
        };
        let socket = proto::socket(Path::new("/run/vethwall"));
        fs::create_dir_all(&socket).unwrap();
        add();
        fs::remove_dir(&socket).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                // Without an end, and without a line's end.
                let mut stream = stream.unwrap();
                thread::spawn(move || while stream.write_all(&[b'x'; 4096]).is_ok() {});
            }
        });
        add();
    });
}
