//! What becomes of attached programs when somebody unmounts the file system of their pins.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use vethwall_datapath::{Choice, HeldBpffs, attach};
use vethwall_tests::{
    kernel::has_tcx,
    sandbox::{self, BPFFS, command, confine},
    told,
};

use super::{NO_TCX, attach::Stream, load, pins, pod};

fn umount(options: &[&str]) -> anyhow::Result<String> {
    command("umount", &[options, &[BPFFS]].concat())
}

fn mount_another() {
    command("mount", &["-t", "bpf", "bpf", BPFFS]).unwrap();
}

/// A pod that is closed by links, and sends without end.
fn closed_pod() -> (u32, Stream, Arc<AtomicBool>) {
    let ifindex = pod("a", "10.0.0.2/24");
    let end = Arc::new(AtomicBool::new(false));
    let stream = Stream::from("a", Arc::clone(&end));
    assert!(stream.arrived() > 0);
    attach::attach_endpoint(&pins(), ifindex, "va", Choice::Best).unwrap();
    stream.arrived();
    assert_eq!(stream.arrived(), 0);
    (ifindex, stream, end)
}

#[test]
fn links_outlive_the_mount_of_their_pins_where_it_is_held() {
    if !has_tcx().unwrap() {
        return told::skipped(NO_TCX);
    }
    sandbox::run(|| {
        let _kernel = load();
        let (ifindex, stream, end) = closed_pod();
        // Held by nobody, they go, and the pod is open.
        umount(&[]).unwrap();
        let start = Instant::now();
        while stream.arrived() == 0 {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "a link lives without its pin"
            );
        }
        mount_another();
        let _kernel = load();
        attach::attach_endpoint(&pins(), ifindex, "va", Choice::Best).unwrap();
        stream.arrived();
        let links = attach::links(&pins()).unwrap();
        assert_eq!(links.len(), 2);

        let mut held = HeldBpffs::hold(BPFFS).unwrap();
        assert!(!held.put_back().unwrap(), "it is where it was");
        for over in [|| {}, mount_another] {
            umount(&[]).unwrap();
            over();
            assert!(
                attach::links(&pins()).unwrap().is_empty(),
                "the pins are not to be seen"
            );
            assert_eq!(stream.arrived(), 0, "and judge all the same");
            assert!(held.put_back().unwrap() && !held.put_back().unwrap());
            assert_eq!(attach::links(&pins()).unwrap(), links);
        }
        assert_eq!(stream.arrived(), 0);

        // What somebody else has pinned is not hidden.
        mount_another();
        let theirs = Path::new(BPFFS).join("theirs");
        fs::create_dir(&theirs).unwrap();
        let error = held.put_back().unwrap_err();
        assert!(error.to_string().contains("somebody else"), "{error}");
        assert!(theirs.exists());
        umount(&[]).unwrap();
        assert!(!held.put_back().unwrap());
        assert_eq!(attach::links(&pins()).unwrap(), links);
        assert_eq!(stream.arrived(), 0);
        end.store(true, Ordering::Relaxed);
    });
}

#[test]
fn without_the_right_to_mount_the_mount_itself_is_held() {
    if !has_tcx().unwrap() {
        return told::skipped(NO_TCX);
    }
    sandbox::run(|| {
        let _kernel = load();
        let (_, stream, end) = closed_pod();
        let mut held = thread::scope(|scope| {
            let agent = scope.spawn(|| {
                confine("CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON").unwrap();
                HeldBpffs::hold(BPFFS).unwrap()
            });
            agent.join().unwrap()
        });
        let busy = umount(&[]).unwrap_err();
        assert!(busy.to_string().contains("busy"), "{busy}");
        assert!(!held.put_back().unwrap());
        umount(&["--lazy"]).unwrap();
        assert_eq!(stream.arrived(), 0, "the pins are out of reach, and judge");
        let error = held.put_back().unwrap_err();
        assert!(error.to_string().contains("CAP_SYS_ADMIN"), "{error}");
        end.store(true, Ordering::Relaxed);
    });
}
