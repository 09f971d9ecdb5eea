//! The kernel's word about interfaces.

use vethwall_datapath::{LinkChange, LinkWatch};
use vethwall_tests::sandbox::{self, ip};

/// What was told of one interface, until the one of this name came.
fn told(watch: &mut LinkWatch, about: &str, last: &str) -> Vec<LinkChange> {
    let mut all = Vec::new();
    loop {
        let changes = watch.wait().unwrap();
        assert!(!changes.is_empty(), "{last} was not told: {all:?}");
        let ended = changes
            .iter()
            .any(|change| matches!(change, LinkChange::Is(link) if link.name == last));
        all.extend(changes);
        if ended {
            break;
        }
    }
    all.retain(|change| match change {
        LinkChange::Is(link) => link.name == about,
        LinkChange::Gone { name, .. } => name == about,
        LinkChange::Lost => true,
    });
    all
}

#[test]
fn an_interface_comes_changes_its_bridge_and_goes() {
    sandbox::run(|| {
        let mut watch = LinkWatch::open().unwrap();
        ip("link add bridge0 type bridge").unwrap();
        ip("link add va index 77 type veth peer name vb").unwrap();
        ip("link set va master bridge0").unwrap();
        ip("link add end1 type bridge").unwrap();
        let changes = told(&mut watch, "va", "end1");
        let LinkChange::Is(first) = &changes[0] else {
            panic!("{changes:?}")
        };
        assert!(
            first.is_veth() && first.ifindex == 77 && first.master.is_none(),
            "{first:?}"
        );
        let bridge = nix::net::if_::if_nametoindex("bridge0").unwrap();
        assert!(
            matches!(changes.last(), Some(LinkChange::Is(link)) if link.master == Some(bridge)),
            "{changes:?}"
        );
        // Leaving the bridge is told by the bridge as a deletion, and is none.
        ip("link set va nomaster").unwrap();
        ip("link add end2 type bridge").unwrap();
        let changes = told(&mut watch, "va", "end2");
        assert!(
            changes.iter().all(|change| matches!(change, LinkChange::Is(_)))
                && matches!(changes.last(), Some(LinkChange::Is(link)) if link.master.is_none()),
            "{changes:?}"
        );
        // To go to another namespace is to be gone.
        ip("netns add pod").unwrap();
        ip("link set va netns pod").unwrap();
        ip("link add end3 type bridge").unwrap();
        let changes = told(&mut watch, "va", "end3");
        assert_eq!(
            changes.last(),
            Some(&LinkChange::Gone {
                ifindex: 77,
                name: "va".to_owned()
            })
        );
    });
}

#[test]
fn what_the_kernel_could_not_tell_is_told_as_lost() {
    sandbox::run(|| {
        let mut watch = LinkWatch::with_room(4096).unwrap();
        for n in 0..40 {
            ip(&format!("link add br{n} type bridge")).unwrap();
        }
        let mut changes = Vec::new();
        loop {
            match watch.wait().unwrap() {
                none if none.is_empty() => break,
                some => changes.extend(some),
            }
        }
        let lost = changes
            .iter()
            .filter(|change| **change == LinkChange::Lost)
            .count();
        assert!(
            lost > 0 && changes.len() < 40,
            "{} changes, {lost} times lost",
            changes.len()
        );
        // And goes on.
        ip("link add last type bridge").unwrap();
        assert!(!told(&mut watch, "last", "last").is_empty());
    });
}
