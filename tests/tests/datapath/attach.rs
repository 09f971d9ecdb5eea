//! Programs on interfaces.

use std::{
    fs,
    net::UdpSocket,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType, links::PinnedLink};
use nix::sched::{CloneFlags, setns};
use vethwall_common::maps;
use vethwall_datapath::{Choice, Error, Hook, attach, veth};
use vethwall_tests::{
    hooks,
    kernel::has_tcx,
    sandbox::{self, command, ip},
    told,
};

use super::{NO_TCX, load, pins, pod};

#[test]
fn attaching_is_idempotent_and_ends_with_the_interface() {
    if !has_tcx().unwrap() {
        return told::skipped(NO_TCX);
    }
    sandbox::run(|| {
        let _kernel = load();
        let ifindex = pod("a", "10.0.0.2/24");
        let start = Instant::now();
        assert_eq!(
            attach::attach_endpoint(&pins(), ifindex, "va", Choice::Best).unwrap(),
            Hook::Tcx
        );
        println!("first attach of both programs: {:?}", start.elapsed());
        let links = attach::links(&pins()).unwrap();
        assert_eq!(links.len(), 2);
        assert!(links.iter().all(|link| link.alive && link.ifindex == ifindex));
        let start = Instant::now();
        assert_eq!(
            attach::attach_endpoint(&pins(), ifindex, "va", Choice::Best).unwrap(),
            Hook::Tcx
        );
        println!("second attach: {:?}", start.elapsed());
        assert_eq!(attach::links(&pins()).unwrap(), links);

        // Another interface under the name, or another name.
        let error = attach::attach_endpoint(&pins(), ifindex + 1, "va", Choice::Best).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        let error = attach::attach_endpoint(&pins(), ifindex, "nothing", Choice::Best).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");

        assert!(attach::collect_garbage(&pins()).unwrap().is_empty());
        ip("link del va").unwrap();
        assert!(attach::links(&pins()).unwrap().iter().all(|link| !link.alive));
        assert_eq!(attach::collect_garbage(&pins()).unwrap(), [ifindex]);
        assert!(attach::links(&pins()).unwrap().is_empty());
    });
}

#[test]
fn a_pin_of_a_dead_interface_gives_way() {
    if !has_tcx().unwrap() {
        return told::skipped(NO_TCX);
    }
    sandbox::run(|| {
        let _kernel = load();
        let ifindex = pod("a", "10.0.0.2/24");
        attach::attach_endpoint(&pins(), ifindex, "va", Choice::Best).unwrap();
        let before = attach::links(&pins()).unwrap();
        ip("link del va").unwrap();
        // The kernel lets the number be chosen, so the next interface can have it.
        ip(&format!("link add vb index {ifindex} type veth peer name vc")).unwrap();
        attach::attach_endpoint(&pins(), ifindex, "vb", Choice::Best).unwrap();
        let after = attach::links(&pins()).unwrap();
        assert!(after.iter().all(|link| link.alive));
        assert_ne!(before[0].link_id, after[0].link_id);
        // Somebody who looks at the link does not keep it on the interface.
        let _held = PinnedLink::from_pin(pins().links().join(format!("{ifindex}-ingress"))).unwrap();
        attach::detach_endpoint(&pins(), ifindex, "vb").unwrap();
        let (_, line) = SchedClassifier::query_tcx("vb", TcAttachType::Ingress).unwrap();
        assert!(line.is_empty());
        attach::detach_endpoint(&pins(), ifindex, "vb").unwrap();
        assert!(attach::links(&pins()).unwrap().is_empty());
    });
}

/// What a pod sends to its node without end, and what of it arrives within a moment.
pub(super) struct Stream {
    node: UdpSocket,
}

impl Stream {
    pub(super) fn from(pod: &str, end: Arc<AtomicBool>) -> Self {
        ip("addr add 10.0.0.1/24 dev va").unwrap();
        let node = UdpSocket::bind("10.0.0.1:9000").unwrap();
        node.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let netns = fs::File::open(format!("/run/netns/{pod}")).unwrap();
        thread::spawn(move || {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            while !end.load(Ordering::Relaxed) {
                // What the pod's end can not send yet, it sends the next time.
                let _unsent = socket.send_to(b"x", "10.0.0.1:9000");
                thread::sleep(Duration::from_micros(200));
            }
        });
        Self { node }
    }

    /// How many packets had arrived, and arrive until none does for a moment.
    pub(super) fn arrived(&self) -> usize {
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < Duration::from_secs(1) && self.node.recv(&mut [0; 8]).is_ok() {
            count += 1;
        }
        count
    }
}

#[test]
fn a_pod_is_closed_by_filters_and_settled_on_links_without_a_gap() {
    sandbox::run(|| {
        let _kernel = load();
        let ifindex = pod("a", "10.0.0.2/24");
        let end = Arc::new(AtomicBool::new(false));
        let stream = Stream::from("a", Arc::clone(&end));
        assert!(stream.arrived() > 0);
        for _ in 0..2 {
            let hook = attach::close_endpoint(&pins(), ifindex, "va", Choice::Best).unwrap();
            assert_eq!(hook, Hook::Clsact);
            assert!(hooks::on(&pins(), ifindex).unwrap() && attach::links(&pins()).unwrap().is_empty());
        }
        stream.arrived();
        assert_eq!(stream.arrived(), 0, "without a record a pod is closed");
        let best = if has_tcx().unwrap() {
            Hook::Tcx
        } else {
            Hook::Clsact
        };
        for _ in 0..2 {
            assert_eq!(attach::settle_endpoint(&pins(), ifindex, "va").unwrap(), best);
        }
        assert!(hooks::on(&pins(), ifindex).unwrap());
        // Who comes late finds it as it is.
        assert_eq!(
            attach::close_endpoint(&pins(), ifindex, "va", Choice::Best).unwrap(),
            best
        );
        assert_eq!(stream.arrived(), 0);
        end.store(true, Ordering::Relaxed);
        let filters = command("tc", &["qdisc", "show", "dev", "va", "clsact"]).unwrap();
        assert_eq!(filters.contains("clsact"), best == Hook::Clsact, "{filters}");
    });
}

#[test]
fn a_pod_whose_bandwidth_is_limited_is_closed_by_links() {
    if !has_tcx().unwrap() {
        return told::skipped(NO_TCX);
    }
    sandbox::run(|| {
        let _kernel = load();
        let ifindex = pod("a", "10.0.0.2/24");
        // As the bandwidth plugin does; a clsact can not be added beside it.
        command("tc", &["qdisc", "add", "dev", "va", "ingress"]).unwrap();
        let hook = attach::close_endpoint(&pins(), ifindex, "va", Choice::Best).unwrap();
        assert_eq!(hook, Hook::Tcx);
        assert_eq!(
            attach::settle_endpoint(&pins(), ifindex, "va").unwrap(),
            Hook::Tcx
        );
        let left = command("tc", &["qdisc", "show", "dev", "va", "ingress"]).unwrap();
        assert!(left.contains("ingress"), "{left}");
    });
}

fn eight_at_once(ifindex: u32, choice: Choice) {
    let barrier = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                attach::attach_endpoint(&pins(), ifindex, "va", choice).unwrap();
            });
        }
    });
}

#[test]
fn plugin_and_agent_may_attach_at_the_same_time() {
    if !has_tcx().unwrap() {
        return told::skipped(NO_TCX);
    }
    sandbox::run(|| {
        let _kernel = load();
        let ifindex = pod("a", "10.0.0.2/24");
        eight_at_once(ifindex, Choice::Best);
        let links = attach::links(&pins()).unwrap();
        assert_eq!(links.len(), 2);
        assert!(links.iter().all(|link| link.alive));
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            let (_, programs) = SchedClassifier::query_tcx("va", side).unwrap();
            assert_eq!(programs.len(), 1);
        }
    });
}

#[test]
fn nobody_ends_the_line_before_us() {
    if !has_tcx().unwrap() {
        return told::skipped(NO_TCX);
    }
    sandbox::run(|| {
        let mut kernel = load();
        let ifindex = pod("a", "10.0.0.2/24");
        // Stands for a program of somebody else.
        let other = kernel.program(maps::FROM_BRIDGE).unwrap();
        let id = other.info().unwrap().id();
        other.attach("va", TcAttachType::Ingress).unwrap();
        attach::attach_endpoint(&pins(), ifindex, "va", Choice::Best).unwrap();
        let (_, line) = SchedClassifier::query_tcx("va", TcAttachType::Ingress).unwrap();
        let line: Vec<_> = line.iter().map(|program| program.id()).collect();
        let ours = attach::links(&pins()).unwrap();
        let ours = ours.iter().find(|link| link.program == maps::FROM_POD).unwrap();
        assert_eq!(line, [ours.program_id, id]);
    });
}

#[test]
fn an_upgrade_replaces_programs_and_keeps_links() {
    if !has_tcx().unwrap() {
        return told::skipped(NO_TCX);
    }
    sandbox::run(|| {
        let first = load();
        let ifindex = pod("a", "10.0.0.2/24");
        ip("link add br0 type bridge").unwrap();
        let bridge = veth::ifindex("br0").unwrap().unwrap();
        attach::attach_endpoint(&pins(), ifindex, "va", Choice::Best).unwrap();
        attach::attach_bridge(&pins(), bridge, "br0", Choice::Best).unwrap();
        let before = attach::links(&pins()).unwrap();
        drop(first);
        let mut second = load();
        let after = attach::links(&pins()).unwrap();
        assert_eq!(before.len(), 3);
        for (old, new) in before.iter().zip(&after) {
            assert_eq!(
                (old.link_id, old.ifindex, old.program),
                (new.link_id, new.ifindex, new.program)
            );
            assert!(new.alive);
            assert_ne!(old.program_id, new.program_id);
            assert_eq!(
                new.program_id,
                second.program(new.program).unwrap().info().unwrap().id()
            );
        }
        let left = fs::read_dir(pins().root().join(maps::PROGRAMS)).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [maps::FROM_BRIDGE, maps::FROM_POD, maps::TO_POD]);
    });
}

#[test]
fn the_best_hook_of_this_kernel_is_taken() {
    sandbox::run(|| {
        let _kernel = load();
        let ifindex = pod("a", "10.0.0.2/24");
        let hook = attach::attach_endpoint(&pins(), ifindex, "va", Choice::Best).unwrap();
        let expected = if has_tcx().unwrap() {
            Hook::Tcx
        } else {
            Hook::Clsact
        };
        assert_eq!(hook, expected);
        told::measured("hook", hook);
        if hook == Hook::Clsact {
            let error = attach::attach_endpoint(&pins(), ifindex, "va", Choice::Only(Hook::Tcx)).unwrap_err();
            assert!(error.to_string().contains("no tcx"), "{error}");
        }
    });
}

#[test]
fn plugin_and_agent_may_attach_filters_at_the_same_time() {
    sandbox::run(|| {
        let _kernel = load();
        let ifindex = pod("a", "10.0.0.2/24");
        eight_at_once(ifindex, Choice::Only(Hook::Clsact));
        for (side, program) in [("ingress", maps::FROM_POD), ("egress", maps::TO_POD)] {
            let shown = command("tc", &["filter", "show", "dev", "va", side]).unwrap();
            let filters: Vec<_> = shown
                .lines()
                .filter(|line| line.contains("direct-action"))
                .collect();
            assert!(filters.len() == 1 && filters[0].contains(program), "{shown}");
        }
    });
}

#[test]
fn kernels_without_tcx_get_filters() {
    sandbox::run(|| {
        let first = load();
        let ifindex = pod("a", "10.0.0.2/24");
        let only = Choice::Only(Hook::Clsact);
        let filters = || {
            let shown = ["ingress", "egress"]
                .map(|side| command("tc", &["filter", "show", "dev", "va", side]).unwrap());
            shown.map(|text| text.lines().filter(|line| line.contains("direct-action")).count())
        };
        let ids = || command("tc", &["filter", "show", "dev", "va", "ingress"]).unwrap();
        let start = Instant::now();
        assert_eq!(
            attach::attach_endpoint(&pins(), ifindex, "va", only).unwrap(),
            Hook::Clsact
        );
        println!("first attach of both filters: {:?}", start.elapsed());
        assert_eq!(filters(), [1, 1]);
        assert!(ids().contains(maps::FROM_POD), "{}", ids());
        assert!(attach::links(&pins()).unwrap().is_empty());
        attach::attach_endpoint(&pins(), ifindex, "va", only).unwrap();
        assert_eq!(filters(), [1, 1]);

        // The filter follows the pinned program.
        let before = ids();
        drop(first);
        let _second = load();
        attach::attach_endpoint(&pins(), ifindex, "va", only).unwrap();
        assert_eq!(filters(), [1, 1]);
        assert_ne!(before, ids());

        attach::detach_endpoint(&pins(), ifindex, "va").unwrap();
        attach::detach_endpoint(&pins(), ifindex, "va").unwrap();
        assert_eq!(filters(), [0, 0]);
    });
}

/// As the bandwidth plugin leaves it behind for a pod whose annotations ask for a limit.
#[test]
fn no_filter_hangs_where_it_would_not_see_everything() {
    sandbox::run(|| {
        let _kernel = load();
        let ifindex = pod("a", "10.0.0.2/24");
        command("tc", &["qdisc", "add", "dev", "va", "ingress"]).unwrap();
        let only = Choice::Only(Hook::Clsact);
        for _ in 0..2 {
            let error = attach::attach_endpoint(&pins(), ifindex, "va", only).unwrap_err();
            assert!(
                matches!(&error, Error::Occupied { kind, .. } if kind == "ingress"),
                "{error}"
            );
        }
        let filters = command("tc", &["filter", "show", "dev", "va", "ingress"]).unwrap();
        assert_eq!(filters, "");
        attach::detach_endpoint(&pins(), ifindex, "va").unwrap();

        command("tc", &["qdisc", "del", "dev", "va", "ingress"]).unwrap();
        attach::attach_endpoint(&pins(), ifindex, "va", only).unwrap();
        // Once ours is there, nobody puts another in its place unasked.
        command("tc", &["qdisc", "add", "dev", "va", "ingress"]).unwrap_err();
    });
}
