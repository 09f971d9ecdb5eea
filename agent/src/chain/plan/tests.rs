use proptest::prelude::*;

use super::*;

const FLANNEL: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    { "type": "flannel", "delegate": { "hairpinMode": true } },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}
"#;
/// A runtime that tells nothing.
const ANY: Abilities = Abilities {
    dropins: None,
    max_conf_num: None,
    skips_lists: false,
};
const ENTRY: &str = r#"{"type":"vethwall-cni"}"#;

fn listing(files: &[(&str, &str)]) -> Listing {
    let mut listing = Listing::default();
    for (name, text) in files {
        let text = Ok((*text).to_owned());
        match name.split_once('/') {
            Some((network, DROPIN)) => listing.dropins.insert(network.to_owned(), text),
            Some(_) => panic!("{name}"),
            None => listing.lists.insert((*name).to_owned(), text),
        };
    }
    listing
}

/// The directory after the changes.
fn after(mut listing: Listing, changes: &[Change]) -> Listing {
    for change in changes {
        let (path, text) = match change {
            Change::Write(path, text) => (path, Some(text)),
            Change::Remove(path) => (path, None),
        };
        let (files, name) = match path.parent().and_then(|p| p.to_str()) {
            Some(network) if !network.is_empty() => (&mut listing.dropins, network),
            _ => (&mut listing.lists, path.to_str().unwrap()),
        };
        match text {
            Some(text) => drop(files.insert(name.to_owned(), Ok(text.clone()))),
            None => drop(files.remove(name).expect("only what is there is removed")),
        }
    }
    listing
}

fn types(text: &str) -> Vec<String> {
    let list: Value = serde_json::from_str(text).unwrap();
    list["plugins"]
        .as_array()
        .unwrap()
        .iter()
        .map(|plugin| kind(plugin).to_owned())
        .collect()
}

#[test]
fn each_mode_chains_and_is_at_rest_and_is_taken_back() {
    for (mode, file) in [
        (Mode::Auto, OWN),
        (Mode::Own, OWN),
        (Mode::Dropin, "cbr0/50-vethwall.conf"),
        (Mode::Patch, "10-flannel.conflist"),
    ] {
        let before = listing(&[("10-flannel.conflist", FLANNEL), ("87-podman.conflist", "{")]);
        let plan = chain(mode, ANY, &before, ENTRY, false);
        assert_eq!(plan.standing, Standing::Chained(file.into()), "{mode:?}");
        let chained = after(before.clone(), &plan.changes);
        assert_ne!(chained, before);
        let again = chain(mode, ANY, &chained, ENTRY, false);
        assert_eq!(
            (again.changes, again.standing),
            (vec![], plan.standing),
            "{mode:?}"
        );
        let (changes, unread) = unchain(&chained);
        assert_eq!((after(chained, &changes), unread), (before, vec![]), "{mode:?}");
    }
}

#[test]
fn another_mode_leaves_nothing_of_the_first() {
    let modes = [Mode::Own, Mode::Dropin];
    for first in modes {
        for second in modes {
            let before = listing(&[("10-flannel.conflist", FLANNEL)]);
            let one = after(before.clone(), &chain(first, ANY, &before, ENTRY, false).changes);
            let direct = after(before.clone(), &chain(second, ANY, &before, ENTRY, false).changes);
            let plan = chain(second, ANY, &one, ENTRY, false);
            // The new file is there before the old one goes.
            assert!(
                !matches!(plan.changes.first(), Some(Change::Remove(_))),
                "{first:?} {second:?}"
            );
            assert_eq!(after(one, &plan.changes), direct, "{first:?} {second:?}");
        }
    }
}

#[test]
fn ours_follows_flannels_and_keeps_what_others_put_into_it() {
    let before = listing(&[("10-flannel.conflist", FLANNEL)]);
    let chained = after(
        before.clone(),
        &chain(Mode::Own, ANY, &before, ENTRY, false).changes,
    );
    let Ok(own) = &chained.lists[OWN] else { panic!() };
    // Linkerd, for one, puts its plugin into every list that it finds, with white space of its own.
    let linkerd = own
        .replace(ENTRY, &format!("{ENTRY}, {{ \"type\" : \"linkerd-cni\" }}"))
        .replace("  ", "\t");
    let mut patched = chained.clone();
    patched.lists.insert(OWN.to_owned(), Ok(linkerd));
    assert_eq!(chain(Mode::Own, ANY, &patched, ENTRY, false).changes, []);
    // Flannel's changes: everything is made anew.
    for (from, to) in [("portmap", "bandwidth"), ("0.3.1", "1.0.0"), ("cbr0", "cbr1")] {
        let mut changed = chained.clone();
        changed
            .lists
            .insert("10-flannel.conflist".to_owned(), Ok(FLANNEL.replace(from, to)));
        let plan = chain(Mode::Own, ANY, &changed, ENTRY, false);
        let [Change::Write(_, text)] = &plan.changes[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(conflist::remove(text).unwrap(), FLANNEL.replace(from, to));
    }
    // Ours was damaged, or lost its entry, or has another.
    for damaged in [
        "",
        "{}",
        FLANNEL,
        &own.replace(ENTRY, "{\"type\":\"vethwall-cni\",\"hook\":\"tcx\"}"),
    ] {
        let mut changed = chained.clone();
        changed.lists.insert(OWN.to_owned(), Ok(damaged.to_owned()));
        assert_eq!(
            after(
                changed.clone(),
                &chain(Mode::Own, ANY, &changed, ENTRY, false).changes
            ),
            chained,
            "{damaged}"
        );
    }
}

#[test]
fn nothing_is_written_where_flannels_list_is_not_the_runtimes() {
    let cilium = "{\"name\":\"c\",\"plugins\":[{\"type\":\"cilium-cni\"}]}";
    let own = conflist::insert(FLANNEL, ENTRY).unwrap();
    for mode in [Mode::Auto, Mode::Own, Mode::Dropin, Mode::Patch, Mode::External] {
        let plan = |files: &[(&str, &str)], replaced| chain(mode, ANY, &listing(files), ENTRY, replaced);
        let none = plan(&[], true);
        assert!(
            matches!(none.standing, Standing::Waiting(_)) && none.changes.is_empty(),
            "{mode:?}"
        );
        for broken in ["", "[]", "{\"plugins\":{}}", "{\"plugins\":[", "\u{0}"] {
            let broken = plan(&[(OWN, &own), ("10-flannel.conflist", broken)], true);
            assert!(
                matches!(broken.standing, Standing::Impossible(_)) && broken.changes.is_empty(),
                "{mode:?}"
            );
        }
        let foreign = plan(
            &[("00-cilium.conflist", cilium), ("10-flannel.conflist", FLANNEL)],
            true,
        );
        assert!(
            matches!(&foreign.standing, Standing::Foreign(why) if why.contains("cilium-cni")),
            "{foreign:?}"
        );
        assert_eq!(foreign.changes, []);
        let bare = plan(&[("10-bridge.conf", "{\"type\":\"bridge\"}")], true);
        assert!(
            matches!(&bare.standing, Standing::Foreign(why) if why.contains("bridge")),
            "{bare:?}"
        );
    }
    // Ours would shadow it; but not for a moment in which flannel's is written anew.
    let files = listing(&[(OWN, &own), ("87-podman.conflist", cilium)]);
    assert_eq!(chain(Mode::Own, ANY, &files, ENTRY, false).changes, []);
    assert_eq!(
        chain(Mode::Own, ANY, &files, ENTRY, true).changes,
        [Change::Remove(OWN.into())]
    );
}

#[test]
fn what_a_mode_can_not_do_is_said_with_what_can() {
    let early = listing(&[("00-flannel.conflist", FLANNEL)]);
    assert!(
        matches!(chain(Mode::Own, ANY, &early, ENTRY, false).standing, Standing::Impossible(why) if why.contains("--chain patch"))
    );
    assert_eq!(
        chain(Mode::Auto, ANY, &early, ENTRY, false).standing,
        Standing::Chained("00-flannel.conflist".into())
    );
    let inlined = FLANNEL.replacen('{', "{\"loadOnlyInlinedPlugins\":true,", 1);
    let inlined = listing(&[("10-flannel.conflist", &inlined)]);
    assert!(
        matches!(chain(Mode::Dropin, ANY, &inlined, ENTRY, false).standing, Standing::Impossible(why) if why.contains("--chain own"))
    );
    for name in ["../../etc", "", ".", "a/b"] {
        let hostile = listing(&[("10-flannel.conflist", &FLANNEL.replace("cbr0", name))]);
        let plan = chain(Mode::Dropin, ANY, &hostile, ENTRY, false);
        assert!(
            matches!(plan.standing, Standing::Impossible(_)) && plan.changes.is_empty(),
            "{name}"
        );
    }
    let plain = listing(&[("10-flannel.conflist", FLANNEL)]);
    assert!(matches!(
        chain(Mode::External, ANY, &plain, ENTRY, false).standing,
        Standing::Impossible(_)
    ));
    let external = listing(&[("10-flannel.conflist", &conflist::insert(FLANNEL, ENTRY).unwrap())]);
    assert_eq!(
        chain(Mode::External, ANY, &external, ENTRY, false).standing,
        Standing::Chained("10-flannel.conflist".into())
    );
}

#[test]
fn a_list_that_can_not_be_read_is_told_and_left() {
    let broken = format!("{ENTRY} and more");
    let files = listing(&[
        (OWN, FLANNEL),
        ("10-flannel.conflist", &broken),
        ("20-other.conflist", "{"),
    ]);
    let (changes, unread) = unchain(&files);
    assert_eq!(changes, [Change::Remove(OWN.into())]);
    assert!(
        unread.len() == 1 && unread[0].starts_with("10-flannel.conflist"),
        "{unread:?}"
    );
}

proptest! {
    /// Whatever the files are: no panic, only files of ours are removed, and what is written ends with us.
    #[test]
    fn whatever_is_there(
        files in prop::collection::btree_map(
            prop_oneof![Just(OWN.to_owned()), "[0-9]{2}-[a-z]{1,3}\\.(conf|conflist|json)"],
            prop_oneof![Just(FLANNEL.to_owned()), Just("{\"plugins\":[]}".to_owned()), "\\PC{0,40}"],
            0..5,
        ),
        mode in prop::sample::select(vec![Mode::Auto, Mode::Own, Mode::Dropin, Mode::Patch, Mode::External]),
        replaced in any::<bool>(),
    ) {
        let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let before = listing(&files);
        let plan = chain(mode, ANY, &before, ENTRY, replaced);
        for change in &plan.changes {
            match change {
                Change::Remove(path) => prop_assert_eq!(path, &PathBuf::from(OWN)),
                Change::Write(path, text) if path.ends_with(DROPIN) => prop_assert_eq!(text.trim_end(), ENTRY),
                Change::Write(_, text) => prop_assert_eq!(types(text).pop().unwrap(), PLUGIN),
            }
        }
        if matches!(plan.standing, Standing::Chained(_)) && mode != Mode::External {
            let (changes, _) = unchain(&after(before.clone(), &plan.changes));
            let mut left = after(after(before.clone(), &plan.changes), &changes);
            let mut wanted = before;
            left.lists.remove(OWN);
            wanted.lists.remove(OWN);
            prop_assert_eq!(left, wanted);
        }
    }
}

#[test]
fn auto_takes_what_holds_on_this_runtime() {
    let usual = listing(&[("10-flannel.conflist", FLANNEL)]);
    let early = listing(&[("00-flannel.conflist", FLANNEL)]);
    let dropin = "cbr0/50-vethwall.conf";
    let able = |dropins, max_conf_num, skips_lists| Abilities {
        dropins: Some(dropins),
        max_conf_num: Some(max_conf_num),
        skips_lists,
    };
    for (listing, able, file) in [
        // containerd 1.6 and 2.1.
        (&usual, able(false, 1, false), OWN),
        (&usual, able(true, 1, false), OWN),
        // Flannel's list sorts before ours.
        (&early, able(false, 1, false), "00-flannel.conflist"),
        (&early, able(true, 1, false), dropin),
        // A pod is given every list.
        (&usual, able(false, 0, false), "10-flannel.conflist"),
        (&usual, able(true, 2, false), dropin),
        // CRI-O.
        (&usual, able(false, 1, true), "10-flannel.conflist"),
        (&usual, able(true, 1, true), dropin),
    ] {
        let plan = chain(Mode::Auto, able, listing, ENTRY, false);
        assert_eq!(plan.standing, Standing::Chained(file.into()), "{able:?}");
    }
    let refuses = |mode, able| {
        let plan = chain(mode, able, &usual, ENTRY, false);
        matches!(plan.standing, Standing::Impossible(_)) && plan.changes.is_empty()
    };
    assert!(refuses(Mode::Dropin, able(false, 1, false)) && !refuses(Mode::Dropin, ANY));
    assert!(refuses(Mode::Own, able(true, 0, false)) && !refuses(Mode::Own, ANY));
}
