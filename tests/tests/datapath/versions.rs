//! One version of the layouts beside another, and loads that fail on the way: on every hook exactly one program judges.

use std::{fs, path::Path};

use vethwall_common::maps;
use vethwall_datapath::{Choice, Error, Hook, Kernel, Options, Pins, attach, object, versions, veth};
use vethwall_tests::{
    kernel::has_tcx,
    sandbox::{self, BPFFS, command, ip},
    told,
};

use super::{NO_TCX, pod, small};

mod failing;

fn of(abi: u32) -> Pins {
    Pins::of(BPFFS, abi)
}

fn load(abi: u32) -> Kernel {
    Kernel::load_with(of(abi), &small()).unwrap_or_else(|error| panic!("{}", error.chain()))
}

/// The programs of an object that was pinned: ids by name.
fn ids(kernel: &mut Kernel) -> Vec<u32> {
    [maps::FROM_POD, maps::TO_POD, maps::FROM_BRIDGE]
        .map(|name| kernel.program(name).unwrap().info().unwrap().id())
        .into()
}

/// Ids of the programs on the hooks of the pods and the bridge, in the order of [`ids`]; each hook has exactly one.
fn line(hook: Hook, interfaces: &[&str]) -> Vec<u32> {
    let mut found = Vec::new();
    for name in interfaces {
        let sides: &[&str] = if Path::new("/sys/class/net").join(name).join("bridge").exists() {
            &["ingress"]
        } else {
            &["ingress", "egress"]
        };
        for side in sides {
            let programs = on(hook, name, side);
            assert_eq!(programs.len(), 1, "{name} {side}: {programs:?}");
            found.extend(programs);
        }
    }
    found
}

fn on(hook: Hook, name: &str, side: &str) -> Vec<u32> {
    use aya::programs::{SchedClassifier, TcAttachType};
    match hook {
        Hook::Tcx => {
            let side = if side == "ingress" {
                TcAttachType::Ingress
            } else {
                TcAttachType::Egress
            };
            let (_, programs) = SchedClassifier::query_tcx(name, side).unwrap();
            programs.iter().map(aya::programs::ProgramInfo::id).collect()
        }
        Hook::Clsact => {
            let shown = command("tc", &["filter", "show", "dev", name, side]).unwrap();
            let filters = shown.lines().filter(|line| line.contains("direct-action"));
            filters
                .map(|line| {
                    line.split(" id ")
                        .nth(1)
                        .unwrap()
                        .split(' ')
                        .next()
                        .unwrap()
                        .parse()
                        .unwrap()
                })
                .collect()
        }
    }
}

/// Two pods and a bridge.
fn node() -> (u32, u32, u32) {
    ip("link add br0 type bridge").unwrap();
    let pods = (pod("a", "10.0.0.2/24"), pod("b", "10.0.0.3/24"));
    (pods.0, pods.1, veth::ifindex("br0").unwrap().unwrap())
}

const ALL: [&str; 3] = ["va", "vb", "br0"];

/// What [`line`] is when this kernel's programs are everywhere.
fn everywhere(kernel: &mut Kernel) -> Vec<u32> {
    let [from, to, bridge] = ids(kernel)[..] else {
        panic!()
    };
    vec![from, to, from, to, bridge]
}

fn attach_all(pins: &Pins, (a, b, bridge): (u32, u32, u32), choice: Choice) -> Result<(), Error> {
    attach::attach_bridge(pins, bridge, "br0", choice)?;
    attach::attach_endpoint(pins, a, "va", choice)?;
    attach::attach_endpoint(pins, b, "vb", choice).map(drop)
}

fn there(abi: u32) -> bool {
    of(abi).root().exists()
}

fn hooks() -> Vec<Hook> {
    if has_tcx().unwrap() {
        vec![Hook::Tcx, Hook::Clsact]
    } else {
        told::skipped(NO_TCX);
        vec![Hook::Clsact]
    }
}

#[test]
fn a_version_takes_over_hook_by_hook_and_gives_back() {
    for hook in hooks() {
        sandbox::run(|| {
            let node = node();
            let choice = Choice::Only(hook);
            let mut old = load(1);
            attach_all(&of(1), node, choice).unwrap();
            let mut new = load(2);
            assert_eq!(
                line(hook, &ALL),
                everywhere(&mut old),
                "a load touches nothing of the others'"
            );
            let links = attach::links(&of(1)).unwrap();
            // Two of three interfaces, then the agent dies.
            attach::attach_bridge(&of(2), node.2, "br0", choice).unwrap();
            attach::attach_endpoint(&of(2), node.0, "va", choice).unwrap();
            let [from, to, bridge] = ids(&mut new)[..] else {
                panic!()
            };
            let [old_from, old_to, _] = ids(&mut old)[..] else {
                panic!()
            };
            assert_eq!(line(hook, &ALL), [from, to, old_from, old_to, bridge]);
            // The interface that nobody knows of is not left to a policy that nobody follows.
            versions::supersede(&of(2)).unwrap();
            assert_eq!(line(hook, &ALL), everywhere(&mut new));
            assert_eq!((there(1), there(2)), (false, true));
            let moved = attach::links(&of(2)).unwrap();
            assert_eq!(
                links.iter().map(|link| link.link_id).collect::<Vec<_>>(),
                moved.iter().map(|link| link.link_id).collect::<Vec<_>>(),
                "the links are the old ones"
            );
            // Back.
            let mut back = load(1);
            attach_all(&of(1), node, choice).unwrap();
            versions::supersede(&of(1)).unwrap();
            assert_eq!(line(hook, &ALL), everywhere(&mut back));
            assert_eq!((there(1), there(2)), (true, false));
            // Everything of either version goes.
            let _other = load(2);
            attach::attach_endpoint(&of(2), node.0, "va", choice).unwrap();
            attach::remove_all(&of(1)).unwrap();
            for name in ALL {
                assert!(
                    on(hook, name, "ingress").is_empty() && on(hook, name, "egress").is_empty(),
                    "{name}"
                );
                assert!(
                    !command("tc", &["qdisc", "show", "dev", name])
                        .unwrap()
                        .contains("clsact")
                );
            }
            assert!(!Path::new(BPFFS).join("vethwall").exists());
        });
    }
}

/// A plugin that began before the upgrade attaches after it.
#[test]
fn an_old_plugin_does_not_keep_the_old_programs() {
    for hook in hooks() {
        sandbox::run(|| {
            let node = node();
            let choice = Choice::Only(hook);
            let _old = load(1);
            let mut new = load(2);
            attach_all(&of(2), node, choice).unwrap();
            ip("link add vc type veth peer name vd").unwrap();
            let late = veth::ifindex("vc").unwrap().unwrap();
            for ifindex in [late, node.0] {
                let name = if ifindex == late { "vc" } else { "va" };
                let program = |side: &str| on(hook, name, side);
                // As that plugin does, which knows of no later version.
                old_attach(hook, ifindex, name);
                assert!(!program("egress").is_empty());
                attach::attach_endpoint(&of(2), ifindex, name, choice).unwrap();
                assert_eq!(program("ingress"), [ids(&mut new)[0]], "{name}");
                assert_eq!(program("egress"), [ids(&mut new)[1]], "{name}");
            }
            versions::supersede(&of(2)).unwrap();
            assert!(!there(1));
            // Now it finds nothing, and waits.
            let error = attach::attach_endpoint(&of(1), late, "vc", choice).unwrap_err();
            assert!(matches!(error, Error::NotLoaded { .. }), "{error}");
        });
    }
}

/// Attaches the programs of version 1 beside what is there, and pins the links where version 1 does.
fn old_attach(hook: Hook, ifindex: u32, name: &str) {
    use aya::programs::{SchedClassifier, TcAttachType, links::FdLink, tc::SchedClassifierLink};
    for (program, side, pin) in [
        (maps::FROM_POD, TcAttachType::Ingress, "ingress"),
        (maps::TO_POD, TcAttachType::Egress, "egress"),
    ] {
        match hook {
            Hook::Clsact => {
                attach::attach_endpoint(&of(1), ifindex, name, Choice::Only(Hook::Clsact)).unwrap();
            }
            Hook::Tcx => {
                let mut program = SchedClassifier::from_pin(of(1).program(program)).unwrap();
                let options = aya::programs::tc::TcAttachOptions::TcxOrder(aya::programs::LinkOrder::first());
                let id = program.attach_with_options(name, side, options).unwrap();
                let link: SchedClassifierLink = program.take_link(id).unwrap();
                let link: FdLink = link.try_into().unwrap();
                link.pin(of(1).links().join(format!("{ifindex}-{pin}"))).unwrap();
            }
        }
    }
}

/// Programs that a kernel refuses: the first instruction of one is none.
fn refused() -> &'static [u8] {
    let mut bytes = object::OBJECT.to_vec();
    let word = |bytes: &[u8], at: usize, size: usize| {
        let mut value = [0; 8];
        value[..size].copy_from_slice(&bytes[at..at + size]);
        usize::try_from(u64::from_le_bytes(value)).unwrap()
    };
    // ELF64: section headers at 0x28, their size at 0x3a, number at 0x3c; offset and size in one at 0x18 and 0x20.
    let (table, size, number) = (
        word(&bytes, 0x28, 8),
        word(&bytes, 0x3a, 2),
        word(&bytes, 0x3c, 2),
    );
    let sections = (0..number).map(|n| table + n * size);
    // The programs' section: executable, with instructions, named "classifier".
    let names = word(&bytes, table + word(&bytes, 0x3e, 2) * size + 0x18, 8);
    let classifier = sections
        .into_iter()
        .find(|at| bytes[names + word(&bytes, *at, 4)..].starts_with(b"classifier"))
        .unwrap();
    let (at, length) = (
        word(&bytes, classifier + 0x18, 8),
        word(&bytes, classifier + 0x20, 8),
    );
    // Every exit becomes no instruction at all.
    for instruction in bytes[at..at + length].chunks_exact_mut(8) {
        if instruction[0] == 0x95 {
            instruction[0] = 0xff;
        }
    }
    bytes.leak()
}

fn remount(how: &str) {
    command("mount", &["-o", &format!("remount,{how}"), BPFFS]).unwrap();
}

/// As [`failing`], for programs of the same layouts, whose maps they share.
#[test]
fn a_load_that_fails_leaves_a_program_on_every_link() {
    if !has_tcx().unwrap() {
        return told::skipped(NO_TCX);
    }
    sandbox::run(|| {
        let node = node();
        let mut old = load(1);
        attach_all(&of(1), node, Choice::Best).unwrap();
        let before = everywhere(&mut old);
        let refused = Options {
            object: Some(refused()),
            ..small()
        };
        Kernel::load_with(of(1), &refused).unwrap_err();
        assert_eq!(line(Hook::Tcx, &ALL), before);
        remount("ro");
        Kernel::load_with(of(1), &small()).unwrap_err();
        remount("rw");
        assert_eq!(line(Hook::Tcx, &ALL), before);
        // Halfway through the pins.
        let pin = of(1).program("to_pod-new");
        fs::create_dir_all(pin.join("x")).unwrap();
        Kernel::load_with(of(1), &small()).unwrap_err();
        fs::remove_dir_all(pin).unwrap();
        assert_eq!(line(Hook::Tcx, &ALL), before);
        let mut last = load(1);
        assert!(last.adopted());
        assert_eq!(line(Hook::Tcx, &ALL), everywhere(&mut last));
    });
}

#[test]
fn what_an_interrupted_removal_left_is_not_adopted() {
    sandbox::run(|| {
        drop(load(1));
        assert!(load(1).adopted());
        fs::remove_dir_all(of(1).root().join(maps::PROGRAMS)).unwrap();
        fs::remove_file(of(1).map(maps::FLOWS)).unwrap();
        assert!(!load(1).adopted());
    });
}

#[test]
fn versions_whose_tags_look_alike_do_not_meet() {
    sandbox::run(|| {
        let _old = load(1);
        let error = Kernel::load_with(of(5), &small()).unwrap_err();
        assert!(error.to_string().contains("one between them"), "{error}");
        assert!(!there(5));
    });
}

#[test]
fn clsact_goes_with_our_last_filter_where_we_added_it() {
    sandbox::run(|| {
        let _kernel = load(1);
        let choice = Choice::Only(Hook::Clsact);
        let (a, b, bridge) = node();
        let has = |name: &str| {
            command("tc", &["qdisc", "show", "dev", name])
                .unwrap()
                .contains("clsact")
        };
        // One that was there before, and one with a filter of somebody else.
        command("tc", &["qdisc", "add", "dev", "vb", "clsact"]).unwrap();
        attach_all(&of(1), (a, b, bridge), choice).unwrap();
        let other = [
            "filter", "add", "dev", "br0", "egress", "protocol", "all", "prio", "7", "u32", "match", "u32",
            "0", "0", "classid", "1:1",
        ];
        command("tc", &other).unwrap();
        assert!(has("va") && has("vb") && has("br0"));
        attach::remove_all(&of(1)).unwrap();
        assert_eq!((has("va"), has("vb"), has("br0")), (false, true, true));
        assert!(
            command("tc", &["filter", "show", "dev", "br0", "egress"])
                .unwrap()
                .contains("u32")
        );
        for name in ALL {
            assert!(on(Hook::Clsact, name, "ingress").is_empty());
        }

        // The mark of an interface that is gone goes, too.
        let _again = load(1);
        attach::attach_endpoint(&of(1), a, "va", choice).unwrap();
        let marks = Path::new(BPFFS).join("vethwall/clsact");
        assert_eq!(fs::read_dir(&marks).unwrap().count(), 1);
        ip("link del va").unwrap();
        attach::collect_garbage(&of(1)).unwrap();
        assert_eq!(fs::read_dir(&marks).unwrap().count(), 0);
    });
}
