//! Upgrades that fail on the way, each for a real reason.

use super::*;

/// Where on the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Load,
    Bridge,
    SecondPod,
}

/// Something that can fail there, for a real reason.
#[derive(Clone, Copy)]
struct Failure {
    why: &'static str,
    /// Makes it fail, for the version of this number.
    hinder: fn(u32),
    /// Takes the reason away.
    heal: fn(u32),
    at: At,
    /// Whether it can happen on this hook.
    on: fn(Hook) -> bool,
}

const EITHER: fn(Hook) -> bool = |_| true;
const LINKS: fn(Hook) -> bool = |hook| hook == Hook::Tcx;

const FAILURES: [Failure; 7] = [
    Failure {
        why: REFUSED,
        hinder: |_| {},
        heal: |_| {},
        at: At::Load,
        on: EITHER,
    },
    Failure {
        why: "bpffs takes nothing",
        hinder: |_| remount("ro"),
        heal: |_| remount("rw"),
        at: At::Load,
        on: EITHER,
    },
    Failure {
        why: "the second program can not be pinned",
        hinder: |abi| fs::create_dir_all(of(abi).program(maps::TO_POD).join("x")).unwrap(),
        heal: |abi| fs::remove_dir_all(of(abi).program(maps::TO_POD)).unwrap(),
        at: At::Load,
        on: EITHER,
    },
    Failure {
        why: "the bridge's link can not be pinned",
        hinder: |abi| occupied(abi, "br0", "bridge"),
        heal: |abi| free(abi, "br0", "bridge"),
        at: At::Bridge,
        on: LINKS,
    },
    Failure {
        why: "the second pod's link can not be pinned",
        hinder: |abi| occupied(abi, "vb", "egress"),
        heal: |abi| free(abi, "vb", "egress"),
        at: At::SecondPod,
        on: LINKS,
    },
    Failure {
        why: "the bridge has another name now",
        hinder: |_| rename("br0", "other"),
        heal: |_| rename("other", "br0"),
        at: At::Bridge,
        on: EITHER,
    },
    Failure {
        why: "the second pod's interface has another name now",
        hinder: |_| rename("vb", "other"),
        heal: |_| rename("other", "vb"),
        at: At::SecondPod,
        on: EITHER,
    },
];

const REFUSED: &str = "the kernel refuses the programs";

/// A directory where the pin of a link belongs.
fn occupied(abi: u32, name: &str, point: &str) {
    fs::create_dir_all(link(abi, name, point).join("x")).unwrap();
}

fn free(abi: u32, name: &str, point: &str) {
    fs::remove_dir_all(link(abi, name, point)).unwrap();
}

fn link(abi: u32, name: &str, point: &str) -> std::path::PathBuf {
    let ifindex = veth::ifindex(name).unwrap().unwrap();
    of(abi).links().join(format!("{ifindex}-{point}"))
}

fn rename(from: &str, to: &str) {
    // Before Linux 6.2 only an interface that is down gets another name.
    ip(&format!("link set {from} down")).unwrap();
    ip(&format!("link set {from} name {to} up")).unwrap();
}

#[test]
fn an_upgrade_that_fails_leaves_the_old_programs_and_either_version_finishes() {
    for hook in hooks() {
        for failure in FAILURES.iter().filter(|failure| (failure.on)(hook)) {
            for finish in [1, 2] {
                sandbox::run(|| fails_and_is_finished(hook, *failure, finish));
            }
        }
    }
}

fn fails_and_is_finished(hook: Hook, failure: Failure, finish: u32) {
    let Failure {
        why,
        hinder,
        heal,
        at,
        on: _,
    } = failure;
    let node = node();
    let choice = Choice::Only(hook);
    let mut old = load(1);
    attach_all(&of(1), node, choice).unwrap();
    let before = everywhere(&mut old);
    let options = Options {
        object: (why == REFUSED).then(refused),
        ..small()
    };
    let load_new = || Kernel::load_with(of(2), &options);
    let error = if at == At::Load {
        hinder(2);
        load_new().err()
    } else {
        let _new = load_new().unwrap();
        hinder(2);
        attach_all(&of(2), node, choice).err()
    };
    let error = error.unwrap_or_else(|| panic!("{why}, and nothing failed"));
    println!("{hook}: {why}: {}", error.chain());
    // Each hook has one judge; up to the bridge all of them are the old ones.
    let names = [node.0, node.1, node.2].map(|ifindex| nix::net::if_::if_indextoname(ifindex).unwrap());
    let names = names.each_ref().map(|name| name.to_str().unwrap());
    let now = line(hook, &names);
    if at == At::SecondPod {
        assert_eq!(now[2..4], before[2..4], "{hook}: {why}");
        assert_ne!(now[4], before[4], "{hook}: {why}");
    } else {
        assert_eq!(now, before, "{hook}: {why}");
    }
    heal(2);
    let mut last = load(finish);
    attach_all(&of(finish), node, choice).unwrap();
    versions::supersede(&of(finish)).unwrap();
    assert_eq!(
        line(hook, &ALL),
        everywhere(&mut last),
        "{hook}: {why}, then version {finish}"
    );
    assert_eq!((there(1), there(2)), (finish == 1, finish == 2), "{hook}: {why}");
}
